//! Which relation goes where.

use std::collections::BTreeMap;

use tailwater_topics_contract::{From, PipelineName, Registrations, TableName, TopicName};

use crate::encode::{NoKeyColumn, Plan};
use crate::outbox::{Outbox, OutboxError};
use crate::pgoutput::RelationMessage;

/// Our own table, written so that a quiet database moves the slot. Its changes are counted and go nowhere.
const HEARTBEAT: (&str, &str) = ("tailwater", "heartbeat");

/// A relation that has no place to go.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The publication holds a table that nobody declared.
    #[error("`{table}` is in the publication, but no topic takes it; declare one, or run `ALTER PUBLICATION … DROP TABLE {}`", table.quoted())]
    Undeclared {
        /// The table.
        table: TableName,
    },
    /// The key of the topic cannot be made.
    #[error(transparent)]
    Key(#[from] NoKeyColumn),
    /// The outbox table cannot be read.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
}

/// Where the changes of one relation go.
#[derive(Debug)]
pub enum Route {
    /// Every change, to one topic.
    Table(TableRoute),
    /// Inserts, as events, by aggregate type.
    Outbox(Outbox),
    /// Nowhere.
    Heartbeat,
    /// Nowhere, because nobody declared it. Only a change makes that an error: beside a partitioned table the
    /// server announces each partition too, and then sends changes of the former only.
    Undeclared(TableName),
}

/// Where the changes of a table go.
#[derive(Debug)]
pub struct TableRoute {
    /// How they are written.
    pub plan: Plan,
    /// The topic.
    pub topic: TopicName,
    /// Its partitions.
    pub partitions: i32,
    /// Whether a delete needs a tombstone.
    pub is_compacted: bool,
}

/// What was declared about one table.
#[derive(Clone, Debug)]
enum Declared {
    Table { topic: TopicName, key_columns: Vec<String>, partitions: i32, is_compacted: bool },
    Outbox { topics: BTreeMap<String, TopicName> },
}

/// All declared tables.
#[derive(Clone, Debug)]
pub struct Routes {
    pipeline: PipelineName,
    database: String,
    declared: BTreeMap<TableName, Declared>,
}

impl Routes {
    /// Takes what is registered.
    pub fn new(pipeline: PipelineName, database: String, registrations: &Registrations) -> Self {
        let mut declared: BTreeMap<TableName, Declared> = BTreeMap::new();
        for (name, topic) in &registrations.topics {
            match &topic.spec.from {
                From::Table(table) => {
                    let partitions = i32::try_from(topic.spec.partitions).unwrap_or(i32::MAX);
                    let entry = Declared::Table {
                        topic: name.clone(),
                        key_columns: topic.key_columns.clone(),
                        partitions,
                        is_compacted: topic.spec.is_compacted(),
                    };
                    declared.insert(table.clone(), entry);
                }
                From::Outbox { aggregate, table } => {
                    let entry = declared
                        .entry(table.clone())
                        .or_insert_with(|| Declared::Outbox { topics: BTreeMap::new() });
                    // The catalog refuses a table that is both.
                    if let Declared::Outbox { topics } = entry {
                        topics.insert(aggregate.clone(), name.clone());
                    }
                }
            }
        }
        Self { pipeline, database, declared }
    }

    /// The names given at the start.
    pub fn names(&self) -> (PipelineName, String) {
        (self.pipeline.clone(), self.database.clone())
    }

    /// Finds the place of a relation and prepares its encoder.
    pub fn route(&self, relation: &RelationMessage) -> Result<Route, RouteError> {
        if (relation.schema.as_str(), relation.name.as_str()) == HEARTBEAT {
            return Ok(Route::Heartbeat);
        }
        let table = TableName { schema: relation.schema.clone(), table: relation.name.clone() };
        match self.declared.get(&table) {
            None => Ok(Route::Undeclared(table)),
            Some(Declared::Table { topic, key_columns, partitions, is_compacted }) => {
                let pipeline = self.pipeline.as_str();
                let plan = Plan::compile(relation, key_columns, pipeline, &self.database)?;
                Ok(Route::Table(TableRoute {
                    plan,
                    topic: topic.clone(),
                    partitions: *partitions,
                    is_compacted: *is_compacted,
                }))
            }
            Some(Declared::Outbox { topics }) => {
                Ok(Route::Outbox(Outbox::compile(relation, topics.clone(), &self.pipeline)?))
            }
        }
    }
}
