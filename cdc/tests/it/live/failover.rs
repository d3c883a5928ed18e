//! A standby is promoted: the slot came along or it did not, and the reader was ahead or it was not.

use std::error::Error;
use std::time::{Duration, Instant};

use tailwater_config::PostgresConfig;
use tailwater_config::postgres::Hosts;
use tailwater_topics_contract::Lsn;
use tokio::time::sleep;

use super::snapshot::assert_dense;
use super::{PATIENCE, Record, World, connect};
use crate::own_postgres::OwnPostgres;

/// A primary and its standby, of a version that keeps slots on standbys.
struct Pair {
    primary: OwnPostgres,
    standby: OwnPostgres,
}

impl Pair {
    fn start() -> Self {
        let mut primary = OwnPostgres::of_version(18);
        let mut standby = primary.standby();
        primary.start();
        primary.ask("SELECT pg_create_physical_replication_slot('standby')");
        standby.set(
            "primary_slot_name = 'standby'
             hot_standby_feedback = on
             sync_replication_slots = on
             wal_receiver_status_interval = 1s",
        );
        standby.start();
        Self { primary, standby }
    }

    /// The reader knows both, and goes where writes are taken.
    async fn world(&self) -> World {
        World::on(at(&[self.primary.port, self.standby.port])).await
    }

    /// Changes go to the reader only when the standby has them.
    async fn guarded(&self) {
        self.primary.set("synchronized_standby_slots = 'standby'");
        self.primary.reload().await;
    }

    /// Writes until the slot on the standby would outlive a promotion. On a quiet source it never would.
    async fn wait_for_slot(&self, world: &World) {
        let slot = world.config.pipeline.slot();
        let ready = format!(
            "SELECT count(*) FROM pg_replication_slots
             WHERE slot_name = '{slot}' AND failover AND synced AND NOT temporary"
        );
        let begun = Instant::now();
        let mut id = 0;
        while self.standby.ask(&ready) == "0" {
            assert!(begun.elapsed() < PATIENCE, "the slot does not come: {}", self.standby.log());
            world.sql(&format!("INSERT INTO item VALUES ({id}, 'before')")).await;
            id += 1;
            // The slot needs no old catalog rows any more; by itself the server says so every 15 s.
            self.primary.ask("SELECT pg_log_standby_snapshot()");
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Until the standby has all that the primary wrote.
    async fn wait_for_wal(&self, world: &World) {
        let end = world.value("SELECT pg_current_wal_flush_lsn()::text").await;
        let reached =
            format!("SELECT count(*) FROM pg_stat_wal_receiver WHERE flushed_lsn >= '{end}'");
        let begun = Instant::now();
        while self.standby.ask(&reached) == "0" {
            assert!(begun.elapsed() < PATIENCE, "the standby does not follow");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The primary is lost and the standby takes its place.
    async fn fail_over(&mut self, world: &mut World) {
        self.primary.crash();
        self.standby.promote();
        let postgres = &world.config.postgres;
        world.client = connect(postgres, &postgres.database).await;
    }
}

fn at(ports: &[u16]) -> PostgresConfig {
    let hosts: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let hosts = Hosts::parse(&hosts.join(","), 5432).expect("hosts");
    PostgresConfig::new(hosts, "postgres", "postgres")
}

async fn position(world: &World) -> Lsn {
    world.progress().await.expect("a reader ran").position
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_follows_a_promoted_standby_that_kept_the_slot() {
    let mut pair = Pair::start();
    pair.guarded().await;
    let mut world = pair.world().await;
    let reader = world.start_reader().await;
    pair.wait_for_slot(&world).await;
    world.sql("INSERT INTO item SELECT g, 'last' FROM generate_series(10000, 10999) g").await;
    // The reader has them only if the standby does, so whatever it sent survives.
    let sent = world.count("SELECT count(*) FROM item").await as usize;
    world.read_until(&world.changes(), sent).await;
    pair.fail_over(&mut world).await;
    world.sql("INSERT INTO item SELECT g, 'after' FROM generate_series(20000, 20009) g").await;
    world.sql("DELETE FROM item WHERE id = 20000").await;
    let records = world.read_until(&world.changes(), sent + 12).await;
    reader.stop().await.expect("it drains");
    // Ten rows, a delete and its tombstone.
    assert_eq!(records.len(), sent + 12);
    assert_dense(records.iter().map(Record::seq).collect(), "after a promotion");
    assert_eq!(world.progress().await.expect("a reader ran").timeline, 2);

    // The former primary comes back and nobody told it.
    let before = position(&world).await;
    pair.primary.start();
    world.config.postgres.hosts = at(&[pair.primary.port]).hosts;
    let error = world.fail().await;
    assert_eq!(error.code(), "TW019", "{error:?}");
    assert_eq!(position(&world).await, before);
    assert_eq!(World::read_all(&world.changes()).len(), sent + 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_ahead_of_a_promoted_standby_stops() {
    let mut pair = Pair::start();
    let mut world = pair.world().await;
    let reader = world.start_reader().await;
    pair.wait_for_slot(&world).await;
    pair.wait_for_wal(&world).await;
    // From here on the standby is cut off, and the reader is not.
    pair.standby.ask("ALTER SYSTEM SET primary_conninfo = ''");
    pair.standby.reload().await;
    let kept = world.count("SELECT count(*) FROM item").await;
    world.sql("INSERT INTO item VALUES (-1, 'the standby never had this')").await;
    world.read_until(&world.changes(), kept as usize + 1).await;
    let before = position(&world).await;
    pair.fail_over(&mut world).await;
    assert_eq!(world.count("SELECT count(*) FROM item").await, kept);
    world.sql("INSERT INTO item SELECT g, 'would be skipped' FROM generate_series(-9, -2) g").await;
    let ended = reader.ended().await.expect_err("it must not go on");
    assert_eq!(ended.code(), "TW017", "{ended:?}");
    let why = ended.source().expect("a reason").to_string();
    assert!(why.contains("synchronized_standby_slots"), "{why}");
    // Nothing came of it, and nothing comes of another attempt.
    assert_eq!(world.fail().await.code(), "TW017");
    assert_eq!(position(&world).await, before);
    assert_eq!(World::read_all(&world.changes()).len() as i64, kept + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_standby_without_the_slot_stops_the_reader() {
    let mut pair = Pair::start();
    // As on servers before 17, and where nobody switched it on.
    pair.standby.ask("ALTER SYSTEM SET sync_replication_slots = off");
    pair.standby.reload().await;
    let mut world = pair.world().await;
    let reader = world.start_reader().await;
    world.sql("INSERT INTO item VALUES (1, 'a')").await;
    world.read_until(&world.changes(), 1).await;
    reader.stop().await.expect("it drains");
    pair.wait_for_wal(&world).await;
    pair.fail_over(&mut world).await;
    world.sql("INSERT INTO item VALUES (2, 'b')").await;
    let error = world.fail().await;
    assert_eq!(error.code(), "TW012", "{error:?}");
    assert_eq!(World::read_all(&world.changes()).len(), 1);
}
