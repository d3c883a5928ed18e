//! A database, a catalog and work that waits.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio_postgres::Client;

use super::Options;
use crate::postgres::connect;
use crate::process::Measured;

/// The slot that `pg_recvlogical` reads.
pub(crate) const CEILING_SLOT: &str = "bench_ceiling";
const KAFKA_WAIT: Duration = Duration::from_secs(10);

/// Everything a run needs, under names of its own.
pub(crate) struct Backlog {
    name: String,
    folder: PathBuf,
    tailwater: PathBuf,
    admin: Client,
    client: Client,
    database_url: String,
    brokers: String,
}

impl Backlog {
    /// Creates the database, applies the catalog, and fills the table that the first start copies.
    pub(crate) async fn prepare(options: &Options) -> anyhow::Result<Self> {
        let tailwater = options.tailwater.canonicalize().with_context(|| {
            format!(
                "`{}` is not built; run `cargo build --release -p tailwater`",
                options.tailwater.display()
            )
        })?;
        let name = format!("bench_{}", std::process::id());
        let folder = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&folder)?;
        let admin = connect(&options.postgres).await?;
        admin.batch_execute(&format!("create database {name}")).await?;
        let database_url = format!("{}/{name}", options.postgres.trim_end_matches('/'));
        let client = connect(&database_url).await?;
        client.batch_execute(TABLES).await?;
        let backlog = Self {
            name,
            folder,
            tailwater,
            admin,
            client,
            database_url,
            brokers: options.brokers.clone(),
        };
        backlog.declare(options)?;
        backlog.run(&["apply", "-f", "catalog"])?;
        let insert = format!(
            "insert into existing select i, i % 97, now(), repeat(md5(i::text), 2) from generate_series(1, {}) i",
            options.existing_rows
        );
        backlog.client.batch_execute(&insert).await.context("filling the table to be copied")?;
        backlog.client.batch_execute("vacuum analyze existing").await?;
        Ok(backlog)
    }

    /// Ends the very first start of the reader, after which its slot stands ahead of all work, and makes the slot of
    /// the ceiling.
    pub(crate) async fn settle(&self, mut reader: Measured) -> anyhow::Result<()> {
        // Progress exists once the first commit has gone through.
        self.client.batch_execute("insert into warm values (1)").await?;
        let end = self.end().await?;
        while !self.is_confirmed(&end).await? {
            ensure!(reader.is_running()?, "the reader ended; see {}", self.log("reader").display());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        reader.stop()?;
        let make = "select pg_create_logical_replication_slot($1, 'pgoutput')";
        self.client.execute(make, &[&CEILING_SLOT]).await?;
        Ok(())
    }

    /// Inserts the rows that reader and ceiling both read.
    pub(crate) async fn fill(&self, rows: u64, per_transaction: u64) -> anyhow::Result<()> {
        let insert = format!(
            "do $$ begin for batch in 0 .. {} loop
               insert into rows select batch * {per_transaction} + i, i % 97, now(),
                 'customer ' || i, repeat(md5(i::text), 3), i * 1.25, (i % 2 = 0)
               from generate_series(1, {per_transaction}) i;
               commit;
             end loop; end $$",
            rows / per_transaction - 1
        );
        self.client.batch_execute(&insert).await.context("filling the backlog")
    }

    /// Inserts documents and lets the reader bring them into Kafka.
    pub(crate) async fn fill_documents(&self, rows: u64) -> anyhow::Result<()> {
        let insert = format!(
            "insert into documents select i, jsonb_build_object('title', 'product ' || i, 'text', repeat(md5(i::text), 8), 'price', i)
             from generate_series(1, {rows}) i"
        );
        self.client.batch_execute(&insert).await?;
        let end = self.end().await?;
        let reader = self.start_reader()?;
        while !self.is_confirmed(&end).await? {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        reader.stop()
    }

    /// Where the WAL ends now.
    pub(crate) async fn end(&self) -> anyhow::Result<String> {
        let row = self.client.query_one("select pg_current_wal_insert_lsn()::text", &[]).await?;
        Ok(row.get(0))
    }

    /// Whether the reader's slot is confirmed up to the last commit before `end`.
    pub(crate) async fn is_confirmed(&self, end: &str) -> anyhow::Result<bool> {
        // The insert position may lie a little beyond the last commit record: page headers and running-transaction
        // records follow it. A keepalive would close that gap only seconds later, which is not the reader's work.
        const SLACK_BYTES: i64 = 4096;
        let select =
            "select coalesce(pg_wal_lsn_diff($2::text::pg_lsn, confirmed_flush_lsn), 1e15)::bigint
                      from pg_replication_slots where slot_name = $1";
        let slot = format!("tailwater_{}", self.name);
        let behind: i64 = self.admin.query_one(select, &[&slot, &end]).await?.get(0);
        Ok(behind <= SLACK_BYTES)
    }

    /// Whether the reader's slot is being read.
    pub(crate) async fn is_read(&self) -> anyhow::Result<bool> {
        let slot = format!("tailwater_{}", self.name);
        let select = "select 1 from pg_replication_slots where slot_name = $1 and active";
        Ok(self.admin.query_opt(select, &[&slot]).await?.is_some())
    }

    /// How many offsets of a topic are taken, markers of transactions among them.
    pub(crate) fn written(&self, topic: &str) -> anyhow::Result<u64> {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", &self.brokers).create()?;
        let topic = self.topic(topic);
        let mut written = 0;
        for partition in 0..3 {
            let (_, high) = consumer.fetch_watermarks(&topic, partition, KAFKA_WAIT)?;
            written += u64::try_from(high)?;
        }
        Ok(written)
    }

    /// How many records of a topic a sink's group has committed.
    pub(crate) fn committed(&self, sink: &str, topic: &str) -> anyhow::Result<u64> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("group.id", format!("tailwater.{}.{sink}", self.name))
            .create()?;
        let topic = self.topic(topic);
        let mut list = TopicPartitionList::new();
        for partition in 0..3 {
            list.add_partition(&topic, partition);
        }
        let mut records = 0;
        for element in consumer.committed_offsets(list, KAFKA_WAIT)?.elements() {
            if let Offset::Offset(offset) = element.offset() {
                // Transaction markers take offsets too, so this counts a little more than records: the sink is
                // done when it stands at the end of every partition.
                let (_, high) =
                    consumer.fetch_watermarks(&topic, element.partition(), KAFKA_WAIT)?;
                if offset < high - 1 {
                    return Ok(0);
                }
                records += u64::try_from(offset)?;
            }
        }
        Ok(records)
    }

    pub(crate) fn start_reader(&self) -> anyhow::Result<Measured> {
        self.start(&["cdc", "run"], "reader")
    }

    pub(crate) fn start_sink(&self, sink: &str) -> anyhow::Result<Measured> {
        self.start(&["sinks", "run", sink], sink)
    }

    /// The database that holds the backlog.
    pub(crate) fn database_url(&self) -> &str {
        &self.database_url
    }

    /// The publication both read.
    pub(crate) fn publication(&self) -> String {
        format!("tailwater_{}_changes", self.name)
    }

    /// Where a process writes what it has to say.
    pub(crate) fn log(&self, process: &str) -> PathBuf {
        self.folder.join(format!("{process}.log"))
    }

    /// Drops what the run made in Postgres and on disk. Topics and objects stay under the run's name.
    pub(crate) async fn remove(self) -> anyhow::Result<()> {
        let drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = $1";
        self.admin.execute(drop, &[&self.name]).await?;
        self.admin.batch_execute(&format!("drop database {} with (force)", self.name)).await?;
        Ok(std::fs::remove_dir_all(self.folder)?)
    }

    fn topic(&self, topic: &str) -> String {
        format!("{}.{topic}", self.name)
    }

    fn start(&self, arguments: &[&str], log: &str) -> anyhow::Result<Measured> {
        let mut command = Command::new(&self.tailwater);
        command.current_dir(&self.folder).args(arguments);
        Measured::start(&mut command, &self.log(log))
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let output =
            Command::new(&self.tailwater).current_dir(&self.folder).args(arguments).output()?;
        if !output.status.success() {
            bail!(
                "`tailwater {}`: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    fn declare(&self, options: &Options) -> anyhow::Result<()> {
        let name = &self.name;
        let (rows, documents) = (self.topic("bench.rows"), self.topic("bench.documents"));
        let existing = self.topic("bench.existing");
        let postgres: tokio_postgres::Config = options.postgres.parse()?;
        let host = match postgres.get_hosts().first() {
            Some(tokio_postgres::config::Host::Tcp(host)) => host.clone(),
            _ => bail!("`{}` names no host", options.postgres),
        };
        let port = postgres.get_ports().first().copied().unwrap_or(5432);
        let user = postgres.get_user().unwrap_or("postgres");
        write(
            &self.folder.join("tailwater.yaml"),
            &format!(
                "pipeline: {name}\n\
                 postgres: {{ host: {host}, port: {port}, user: {user}, database: {name} }}\n\
                 kafka: {{ brokers: \"{}\" }}\n\
                 s3: {{ endpoint: \"{}\", region: us-east-1, access_key: tailwater, secret_key: tailwater-secret, path_style: true }}\n\
                 opensearch: {{ url: \"{}\" }}\n\
                 reader: {{ admin: \"127.0.0.1:18590\" }}\n\
                 sinks: {{ admin: \"127.0.0.1:18591\" }}\n",
                options.brokers, options.s3, options.opensearch
            ),
        )?;
        std::fs::create_dir_all(self.folder.join("catalog"))?;
        let bucket = name.replace('_', "-");
        write(
            &self.folder.join("catalog/bench.yaml"),
            &format!(
                "apiVersion: tailwater/v1\nkind: Topic\nname: {rows}\nfrom: {{ table: public.rows }}\npartitions: 3\n---\n\
                 apiVersion: tailwater/v1\nkind: Topic\nname: {documents}\nfrom: {{ table: public.documents }}\npartitions: 3\n---\n\
                 apiVersion: tailwater/v1\nkind: Topic\nname: {existing}\nfrom: {{ table: public.existing }}\npartitions: 3\n---\n\
                 apiVersion: tailwater/v1\nkind: Topic\nname: {name}.warm\nfrom: {{ table: public.warm }}\n---\n\
                 apiVersion: tailwater/v1\nkind: Sink\nname: lake\ntype: archive\ntopics: [{rows}]\n\
                 archive: {{ bucket: {bucket}, segment: {{ age: 5s }} }}\n---\n\
                 apiVersion: tailwater/v1\nkind: Sink\nname: search\ntype: search\ntopics: [{documents}]\n\
                 search: {{ alias: {name}, mapping: mapping.json }}\n"
            ),
        )?;
        write(
            &self.folder.join("catalog/mapping.json"),
            r#"{"mappings":{"dynamic":false,"properties":{"id":{"type":"long"},"doc":{"properties":{"title":{"type":"text"},"text":{"type":"text"},"price":{"type":"long"}}}}}}"#,
        )
    }
}

const TABLES: &str = "
create table rows (id bigint primary key, kind int, at timestamptz, name text, body text, price numeric, ok boolean);
create table documents (id bigint primary key, doc jsonb);
alter table documents replica identity full;
create table existing (id bigint primary key, kind int, at timestamptz, body text);
create table warm (id int primary key);
";

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
