//! A database, pipeline, topics, bucket and index of a test's own.

use std::path::Path;

use anyhow::{Context, anyhow};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tailwater_config::{Keys, PostgresConfig, S3Config, SearchConfig};
use tailwater_postgres::from_url;
use tailwater_topics_contract::{Catalog, PipelineName};
use tailwater_topics_registry::{Plan, Refusal, Registry, Scope, Servers, plan};
use tokio_postgres::NoTls;

pub(crate) struct Place {
    pub(crate) id: String,
    pub(crate) pipeline: PipelineName,
    pub(crate) sql: tokio_postgres::Client,
    pub(crate) servers: Servers,
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
    /// A new database with the tables of [`SCHEMA`].
    pub(crate) async fn new() -> anyhow::Result<Self> {
        let id = uuid::Uuid::new_v4().simple().to_string()[..10].to_owned();
        let url = variable("TAILWATER_TEST_POSTGRES")?;
        let mut postgres: tokio_postgres::Config = url.parse()?;
        let admin = connect(postgres.dbname("postgres")).await?;
        let database = format!("registry_{id}");
        admin.batch_execute(&format!("CREATE DATABASE {database}")).await?;
        let sql = connect(postgres.dbname(&database)).await?;
        sql.batch_execute(SCHEMA).await?;
        let mut kafka = ClientConfig::new();
        kafka.set("bootstrap.servers", variable("TAILWATER_TEST_KAFKA")?);
        let s3 = S3Config {
            endpoint: variable("TAILWATER_TEST_S3")?,
            region: "us-east-1".into(),
            keys: Keys::given("tailwater", "tailwater-secret"),
            path_style: true,
            encryption: None,
        };
        let url = variable("TAILWATER_TEST_OPENSEARCH")?;
        let opensearch = SearchConfig::open(url);
        let postgres =
            PostgresConfig { database, ..from_url(&variable("TAILWATER_TEST_POSTGRES")?)? };
        let servers = Servers { postgres, kafka, s3: Some(s3), opensearch: Some(opensearch) };
        let pipeline = format!("reg_{id}").parse()?;
        Ok(Self { id, pipeline, sql, servers, admin })
    }

    /// `text` with `ID` replaced, as a catalog.
    pub(crate) fn catalog(&self, text: &str) -> anyhow::Result<Catalog> {
        let load = |_: &Path| Ok(r#"{"mappings":{"dynamic":false}}"#.to_owned());
        Catalog::parse([("catalog.yaml", text.replace("ID", &self.id).as_str())], &load)
            .map_err(|mistakes| anyhow!("{mistakes:?}"))
    }

    pub(crate) async fn registry(&self) -> anyhow::Result<Registry> {
        Ok(Registry::connect(self.pipeline.clone(), self.servers.clone()).await?)
    }

    pub(crate) async fn plan(&self, text: &str) -> anyhow::Result<Result<Plan, Vec<Refusal>>> {
        let catalog = self.catalog(text)?;
        let world = self.registry().await?.observe(&catalog).await?;
        Ok(plan(&self.pipeline, &catalog, Scope::All, &world))
    }

    /// Plans and applies; answers the changes as lines.
    pub(crate) async fn apply(&self, text: &str) -> anyhow::Result<Vec<String>> {
        let catalog = self.catalog(text)?;
        let registry = self.registry().await?;
        registry.lock().await?;
        let world = registry.observe(&catalog).await?;
        let plan = plan(&self.pipeline, &catalog, Scope::All, &world)
            .map_err(|refusals| anyhow!("{refusals:?}"))?;
        registry.carry_out(&plan.changes).await?;
        Ok(plan.changes.iter().map(ToString::to_string).collect())
    }

    pub(crate) async fn refusals(&self, text: &str) -> anyhow::Result<Vec<String>> {
        match self.plan(text).await? {
            Ok(plan) => Err(anyhow!("was not refused: {plan:?}")),
            Err(refusals) => Ok(refusals.iter().map(ToString::to_string).collect()),
        }
    }

    /// Topics of this place that exist, with their partitions.
    pub(crate) fn topics(&self) -> anyhow::Result<Vec<(String, usize)>> {
        let consumer: BaseConsumer = self.servers.kafka.create()?;
        let metadata = consumer.fetch_metadata(None, std::time::Duration::from_secs(10))?;
        let ours = metadata.topics().iter().filter(|topic| topic.name().contains(&self.id));
        let mut topics: Vec<_> =
            ours.map(|t| (t.name().to_owned(), t.partitions().len())).collect();
        topics.sort();
        Ok(topics)
    }

    pub(crate) fn produce(&self, topic: &str) -> anyhow::Result<()> {
        let producer: BaseProducer = self.servers.kafka.create()?;
        let record = BaseRecord::to(topic).key("k").payload("{}");
        producer.send(record).map_err(|(error, _)| error)?;
        Ok(producer.flush(std::time::Duration::from_secs(10))?)
    }

    /// Removes what the test made; a failed test leaves it for a look.
    pub(crate) async fn leave(self) -> anyhow::Result<()> {
        let kafka: AdminClient<DefaultClientContext> = self.servers.kafka.create()?;
        let topics = self.topics()?;
        let names: Vec<&str> = topics.iter().map(|(name, _)| name.as_str()).collect();
        if !names.is_empty() {
            kafka.delete_topics(&names, &AdminOptions::new()).await?;
        }
        drop(self.sql);
        let drop = format!("DROP DATABASE registry_{} WITH (FORCE)", self.id);
        Ok(self.admin.batch_execute(&drop).await?)
    }
}

/// A table fit for search, an outbox as the library makes it, and tables that cannot be captured as they are.
pub(crate) const SCHEMA: &str = r#"
CREATE SCHEMA shop;
CREATE SCHEMA orders;
CREATE TABLE shop.stock (warehouse int, id uuid, name text, price numeric(12, 2), PRIMARY KEY (id, warehouse));
ALTER TABLE shop.stock REPLICA IDENTITY FULL;
CREATE TABLE shop.plain (id int PRIMARY KEY, body text);
CREATE TABLE shop.narrow (id int PRIMARY KEY, code varchar(20));
CREATE TABLE shop.unkeyed (body text);
CREATE TABLE shop.split (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE shop.split_1 PARTITION OF shop.split FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE shop.split_2 PARTITION OF shop.split DEFAULT;
CREATE VIEW shop.seen AS SELECT * FROM shop.plain;
CREATE TABLE shop."Odd ""name"".here" (id int PRIMARY KEY);
CREATE TABLE orders.outbox (
    id uuid, created_at timestamptz, aggregate_type text NOT NULL, aggregate_id text NOT NULL,
    event_type text NOT NULL, event_version smallint NOT NULL, partition_key text, payload jsonb NOT NULL,
    headers jsonb, correlation_id uuid, causation_id uuid, traceparent text, PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CREATE TABLE orders.outbox_default PARTITION OF orders.outbox DEFAULT;
CREATE TABLE shop.outbox (id uuid PRIMARY KEY, payload json);
"#;
