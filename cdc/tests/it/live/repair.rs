//! Bringing a pipeline back: adopt, resync, and tables that are read once more.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tailwater_cdc::copies::Existing;
use tailwater_cdc::progress;
use tailwater_cdc::repair::{self, At, Found, Kind, Plan, Refusal, Wish};
use tailwater_runtime::clock;
use tailwater_topics_contract::{Lsn, Reread, Standing, TableName};
use tokio::time::sleep;

use super::snapshot::{assert_history, assert_same, fold, table, wait_for_all, write};
use crate::live::{PATIENCE, Reader, Record, World, kafka};

fn item() -> TableName {
    "public.item".parse().expect("a name")
}

impl World {
    pub(super) async fn found(&self) -> Found {
        repair::look(&self.config, &self.registrations).await.expect("the servers answer")
    }

    /// Carries out what was planned, for a reason.
    pub(super) async fn carry_out(&self, found: &Found, plan: &Plan) -> progress::Record {
        repair::carry_out(&self.config, &self.registrations, found, plan, "a test")
            .await
            .expect("it is carried out")
    }

    pub(super) async fn adopt(&self, wish: Wish) -> progress::Record {
        let found = self.found().await;
        let plan = found.adopt(wish).expect("it may be adopted");
        self.carry_out(&found, &plan).await
    }

    pub(super) async fn resync(&self) -> progress::Record {
        let found = self.found().await;
        let plan = found.resync(Wish::default()).expect("it may be read anew");
        self.carry_out(&found, &plan).await
    }

    /// Asks for the rows of the table once more, as the command does.
    fn ask_again(&mut self, reader: Option<&Reader>) -> i64 {
        let name = self.changes();
        let topic = self.registrations.topics.get_mut(&name).expect("it is registered");
        let last = topic.reread.as_ref().map_or(0, |reread| reread.asked_ms);
        let asked_ms = clock::now_ms().max(last + 1);
        topic.reread = Some(Reread { asked_ms, reason: "a test".to_owned() });
        if let Some(reader) = reader {
            reader.registrations.send(self.registrations.clone()).expect("it follows");
        }
        asked_ms
    }

    async fn wait_for_answer(&self, asked: i64) {
        let begun = Instant::now();
        loop {
            let record = self.progress().await.expect("there is progress");
            if let Some(Existing::Copied { asked_ms, .. }) = record.tables.get(&item())
                && *asked_ms >= asked
                && record.copying.is_none()
                && record.joining.is_none()
            {
                return;
            }
            assert!(begun.elapsed() < PATIENCE * 2, "it is not read again: {record:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// A reader comes to the end of what is committed and stops; then the topic folds to the table.
    pub(super) async fn settle(&self, reader: Reader, what: &str) -> Vec<Record> {
        wait_for_all(self).await;
        reader.stop().await.expect("it drains");
        self.assert_converged(what).await
    }

    /// The topic folds to the table.
    pub(super) async fn assert_converged(&self, what: &str) -> Vec<Record> {
        let records = World::read_all(&self.changes());
        assert_same(&fold(&records), &table(self, "item", "id").await, what);
        records
    }
}

/// Numbers of an epoch among these records have no hole.
pub(super) fn assert_dense_in(epoch: u64, records: &[&Record], what: &str) {
    let mut seqs: Vec<u64> = records.iter().map(|record| record.seq()).collect();
    seqs.retain(|seq| seq >> 44 == epoch);
    seqs.sort_unstable();
    let hole = seqs.iter().zip((epoch << 44) + 1..).find(|(seq, expected)| **seq != *expected);
    assert_eq!(hole, None, "{what}: (found, expected)");
}

/// A record of somebody else in our topic: a key that the table does not have.
fn intrude(world: &World, id: u64) {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", kafka()).create().expect("a producer");
    let (topic, key) = (world.changes(), format!(r#"{{"id":{id}}}"#));
    let value = format!(
        r#"{{"before":null,"after":{{"id":{id},"body":"x"}},"source":{{"seq":1,"commit_lsn":0}},"op":"c"}}"#
    );
    let record = BaseRecord::to(topic.as_str()).key(&key).payload(&value);
    producer.send(record).map_err(|(error, _)| error).expect("it is sent");
    producer.flush(PATIENCE).expect("it is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_read_again_on_command_ends_with_the_table() {
    let seed = clock::now_ms() as u64;
    println!("seed {seed}");
    let mut world = World::new().await;
    // So few that the topic is read many times.
    world.config.limits.copy_keys = 500;
    world.sql("INSERT INTO item SELECT g, 'x' FROM generate_series(0, 3999) g").await;
    let reader = world.start_reader().await;
    world.read_until(&world.changes(), 4_000).await;
    (5_000..5_100).for_each(|id| intrude(&world, id));
    let writer = write(&world, seed, Duration::from_secs(5));
    sleep(Duration::from_secs(1)).await;
    let asked = world.ask_again(Some(&reader));
    world.wait_for_answer(asked).await;
    let again = world.ask_again(Some(&reader));
    world.wait_for_answer(again).await;
    assert!(writer.await.expect("no panic") > 0);
    let records = world.settle(reader, &format!("seed {seed}")).await;
    let deleted = |record: &&Record| {
        let key = record.key.as_deref().expect("a key");
        record.value.is_none() && key.len() == 11 && key.starts_with(br#"{"id":50"#)
    };
    assert_eq!(records.iter().filter(deleted).count(), 100, "each key that vanished, once");
    let ours: Vec<&Record> = records.iter().filter(|record| record.seq() > 1 << 44).collect();
    assert_dense_in(1, &ours, &format!("seed {seed}"));
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_read_a_table_again_outlives_a_reader_that_is_killed() {
    let seed = clock::now_ms() as u64;
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::new().await;
    world
        .sql("INSERT INTO item SELECT g, repeat('x', 1000) || g FROM generate_series(0, 19999) g")
        .await;
    let reader = world.start_reader().await;
    world.read_until(&world.changes(), 20_000).await;
    reader.stop().await.expect("it drains");
    (30_000..30_010).for_each(|id| intrude(&world, id));
    let asked = world.ask_again(None);
    let writer = write(&world, seed, Duration::from_secs(5));
    for _ in 0..4 {
        let mut child = world.start_child();
        sleep(Duration::from_millis(random.random_range(200..2_000))).await;
        world.assert_not_ahead().await;
        child.kill().expect("it can be killed");
        child.wait().expect("it is gone");
    }
    assert!(writer.await.expect("no panic") > 0);
    let reader = world.start_reader().await;
    world.wait_for_answer(asked).await;
    let records = world.settle(reader, &format!("seed {seed}")).await;
    let ours: Vec<Record> = records.into_iter().filter(|record| record.seq() > 1 << 44).collect();
    assert_dense_in(1, &ours.iter().collect::<Vec<_>>(), &format!("seed {seed}"));
    assert_history(&ours, &format!("seed {seed}"));
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resync_killed_again_and_again_ends_with_the_table() {
    let seed = clock::now_ms() as u64;
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::new().await;
    world
        .sql("INSERT INTO item SELECT g, repeat('x', 1000) || g FROM generate_series(0, 19999) g")
        .await;
    let reader = world.start_reader().await;
    world.read_until(&world.changes(), 20_000).await;
    reader.stop().await.expect("it drains");
    let before = World::read_all(&world.changes()).len();
    // What happens now nobody will read.
    let slot = world.config.pipeline.slot();
    world.sql(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    world
        .sql("DELETE FROM item WHERE id % 3 = 0; UPDATE item SET body = 'missed' WHERE id % 5 = 0; INSERT INTO item VALUES (50000, 'missed')")
        .await;
    world.stops("TW012").await;
    let refused = world.found().await.adopt(Wish::default());
    assert!(matches!(refused, Err(Refusal::NoSlot { .. })), "{refused:?}");
    let announced = world.resync().await;
    assert_eq!((announced.position, announced.epoch), (Lsn::ZERO, 2));
    let writer = write(&world, seed, Duration::from_secs(5));
    for _ in 0..4 {
        let mut child = world.start_child();
        sleep(Duration::from_millis(random.random_range(100..2_500))).await;
        child.kill().expect("it can be killed");
        child.wait().expect("it is gone");
    }
    assert!(writer.await.expect("no panic") > 0);
    let reader = world.start_reader().await;
    let begun = Instant::now();
    while !matches!(
        world.progress().await.and_then(|record| record.tables.get(&item()).cloned()),
        Some(Existing::Copied { .. })
    ) {
        assert!(begun.elapsed() < PATIENCE * 2, "the copy takes too long");
        sleep(Duration::from_millis(100)).await;
    }
    let records = world.settle(reader, &format!("seed {seed}")).await;
    let new = &records[before..];
    assert!(new.iter().all(|record| record.seq() >> 44 == 2), "seed {seed}: one epoch");
    assert_dense_in(2, &new.iter().collect::<Vec<_>>(), &format!("seed {seed}"));
    assert_history(new, &format!("seed {seed}"));
    let repairs = world.progress().await.expect("there is progress").repairs;
    assert_eq!(repairs.len(), 1);
    assert_eq!((repairs[0].kind, repairs[0].reason.as_str()), (Kind::Resync, "a test"));
    assert_eq!(repairs[0].code.as_deref(), Some("TW012"));
    assert!(repairs[0].before.as_ref().is_some_and(|before| before.position > Lsn::ZERO));
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_slot_is_adopted_and_the_table_is_made_good_by_reading_it_again() {
    let mut world = World::new().await;
    world.begin().await;
    let reader = world.start_reader().await;
    world.sql("INSERT INTO item VALUES (1, 'a'), (2, 'b')").await;
    world.read_until(&world.changes(), 2).await;
    reader.stop().await.expect("it drains");
    world.sql("DELETE FROM item WHERE id = 1; INSERT INTO item VALUES (3, 'missed')").await;
    let slot = world.config.pipeline.slot();
    let moved = format!("SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())");
    world.sql(&moved).await;
    world.stops("TW015").await;

    let found = world.found().await;
    let plan = found.adopt(Wish::default()).expect("it may be adopted");
    assert!(plan.lost.contains("bytes of WAL"), "{}", plan.lost);
    // Somebody moves it once more before it is agreed to.
    world.sql("INSERT INTO item VALUES (4, 'missed, too')").await;
    world.sql(&moved).await;
    let late = repair::carry_out(&world.config, &world.registrations, &found, &plan, "late").await;
    assert!(matches!(late, Err(repair::Error::Changed)), "{late:?}");
    let record = world.adopt(Wish::default()).await;
    assert_eq!((record.position, record.epoch), (world.confirmed().await, 2));
    assert_eq!(record.repairs[0].kind, Kind::Adopt);

    let reader = world.start_reader().await;
    assert!(matches!(world.found().await.adopt(Wish::default()), Err(Refusal::Running { .. })));
    world.sql("INSERT INTO item VALUES (5, 'c')").await;
    let seen = world.read_until(&world.changes(), 3).await;
    assert_eq!(seen[2].seq(), (2 << 44) + 1, "a new epoch says where changes may be missing");
    let asked = world.ask_again(Some(&reader));
    world.wait_for_answer(asked).await;
    reader.stop().await.expect("it drains");
    world.assert_converged("after the loss").await;
    let nothing = world.found().await.adopt(Wish::default());
    assert!(matches!(nothing, Err(Refusal::NothingWrong { .. })), "{nothing:?}");
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_whose_progress_was_lost_is_adopted_without_a_loss() {
    let world = World::new().await;
    world.begin().await;
    let reader = world.start_reader().await;
    world.sql("INSERT INTO item VALUES (1, 'a'), (2, 'b')").await;
    world.read_until(&world.changes(), 2).await;
    reader.stop().await.expect("it drains");
    world.sql("INSERT INTO item VALUES (3, 'c'); DELETE FROM item WHERE id = 1").await;
    world.lose_progress().await;
    world.stops("TW011").await;
    let found = world.found().await;
    assert_eq!(found.epoch_seen, Some(1), "as the topics say");
    let plan = found.adopt(Wish::default()).expect("it may be adopted");
    assert!(matches!(plan.at, At::Slot(_)), "{plan:?}");
    world.carry_out(&found, &plan).await;
    let reader = world.start_reader().await;
    world.settle(reader, "nothing is missing").await;

    // The same, and somebody dropped the slot.
    world.lose_progress().await;
    let slot = world.config.pipeline.slot();
    world.sql(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    world.sql("DELETE FROM item WHERE id = 2").await;
    world.stops("TW025").await;
    world.resync().await;
    let reader = world.start_reader().await;
    let records = world.settle(reader, "read anew").await;
    assert_eq!(records.last().map(|record| record.seq() >> 44), Some(3));
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_lost_records_is_adopted_and_its_table_read_again() {
    let mut world = World::new().await;
    world.begin().await;
    let reader = world.start_reader().await;
    world.sql("INSERT INTO item SELECT g, 'x' FROM generate_series(1, 10) g").await;
    world.read_until(&world.changes(), 10).await;
    reader.stop().await.expect("it drains");
    world.make_anew(&world.changes()).await;
    world.stops("TW026").await;
    world.adopt(Wish::default()).await;
    let asked = world.ask_again(None);
    let reader = world.start_reader().await;
    world.wait_for_answer(asked).await;
    reader.stop().await.expect("it drains");
    assert_eq!(world.assert_converged("read again").await.len(), 10);
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_another_topic_takes_while_no_reader_runs_is_copied_to_it() {
    let mut world = World::new().await;
    world.begin().await;
    let reader = world.start_reader().await;
    world.sql("INSERT INTO item VALUES (1, 'a'), (2, 'b')").await;
    world.read_until(&world.changes(), 2).await;
    reader.stop().await.expect("it drains");
    let before = world.changes();
    let removed = world.registrations.topics.get_mut(&before).expect("it is registered");
    removed.standing = Standing::Removed;
    world.register("public.item", "id", "other").await;
    let reader = world.start_reader().await;
    world.read_until(&world.topic("other"), 2).await;
    wait_for_all(&world).await;
    reader.stop().await.expect("it drains");
    let records = World::read_all(&world.topic("other"));
    assert_same(&fold(&records), &table(&world, "item", "id").await, "in the other topic");
    assert_eq!(World::read_all(&before).len(), 2, "the one before gets nothing more");
    world.drop().await;
}
