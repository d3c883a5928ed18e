//! The world around a reader: a database of its own, a pipeline, topics; readers in tasks and in processes; what arrived.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use tailwater_cdc::config::Limits;
use tailwater_cdc::crash::Point;
use tailwater_cdc::{Config, Error, progress};
use tailwater_config::postgres::Host;
use tailwater_config::{KafkaConfig, PostgresConfig};
use tailwater_postgres::{Client, from_url};
use tailwater_runtime::Health;
use tailwater_topics_contract::{
    From as Origin, Generation, Lsn, Registrations, Standing, TopicName, TopicRegistration,
    TopicSpec,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::own_kafka::OwnKafka;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) registrations: Registrations,
    pub(crate) client: Client,
}

pub(crate) struct Reader {
    task: JoinHandle<Result<(), Error>>,
    stop: CancellationToken,
    pub(crate) registrations: watch::Sender<Registrations>,
}

impl Reader {
    pub(crate) async fn stop(self) -> Result<(), Error> {
        self.stop.cancel();
        self.ended().await
    }

    /// Leaves it where it is, as a process that dies.
    pub(super) fn abandon(self) {
        self.task.abort();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    pub(crate) async fn ended(self) -> Result<(), Error> {
        timeout(PATIENCE, self.task).await.expect("it ends in time").expect("no panic")
    }
}

pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set; start the servers with `make servers` and run this through `make test`")
    })
}

pub(crate) fn kafka() -> String {
    variable("TAILWATER_TEST_KAFKA")
}

pub(crate) fn unique() -> String {
    uuid::Uuid::new_v4().simple().to_string()[..10].to_owned()
}

/// The server that the tests share.
pub(super) fn server() -> PostgresConfig {
    from_url(&variable("TAILWATER_TEST_POSTGRES")).expect("a URL")
}

pub(crate) fn config(pipeline: &str, database: &str) -> Config {
    Config {
        pipeline: pipeline.parse().expect("a name"),
        postgres: PostgresConfig { database: database.to_owned(), ..server() },
        kafka: KafkaConfig::new(kafka()),
        limits: Limits { transaction_bytes: 1 << 20, ..Limits::default() },
        from_now: false,
        events_from_now: false,
        mask_key: None,
    }
}

pub(crate) async fn connect(config: &PostgresConfig, database: &str) -> Client {
    let config = PostgresConfig { database: database.to_owned(), ..config.clone() };
    tailwater_postgres::client(&config, "test").await.expect("Postgres answers")
}

pub(crate) fn admin() -> AdminClient<DefaultClientContext> {
    admin_at(&kafka())
}

pub(crate) fn admin_at(brokers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a client")
}

pub(crate) async fn create_topics(topics: &[(&TopicName, i32)]) {
    create_topics_at(&kafka(), topics).await;
}

pub(crate) async fn create_topics_at(brokers: &str, topics: &[(&TopicName, i32)]) {
    let new: Vec<_> = topics
        .iter()
        .map(|(name, partitions)| {
            NewTopic::new(name.as_str(), *partitions, TopicReplication::Fixed(1))
        })
        .collect();
    let made = admin_at(brokers).create_topics(&new, &AdminOptions::new()).await;
    let made = made.expect("Kafka answers");
    made.into_iter().for_each(|made| assert!(made.is_ok(), "{made:?}"));
}

pub(crate) fn registration(
    name: TopicName,
    from: Origin,
    key: &[&str],
    policy: &str,
) -> (TopicName, TopicRegistration) {
    let spec = TopicSpec {
        name: name.clone(),
        from,
        key: None,
        partitions: 1,
        replication: None,
        config: BTreeMap::from([("cleanup.policy".to_owned(), policy.to_owned())]),
        expose: Vec::new(),
        values: tailwater_topics_contract::Values::default(),
        mask: BTreeMap::new(),
        declared_at: None,
    };
    let key_columns = key.iter().map(|column| (*column).to_owned()).collect();
    (
        name,
        TopicRegistration {
            spec,
            key_columns,
            generation: Generation::default(),
            standing: Standing::Active,
            reread: None,
        },
    )
}

impl World {
    /// Registers a topic for a table, and creates it.
    pub(crate) async fn register(&mut self, table: &str, key: &str, suffix: &str) {
        let name: TopicName = format!("{}.{suffix}", self.config.pipeline).parse().expect("a name");
        create_topics(&[(&name, 1)]).await;
        let from = Origin::Table(table.parse().expect("a name"));
        let (name, topic) = registration(name, from, &[key], "compact");
        self.registrations.topics.insert(name, topic);
    }

    /// A database with a table and an outbox, their publications, and topics for both.
    pub(crate) async fn new() -> Self {
        Self::on(server()).await
    }

    /// The same on another server.
    pub(crate) async fn on(server: PostgresConfig) -> Self {
        Self::prepare(|config| {
            config.postgres =
                PostgresConfig { database: config.postgres.database.clone(), ..server };
        })
        .await
    }

    /// The same with other settings.
    pub(crate) async fn prepare(touch: impl FnOnce(&mut Config)) -> Self {
        let name = format!("cdc_{}", unique());
        let mut config = config(&name, &name);
        touch(&mut config);
        Self::of(config).await
    }

    /// The database of a configuration, on whichever server that names.
    pub(crate) async fn database(config: &Config) -> Client {
        let name = &config.postgres.database;
        let root = connect(&config.postgres, "postgres").await;
        root.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a database");
        let client = connect(&config.postgres, name).await;
        let (changes, outbox) =
            (config.pipeline.changes_publication(), config.pipeline.outbox_publication());
        let sql = format!(
            "CREATE TABLE item (id bigint PRIMARY KEY, body text);
             CREATE SCHEMA shop;
             CREATE TABLE shop.outbox (
                 id uuid NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), aggregate_type text NOT NULL,
                 aggregate_id text NOT NULL, event_type text NOT NULL, event_version smallint NOT NULL,
                 partition_key text, payload jsonb NOT NULL, headers jsonb, correlation_id uuid,
                 causation_id uuid, traceparent text, PRIMARY KEY (id, created_at)
             ) PARTITION BY RANGE (created_at);
             CREATE TABLE shop.outbox_default PARTITION OF shop.outbox DEFAULT;
             CREATE PUBLICATION {changes} FOR TABLE item WITH (publish_via_partition_root = true);
             CREATE PUBLICATION {outbox} FOR TABLE shop.outbox
                 WITH (publish = 'insert', publish_via_partition_root = true);"
        );
        client.batch_execute(&sql).await.expect("tables and publications");
        client
    }

    /// The same for a configuration of the test's own.
    pub(crate) async fn of(config: Config) -> Self {
        let client = Self::database(&config).await;
        let name = config.pipeline.to_string();
        let topic = |suffix: &str, from: Origin, key: &[&str], policy: &str| {
            registration(format!("{name}.{suffix}").parse().expect("a name"), from, key, policy)
        };
        let table = "public.item".parse().expect("a name");
        let outbox = Origin::Outbox {
            aggregate: "shop".to_owned(),
            table: "shop.outbox".parse().expect("a name"),
        };
        let topics = BTreeMap::from([
            topic("changes", Origin::Table(table), &["id"], "compact"),
            topic("events", outbox, &[], "delete"),
        ]);
        let progress = config.pipeline.progress_topic();
        let mut new: Vec<(&TopicName, i32)> = topics.keys().map(|name| (name, 1)).collect();
        new.push((&progress, 1));
        create_topics_at(&config.kafka.brokers, &new).await;
        let registrations = Registrations { topics, ..Registrations::default() };
        Self { config, registrations, client }
    }

    /// As this one, with its topics on a broker of the test, written to as `kafka` says.
    pub(super) async fn moved_to(mut self, broker: &OwnKafka, kafka: KafkaConfig) -> Self {
        self.delete_topics().await;
        self.config.kafka = kafka;
        let progress = self.config.pipeline.progress_topic();
        let names = self.registrations.topics.keys().chain([&progress]);
        let topics: Vec<_> = names.map(|name| (name, 1)).collect();
        create_topics_at(&broker.address(), &topics).await;
        self
    }

    pub(crate) fn changes(&self) -> TopicName {
        format!("{}.changes", self.config.pipeline).parse().expect("a name")
    }

    pub(crate) fn events(&self) -> TopicName {
        format!("{}.events", self.config.pipeline).parse().expect("a name")
    }

    pub(super) async fn connect(&self) -> Client {
        connect(&self.config.postgres, &self.config.postgres.database).await
    }

    pub(crate) async fn sql(&self, sql: &str) {
        // One statement at a time: each is a transaction of its own.
        for statement in sql.split(';').filter(|statement| !statement.trim().is_empty()) {
            let done = self.client.batch_execute(statement).await;
            done.unwrap_or_else(|error| panic!("`{statement}`: {error:?}"));
        }
    }

    pub(crate) async fn value(&self, sql: &str) -> String {
        self.client.query_one(sql, &[]).await.expect("a row").get(0)
    }

    /// `server_version_num`: 150018 is 15.18.
    pub(crate) async fn version(&self) -> i64 {
        self.value("SHOW server_version_num").await.parse().expect("a number")
    }

    pub(crate) async fn count(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.expect("a row").get(0)
    }

    pub(super) fn spawn(&self) -> (Reader, Health) {
        let (sender, follow) = watch::channel(self.registrations.clone());
        let (stop, health) = (CancellationToken::new(), Health::default());
        let run = tailwater_cdc::run(self.config.clone(), follow, stop.clone(), health.clone());
        (Reader { task: tokio::spawn(run), stop, registrations: sender }, health)
    }

    /// A reader that has begun to stream.
    pub(crate) async fn start_reader(&self) -> Reader {
        let (reader, health) = self.spawn();
        let begun = Instant::now();
        while let Err(reasons) = health.check() {
            if reader.task.is_finished() {
                reader.ended().await.expect("the reader works");
                panic!("the reader ended by itself");
            }
            assert!(begun.elapsed() < PATIENCE, "not ready: {reasons:?}");
            sleep(Duration::from_millis(20)).await;
        }
        reader
    }

    /// The very first start, up to the end of its copy: from here on a row comes by its change and in no other way.
    pub(crate) async fn begin(&self) {
        let reader = self.start_reader().await;
        super::snapshot::wait_for_copies(self, self.written_tables()).await;
        reader.stop().await.expect("it drains");
    }

    pub(super) fn written_tables(&self) -> usize {
        let tables = self.registrations.topics.values();
        tables.filter(|topic| matches!(topic.spec.from, Origin::Table(_))).count()
    }

    /// A reader that must refuse to work.
    pub(crate) async fn fail(&self) -> Error {
        let (reader, _) = self.spawn();
        reader.ended().await.expect_err("it must not work")
    }

    /// A reader in a process of its own, to be killed.
    pub(crate) fn start_child(&self) -> Child {
        self.start_child_with(json!({}), Stdio::inherit())
    }

    /// The same with further words for it: `crash` {`point`, `hit`, `act`}, `rows`, `slot_wait_ms`, `register_every_ms`.
    pub(crate) fn start_child_with(&self, more: Value, log: Stdio) -> Child {
        let topics: Vec<_> = self.registrations.topics.values().collect();
        let Some(Host::Tcp { port, .. }) = self.config.postgres.hosts.iter().next() else {
            panic!("a TCP address")
        };
        let mut task = more;
        task["pipeline"] = self.config.pipeline.as_str().into();
        task["database"] = self.config.postgres.database.as_str().into();
        task["port"] = (*port).into();
        task["kafka"] = self.config.kafka.brokers.as_str().into();
        task["topics"] = serde_json::to_value(topics).expect("plain values");
        Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "live::child", "--ignored", "--nocapture", "--quiet"])
            .env("TAILWATER_TEST_CHILD", task.to_string())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("a child")
    }

    /// A reader in a process of its own that dies at a point of its work, with small transactions, so that some are
    /// committed before. Waits until it has.
    pub(crate) async fn dies_at(&self, point: Point, hit: u32, what: &str) {
        let number = Point::ALL.iter().position(|each| *each == point);
        let crash = json!({"point": number, "hit": hit, "act": "die"});
        let words = json!({"rows": 500, "crash": crash});
        let mut child = self.start_child_with(words, Stdio::inherit());
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().expect("ours") {
                break status;
            }
            assert!(begun.elapsed() < PATIENCE, "{what}: it does not come to {point:?}");
            sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{what}: {point:?}: {status}");
    }

    pub(crate) async fn confirmed(&self) -> Lsn {
        let slot = self.config.pipeline.slot();
        let sql = format!(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{slot}'"
        );
        let row = self.client.query_opt(&sql, &[]).await.expect("Postgres answers");
        let text: Option<String> = row.and_then(|row| row.get(0));
        text.map_or(Lsn::ZERO, |text| text.parse().expect("an LSN"))
    }

    pub(crate) async fn progress(&self) -> Option<progress::Record> {
        progress::read(&self.config).await.expect("progress can be read")
    }

    /// What the slot was told to forget stands in progress. The slot is asked first, because both only grow.
    pub(crate) async fn assert_not_ahead(&self) {
        let confirmed = self.confirmed().await;
        let position = self.progress().await.map(|record| record.position);
        // During the very first start the slot exists before its position is written.
        if let Some(position) = position.filter(|position| *position != Lsn::ZERO) {
            assert!(confirmed <= position, "slot at {confirmed}, progress at {position}");
        }
    }

    /// Every committed record of a topic, in order.
    pub(crate) fn read_all(topic: &TopicName) -> Vec<Record> {
        Self::read_all_at(&kafka(), topic)
    }

    pub(crate) fn read_all_at(brokers: &str, topic: &TopicName) -> Vec<Record> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", unique())
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "20")
            .create()
            .expect("a consumer");
        let mut all = TopicPartitionList::new();
        all.add_partition_offset(topic.as_str(), 0, Offset::Beginning).expect("a partition");
        consumer.assign(&all).expect("assigned");
        let mut records = Vec::new();
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE, "reading {topic} takes too long");
            match consumer.poll(Duration::from_millis(500)) {
                Some(Ok(message)) => records.push(Record::new(&message)),
                Some(Err(KafkaError::PartitionEOF(_))) => return records,
                Some(Err(error)) => panic!("reading {topic}: {error}"),
                None => {}
            }
        }
    }

    pub(crate) async fn read_until(&self, topic: &TopicName, count: usize) -> Vec<Record> {
        let begun = Instant::now();
        loop {
            let records = World::read_all_at(&self.config.kafka.brokers, topic);
            if records.len() >= count {
                return records;
            }
            let found = records.len();
            assert!(begun.elapsed() < PATIENCE * 2, "{found} of {count} records in {topic}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Leaves nothing behind on servers that others use too.
    pub(crate) async fn drop(self) {
        let slot = self.config.pipeline.slot();
        let begun = Instant::now();
        loop {
            let dropped = self
                .client
                .batch_execute(&format!(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{slot}'"
                ))
                .await;
            if dropped.is_ok() || begun.elapsed() > Duration::from_secs(10) {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        let root = connect(&self.config.postgres, "postgres").await;
        let name = &self.config.postgres.database;
        root.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.expect("dropped");
        self.leave().await;
    }

    /// The same where the server is the test's own.
    pub(crate) async fn leave(self) {
        self.delete_topics().await;
    }

    pub(super) async fn delete_topics(&self) {
        let mut topics: Vec<String> =
            self.registrations.topics.keys().map(TopicName::to_string).collect();
        topics.push(self.config.pipeline.progress_topic().to_string());
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        let admin: AdminClient<DefaultClientContext> =
            self.config.kafka.client().create().expect("a client");
        admin.delete_topics(&topics, &AdminOptions::new()).await.expect("Kafka answers");
    }
}

pub(crate) struct Record {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    headers: Vec<(String, String)>,
}

impl Record {
    pub(super) fn new(message: &impl Message) -> Self {
        let headers = message.headers().map(|headers| {
            let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or(b"")).into();
            headers.iter().map(|h| (h.key.to_owned(), text(h.value))).collect()
        });
        Self {
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
        }
    }

    pub(crate) fn json(&self) -> Option<Value> {
        self.value.as_deref().map(|value| serde_json::from_slice(value).expect("JSON"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn seq(&self) -> u64 {
        match self.header("tw-seq") {
            Some(seq) => seq.parse().expect("a number"),
            None => self.json().expect("a change")["source"]["seq"].as_u64().expect("a number"),
        }
    }
}

/// Rows 0, 1, 2 … each once, in order, under dense numbers.
pub(super) fn assert_rows(records: &[Record], rows: i64, seed: u64) {
    let ids: Vec<i64> = records
        .iter()
        .map(|record| record.json().expect("a change")["after"]["id"].as_i64().expect("an id"))
        .collect();
    if let Some(at) = ids.iter().enumerate().position(|(at, id)| at as i64 != *id) {
        let around = &ids[at.saturating_sub(3)..(at + 4).min(ids.len())];
        panic!("seed {seed}: at {at} of {rows} comes {around:?}");
    }
    assert_eq!(ids.len() as i64, rows, "seed {seed}");
    let first = (1_u64 << 44) + 1;
    let dense = records.iter().zip(first..).all(|(record, seq)| record.seq() == seq);
    assert!(dense, "seed {seed}: the sequence has holes");
}
