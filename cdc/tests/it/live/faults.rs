//! What brokers and those who administer them can do to a reader that works.

use std::time::{Duration, Instant};

use rand::Rng;
use rdkafka::admin::{
    AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tailwater_cdc::Error;
use tailwater_cdc::publish::kafka::{Kafka, KnownEnds};
use tailwater_topics_contract::TopicName;
use tokio::task::block_in_place;
use tokio::time::sleep;

use super::gauntlet::{own, own_server};
use super::{PATIENCE, Record, World, admin, assert_rows, kafka};
use crate::certificates::Authority;
use crate::own_kafka::OwnKafka;

/// So that a test need not wait for fifty seconds.
const WAIT_MS: u64 = 3_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_killed_in_a_transaction_and_gone_past_every_deadline_are_outlived() {
    let seconds = std::env::var("TAILWATER_TEST_OUTAGE_S").ok();
    let outage = Duration::from_secs(seconds.map_or(8, |text| text.parse().expect("seconds")));
    let kills = std::env::var("TAILWATER_TEST_BROKER_KILLS").ok();
    let kills: u32 = kills.map_or(2, |text| text.parse().expect("a number"));
    let mut broker = block_in_place(|| OwnKafka::start(&Authority::new("nobody")));
    // What other tests write during a long outage would use up the budget of the slot.
    let server = own_server();
    let world = World::prepare(|config| {
        own(config, &server);
        config.kafka.brokers = format!("127.0.0.1:{}", broker.open);
        // Without a long outage to come, deadlines are shortened instead.
        if outage < Duration::from_secs(60) {
            config.limits.transaction_wait_ms = WAIT_MS;
        }
    })
    .await;
    world.begin().await;
    let reader = world.start_reader().await;
    let mut rows = 0;
    for kill in 0..=kills {
        let load = insert(&world, rows, 2_000);
        let died = Duration::from_millis(rand::rng().random_range(0..400));
        let ((), ()) = tokio::join!(load, async {
            sleep(died).await;
            block_in_place(|| broker.crash());
        });
        rows += 2_000;
        sleep(if kill == kills { outage } else { Duration::from_secs(1) }).await;
        block_in_place(|| broker.resume());
        let began = Instant::now();
        while block_in_place(|| records(&world)).len() < rows as usize {
            // Also a commit without an answer is only the end of a session.
            assert!(!reader.has_ended(), "{:?}", reader.ended().await);
            assert!(began.elapsed() < PATIENCE * 2, "it does not go on after kill {kill}");
            sleep(Duration::from_millis(200)).await;
        }
        println!("kill {kill} after {died:?}: went on {:?} after the brokers", began.elapsed());
        world.assert_not_ahead().await;
    }
    println!("| broker kills, last for {outage:?} | - | {} | - | {rows} | 0 | 0 | 0 |", kills + 1);
    assert_rows(&block_in_place(|| records(&world)), rows, 0);
    reader.stop().await.expect("it drains");
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_comes_back_while_the_brokers_are_silent() {
    // Connections are taken and nothing is said: no call can fail by itself.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let taken = tokio::spawn(async move {
        let mut all = Vec::new();
        loop {
            all.push(silent.accept().await);
        }
    });
    let brokers = tailwater_config::KafkaConfig::new(format!("127.0.0.1:{port}"));
    let pipeline = "silent".parse().expect("a name");
    let asked = |what: &str, call: &dyn Fn() -> Result<(), tailwater_cdc::publish::Error>| {
        let began = Instant::now();
        let error = call().expect_err("nobody answers");
        assert!(began.elapsed() < Duration::from_secs(25), "{what} took {:?}", began.elapsed());
        assert_eq!(error.code().text, "TW035", "{what}: {error:?}");
    };
    block_in_place(|| {
        let kafka = Kafka::for_topics(
            &brokers,
            &pipeline,
            &[],
            Duration::from_secs(2),
            KnownEnds::default(),
        );
        let kafka = kafka.expect("it is not connected yet");
        asked("registering", &|| kafka.init(&std::sync::atomic::AtomicBool::new(false)));
        asked("reading progress", &|| {
            let read =
                tailwater_cdc::publish::kafka::last_value(&brokers, &pipeline.progress_topic());
            read.map(drop)
        });
        let began = Instant::now();
        drop(kafka);
        assert!(began.elapsed() < Duration::from_secs(10), "dropping took {:?}", began.elapsed());
    });
    taken.abort();
}

// ---- topics ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_made_anew_under_a_running_reader_stops_it_and_holds_nothing() {
    let world = World::prepare(|config| config.limits.transaction_wait_ms = WAIT_MS).await;
    world.begin().await;
    let reader = world.start_reader().await;
    world.sql("INSERT INTO item SELECT g, 'x' FROM generate_series(1, 10) g").await;
    world.read_until(&world.changes(), 10).await;
    let name = world.changes();
    make_anew(&name).await;
    world.sql("INSERT INTO item VALUES (11, 'x')").await;
    let error = reader.ended().await.expect_err("it must not go on");
    assert!(matches!(error.code(), "TW026" | "TW033"), "{error:?}");
    assert!(World::read_all(&name).is_empty(), "something was committed into the new topic");
    let error = world.fail().await;
    assert!(matches!(error.code(), "TW026" | "TW033"), "{error:?}");
    assert!(World::read_all(&name).is_empty(), "it was silently resumed");
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_made_anew_after_the_first_record_of_a_reader_that_died_is_found_out() {
    let world = World::new().await;
    world.begin().await;
    let mut child = world.start_child();
    world.sql("INSERT INTO item VALUES (1, 'x')").await;
    world.read_until(&world.changes(), 1).await;
    child.kill().expect("it can be killed");
    child.wait().expect("it is gone");
    make_anew(&world.changes()).await;
    assert_eq!(world.fail().await.code(), "TW026");
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_progress_topic_that_was_deleted_stops_the_reader_for_good() {
    let world = World::new().await;
    world.begin().await;
    let reader = world.start_reader().await;
    world.sql("INSERT INTO item VALUES (1, 'x')").await;
    world.read_until(&world.changes(), 1).await;
    let progress = world.config.pipeline.progress_topic();
    make_anew(&progress).await;
    world.sql("INSERT INTO item VALUES (2, 'x')").await;
    // After a lost connection it is found at the next beginning: a slot, and an empty progress topic.
    let error = reader.ended().await.expect_err("it must not go on");
    assert!(matches!(error.code(), "TW011" | "TW026" | "TW033"), "{error:?}");
    assert_eq!(World::read_all(&world.changes()).len(), 1, "nothing is committed any more");
    // There is a slot and an empty progress topic.
    assert_eq!(world.fail().await.code(), "TW011");
    assert_eq!(World::read_all(&world.changes()).len(), 1);
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_progress_topic_is_named_with_the_remedy() {
    let world = World::new().await;
    world.start_reader().await.stop().await.expect("it drains");
    let progress = world.config.pipeline.progress_topic();
    admin().delete_topics(&[progress.as_str()], &AdminOptions::new()).await.expect("deleted");
    sleep(Duration::from_millis(500)).await;
    let error = world.fail().await;
    assert_eq!(error.code(), "TW033", "{error:?}");
    let said = chain(&error);
    assert!(said.contains(progress.as_str()) && said.contains("tailwater cdc resync"), "{said}");
    let new = NewTopic::new(progress.as_str(), 1, TopicReplication::Fixed(1));
    admin().create_topics(&[new], &AdminOptions::new()).await.expect("Kafka answers");
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_added_under_a_running_reader_move_no_key() {
    let world = World::prepare(|config| {
        // The client would notice after five minutes by itself.
        let soon = ("topic.metadata.refresh.interval.ms".to_owned(), "200".to_owned());
        config.kafka.properties.insert(soon.0, soon.1);
    })
    .await;
    world.begin().await;
    let reader = world.start_reader().await;
    world.sql("INSERT INTO item SELECT g, 'a' FROM generate_series(1, 50) g").await;
    world.read_until(&world.changes(), 50).await;
    let (name, options) = (world.changes(), AdminOptions::new());
    let more = [NewPartitions::new(name.as_str(), 4)];
    admin().create_partitions(&more, &options).await.expect("Kafka answers");
    sleep(Duration::from_secs(1)).await;
    world.sql("UPDATE item SET body = 'b'").await;
    // This reads partition 0 alone.
    let records = world.read_until(&name, 100).await;
    assert_eq!(records.len(), 100);
    reader.stop().await.expect("it drains");
    let error = world.fail().await;
    assert_eq!(error.code(), "TW033", "{error:?}");
    let said = chain(&error);
    assert!(said.contains("has 4 partitions, but is registered with 1"), "{said}");
    world.drop().await;
}

// ---- sizes ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_its_topic_does_not_take_is_set_aside_with_its_bytes_and_its_neighbours_come() {
    let world = World::new().await;
    world.begin().await;
    let reader = world.start_reader().await;
    let large = "SELECT string_agg(md5(g::text), '') FROM generate_series(1, 40000) g";
    world.sql(&format!("INSERT INTO item SELECT 1, 'before' UNION ALL SELECT 2, ({large}) UNION ALL SELECT 3, 'after'")).await;
    let changes = world.read_until(&world.changes(), 2).await;
    assert_eq!(ids(&changes), [1, 3]);
    let letters = world.config.pipeline.reader_dead_letter_topic();
    let set_aside = world.read_until(&letters, 1).await;
    let letter = &set_aside[0];
    assert_eq!(letter.key.as_deref(), Some(br#"{"id":2}"#.as_slice()));
    let body = world.value(large).await;
    assert_eq!(letter.json().expect("JSON")["after"]["body"], body.as_str(), "byte for byte");
    assert_eq!(letter.header("tw-dlq-topic"), Some(world.changes().as_str()));
    assert_eq!(letter.header("tw-dlq-class"), Some("too-large"));
    let why = letter.header("tw-dlq-reason").expect("a reason");
    assert!(why.contains("raise its `max.message.bytes`"), "{why}");
    assert_eq!([changes[0].seq(), letter.seq(), changes[1].seq()].map(|seq| seq & 0xff), [1, 2, 3]);

    // A limit that is raised holds within a second.
    let name = world.changes();
    let raise = AlterConfig::new(ResourceSpecifier::Topic(name.as_str()))
        .set("max.message.bytes", "8000000");
    admin().alter_configs([&raise], &AdminOptions::new()).await.expect("Kafka answers");
    sleep(Duration::from_secs(1)).await;
    world.sql(&format!("INSERT INTO item SELECT 4, ({large})")).await;
    let changes = world.read_until(&name, 3).await;
    assert_eq!(ids(&changes), [1, 3, 4]);
    reader.stop().await.expect("it drains");

    // What is left out, and a restart, change nothing in the numbers.
    let reader = world.start_reader().await;
    world.sql("INSERT INTO item VALUES (5, 'last')").await;
    let changes = world.read_until(&name, 4).await;
    assert_eq!(changes[3].seq() & 0xff, 5);
    reader.stop().await.expect("it drains");
    assert_eq!(World::read_all(&letters).len(), 1);
    admin().delete_topics(&[letters.as_str()], &AdminOptions::new()).await.expect("Kafka answers");
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_with_a_small_limit_takes_many_small_records() {
    let world = World::new().await;
    let name = world.changes();
    let small =
        AlterConfig::new(ResourceSpecifier::Topic(name.as_str())).set("max.message.bytes", "20000");
    admin().alter_configs([&small], &AdminOptions::new()).await.expect("Kafka answers");
    world.begin().await;
    let reader = world.start_reader().await;
    // Together far beyond the limit, and hard to compress.
    world.sql("INSERT INTO item SELECT g, (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 60 + g * 0) h) FROM generate_series(0, 499) g").await;
    let records = world.read_until(&name, 500).await;
    reader.stop().await.expect("it drains");
    assert_rows(&records, 500, 0);
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_too_large_even_to_be_set_aside_stops_the_reader() {
    let world = World::new().await;
    world.begin().await;
    let reader = world.start_reader().await;
    world.sql("INSERT INTO item SELECT 1, repeat('x', 62 * 1024 * 1024)").await;
    let error = reader.ended().await.expect_err("it must not skip it");
    assert_eq!(error.code(), "TW034", "{error:?}");
    assert!(World::read_all(&world.changes()).is_empty());
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_no_event_stands_in_the_dead_letter_topic_and_holds_nobody_up() {
    let world = World::new().await;
    world.begin().await;
    let reader = world.start_reader().await;
    let event = |id: u32| {
        format!(
            "SELECT pg_logical_emit_message(true, 'shop.outbox', '{{\"id\": {id}, \"aggregate_type\": \"shop\", \"aggregate_id\": \"o\", \"event_type\": \"Placed\", \"payload\": {{}}}}')"
        )
    };
    world.sql("SELECT pg_logical_emit_message(true, 'shop.outbox', 'no event')").await;
    world.sql(&event(1)).await;
    let events = world.read_until(&world.events(), 1).await;
    let letters = world.config.pipeline.reader_dead_letter_topic();
    let letter = world.read_until(&letters, 1).await.remove(0);
    assert_eq!(letter.value.as_deref(), Some(b"no event".as_slice()));
    assert_eq!(letter.header("tw-dlq-class"), Some("no-event"));
    assert_eq!(events[0].header("ce_id"), Some("1"));
    reader.stop().await.expect("it drains");
    // The letter belongs to no topic whose end is watched over: it may be thrown away.
    admin().delete_topics(&[letters.as_str()], &AdminOptions::new()).await.expect("Kafka answers");
    let reader = world.start_reader().await;
    world.sql(&event(2)).await;
    world.read_until(&world.events(), 2).await;
    reader.stop().await.expect("it drains");
    world.drop().await;
}

// ---- helpers ----

/// Rows one by one and in larger transactions.
async fn insert(world: &World, from: i64, rows: i64) {
    let mut next = from;
    while next < from + rows {
        let last = (next + 100).min(from + rows) - 1;
        world
            .sql(&format!("INSERT INTO item SELECT g, 'x' FROM generate_series({next}, {last}) g"))
            .await;
        next = last + 1;
        sleep(Duration::from_millis(20)).await;
    }
}

fn records(world: &World) -> Vec<Record> {
    World::read_all_at(&world.config.kafka.brokers, &world.changes())
}

fn ids(records: &[Record]) -> Vec<i64> {
    let id = |record: &Record| record.json().expect("a change")["after"]["id"].as_i64();
    records.iter().filter_map(id).collect()
}

async fn make_anew(topic: &TopicName) {
    let (admin, options) = (admin(), AdminOptions::new());
    admin.delete_topics(&[topic.as_str()], &options).await.expect("it is deleted");
    let began = Instant::now();
    loop {
        let new = NewTopic::new(topic.as_str(), 1, TopicReplication::Fixed(1));
        let made = admin.create_topics(&[new], &options).await.expect("Kafka answers");
        if made[0].is_ok() {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{made:?}");
        sleep(Duration::from_millis(50)).await;
    }
    // The controller answers before the broker has let go of the old one.
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", kafka()).create().expect("a client");
    let end = || consumer.fetch_watermarks(topic.as_str(), 0, PATIENCE).map(|(_, end)| end);
    while block_in_place(end) != Ok(0) {
        assert!(began.elapsed() < PATIENCE, "the old topic stays");
        sleep(Duration::from_millis(50)).await;
    }
}

pub(super) fn chain(error: &Error) -> String {
    let first: &dyn std::error::Error = error;
    let causes = std::iter::successors(first.source(), |cause| cause.source());
    causes.fold(error.to_string(), |said, cause| format!("{said}: {cause}"))
}
