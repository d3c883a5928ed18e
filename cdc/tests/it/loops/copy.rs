//! A copy in the loop: a scripted table, and a reader that dies at every step of copying it.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tailwater_cdc::Error;
use tailwater_cdc::copies::{Due, Existing};
use tailwater_cdc::pgoutput::{RelationColumn, RelationMessage, ReplicaIdentity};
use tailwater_cdc::publish::memory::{Fault, Memory, Stored};
use tailwater_cdc::publish::past::{Extent, Past, PastRecord};
use tailwater_cdc::publish::{self, Publisher};
use tailwater_cdc::snapshot::{self, Order, Ordered, Rows};
use tailwater_cdc::stream::{Input, queue};
use tailwater_runtime::clock;
use tailwater_topics_contract::{Lsn, Seq, TableName, TopicName};

use super::{last_record, limits, pipeline};
use crate::{script, wire};

const OID: u32 = 7;

/// What happened to a table of ids: each transaction inserts some and deletes some.
struct History {
    before: BTreeSet<u64>,
    transactions: Vec<Transaction>,
}

struct Transaction {
    commit_lsn: u64,
    end_lsn: u64,
    inserted: Vec<u64>,
    deleted: Vec<u64>,
}

impl History {
    fn random(random: &mut StdRng) -> Self {
        let mut next = random.random_range(0..20);
        let before: BTreeSet<u64> = (0..next).collect();
        let mut table = before.clone();
        let mut transactions = Vec::new();
        let mut at = 1_000;
        for _ in 0..random.random_range(0..6) {
            let inserted: Vec<u64> = (next..next + random.random_range(0..4)).collect();
            next += inserted.len() as u64;
            let deleted: Vec<u64> =
                table.iter().copied().filter(|_| random.random_bool(0.2)).collect();
            table.extend(&inserted);
            table.retain(|id| !deleted.contains(id));
            transactions.push(Transaction { commit_lsn: at, end_lsn: at + 48, inserted, deleted });
            // The next one may begin where this one ends.
            at += 48 + random.random_range(0..2) * 100;
        }
        Self { before, transactions }
    }

    fn end(&self) -> u64 {
        self.transactions.last().map_or(1_000, |last| last.end_lsn)
    }

    /// The table as a snapshot at a point sees it.
    fn table(&self, at: u64) -> BTreeSet<u64> {
        let mut table = self.before.clone();
        for transaction in self.transactions.iter().filter(|t| t.commit_lsn < at) {
            table.extend(&transaction.inserted);
            table.retain(|id| !transaction.deleted.contains(id));
        }
        table
    }

    fn messages_from(&self, position: Lsn) -> Vec<Vec<u8>> {
        let columns = [("id", 20, true)];
        let mut out = vec![script::data(0, &wire::relation(OID, "public", "item", b'd', &columns))];
        for t in self.transactions.iter().filter(|t| t.commit_lsn >= position.0) {
            let row = |id: &u64| [wire::text(&id.to_string())];
            let mut say = |body: &[u8]| out.push(script::data(t.end_lsn, body));
            say(&wire::begin(t.commit_lsn, 5));
            t.inserted.iter().for_each(|id| say(&wire::insert(OID, &row(id))));
            t.deleted.iter().for_each(|id| say(&wire::delete(OID, b'K', &row(id))));
            say(&wire::commit(t.commit_lsn, t.end_lsn));
        }
        out.push(script::keepalive(self.end() + 1_000, false));
        out
    }
}

fn item() -> TableName {
    "public.item".parse().expect("a name")
}

/// A copy whose workers have handed over everything, or gave up before the end.
fn order(log: &Memory, history: &History, at: u64, is_first: bool, random: &mut StdRng) -> Order {
    let column = RelationColumn {
        is_identity: true,
        name: "id".to_owned(),
        type_oid: 20,
        type_modifier: -1,
        type_name: None,
    };
    let relation = RelationMessage {
        oid: OID,
        schema: "public".to_owned(),
        name: "item".to_owned(),
        identity: ReplicaIdentity::Default,
        columns: vec![column],
    };
    let (sender, rows) = queue(1 << 20);
    let table: Vec<u64> = history.table(at).into_iter().collect();
    let ranges: Vec<&[u64]> = table.chunks(random.random_range(1..=5)).collect();
    for range in &ranges {
        for chunk in range.chunks(random.random_range(1..=3)) {
            let lines = chunk.iter().map(|id| script::message(b'd', format!("{id}\n").as_bytes()));
            let chunk = Bytes::from(lines.collect::<Vec<_>>().concat());
            sender.push(Rows::Chunk { table: 0, chunk });
        }
        sender.push(Rows::Range { table: 0, bytes: 1 });
    }
    let due = Due { table: item(), asked_ms: 0, is_first };
    let bytes = ranges.len() as u64;
    let tables = vec![Ordered { relation, due, ranges: ranges.len(), bytes }];
    let past = Box::new(MemoryPast { log: log.clone(), at: 0, end: 0 });
    Order { at: Lsn(at), taken_ms: 0, tables, rows, past }
}

/// One life of a reader: a copy if there is none yet, then the stream to its end, or to the fault.
fn live(
    log: &Memory,
    history: &History,
    point: &mut u64,
    random: &mut StdRng,
) -> Result<(), Error> {
    let record = last_record(log);
    let (pipeline, durable) = pipeline(log, limits());
    let (sender, receiver) = queue(1 << 20);
    if !matches!(record.tables.get(&item()), Some(Existing::Copied { .. })) {
        // A first start copies where its slot begins. A later attempt takes a later point, at any border.
        let points: Vec<u64> = std::iter::once(1_000)
            .chain(history.transactions.iter().map(|t| t.end_lsn))
            .filter(|at| at >= point && *at >= record.position.0)
            .collect();
        *point = match *point {
            0 => 1_000,
            // A slot made now begins nowhere before what was read already.
            last => points
                .get(random.random_range(0..points.len().max(1)))
                .map_or(last.max(record.position.0), |at| *at),
        };
        let order = order(log, history, *point, record.tables.is_empty(), random);
        sender.push(Input::Copy(Box::new(order)));
    }
    let mut messages = history.messages_from(record.position).into_iter().peekable();
    while messages.peek().is_some() {
        let chunk: Vec<u8> = messages.by_ref().take(random.random_range(1..=6)).flatten().collect();
        sender.push(Input::Chunk(Bytes::from(chunk)));
    }
    drop(sender);
    let ended = pipeline.run(&receiver, &AtomicBool::new(false));
    assert!(durable.get() <= last_record(log).position, "confirmed beyond progress");
    ended
}

/// The one partition of the topic in the log in memory.
#[derive(Debug)]
struct MemoryPast {
    log: Memory,
    at: usize,
    end: usize,
}

impl Past for MemoryPast {
    fn extents(&mut self, _: &TopicName) -> Result<Vec<Extent>, publish::Error> {
        Ok(vec![Extent { first: 0, next: self.log.committed().len() as i64 }])
    }

    fn begin(&mut self, _: &TopicName, _: i32, extent: Extent) -> Result<(), publish::Error> {
        (self.at, self.end) = (extent.first as usize, extent.next as usize);
        Ok(())
    }

    fn read(&mut self, on: &mut dyn FnMut(PastRecord<'_>)) -> Result<bool, publish::Error> {
        let committed = self.log.committed();
        let end = (self.at + 3).min(self.end);
        for (at, stored) in committed.iter().enumerate().take(end).skip(self.at) {
            let (key, value) = (stored.key.as_deref(), stored.value.as_deref());
            on(PastRecord { offset: at as i64, key, value });
        }
        self.at = end;
        Ok(self.at < self.end)
    }
}

/// The log folds to the table, under dense numbers, and copied rows stand at their point of history.
fn assert_converged(
    log: &[Stored],
    epoch: u64,
    mut table: BTreeSet<Option<u64>>,
    history: &History,
    what: &str,
) {
    let mut last = (0, 0);
    for (record, seq) in log.iter().zip((epoch << 44) + 1..) {
        let value: Value =
            serde_json::from_slice(record.value.as_deref().expect("a value")).expect("JSON");
        let number = |field: &str| value["source"][field].as_u64().expect("a number");
        assert_eq!(number("seq"), seq, "{what}");
        let is_streamed = value["source"]["snapshot"] == "false";
        let place = (number("commit_lsn"), u8::from(is_streamed));
        assert!(place >= last, "{what}: {value} after {last:?}");
        last = place;
        match value["op"].as_str() {
            // Perhaps of a row that the interrupted attempt had not come to.
            Some("d") => {
                table.remove(&value["before"]["id"].as_u64());
            }
            _ => {
                table.insert(value["after"]["id"].as_u64());
            }
        }
    }
    let expected: BTreeSet<_> = history.table(u64::MAX).into_iter().map(Some).collect();
    assert_eq!(table, expected, "{what}");
}

#[test]
fn a_copy_that_dies_at_any_step_ends_with_the_table() {
    let base = clock::now_ms() as u64;
    for seed in base..base + 60 {
        let history = History::random(&mut StdRng::seed_from_u64(seed));
        for fault in [Fault::Before, Fault::After] {
            for step in 0.. {
                let what = format!("seed {seed}, {fault:?} step {step}");
                let mut random = StdRng::seed_from_u64(seed ^ step);
                let (log, mut point) = (Memory::default(), 0);
                log.fail_at(step, fault);
                if live(&log, &history, &mut point, &mut random).is_err() {
                    live(&log, &history, &mut point, &mut random)
                        .unwrap_or_else(|error| panic!("{what}: {error}"));
                }
                assert_converged(&log.committed(), 1, BTreeSet::new(), &history, &what);
                let copied = last_record(&log).tables.get(&item()).cloned();
                assert!(matches!(copied, Some(Existing::Copied { .. })), "{what}: {copied:?}");
                if !log.has_failed() {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_copy_that_dies_again_and_again_ends_with_the_table() {
    let base = clock::now_ms() as u64;
    for seed in base..base + 200 {
        let mut random = StdRng::seed_from_u64(seed);
        let history = History::random(&mut random);
        let (log, mut point) = (Memory::default(), 0);
        for _ in 0..12 {
            let fault = if random.random_bool(0.5) { Fault::Before } else { Fault::After };
            log.fail_at(random.random_range(0..8), fault);
            let _ = live(&log, &history, &mut point, &mut random);
        }
        log.fail_at(u64::MAX, Fault::Before);
        let what = format!("seed {seed}");
        live(&log, &history, &mut point, &mut random).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_converged(&log.committed(), 1, BTreeSet::new(), &history, &what);
    }
}

/// A log whose topic holds keys that the table lost while nobody followed it, and lacks others; progress says that the
/// table is in doubt, in a second epoch.
fn after_a_gap(history: &History, random: &mut StdRng) -> (Memory, BTreeSet<Option<u64>>) {
    let log = Memory::default();
    let mut script = script::Script::default();
    script.transaction(random.random_range(0..30));
    let (mut first, _) = pipeline(&log, limits());
    first.on_chunk(&script.messages_from(Lsn::ZERO).concat()).expect("no fault");
    first.drain().expect("no fault");
    let mut record = last_record(&log);
    let seq = Seq::new(2, 0).expect("in range");
    (record.epoch, record.seq, record.position) = (2, seq.get(), Lsn(1_000));
    record.tables.insert(item(), Existing::Doubtful);
    log.writer().commit(&record.encode()).expect("no fault");
    let known = log.committed().into_iter().map(|stored| {
        let value: Value =
            serde_json::from_slice(stored.value.as_deref().expect("a row")).expect("JSON");
        value["after"]["id"].as_u64()
    });
    let known: BTreeSet<_> = known.collect();
    assert!(history.before.len() < 20, "fewer than the topic may hold");
    (log, known)
}

#[test]
fn a_table_read_again_after_a_gap_ends_with_the_table_wherever_the_reader_dies() {
    let base = clock::now_ms() as u64;
    let mut vanished = 0;
    for seed in base..base + 60 {
        let history = History::random(&mut StdRng::seed_from_u64(seed));
        for fault in [Fault::Before, Fault::After] {
            for step in 0.. {
                let what = format!("seed {seed}, {fault:?} step {step}");
                let mut random = StdRng::seed_from_u64(seed ^ step);
                let (log, known) = after_a_gap(&history, &mut StdRng::seed_from_u64(seed));
                let before = log.committed().len();
                let mut point = 0;
                log.fail_at(step, fault);
                if live(&log, &history, &mut point, &mut random).is_err() {
                    live(&log, &history, &mut point, &mut random)
                        .unwrap_or_else(|error| panic!("{what}: {error}"));
                }
                vanished +=
                    known.iter().flatten().filter(|id| !history.before.contains(id)).count();
                assert_converged(&log.committed()[before..], 2, known, &history, &what);
                let copied = last_record(&log).tables.get(&item()).cloned();
                assert!(matches!(copied, Some(Existing::Copied { .. })), "{what}: {copied:?}");
                if !log.has_failed() {
                    break;
                }
            }
        }
    }
    assert!(vanished > 0, "no key had vanished");
}

#[test]
fn a_copy_whose_point_the_stream_has_passed_is_refused() {
    let (inserted, deleted) = (vec![1], vec![]);
    let first = Transaction { commit_lsn: 1_000, end_lsn: 1_048, inserted, deleted };
    let second =
        Transaction { commit_lsn: 1_100, end_lsn: 1_148, inserted: vec![], deleted: vec![1] };
    let history = History { before: BTreeSet::new(), transactions: vec![first, second] };
    let log = Memory::default();
    let (pipeline, _) = pipeline(&log, limits());
    let (sender, receiver) = queue(1 << 20);
    sender.push(Input::Chunk(Bytes::from(history.messages_from(Lsn::ZERO).concat())));
    // At its point the row is still there; written now, it would be there for ever.
    let late = order(&log, &history, 1_048, true, &mut StdRng::seed_from_u64(1));
    sender.push(Input::Copy(Box::new(late)));
    drop(sender);
    let refused = pipeline.run(&receiver, &AtomicBool::new(false)).expect_err("too late");
    assert!(matches!(refused, Error::Snapshot(snapshot::Error::Passed { .. })), "{refused:?}");
    for stored in log.committed() {
        let value: Value =
            serde_json::from_slice(stored.value.as_deref().expect("a value")).expect("JSON");
        assert_ne!(value["op"], "r", "a row was written behind its delete");
    }
}
