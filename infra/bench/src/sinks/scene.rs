//! A topic full of the reader's records, with sinks that have not begun.

use std::time::Duration;

use anyhow::{Context, ensure};
use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Region};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::Options;
use super::bare::Outcome;
use crate::stage::{Further, Pipeline, Stage, Table};

/// The account of the S3 servers that `infra/native` starts.
const S3_KEY: (&str, &str) = ("tailwater", "tailwater-secret");
const KAFKA_WAIT: Duration = Duration::from_secs(30);

/// Rows of one commit. The reader cuts its Kafka transactions where it does otherwise.
const ROWS_A_COMMIT: u64 = 10_000;
/// Rows after which progress is shown.
const ROWS_A_LINE: u64 = 1_000_000;
/// Records whose size is looked at.
const SAMPLE: usize = 10_000;

/// Rows whose changes have values of 300 to 800 bytes, and compress as such rows do: words out of a small stock in
/// columns that repeat, numbers, and one column that nobody can compress. A search sink asks for the full identity.
const ROWS: &str =
    "create table rows (id bigint primary key, customer text, status text, city text,
    token text, note text, amount numeric, at timestamptz);
    alter table rows replica identity full";

const FILL: &str = "insert into rows select i, 'customer ' || h % 100003, states[1 + h % 6], cities[1 + h / 7 % 10],
    md5(i::text),
    left(concat_ws(', ', notes[1 + h / 3 % 16], notes[1 + h / 5 % 16], notes[1 + h / 11 % 16], notes[1 + h / 17 % 16],
        notes[1 + h / 23 % 16], notes[1 + h / 29 % 16], notes[1 + h / 31 % 16], notes[1 + h / 37 % 16],
        notes[1 + h / 41 % 16], notes[1 + h / 43 % 16], notes[1 + h / 47 % 16], notes[1 + h / 53 % 16]), h / 13 % 330),
    (h % 100000)::numeric / 100, now()
    from (select i, hashint8(i) & 2147483647 h from generate_series($FIRST, $LAST) i) numbered,
    (select array['placed','paid','packed','shipped','delivered','returned'] states,
        array['Lisboa','Praha','Tallinn','Bologna','Malmö','Utrecht','Graz','Gent','Porto','Brno'] cities,
        array['left with the neighbour','paid twice, one refunded','asks for an invoice','gift','fragile','call before delivery',
         'second attempt tomorrow','size changed','refund agreed','address corrected by phone','express','from the spring sale',
         'customer waits','partial delivery, rest follows','colour out of stock','nothing further'] notes) stock";

/// What OpenSearch is told about the rows.
pub(super) const MAPPING: &str = r#"{"mappings":{"dynamic":false,"properties":{"id":{"type":"long"},"customer":{"type":"keyword"},"status":{"type":"keyword"},"city":{"type":"keyword"},"note":{"type":"text"},"amount":{"type":"double"}}}}"#;

/// A sink to declare.
#[derive(Clone, Debug)]
pub(super) enum Declared {
    Archive(String),
    Search(String),
}

/// A database, the topic its rows went to, and the sinks declared for it.
pub(super) struct Scene {
    stage: Stage,
    pub(super) pipeline: Pipeline,
    pub(super) partitions: i32,
    pub(super) records: u64,
    /// Mean bytes of a value.
    pub(super) value_bytes: f64,
    /// Where each partition ends.
    ends: Vec<i64>,
    /// Where the sinks tell how far they are.
    pub(super) admin: String,
    s3: Client,
    opensearch: String,
    sinks: Vec<Declared>,
}

impl Scene {
    /// Declares the sinks, and lets the reader fill the topic.
    pub(super) async fn set(
        options: &Options,
        suite: &str,
        partitions: i32,
        records: u64,
        memory_mib: u64,
        sinks: Vec<Declared>,
    ) -> anyhow::Result<Self> {
        let stage = Stage::create(&options.servers, suite, ROWS).await?;
        let name = stage.name().to_owned();
        let admin = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let (key, secret) = S3_KEY;
        let sections = format!(
            "s3: {{ endpoint: \"{}\", access_key: {key}, secret_key: {secret} }}\n\
             opensearch: {{ url: \"{}\" }}\n\
             sinks: {{ admin: \"{admin}\", memory: {memory_mib}MiB }}\n",
            options.s3, options.opensearch
        );
        let mapping = stage.folder().join("mapping.json");
        std::fs::write(&mapping, MAPPING)?;
        let catalog: String =
            sinks.iter().map(|sink| sink.document(&name, &mapping.display().to_string())).collect();
        let further = Further { sections: &sections, catalog: &catalog, ..Further::default() };
        let table = Table { name: "rows", partitions, key: "id" };
        let pipeline = match stage.pipeline("", &[table], further) {
            Ok(pipeline) => pipeline,
            Err(error) => {
                stage.remove().await?;
                return Err(error);
            }
        };
        let opensearch = options.opensearch.trim_end_matches('/').to_owned();
        let mut scene = Self {
            stage,
            pipeline,
            partitions,
            records,
            value_bytes: 0.0,
            ends: Vec::new(),
            admin,
            s3: s3(&options.s3),
            opensearch,
            sinks,
        };
        let filled = scene.fill().await;
        match filled {
            Ok(()) => Ok(scene),
            Err(error) => {
                scene.strike().await?;
                Err(error)
            }
        }
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        self.stage.settle(&self.pipeline).await?;
        let mut reader = self.pipeline.start(&["cdc", "run"])?;
        let mut filled = 0;
        while filled < self.records {
            let line = (filled + ROWS_A_LINE).min(self.records);
            while filled < line {
                let last = (filled + ROWS_A_COMMIT).min(line);
                let rows = FILL.replace("$FIRST", &(filled + 1).to_string());
                self.stage.sql(&rows.replace("$LAST", &last.to_string())).await?;
                filled = last;
            }
            let mark = self.stage.mark().await?;
            self.stage.until_confirmed(&self.pipeline, &mut reader, &mark).await?;
            eprintln!("  {filled} of {} records are in the topic", self.records);
        }
        reader.stop()?;
        // The rows are in Kafka, and their disk is wanted.
        self.stage.sql("truncate rows; checkpoint").await?;
        self.ends = self.look_at_ends()?;
        self.value_bytes = self.look_at_values()?;
        Ok(())
    }

    fn look_at_ends(&self) -> anyhow::Result<Vec<i64>> {
        let consumer: BaseConsumer = self.client("ends").create()?;
        let mut asked = TopicPartitionList::new();
        for partition in 0..self.partitions {
            asked.add_partition_offset(&self.topic(), partition, Offset::End)?;
        }
        let ends = consumer.offsets_for_times(asked, KAFKA_WAIT)?;
        let mut found = vec![0; usize::try_from(self.partitions)?];
        for end in ends.elements() {
            end.error()?;
            let offset = end.offset().to_raw().context("a partition without an end")?;
            found[usize::try_from(end.partition())?] = offset;
        }
        Ok(found)
    }

    fn look_at_values(&self) -> anyhow::Result<f64> {
        let consumer: BaseConsumer = self.client("sample").create()?;
        let mut list = TopicPartitionList::new();
        for partition in 0..self.partitions {
            list.add_partition_offset(&self.topic(), partition, Offset::Beginning)?;
        }
        consumer.assign(&list)?;
        let mut sizes = Vec::new();
        while sizes.len() < SAMPLE
            && let Some(message) = consumer.poll(Duration::from_secs(5))
        {
            sizes.push(message?.payload().map_or(0, <[u8]>::len));
        }
        let (least, most) = (sizes.iter().min(), sizes.iter().max());
        let (least, most) = least.zip(most).context("the topic is empty")?;
        let mean = sizes.iter().sum::<usize>() as f64 / sizes.len() as f64;
        eprintln!("  values have {least} to {most} bytes, {mean:.0} in the mean");
        Ok(mean)
    }

    /// Whether a sink's group has committed everything.
    pub(super) fn commits(&self, sink: &str) -> anyhow::Result<Commits<'_>> {
        let group = format!("tailwater.{}.{sink}", self.stage.name());
        Ok(Commits { scene: self, consumer: self.client(&group).create()? })
    }

    /// Runs a bare loop in a process of its own.
    pub(super) async fn bare(&self, what: &[&str]) -> anyhow::Result<Outcome> {
        let (partitions, records) = (self.partitions.to_string(), self.records.to_string());
        let output = tokio::process::Command::new(std::env::current_exe()?)
            .args(["bare-sink", "--brokers", self.pipeline.brokers(), "--topic", &self.topic()])
            .args(["--partitions", &partitions, "--records", &records])
            .args(what)
            .output()
            .await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "bare loop {}: {said}", what.join(" "));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn client(&self, group: &str) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", self.pipeline.brokers()).set("group.id", group);
        client.set("enable.auto.commit", "false");
        client
    }

    /// Where the records are.
    pub(super) fn topic(&self) -> String {
        self.pipeline.topic("rows")
    }

    /// Where the archives of this scene are, and a bare loop's objects.
    pub(super) fn bucket(&self) -> String {
        bucket(self.stage.name())
    }

    /// How the index behind a search sink is reached.
    pub(super) fn alias(&self, sink: &str) -> String {
        alias(self.stage.name(), sink)
    }

    /// Bytes of the objects under a prefix, and how many there are; only those that end so.
    pub(super) async fn stored(&self, prefix: &str, end: &str) -> anyhow::Result<(u64, usize)> {
        let list = self.s3.list_objects_v2().bucket(self.bucket()).prefix(prefix);
        let mut pages = list.into_paginator().send();
        let (mut bytes, mut count) = (0, 0);
        while let Some(page) = pages.next().await {
            for object in page?.contents() {
                if object.key().is_some_and(|key| key.ends_with(end)) {
                    bytes += u64::try_from(object.size().unwrap_or_default())?;
                    count += 1;
                }
            }
        }
        Ok((bytes, count))
    }

    /// Removes the objects under a prefix.
    pub(super) async fn empty(&self, prefix: &str) -> anyhow::Result<()> {
        let bucket = self.bucket();
        let list = self.s3.list_objects_v2().bucket(&bucket).prefix(prefix);
        let mut pages = list.into_paginator().send();
        while let Some(page) = pages.next().await {
            for key in page?.contents().iter().filter_map(|object| object.key()) {
                self.s3.delete_object().bucket(&bucket).key(key).send().await?;
            }
        }
        Ok(())
    }

    /// Removes all that was made but small topics of the pipeline.
    pub(super) async fn strike(self) -> anyhow::Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client("admin").create()?;
        let topic = self.topic();
        admin.delete_topics(&[&topic], &AdminOptions::new()).await?;
        if self.sinks.iter().any(|sink| matches!(sink, Declared::Archive(_))) {
            self.empty("").await?;
            self.s3.delete_bucket().bucket(self.bucket()).send().await?;
        }
        for sink in &self.sinks {
            if let Declared::Search(name) = sink {
                remove_index(&self.opensearch, &format!("{}-*", self.alias(name))).await?;
            }
        }
        self.stage.remove().await
    }
}

impl Declared {
    fn document(&self, scene: &str, mapping: &str) -> String {
        let head = |name: &str, kind: &str| {
            format!(
                "---\napiVersion: tailwater/v1\nkind: Sink\nname: {name}\ntype: {kind}\ntopics: [{scene}.rows]\n"
            )
        };
        match self {
            Self::Archive(name) => {
                let bucket = bucket(scene);
                head(name, "archive")
                    + &format!("archive: {{ bucket: {bucket}, prefix: {name}/ }}\n")
            }
            Self::Search(name) => {
                let alias = alias(scene, name);
                head(name, "search")
                    // Batches of a backlog are full; the last one is not waited for long.
                    + &format!(
                        "search: {{ alias: {alias}, mapping: {mapping}, bulk: {{ age: 100ms }} }}\n"
                    )
            }
        }
    }
}

/// What a group has committed. Made once, because a client for every look would be most of what the machine does.
pub(super) struct Commits<'s> {
    scene: &'s Scene,
    consumer: BaseConsumer,
}

impl Commits<'_> {
    /// Whether everything is committed.
    pub(super) fn are_complete(&self) -> anyhow::Result<bool> {
        let mut list = TopicPartitionList::new();
        for partition in 0..self.scene.partitions {
            list.add_partition(&self.scene.topic(), partition);
        }
        let committed = self.consumer.committed_offsets(list, KAFKA_WAIT)?;
        // The last transaction's marker takes an offset that need not be committed.
        Ok(committed.elements().iter().all(|element| {
            let end = usize::try_from(element.partition()).map_or(0, |at| self.scene.ends[at]);
            let offset = match element.offset() {
                Offset::Offset(offset) => offset,
                _ => 0,
            };
            offset >= end - 1
        }))
    }
}

/// Removes indices by a pattern.
pub(super) async fn remove_index(opensearch: &str, pattern: &str) -> anyhow::Result<()> {
    let answer = reqwest::Client::new().delete(format!("{opensearch}/{pattern}")).send().await?;
    let status = answer.status();
    ensure!(status.is_success() || status == 404, "removing `{pattern}`: {}", answer.text().await?);
    Ok(())
}

/// A client of the object store.
pub(super) fn s3(endpoint: &str) -> Client {
    let (key, secret) = S3_KEY;
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(endpoint)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new(key, secret, None, None, "bench"))
        .force_path_style(true)
        .build();
    Client::from_conf(config)
}

fn bucket(scene: &str) -> String {
    scene.replace('_', "-")
}

fn alias(scene: &str, sink: &str) -> String {
    format!("{}-{sink}", bucket(scene))
}
