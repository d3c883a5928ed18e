//! Which relation goes where.

use std::collections::BTreeMap;

use tailwater_topics_contract::{
    From, PipelineName, Registrations, Standing, TableName, TopicName,
};

use crate::encode::{NoKeyColumn, Plan};
use crate::outbox::{Outbox, OutboxError};
use crate::pgoutput::RelationMessage;

/// Our own table, written so that a quiet database moves the slot. Its changes are counted and go nowhere.
const HEARTBEAT: (&str, &str) = ("tailwater", "heartbeat");

/// A relation that has no place to go.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The publication holds a table that nobody declared.
    #[error(
        "`{table}` is in the publication, but no topic takes it; declare a topic for it and apply it, and if its rows are not wanted remove that topic again with `tailwater topics remove`"
    )]
    Undeclared {
        /// The table.
        table: TableName,
    },
    /// Two topics are registered for the same rows; whichever won, the other would silently get nothing.
    #[error(
        "`{first}` and `{second}` are both registered for `{table}`; remove one of the two registrations"
    )]
    TwoTopics {
        /// The table.
        table: TableName,
        /// One topic.
        first: TopicName,
        /// The other.
        second: TopicName,
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
    /// Nowhere, because its topic was removed.
    GivenUp,
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
    Outbox { topics: BTreeMap<String, Option<TopicName>> },
    GivenUp,
}

impl Declared {
    /// What to say when another topic wants the same rows.
    fn and_also(&self, table: &TableName, second: &TopicName) -> RouteError {
        let first = match self {
            Self::Table { topic, .. } => Some(topic),
            Self::Outbox { topics } => topics.values().flatten().find(|topic| *topic != second),
            Self::GivenUp => None,
        };
        RouteError::TwoTopics {
            table: table.clone(),
            first: first.unwrap_or(second).clone(),
            second: second.clone(),
        }
    }
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
    ///
    /// # Errors
    /// Two topics for the same rows.
    pub fn new(
        pipeline: PipelineName,
        database: String,
        registrations: &Registrations,
    ) -> Result<Self, RouteError> {
        let mut declared: BTreeMap<TableName, Declared> = BTreeMap::new();
        for topic in registrations.written() {
            let name = &topic.spec.name;
            match &topic.spec.from {
                From::Table(table) => {
                    let partitions = i32::try_from(topic.spec.partitions).unwrap_or(i32::MAX);
                    let entry = Declared::Table {
                        topic: name.clone(),
                        key_columns: topic.key_columns.clone(),
                        partitions,
                        is_compacted: topic.spec.is_compacted(),
                    };
                    if let Some(first) = declared.insert(table.clone(), entry) {
                        return Err(first.and_also(table, name));
                    }
                }
                From::Outbox { aggregate, table } => {
                    let entry = declared
                        .entry(table.clone())
                        .or_insert_with(|| Declared::Outbox { topics: BTreeMap::new() });
                    let taken = match entry {
                        Declared::Outbox { topics } => topics.contains_key(aggregate),
                        Declared::Table { .. } | Declared::GivenUp => true,
                    };
                    if taken {
                        return Err(entry.and_also(table, name));
                    }
                    if let Declared::Outbox { topics } = entry {
                        topics.insert(aggregate.clone(), Some(name.clone()));
                    }
                }
            }
        }
        // What was removed comes after all that stands: another topic may have taken its rows since.
        let removed =
            registrations.topics.values().filter(|topic| topic.standing == Standing::Removed);
        for topic in removed {
            let entry = declared.entry(topic.spec.table().clone());
            match (&topic.spec.from, entry) {
                (From::Table(_), entry) => {
                    entry.or_insert(Declared::GivenUp);
                }
                (From::Outbox { aggregate, .. }, entry) => {
                    let entry =
                        entry.or_insert_with(|| Declared::Outbox { topics: BTreeMap::new() });
                    if let Declared::Outbox { topics } = entry {
                        topics.entry(aggregate.clone()).or_insert(None);
                    }
                }
            }
        }
        Ok(Self { pipeline, database, declared })
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
            Some(Declared::GivenUp) => Ok(Route::GivenUp),
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
