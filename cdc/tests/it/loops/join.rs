//! Tables that join in the loop: a scripted server with two slots, and a reader that dies at every step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tailwater_cdc::Error;
use tailwater_cdc::capture::{Capture, SourceName};
use tailwater_cdc::copies::{Due, Existing};
use tailwater_cdc::pgoutput::{RelationColumn, RelationMessage, ReplicaIdentity};
use tailwater_cdc::pipeline::Pipeline;
use tailwater_cdc::progress::{Progress, Record};
use tailwater_cdc::publish::memory::{Fault, Memory, Stored, Writer};
use tailwater_cdc::publish::past::{Extent, Past, PastRecord};
use tailwater_cdc::publish::{self, Publisher};
use tailwater_cdc::snapshot::{Join, Order, Ordered, Rows};
use tailwater_cdc::stream::{Input, Sender, queue};
use tailwater_runtime::clock;
use tailwater_topics_contract::{From, Lsn, Registrations, TableName, TopicName};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{last_record, limits};
use crate::{script, wire};

/// The table that the stream always has, and the one that joins.
const TABLES: [(u32, &str); 2] = [(7, "item"), (8, "late")];
const LATE: usize = 1;

/// A change: which table, whether the row comes or goes, which row.
type Change = (usize, bool, u64);

struct Transaction {
    commit_lsn: u64,
    end_lsn: u64,
    changes: Vec<Change>,
}

/// What happens in a database, in order.
struct History(Vec<Transaction>);

impl History {
    fn random(random: &mut StdRng) -> Self {
        let mut tables = [BTreeSet::new(), BTreeSet::new()];
        let mut transactions = Vec::new();
        let mut at = 1_000;
        for _ in 0..random.random_range(2..12) {
            let mut changes = Vec::new();
            for _ in 0..random.random_range(0..7) {
                let (table, id) = (random.random_range(0..2), random.random_range(0..12));
                let comes = !tables[table].remove(&id);
                if comes {
                    tables[table].insert(id);
                }
                changes.push((table, comes, id));
            }
            transactions.push(Transaction { commit_lsn: at, end_lsn: at + 48, changes });
            // The next one may begin where this one ends.
            at += 48 + random.random_range(0..2) * 100;
        }
        Self(transactions)
    }

    /// A table as it was when so many transactions had committed.
    fn table(&self, table: usize, count: usize) -> BTreeSet<u64> {
        let mut rows = BTreeSet::new();
        for (_, comes, id) in self.changes(table, count) {
            if comes {
                rows.insert(id);
            } else {
                rows.remove(&id);
            }
        }
        rows
    }

    fn changes(&self, table: usize, count: usize) -> impl Iterator<Item = Change> {
        let changes = self.0[..count].iter().flat_map(|transaction| &transaction.changes);
        changes.filter(move |change| change.0 == table).copied()
    }

    /// Where the WAL ends when so many transactions have committed.
    fn end(&self, count: usize) -> u64 {
        count.checked_sub(1).map_or(1_000, |last| self.0[last].end_lsn)
    }

    fn messages(&self, at: usize) -> Vec<Vec<u8>> {
        let transaction = &self.0[at];
        let mut out = Vec::new();
        let mut say = |body: &[u8]| out.push(script::data(transaction.end_lsn, body));
        say(&wire::begin(transaction.commit_lsn, 5));
        for (table, comes, id) in &transaction.changes {
            let row = [wire::text(&id.to_string())];
            let oid = TABLES[*table].0;
            say(&if *comes { wire::insert(oid, &row) } else { wire::delete(oid, b'K', &row) });
        }
        say(&wire::commit(transaction.commit_lsn, transaction.end_lsn));
        out
    }
}

/// One slot that is read: what it has not sent yet of what has committed.
struct Walsender {
    sent: VecDeque<Vec<u8>>,
    next: usize,
}

impl Walsender {
    fn new(history: &History, position: Lsn) -> Self {
        let columns = [("id", 20, true)];
        let relation = |(oid, name): (u32, &str)| {
            script::data(0, &wire::relation(oid, "public", name, b'd', &columns))
        };
        let next = history.0.partition_point(|t| t.commit_lsn < position.0);
        Self { sent: TABLES.map(relation).into(), next }
    }

    /// Sends some messages on, of the transactions that have committed.
    fn send(&mut self, history: &History, count: usize, queue: &Sender, random: &mut StdRng) {
        while self.next < count {
            self.sent.extend(history.messages(self.next));
            self.next += 1;
        }
        if self.sent.is_empty() && random.random_bool(0.5) {
            self.sent.push_back(script::keepalive(history.end(count), false));
        }
        let size = random.random_range(0..=self.sent.len().min(9));
        let chunk: Vec<u8> = self.sent.drain(..size).flatten().collect();
        if !chunk.is_empty() {
            queue.push(Input::Chunk(Bytes::from(chunk)));
        }
    }
}

fn name(table: usize) -> TableName {
    format!("public.{}", TABLES[table].1).parse().expect("a name")
}

fn topic(table: usize) -> TopicName {
    format!("{}s.cdc", TABLES[table].1).parse().expect("a name")
}

fn registrations() -> Registrations {
    let mut registrations = script::registrations();
    let mut late = registrations.topics[&topic(0)].clone();
    (late.spec.name, late.spec.from) = (topic(LATE), From::Table(name(LATE)));
    registrations.topics.insert(topic(LATE), late);
    registrations
}

/// A log with the progress of a reader that knows the one table, and perhaps the other.
fn log(is_known: bool) -> Memory {
    let log = Memory::default();
    let mut record = last_record(&log);
    for table in 0..if is_known { 2 } else { 1 } {
        let copied = Existing::Copied { at: Lsn(1_000), rows: 0, asked_ms: 0, topic: None };
        record.tables.insert(name(table), copied);
    }
    log.writer().commit(&record.encode()).expect("no fault");
    log
}

fn pipeline(log: &Memory) -> Pipeline<Writer> {
    pipeline_of(log, &registrations())
}

fn pipeline_of(log: &Memory, registered: &Registrations) -> Pipeline<Writer> {
    let writer = log.writer();
    let record = last_record(log);
    let source = SourceName {
        pipeline: record.pipeline.clone(),
        database: "shop".to_owned(),
        mask_key: None,
    };
    let capture = Capture::new(source, registered, record.resume()).expect("it resumes");
    Pipeline::new(capture, writer, Progress::new(record), limits(), clock::now_ms)
}

/// The one partition of each topic in the log in memory.
#[derive(Debug)]
struct TopicPast {
    log: Memory,
    topic: TopicName,
    at: usize,
    end: usize,
}

impl TopicPast {
    fn records(&self, topic: &TopicName) -> Vec<Stored> {
        let committed = self.log.committed().into_iter();
        committed.filter(|stored| stored.topic == topic.as_str()).collect()
    }
}

impl Past for TopicPast {
    fn extents(&mut self, topic: &TopicName) -> Result<Vec<Extent>, publish::Error> {
        Ok(vec![Extent { first: 0, next: self.records(topic).len() as i64 }])
    }

    fn begin(&mut self, topic: &TopicName, _: i32, extent: Extent) -> Result<(), publish::Error> {
        (self.at, self.end) = (extent.first as usize, extent.next as usize);
        self.topic = topic.clone();
        Ok(())
    }

    fn read(&mut self, on: &mut dyn FnMut(PastRecord<'_>)) -> Result<bool, publish::Error> {
        let end = (self.at + 3).min(self.end);
        for (at, stored) in self.records(&self.topic).iter().enumerate().take(end).skip(self.at) {
            let (key, value) = (stored.key.as_deref(), stored.value.as_deref());
            on(PastRecord { offset: at as i64, key, value });
        }
        self.at = end;
        Ok(self.at < self.end)
    }
}

/// What is to be handed over of a table's rows.
fn rows(table: &BTreeSet<u64>, random: &mut StdRng) -> (VecDeque<Rows>, usize) {
    let (mut all, mut ranges) = (VecDeque::new(), 0);
    let ids: Vec<u64> = table.iter().copied().collect();
    for range in ids.chunks(random.random_range(1..=5)) {
        for chunk in range.chunks(random.random_range(1..=3)) {
            let lines = chunk.iter().map(|id| script::message(b'd', format!("{id}\n").as_bytes()));
            let chunk = Bytes::from(lines.collect::<Vec<_>>().concat());
            all.push_back(Rows::Chunk { table: 0, chunk });
        }
        all.push_back(Rows::Range { table: 0, bytes: 1 });
        ranges += 1;
    }
    (all, ranges)
}

fn ordered(due: Due, ranges: usize) -> Ordered {
    let column = RelationColumn {
        is_identity: true,
        name: "id".to_owned(),
        type_oid: 20,
        type_modifier: -1,
        type_name: None,
    };
    let relation = RelationMessage {
        oid: TABLES[LATE].0,
        schema: "public".to_owned(),
        name: TABLES[LATE].1.to_owned(),
        identity: ReplicaIdentity::Default,
        columns: vec![column],
    };
    Ordered { relation, due, ranges, bytes: ranges as u64 }
}

/// What the session of a reader does about the table that joins.
enum Session {
    /// Nothing yet.
    Idle,
    /// Another slot is read, and the table is to leave the stream.
    Leaving(Walsender, Sender, oneshot::Receiver<()>),
    /// Its rows are handed over.
    Copying(Walsender, Sender, Sender<Rows>, VecDeque<Rows>),
}

struct Life<'h> {
    history: &'h History,
    /// How many transactions have committed.
    count: usize,
    log: Memory,
    /// Whether the table is read once more although it is copied.
    asked: bool,
}

impl Life<'_> {
    /// Whether the table has yet to be copied, and what for.
    fn due(&self, record: &Record) -> Option<Due> {
        let asked_ms = i64::from(self.asked);
        match record.tables.get(&name(LATE)) {
            Some(Existing::Copied { asked_ms: answered, .. }) if *answered >= asked_ms => None,
            known => Some(Due { table: name(LATE), asked_ms, is_first: known.is_none() }),
        }
    }

    /// One life of a reader: until everything has happened and the table has joined, or to the fault.
    fn live(&mut self, random: &mut StdRng) -> Result<(), Error> {
        let record = last_record(&self.log);
        let mut pipeline = pipeline(&self.log);
        let (sender, receiver) = queue(1 << 20);
        let mut stream = Walsender::new(self.history, record.position);
        let mut session = Session::Idle;
        let joined = CancellationToken::new();
        for _ in 0..100_000 {
            if self.count < self.history.0.len() && random.random_bool(0.3) {
                self.count += 1;
            }
            if random.random_bool(0.6) {
                stream.send(self.history, self.count, &sender, random);
            }
            session = self.step(session, &sender, &joined, random);
            // So that nobody waits.
            sender.push(Input::Wake);
            pipeline.turn(&receiver)?;
            if random.random_bool(0.1) {
                pipeline.on_quiet()?;
            }
            let last = last_record(&self.log);
            let is_at_end = last.position.0 >= self.history.end(self.history.0.len());
            if joined.is_cancelled() && self.count == self.history.0.len() {
                pipeline.drain()?;
                if is_at_end && last.joining.is_none() && last.in_flight.is_none() {
                    assert_eq!(self.due(&last), None, "it joined without its rows");
                    return Ok(());
                }
            }
        }
        panic!("it does not come to an end: {:?}", last_record(&self.log));
    }

    fn step(
        &self,
        session: Session,
        sender: &Sender,
        joined: &CancellationToken,
        random: &mut StdRng,
    ) -> Session {
        let last = last_record(&self.log);
        match session {
            Session::Idle if random.random_bool(0.1) => {
                let (changes, receiver) = queue(1 << 20);
                let (begun, has_begun) = oneshot::channel();
                let tables = BTreeSet::from([name(LATE)]);
                let until_joined = joined.clone().drop_guard();
                let join = Join { tables, changes: receiver, begun, until_joined };
                sender.push(Input::Join(Box::new(join)));
                // The copied slot stands where the pipeline's is confirmed, which is at most this.
                let slot = Walsender::new(self.history, last.needs_from());
                Session::Leaving(slot, changes, has_begun)
            }
            Session::Leaving(mut slot, changes, mut has_begun) => {
                if random.random_bool(0.5) {
                    slot.send(self.history, self.count, &changes, random);
                }
                if has_begun.try_recv().is_err() {
                    return Session::Leaving(slot, changes, has_begun);
                }
                let (rows_sender, receiver) = queue(1 << 20);
                let mut all = VecDeque::new();
                let order = self.due(&last).map(|due| {
                    let table = self.history.table(LATE, self.count);
                    let (rows, ranges) = rows(&table, random);
                    all = rows;
                    let past =
                        TopicPast { log: self.log.clone(), topic: topic(LATE), at: 0, end: 0 };
                    Box::new(Order {
                        at: Lsn(self.history.end(self.count)),
                        taken_ms: 0,
                        tables: vec![ordered(due, ranges)],
                        rows: receiver,
                        past: Box::new(past),
                    })
                });
                sender.push(Input::JoinCopy(order));
                Session::Copying(slot, changes, rows_sender, all)
            }
            Session::Copying(mut slot, changes, rows_sender, mut all) => {
                if random.random_bool(0.5) {
                    slot.send(self.history, self.count, &changes, random);
                }
                if random.random_bool(0.4)
                    && let Some(rows) = all.pop_front()
                {
                    rows_sender.push(rows);
                }
                Session::Copying(slot, changes, rows_sender, all)
            }
            idle @ Session::Idle => idle,
        }
    }

    /// Every change of both tables is there once, in the order of commits; the copied rows stand at their point; numbers
    /// are dense; and the topics fold to the tables. Answers how many changes of the other table stand within a copy.
    fn assert_exact(&self, what: &str) -> usize {
        let (mut within, mut copying) = (0, None);
        let mut found: BTreeMap<usize, Vec<Change>> = BTreeMap::new();
        let mut folded = [BTreeSet::new(), BTreeSet::new()];
        let mut last = [(0, false, 0); 2];
        for (record, seq) in self.log.committed().iter().zip((1_u64 << 44) + 1..) {
            let table = usize::from(record.topic == topic(LATE).as_str());
            let value: Value =
                serde_json::from_slice(record.value.as_deref().expect("a value")).expect("JSON");
            let number = |field: &str| value["source"][field].as_u64().expect("a number");
            assert_eq!(number("seq"), seq, "{what}");
            let is_streamed = value["source"]["snapshot"] == "false";
            let place = (number("commit_lsn"), is_streamed, number("ordinal"));
            let is_later = if is_streamed { place > last[table] } else { place.0 >= last[table].0 };
            assert!(is_later, "{what}: {value} after {:?}", last[table]);
            last[table] = place;
            let comes = value["op"] != "d";
            let image = if comes { &value["after"] } else { &value["before"] };
            let id = image["id"].as_u64().expect("an id");
            if comes {
                folded[table].insert(id);
            } else {
                folded[table].remove(&id);
            }
            match (is_streamed, table) {
                (true, table) => {
                    found.entry(table).or_default().push((table, comes, id));
                    within += usize::from(table == 0 && copying.is_some_and(|at| at < place.0));
                }
                (false, _) => copying = Some(place.0),
            }
        }
        let all = self.history.0.len();
        for (table, folded) in folded.iter().enumerate() {
            let expected: Vec<Change> = self.history.changes(table, all).collect();
            assert_eq!(found.remove(&table).unwrap_or_default(), expected, "{what}");
            assert_eq!(*folded, self.history.table(table, all), "{what}");
        }
        within
    }
}

#[test]
fn a_table_that_joins_misses_and_repeats_no_change_wherever_the_reader_dies() {
    let base = clock::now_ms() as u64;
    let mut within = 0;
    for seed in base..base + 40 {
        let history = History::random(&mut StdRng::seed_from_u64(seed));
        for fault in [Fault::Before, Fault::After] {
            for step in 0.. {
                let what = format!("seed {seed}, {fault:?} step {step}");
                let mut random = StdRng::seed_from_u64(seed ^ step);
                let asked = random.random_bool(0.3);
                let log = log(asked);
                let mut life = Life { history: &history, count: 0, log: log.clone(), asked };
                log.fail_at(step, fault);
                if life.live(&mut random).is_err() {
                    life.live(&mut random).unwrap_or_else(|error| panic!("{what}: {error}"));
                }
                within += life.assert_exact(&what);
                if !log.has_failed() {
                    break;
                }
            }
        }
    }
    assert!(within > 0, "the stream never went on beside a copy");
}

#[test]
fn a_table_that_joins_again_and_again_misses_and_repeats_no_change() {
    let base = clock::now_ms() as u64;
    for seed in base..base + 150 {
        let mut random = StdRng::seed_from_u64(seed);
        let history = History::random(&mut random);
        let asked = seed % 3 == 0;
        let log = log(asked);
        let mut life = Life { history: &history, count: 0, log: log.clone(), asked };
        for _ in 0..12 {
            let fault = if random.random_bool(0.5) { Fault::Before } else { Fault::After };
            log.fail_at(random.random_range(0..9), fault);
            let _ = life.live(&mut random);
        }
        log.fail_at(u64::MAX, Fault::Before);
        let what = format!("seed {seed}");
        life.live(&mut random).unwrap_or_else(|error| panic!("{what}: {error}"));
        life.assert_exact(&what);
    }
}

/// Nothing of the stream comes between the two, so that it takes neither by itself.
#[test]
fn a_table_that_joins_a_quiet_stream_joins_as_it_was_registered_a_moment_ago() {
    let log = log(false);
    let mut pipeline = pipeline_of(&log, &script::registrations());
    let (sender, receiver) = queue(1 << 20);
    let (_changes, changes) = queue(1 << 20);
    let (begun, mut has_begun) = oneshot::channel();
    let joined = CancellationToken::new();
    let until_joined = joined.clone().drop_guard();
    let tables = BTreeSet::from([name(LATE)]);
    sender.push(Input::Registrations(registrations()));
    sender.push(Input::Join(Box::new(Join { tables, changes, begun, until_joined })));
    let mut turns = |count| {
        for _ in 0..count {
            sender.push(Input::Wake);
            pipeline.turn(&receiver).expect("no fault");
        }
    };
    turns(3);
    has_begun.try_recv().expect("it has left the stream");
    let (rows, receiver_of_rows) = queue(1 << 20);
    let chunk = Bytes::from(script::message(b'd', b"7\n"));
    rows.push(Rows::Chunk { table: 0, chunk });
    rows.push(Rows::Range { table: 0, bytes: 1 });
    let due = Due { table: name(LATE), asked_ms: 0, is_first: true };
    sender.push(Input::JoinCopy(Some(Box::new(Order {
        at: Lsn(1_000),
        taken_ms: 0,
        tables: vec![ordered(due, 1)],
        rows: receiver_of_rows,
        past: Box::new(TopicPast { log: log.clone(), topic: topic(LATE), at: 0, end: 0 }),
    }))));
    turns(10);
    assert!(joined.is_cancelled());
    let known = last_record(&log).tables.get(&name(LATE)).cloned();
    assert!(matches!(known, Some(Existing::Copied { rows: 1, .. })), "{known:?}");
    let copied = log.committed().into_iter().filter(|stored| stored.topic == topic(LATE).as_str());
    assert_eq!(copied.count(), 1);
}

#[test]
fn a_stream_without_a_pause_lets_tables_leave_between_two_transactions() {
    let mut script = script::Script::default();
    script.transaction(3);
    script.transaction(3);
    let log = log(true);
    let mut pipeline = pipeline(&log);
    let (sender, receiver) = queue(1 << 20);
    let (_changes, changes) = queue(1 << 20);
    let (begun, mut has_begun) = oneshot::channel();
    let until_joined = CancellationToken::new().drop_guard();
    let tables = BTreeSet::from([name(LATE)]);
    // No chunk ends where no transaction is open.
    let messages = script.messages_from(Lsn(1_000));
    sender.push(Input::Chunk(Bytes::from(messages[..3].concat())));
    sender.push(Input::Join(Box::new(Join { tables, changes, begun, until_joined })));
    sender.push(Input::Chunk(Bytes::from(messages[3..8].concat())));
    for _ in 0..4 {
        pipeline.turn(&receiver).expect("no fault");
    }
    assert!(has_begun.try_recv().is_ok(), "they wait for a moment that never comes");
}
