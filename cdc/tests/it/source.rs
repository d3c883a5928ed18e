//! A real Postgres with the reader's own session, decoder and encoder behind it, and no Kafka: what a stream becomes
//! can be looked at row by row, in milliseconds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use serde_json::value::RawValue;
use tailwater_cdc::batch::Batch;
use tailwater_cdc::capture::{Capture, Error, Resume, SourceName};

use tailwater_cdc::mask::MaskKey;
use tailwater_cdc::progress::{Progress, Record};
use tailwater_cdc::stream::{
    Connection, Feed, Frame, Frames, Input, Mode, Receiver, Timing, queue,
};
use tailwater_config::PostgresConfig;
use tailwater_runtime::Secret;
use tailwater_topics_contract::{
    From as Origin, Generation, Lsn, Registrations, Seq, Standing, TopicRegistration, TopicSpec,
    Values,
};
use tokio_postgres::Client;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::live::{config, connect, unique};

const PATIENCE: Duration = Duration::from_secs(60);
const NOW_MS: i64 = 1_700_000_000_000;

/// A database of its own. Everything published goes through [`Stream`]s.
pub(crate) struct Source {
    pub(crate) client: Client,
    pub(crate) postgres: PostgresConfig,
    pub(crate) name: String,
    pub(crate) mask_key: Option<MaskKey>,
    pub(crate) registrations: Registrations,
}

/// A session that streams the changes of a source from the moment it was opened.
pub(crate) struct Stream {
    capture: Capture,
    chunks: Receiver,
    _stop: DropGuard,
}

/// A record as a consumer would see it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) topic: String,
    pub(crate) partition: Option<i32>,
    /// Empty where there is none.
    pub(crate) key: String,
    /// `None` for a tombstone.
    pub(crate) value: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
}

impl Source {
    /// A database with the publication `all`, which holds a table of marks.
    pub(crate) async fn new() -> Self {
        Self::on(config("any", "any").postgres).await
    }

    /// The same on another server.
    pub(crate) async fn on(server: PostgresConfig) -> Self {
        let name = format!("src_{}", unique());
        let postgres = PostgresConfig { database: name.clone(), ..server };
        let root = connect(&postgres, "postgres").await;
        root.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a database");
        let client = connect(&postgres, &name).await;
        // As the reader's own session, so that a `SELECT` here says what must come there.
        let sql =
            "SET TimeZone = 'UTC'; SET DateStyle = 'ISO, MDY'; SET IntervalStyle = 'iso_8601';
             SET bytea_output = 'hex'; SET extra_float_digits = 3; SET lc_monetary = 'C';
             CREATE TABLE mark (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
             CREATE PUBLICATION \"all\" FOR TABLE mark WITH (publish_via_partition_root = true)";
        client.batch_execute(sql).await.expect("a publication");
        let mask_key = Some(MaskKey::new(&Secret::new("a key of the tests")));
        let registrations = Registrations::default();
        let mut source = Self { client, postgres, name, mask_key, registrations };
        source.register("public.mark", &["id"]);
        source
    }

    /// Runs statements, all in one transaction unless they say otherwise.
    pub(crate) async fn sql(&self, sql: &str) {
        let done = self.client.batch_execute(sql).await;
        done.unwrap_or_else(|error| panic!("`{sql}`: {error:?}"));
    }

    /// `server_version_num`: 150018 is 15.18.
    pub(crate) async fn version(&self) -> i64 {
        let asked = self.client.query_one("SHOW server_version_num", &[]).await;
        asked.expect("a version").get::<_, &str>(0).parse().expect("a number")
    }

    /// Publishes a table and registers a topic of the same name for it, compacted, with three partitions.
    pub(crate) async fn capture(&mut self, table: &str, key: &[&str]) {
        self.sql(&format!("ALTER PUBLICATION \"all\" ADD TABLE {table}")).await;
        self.register(table, key);
    }

    /// Registers a topic without publishing its table.
    pub(crate) fn register(&mut self, table: &str, key: &[&str]) {
        let from = Origin::Table(table.parse().expect("a table name"));
        self.register_as(table, from, key, |_| {});
    }

    /// Registers a topic after a last touch on its declaration.
    pub(crate) fn register_as(
        &mut self,
        topic: &str,
        from: Origin,
        key: &[&str],
        touch: impl FnOnce(&mut TopicSpec),
    ) {
        let mut spec = TopicSpec {
            name: topic.replace('"', "").parse().expect("a topic name"),
            from,
            key: None,
            partitions: 3,
            replication: None,
            config: BTreeMap::from([("cleanup.policy".to_owned(), "compact".to_owned())]),
            expose: Vec::new(),
            values: Values::default(),
            mask: BTreeMap::new(),
            declared_at: None,
        };
        touch(&mut spec);
        let key_columns = key.iter().map(|column| (*column).to_owned()).collect();
        let topic = TopicRegistration {
            spec,
            key_columns,
            generation: Generation::default(),
            standing: Standing::Active,
            reread: None,
        };
        self.registrations.topics.insert(topic.spec.name.clone(), topic);
    }

    /// Streams as the superuser of the tests.
    pub(crate) async fn stream(&self) -> Stream {
        self.try_stream().await.expect("starts")
    }

    /// As [`Self::stream`], where the registrations may be ones that cannot be followed.
    pub(crate) async fn try_stream(&self) -> Result<Stream, Error> {
        self.try_stream_as(&self.postgres.user).await
    }

    /// Streams as another role, with whatever settings that role has.
    pub(crate) async fn stream_as(&self, user: &str) -> Stream {
        self.try_stream_as(user).await.expect("starts")
    }

    async fn try_stream_as(&self, user: &str) -> Result<Stream, Error> {
        let postgres = PostgresConfig { user: user.to_owned(), ..self.postgres.clone() };
        let mut connection = Connection::open(&postgres, "test", Mode::Replication)
            .await
            .expect("a replication session");
        let slot = format!("tmp_{}", unique());
        let create = format!("CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput");
        connection.query(&create).await.expect("a slot");
        let start = format!(
            "START_REPLICATION SLOT {slot} LOGICAL 0/0 (proto_version '1', messages 'true', publication_names '\"all\"')"
        );
        let copying = connection.stream(&start).await.expect("a stream");
        let source = SourceName {
            pipeline: "market".parse().expect("a name"),
            database: self.name.clone(),
            mask_key: self.mask_key.clone(),
        };
        let resume =
            Resume { seq: Seq::new(0, 0).expect("in range"), position: Lsn::ZERO, in_flight: None };
        let progress = Progress::new(Record::first(&source.pipeline, "system", 1, ""));
        let capture = Capture::new(source, &self.registrations, resume)?;
        let (sender, chunks) = queue(8 << 20);
        let timing = Timing::for_server(60_000, || NOW_MS);
        let feed = Feed::new(copying, sender, progress.durable(), timing);
        let stop = CancellationToken::new();
        tokio::spawn(feed.run(stop.clone()));
        Ok(Stream { capture, chunks, _stop: stop.drop_guard() })
    }

    /// Everything that was committed since the stream was looked at last.
    pub(crate) async fn changes(&self, stream: &mut Stream) -> Vec<Seen> {
        self.try_changes(stream).await.expect("the stream is followed")
    }

    /// As [`Self::changes`]; after an error the stream is of no use any more.
    pub(crate) async fn try_changes(&self, stream: &mut Stream) -> Result<Vec<Seen>, Error> {
        let row = self.client.query_one("INSERT INTO mark DEFAULT VALUES RETURNING id", &[]).await;
        let mark: i64 = row.expect("a mark").get(0);
        let key = format!(r#"{{"id":{mark}}}"#);
        let is_mark = |seen: &Seen| seen.topic == "public.mark";
        tokio::task::block_in_place(|| {
            let mut all = Vec::new();
            let begun = Instant::now();
            while !all.iter().any(|seen| is_mark(seen) && seen.key == key) {
                assert!(begun.elapsed() < PATIENCE, "the mark does not come");
                all.extend(stream.next()?);
            }
            all.retain(|seen| !is_mark(seen));
            Ok(all)
        })
    }

    /// Leaves nothing behind on servers that others use too. A stream holds its slot, and the slot its database.
    pub(crate) async fn drop<const N: usize>(self, streams: [Stream; N]) {
        drop(streams);
        let root = connect(&self.postgres, "postgres").await;
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        let begun = Instant::now();
        loop {
            match root.batch_execute(&sql).await {
                Ok(()) => return,
                // A slot goes when its session ends.
                Err(_) if begun.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => panic!("{} is not dropped: {error:?}", self.name),
            }
        }
    }
}

impl Stream {
    /// Changes that went nowhere because that was asked for.
    pub(crate) fn given_up(&self) -> u64 {
        self.capture.given_up()
    }

    fn next(&mut self) -> Result<Vec<Seen>, Error> {
        let Ok(Input::Chunk(chunk)) = self.chunks.pop(Duration::from_secs(5)) else {
            return Ok(Vec::new());
        };
        let mut batch = Batch::default();
        for frame in Frames::new(&chunk) {
            if let Frame::Data { start, body, .. } = frame {
                self.capture.on_message(start, body, NOW_MS, &mut batch)?;
            }
        }
        self.chunks.done(chunk.len());
        Ok(seen(&batch))
    }
}

impl Seen {
    /// The value as a tree.
    pub(crate) fn json(&self) -> Json {
        serde_json::from_str(self.value.as_deref().expect("no tombstone")).expect("JSON")
    }

    /// `op`, or `-` for a tombstone.
    pub(crate) fn op(&self) -> String {
        match &self.value {
            None => "-".to_owned(),
            Some(value) => raw(value, "op").expect("an op").trim_matches('"').to_owned(),
        }
    }

    /// The JSON of a field of the value, as it was written.
    pub(crate) fn field(&self, field: &str) -> Option<String> {
        raw(self.value.as_deref()?, field)
    }

    /// The JSON of a column in `before` or `after`, as it was written.
    pub(crate) fn raw(&self, image: &str, column: &str) -> Option<String> {
        raw(&raw(self.value.as_deref()?, image)?, column)
    }
}

/// The JSON of a field, as it was written.
pub(crate) fn raw(object: &str, field: &str) -> Option<String> {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(object).ok()?;
    fields.get(field).map(|value| value.get().to_owned())
}

/// `op` of each record, tombstones as `-`.
pub(crate) fn ops(seen: &[Seen]) -> String {
    seen.iter().map(Seen::op).collect()
}

fn seen(batch: &Batch) -> Vec<Seen> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let seen = batch.records().map(|record| Seen {
        topic: record.topic().to_string(),
        partition: record.partition(),
        key: record.key().map(text).unwrap_or_default(),
        value: record.value().map(text),
        headers: record.headers().map(|(name, value)| (name.to_owned(), text(value))).collect(),
    });
    seen.collect()
}
