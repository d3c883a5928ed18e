//! Tables that join a stream which goes on, between a real Postgres and a real Kafka.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tailwater_cdc::config::Limits;
use tailwater_cdc::copies::Existing;
use tailwater_cdc::crash::Point;
use tailwater_cdc::progress;
use tailwater_runtime::clock;
use tailwater_topics_contract::{Reread, Standing, TableName, TopicRegistration};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::snapshot::{
    assert_dense, assert_history, assert_same, fold, table, wait_for_a_part, wait_for_all,
    wait_for_copies, write, write_while,
};
use crate::live::{PATIENCE, Record, World};
use crate::own_postgres::OwnPostgres;

fn late() -> TableName {
    "public.late".parse().expect("a name")
}

/// A table in which each row counts its changes.
async fn create_late(world: &World, rows: u32) {
    world
        .sql(&format!(
            "CREATE TABLE late (id int PRIMARY KEY, n int NOT NULL, body text NOT NULL);
             INSERT INTO late SELECT g, 0, repeat('x', 300) || g FROM generate_series(1, {rows}) g"
        ))
        .await;
}

/// Changes random rows of the table, so that every one is counted in its row.
fn change_late(world: &World, rows: u32, seed: u64, for_how_long: Duration) -> JoinHandle<u64> {
    let begun = Instant::now();
    change_late_while(world, rows, seed, Duration::ZERO, move || begun.elapsed() < for_how_long)
}

/// The same with a pause after each, as long as it is told to.
fn change_late_while(
    world: &World,
    rows: u32,
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
            let id = random.random_range(1..=rows);
            let sql = match random.random_range(0..8) {
                0 => format!("INSERT INTO late VALUES ({}, 0, 'new')", rows + 1 + count as u32),
                1 => format!("DELETE FROM late WHERE id = {id}"),
                2 => format!("UPDATE late SET n = n + 1 WHERE id BETWEEN {id} AND {id} + 200"),
                3 => format!("BEGIN; UPDATE late SET n = n + 1000 WHERE id = {id}; ROLLBACK"),
                _ => format!("UPDATE late SET n = n + 1 WHERE id = {id}"),
            };
            client.batch_execute(&sql).await.expect("there is one writer");
            count += 1;
            if pause > Duration::ZERO {
                sleep(pause).await;
            }
        }
        count
    })
}

/// From what is known of a row first, every change of it is there, once and in order; a row that is read again is as it was.
fn assert_every_change(records: &[Record], what: &str) {
    let mut known: BTreeMap<u64, u64> = BTreeMap::new();
    for record in records {
        let Some(value) = record.json() else { continue };
        let number = |image: &Value, field: &str| image[field].as_u64().expect("a number");
        match value["op"].as_str() {
            Some("d") => {
                known.remove(&number(&value["before"], "id"));
            }
            op => {
                let (id, n) = (number(&value["after"], "id"), number(&value["after"], "n"));
                let last = known.insert(id, n);
                let expected = if op == Some("u") { last.map(|last| last + 1) } else { last };
                assert!(
                    expected.is_none_or(|expected| expected == n),
                    "{what}: {value} after {last:?}"
                );
            }
        }
    }
}

impl World {
    /// Asks for the rows of the table once more. Answers when.
    fn ask_for_late(&mut self) -> i64 {
        let asked_ms = clock::now_ms();
        let reread = Some(Reread { asked_ms, reason: "a test".to_owned() });
        self.late_topic().reread = reread;
        asked_ms
    }

    fn stand(&mut self, standing: Standing) {
        self.late_topic().standing = standing;
    }

    fn late_topic(&mut self) -> &mut TopicRegistration {
        let topic = self.topic("late");
        self.registrations.topics.get_mut(&topic).expect("it is registered")
    }
}

/// Whether the last request is answered by rows that are all written.
fn has_rows(record: &progress::Record, asked: i64) -> bool {
    let known = record.tables.get(&late());
    matches!(known, Some(Existing::Copied { asked_ms, .. }) if *asked_ms >= asked)
}

async fn is_answered(world: &World, asked: i64) -> bool {
    let record = world.progress().await.expect("there is progress");
    has_rows(&record, asked) && record.joining.is_none()
}

async fn is_catching_up(world: &World, asked: i64) -> bool {
    let record = world.progress().await.expect("there is progress");
    has_rows(&record, asked) && record.joining.is_some()
}

/// The stored places of two topics, checked as one pipeline's.
async fn assert_both(world: &World, what: &str) -> (Vec<Record>, Vec<Record>) {
    let (item, late) = (World::read_all(&world.changes()), World::read_all(&world.topic("late")));
    assert_same(&fold(&late), &table(world, "late", "id").await, what);
    assert_same(&fold(&item), &table(world, "item", "id").await, what);
    assert_history(&item, what);
    assert_history(&late, what);
    assert_every_change(&late, what);
    assert_dense(item.iter().chain(&late).map(Record::seq).collect(), what);
    (item, late)
}

fn is_copied(record: &Record) -> bool {
    record.json().is_some_and(|value| value["op"] == "r")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_goes_on_while_a_large_table_joins_under_writers() {
    const ROWS: u32 = 200_000;
    let seed = clock::now_ms() as u64;
    let what = format!("seed {seed}");
    println!("{what}");
    let mut world = World::new().await;
    world.config.limits = Limits { copy_workers: 1, queue_bytes: 1 << 20, ..Limits::default() };
    world.sql("INSERT INTO item VALUES (0, 'before')").await;
    create_late(&world, ROWS).await;
    let reader = world.start_reader().await;
    wait_for_copies(&world, 1).await;
    let writers = [
        write(&world, seed, Duration::from_secs(8)),
        change_late(&world, ROWS, seed, Duration::from_secs(8)),
    ];
    world.register("public.late", "id", "late").await;
    reader.registrations.send(world.registrations.clone()).expect("it follows");
    sleep(Duration::from_millis(300)).await;
    world.publish("late").await;
    wait_for_a_part(&world).await;
    world.sql("INSERT INTO item VALUES (100001, 'marker')").await;
    let written = Instant::now();
    let begun = Instant::now();
    let joined = loop {
        let record = world.progress().await.expect("there is progress");
        if record.joining.is_none() && record.tables.get(&late()).is_some() {
            break record;
        }
        world.assert_not_ahead().await;
        assert!(begun.elapsed() < PATIENCE * 2, "it does not join: {:?}", record.joining);
        sleep(Duration::from_millis(50)).await;
    };
    println!("joined {:?} after the marker, at {}", written.elapsed(), joined.position);
    for writer in writers {
        assert!(writer.await.expect("no panic") > 0);
    }
    wait_for_all(&world).await;
    reader.stop().await.expect("it drains");
    let (item, late) = assert_both(&world, &what).await;
    let marker = item.iter().find(|record| record.key.as_deref() == Some(br#"{"id":100001}"#));
    let marker = marker.expect("the marker").seq();
    let rows: Vec<u64> = late.iter().filter(|r| is_copied(r)).map(Record::seq).collect();
    let behind = rows.iter().filter(|seq| **seq > marker).count();
    println!("{} rows were copied, {behind} of them behind the marker", rows.len());
    assert!(behind > 0, "{what}: the marker waited for the copy");
    let streamed = late.iter().filter(|record| !is_copied(record)).count();
    assert!(streamed > 0, "{what}: nothing was written to the table that joined");
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE temporary AND database = current_database()";
    assert_eq!(world.count(slots).await, 0, "{what}: a slot was left");
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_killed_while_a_table_joins_misses_and_repeats_no_change() {
    const ROWS: u32 = 120_000;
    let seed = clock::now_ms() as u64;
    let what = format!("seed {seed}");
    println!("{what}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::new().await;
    world.config.limits = Limits { copy_workers: 1, queue_bytes: 1 << 20, ..Limits::default() };
    create_late(&world, ROWS).await;
    let reader = world.start_reader().await;
    wait_for_copies(&world, 1).await;
    reader.stop().await.expect("it drains");
    world.capture("public.late", "id", "late", "late").await;
    let writers = [
        write(&world, seed, Duration::from_secs(10)),
        change_late(&world, ROWS, seed, Duration::from_secs(10)),
    ];
    let (mut copying, mut catching_up, mut kills, mut asked_ms) = (0, 0, 0, 0);
    while kills < 6 || !writers.iter().all(JoinHandle::is_finished) {
        if kills > 0 && is_answered(&world, asked_ms).await {
            // Once more, and the topic holds its rows by now.
            asked_ms = world.ask_for_late();
        }
        let mut child = world.start_child();
        // Every other time in the middle of the copy, otherwise where it has been made if that can be met.
        let record = world.progress().await.expect("there is progress");
        if kills % 2 == 0 && !has_rows(&record, asked_ms) {
            wait_for_a_part(&world).await;
        } else {
            let begun = Instant::now();
            let life = Duration::from_millis(random.random_range(500..2_500));
            while begun.elapsed() < life && !is_catching_up(&world, asked_ms).await {
                world.assert_not_ahead().await;
            }
        }
        child.kill().expect("it can be killed");
        child.wait().expect("it is gone");
        kills += 1;
        let is_behind = is_catching_up(&world, asked_ms).await;
        let record = world.progress().await.expect("there is progress");
        copying += usize::from(record.joining.is_some() && !is_behind);
        catching_up += usize::from(is_behind);
        world.assert_not_ahead().await;
    }
    println!(
        "{kills} kills, {copying} of them while it was copied, {catching_up} while it caught up"
    );
    assert!(copying > 0, "{what}: the copy was faster than every kill");
    for writer in writers {
        assert!(writer.await.expect("no panic") > 0);
    }
    let reader = world.start_reader().await;
    let begun = Instant::now();
    while !is_answered(&world, asked_ms).await {
        assert!(begun.elapsed() < PATIENCE * 2, "it does not join");
        sleep(Duration::from_millis(100)).await;
    }
    wait_for_all(&world).await;
    reader.stop().await.expect("it drains");
    assert_both(&world, &what).await;
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_dies_at_every_step_of_joining_misses_and_repeats_no_change() {
    const ROWS: u32 = 5_000;
    const PAUSE: Duration = Duration::from_millis(5);
    const STEPS: [Point; 15] = [
        Point::TablesLeft,
        Point::CopyBegun,
        Point::RowsCopied,
        Point::RangeCopied,
        Point::TableCopied,
        Point::CopyEnding,
        Point::CopyEnded,
        Point::TablesJoined,
        // With changes of both lanes in one Kafka transaction.
        Point::Begun,
        Point::BatchSent,
        Point::ProgressSent,
        Point::Delivered,
        Point::Committed,
        Point::Noted,
        Point::Confirmed,
    ];
    let seed = clock::now_ms() as u64;
    let what = format!("seed {seed}");
    println!("{what}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::new().await;
    create_late(&world, ROWS).await;
    let reader = world.start_reader().await;
    wait_for_copies(&world, 1).await;
    reader.stop().await.expect("it drains");
    world.capture("public.late", "id", "late", "late").await;
    let done = CancellationToken::new();
    let is_wanted = || {
        let done = done.clone();
        move || !done.is_cancelled()
    };
    let writers = [
        write_while(&world, seed, PAUSE, is_wanted()),
        change_late_while(&world, ROWS, seed, PAUSE, is_wanted()),
    ];
    let (mut asked_ms, mut apart) = (0, 0);
    for point in STEPS {
        if is_answered(&world, asked_ms).await {
            asked_ms = world.ask_for_late();
        }
        let is_of_copy = STEPS[..8].contains(&point);
        let hit = if is_of_copy { 1 } else { random.random_range(3..10) };
        world.dies_at(point, hit, &what).await;
        world.assert_not_ahead().await;
        let record = world.progress().await.expect("there is progress");
        apart += usize::from(record.joining.is_some());
    }
    println!("{} deaths, {apart} of them while progress said that tables stand apart", STEPS.len());
    assert!(apart >= 4, "{what}: hardly any death met a table that was joining");
    done.cancel();
    for writer in writers {
        assert!(writer.await.expect("no panic") > 0);
    }
    let reader = world.start_reader().await;
    let begun = Instant::now();
    while !is_answered(&world, asked_ms).await {
        assert!(begun.elapsed() < PATIENCE * 2, "{what}: it does not join");
        sleep(Duration::from_millis(100)).await;
    }
    wait_for_all(&world).await;
    reader.stop().await.expect("it drains");
    assert_both(&world, &what).await;
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_whose_topic_is_removed_while_it_joins_is_let_go_and_may_come_back() {
    const ROWS: u32 = 200_000;
    let seed = clock::now_ms() as u64;
    let what = format!("seed {seed}");
    println!("{what}");
    let mut world = World::new().await;
    world.config.limits = Limits { copy_workers: 1, queue_bytes: 1 << 20, ..Limits::default() };
    create_late(&world, ROWS).await;
    let reader = world.start_reader().await;
    wait_for_copies(&world, 1).await;
    let writers = [
        write(&world, seed, Duration::from_secs(8)),
        change_late(&world, ROWS, seed, Duration::from_secs(8)),
    ];
    world.capture("public.late", "id", "late", "late").await;
    reader.registrations.send(world.registrations.clone()).expect("it follows");
    wait_for_a_part(&world).await;
    world.stand(Standing::Removed);
    reader.registrations.send(world.registrations.clone()).expect("it follows");
    let begun = Instant::now();
    let record = loop {
        let record = world.progress().await.expect("there is progress");
        if record.joining.is_none() {
            break record;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: it goes on joining");
        sleep(Duration::from_millis(50)).await;
    };
    let known = record.tables.get(&late());
    assert!(!matches!(known, Some(Existing::Copied { .. })), "{what}: {known:?}");
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE temporary AND database = current_database()";
    while world.count(slots).await > 0 {
        assert!(begun.elapsed() < PATIENCE, "{what}: a slot stays");
        sleep(Duration::from_millis(50)).await;
    }
    let written = World::read_all(&world.topic("late")).len();
    assert!(written > 0 && written < ROWS as usize, "{what}: {written} rows were copied");
    // Nothing is written to a topic that is removed.
    sleep(Duration::from_secs(1)).await;
    assert_eq!(World::read_all(&world.topic("late")).len(), written, "{what}");
    world.stand(Standing::Active);
    reader.registrations.send(world.registrations.clone()).expect("it follows");
    for writer in writers {
        assert!(writer.await.expect("no panic") > 0);
    }
    wait_for_copies(&world, 2).await;
    wait_for_all(&world).await;
    reader.stop().await.expect("it drains");
    let late = World::read_all(&world.topic("late"));
    assert_same(&fold(&late), &table(&world, "late", "id").await, &what);
    let item = World::read_all(&world.changes());
    assert_same(&fold(&item), &table(&world, "item", "id").await, &what);
    assert_dense(item.iter().chain(&late).map(Record::seq).collect(), &what);
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_transaction_holds_up_the_table_that_joins_and_no_other() {
    let mut world = World::new().await;
    create_late(&world, 100).await;
    let reader = world.start_reader().await;
    wait_for_copies(&world, 1).await;
    let other = crate::live::connect(&world.config.postgres, &world.config.postgres.database).await;
    other.batch_execute("BEGIN; INSERT INTO item VALUES (1, 'long')").await.expect("it is open");
    world.capture("public.late", "id", "late", "late").await;
    reader.registrations.send(world.registrations.clone()).expect("it follows");
    let begun = Instant::now();
    while world.progress().await.is_none_or(|record| record.joining.is_none()) {
        assert!(begun.elapsed() < PATIENCE, "it does not begin to join");
        world
            .sql("INSERT INTO item VALUES (2, 'x') ON CONFLICT (id) DO UPDATE SET body = 'y'")
            .await;
        sleep(Duration::from_millis(100)).await;
    }
    world.sql("INSERT INTO item VALUES (3, 'beside'); UPDATE late SET n = 1 WHERE id = 7").await;
    let is_there = |records: &[Record]| {
        records.iter().any(|record| record.key.as_deref() == Some(br#"{"id":3}"#))
    };
    while !is_there(&World::read_all(&world.changes())) {
        assert!(begun.elapsed() < PATIENCE, "the stream waits too");
        sleep(Duration::from_millis(100)).await;
    }
    assert!(World::read_all(&world.topic("late")).is_empty(), "its snapshot cannot be there yet");
    other.batch_execute("COMMIT").await.expect("it ends");
    wait_for_copies(&world, 2).await;
    wait_for_all(&world).await;
    reader.stop().await.expect("it drains");
    let (_, late) = assert_both(&world, "behind a long transaction").await;
    assert_eq!(late.iter().filter(|record| is_copied(record)).count(), 100);
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_room_for_another_slot_the_stream_goes_on_and_the_table_joins_later() {
    let mut server = OwnPostgres::new();
    server.set("max_replication_slots = 2");
    server.start();
    let mut world = World::at(&server).await;
    create_late(&world, 10).await;
    let reader = world.start_reader().await;
    wait_for_copies(&world, 1).await;
    world.sql("SELECT pg_create_physical_replication_slot('somebody')").await;
    world.capture("public.late", "id", "late", "late").await;
    reader.registrations.send(world.registrations.clone()).expect("it follows");
    sleep(Duration::from_secs(3)).await;
    world.sql("INSERT INTO item VALUES (1, 'beside')").await;
    assert_eq!(world.read_until(&world.changes(), 1).await.len(), 1);
    let record = world.progress().await.expect("there is progress");
    assert!(record.joining.is_none() && record.tables.get(&late()).is_none(), "{record:?}");
    // A table needs two for a moment, of which it keeps one.
    world.sql("SELECT pg_drop_replication_slot('somebody')").await;
    reader.stop().await.expect("it drains");
    server.shut_down();
    server.set("max_replication_slots = 3");
    server.start();
    world.move_to(&server).await;
    let reader = world.start_reader().await;
    wait_for_copies(&world, 2).await;
    wait_for_all(&world).await;
    reader.stop().await.expect("it drains");
    assert_both(&world, "with room").await;
    world.leave().await;
}
