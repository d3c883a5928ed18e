use super::*;
use crate::progress::InFlight;

fn slot(confirmed: u64) -> Slot {
    Slot {
        plugin: "pgoutput".to_owned(),
        database: "shop".to_owned(),
        active_pid: None,
        wal_status: "reserved".to_owned(),
        restart_lsn: Some(Lsn(confirmed)),
        confirmed_flush: Some(Lsn(confirmed)),
    }
}

fn record() -> Record {
    let pipeline = "market".parse().expect("a name");
    let in_flight = Some(InFlight { commit_lsn: Lsn(60), next_ordinal: 4 });
    Record { position: Lsn(50), in_flight, ..Record::first(&pipeline, "7012", 1, "options") }
}

fn found(progress: Option<Record>, slot: Option<Slot>, start: Result<Start, Stop>) -> Found {
    let server = Server {
        system_id: "7012".to_owned(),
        timeline: 1,
        wal_end: Lsn(100),
        wal_sender_timeout_ms: 60_000,
        slot,
    };
    let (slot_name, database) = ("tailwater_market".to_owned(), "shop".to_owned());
    let epoch_seen = progress.is_none().then_some(3);
    Found { slot_name, database, server, progress, start, epoch_seen }
}

/// Every way in which a reader stops, each with the slot that goes with it.
fn stops() -> Vec<(Stop, Option<Record>, Option<Slot>)> {
    let name = || "tailwater_market".to_owned();
    let (position, confirmed) = (Lsn(50), Lsn(70));
    let known = || Some(record());
    let lost = || Slot { wal_status: "lost".to_owned(), confirmed_flush: None, ..slot(0) };
    let theirs = || Slot { plugin: "test_decoding".to_owned(), ..slot(70) };
    let other = Stop::OtherCluster { expected: "7012".to_owned(), found: "8".to_owned() };
    vec![
        (Stop::ProgressLost { slot: name() }, None, Some(slot(70))),
        (Stop::ProgressLost { slot: name() }, None, Some(theirs())),
        (Stop::SlotMissing { slot: name(), position }, known(), None),
        (other.clone(), known(), None),
        (other.clone(), known(), Some(slot(70))),
        (other, known(), Some(theirs())),
        (
            Stop::SlotLost { slot: name(), status: "lost".to_owned(), position },
            known(),
            Some(lost()),
        ),
        (Stop::SlotMoved { slot: name(), confirmed, position, bytes: 20 }, known(), Some(slot(70))),
        (Stop::ServerBehind { wal_end: Lsn(40), position }, known(), Some(slot(30))),
        (Stop::AheadOfStandby { timeline: 2, before: Lsn(40), position }, known(), None),
        (Stop::UnknownTimeline { found: 3, known: 2 }, known(), None),
        (Stop::OldPrimary { found: 1, known: 2 }, known(), Some(slot(30))),
        (Stop::SlotBusy { slot: name(), pid: 7 }, known(), Some(slot(50))),
        (
            Stop::OptionsChanged { before: "a".to_owned(), now: "b".to_owned() },
            known(),
            Some(slot(50)),
        ),
        (Stop::EventsExist { table: "t".to_owned() }, known(), None),
        (
            Stop::SlotForeign { slot: name(), plugin: "x".to_owned(), database: "y".to_owned() },
            known(),
            Some(theirs()),
        ),
        (
            Stop::ProgressForeign { pipeline: "x".to_owned(), slot: "y".to_owned() },
            known(),
            Some(slot(50)),
        ),
        (Stop::TopicNotEmpty { topic: "t".to_owned() }, None, None),
        (
            Stop::KafkaBehind { topic: "t".to_owned(), partition: 0, end: 1, recorded: 2 },
            known(),
            Some(slot(50)),
        ),
    ]
}

#[test]
fn each_situation_has_its_repair_or_a_refusal() {
    let name = |answer: Result<Plan, Refusal>| match answer {
        Ok(plan) => format!("{:?} {}", plan.at, plan.epoch),
        Err(Refusal::ResyncOnly { .. }) => "resync".to_owned(),
        Err(Refusal::NoSlot { .. }) => "no slot".to_owned(),
        Err(Refusal::NotThis { .. }) => "-".to_owned(),
        Err(other) => panic!("{other:?}"),
    };
    let answers: Vec<String> = stops()
        .into_iter()
        .map(|(stop, progress, slot)| {
            let code = stop.code().text;
            let found = found(progress, slot, Err(stop));
            let new = Wish { new_slot: true, epoch: None };
            let (adopt, new) = (found.adopt(Wish::default()), found.adopt(new));
            let resync = found.resync(Wish::default());
            format!("{code}: {}; {}; {}", name(adopt), name(new), name(resync))
        })
        .collect();
    let slot = "Slot(Lsn(70)) 2; Slot(Lsn(70)) 2; Anew 2";
    let expected = [
        "TW011: Slot(Lsn(70)) 4; Slot(Lsn(70)) 4; Anew 4".to_owned(),
        "TW011: resync; resync; -".to_owned(),
        "TW012: no slot; NewSlot 2; Anew 2".to_owned(),
        "TW013: no slot; NewSlot 2; Anew 2".to_owned(),
        format!("TW013: {slot}"),
        "TW013: resync; resync; -".to_owned(),
        "TW014: resync; resync; Anew 2".to_owned(),
        format!("TW015: {slot}"),
        "TW016: resync; resync; Anew 2".to_owned(),
        "TW017: resync; resync; Anew 2".to_owned(),
        "TW018: resync; resync; Anew 2".to_owned(),
        "TW019: -; -; -".to_owned(),
        "TW020: -; -; -".to_owned(),
        "TW021: Progress(Lsn(50)) 2; Progress(Lsn(50)) 2; Anew 2".to_owned(),
        "TW022: -; -; -".to_owned(),
        "TW023: -; -; -".to_owned(),
        "TW024: -; -; -".to_owned(),
        "TW025: no slot; NewSlot 4; Anew 4".to_owned(),
        "TW026: Progress(Lsn(50)) 2; Progress(Lsn(50)) 2; Anew 2".to_owned(),
    ];
    assert_eq!(answers, expected);
}

#[test]
fn nothing_is_repaired_that_runs_or_works() {
    let resume = Ok(Start::Resume { timeline: 1 });
    let read = Slot { active_pid: Some(7), ..slot(50) };
    let busy = found(Some(record()), Some(read), Ok(Start::Wait { pid: 7 }));
    assert!(matches!(busy.adopt(Wish::default()), Err(Refusal::Running { pid: 7, .. })));
    assert!(matches!(busy.resync(Wish::default()), Err(Refusal::Running { pid: 7, .. })));
    let well = found(Some(record()), Some(slot(50)), resume);
    let position = Lsn(50);
    assert_eq!(well.adopt(Wish::default()), Err(Refusal::NothingWrong { position }));
    assert!(well.resync(Wish::default()).is_ok(), "whoever distrusts it may read it anew");
    let never = found(None, None, Ok(Start::First { unfinished: false }));
    assert_eq!(never.adopt(Wish::default()), Err(Refusal::NeverBegan));
    assert_eq!(never.resync(Wish::default()), Err(Refusal::NeverBegan));
}

#[test]
fn an_epoch_is_never_used_twice() {
    let stop = Stop::ProgressLost { slot: "s".to_owned() };
    let unknown = Found { epoch_seen: None, ..found(None, Some(slot(70)), Err(stop.clone())) };
    assert_eq!(unknown.adopt(Wish::default()), Err(Refusal::NoEpoch));
    let wish = |epoch| Wish { epoch: Some(epoch), new_slot: false };
    assert_eq!(unknown.adopt(wish(9)).map(|plan| plan.epoch), Ok(9));
    let known = found(None, Some(slot(70)), Err(stop));
    for epoch in [0, 3, 512] {
        let refused = known.adopt(wish(epoch));
        assert!(matches!(refused, Err(Refusal::BadEpoch { used: 3, .. })), "{refused:?}");
    }
    assert_eq!(known.adopt(wish(4)).map(|plan| plan.epoch), Ok(4));
}

#[test]
fn a_repair_is_remembered_and_the_oldest_are_forgotten() {
    let stop =
        Stop::SlotMoved { slot: "s".to_owned(), confirmed: Lsn(70), position: Lsn(50), bytes: 20 };
    let mut record = record();
    for at_ms in 0..20 {
        let found = found(Some(record.clone()), Some(slot(70)), Err(stop.clone()));
        let plan = found.adopt(Wish::default()).expect("it may be adopted");
        let base = Record::first(&record.pipeline, "7012", 1, "options");
        let registered = Registrations::default();
        record = plan.record(&found, base, None, &registered, "why", at_ms);
        assert_eq!((record.position, record.in_flight), (Lsn(70), None));
    }
    assert_eq!(record.repairs.len(), REPAIRS_MAX);
    let last = record.repairs.last().expect("there are some");
    assert_eq!((last.at_ms, last.code.as_deref(), last.after.epoch), (19, Some("TW015"), 21));
    assert_eq!(last.before.as_ref().map(|before| before.epoch), Some(20));
    assert_eq!(Record::decode(&record.encode()).expect("it reads"), record);
}
