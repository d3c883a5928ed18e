//! Traffic that shows every way to lose or repeat something: money that moves between accounts.
//!
//! Each transaction moves an amount, raises `ver` of both accounts by one, and writes one transfer and one event. Some
//! roll back, as a whole or to a savepoint; parcels come, change, lose their key to another and go; large columns stay
//! as they are; now and then a transaction has thousands of rows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tailwater_topics_contract::{From as Origin, TopicName};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::live::{World, connect, create_topics_at, registration, unique};
use crate::verifier::{Row, Seen, Truth};

const ACCOUNTS: i32 = 40;
const BALANCE: i64 = 1_000;
const WRITERS: usize = 3;
const PARTITIONS: i32 = 3;

/// Tables of the ledger with their columns, and what is declared for each.
const TABLES: [(&str, &[&str]); 3] = [
    ("accounts", &["id", "balance", "ver", "big"]),
    ("transfers", &["id", "payer", "payee", "amount"]),
    ("parcels", &["id", "note", "big"]),
];

const SCHEMA: &str = "
CREATE SCHEMA ledger;
CREATE TABLE ledger.accounts (id int PRIMARY KEY, balance bigint NOT NULL, ver bigint NOT NULL, big text);
ALTER TABLE ledger.accounts ALTER COLUMN big SET STORAGE EXTERNAL;
CREATE TABLE ledger.transfers (id bigint PRIMARY KEY, payer int, payee int, amount bigint);
CREATE TABLE ledger.parcels (id bigint PRIMARY KEY, note text, big text);
ALTER TABLE ledger.parcels ALTER COLUMN big SET STORAGE EXTERNAL;
ALTER TABLE ledger.parcels REPLICA IDENTITY FULL;
INSERT INTO ledger.transfers SELECT -g, 0, 0, 0 FROM generate_series(1, 200) g;
INSERT INTO ledger.parcels SELECT g, 'first', repeat('p', 3000) FROM generate_series(1, 50) g;";

/// Writers at work.
pub(crate) struct Ledger {
    stop: Arc<AtomicBool>,
    writes_events: Arc<AtomicBool>,
    writers: Vec<JoinHandle<u64>>,
}

impl Ledger {
    /// A world with the ledger's tables and topics; nothing is written yet.
    pub(crate) async fn prepare(world: &mut World) {
        let fill = format!(
            "INSERT INTO ledger.accounts SELECT g, {BALANCE}, 0, repeat('a', 3000) FROM generate_series(1, {ACCOUNTS}) g"
        );
        world.client.batch_execute(&format!("{SCHEMA} {fill}")).await.expect("tables");
        let publication = world.config.pipeline.changes_publication();
        for (table, _) in TABLES {
            let published = format!("ALTER PUBLICATION {publication} ADD TABLE ledger.{table}");
            world.client.batch_execute(&published).await.expect("published");
            let name: TopicName = topic(world, table);
            create_topics_at(&world.config.kafka.brokers, &[(&name, PARTITIONS)]).await;
            let from = Origin::Table(format!("ledger.{table}").parse().expect("a name"));
            let (name, mut topic) = registration(name, from, &["id"], "compact");
            topic.spec.partitions = PARTITIONS as u32;
            world.registrations.topics.insert(name, topic);
        }
    }

    /// Begins to write. Events only from [`Self::write_events`] on: a first start refuses an outbox that holds some.
    pub(crate) fn start(world: &World, seed: u64, pause: Duration) -> Self {
        let (stop, writes_events) = (Arc::default(), Arc::default());
        let writer = |number: usize| {
            let writer = Writer {
                random: StdRng::seed_from_u64(seed.wrapping_add(number as u64)),
                next: (number as i64 + 1) << 32,
                writes_events: Arc::clone(&writes_events),
            };
            let (config, stop) = (world.config.postgres.clone(), Arc::clone(&stop));
            tokio::spawn(async move { writer.run(&config, &stop, pause).await })
        };
        let writers = (0..WRITERS).map(writer).collect();
        Self { stop, writes_events, writers }
    }

    /// From now on each transaction has its event.
    pub(crate) fn write_events(&self) {
        self.writes_events.store(true, Ordering::SeqCst);
    }

    /// Ends it; answers how many transactions ended well, with a commit or as a roll-back that was meant.
    pub(crate) async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        let mut done = 0;
        for writer in self.writers {
            done += writer.await.expect("no panic");
        }
        done
    }
}

struct Writer {
    random: StdRng,
    next: i64,
    writes_events: Arc<AtomicBool>,
}

impl Writer {
    async fn run(
        mut self,
        config: &tailwater_config::PostgresConfig,
        stop: &AtomicBool,
        pause: Duration,
    ) -> u64 {
        let mut done = 0;
        'connected: while !stop.load(Ordering::SeqCst) {
            let Ok(client) = tailwater_postgres::client(config, "ledger").await else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            while !stop.load(Ordering::SeqCst) {
                let sql = self.transaction();
                // What became of a transaction that failed is read from the tables in the end.
                match client.batch_execute(&sql).await {
                    Ok(()) => done += 1,
                    Err(error) if error.as_db_error().is_some() => {
                        if client.batch_execute("ROLLBACK").await.is_err() {
                            continue 'connected;
                        }
                    }
                    Err(_) => continue 'connected,
                }
                sleep(pause).await;
            }
        }
        done
    }

    fn transaction(&mut self) -> String {
        if self.random.random_bool(0.001) {
            return self.large();
        }
        let mut sql = "BEGIN;".to_owned();
        sql += &self.transfer();
        if self.random.random_bool(0.1) {
            sql += "SAVEPOINT a;";
            sql += &self.transfer();
            sql += if self.random.random_bool(0.7) { "ROLLBACK TO a;" } else { "RELEASE a;" };
            sql += &self.transfer();
        }
        if self.random.random_bool(0.3) {
            sql += &self.parcel();
        }
        sql + if self.random.random_bool(0.05) { "ROLLBACK" } else { "COMMIT" }
    }

    fn transfer(&mut self) -> String {
        let payer = self.random.random_range(1..=ACCOUNTS);
        let payee = payer % ACCOUNTS + 1;
        let amount = self.random.random_range(1..50);
        self.next += 1;
        let id = self.next;
        let mut update = |id: i32, amount: i64| {
            // Mostly the large column stays, and so is not sent.
            let big = if self.random.random_bool(0.02) {
                ", big = repeat(md5(ver::text), 100)"
            } else {
                ""
            };
            format!(
                "UPDATE ledger.accounts SET balance = balance + {amount}, ver = ver + 1{big} WHERE id = {id};"
            )
        };
        // Always in the order of ids, so that writers do not wait for each other in a circle.
        let mut updates = [(payer, -amount), (payee, amount)];
        updates.sort_unstable();
        let updates: String = updates.iter().map(|(id, amount)| update(*id, *amount)).collect();
        let event = if self.writes_events.load(Ordering::SeqCst) {
            format!(
                "INSERT INTO shop.outbox (id, aggregate_type, aggregate_id, event_type, event_version, payload)
                 VALUES (gen_random_uuid(), 'shop', '{payer}', 'shop.paid', 1, '{{\"transfer\": {id}}}');"
            )
        } else {
            String::new()
        };
        format!(
            "{updates} INSERT INTO ledger.transfers VALUES ({id}, {payer}, {payee}, {amount}); {event}"
        )
    }

    fn parcel(&mut self) -> String {
        let id = self.random.random_range(1..=80);
        match self.random.random_range(0..10) {
            0..2 => format!("DELETE FROM ledger.parcels WHERE id = {id};"),
            2 => format!("UPDATE ledger.parcels SET id = id + 100 WHERE id = {id};"),
            3 => format!("UPDATE ledger.parcels SET id = id - 100 WHERE id = {id} + 100;"),
            4..7 => format!("UPDATE ledger.parcels SET note = md5(note) WHERE id = {id};"),
            _ => format!(
                "INSERT INTO ledger.parcels VALUES ({id}, 'new', repeat('q', 2500)) ON CONFLICT (id) DO UPDATE SET big = repeat(md5({id}::text), 90);"
            ),
        }
    }

    /// A transaction that is split over several of Kafka's.
    fn large(&mut self) -> String {
        let (first, rows) = (self.next + 1, self.random.random_range(1_000..3_000));
        self.next += rows;
        let last = self.next;
        format!(
            "BEGIN; INSERT INTO ledger.transfers SELECT g, 0, 0, 0 FROM generate_series({first}, {last}) g; COMMIT"
        )
    }
}

pub(crate) fn topic(world: &World, table: &str) -> TopicName {
    format!("{}.{table}", world.config.pipeline).parse().expect("a name")
}

/// What the tables hold.
pub(crate) async fn truth(world: &World) -> Truth {
    let client = connect(&world.config.postgres, &world.config.postgres.database).await;
    let mut truth = Truth { total: i64::from(ACCOUNTS) * BALANCE, ..Truth::default() };
    for (table, columns) in TABLES {
        let cast: Vec<String> = columns.iter().map(|column| format!("{column}::text")).collect();
        let sql = format!("SELECT {} FROM ledger.{table}", cast.join(", "));
        let rows = client.query(&sql, &[]).await.expect("rows");
        let row = |row: &tokio_postgres::Row| {
            let column = |(at, name): (usize, &&str)| ((*name).to_owned(), row.get(at));
            let columns: Row = columns.iter().enumerate().map(column).collect();
            (format!(r#"{{"id":{}}}"#, columns["id"].clone().expect("a key")), columns)
        };
        truth.tables.insert(table, rows.iter().map(row).collect());
    }
    let events = client.query("SELECT id::text FROM shop.outbox", &[]).await.expect("rows");
    truth.events = events.iter().map(|row| row.get(0)).collect();
    truth
}

/// Everything a read-committed consumer gets.
pub(crate) fn read(world: &World) -> Vec<Seen> {
    let brokers = &world.config.kafka.brokers;
    let tables = TABLES.iter().map(|(table, _)| (*table, PARTITIONS));
    tables
        .chain([("events", 1)])
        .flat_map(|(name, count)| topic_of(brokers, world, name, count))
        .collect()
}

fn topic_of(brokers: &str, world: &World, name: &'static str, partitions: i32) -> Vec<Seen> {
    let topic = topic(world, name);
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", unique())
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .expect("a consumer");
    let mut all = TopicPartitionList::new();
    for partition in 0..partitions {
        all.add_partition_offset(topic.as_str(), partition, Offset::Beginning)
            .expect("a partition");
    }
    consumer.assign(&all).expect("assigned");
    let (mut seen, mut ended, began) = (Vec::new(), BTreeSet::new(), Instant::now());
    while ended.len() < partitions as usize {
        assert!(began.elapsed() < Duration::from_secs(300), "reading {topic} takes too long");
        match consumer.poll(Duration::from_millis(500)) {
            Some(Ok(message)) => seen.push(of(name, &message)),
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(ended.insert(partition)),
            Some(Err(error)) => panic!("reading {topic}: {error}"),
            None => {}
        }
    }
    seen
}

fn of(topic: &'static str, message: &impl Message) -> Seen {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let header = |name: &str| {
        let headers = message.headers()?;
        let found = headers.iter().find(|header| header.key == name)?;
        found.value.map(text)
    };
    Seen {
        topic,
        partition: message.partition(),
        key: message.key().map(text).unwrap_or_default(),
        value: message.payload().map(text),
        seq: header("tw-seq").map(|seq| seq.parse().expect("a number")),
        event: header("ce_id"),
    }
}
