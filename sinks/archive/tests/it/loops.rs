//! The real sink over a store in memory that loses answers, delays requests and is shared by rivals; time is paused.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tailwater_runtime::{Classify, ErrorClass};
use tailwater_sinks_archive::chain::Link;
use tailwater_sinks_archive::layout::{Day, Layout, Place};
use tailwater_sinks_archive::manifest::{Manifest, Summary};
use tailwater_sinks_archive::verify::{self, verify};
use tailwater_sinks_archive::{ArchiveSink, ArchiveWriter, StoreError, line, segment};
use tailwater_sinks_worker::contract::{self, Disturbed, Subject, Trouble};
use tailwater_sinks_worker::testing::record;
use tailwater_sinks_worker::{
    Committed, Flushed, Resume, Sink, SinkError, SourceRecord, TopicPartition, Writer,
};
use tailwater_topics_contract::{ArchiveSpec, Guarantee, Origin, SegmentSpec, TopicName};
use tokio::time::{sleep, timeout};

use crate::careless::{self, Manner};
use crate::memory::Memory;
use crate::{seed, server};

#[tokio::test(start_paused = true)]
async fn the_archive_keeps_the_contract_of_sinks_over_a_store_that_fails_as_it_is_told() {
    contract::check(|| async { Memory::new(1) }).await;
    contract::check_disturbed(|| async { Memory::new(1) }).await;
}

#[tokio::test(start_paused = true)]
async fn an_archive_at_least_once_keeps_the_contract_of_sinks_over_a_careless_store() {
    contract::check(|| async { Careless::new() }).await;
    contract::check_disturbed(|| async { Careless::new() }).await;
}

/// A store that replaces, and what is held there however often.
struct Careless(Memory);

impl Careless {
    fn new() -> Self {
        let memory = Memory::new(1);
        memory.state().replaces = true;
        Self(memory)
    }
}

impl Subject for Careless {
    type Sink = ArchiveSink<Memory>;
    type Held = BTreeMap<i64, SourceRecord>;

    fn sink(&self) -> ArchiveSink<Memory> {
        promising(&self.0, Guarantee::AtLeastOnce)
    }

    fn topic(&self) -> TopicName {
        topic()
    }

    fn record(&self, offset: i64) -> SourceRecord {
        record(offset)
    }

    /// Anything can be archived.
    fn poison(&self, _: i64) -> Option<SourceRecord> {
        None
    }

    async fn held(&self) -> BTreeMap<i64, SourceRecord> {
        held(&self.0).into_iter().map(|record| (record.offset, record)).collect()
    }
}

impl Disturbed for Careless {
    fn disturb(&self, trouble: Trouble) {
        self.0.disturb(trouble);
    }

    fn met(&self) -> usize {
        self.0.met()
    }
}

impl Subject for Memory {
    type Sink = ArchiveSink<Self>;
    type Held = Vec<SourceRecord>;

    fn sink(&self) -> ArchiveSink<Self> {
        sink(self)
    }

    fn topic(&self) -> TopicName {
        topic()
    }

    fn record(&self, offset: i64) -> SourceRecord {
        record(offset)
    }

    /// Anything can be archived.
    fn poison(&self, _: i64) -> Option<SourceRecord> {
        None
    }

    async fn held(&self) -> Vec<SourceRecord> {
        chain(self)
    }
}

impl Disturbed for Memory {
    fn disturb(&self, trouble: Trouble) {
        self.state().troubles.push_back(trouble);
    }

    fn met(&self) -> usize {
        self.state().met
    }
}

const HOUR_MS: i64 = 3_600_000;

/// Offsets of the log that the rivals archive; about one in eight holds no record, as behind a transaction.
const LOG: i64 = 150;
const WORLDS: u64 = 500;

#[tokio::test(start_paused = true)]
async fn rivals_that_crash_sleep_and_lose_answers_make_one_chain_of_the_whole_log() {
    let seed = seed::new();
    for world in 0..WORLDS {
        println!("world {world}");
        let seed = seed.wrapping_add(world);
        let (memory, log) = one_world(seed, Guarantee::ExactlyOnce).await;
        assert_one_chain(&memory, &log);
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_record_of_a_later_day_closes_its_object_and_none_of_the_days_before_it_does() {
    const DAY_MS: i64 = 24 * HOUR_MS;
    let memory = Memory::new(1);
    let (mut writer, _) = sink(&memory).open(&partition(), None).await.expect("opens");
    let noon = start_ms() / DAY_MS * DAY_MS + DAY_MS / 2;
    let mut full = |offset: i64, timestamp_ms| {
        writer.push(SourceRecord { timestamp_ms, ..record(offset) }).expect("stored");
        writer.is_full()
    };
    assert!(!full(0, noon) && !full(1, noon + DAY_MS / 2 - 1) && !full(2, noon - 3 * DAY_MS));
    assert!(full(3, noon + DAY_MS / 2), "midnight");
    assert_eq!(writer.flush(4).await.expect("stored").next, 4);
    let mut full = |offset: i64, timestamp_ms| {
        writer.push(SourceRecord { timestamp_ms, ..record(offset) }).expect("stored");
        writer.is_full()
    };
    assert!(!full(4, noon), "late, into the folder of the new day");
    assert!(!full(5, noon + DAY_MS));
    assert!(full(6, i64::MAX), "of tomorrow at the latest");
    assert_eq!(writer.flush(7).await.expect("stored").next, 7);
    let mut full = |offset: i64, timestamp_ms| {
        writer.push(SourceRecord { timestamp_ms, ..record(offset) }).expect("stored");
        writer.is_full()
    };
    assert!(!full(7, i64::MAX) && !full(8, i64::MAX), "and not an object for each");
}

/// The store lets everybody win, and replaces what stands there.
#[tokio::test(start_paused = true)]
async fn an_archive_at_least_once_over_a_careless_store_lacks_nothing_whatever_rivals_do() {
    let seed = seed::new();
    let mut repeated = 0;
    for world in 0..WORLDS {
        println!("world {world}");
        let (memory, log) = one_world(seed.wrapping_add(world), Guarantee::AtLeastOnce).await;
        let held = held(&memory);
        repeated += held.len() - log.len();
        let distinct: BTreeMap<i64, SourceRecord> =
            held.into_iter().map(|record| (record.offset, record)).collect();
        assert!(distinct.into_values().eq(log.iter().cloned()), "other records");
        assert_eq!(looked_over(&memory).await.findings, []);
    }
    assert!(repeated > 0, "no two have stored the same");
}

async fn looked_over(memory: &Memory) -> verify::Report {
    let scope = verify::Scope { level: 2, whole: false, origins: vec![registered()] };
    verify(memory, "", &[], &scope, &mut |_| {}).await.expect("looks")
}

/// The records of all objects.
fn held(memory: &Memory) -> Vec<SourceRecord> {
    let state = memory.state();
    let objects = state.objects.iter().filter(|(key, _)| key.starts_with("data/"));
    let mut held = Vec::new();
    for (_, (object, _)) in objects {
        let lines = segment::read_all(object).expect("gzip");
        for text in lines.split(|byte| *byte == b'\n').filter(|text| !text.is_empty()) {
            held.push(line::read(text).expect("a line").1);
        }
    }
    held
}

/// What rivals have left, and the log that they archived.
async fn one_world(seed: u64, guarantee: Guarantee) -> (Memory, Arc<Vec<SourceRecord>>) {
    let mut random = StdRng::seed_from_u64(seed);
    let log: Arc<Vec<SourceRecord>> = Arc::new(log(&mut random));
    let memory = Memory::new(random.random());
    memory.state().faults = random.random_range(0.0..0.4);
    memory.state().replaces = guarantee == Guarantee::AtLeastOnce;
    let group = Group::default();
    let rivals = (0..random.random_range(2..=3)).map(|_| {
        let rival = Rival {
            sink: promising(&memory, guarantee),
            log: log.clone(),
            group: group.clone(),
            random: StdRng::seed_from_u64(random.random()),
        };
        tokio::spawn(rival.run())
    });
    for rival in rivals.collect::<Vec<_>>() {
        rival.await.expect("does not panic");
    }
    // Whatever is still under way arrives, and finds its key taken.
    sleep(Duration::from_secs(600)).await;
    memory.state().faults = 0.0;
    let sink = promising(&memory, guarantee);
    let (_, start) = sink.open(&partition(), None).await.expect("opens");
    // The last offset holds a record, so no more than that was passed.
    assert_eq!(start, LOG);
    (memory, log)
}

/// As [`chain`], and its lines are the log.
fn assert_one_chain(memory: &Memory, log: &[SourceRecord]) {
    assert_eq!(chain(memory), log);
}

/// The records of the chain: every object is on the way from the origin to the head, and each has its manifest.
fn chain(memory: &Memory) -> Vec<SourceRecord> {
    let layout = Layout::new("", topic(), 0);
    let state = memory.state();
    let (mut place, mut links, mut manifests) = (origin(), 0, 0);
    let mut archived = Vec::new();
    while let Some((object, metadata)) = state.objects.get(&layout.object(place)) {
        let link = Link::from_metadata(metadata).expect("a link");
        assert!(link.is_at(place));
        links += 1;
        for text in segment::read_all(object).expect("gzip").split_inclusive(|byte| *byte == b'\n')
        {
            let (partition, record) = line::read(&text[..text.len() - 1]).expect("a line");
            assert_eq!(partition, 0);
            archived.push(record);
        }
        let (summary, chunks) = Summary::of_object(object).expect("ours");
        assert_eq!(summary.extent, link.extent);
        if link.extent.records > 0 {
            let bytes = object.len() as u64;
            let expected = Manifest::new(&layout, place, &link, bytes, &chunks, &summary);
            let (found, _) = &state.objects[&layout.manifest(place)];
            let found: Manifest = serde_json::from_slice(found).expect("a manifest");
            assert_eq!(found, expected);
            let (filter, _) = &state.objects[&layout.filter(place)];
            assert_eq!(*filter, summary.keys.encode());
            manifests += 1;
        }
        place = link.next;
    }
    assert_eq!(links + 2 * manifests, state.objects.len(), "an object outside the chain");
    archived
}

struct Rival {
    sink: ArchiveSink<Memory>,
    log: Arc<Vec<SourceRecord>>,
    group: Group,
    random: StdRng,
}

/// What was ever committed; the last is what the group remembers.
type Group = Arc<Mutex<Vec<Committed>>>;

impl Rival {
    async fn run(mut self) {
        while !self.live().await {
            let pause = self.random.random_range(1..2_000);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// One life of a process; answers whether it saw the end of the log.
    async fn live(&mut self) -> bool {
        let hint = self.hint();
        let Ok((mut writer, mut next)) = self.sink.open(&partition(), hint.as_ref()).await else {
            return false;
        };
        while next < LOG {
            let count = self.random.random_range(1..10);
            let batch = self.log.iter().filter(|record| record.offset >= next).take(count);
            let mut end = LOG;
            for record in batch {
                writer.push(record.clone()).expect("anything can be archived");
                end = record.offset + 1;
            }
            if self.random.random_bool(0.05) {
                return false;
            }
            if self.random.random_bool(0.05) {
                let pause = self.random.random_range(1..60);
                sleep(Duration::from_secs(pause)).await;
            }
            let Some(mut flushed) = self.flush(&mut writer, &mut end).await else { return false };
            if flushed.resume == Resume::Continue {
                assert_eq!(flushed.next, end);
                // Then control records are passed and nothing else.
                if self.random.random_bool(0.3) {
                    let following = self.log.iter().find(|record| record.offset >= end);
                    end = following.map_or(LOG, |record| record.offset);
                    flushed = writer.flush(end).await.expect("nothing is stored");
                    assert_eq!((flushed.next, flushed.resume), (end, Resume::Continue));
                }
            }
            next = flushed.next;
            if self.random.random_bool(0.8) {
                let committed = Committed { offset: next, metadata: flushed.metadata };
                self.group.lock().expect("whole").push(committed);
            }
        }
        true
    }

    /// Flushes until it succeeds; `None` is a crash. A flush that is cut off may be called again.
    async fn flush(
        &mut self,
        writer: &mut ArchiveWriter<Memory>,
        end: &mut i64,
    ) -> Option<Flushed> {
        loop {
            let patience = Duration::from_millis(self.random.random_range(1..500));
            match timeout(patience, writer.flush(*end)).await {
                Ok(Ok(flushed)) => return Some(flushed),
                Ok(Err(error @ SinkError::Definite(_))) => panic!("{error:?}"),
                Ok(Err(SinkError::Transient(_))) | Err(_) => {}
            }
            if self.random.random_bool(0.1) {
                return None;
            }
            // More control records may have come meanwhile.
            if self.random.random_bool(0.3) {
                let following = self.log.iter().find(|record| record.offset >= *end);
                *end = following.map_or(LOG, |record| record.offset);
            }
        }
    }

    fn hint(&mut self) -> Option<Committed> {
        let group = self.group.lock().expect("whole");
        let which = self.random.random_range(0..10);
        match which {
            0 => None,
            1 => Some(Committed { offset: 7, metadata: "nonsense".into() }),
            2 => Some(Committed { offset: 7, metadata: "2023-11-15/7".into() }),
            3 | 4 if !group.is_empty() => {
                let old = self.random.random_range(0..group.len());
                Some(group[old].clone())
            }
            _ => group.last().cloned(),
        }
    }
}

/// A log whose days turn every dozen records and sometimes go back, with any kind of record in it.
fn log(random: &mut StdRng) -> Vec<SourceRecord> {
    let mut log = Vec::new();
    for offset in 0..LOG {
        // The last is there, so that there is an end to come to.
        if offset < LOG - 1 && random.random_bool(0.12) {
            continue;
        }
        let jitter = random.random_range(-20 * HOUR_MS..2 * HOUR_MS);
        let mut record = record(offset);
        record.timestamp_ms = start_ms() + offset * 2 * HOUR_MS + jitter;
        match random.random_range(0..60) {
            0 => record.timestamp_ms = i64::MAX,
            1 => record.timestamp_ms = -1,
            2 | 3 => record.value = None,
            4 => record.value = Some(Bytes::from_static(b"\xff\n")),
            5 => record.key = None,
            6 => record.headers = vec![("tw-seq".into(), Some("7".into())), ("b".into(), None)],
            _ => {}
        }
        log.push(record);
    }
    log
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_taken_and_not_there_never_passes_for_stored() {
    let memory = Memory::new(1);
    let (mut writer, _) = sink(&memory).open(&partition(), None).await.expect("opens");
    push(&mut writer, 0..5);
    memory.state().hides = true;
    for _ in 0..3 {
        match writer.flush(5).await {
            Err(SinkError::Transient(error)) => {
                assert!(error.to_string().contains("delete marker"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    memory.state().hides = false;
    assert_eq!(writer.flush(5).await.expect("stored").next, 5);
    assert_one_chain(&memory, &(0..5).map(record).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_wakes_up_goes_to_the_end_of_the_chain_in_one_flush() {
    let memory = Memory::new(1);
    let (mut sleeper, _) = sink(&memory).open(&partition(), None).await.expect("opens");
    push(&mut sleeper, 0..3);
    let (mut successor, _) = sink(&memory).open(&partition(), None).await.expect("opens");
    for start in 0..8 {
        push(&mut successor, start..start + 1);
        successor.flush(start + 1).await.expect("stored");
    }
    let flushed = sleeper.flush(3).await.expect("finds out");
    assert_eq!((flushed.next, flushed.resume), (8, Resume::Seek));
    assert_eq!(sleeper.buffered_bytes(), 0, "what others have stored is let go");
    push(&mut sleeper, 8..9);
    let flushed = sleeper.flush(9).await.expect("stored");
    assert_eq!((flushed.next, flushed.resume), (9, Resume::Continue));
    assert_one_chain(&memory, &(0..9).map(record).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_manifest_that_a_crash_kept_from_being_written_is_made_from_the_object() {
    let memory = Memory::new(1);
    let (mut writer, _) = sink(&memory).open(&partition(), None).await.expect("opens");
    push(&mut writer, 0..5);
    writer.flush(5).await.expect("stored");
    let is_manifest = |key: &str| key.contains("/manifest/");
    let take = || {
        let mut state = memory.state();
        let key = state.objects.keys().find(|key| is_manifest(key)).cloned().expect("written");
        state.objects.remove(&key).expect("found")
    };
    let written = take();
    sink(&memory).open(&partition(), None).await.expect("opens");
    assert_eq!(take().0, written.0, "byte for byte");
    let (mut rival, _) = sink(&memory).open(&partition(), None).await.expect("opens");
    push(&mut writer, 5..7);
    push(&mut rival, 5..6);
    rival.flush(6).await.expect("stored");
    memory.state().objects.retain(|key, _| !(key.starts_with("meta/") && key.contains("5-")));
    writer.flush(7).await.expect("adopts");
    assert_one_chain(&memory, &(0..6).map(record).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn nobody_goes_on_from_an_object_that_was_changed() {
    let memory = Memory::new(1);
    let (mut writer, _) = sink(&memory).open(&partition(), None).await.expect("opens");
    push(&mut writer, 0..5);
    writer.flush(5).await.expect("stored");
    {
        let mut state = memory.state();
        state.objects.retain(|key, _| key.starts_with("data/"));
        let (object, _) = state.objects.values_mut().last().expect("stored");
        *object = Bytes::from_static(b"something else");
    }
    match sink(&memory).open(&partition(), None).await {
        Err(SinkError::Definite(error)) => assert!(error.to_string().contains("hash"), "{error}"),
        other => panic!("{:?}", other.map(|(_, start)| start)),
    }
}

#[tokio::test(start_paused = true)]
async fn an_archive_that_lost_its_last_objects_is_continued_where_it_ends() {
    let memory = Memory::new(1);
    let (mut writer, _) = sink(&memory).open(&partition(), None).await.expect("opens");
    let mut committed = None;
    for start in [0, 5, 10] {
        push(&mut writer, start..start + 5);
        let flushed = writer.flush(start + 5).await.expect("stored");
        committed = Some(Committed { offset: flushed.next, metadata: flushed.metadata });
    }
    memory.state().objects.retain(|key, _| !key.contains("00000010"));
    let (mut writer, start) =
        sink(&memory).open(&partition(), committed.as_ref()).await.expect("opens");
    assert_eq!(start, 10);
    push(&mut writer, 10..15);
    writer.flush(15).await.expect("stored");
    assert_one_chain(&memory, &(0..15).map(record).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn offsets_without_records_are_passed_and_the_next_link_covers_them() {
    let memory = Memory::new(1);
    let (mut writer, _) = sink(&memory).open(&partition(), None).await.expect("opens");
    push(&mut writer, 0..5);
    writer.flush(5).await.expect("stored");
    let flushed = writer.flush(7).await.expect("nothing to store");
    assert_eq!((flushed.next, flushed.resume), (7, Resume::Continue));
    let objects = memory.state().objects.len();
    let committed = Committed { offset: 7, metadata: flushed.metadata };
    let (mut writer, start) =
        sink(&memory).open(&partition(), Some(&committed)).await.expect("opens");
    assert_eq!(start, 7, "what lies between the head and 7 is known to be no record");
    let flushed = writer.flush(9).await.expect("nothing to store");
    assert_eq!((flushed.next, memory.state().objects.len()), (9, objects));
    push(&mut writer, 9..12);
    writer.flush(12).await.expect("stored");
    let records: Vec<_> = (0..5).chain(9..12).map(record).collect();
    assert_one_chain(&memory, &records);
}

#[tokio::test(start_paused = true)]
async fn an_offset_beyond_the_head_is_believed_only_while_the_head_is_the_one_remembered() {
    let memory = Memory::new(1);
    let (mut writer, _) = sink(&memory).open(&partition(), None).await.expect("opens");
    for start in [0, 5] {
        push(&mut writer, start..start + 5);
        writer.flush(start + 5).await.expect("stored");
    }
    let metadata = writer.flush(12).await.expect("nothing to store").metadata;
    let committed = Committed { offset: 12, metadata };
    let start = async || {
        let opened = sink(&memory).open(&partition(), Some(&committed)).await;
        opened.map(|(_, start)| start).expect("opens")
    };
    assert_eq!(start().await, 12);
    let old = Committed { metadata: "2023-11-14/5".into(), ..committed.clone() };
    let opened = sink(&memory).open(&partition(), Some(&old)).await;
    assert_eq!(opened.expect("opens").1, 10, "nothing is said of the head");
    let lost: Vec<_> = {
        let mut state = memory.state();
        let lost = state.objects.extract_if(.., |key, _| key.contains("0000000005"));
        lost.collect()
    };
    assert_eq!(start().await, 5, "a link has vanished, so its records are asked for again");
    memory.state().objects.extend(lost);
    push(&mut writer, 12..14);
    writer.flush(14).await.expect("stored");
    assert_eq!(start().await, 14, "the chain has gone on since");
}

#[tokio::test(start_paused = true)]
async fn a_range_that_was_given_up_is_a_link_with_its_reason_and_nobody_bridges_it() {
    let memory = Memory::new(1);
    let sink = sink(&memory);
    let (mut writer, _) = sink.open(&partition(), None).await.expect("opens");
    push(&mut writer, 0..5);
    let remembered = writer.flush(5).await.expect("stored");
    push(&mut writer, 5..8);
    let given_up = sink.record_gap(&partition(), 20, "retention").await.expect("records");
    assert_eq!(given_up, Some(5));
    for to in [20, 19, 3] {
        let again = sink.record_gap(&partition(), to, "retention").await.expect("looks");
        assert_eq!(again, None, "{to} is reached");
    }
    let gap = memory.state().objects.iter().find_map(|(key, (_, metadata))| {
        metadata.get("gap").map(|reason| (key.clone(), reason.clone()))
    });
    let (key, reason) = gap.expect("an object says so");
    assert!(key.contains("00000000000000000005.jsonl.gz"), "{key}");
    assert_eq!(reason, "retention");
    // One who held records of the range finds it taken.
    let flushed = writer.flush(8).await.expect("finds out");
    assert_eq!((flushed.next, flushed.resume), (20, Resume::Seek));
    let committed = Committed { offset: 5, metadata: remembered.metadata };
    let (mut writer, start) = sink.open(&partition(), Some(&committed)).await.expect("opens");
    assert_eq!(start, 20);
    push(&mut writer, 21..23);
    writer.flush(23).await.expect("stored");
    assert_one_chain(&memory, &(0..5).chain(21..23).map(record).collect::<Vec<_>>());
}

/// A rival that held records of it stores them all the same.
#[tokio::test(start_paused = true)]
async fn a_range_that_was_given_up_in_an_archive_at_least_once_is_passed_by_whoever_comes_next() {
    let memory = Memory::new(1);
    memory.state().replaces = true;
    let sink = promising(&memory, Guarantee::AtLeastOnce);
    let (mut writer, _) = sink.open(&partition(), None).await.expect("opens");
    push(&mut writer, 0..5);
    let remembered = writer.flush(5).await.expect("stored");
    push(&mut writer, 5..8);
    let given_up = sink.record_gap(&partition(), 20, "retention").await.expect("records");
    assert_eq!(given_up, Some(5));
    let again = sink.record_gap(&partition(), 20, "retention").await.expect("looks");
    assert_eq!(again, None, "it is reached");
    let gaps = memory.state().objects.values().filter(|(_, said)| said.contains_key("gap")).count();
    assert_eq!(gaps, 1);
    assert_eq!(writer.flush(8).await.expect("stored").next, 8);
    for committed in [None, Some(Committed { offset: 5, metadata: remembered.metadata })] {
        let opened = sink.open(&partition(), committed.as_ref()).await;
        assert_eq!(opened.expect("opens").1, 20);
    }
    let (mut writer, _) = sink.open(&partition(), None).await.expect("opens");
    push(&mut writer, 21..23);
    writer.flush(23).await.expect("stored");
    let distinct: BTreeMap<i64, SourceRecord> =
        held(&memory).into_iter().map(|record| (record.offset, record)).collect();
    assert!(distinct.into_values().eq((0..8).chain(21..23).map(record)), "other records");
    let report = looked_over(&memory).await;
    assert_eq!((report.findings, report.notes), (vec![], vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_marker_before_the_first_record_of_all_is_passed_too() {
    let memory = Memory::new(1);
    let (mut writer, _) = sink(&memory).open(&partition(), None).await.expect("opens");
    let flushed = writer.flush(3).await.expect("nothing to store");
    let committed = Committed { offset: flushed.next, metadata: flushed.metadata };
    let (_, start) = sink(&memory).open(&partition(), Some(&committed)).await.expect("opens");
    assert_eq!((start, memory.state().objects.len()), (3, 0));
}

#[tokio::test]
async fn a_store_that_lets_two_win_or_replaces_objects_is_refused() {
    let probe = async |manner| {
        let endpoint = careless::serve(manner).await;
        let segment_bytes = if manner == Manner::IgnoresForUploads { 1 << 30 } else { 1 };
        server::connect(&endpoint, "bucket").probe(segment_bytes).await
    };
    let refused = |manner, said: Result<(), StoreError>, why: &str| match said {
        Err(error) => {
            assert!(error.to_string().contains(why), "{manner:?}: {error}");
            assert_eq!(error.class(), ErrorClass::Definite, "{manner:?}");
        }
        Ok(()) => panic!("{manner:?} was let through"),
    };
    for (manner, why) in [
        (Manner::Ignores, "let 8 of 8 writers"),
        (Manner::RefusesAll, "let 0 of 8 writers"),
        (Manner::RefusesAndReplaces, "replaced"),
        (Manner::IgnoresForUploads, "let 3 of 3 uploads in parts"),
    ] {
        refused(manner, probe(manner).await, why);
    }
    probe(Manner::AnswersWithConflict).await.expect("it keeps what counts");
}

fn topic() -> TopicName {
    "orders.events".parse().expect("valid")
}

fn partition() -> TopicPartition {
    TopicPartition { topic: topic(), partition: 0 }
}

/// When the records of `testing::record` begin.
fn start_ms() -> i64 {
    record(0).timestamp_ms
}

fn origin() -> Place {
    Place::new(0, Day::of_ms(start_ms()))
}

fn sink(memory: &Memory) -> ArchiveSink<Memory> {
    promising(memory, Guarantee::ExactlyOnce)
}

fn promising(memory: &Memory, guarantee: Guarantee) -> ArchiveSink<Memory> {
    let spec = ArchiveSpec {
        bucket: String::new(),
        prefix: String::new(),
        guarantee,
        segment: SegmentSpec { bytes: 1 << 20, records: 1_000, age_ms: 1_000, idle_ms: None },
    };
    ArchiveSink::new(memory.clone(), spec, vec![registered()])
}

fn registered() -> Origin {
    Origin { topic: topic(), partition: 0, offset: 0, dt: origin().dt.to_string() }
}

fn push(writer: &mut ArchiveWriter<Memory>, offsets: std::ops::Range<i64>) {
    offsets.for_each(|offset| writer.push(record(offset)).expect("anything can be archived"));
}
