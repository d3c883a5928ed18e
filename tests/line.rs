//! The line of one table: reader, topic, archive and index, with two worker processes that can be tormented.
//!
//! ```text
//!  table ──▶ reader ──▶ topic ──┬─▶ worker a ──proxy──▶ S3, OpenSearch
//!                               └─▶ worker b ──proxy──▶ S3, OpenSearch       both run both sinks
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use tailwater_infra_demo::archive::{self, ArchiveReader, Store};
use tailwater_infra_demo::index;
use tailwater_infra_demo::reconcile::{Expectation, Judge, Origin, Stores};
use tailwater_infra_demo::records::{Record, TopicReader};
use tailwater_infra_demo::source::{self, Table};
use tokio_postgres::NoTls;

use crate::place::{START_MAX, free_ports, is_ready, run};
use crate::{Process, Proxy, Servers};

/// Partitions of the topic.
const PARTITIONS: u32 = 4;

/// A database with one table, its topic, a bucket and an index, under one name.
pub struct Line {
    name: String,
    folder: PathBuf,
    servers: Servers,
    reader_port: u16,
}

/// A record's key and value.
pub type KeyAndValue = (Option<Vec<u8>>, Option<Vec<u8>>);

/// A worker process, its own way to store and index.
pub struct Worker {
    name: String,
    admin: u16,
    /// The fixed name under which it joins its groups, if it does.
    instance: Option<String>,
    /// Before the store.
    pub store: Proxy,
    /// Before the index.
    pub index: Proxy,
}

impl Line {
    /// Makes the table and everything behind it; starts nothing.
    pub async fn create(name: &str) -> anyhow::Result<Self> {
        let servers = Servers::from_env()?;
        let folder = std::env::temp_dir().join(format!("tailwater-{name}"));
        std::fs::create_dir_all(folder.join("catalog"))?;
        let (client, connection) = tokio_postgres::connect(&servers.postgres, NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute(&format!("create database {name}")).await?;
        let [reader_port] = free_ports()?;
        let line = Self { name: name.to_owned(), folder, servers, reader_port };
        line.connect().await?.batch_execute(TABLE).await?;
        line.write_catalog()?;
        let admins = [reader_port, reader_port];
        line.write_config("tailwater.yaml", &line.servers.s3, &line.servers.opensearch, admins)?;
        run(&line.folder, "tailwater", &["apply", "-f", "catalog"])?;
        Ok(line)
    }

    /// A connection to the database.
    pub async fn connect(&self) -> anyhow::Result<tokio_postgres::Client> {
        let (client, connection) = tokio_postgres::connect(&self.database_url(), NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Starts the reader and waits until it reads.
    pub async fn start_reader(&self) -> anyhow::Result<Process> {
        let arguments = ["cdc", "run"].map(str::to_owned);
        let mut reader = Process::start(&self.folder, "reader", "tailwater", &arguments)?;
        self.until_ready(&mut reader, self.reader_port).await?;
        Ok(reader)
    }

    /// A place for a worker to run at.
    pub async fn worker(
        &self,
        name: &str,
        instance: Option<&str>,
        seed: u64,
    ) -> anyhow::Result<Worker> {
        let store = Proxy::start(&self.servers.s3, seed).await?;
        let index = Proxy::start(&self.servers.opensearch, seed.wrapping_add(1)).await?;
        let [admin] = free_ports()?;
        let (file, admins) = (format!("{name}.yaml"), [self.reader_port, admin]);
        self.write_config(&file, store.address(), index.address(), admins)?;
        Ok(Worker {
            name: name.to_owned(),
            admin,
            instance: instance.map(str::to_owned),
            store,
            index,
        })
    }

    /// Starts a worker there.
    pub fn start(&self, worker: &Worker) -> anyhow::Result<Process> {
        let config = format!("{}.yaml", worker.name);
        let mut arguments = vec!["--config", &config, "sinks", "run"];
        if let Some(instance) = &worker.instance {
            arguments.extend(["--instance", instance]);
        }
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        Process::start(&self.folder, &worker.name, "tailwater", &arguments)
    }

    /// Waits until a worker reads whatever the group gave it.
    pub async fn wait_until_ready(
        &self,
        worker: &Worker,
        process: &mut Process,
    ) -> anyhow::Result<()> {
        self.until_ready(process, worker.admin).await
    }

    async fn until_ready(&self, process: &mut Process, port: u16) -> anyhow::Result<()> {
        let began = Instant::now();
        while !is_ready(port).await {
            process.check_running()?;
            ensure!(began.elapsed() < START_MAX, "not ready: {}", process.last_words());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// A judge over everything that must agree.
    pub fn judge(&self) -> Judge {
        let stores = Stores {
            database_url: self.database_url(),
            brokers: self.servers.kafka.clone(),
            store: self.store(),
            bucket: self.bucket(),
            opensearch: self.servers.opensearch.clone(),
        };
        let expectation = Expectation {
            topic: self.topic(),
            origin: Origin::Table(Table::new("zoo", "animals")),
            alias: Some(self.bucket()),
        };
        Judge::new(stores, vec![expectation])
    }

    /// What a sink has set aside: `keep`, the archive, or `find`, the index.
    pub fn letters(&self, sink: &str) -> anyhow::Result<Vec<Record>> {
        self.read(&format!("tailwater.{}.{sink}.dlq", self.name))
    }

    /// What the topic holds.
    pub fn records(&self) -> anyhow::Result<Vec<Record>> {
        self.read(&self.topic())
    }

    /// Key and value of every archived record, by partition and offset.
    pub async fn archived(&self) -> anyhow::Result<BTreeMap<(i32, i64), KeyAndValue>> {
        let mut archive = ArchiveReader::new(&self.store(), &self.bucket(), &self.topic());
        archive.catch_up().await?;
        archive.check_chain()?;
        let place = |line: &archive::Line| (line.partition, line.offset);
        let line = |line: &archive::Line| (place(line), (line.key.clone(), line.value.clone()));
        Ok(archive.lines().iter().map(line).collect())
    }

    /// How many documents the alias shows.
    pub async fn documents(&self) -> anyhow::Result<u64> {
        index::count(&reqwest::Client::new(), &self.servers.opensearch, &self.bucket()).await
    }

    fn read(&self, topic: &str) -> anyhow::Result<Vec<Record>> {
        let mut reader = TopicReader::new(&self.servers.kafka, topic);
        tokio::task::block_in_place(|| reader.catch_up())?;
        Ok(reader.records().to_vec())
    }

    /// The index behind the alias.
    pub async fn index_in_use(&self) -> anyhow::Result<String> {
        let url = format!("{}/_alias/{}", self.servers.opensearch, self.bucket());
        let found: BTreeMap<String, serde_json::Value> =
            reqwest::get(url).await?.error_for_status()?.json().await?;
        Ok(found.into_keys().collect::<Vec<_>>().join(","))
    }

    /// Makes the index in use remember another topic than the one it was filled from.
    pub async fn pretend_other_topic(&self) -> anyhow::Result<()> {
        let url = format!("{}/{}/_mapping", self.servers.opensearch, self.index_in_use().await?);
        let client = reqwest::Client::new();
        let found: BTreeMap<String, serde_json::Value> =
            client.get(&url).send().await?.error_for_status()?.json().await?;
        let mut meta = found.into_values().next().unwrap_or_default()["mappings"]["_meta"].take();
        let source = &mut meta["tailwater"]["sources"][0];
        ensure!(source["id"].is_string(), "the index remembers none: {source}");
        source["id"] = "AAAAAAAAAAAAAAAAAAAAAQ".into();
        let body = serde_json::json!({ "_meta": meta });
        client.put(&url).json(&body).send().await?.error_for_status()?;
        Ok(())
    }

    /// Makes the archive remember another topic than the one it was filled from. Answers what it remembered.
    pub async fn pretend_other_archive(&self) -> anyhow::Result<Vec<u8>> {
        let (store, key) = (self.store().client(), self.remembered_topic());
        let got = store.get_object().bucket(self.bucket()).key(key).send().await?;
        let before = got.body.collect().await?.to_vec();
        let mut source: serde_json::Value = serde_json::from_slice(&before)?;
        ensure!(source["id"].is_string(), "the archive remembers none: {source}");
        source["id"] = "AAAAAAAAAAAAAAAAAAAAAQ".into();
        self.remember(source.to_string().into_bytes()).await?;
        Ok(before)
    }

    /// Makes the archive remember the topic of these bytes.
    pub async fn remember(&self, topic: Vec<u8>) -> anyhow::Result<()> {
        let put = self.store().client().put_object();
        put.bucket(self.bucket()).key(self.remembered_topic()).body(topic.into()).send().await?;
        Ok(())
    }

    fn remembered_topic(&self) -> String {
        format!("meta/{}/topic.json", self.topic())
    }

    /// Whether the index shows the rows of the table, by content.
    pub async fn shows_the_table(&self) -> anyhow::Result<bool> {
        let (client, table) = (self.connect().await?, Table::new("zoo", "animals"));
        client.batch_execute("set timezone = 'UTC'; set extra_float_digits = 1").await?;
        let columns = source::columns(&client, &table).await?;
        let url = &self.servers.opensearch;
        let documents =
            index::documents(&reqwest::Client::new(), url, &self.bucket(), &columns).await?;
        Ok(documents.short() == source::table(&client, &table).await?.short())
    }

    /// Declares another mapping of the index; what is registered stays as it is.
    pub fn declare_mapping(&self, mapping: &str) -> anyhow::Result<()> {
        Ok(std::fs::write(self.folder.join("catalog/animals.json"), mapping)?)
    }

    /// Starts a command of `tailwater`, its output in `<name>.log`.
    pub fn spawn(&self, name: &str, arguments: &[&str]) -> anyhow::Result<Process> {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        Process::start(&self.folder, name, "tailwater", &arguments)
    }

    /// Runs a command of `tailwater` that must succeed.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        run(&self.folder, "tailwater", arguments)
    }

    /// The brokers.
    pub fn brokers(&self) -> &str {
        &self.servers.kafka
    }

    /// The topic.
    pub fn topic(&self) -> String {
        format!("{}.animals.cdc", self.name)
    }

    /// Drops slot and database. Topic and objects stay under the line's name.
    pub async fn remove(self) -> anyhow::Result<()> {
        let (client, connection) = tokio_postgres::connect(&self.servers.postgres, NoTls).await?;
        tokio::spawn(connection);
        let drop_slots = "select pg_drop_replication_slot(slot_name)
                          from pg_replication_slots where database = $1";
        client.execute(drop_slots, &[&self.name]).await?;
        client.batch_execute(&format!("drop database {} with (force)", self.name)).await?;
        Ok(std::fs::remove_dir_all(&self.folder)?)
    }

    fn store(&self) -> Store {
        Store {
            endpoint: self.servers.s3.clone(),
            access_key: "tailwater".into(),
            secret_key: "tailwater-secret".into(),
        }
    }

    fn database_url(&self) -> String {
        format!("{}/{}", self.servers.postgres.trim_end_matches('/'), self.name)
    }

    /// Bucket and alias are called the same.
    fn bucket(&self) -> String {
        self.name.replace('_', "-")
    }

    fn write_catalog(&self) -> anyhow::Result<()> {
        let (topic, bucket) = (self.topic(), self.bucket());
        let text = format!(
            "apiVersion: tailwater/v1\nkind: Topic\nname: {topic}\nfrom: {{ table: zoo.animals }}\n\
             partitions: {PARTITIONS}\n---\n\
             apiVersion: tailwater/v1\nkind: Sink\nname: keep\ntype: archive\ntopics: [{topic}]\n\
             archive: {{ bucket: {bucket}, segment: {{ bytes: 64MiB, age: 400ms }} }}\n---\n\
             apiVersion: tailwater/v1\nkind: Sink\nname: find\ntype: search\ntopics: [{topic}]\n\
             search: {{ alias: {bucket}, mapping: animals.json }}\n"
        );
        std::fs::write(self.folder.join("catalog/animals.yaml"), text)?;
        Ok(std::fs::write(self.folder.join("catalog/animals.json"), MAPPING)?)
    }

    fn write_config(
        &self,
        file: &str,
        s3: &str,
        opensearch: &str,
        [reader, sinks]: [u16; 2],
    ) -> anyhow::Result<()> {
        let postgres: tokio_postgres::Config = self.servers.postgres.parse()?;
        let host = match postgres.get_hosts().first() {
            Some(tokio_postgres::config::Host::Tcp(host)) => host.clone(),
            _ => bail!("`{}` names no host", self.servers.postgres),
        };
        let port = postgres.get_ports().first().copied().unwrap_or(5432);
        let user = postgres.get_user().unwrap_or("postgres");
        // The shortest session the broker allows, so that a worker that hangs is replaced soon.
        let session = if file == "tailwater.yaml" {
            ""
        } else {
            ", properties: { session.timeout.ms: \"6000\", heartbeat.interval.ms: \"1500\" }"
        };
        let text = format!(
            "pipeline: {name}\n\
             postgres: {{ host: {host}, port: {port}, user: {user}, database: {name} }}\n\
             kafka: {{ brokers: \"{kafka}\"{session} }}\n\
             s3: {{ endpoint: \"{s3}\", access_key: tailwater, secret_key: tailwater-secret }}\n\
             opensearch: {{ url: \"{opensearch}\" }}\n\
             reader: {{ admin: \"127.0.0.1:{reader}\" }}\n\
             sinks: {{ admin: \"127.0.0.1:{sinks}\" }}\n",
            name = self.name,
            kafka = self.servers.kafka,
        );
        Ok(std::fs::write(self.folder.join(file), text)?)
    }
}

const TABLE: &str = "
create schema zoo;
create table zoo.animals (id int primary key, name text not null, weight bigint not null, notes text);
alter table zoo.animals replica identity full;";

const MAPPING: &str = r#"{"mappings": {"properties": {
  "id": {"type": "integer"}, "name": {"type": "keyword"}, "weight": {"type": "long"}, "notes": {"type": "text"}}}}"#;
