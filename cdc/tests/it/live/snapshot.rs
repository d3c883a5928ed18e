//! The first copy of existing rows, between a real Postgres and a real Kafka.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tailwater_cdc::copies::Existing;
use tailwater_cdc::crash::Point;
use tailwater_cdc::preflight::{self, Declared};
use tailwater_cdc::progress;
use tailwater_runtime::{Secret, clock};
use tailwater_topics_contract::{Lsn, Mask, TableName, TopicName, Values};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::live::{PATIENCE, Record, World};
use crate::types::corpus::{SETUP, TYPES, Type};

/// What a consumer knows after it has read everything: the last row of each key.
pub(super) type Fold = BTreeMap<String, Value>;

pub(super) fn fold(records: &[Record]) -> Fold {
    let mut rows = Fold::new();
    for record in records {
        let key = String::from_utf8(record.key.clone().expect("a key")).expect("text");
        match record.json() {
            Some(value) if value["op"] == "t" => rows.clear(),
            Some(value) if value["op"] == "d" => {
                rows.remove(&key);
            }
            Some(value) => {
                rows.insert(key, value["after"].clone());
            }
            None => {
                rows.remove(&key);
            }
        }
    }
    rows
}

/// The table as its topic should fold.
pub(super) async fn table(world: &World, from: &str, key: &str) -> Fold {
    let sql = format!(
        "SELECT json_build_object('{key}', t.\"{key}\")::text, to_json(t)::text FROM {from} t"
    );
    let rows = world.client.query(&sql, &[]).await.expect("rows");
    let row = |row: &tokio_postgres::Row| {
        let key: Value = serde_json::from_str(row.get(0)).expect("JSON");
        (key.to_string(), serde_json::from_str(row.get(1)).expect("JSON"))
    };
    rows.iter().map(row).collect()
}

pub(super) fn assert_dense(mut seqs: Vec<u64>, what: &str) {
    seqs.sort_unstable();
    let first = (1_u64 << 44) + 1;
    let hole = seqs.iter().zip(first..).find(|(seq, expected)| **seq != *expected);
    assert_eq!(hole, None, "{what}: (found, expected)");
}

pub(super) fn assert_same(found: &Fold, expected: &Fold, what: &str) {
    let differs = |(key, row): &(&String, &Value)| found.get(*key) != Some(*row);
    let wrong = expected.iter().find(differs).map(|(key, row)| (key, row, found.get(key)));
    assert_eq!(wrong, None, "{what}: (key, table, Kafka)");
    let extra = found.keys().find(|key| !expected.contains_key(*key));
    assert_eq!(extra, None, "{what}: a key that the table does not have");
}

pub(super) async fn wait_for_copies(world: &World, count: usize) -> progress::Record {
    let begun = Instant::now();
    // One that a topic takes again is copied again.
    let is_settled = |(_, known): &(&TableName, &Existing)| **known != Existing::Doubtful;
    loop {
        if let Some(record) = world.progress().await
            && record.tables.iter().filter(is_settled).count() >= count
            && record.copying.is_none()
            && record.joining.is_none()
        {
            return record;
        }
        assert!(begun.elapsed() < PATIENCE, "the copy takes too long");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until some rows of a copy are in Kafka; a moment later all of them may be.
pub(super) async fn wait_for_a_part(world: &World) {
    let begun = Instant::now();
    let has_rows = |record: progress::Record| record.copying.is_some_and(|copy| copy.rows > 0);
    while !world.progress().await.is_some_and(has_rows) {
        assert!(begun.elapsed() < PATIENCE, "no copy begins");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until everything that is committed now is in Kafka. A captured row, because the position of an idle stream is
/// written every ten seconds only.
pub(super) async fn wait_for_all(world: &World) {
    let end: String = world.value("SELECT pg_current_wal_insert_lsn()::text").await;
    let end: Lsn = end.parse().expect("an LSN");
    world
        .sql("INSERT INTO item VALUES (-1, 'end') ON CONFLICT (id) DO UPDATE SET body = 'end'")
        .await;
    let begun = Instant::now();
    while world.progress().await.is_none_or(|record| record.needs_from() <= end) {
        assert!(begun.elapsed() < PATIENCE * 2, "the reader does not catch up");
        sleep(Duration::from_millis(100)).await;
    }
}

fn ops(records: &[Record]) -> Vec<String> {
    records.iter().map(Record::op).collect()
}

impl Record {
    fn op(&self) -> String {
        let op = self.json().map(|value| value["op"].as_str().expect("a text").to_owned());
        op.unwrap_or_else(|| "tombstone".to_owned())
    }
}

// ---- what is copied ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_there_are_copied_ahead_of_changes() {
    let world = World::new().await;
    world
        .sql(
            r"INSERT INTO item VALUES (1, 'a'), (2, NULL), (3, E'tab\t line\n back\\slash \\N'), (4, '')",
        )
        .await;
    let reader = world.start_reader().await;
    world.sql("UPDATE item SET body = 'b' WHERE id = 1").await;
    let records = world.read_until(&world.changes(), 5).await;
    reader.stop().await.expect("it drains");
    assert_eq!(ops(&records), ["r", "r", "r", "r", "u"]);
    let first = records[0].json().expect("a row");
    assert_eq!(first["source"]["snapshot"], "true");
    assert_eq!(first["before"], Value::Null);
    assert_eq!(records[4].json().expect("a change")["source"]["snapshot"], "false");
    assert_eq!(records[2].json().expect("a row")["after"]["body"], "tab\t line\n back\\slash \\N");
    assert_same(&fold(&records), &table(&world, "item", "id").await, "after a copy");
    assert_dense(records.iter().map(Record::seq).collect(), "copy and change");
    let progress = world.progress().await.expect("there is progress");
    let item: TableName = "public.item".parse().expect("a name");
    let at: Lsn = Lsn(first["source"]["commit_lsn"].as_u64().expect("an LSN"));
    assert_eq!(
        progress.tables.get(&item),
        Some(&Existing::Copied { at, rows: 4, asked_ms: 0, topic: Some(world.changes()) })
    );
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_table_is_copied_as_it_is_streamed() {
    let mut world = World::new().await;
    world
        .statements(
            r#"CREATE TABLE empty (id int PRIMARY KEY, v text);
               CREATE TABLE "Odd ""name"". here; --" ("Key é" int PRIMARY KEY, "a "" b" text);
               INSERT INTO "Odd ""name"". here; --" VALUES (1, 'x');
               CREATE TABLE part (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
               CREATE TABLE part_low (v text, id int NOT NULL) ;
               ALTER TABLE part ATTACH PARTITION part_low FOR VALUES FROM (0) TO (10);
               CREATE TABLE part_high PARTITION OF part FOR VALUES FROM (10) TO (100) PARTITION BY RANGE (id);
               CREATE TABLE part_high_a PARTITION OF part_high FOR VALUES FROM (10) TO (50);
               INSERT INTO part SELECT g, 'p' || g FROM generate_series(5, 14) g;
               CREATE TABLE hollow (id int PRIMARY KEY) PARTITION BY RANGE (id);
               CREATE TABLE parent (id int PRIMARY KEY, v text);
               CREATE TABLE heir (w text) INHERITS (parent);
               INSERT INTO parent VALUES (1, 'own');
               INSERT INTO heir VALUES (2, 'of the heir', 'w');
               CREATE TABLE dropped (gone int, id int PRIMARY KEY, v text, twice text GENERATED ALWAYS AS (v || v) STORED);
               ALTER TABLE dropped DROP COLUMN gone;
               INSERT INTO dropped VALUES (1, 'x');
               CREATE TABLE listed (id int PRIMARY KEY, v text, secret text);
               INSERT INTO listed VALUES (1, 'a', 's'), (2, 'b', 's'), (3, 'c', 's')"#,
        )
        .await;
    let plain = ["empty", "part", "hollow", "dropped"];
    for name in plain {
        world.capture(&format!("public.{name}"), "id", name, name).await;
    }
    world
        .capture(
            r#"public."Odd ""name"". here; --""#,
            "Key é",
            "odd",
            r#""Odd ""name"". here; --""#,
        )
        .await;
    world.capture("public.parent", "id", "parent", "ONLY parent").await;
    // Before 15 a publication knows neither columns nor conditions.
    let is_selective = world.version().await >= 150_000;
    let listed = if is_selective { "listed (id, v) WHERE (id <> 2)" } else { "listed" };
    world.capture("public.listed", "id", "listed", listed).await;
    let reader = world.start_reader().await;
    wait_for_copies(&world, 8).await;
    // The same rows once more, streamed.
    let before = |topic: &str| World::read_all(&world.topic(topic));
    let copied: BTreeMap<&str, Fold> = ["part", "dropped", "odd", "parent", "listed"]
        .map(|topic| (topic, fold(&before(topic))))
        .into();
    assert!(before("empty").is_empty() && before("hollow").is_empty());
    world
        .statements(
            r#"UPDATE part SET v = v; UPDATE dropped SET v = v; UPDATE "Odd ""name"". here; --" SET "a "" b" = "a "" b";
               UPDATE ONLY parent SET v = v; UPDATE heir SET v = v; UPDATE listed SET v = v"#,
        )
        .await;
    wait_for_all(&world).await;
    reader.stop().await.expect("it drains");
    for (topic, copied) in &copied {
        let all = World::read_all(&world.topic(topic));
        let streamed: Vec<Record> = all
            .into_iter()
            .filter(|record| record.json().is_some_and(|v| v["op"] == "u"))
            .collect();
        assert!(!copied.is_empty(), "{topic}");
        assert_eq!(&fold(&streamed), copied, "{topic}: streamed and copied");
    }
    assert_eq!(copied["part"].len(), 10);
    assert_eq!(copied["parent"].values().collect::<Vec<_>>(), [&json!({"id": 1, "v": "own"})]);
    let listed = if is_selective { 2 } else { 3 };
    assert_eq!(copied["listed"].len(), listed, "the row filter holds");
    assert_eq!(copied["dropped"].values().collect::<Vec<_>>(), [&json!({"id": 1, "v": "x"})]);
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_is_copied_in_the_bytes_of_the_stream() {
    let mut world = World::new().await;
    // One of the values is its name.
    world.statements("CREATE TABLE mark (id int)").await;
    world.statements(SETUP).await;
    let version = world.version().await;
    let column = |(at, kind): (usize, &Type)| format!("v{at} {}", kind.name_on(version));
    let columns: Vec<String> = TYPES.iter().enumerate().map(column).collect();
    let mut sql = format!(
        "CREATE TABLE every (id bigint PRIMARY KEY, {}); ALTER TABLE every REPLICA IDENTITY FULL;",
        columns.join(", ")
    );
    let most = TYPES.iter().map(|kind| kind.literals.len()).max().unwrap_or_default();
    for id in 0..=most {
        let value = |kind: &Type| match kind.literals.get(id) {
            None => "NULL".to_owned(),
            Some(literal) => match literal.strip_prefix('=') {
                Some(expression) => expression.to_owned(),
                None => format!("'{}'", literal.replace('\'', "''")),
            },
        };
        let values: Vec<String> = TYPES.iter().map(value).collect();
        writeln!(sql, "INSERT INTO every VALUES ({id}, {});", values.join(", ")).expect("fits");
    }
    world.statements(&sql).await;
    world.capture("public.every", "id", "every", "every").await;
    let reader = world.start_reader().await;
    wait_for_copies(&world, 2).await;
    world.sql("UPDATE every SET id = id").await;
    wait_for_all(&world).await;
    reader.stop().await.expect("it drains");
    let records = World::read_all(&world.topic("every"));
    let (copied, streamed) = records.split_at(most + 1);
    assert_eq!(streamed.len(), copied.len());
    assert_eq!(
        world
            .progress()
            .await
            .expect("there is progress")
            .tables
            .get(&"public.every".parse().expect("a name"))
            .map(rows),
        Some(most as u64 + 1)
    );
    for (copied, streamed) in copied.iter().zip(streamed) {
        assert_eq!(copied.key, streamed.key);
        assert_eq!(after(copied), after(streamed));
    }
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn masks_and_debeziums_form_are_the_same_in_a_copy_as_in_the_stream() {
    const CANARY: &str = "canary-7f3a";
    let mut world = World::new().await;
    world.config.mask_key = Some(Secret::new("a key of the tests"));
    for (table, values) in [("readable", Values::Readable), ("debezium", Values::Debezium)] {
        world
            .statements(&format!(
                "CREATE TABLE {table} (id bigint PRIMARY KEY, email text, note text, secret jsonb, price numeric(9,2), at timestamptz);
                 ALTER TABLE {table} REPLICA IDENTITY FULL;
                 INSERT INTO {table} VALUES (1, '{CANARY}@x', 'ab{CANARY}', '\"{CANARY}\"', 12.5, '2026-01-02 03:04:05Z'), (2, NULL, NULL, NULL, NULL, NULL)"
            ))
            .await;
        world.capture(&format!("public.{table}"), "id", table, table).await;
        let name = world.topic(table);
        let topic = world.registrations.topics.get_mut(&name).expect("it is registered");
        topic.spec.values = values;
        let masks = [("email", Mask::Hmac), ("note", Mask::Truncate(4)), ("secret", Mask::Drop)];
        topic.spec.mask.extend(masks.map(|(column, mask)| (column.to_owned(), mask)));
    }
    let reader = world.start_reader().await;
    wait_for_copies(&world, 3).await;
    world.sql("UPDATE readable SET id = id; UPDATE debezium SET id = id").await;
    wait_for_all(&world).await;
    reader.stop().await.expect("it drains");
    for table in ["readable", "debezium"] {
        let records = World::read_all(&world.topic(table));
        assert_eq!(records.len(), 4, "{table}");
        for record in &records {
            let bytes = [record.key.clone(), record.value.clone()].map(Option::unwrap_or_default);
            let all = String::from_utf8(bytes.concat()).expect("text");
            assert!(!all.contains(CANARY) && !all.contains("secret"), "{table}: {all}");
        }
        let (copied, streamed) = records.split_at(2);
        for (copied, streamed) in copied.iter().zip(streamed) {
            assert_eq!(copied.json().expect("JSON")["op"], "r");
            assert_eq!((&copied.key, after(copied)), (&streamed.key, after(streamed)), "{table}");
        }
    }
    world.drop().await;
}

fn rows(existing: &Existing) -> u64 {
    match existing {
        Existing::Copied { rows, .. } => *rows,
        Existing::LeftOut | Existing::Doubtful => 0,
    }
}

/// The bytes of the row.
fn after(record: &Record) -> String {
    let value = String::from_utf8(record.value.clone().expect("a value")).expect("text");
    let (_, after) = value.split_once(r#","after":"#).expect("a row");
    let (after, _) = after.rsplit_once(r#","source":{"version":"#).expect("a source");
    after.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wide_rows_are_copied_in_bounded_memory() {
    let mut world = World::new().await;
    world.config.limits.queue_bytes = 1 << 20;
    // A hundred megabytes out of line behind one page.
    world
        .sql(
            "ALTER TABLE item ALTER COLUMN body SET STORAGE EXTERNAL;
             INSERT INTO item SELECT g, repeat('x', 900000) FROM generate_series(1, 110) g",
        )
        .await;
    let peak = peak_kib();
    let reader = world.start_reader().await;
    wait_for_copies(&world, 1).await;
    let grown = peak_kib() - peak;
    reader.stop().await.expect("it drains");
    let record = world.progress().await.expect("there is progress");
    let item: TableName = "public.item".parse().expect("a name");
    assert!(matches!(record.tables.get(&item), Some(Existing::Copied { rows: 110, .. })));
    assert_eq!(World::read_all(&world.changes()).len(), 110);
    assert!(grown < 120 << 10, "the copy took {grown} KiB");
    world.drop().await;
}

fn peak_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

// ---- what is not copied ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_now_leaves_rows_out_for_good() {
    let mut world = World::new().await;
    world.sql("INSERT INTO item VALUES (1, 'old')").await;
    world.config.from_now = true;
    let reader = world.start_reader().await;
    world.sql("INSERT INTO item VALUES (2, 'new')").await;
    world.read_until(&world.changes(), 1).await;
    reader.stop().await.expect("it drains");
    // Also for a start that does not say it again.
    world.config.from_now = false;
    let reader = world.start_reader().await;
    world.sql("INSERT INTO item VALUES (3, 'new')").await;
    let records = world.read_until(&world.changes(), 2).await;
    reader.stop().await.expect("it drains");
    assert_eq!(ops(&records), ["c", "c"]);
    assert_eq!(records[0].json().expect("a change")["after"]["id"], 2);
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_are_there_need_an_explicit_word() {
    let mut world = World::new().await;
    let event = |id: u32| {
        format!(
            "INSERT INTO shop.outbox (id, aggregate_type, aggregate_id, event_type, event_version, payload)
             VALUES ('018f0000-0000-7000-8000-{id:012}', 'shop', 's1', 'shop.opened', 1, '{{\"n\": {id}}}')"
        )
    };
    world.sql(&event(1)).await;
    world.sql("INSERT INTO item VALUES (1, 'old')").await;
    assert_eq!(world.fail().await.code(), "TW022");
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
    assert_eq!(world.count(slots).await, 0);
    world.config.events_from_now = true;
    let reader = world.start_reader().await;
    world.sql(&event(2)).await;
    let events = world.read_until(&world.events(), 1).await;
    assert_eq!(events[0].json().expect("an event")["n"], 2);
    assert_eq!(ops(&world.read_until(&world.changes(), 1).await), ["r"], "rows are copied");
    reader.stop().await.expect("it drains");
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_copied_is_found_before_the_start() {
    let mut world = World::new().await;
    let role = format!("checker_{}", crate::live::unique());
    world
        .sql(&format!(
            "CREATE ROLE {role} LOGIN REPLICATION;
             GRANT USAGE ON SCHEMA shop TO {role};
             CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE part_low PARTITION OF part FOR VALUES FROM (0) TO (10);
             GRANT SELECT ON part TO {role};
             ALTER TABLE item ENABLE ROW LEVEL SECURITY"
        ))
        .await;
    world.capture("public.part", "id", "part", "part").await;
    let owner = std::mem::replace(&mut world.config.postgres.user, role.clone());
    let codes = async |world: &World| {
        let declared = Declared::in_registrations(&world.registrations);
        let found = preflight::check(&world.config, &declared).await;
        let about = found.into_iter().filter(|f| f.code == "TW128" || f.code == "TW129");
        about.map(|f| (f.code, f.remedy)).collect::<BTreeSet<_>>()
    };
    let found = codes(&world).await;
    assert_eq!(
        found.iter().map(|(code, _)| *code).collect::<Vec<_>>(),
        ["TW128", "TW128", "TW129"]
    );
    for (_, remedy) in &found {
        world.sql(remedy.trim_matches('`')).await;
    }
    assert!(codes(&world).await.is_empty());
    world.config.postgres.user = owner;
    world.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_security_stops_a_copy_that_would_leave_rows_out() {
    let mut world = World::new().await;
    let role = format!("copier_{}", crate::live::unique());
    world
        .sql(&format!(
            "CREATE ROLE {role} LOGIN REPLICATION;
             GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role};
             GRANT USAGE ON SCHEMA shop TO {role};
             GRANT SELECT ON ALL TABLES IN SCHEMA shop TO {role};
             INSERT INTO item VALUES (1, 'a'), (2, 'b');
             ALTER TABLE item ENABLE ROW LEVEL SECURITY;
             CREATE POLICY first_only ON item USING (id = 1)"
        ))
        .await;
    let owner = std::mem::replace(&mut world.config.postgres.user, role.clone());
    let error = world.fail().await;
    assert_eq!(error.code(), "TW051", "{error:?}");
    assert!(World::read_all(&world.changes()).is_empty());
    world.sql(&format!("ALTER ROLE {role} BYPASSRLS")).await;
    let reader = world.start_reader().await;
    assert_eq!(world.read_until(&world.changes(), 2).await.len(), 2);
    reader.stop().await.expect("it drains");
    world.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
    world.config.postgres.user = owner;
    world.drop().await;
}

// ---- the hand-over ----

/// Inserts, updates, deletes, key changes and rollbacks of random rows, until told to stop.
pub(super) fn write(world: &World, seed: u64, for_how_long: Duration) -> JoinHandle<u64> {
    let begun = Instant::now();
    write_while(world, seed, Duration::ZERO, move || begun.elapsed() < for_how_long)
}

/// The same with a pause after each, as long as it is told to.
pub(super) fn write_while(
    world: &World,
    seed: u64,
    pause: Duration,
    is_wanted: impl Fn() -> bool + Send + 'static,
) -> JoinHandle<u64> {
    let config = world.config.postgres.clone();
    tokio::spawn(async move {
        let client = crate::live::connect(&config, &config.database).await;
        let mut random = StdRng::seed_from_u64(seed);
        let mut count = 0;
        while is_wanted() {
            let id = random.random_range(0..4000);
            let other = random.random_range(0..4000);
            let sql = match random.random_range(0..8) {
                0 | 1 => {
                    format!("INSERT INTO item VALUES ({id}, 'i{count}') ON CONFLICT DO NOTHING")
                }
                2..=4 => format!("UPDATE item SET body = 'u{count}' WHERE id IN ({id}, {other})"),
                5 => format!("DELETE FROM item WHERE id = {id}"),
                6 => format!(
                    "UPDATE item SET id = {other}, body = 'm{count}' WHERE id = {id}
                     AND NOT EXISTS (SELECT FROM item WHERE id = {other})"
                ),
                _ => format!("BEGIN; DELETE FROM item WHERE id < {id}; ROLLBACK"),
            };
            // Two writers may meet at one key; then one of them gives way.
            if client.batch_execute(&sql).await.is_err() {
                let _ = client.batch_execute("ROLLBACK").await;
            }
            count += 1;
            if pause > Duration::ZERO {
                sleep(pause).await;
            }
        }
        count
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_copy_and_the_stream_meet_exactly_under_writers() {
    let seed = clock::now_ms() as u64;
    println!("seed {seed}");
    let mut world = World::new().await;
    world.config.limits.copy_workers = 3;
    world
        .sql("INSERT INTO item SELECT g, repeat('x', 2000) || g FROM generate_series(0, 19999) g")
        .await;
    let writers = [
        write(&world, seed, Duration::from_secs(6)),
        write(&world, seed + 1, Duration::from_secs(6)),
    ];
    sleep(Duration::from_millis(300)).await;
    let reader = world.start_reader().await;
    for writer in writers {
        assert!(writer.await.expect("no panic") > 0);
    }
    wait_for_all(&world).await;
    reader.stop().await.expect("it drains");
    let records = World::read_all(&world.changes());
    assert_dense(records.iter().map(Record::seq).collect(), &format!("seed {seed}"));
    let ops = ops(&records);
    let rows = ops.iter().filter(|op| *op == "r").count();
    assert!(ops[..rows].iter().all(|op| op == "r"), "seed {seed}: a change before the last row");
    assert!(ops.len() > rows, "seed {seed}: nothing was written beside the copy");
    assert_same(&fold(&records), &table(&world, "item", "id").await, &format!("seed {seed}"));
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_killed_in_its_first_copy_ends_with_the_table() {
    let seed = clock::now_ms() as u64;
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::new().await;
    world
        .sql(
            "CREATE TABLE small (id int PRIMARY KEY, body text);
             INSERT INTO small SELECT g, 's' FROM generate_series(1, 10) g;
             INSERT INTO item SELECT g, repeat('x', 2000) || g FROM generate_series(0, 29999) g",
        )
        .await;
    world.capture("public.small", "id", "small", "small").await;
    let writer = write(&world, seed, Duration::from_secs(12));
    let (mut kills, mut torn) = (0, 0);
    while kills < 8 || !writer.is_finished() {
        if kills == 0 {
            // However fast the copy is, there are further ranges.
            world.dies_at(Point::RangeCopied, 1, &format!("seed {seed}")).await;
        } else {
            let mut child = world.start_child();
            sleep(Duration::from_millis(random.random_range(50..2500))).await;
            child.kill().expect("it can be killed");
            child.wait().expect("it is gone");
        }
        world.assert_not_ahead().await;
        kills += 1;
        torn += usize::from(world.progress().await.is_some_and(|record| record.copying.is_some()));
    }
    assert!(writer.await.expect("no panic") > 0);
    println!("{kills} kills, {torn} of them with a part of the rows in Kafka");
    assert!(torn > 0, "seed {seed}: the copy was faster than the first kill");
    let reader = world.start_reader().await;
    wait_for_copies(&world, 2).await;
    wait_for_all(&world).await;
    reader.stop().await.expect("it drains");
    let (item, small) = (World::read_all(&world.changes()), World::read_all(&world.topic("small")));
    let seqs = item.iter().chain(&small).map(Record::seq).collect();
    assert_dense(seqs, &format!("seed {seed}"));
    assert_same(&fold(&item), &table(&world, "item", "id").await, &format!("seed {seed}"));
    assert_same(&fold(&small), &table(&world, "small", "id").await, &format!("seed {seed}"));
    assert_history(&item, &format!("seed {seed}"));
    world.drop().await;
}

/// In the log, rows of a copy stand behind every change that committed before it and ahead of all others.
pub(super) fn assert_history(records: &[Record], what: &str) {
    let mut last = 0;
    for record in records {
        let Some(value) = record.json() else { continue };
        let at = value["source"]["commit_lsn"].as_u64().expect("an LSN");
        assert!(at >= last, "{what}: {value} comes after {last}");
        last = at;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finished_table_is_not_read_again() {
    let mut world = World::new().await;
    world.sql("CREATE TABLE other (id int PRIMARY KEY, v text); INSERT INTO item VALUES (1, 'a'); INSERT INTO other VALUES (1, 'b')").await;
    let reader = world.start_reader().await;
    wait_for_copies(&world, 1).await;
    reader.stop().await.expect("it drains");
    // Registered and published while the reader is down.
    world.capture("public.other", "id", "other", "other").await;
    world.sql("UPDATE other SET v = 'c'; INSERT INTO other VALUES (2, 'd')").await;
    let reader = world.start_reader().await;
    wait_for_copies(&world, 2).await;
    reader.stop().await.expect("it drains");
    assert_eq!(ops(&World::read_all(&world.changes())), ["r"]);
    let other = World::read_all(&world.topic("other"));
    assert_eq!(ops(&other), ["u", "c", "r", "r"], "at its point in history");
    assert_same(&fold(&other), &table(&world, "other", "id").await, "other");
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_registered_on_a_running_reader_is_copied() {
    let seed = clock::now_ms() as u64;
    println!("seed {seed}");
    let mut world = World::new().await;
    let reader = world.start_reader().await;
    world
        .sql("CREATE TABLE late (id int PRIMARY KEY, body text); INSERT INTO late SELECT g, 'x' FROM generate_series(1, 5000) g")
        .await;
    let writer = write(&world, seed, Duration::from_secs(4));
    // As a catalog is applied: first the registration, some time later the publication.
    world.register("public.late", "id", "late").await;
    reader.registrations.send(world.registrations.clone()).expect("it follows");
    sleep(Duration::from_millis(1200)).await;
    world.publish("late").await;
    world
        .sql("UPDATE late SET body = 'y' WHERE id % 7 = 0; DELETE FROM late WHERE id % 5 = 0")
        .await;
    wait_for_copies(&world, 2).await;
    world.sql("UPDATE late SET body = 'z' WHERE id % 3 = 0").await;
    assert!(writer.await.expect("no panic") > 0);
    wait_for_all(&world).await;
    reader.stop().await.expect("it drains");
    let (item, late) = (World::read_all(&world.changes()), World::read_all(&world.topic("late")));
    assert_same(&fold(&late), &table(&world, "late", "id").await, "late");
    assert_same(&fold(&item), &table(&world, "item", "id").await, &format!("seed {seed}"));
    assert_history(&late, "late");
    let seqs = item.iter().chain(&late).map(Record::seq).collect();
    assert_dense(seqs, &format!("seed {seed}"));
    world.drop().await;
}

// ---- what goes wrong ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_truncated_under_the_copy_is_taken_again() {
    let world = World::new().await;
    world
        .sql("INSERT INTO item SELECT g, repeat('x', 2000) || g FROM generate_series(0, 19999) g")
        .await;
    let reader = world.start_reader().await;
    world.sql("TRUNCATE item; INSERT INTO item VALUES (1, 'after')").await;
    wait_for_copies(&world, 1).await;
    wait_for_all(&world).await;
    reader.stop().await.expect("it drains");
    let records = World::read_all(&world.changes());
    assert_same(&fold(&records), &table(&world, "item", "id").await, "after a truncate");
    assert_dense(records.iter().map(Record::seq).collect(), "after a truncate");
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_cut_under_the_copy_begin_it_again() {
    let world = World::new().await;
    world
        .sql("INSERT INTO item SELECT g, repeat('x', 2000) || g FROM generate_series(0, 19999) g")
        .await;
    let reader = world.start_reader().await;
    let name = world.config.pipeline.to_string();
    let cut = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'tailwater {name} copy'"
    );
    let mut ended = 0;
    for _ in 0..3 {
        ended += world.count(&cut).await;
        sleep(Duration::from_millis(150)).await;
    }
    println!("{ended} sessions were cut");
    let record = wait_for_copies(&world, 1).await;
    reader.stop().await.expect("it drains");
    let item: TableName = "public.item".parse().expect("a name");
    assert!(matches!(record.tables.get(&item), Some(Existing::Copied { rows: 20_000, .. })));
    let records = World::read_all(&world.changes());
    assert_same(&fold(&records), &table(&world, "item", "id").await, "after cuts");
    assert_dense(records.iter().map(Record::seq).collect(), "after cuts");
    world.drop().await;
}

impl World {
    pub(super) fn topic(&self, suffix: &str) -> TopicName {
        format!("{}.{suffix}", self.config.pipeline).parse().expect("a name")
    }

    /// Publishes a table, as the publication takes it, and registers a topic for it.
    pub(super) async fn capture(&mut self, table: &str, key: &str, suffix: &str, published: &str) {
        self.register(table, key, suffix).await;
        self.publish(published).await;
    }

    /// As one transaction; names in it may hold a semicolon.
    pub(super) async fn statements(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub(super) async fn publish(&self, published: &str) {
        let publication = self.config.pipeline.changes_publication();
        self.statements(&format!("ALTER PUBLICATION {publication} ADD TABLE {published}")).await;
    }
}
