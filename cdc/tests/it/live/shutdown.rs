//! A server that is shut down waits for whoever reads its WAL. It must not wait for us.

use std::time::{Duration, Instant};

use tailwater_config::postgres::Hosts;
use tailwater_config::{KafkaConfig, PostgresConfig};
use tokio::time::sleep;

use super::{PATIENCE, World, connect};
use crate::certificates::Authority;
use crate::own_kafka::OwnKafka;
use crate::own_postgres::OwnPostgres;

/// A server that would wait for ever.
fn patient() -> OwnPostgres {
    let mut server = OwnPostgres::new();
    server.set("wal_sender_timeout = 0");
    server.start();
    server
}

fn address(server: &OwnPostgres) -> PostgresConfig {
    PostgresConfig::new(Hosts::one("127.0.0.1", server.port), "postgres", "postgres")
}

async fn wait_for_seq(world: &World, records: u64) {
    let last = (1_u64 << 44) + records;
    let begun = Instant::now();
    while world.progress().await.is_none_or(|record| record.seq < last) {
        assert!(begun.elapsed() < PATIENCE, "the rows do not arrive");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_of_the_server_takes_no_longer_because_of_a_reader() {
    let mut server = patient();
    let mut world = World::on(address(&server)).await;
    world.begin().await;
    let reader = world.start_reader().await;
    world.sql("INSERT INTO item SELECT g, 'before' FROM generate_series(1, 5000) g").await;
    let took = server.shut_down();
    assert!(took < Duration::from_secs(5), "{took:?}");
    server.start();
    world.client = connect(&world.config.postgres, &world.config.postgres.database).await;
    world.sql("INSERT INTO item SELECT g, 'after' FROM generate_series(5001, 5010) g").await;
    assert_eq!(world.read_until(&world.changes(), 5010).await.len(), 5010);
    reader.stop().await.expect("it drains");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_of_the_server_does_not_wait_until_kafka_is_back() {
    let mut server = patient();
    let mut broker = OwnKafka::start(&Authority::new("nobody"));
    let kafka = KafkaConfig::new(broker.address());
    let mut world = World::on(address(&server)).await.moved_to(&broker, kafka).await;
    world.begin().await;
    let reader = world.start_reader().await;
    world.sql("INSERT INTO item VALUES (1, 'Kafka is there')").await;
    wait_for_seq(&world, 1).await;
    broker.crash();
    world.sql("INSERT INTO item VALUES (2, 'Kafka is away')").await;
    sleep(Duration::from_secs(1)).await;
    let took = server.shut_down();
    assert!(took < Duration::from_secs(15), "{took:?}");

    // Nothing was confirmed that is not there.
    reader.abandon();
    broker.resume();
    server.start();
    world.client = connect(&world.config.postgres, &world.config.postgres.database).await;
    let reader = world.start_reader().await;
    wait_for_seq(&world, 2).await;
    reader.stop().await.expect("it drains");
}
