//! A folder, database, pipeline, topics, bucket and index of a test's own.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;
use tailwater_config::{Keys, S3Config, SearchConfig};
use tailwater_sinks_archive::Store;
use tailwater_sinks_search::{Client, scan};
use tokio::runtime::Handle;
use tokio_postgres::NoTls;
use tokio_postgres::config::Host;

pub(crate) struct Place {
    pub(crate) id: String,
    pub(crate) folder: PathBuf,
    pub(crate) sql: tokio_postgres::Client,
    pub(crate) kafka: ClientConfig,
    admin: tokio_postgres::Client,
}

/// A variable that must be set: a test that is skipped proves nothing.
fn variable(name: &str) -> anyhow::Result<String> {
    std::env::var(name)
        .with_context(|| format!("`{name}` is not set; run the tests with `make test`"))
}

async fn connect(config: &tokio_postgres::Config) -> anyhow::Result<tokio_postgres::Client> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

impl Place {
    pub(crate) async fn new() -> anyhow::Result<Self> {
        let id = uuid::Uuid::new_v4().simple().to_string()[..10].to_owned();
        let mut postgres: tokio_postgres::Config = variable("TAILWATER_TEST_POSTGRES")?.parse()?;
        let admin = connect(postgres.dbname("postgres")).await?;
        let database = format!("cli_{id}");
        admin.batch_execute(&format!("CREATE DATABASE {database}")).await?;
        let sql = connect(postgres.dbname(&database)).await?;
        sql.batch_execute(
            "CREATE SCHEMA shop;
             CREATE TABLE shop.stock (id int PRIMARY KEY, name text);
             ALTER TABLE shop.stock REPLICA IDENTITY FULL;",
        )
        .await?;
        let Some(Host::Tcp(host)) = postgres.get_hosts().first().cloned() else {
            anyhow::bail!("TAILWATER_TEST_POSTGRES names no host")
        };
        let port = postgres.get_ports().first().copied().unwrap_or(5432);
        let user = postgres.get_user().unwrap_or("postgres");
        let brokers = variable("TAILWATER_TEST_KAFKA")?;
        let mut kafka = ClientConfig::new();
        kafka.set("bootstrap.servers", &brokers);

        let folder = std::env::temp_dir().join(format!("tailwater-cli-{id}"));
        fs::create_dir_all(folder.join("catalog"))?;
        let config = format!(
            "pipeline: cli_{id}\n\
             postgres: {{ host: {host}, port: {port}, user: {user}, database: {database} }}\n\
             kafka: {{ brokers: \"{brokers}\" }}\n\
             s3: {{ endpoint: \"{}\", access_key: tailwater, secret_key: \"${{S3_KEY:-tailwater-secret}}\" }}\n\
             opensearch: {{ url: \"{}\" }}\n\
             reader: {{ admin: \"127.0.0.1:0\" }}\n\
             sinks: {{ admin: \"127.0.0.1:0\" }}\n",
            variable("TAILWATER_TEST_S3")?,
            variable("TAILWATER_TEST_OPENSEARCH")?
        );
        fs::write(folder.join("tailwater.yaml"), config)?;
        fs::write(folder.join("catalog/stock.mapping.json"), r#"{"mappings":{"dynamic":false}}"#)?;
        fs::write(folder.join("catalog/topics.yaml"), TOPICS.replace("ID", &id))?;
        fs::write(folder.join("catalog/sinks.yml"), SINKS.replace("ID", &id))?;
        Ok(Self { id, folder, sql, kafka, admin })
    }

    /// A value of the configuration.
    #[expect(clippy::unused_self, reason = "reads as a question to the place")]
    pub(crate) fn value(&self, config: &str, key: &str) -> String {
        let (_, rest) = config.split_once(&format!("{key}: ")).expect("in the configuration");
        rest.split([',', ' ', '}', '\n']).next().unwrap_or_default().trim_matches('"').to_owned()
    }

    /// The database as a URL.
    pub(crate) fn url(&self, config: &str) -> String {
        let value = |key| self.value(config, key);
        let (host, port, user) = (value("host"), value("port"), value("user"));
        format!("postgres://{user}@{host}:{port}/{}", value("database"))
    }

    /// A configuration without keys of the store; answers its name.
    pub(crate) fn without_keys(&self) -> anyhow::Result<&'static str> {
        let config = fs::read_to_string(self.folder.join("tailwater.yaml"))?;
        let keys = ", access_key: tailwater, secret_key: \"${S3_KEY:-tailwater-secret}\"";
        anyhow::ensure!(config.contains(keys), "it names its keys");
        fs::write(self.folder.join("keyless.yaml"), config.replace(keys, ""))?;
        Ok("keyless.yaml")
    }

    /// Another table, whose topic masks three columns, with an index of its own.
    pub(crate) async fn mask_parts(&self) -> anyhow::Result<()> {
        self.sql
            .batch_execute(
                "CREATE TABLE shop.part (depot int, number int, name text, secret text, note text,
                 email text, PRIMARY KEY (depot, number));
                 ALTER TABLE shop.part REPLICA IDENTITY FULL",
            )
            .await?;
        fs::write(self.folder.join("catalog/parts.yaml"), PARTS.replace("ID", &self.id))?;
        let config = fs::read_to_string(self.folder.join("tailwater.yaml"))?;
        fs::write(self.folder.join("keyless.yaml"), &config)?;
        let reader = "reader: { mask_key: \"0123456789abcdef0123456789abcdef\", ";
        let config = config.replace("reader: { ", reader);
        Ok(fs::write(self.folder.join("tailwater.yaml"), config)?)
    }

    /// What an alias of the index shows.
    pub(crate) fn documents(alias: &str) -> Vec<Value> {
        let url = variable("TAILWATER_TEST_OPENSEARCH").expect("looked at before");
        let client = Client::new(SearchConfig::open(url)).expect("a client");
        let mut found = Vec::new();
        let read = |document: scan::Document| {
            found.push(serde_json::from_str(document.source.get()).expect("JSON"));
        };
        let look = scan::documents(&client, alias, read);
        tokio::task::block_in_place(|| Handle::current().block_on(look)).expect("it is searched");
        found
    }

    /// The bucket of the archive sink.
    pub(crate) fn archive(&self) -> Store {
        let endpoint = variable("TAILWATER_TEST_S3").expect("looked at before");
        let config = S3Config {
            endpoint,
            region: "us-east-1".to_owned(),
            keys: Keys::given("tailwater", "tailwater-secret"),
            path_style: true,
            encryption: None,
        };
        Store::connect(config, &format!("cli-{}", self.id))
    }

    /// Removes what the test made; a failed test leaves it for a look.
    pub(crate) async fn leave(self) -> anyhow::Result<()> {
        let consumer: BaseConsumer = self.kafka.create()?;
        let metadata = consumer.fetch_metadata(None, std::time::Duration::from_secs(10))?;
        let topics: Vec<&str> = metadata.topics().iter().map(|topic| topic.name()).collect();
        let ours: Vec<&str> = topics.into_iter().filter(|name| name.contains(&self.id)).collect();
        if !ours.is_empty() {
            let kafka: AdminClient<DefaultClientContext> = self.kafka.create()?;
            kafka.delete_topics(&ours, &AdminOptions::new()).await?;
        }
        drop(self.sql);
        let database = format!("cli_{}", self.id);
        let slots = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1";
        self.admin.execute(slots, &[&database]).await?;
        self.admin.batch_execute(&format!("DROP DATABASE {database} WITH (FORCE)")).await?;
        Ok(fs::remove_dir_all(&self.folder)?)
    }
}

const TOPICS: &str = "\
apiVersion: tailwater/v1
kind: Topic
name: stock.ID
from: { table: shop.stock }
partitions: 2
config: { cleanup.policy: compact }
";

const PARTS: &str = "\
apiVersion: tailwater/v1
kind: Topic
name: part.ID
from: { table: shop.part }
partitions: 2
mask: { secret: drop, note: truncate(3), email: hmac }
---
apiVersion: tailwater/v1
kind: Sink
name: seek
type: search
topics: [part.ID]
search: { alias: part-ID, mapping: stock.mapping.json }
";

const SINKS: &str = "\
apiVersion: tailwater/v1
kind: Sink
name: lake
type: archive
topics: [stock.ID]
archive: { bucket: cli-ID, segment: { age: 1s } }
---
apiVersion: tailwater/v1
kind: Sink
name: find
type: search
topics: [stock.ID]
search: { alias: stock-ID, mapping: stock.mapping.json }
";
