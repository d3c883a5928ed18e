//! A database with its pipelines.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::sleep;
use tokio_postgres::Client;
use tokio_postgres::config::Host;

use crate::bare::Outcome;
use crate::postgres::connect;
use crate::process::{Cost, Measured};

const KAFKA_WAIT: Duration = Duration::from_secs(10);

/// Between two looks at how far a process is.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Partitions of topics, where there are few of them.
pub(crate) const PARTITIONS: i32 = 3;

/// The servers of every suite, and what is measured on them.
#[derive(Args)]
pub(crate) struct Servers {
    /// Postgres; the benchmark creates and drops databases of its own.
    #[arg(long, env = "TAILWATER_TEST_POSTGRES")]
    pub(crate) postgres: String,
    /// Kafka. Topics stay there under the run's name.
    #[arg(long, env = "TAILWATER_TEST_KAFKA")]
    pub(crate) brokers: String,
    /// The `tailwater` binary to measure.
    #[arg(long, default_value = "target/release/tailwater")]
    pub(crate) tailwater: PathBuf,
}

/// What a pipeline's configuration says besides where its servers are.
#[derive(Clone, Copy, Default)]
pub(crate) struct Further<'a> {
    /// More of the section `reader`, each with a comma before it.
    pub(crate) reader: &'a str,
    /// More sections, each on a line.
    pub(crate) sections: &'a str,
    /// More documents of the catalog, each with a line of `---` before it.
    pub(crate) catalog: &'a str,
}

/// A database of one suite.
pub(crate) struct Stage {
    name: String,
    folder: PathBuf,
    tailwater: PathBuf,
    brokers: String,
    server: String,
    url: String,
    admin: Client,
    client: Client,
}

/// A pipeline over the database of a stage, with a folder for its configuration.
pub(crate) struct Pipeline {
    name: String,
    folder: PathBuf,
    tailwater: PathBuf,
    brokers: String,
    admin: String,
}

impl Stage {
    /// Creates the database with these tables, and `warm`, whose commits mark places.
    pub(crate) async fn create(servers: &Servers, suite: &str, ddl: &str) -> anyhow::Result<Self> {
        let name = format!("bench_{}_{suite}", std::process::id());
        let folder = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&folder)?;
        let admin = connect(&servers.postgres).await?;
        admin.batch_execute(&format!("create database {name}")).await?;
        let url = format!("{}/{name}", servers.postgres.trim_end_matches('/'));
        let client = connect(&url).await?;
        client
            .batch_execute("create table warm (id bigint generated always as identity primary key)")
            .await?;
        client.batch_execute(ddl).await?;
        Ok(Self {
            name,
            folder,
            tailwater: servers.tailwater.canonicalize()?,
            brokers: servers.brokers.clone(),
            server: servers.postgres.clone(),
            url,
            admin,
            client,
        })
    }

    /// Writes the configuration of a pipeline that takes `tables` (and `warm`), and applies it.
    pub(crate) fn pipeline(
        &self,
        suffix: &str,
        tables: &[Table<'_>],
        further: Further<'_>,
    ) -> anyhow::Result<Pipeline> {
        let name = format!("{}{suffix}", self.name);
        let folder = self.folder.join(&name);
        std::fs::create_dir_all(folder.join("catalog"))?;
        let server: tokio_postgres::Config = self.server.parse()?;
        let host = match server.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            _ => bail!("`{}` names no host", self.server),
        };
        let port = server.get_ports().first().copied().unwrap_or(5432);
        let user = server.get_user().unwrap_or("postgres");
        // Nobody takes a free port within the moment before the reader does.
        let admin = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        write(
            &folder.join("tailwater.yaml"),
            &format!(
                "pipeline: {name}\n\
                 postgres: {{ host: {host}, port: {port}, user: {user}, database: {} }}\n\
                 kafka: {{ brokers: \"{}\" }}\n\
                 reader: {{ admin: \"{admin}\"{} }}\n{}",
                self.name, self.brokers, further.reader, further.sections
            ),
        )?;
        let warm = Table { name: "warm", partitions: 1, key: "" };
        let catalog: Vec<String> =
            tables.iter().chain([&warm]).map(|table| table.declared(&name)).collect();
        write(&folder.join("catalog/bench.yaml"), &(catalog.join("---\n") + further.catalog))?;
        let pipeline = Pipeline {
            name,
            folder,
            tailwater: self.tailwater.clone(),
            brokers: self.brokers.clone(),
            admin,
        };
        pipeline.run(&["apply", "-f", "catalog"])?;
        Ok(pipeline)
    }

    /// Runs statements.
    pub(crate) async fn sql(&self, statements: &str) -> anyhow::Result<()> {
        Ok(self.client.batch_execute(statements).await?)
    }

    /// Asks for one value.
    pub(crate) async fn ask(&self, select: &str) -> anyhow::Result<String> {
        Ok(self.client.query_one(select, &[]).await?.get(0))
    }

    /// Commits a row into `warm` after all that was committed before; answers a position that lies ahead of it and
    /// behind everything else.
    pub(crate) async fn mark(&self) -> anyhow::Result<String> {
        let position = self.ask("select pg_current_wal_insert_lsn()::text").await?;
        self.sql("insert into warm default values").await?;
        Ok(position)
    }

    /// Whether a slot is confirmed beyond a mark, and so everything of ours.
    async fn is_confirmed(&self, slot: &str, mark: &str) -> anyhow::Result<bool> {
        let select = "select confirmed_flush_lsn > $2::text::pg_lsn from pg_replication_slots where slot_name = $1";
        let row = self.admin.query_opt(select, &[&slot, &mark]).await?;
        Ok(row.and_then(|row| row.get::<_, Option<bool>>(0)).unwrap_or_default())
    }

    /// Starts the reader for the first time, without the rows that are there already, and ends it when its slot stands.
    pub(crate) async fn settle(&self, pipeline: &Pipeline) -> anyhow::Result<()> {
        let mut reader = pipeline.start(&["cdc", "run", "--from-now"])?;
        self.until_ready(pipeline, &mut reader).await?;
        let mark = self.mark().await?;
        self.until_confirmed(pipeline, &mut reader, &mark).await?;
        reader.stop()
    }

    /// Waits until the reader says that it is ready.
    pub(crate) async fn until_ready(
        &self,
        pipeline: &Pipeline,
        reader: &mut Measured,
    ) -> anyhow::Result<()> {
        while !pipeline.is_ready() {
            pipeline.check(reader)?;
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Makes a slot for a bare loop.
    pub(crate) async fn make_slot(&self, slot: &str) -> anyhow::Result<()> {
        let make = format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')");
        self.sql(&make).await
    }

    /// Drops a slot as soon as nobody reads it.
    pub(crate) async fn drop_slot(&self, slot: &str) -> anyhow::Result<()> {
        let drop = format!("select pg_drop_replication_slot('{slot}')");
        for _ in 0..100 {
            if self.sql(&drop).await.is_ok() {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
        self.sql(&drop).await
    }

    /// The reader, from its first byte of WAL until its slot is confirmed beyond the mark.
    pub(crate) async fn drain(&self, pipeline: &Pipeline, mark: &str) -> anyhow::Result<Cost> {
        let mut reader = pipeline.start(&["cdc", "run"])?;
        self.until_read(pipeline, &mut reader).await?;
        let before = reader.cost()?;
        self.until_confirmed(pipeline, &mut reader, mark).await?;
        let cost = reader.cost()?.since(before);
        reader.stop()?;
        Ok(cost)
    }

    /// Waits until the server streams to the reader.
    pub(crate) async fn until_read(
        &self,
        pipeline: &Pipeline,
        reader: &mut Measured,
    ) -> anyhow::Result<()> {
        let slot = pipeline.slot();
        let select = "select 1 from pg_replication_slots where slot_name = $1 and active";
        while self.admin.query_opt(select, &[&slot]).await?.is_none() {
            pipeline.check(reader)?;
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    pub(crate) async fn until_confirmed(
        &self,
        pipeline: &Pipeline,
        reader: &mut Measured,
        mark: &str,
    ) -> anyhow::Result<()> {
        let slot = pipeline.slot();
        while !self.is_confirmed(&slot, mark).await? {
            pipeline.check(reader)?;
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Runs a bare loop in a process of its own.
    pub(crate) async fn bare(&self, arguments: &[&str]) -> anyhow::Result<Outcome> {
        let output = tokio::process::Command::new(std::env::current_exe()?)
            .args(["bare", "--postgres", &self.url])
            .args(arguments)
            .output()
            .await?;
        ensure!(
            output.status.success(),
            "bare {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// The pipeline's name, when it has no suffix, and the beginning of all names.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The database, for programs that take it so.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Where files of this suite go.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Drops what the suite made in Postgres and on disk. Topics stay.
    pub(crate) async fn remove(self) -> anyhow::Result<()> {
        drop(self.client);
        let slots = "select slot_name::text from pg_replication_slots where database = $1";
        for row in self.admin.query(slots, &[&self.name]).await? {
            let slot: String = row.get(0);
            let drop = "select pg_drop_replication_slot($1::text::name)";
            self.admin.execute(drop, &[&slot]).await?;
        }
        self.admin.batch_execute(&format!("drop database {} with (force)", self.name)).await?;
        Ok(std::fs::remove_dir_all(self.folder)?)
    }
}

/// A table to capture.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a> {
    pub(crate) name: &'a str,
    pub(crate) partitions: i32,
    /// Columns of the key, where the table has no primary key.
    pub(crate) key: &'a str,
}

/// The ends of a table's topic. Made once, because a client for every look would be most of what the machine does.
pub(crate) struct Written {
    consumer: BaseConsumer,
    topic: String,
}

impl Written {
    /// How many offsets are taken, markers of transactions among them.
    pub(crate) fn offsets(&self) -> anyhow::Result<u64> {
        let mut asked = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            asked.add_partition_offset(&self.topic, partition, Offset::End)?;
        }
        let ends = self.consumer.offsets_for_times(asked, KAFKA_WAIT)?;
        let mut written = 0;
        for end in ends.elements() {
            end.error()?;
            let Offset::Offset(offset) = end.offset() else { bail!("a partition without an end") };
            written += u64::try_from(offset)?;
        }
        Ok(written)
    }
}

impl Table<'_> {
    fn declared(self, pipeline: &str) -> String {
        let Self { name, partitions, key } = self;
        let key = if key.is_empty() { String::new() } else { format!("key: [{key}]\n") };
        format!(
            "apiVersion: tailwater/v1\nkind: Topic\nname: {pipeline}.{name}\nfrom: {{ table: public.{name} }}\n{key}partitions: {partitions}\n"
        )
    }
}

impl Pipeline {
    pub(crate) fn slot(&self) -> String {
        format!("tailwater_{}", self.name)
    }

    pub(crate) fn publication(&self) -> String {
        format!("tailwater_{}_changes", self.name)
    }

    pub(crate) fn topic(&self, table: &str) -> String {
        format!("{}.{table}", self.name)
    }

    pub(crate) fn brokers(&self) -> &str {
        &self.brokers
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> anyhow::Result<Measured> {
        let mut command = Command::new(&self.tailwater);
        command.current_dir(&self.folder).args(arguments);
        Measured::start(&mut command, &self.log())
    }

    /// Fails when a process is no longer there.
    pub(crate) fn check(&self, process: &mut Measured) -> anyhow::Result<()> {
        if process.is_running()? {
            return Ok(());
        }
        bail!("`tailwater` ended:\n{}", self.said())
    }

    /// The last that its processes said.
    pub(crate) fn said(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let end: Vec<&str> = log.lines().rev().take(5).collect();
        end.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Whether the reader says that it is ready.
    fn is_ready(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(&self.admin)?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"GET /ready HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.split(' ').nth(1) == Some("200"))
    }

    /// To look how much of a table has been written.
    pub(crate) fn written(&self, table: &str) -> anyhow::Result<Written> {
        let consumer = ClientConfig::new().set("bootstrap.servers", &self.brokers).create()?;
        Ok(Written { consumer, topic: self.topic(table) })
    }

    fn log(&self) -> PathBuf {
        self.folder.join("tailwater.log")
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let output =
            Command::new(&self.tailwater).current_dir(&self.folder).args(arguments).output()?;
        ensure!(
            output.status.success(),
            "`tailwater {}`: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
