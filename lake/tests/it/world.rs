//! A database, the real reader, real topics, and their archive.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tailwater_cdc::config::Limits;
use tailwater_cdc::progress;
use tailwater_config::{KafkaConfig, PostgresConfig};
use tailwater_lake::Archive;
use tailwater_runtime::Health;
use tailwater_sinks_worker::SourceRecord;
use tailwater_topics_contract::{
    ArchiveSpec, From as Source, Generation, Guarantee, Origin, Registration, Registrations,
    SegmentSpec, SinkKind, SinkRegistration, SinkSpec, Standing, TopicName, TopicRegistration,
    TopicSpec,
};
use tokio::sync::watch;
use tokio_postgres::{Client, SimpleQueryMessage};
use tokio_util::sync::CancellationToken;

use crate::archived::{Archived, unique, variable};

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) topics: BTreeMap<TopicName, i32>,
    pub(crate) archived: Archived,
    pub(crate) name: String,
    reader: tokio::task::JoinHandle<Result<(), tailwater_cdc::Error>>,
    stop: CancellationToken,
    _registrations: watch::Sender<Registrations>,
}

async fn connect(postgres: &PostgresConfig, database: &str) -> Client {
    let config = PostgresConfig { database: database.to_owned(), ..postgres.clone() };
    tailwater_postgres::client(&config, "test").await.expect("Postgres answers")
}

fn kafka() -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", variable("TAILWATER_TEST_KAFKA"));
    client
}

/// Creates topics with so many partitions.
pub(crate) async fn create_topics(topics: &[(&str, i32)]) {
    let new: Vec<_> = topics
        .iter()
        .map(|(name, partitions)| NewTopic::new(name, *partitions, TopicReplication::Fixed(1)))
        .collect();
    let admin: AdminClient<DefaultClientContext> = kafka().create().expect("a client");
    let made = admin.create_topics(&new, &AdminOptions::new()).await.expect("Kafka answers");
    made.into_iter().for_each(|made| assert!(made.is_ok(), "{made:?}"));
}

impl World {
    /// A database with `tables` (name, key columns, partitions) after `schema` was run, and an outbox `shop`.
    pub(crate) async fn new(schema: &str, tables: &[(&str, &[&str], i32)]) -> Self {
        let name = format!("lake_{}", unique());
        let url = variable("TAILWATER_TEST_POSTGRES");
        let postgres = PostgresConfig {
            database: name.clone(),
            ..tailwater_postgres::from_url(&url).expect("a Postgres URL")
        };
        let root = connect(&postgres, "postgres").await;
        root.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a database");
        let client = connect(&postgres, &name).await;
        client.batch_execute(schema).await.expect("tables");
        let config = tailwater_cdc::Config {
            pipeline: name.parse().expect("a name"),
            postgres,
            kafka: KafkaConfig::new(variable("TAILWATER_TEST_KAFKA")),
            limits: Limits::default(),
            from_now: false,
            events_from_now: false,
            mask_key: None,
        };
        let named: Vec<&str> = tables.iter().map(|(table, ..)| *table).collect();
        let publications = format!(
            "CREATE SCHEMA shop;
             CREATE TABLE shop.outbox (
                 id uuid NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), aggregate_type text NOT NULL,
                 aggregate_id text NOT NULL, event_type text NOT NULL, event_version smallint NOT NULL,
                 partition_key text, payload jsonb NOT NULL, headers jsonb, correlation_id uuid,
                 causation_id uuid, traceparent text, PRIMARY KEY (id, created_at)
             ) PARTITION BY RANGE (created_at);
             CREATE TABLE shop.outbox_default PARTITION OF shop.outbox DEFAULT;
             CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = true);
             CREATE PUBLICATION {} FOR TABLE shop.outbox
                 WITH (publish = 'insert', publish_via_partition_root = true);",
            config.pipeline.changes_publication(),
            named.join(", "),
            config.pipeline.outbox_publication()
        );
        client.batch_execute(&publications).await.expect("publications");

        let registration = |topic: &str, from: Source, key: &[&str], partitions: i32| {
            let topic: TopicName = topic.parse().expect("a name");
            let spec = TopicSpec {
                name: topic.clone(),
                from,
                key: None,
                partitions: partitions.unsigned_abs(),
                replication: None,
                config: BTreeMap::from([("cleanup.policy".to_owned(), "compact".to_owned())]),
                expose: Vec::new(),
                values: tailwater_topics_contract::Values::default(),
                mask: BTreeMap::new(),
                declared_at: None,
            };
            let key_columns = key.iter().map(|column| (*column).to_owned()).collect();
            (
                topic,
                TopicRegistration {
                    spec,
                    key_columns,
                    generation: Generation::default(),
                    standing: Standing::Active,
                    reread: None,
                },
            )
        };
        let mut registered = BTreeMap::new();
        let mut topics = BTreeMap::new();
        for (table, key, partitions) in tables {
            let from = Source::Table(format!("public.{table}").parse().expect("a name"));
            let (topic, one) = registration(&format!("{name}.{table}"), from, key, *partitions);
            topics.insert(topic.clone(), *partitions);
            registered.insert(topic, one);
        }
        let outbox = Source::Outbox {
            aggregate: "shop".to_owned(),
            table: "shop.outbox".parse().expect("a name"),
        };
        let (events, mut one) = registration(&format!("{name}.events"), outbox, &[], 2);
        one.spec.config = BTreeMap::from([("cleanup.policy".to_owned(), "delete".to_owned())]);
        topics.insert(events.clone(), 2);
        registered.insert(events, one);
        let progress = config.pipeline.progress_topic();
        let mut new: Vec<(&str, i32)> =
            topics.iter().map(|(topic, n)| (topic.as_str(), *n)).collect();
        new.push((progress.as_str(), 1));
        create_topics(&new).await;

        let registrations = Registrations { topics: registered, ..Registrations::default() };
        let (sender, follow) = watch::channel(registrations);
        let (stop, health) = (CancellationToken::new(), Health::default());
        let reader =
            tokio::spawn(tailwater_cdc::run(config.clone(), follow, stop.clone(), health.clone()));
        let begun = Instant::now();
        while let Err(reasons) = health.check() {
            assert!(!reader.is_finished(), "the reader ended: {:?}", reader.await);
            assert!(begun.elapsed() < PATIENCE, "not ready: {reasons:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // A table that is truncated under its first copy would be copied once more, with rows that came as changes.
        let is_copied = |record: progress::Record| {
            record.copying.is_none() && record.tables.iter().count() == tables.len()
        };
        while !progress::read(&config).await.expect("progress").is_some_and(is_copied) {
            assert!(begun.elapsed() < PATIENCE, "the first copy does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let archived = Archived::new(&name).await;
        Self { client, topics, archived, name, reader, stop, _registrations: sender }
    }

    pub(crate) async fn sql(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("`{sql}`: {error:?}"));
    }

    /// Rows of a query as text, as the server prints them.
    pub(crate) async fn rows(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let told = self.client.simple_query(sql).await;
        let told = told.unwrap_or_else(|error| panic!("`{sql}`: {error:?}"));
        told.into_iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect())
                }
                _ => None,
            })
            .collect()
    }

    pub(crate) async fn text(&self, sql: &str) -> String {
        self.rows(sql).await[0][0].clone().expect("not null")
    }

    /// The plain name of a table's table in the lake.
    pub(crate) fn table(&self, table: &str) -> String {
        format!("{}_{table}", self.name)
    }

    pub(crate) fn topic(&self, table: &str) -> TopicName {
        format!("{}.{table}", self.name).parse().expect("a name")
    }

    /// Waits until the reader has written everything that has committed, and archives it.
    pub(crate) async fn archive(&self, per_segment: usize) {
        // The last commit of all is an event: when it is there, everything is.
        let id = uuid::Uuid::new_v4();
        self.sql(&format!(
            "INSERT INTO shop.outbox (id, aggregate_type, aggregate_id, event_type, event_version, payload)
             VALUES ('{id}', 'shop', 'marker', 'shop.marked', 1, '{{}}')"
        ))
        .await;
        let events = self.topic("events");
        let begun = Instant::now();
        let mut records;
        loop {
            records = read(&self.topics);
            let is_there = |(topic, _, record): &(TopicName, i32, SourceRecord)| {
                *topic == events
                    && record.headers.iter().any(|(name, value)| {
                        name == "ce_id" && value.as_deref() == Some(id.to_string().as_bytes())
                    })
            };
            if records.iter().any(is_there) {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "the reader does not come that far");
        }
        for (topic, partitions) in &self.topics {
            for partition in 0..*partitions {
                let ours = records.iter().filter(|(t, p, _)| t == topic && *p == partition);
                let ours: Vec<SourceRecord> = ours.map(|(_, _, record)| record.clone()).collect();
                self.archived.write(topic, partition, ours, per_segment, 0).await;
            }
        }
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.reader)
            .await
            .expect("it ends in time")
            .expect("no panic")
            .expect("it drains");
    }
}

/// Every committed record of some topics.
pub(crate) fn read(topics: &BTreeMap<TopicName, i32>) -> Vec<(TopicName, i32, SourceRecord)> {
    let mut client = kafka();
    client
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed");
    let consumer: BaseConsumer = client.create().expect("a client");
    let mut assignment = TopicPartitionList::new();
    let mut open = 0;
    for (topic, partitions) in topics {
        for partition in 0..*partitions {
            assignment
                .add_partition_offset(topic.as_str(), partition, Offset::Beginning)
                .expect("valid");
            open += 1;
        }
    }
    consumer.assign(&assignment).expect("assigned");
    let mut records = Vec::new();
    let begun = Instant::now();
    while open > 0 {
        assert!(begun.elapsed() < PATIENCE, "Kafka is silent");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let headers = message.headers().map_or_else(Vec::new, |headers| {
                    headers
                        .iter()
                        .map(|h| (h.key.to_owned(), h.value.map(bytes::Bytes::copy_from_slice)))
                        .collect()
                });
                records.push((
                    message.topic().parse().expect("a name"),
                    message.partition(),
                    SourceRecord {
                        offset: message.offset(),
                        timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
                        key: message.key().map(bytes::Bytes::copy_from_slice),
                        value: message.payload().map(bytes::Bytes::copy_from_slice),
                        headers,
                    },
                ));
            }
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(error)) => panic!("{error}"),
            None => {}
        }
    }
    records
}

/// Registers an archive sink of one topic, as `apply` does.
pub(crate) fn register(pipeline: &str, archive: &Archive, topic: &TopicName, origin: i64) {
    let spec = SinkSpec {
        name: "lake".parse().expect("a name"),
        topics: vec![topic.clone()],
        kind: SinkKind::Archive(ArchiveSpec {
            bucket: archive.store.bucket().to_owned(),
            prefix: archive.prefix.clone(),
            guarantee: Guarantee::ExactlyOnce,
            segment: SegmentSpec::default(),
        }),
        declared_at: None,
    };
    let dt = "2026-01-01".to_owned();
    let origins = vec![Origin { topic: topic.clone(), partition: 0, offset: origin, dt }];
    let registration =
        Registration::Sink(SinkRegistration { spec, origins, standing: Standing::Active });
    let producer: BaseProducer = kafka().create().expect("a client");
    let (to, key) = (format!("tailwater.{pipeline}.registrations"), registration.key());
    let value = serde_json::to_vec(&registration).expect("JSON");
    producer.send(BaseRecord::to(&to).key(&key).payload(&value)).expect("taken");
    producer.flush(PATIENCE).expect("stored");
}
