//! Every situation in which the reader must stop, on real servers: it says its code, and nothing reaches Kafka.

use std::time::{Duration, Instant};

use tailwater_cdc::Config;
use tailwater_cdc::config::Limits;
use tailwater_cdc::progress::{self, InFlight};
use tailwater_cdc::publish::Publisher;
use tailwater_cdc::publish::kafka::Kafka;
use tailwater_cdc::repair::{At, Refusal, Wish};
use tailwater_config::PostgresConfig;
use tailwater_config::postgres::Hosts;
use tailwater_topics_contract::{Lsn, TopicName};
use tokio::time::sleep;

use super::snapshot::wait_for_all;
use crate::live::{PATIENCE, World, admin, config, connect, create_topics, unique};
use crate::own_postgres::OwnPostgres;
use rdkafka::admin::AdminOptions;

impl World {
    /// A reader must end with this code, under the exit code of the same number, and add nothing to any topic.
    pub(super) async fn stops(&self, code: &str) {
        let count = || {
            let topics = self.registrations.topics.keys();
            topics.map(|topic| World::read_all(topic).len()).collect::<Vec<_>>()
        };
        let before = count();
        let error = self.fail().await;
        assert_eq!(error.code(), code, "{error:?}");
        assert_eq!(format!("TW{:03}", error.exit_code()), code);
        assert_eq!(count(), before, "{code}: nothing is written after it was found");
    }

    /// A world on a server of the test's own.
    pub(super) async fn at(server: &OwnPostgres) -> Self {
        let name = format!("cdc_{}", unique());
        Self::of(own_config(&name, server)).await
    }

    /// From now on the pipeline finds another server at its address.
    pub(super) async fn move_to(&mut self, server: &OwnPostgres) {
        self.config = own_config(self.config.pipeline.as_str(), server);
        self.client = connect(&self.config.postgres, &self.config.postgres.database).await;
    }

    /// Deletes a topic and makes it again.
    pub(super) async fn make_anew(&self, topic: &TopicName) {
        let deleted = admin().delete_topics(&[topic.as_str()], &AdminOptions::new()).await;
        deleted.expect("it is deleted");
        sleep(Duration::from_millis(500)).await;
        create_topics(&[(topic, 1)]).await;
    }

    pub(super) async fn lose_progress(&self) {
        self.make_anew(&self.config.pipeline.progress_topic()).await;
    }

    /// Writes progress as somebody else might have.
    async fn doctor(&self, change: impl FnOnce(&mut progress::Record)) {
        let mut record = self.progress().await.expect("there is progress");
        change(&mut record);
        let (kafka, pipeline) = (self.config.kafka.clone(), self.config.pipeline.clone());
        let written = tokio::task::spawn_blocking(move || {
            let mut publisher = Kafka::new(&kafka, &pipeline).expect("a producer");
            publisher.init(&std::sync::atomic::AtomicBool::new(false)).expect("it fences");
            publisher.commit(&record.encode()).expect("it is written");
        });
        written.await.expect("no panic");
    }

    /// Rows 1 and 2 are in Kafka, and no reader runs.
    async fn begun(&self) {
        let reader = self.start_reader().await;
        self.sql("INSERT INTO item VALUES (1, 'a'), (2, 'b')").await;
        self.read_until(&self.changes(), 2).await;
        reader.stop().await.expect("it drains");
    }

    /// Reads everything anew and compares.
    pub(super) async fn brought_back(&self, what: &str) {
        self.resync().await;
        let reader = self.start_reader().await;
        wait_for_all(self).await;
        reader.stop().await.expect("it drains");
        self.assert_converged(what).await;
    }
}

fn own_config(name: &str, server: &OwnPostgres) -> Config {
    let hosts = Hosts::one("127.0.0.1", server.port);
    Config {
        postgres: PostgresConfig::new(hosts, "postgres", name),
        limits: Limits { slot_wait_ms: 15_000, ..Limits::default() },
        ..config(name, name)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_ahead_of_a_promoted_standby_stops_and_a_resync_takes_back_what_never_was() {
    let mut primary = OwnPostgres::new();
    primary.start();
    let mut world = World::at(&primary).await;
    world.begun().await;
    primary.shut_down();
    let mut standby = primary.standby();
    primary.start();
    world.move_to(&primary).await;
    standby.start();
    // Cut off before the next changes, which the reader sees.
    standby.crash();
    let reader = world.start_reader().await;
    world
        .sql("INSERT INTO item VALUES (3, 'never'); UPDATE item SET body = 'never' WHERE id = 1")
        .await;
    world.read_until(&world.changes(), 4).await;
    reader.stop().await.expect("it drains");
    primary.crash();
    standby.start();
    standby.promote();
    world.move_to(&standby).await;
    world.sql("INSERT INTO item VALUES (4, 'new')").await;
    world.stops("TW017").await;
    let refused = world.found().await.adopt(Wish::default());
    assert!(matches!(refused, Err(Refusal::ResyncOnly { .. })), "{refused:?}");
    world.brought_back("on the promoted standby").await;

    world.doctor(|record| record.timeline = 0).await;
    world.stops("TW018").await;
    world.doctor(|record| record.timeline = 2).await;
    primary.start();
    world.move_to(&primary).await;
    world.stops("TW019").await;
    let refused = world.found().await.resync(Wish::default());
    assert!(matches!(refused, Err(Refusal::NotThis { .. })), "{refused:?}");
    world.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_backup_stops_the_reader_and_a_resync_follows_it() {
    let mut server = OwnPostgres::new();
    server.start();
    let mut world = World::at(&server).await;
    world.begun().await;
    server.shut_down();
    server.back_up();
    server.start();
    world.move_to(&server).await;
    let reader = world.start_reader().await;
    world
        .sql("INSERT INTO item SELECT g, repeat('x', 100) FROM generate_series(10, 10009) g; DELETE FROM item WHERE id = 1")
        .await;
    world.read_until(&world.changes(), 10_004).await;
    reader.stop().await.expect("it drains");
    server.shut_down();
    server.restore();
    server.start();
    world.move_to(&server).await;
    world.stops("TW016").await;
    let refused = world.found().await.adopt(Wish { new_slot: true, epoch: None });
    assert!(matches!(refused, Err(Refusal::ResyncOnly { .. })), "{refused:?}");
    world.brought_back("on the restored server").await;
    world.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_ran_out_of_its_budget_stops_the_reader_and_a_resync_makes_another() {
    let mut server = OwnPostgres::new();
    server.set("max_slot_wal_keep_size = 16MB\nmin_wal_size = 32MB\nmax_wal_size = 32MB");
    server.start();
    let world = World::at(&server).await;
    world.begun().await;
    world.sql("DELETE FROM item WHERE id = 1; INSERT INTO item VALUES (3, 'missed')").await;
    let begun = Instant::now();
    while world.value("SELECT wal_status FROM pg_replication_slots").await != "lost" {
        assert!(begun.elapsed() < PATIENCE, "the slot holds on");
        world
            .sql("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 16000000)); SELECT pg_switch_wal(); CHECKPOINT")
            .await;
    }
    world.stops("TW014").await;
    let refused = world.found().await.adopt(Wish { new_slot: true, epoch: None });
    assert!(matches!(refused, Err(Refusal::ResyncOnly { .. })), "{refused:?}");
    world.brought_back("with another slot").await;
    world.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_stops_the_reader_and_is_adopted_at_a_new_slot() {
    let mut old = OwnPostgres::new();
    old.start();
    let mut world = World::at(&old).await;
    world.begun().await;
    // Moved by dump and restore, with writes stopped.
    let mut new = OwnPostgres::new();
    new.start();
    let copy = World::database(&own_config(world.config.pipeline.as_str(), &new)).await;
    copy.batch_execute("INSERT INTO item VALUES (1, 'a'), (2, 'b')").await.expect("restored");
    world.move_to(&new).await;
    world.stops("TW013").await;
    let refused = world.found().await.adopt(Wish::default());
    assert!(matches!(refused, Err(Refusal::NoSlot { .. })), "{refused:?}");
    let record = world.adopt(Wish { new_slot: true, epoch: None }).await;
    assert!(record.position > Lsn::ZERO);
    let reader = world.start_reader().await;
    world.sql("UPDATE item SET body = 'c' WHERE id = 1").await;
    let records = world.read_until(&world.changes(), 3).await;
    reader.stop().await.expect("it drains");
    assert_eq!(records.len(), 3, "nothing was read anew");
    world.assert_converged("on the new cluster").await;

    // Killed after it made the slot and before it wrote: the next attempt finds the slot.
    world.move_to(&old).await;
    world.stops("TW013").await;
    let plan = world.found().await.adopt(Wish::default()).expect("the slot is there");
    assert!(matches!(plan.at, At::Slot(_)), "{plan:?}");
    world.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_ours_and_what_is_half_sent_under_other_options_stops_the_reader() {
    let world = World::new().await;
    world.begun().await;
    let kept = world.progress().await.expect("there is progress");
    let in_flight = Some(InFlight { commit_lsn: Lsn(kept.position.0 + 1), next_ordinal: 3 });
    world
        .doctor(|record| {
            record.in_flight = in_flight;
            record.options.push_str(";other");
        })
        .await;
    world.stops("TW021").await;
    let found = world.found().await;
    let plan = found.adopt(Wish::default()).expect("it may be adopted");
    assert_eq!(plan.at, At::Progress(kept.position));
    assert!(plan.repeated.contains("first 3 changes"), "{}", plan.repeated);
    world.carry_out(&found, &plan).await;
    let reader = world.start_reader().await;
    world.sql("INSERT INTO item VALUES (3, 'c')").await;
    world.read_until(&world.changes(), 3).await;
    reader.stop().await.expect("it drains");

    world.doctor(|record| record.slot = "other".to_owned()).await;
    world.stops("TW024").await;
    let refused = world.found().await.resync(Wish::default());
    assert!(matches!(refused, Err(Refusal::NotThis { .. })), "{refused:?}");
    let slot = world.config.pipeline.slot();
    world.doctor(|record| record.slot.clone_from(&slot)).await;
    world
        .sql(&format!("SELECT pg_drop_replication_slot('{slot}'); SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding')"))
        .await;
    world.stops("TW023").await;
    let refused = world.found().await.resync(Wish::default());
    assert!(matches!(refused, Err(Refusal::NotThis { .. })), "{refused:?}");
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_about_to_be_lost_shows_in_readiness() {
    let mut server = OwnPostgres::new();
    server.set("max_slot_wal_keep_size = 1GB\nmax_wal_size = 4GB");
    server.start();
    let world = World::at(&server).await;
    let (reader, health) = world.spawn();
    // A transaction that stays open holds the slot back, whatever the reader confirms.
    let holds = world.connect().await;
    let begun = Instant::now();
    while health.check().is_err() {
        assert!(begun.elapsed() < PATIENCE, "{:?}", health.check());
        sleep(Duration::from_millis(50)).await;
    }
    holds.batch_execute("BEGIN; INSERT INTO item VALUES (1, 'open')").await.expect("it is open");
    let said = loop {
        assert!(begun.elapsed() < PATIENCE, "nothing is said of the budget");
        world.sql("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 8000000))").await;
        match health.check() {
            Err(reasons) if reasons.iter().any(|reason| reason.starts_with("wal: ")) => {
                break reasons;
            }
            _ => sleep(Duration::from_secs(1)).await,
        }
    };
    assert!(said.iter().any(|reason| reason.contains("max_slot_wal_keep_size")), "{said:?}");
    reader.stop().await.expect("it drains");
    drop(holds);
    world.leave().await;
}
