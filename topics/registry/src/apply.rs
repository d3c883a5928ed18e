//! The real servers, observed and changed.
//!
//! A repeated apply plans anew from what it finds, so it does not matter between which two changes the last one
//! was killed. One apply at a time: a lock in Postgres, held for the life of the connection, makes a second wait.

use std::collections::{BTreeMap, BTreeSet};

use rdkafka::ClientConfig;
use tailwater_config::{PostgresConfig, S3Config, SearchConfig};
use tailwater_runtime::clock;
use tailwater_topics_contract::{
    Catalog, From, Origin, PipelineName, Registration, Registrations, SearchSpec, SinkKind,
    SinkRegistration, SinkSpec, TableName, TopicName, TopicSpec,
};

use crate::broker::Broker;
use crate::change::{Change, NewTopic, steps};
use crate::database::Database;
use crate::destinations::{self, Destinations};
use crate::plan::{dead_letter_topic, declared_topic, internal_topics};
use crate::world::World;
use crate::{broker, database, registrations};

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Servers {
    /// The database whose tables are captured.
    pub postgres: PostgresConfig,
    /// The brokers, with `bootstrap.servers` set.
    pub kafka: ClientConfig,
    /// The S3 store of archive sinks, if there is one. The bucket in it is replaced by each sink's own.
    pub s3: Option<S3Config>,
    /// The OpenSearch of search sinks, if there is one.
    pub opensearch: Option<SearchConfig>,
}

/// A server failed while the world was observed or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Kafka.
    #[error(transparent)]
    Broker(#[from] broker::Error),
    /// Postgres.
    #[error(transparent)]
    Database(#[from] database::Error),
    /// S3 or OpenSearch.
    #[error(transparent)]
    Destination(#[from] destinations::Error),
    /// The registration topic.
    #[error(transparent)]
    Registrations(#[from] registrations::Error),
}

/// The servers of one pipeline.
pub struct Registry {
    pipeline: PipelineName,
    kafka: ClientConfig,
    broker: Broker,
    database: Database,
    destinations: Destinations,
}

impl Registry {
    /// Connects. Servers that do not answer are tried again for some seconds.
    pub async fn connect(pipeline: PipelineName, servers: Servers) -> Result<Self, Error> {
        let kafka = servers.kafka.clone();
        broker::blocking(move || broker::admitted(&kafka)).await?;
        Ok(Self {
            broker: Broker::new(&servers.kafka)?,
            kafka: servers.kafka,
            database: Database::connect(&servers.postgres).await?,
            destinations: Destinations::new(pipeline.clone(), servers.s3, servers.opensearch)?,
            pipeline,
        })
    }

    /// Waits until nobody else applies to this pipeline. Held until this is dropped.
    pub async fn lock(&self) -> Result<(), Error> {
        Ok(self.database.lock(&self.pipeline).await?)
    }

    /// The world as far as a catalog touches it.
    pub async fn observe(&self, catalog: &Catalog) -> Result<World, Error> {
        let registrations = match registrations::load(&self.kafka, &self.pipeline).await {
            Err(registrations::Error::Missing { .. }) => Registrations::default(),
            loaded => loaded?,
        };
        let declared: Vec<NewTopic> = catalog.topics.iter().map(declared_topic).collect();
        let mut names: BTreeSet<TopicName> =
            declared.iter().map(|topic| topic.name.clone()).collect();
        names.extend(internal_topics(&self.pipeline).map(|topic| topic.name));
        for sink in &catalog.sinks {
            names.insert(dead_letter_topic(&self.pipeline, &sink.name).name);
            names.extend(sink.topics.iter().cloned());
        }
        let names: Vec<TopicName> = names.into_iter().collect();
        let topics = self.broker.topics(&names).await?;
        let missing: Vec<NewTopic> =
            declared.into_iter().filter(|topic| !topics.contains_key(&topic.name)).collect();
        let publications =
            [self.pipeline.changes_publication(), self.pipeline.outbox_publication()];
        let tables = catalog.topics.iter().filter_map(TopicSpec::table).cloned().collect();
        let tables = self.database.tables(&tables).await?;
        let mut aggregates = BTreeMap::new();
        for outbox in outboxes(catalog).into_iter().filter(|name| {
            tables.get(name).is_some_and(|table| table.outbox_obstacles(name).is_empty())
        }) {
            let found = self.database.aggregates(&outbox).await?;
            aggregates.insert(outbox, found);
        }
        Ok(World {
            uncreatable: self.broker.uncreatable(&missing).await?,
            topics,
            tables,
            aggregates,
            publications: self.database.publications(&publications).await?,
            registrations,
            buckets: self.destinations.buckets(&archives(catalog)).await?,
            indices: self.destinations.indices(&searches(catalog)).await?,
        })
    }

    /// Carries out changes in their order, by [`steps`].
    pub async fn carry_out(&self, changes: &[Change]) -> Result<(), Error> {
        for step in steps(changes) {
            self.carry_out_step(step).await?;
        }
        Ok(())
    }

    async fn carry_out_step(&self, step: &[Change]) -> Result<(), Error> {
        let Some(change) = step.first() else { return Ok(()) };
        match change {
            Change::CreateTopic(_) => {
                let topic = |change: &Change| match change {
                    Change::CreateTopic(topic) => Some(topic.clone()),
                    _ => None,
                };
                let topics: Vec<NewTopic> = step.iter().filter_map(topic).collect();
                self.broker.create(&topics).await?;
            }
            Change::GrowTopic { name, to, .. } => self.broker.grow(name, *to).await?,
            Change::SetTopicConfig { name, settings } => self.broker.set(name, settings).await?,
            Change::CreateBucket { bucket } => self.destinations.create_bucket(bucket).await?,
            Change::CreateIndex { spec } => self.destinations.create_index(spec).await?,
            Change::RegisterTopic(_) | Change::RereadTable(_) => {
                let topic = |change: &Change| match change {
                    Change::RegisterTopic(topic) | Change::RereadTable(topic) => {
                        Some(Registration::Topic(topic.clone()))
                    }
                    _ => None,
                };
                self.register(step.iter().filter_map(topic).collect()).await?;
            }
            Change::CreatePublication { name, publish, tables } => {
                self.database.create_publication(name, publish, tables).await?;
            }
            Change::SetPublication { name, publish } => {
                self.database.set_publication(name, publish).await?;
            }
            Change::PublishTables { name, tables } => self.database.publish(name, tables).await?,
            Change::RegisterSink { spec, standing, origins, new } => {
                let origins = self.origins(origins, new).await?;
                let (spec, standing) = (spec.clone(), *standing);
                let sink = SinkRegistration { spec, origins, standing };
                self.register(vec![Registration::Sink(sink)]).await?;
            }
            Change::SetStanding(registration) => self.register(vec![registration.clone()]).await?,
            Change::UnpublishTables { name, tables } => {
                self.database.unpublish(name, tables).await?;
            }
        }
        Ok(())
    }

    /// The known origins, and those of new partitions: where each of them begins now.
    async fn origins(
        &self,
        known: &[Origin],
        new: &[(TopicName, i32)],
    ) -> Result<Vec<Origin>, Error> {
        let dt = today();
        let mut origins = known.to_vec();
        for (topic, partition) in new {
            let (offset, _) = self.broker.watermarks(topic, *partition).await?;
            let (topic, dt) = (topic.clone(), dt.clone());
            origins.push(Origin { topic, partition: *partition, offset, dt });
        }
        Ok(origins)
    }

    async fn register(&self, registrations: Vec<Registration>) -> Result<(), Error> {
        Ok(registrations::write(&self.kafka, &self.pipeline, registrations).await?)
    }
}

/// The day in UTC, `YYYY-MM-DD`.
fn today() -> String {
    let now = jiff::Timestamp::from_millisecond(clock::now_ms()).unwrap_or_default();
    now.strftime("%Y-%m-%d").to_string()
}

fn outboxes(catalog: &Catalog) -> BTreeSet<TableName> {
    let outbox = |spec: &TopicSpec| match &spec.from {
        From::Outbox { table, .. } => Some(table.clone()),
        From::Table(_) | From::Message(_) => None,
    };
    catalog.topics.iter().filter_map(outbox).collect()
}

fn archives(catalog: &Catalog) -> BTreeSet<String> {
    let bucket = |sink: &SinkSpec| match &sink.kind {
        SinkKind::Archive(archive) => Some(archive.bucket.clone()),
        SinkKind::Search(_) => None,
    };
    catalog.sinks.iter().filter_map(bucket).collect()
}

fn searches(catalog: &Catalog) -> Vec<&SearchSpec> {
    let specs = catalog.sinks.iter().filter_map(|sink| match &sink.kind {
        SinkKind::Archive(_) => None,
        SinkKind::Search(search) => Some(search),
    });
    specs.collect()
}
