//! How far the pipeline is, and the only place from which the slot is confirmed.
//!
//! ```text
//!  batch ──┐
//!          ├─▶ one Kafka transaction ──committed──▶ on_committed ──▶ Durable ──▶ status update ──▶ slot
//!  record ─┘                                        (nobody else can set it)
//! ```
//!
//! * The record goes into the same Kafka transaction as the data, so the two cannot disagree.
//! * `position` is the end LSN of the last Postgres transaction whose changes are all durable. A transaction of
//!   which only a part is durable stands in `in_flight`; the server sends it again from its beginning and we
//!   skip by ordinal.
//! * A keepalive's position is confirmed only after it was written here. Otherwise the slot could be ahead of
//!   us, and that is how we recognise a slot that somebody else moved.
//! * Tables that are joining stand where `joining` says, at or before `position`. The slot is confirmed up to the lesser of
//!   the two, so that what they still need can be read again after a crash.
//! * Position zero is a first start that has announced itself and not finished.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use tailwater_topics_contract::{
    Lsn, PipelineName, Position, Registrations, Seq, TableName, TopicName,
};
use tokio::sync::Notify;

use crate::capture::Resume;
use crate::config::Config;
use crate::copies::{Copies, Due, Existing};
use crate::publish;
use crate::repair::Repair;
use crate::snapshot::Copying;

/// The key of the progress record.
pub const KEY: &[u8] = b"progress";

/// The only version of the record so far.
const VERSION: u32 = 1;

/// How many repairs are remembered.
pub const REPAIRS_MAX: usize = 16;

/// Next offsets per partition of each topic, as far as deliveries have told: of each partition that holds records of ours, at
/// least that of some of them; -1 is unknown.
pub type Ends = BTreeMap<TopicName, Vec<i64>>;

/// One progress record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version of this form.
    pub version: u32,
    /// Whose progress it is.
    pub pipeline: PipelineName,
    /// The epoch of `seq`.
    pub epoch: u16,
    /// The last sequence number used.
    pub seq: u64,
    /// Everything that committed before this is durable, but for tables that are joining; zero during the very first
    /// start.
    pub position: Lsn,
    /// The transaction of which a part is durable.
    pub in_flight: Option<InFlight>,
    /// The slot.
    pub slot: String,
    /// `system_identifier` of the database cluster.
    pub system_id: String,
    /// Its timeline.
    pub timeline: u32,
    /// What the stream was asked for; ordinals can be compared only between equal options.
    pub options: String,
    /// Where each topic ended at least.
    pub ends: Ends,
    /// Tables whose rows, present before their changes were captured, need no copy any more.
    #[serde(default, skip_serializing_if = "Copies::is_empty")]
    pub tables: Copies,
    /// The copy that is being made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copying: Option<Copying>,
    /// Tables that are not where `position` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joining: Option<Joining>,
    /// What people have done to bring the pipeline back, oldest first; the last [`REPAIRS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repairs: Vec<Repair>,
    /// When this was written, in milliseconds since 1970.
    pub at_ms: i64,
}

/// Tables whose rows are copied beside the stream, and whose changes follow them on their own way until they have caught up
/// with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joining {
    /// The tables.
    pub tables: BTreeSet<TableName>,
    /// Every change of theirs that committed before this is durable.
    pub position: Lsn,
    /// The transaction of which a part of their changes is durable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<InFlight>,
}

impl Joining {
    /// Where to go on with them, behind the last number used.
    pub fn resume(&self, seq: Seq) -> Resume {
        Resume { seq, position: self.position, in_flight: self.in_flight.map(InFlight::place) }
    }
}

/// A transaction of which a part is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    /// Its commit LSN.
    pub commit_lsn: Lsn,
    /// The first ordinal that is not durable.
    pub next_ordinal: u64,
}

impl InFlight {
    fn of(place: Position) -> Self {
        Self { commit_lsn: place.commit_lsn, next_ordinal: place.ordinal }
    }

    fn place(self) -> Position {
        Position { commit_lsn: self.commit_lsn, ordinal: self.next_ordinal }
    }
}

/// A progress record that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not what this version writes.
    #[error("the progress record cannot be read")]
    Malformed(#[source] serde_json::Error),
    /// Written by a newer version.
    #[error("the progress record has version {version}; this program reads version {VERSION}")]
    Version {
        /// The version it has.
        version: u32,
    },
    /// A sequence number out of range.
    #[error("the progress record has sequence {seq}, which is out of range")]
    Seq {
        /// The number.
        seq: u64,
    },
}

impl Record {
    /// The announcement of a first start: nothing was read yet, and the slot may or may not exist.
    pub fn first(pipeline: &PipelineName, system_id: &str, timeline: u32, options: &str) -> Self {
        let seq = Seq::new(1, 0).expect("the first epoch is in range");
        Self {
            version: VERSION,
            pipeline: pipeline.clone(),
            epoch: seq.epoch(),
            seq: seq.get(),
            position: Lsn::ZERO,
            in_flight: None,
            slot: pipeline.slot(),
            system_id: system_id.to_owned(),
            timeline,
            options: options.to_owned(),
            ends: Ends::new(),
            tables: Copies::default(),
            copying: None,
            joining: None,
            repairs: Vec::new(),
            at_ms: 0,
        }
    }

    /// Everything of these tables that committed before this is in Kafka; `None` as long as rows of theirs that were there
    /// before are still to come.
    pub fn complete_to<'t>(&self, tables: impl IntoIterator<Item = &'t TableName>) -> Option<Lsn> {
        let mut position = self.position;
        for table in tables {
            match self.tables.get(table) {
                Some(Existing::Copied { .. } | Existing::LeftOut) => {}
                Some(Existing::Doubtful) | None => return None,
            }
            let joining = self.joining.as_ref().filter(|joining| joining.tables.contains(table));
            position = joining.map_or(position, |joining| joining.position.min(position));
        }
        Some(position)
    }

    /// Whether a part of a transaction is durable, of the stream or of tables that are joining.
    pub fn is_in_flight(&self) -> bool {
        let joining = self.joining.as_ref().and_then(|joining| joining.in_flight);
        self.in_flight.or(joining).is_some()
    }

    /// Everything that committed from here on is still needed, by the stream or by a table that is joining it.
    pub fn needs_from(&self) -> Lsn {
        let joining = self.joining.as_ref().map_or(self.position, |joining| joining.position);
        self.position.min(joining)
    }

    /// Whether this announces that everything is read anew, by a first start after others.
    pub fn is_resync(&self) -> bool {
        self.position == Lsn::ZERO && !self.repairs.is_empty()
    }

    /// The bytes stored.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text keys and plain values always encode")
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let head: Head = serde_json::from_slice(bytes).map_err(Error::Malformed)?;
        if head.version != VERSION {
            return Err(Error::Version { version: head.version });
        }
        let record: Self = serde_json::from_slice(bytes).map_err(Error::Malformed)?;
        match Seq::from_stored(record.seq) {
            Some(_) => Ok(record),
            None => Err(Error::Seq { seq: record.seq }),
        }
    }

    /// Where to go on.
    pub fn resume(&self) -> Resume {
        Resume {
            seq: Seq::from_stored(self.seq).expect("checked when it was decoded"),
            position: self.position,
            in_flight: self.in_flight.map(InFlight::place),
        }
    }
}

/// What is durable, as the status updates say it. Read by everybody, set by [`Progress`] alone.
#[derive(Debug, Default)]
pub struct Durable {
    lsn: AtomicU64,
    moved: Notify,
}

impl Durable {
    /// Everything that committed before this is in Kafka and in the progress record, for every table.
    pub fn get(&self) -> Lsn {
        Lsn(self.lsn.load(Ordering::Acquire))
    }

    /// Waits until it has moved since this was last awaited. There is one who waits: the feed.
    pub async fn moved(&self) {
        self.moved.notified().await;
    }

    fn set(&self, lsn: Lsn) {
        if self.lsn.fetch_max(lsn.0, Ordering::AcqRel) < lsn.0 {
            self.moved.notify_one();
        }
    }
}

/// How long an idle stream's position may stay unwritten.
const IDLE_WRITE_MS: i64 = 10_000;

/// The same when the server asks for an answer, as it does in a loop while it shuts down.
const ASKED_WRITE_MS: i64 = 1_000;

/// The state between records.
#[derive(Debug)]
pub struct Progress {
    /// As last committed.
    record: Record,
    durable: Arc<Durable>,
    /// A keepalive's position, later than anything before it in the stream.
    idle: Lsn,
    /// The server waits for an answer to `idle`.
    asked: bool,
    /// As the next record will say it.
    tables: Copies,
    copying: Option<Copying>,
    joining: Option<Joining>,
}

impl Progress {
    /// Goes on from a committed record.
    pub fn new(record: Record) -> Self {
        let durable = Arc::new(Durable::default());
        durable.set(record.needs_from());
        let idle = record.position;
        let (tables, copying) = (record.tables.clone(), record.copying.clone());
        let joining = record.joining.clone();
        Self { record, durable, idle, asked: false, tables, copying, joining }
    }

    /// What the status updates read.
    pub fn durable(&self) -> Arc<Durable> {
        Arc::clone(&self.durable)
    }

    /// As last committed.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The server has sent everything before `wal_end`. Within a transaction that says nothing, because the
    /// transaction itself is not finished.
    pub fn on_keepalive(&mut self, wal_end: Lsn, reply: bool, inside_transaction: bool) {
        if !inside_transaction && wal_end >= self.idle {
            self.idle = wal_end;
            self.asked |= reply;
        }
    }

    /// Whether the position of an idle stream should be written now although there is no data. `at` is where
    /// the capture stands.
    pub fn is_due(&self, at: &Resume, now_ms: i64) -> bool {
        let wait = if self.asked { ASKED_WRITE_MS } else { IDLE_WRITE_MS };
        // A clock that was set back must not hold the slot for longer than the set-back itself.
        let since = now_ms.saturating_sub(self.record.at_ms);
        self.is_ahead(at) && !(0..wait).contains(&since)
    }

    /// Whether ends of partitions are known that no record holds, since so long that they should be written without
    /// waiting for data. Otherwise a topic that loses the last records of all would not be found out at the next start.
    pub fn lacks(&self, ends: &Ends, now_ms: i64) -> bool {
        let since = now_ms.saturating_sub(self.record.at_ms);
        !(0..IDLE_WRITE_MS).contains(&since) && self.is_lacking(ends)
    }

    /// The same, however short it was.
    pub fn is_lacking(&self, ends: &Ends) -> bool {
        merged(&self.record.ends, ends.clone()) != self.record.ends
    }

    /// Whether there is a position to write at all.
    pub fn is_ahead(&self, at: &Resume) -> bool {
        self.position(at) > self.record.position
    }

    /// The position that a record written now would have: everything that committed before has been taken.
    pub fn position(&self, at: &Resume) -> Lsn {
        at.position.max(self.idle)
    }

    /// The record to put into the open Kafka transaction, beside everything captured up to `at`.
    pub fn next(&self, at: &Resume, ends: Ends, now_ms: i64) -> Record {
        Record {
            epoch: at.seq.epoch(),
            seq: at.seq.get(),
            position: self.position(at),
            in_flight: at.in_flight.map(InFlight::of),
            ends: merged(&self.record.ends, ends),
            tables: self.tables.clone(),
            copying: self.copying.clone(),
            joining: self.joining.clone(),
            at_ms: now_ms,
            ..self.record.clone()
        }
    }

    /// A copy begins, or has ended.
    pub fn on_copying(&mut self, copying: Option<Copying>) {
        self.copying = copying;
    }

    /// Tables begin to join; they stand where the stream does.
    pub fn on_join(&mut self, tables: BTreeSet<TableName>, position: Lsn) {
        self.joining = Some(Joining { tables, position, in_flight: None });
    }

    /// The tables that are joining stand here.
    pub fn on_join_at(&mut self, at: &Resume) {
        if let Some(joining) = &mut self.joining {
            joining.position = at.position;
            joining.in_flight = at.in_flight.map(InFlight::of);
        }
    }

    /// The tables stand where the stream does, for good.
    pub fn on_joined(&mut self) {
        self.joining = None;
    }

    /// Tables that are joining.
    pub fn joining(&self) -> Option<&Joining> {
        self.joining.as_ref()
    }

    /// So many rows of the copy are written.
    pub fn on_copied_rows(&mut self, rows: u64) {
        if let Some(copying) = &mut self.copying {
            copying.rows = rows;
        }
    }

    /// A range of the copy, with this share of its bytes, is written.
    pub fn on_copied_range(&mut self, bytes: u64) {
        if let Some(copying) = &mut self.copying {
            copying.bytes_done += bytes;
        }
    }

    /// The last row of a table is written. Durable with the next record, as the row itself is.
    pub fn on_copied(&mut self, table: TableName, existing: Existing) {
        if let Some(copying) = &mut self.copying {
            copying.tables_left = copying.tables_left.saturating_sub(1);
        }
        self.tables.insert(table, existing);
    }

    /// Rows that tables hold are not wanted.
    pub fn on_left_out(&mut self, tables: Vec<Due>) {
        let is_new = |due: &Due| self.tables.get(&due.table).is_none();
        let tables = tables.into_iter().filter(is_new).collect();
        self.tables.leave_out(tables);
    }

    /// Topics were registered or removed.
    pub fn on_registrations(&mut self, registered: &Registrations) {
        self.tables.on_registrations(registered);
    }

    /// The copy that is being made.
    pub fn copying(&mut self) -> Option<&mut Copying> {
        self.copying.as_mut()
    }

    /// The Kafka transaction that holds this record is committed: from now on the slot may forget.
    pub fn on_committed(&mut self, record: Record) {
        self.durable.set(record.needs_from());
        self.record = record;
        self.asked = false;
    }
}

/// What is known now, and for the rest what was known before.
pub(crate) fn merged(before: &Ends, mut now: Ends) -> Ends {
    for (topic, before) in before {
        let now = now.entry(topic.clone()).or_default();
        if now.len() < before.len() {
            now.resize(before.len(), -1);
        }
        for (now, before) in now.iter_mut().zip(before) {
            *now = (*now).max(*before);
        }
    }
    now
}

/// The last committed progress of a pipeline, for people to look at; `None` before its first start.
pub async fn read(config: &Config) -> Result<Option<Record>, crate::Error> {
    let (kafka, topic) = (config.kafka.clone(), config.pipeline.progress_topic());
    let read = move || publish::kafka::last_value(&kafka, &topic);
    let value = tokio::task::spawn_blocking(read).await.map_err(|_| crate::Error::Panicked)??;
    Ok(value.map(|value| Record::decode(&value)).transpose()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> Record {
        let mut record =
            Record::first(&"market".parse().expect("a name"), "7012", 1, "proto_version=1");
        record.position = Lsn(100);
        record
    }

    fn at(n: u64, position: u64, in_flight: Option<(u64, u64)>) -> Resume {
        Resume {
            seq: Seq::new(1, n).expect("in range"),
            position: Lsn(position),
            in_flight: in_flight
                .map(|(commit, ordinal)| Position { commit_lsn: Lsn(commit), ordinal }),
        }
    }

    #[test]
    fn a_record_has_the_documented_form() {
        let mut record = record();
        record.in_flight = Some(InFlight { commit_lsn: Lsn(7), next_ordinal: 3 });
        record.ends.insert("orders.events".parse().expect("a name"), vec![12, -1]);
        record.at_ms = 5;
        let text = String::from_utf8(record.encode()).expect("text");
        assert_eq!(
            text,
            r#"{"version":1,"pipeline":"market","epoch":1,"seq":17592186044416,"position":"0/64","in_flight":{"commit_lsn":"0/7","next_ordinal":3},"slot":"tailwater_market","system_id":"7012","timeline":1,"options":"proto_version=1","ends":{"orders.events":[12,-1]},"at_ms":5}"#
        );
        assert_eq!(Record::decode(text.as_bytes()).expect("it reads"), record);
    }

    #[test]
    fn a_table_that_is_joining_holds_the_slot_and_the_claim_of_completeness() {
        let (item, late): (TableName, TableName) =
            ("s.item".parse().expect("a name"), "s.late".parse().expect("a name"));
        let copied = |at| Existing::Copied { at: Lsn(at), rows: 1, asked_ms: 0, topic: None };
        let mut progress = Progress::new(record());
        progress.on_copied(item.clone(), copied(50));
        progress.on_join(BTreeSet::from([late.clone()]), Lsn(100));
        let next = progress.next(&at(3, 900, None), Ends::new(), 1);
        assert_eq!(next.complete_to([&item]), Some(Lsn(900)));
        assert_eq!(next.complete_to([&item, &late]), None, "its rows are still to come");
        progress.on_committed(next.clone());
        assert_eq!(progress.durable().get(), Lsn(100), "what it needs can be read again");
        assert_eq!(Record::decode(&next.encode()).expect("it reads"), next);

        progress.on_join_at(&at(0, 300, Some((310, 2))));
        progress.on_copied(late.clone(), copied(200));
        let next = progress.next(&at(5, 950, None), Ends::new(), 2);
        assert_eq!(next.complete_to([&item, &late]), Some(Lsn(300)));
        let resume = next.joining.as_ref().expect("it has not joined").resume(next.resume().seq);
        assert_eq!(resume, at(5, 300, Some((310, 2))));
        progress.on_committed(next);
        assert_eq!(progress.durable().get(), Lsn(300));

        progress.on_joined();
        let next = progress.next(&at(6, 960, None), Ends::new(), 3);
        progress.on_committed(next);
        assert_eq!(progress.durable().get(), Lsn(960));
    }

    #[test]
    fn a_record_of_another_version_is_refused() {
        let text = String::from_utf8(record().encode()).expect("text");
        let newer = text.replace(r#""version":1"#, r#""version":2"#);
        assert!(matches!(Record::decode(newer.as_bytes()), Err(Error::Version { version: 2 })));
        assert!(Record::decode(b"{}").is_err());
        let large = text.replace("17592186044416", "9007199254740992");
        assert!(matches!(Record::decode(large.as_bytes()), Err(Error::Seq { .. })));
    }

    #[test]
    fn a_keepalive_is_confirmed_only_after_it_was_written() {
        let mut progress = Progress::new(record());
        let here = at(0, 100, None);
        progress.on_keepalive(Lsn(200), false, false);
        assert_eq!(progress.durable().get(), Lsn(100));
        assert!(progress.is_ahead(&here));
        let next = progress.next(&here, Ends::new(), 1);
        assert_eq!(next.position, Lsn(200));
        assert_eq!(progress.durable().get(), Lsn(100));
        progress.on_committed(next);
        assert_eq!(progress.durable().get(), Lsn(200));
    }

    #[test]
    fn a_keepalive_within_a_transaction_says_nothing() {
        let mut progress = Progress::new(record());
        progress.on_keepalive(Lsn(200), true, true);
        assert!(!progress.is_ahead(&at(0, 100, None)));
    }

    #[test]
    fn a_part_of_a_transaction_never_takes_the_position_back() {
        let mut progress = Progress::new(record());
        progress.on_keepalive(Lsn(200), false, false);
        let next = progress.next(&at(5, 100, Some((250, 5))), Ends::new(), 1);
        progress.on_committed(next);
        let next = progress.next(&at(9, 100, Some((250, 9))), Ends::new(), 2);
        assert_eq!(next.position, Lsn(200));
        assert_eq!(next.in_flight, Some(InFlight { commit_lsn: Lsn(250), next_ordinal: 9 }));
    }

    #[test]
    fn an_end_once_known_stays_known() {
        let topic = |name: &str| name.parse().expect("a name");
        let ends = |ends: &[(&str, &[i64])]| -> Ends {
            ends.iter().map(|(name, ends)| (topic(name), ends.to_vec())).collect()
        };
        let progress =
            Progress::new(Record { ends: ends(&[("a", &[5, 7]), ("b", &[1])]), ..record() });
        let next = progress.next(&at(0, 100, None), ends(&[("a", &[9]), ("c", &[2])]), 1);
        assert_eq!(next.ends, ends(&[("a", &[9, 7]), ("b", &[1]), ("c", &[2])]));
    }

    #[test]
    fn ends_that_no_record_holds_are_written_when_the_stream_is_idle() {
        let name: TopicName = "a".parse().expect("a name");
        let ends = |end| Ends::from([(name.clone(), vec![end])]);
        let progress = Progress::new(Record { at_ms: 1_000_000, ends: ends(5), ..record() });
        assert!(!progress.lacks(&ends(6), 1_009_999), "soon something else may take them along");
        assert!(progress.lacks(&ends(6), 1_010_000));
        assert!(!progress.lacks(&ends(5), 1_010_000));
        assert!(!progress.lacks(&Ends::new(), 1_010_000));
    }

    #[test]
    fn an_idle_position_is_written_every_ten_seconds_and_at_once_when_asked() {
        let mut progress = Progress::new(Record { at_ms: 1_000_000, ..record() });
        let here = at(0, 100, None);
        progress.on_keepalive(Lsn(200), false, false);
        assert!(!progress.is_due(&here, 1_009_999));
        assert!(progress.is_due(&here, 1_010_000));
        assert!(progress.is_due(&here, 999_999), "a clock set back");
        progress.on_keepalive(Lsn(200), true, false);
        assert!(progress.is_due(&here, 1_001_000));
    }

    proptest! {
        #[test]
        fn what_it_writes_it_reads(
            position: u64, seq in 0_u64..(1 << 53), flight: Option<(u64, u64)>, at_ms: i64,
        ) {
            let in_flight = flight.map(|(commit, next_ordinal)| InFlight {
                commit_lsn: Lsn(commit),
                next_ordinal,
            });
            let record = Record { position: Lsn(position), seq, in_flight, at_ms, ..record() };
            prop_assert_eq!(Record::decode(&record.encode()).expect("it reads"), record);
        }
    }
}
