//! Which relation goes where.

use std::collections::{BTreeMap, BTreeSet};

use tailwater_topics_contract::{
    From, Mask, PipelineName, Registrations, Standing, TableName, TopicName, Values,
};

use crate::encode::{Plan, PlanError, Style};
use crate::mask::MaskKey;
use crate::message::MessageRoute;
use crate::outbox::{Outbox, OutboxError, OutboxTable};
use crate::pgoutput::RelationMessage;

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
    /// Two topics are registered for messages of one prefix.
    #[error(
        "`{first}` and `{second}` are both registered for messages with prefix `{prefix}`; remove one of the two registrations"
    )]
    TwoForPrefix {
        /// The prefix.
        prefix: String,
        /// One topic.
        first: TopicName,
        /// The other.
        second: TopicName,
    },
    /// Messages of a topic and events of an outbox under one prefix.
    #[error(
        "`{topic}` is registered for messages with prefix `{prefix}`, which are the events of the outbox of that name; remove its registration"
    )]
    PrefixOfOutbox {
        /// The prefix.
        prefix: String,
        /// The topic.
        topic: TopicName,
    },
    /// Rows of the table cannot be written as declared.
    #[error(transparent)]
    Plan(#[from] PlanError),
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
    Outbox(OutboxTable),
    /// Nowhere, because its topic was removed.
    GivenUp,
    /// Another capture writes them, or has.
    Elsewhere,
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
    Table(Box<DeclaredTable>),
    Outbox(Outbox),
    GivenUp,
}

#[derive(Clone, Debug)]
struct DeclaredTable {
    topic: TopicName,
    key_columns: Vec<String>,
    partitions: i32,
    is_compacted: bool,
    values: Values,
    mask: BTreeMap<String, Mask>,
}

impl Declared {
    /// What to say when another topic wants the same rows.
    fn and_also(&self, table: &TableName, second: &TopicName) -> RouteError {
        let first = match self {
            Self::Table(table) => Some(&table.topic),
            Self::Outbox(outbox) => outbox.topics.values().flatten().find(|topic| *topic != second),
            Self::GivenUp => None,
        };
        RouteError::TwoTopics {
            table: table.clone(),
            first: first.unwrap_or(second).clone(),
            second: second.clone(),
        }
    }
}

/// What is the same for all records of a reader.
#[derive(Clone, Debug)]
pub struct SourceName {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// The database.
    pub database: String,
    /// The key of `hmac` masks.
    pub mask_key: Option<MaskKey>,
}

/// Which tables are meant.
#[derive(Clone, Debug, Default)]
pub enum Scope {
    /// All, and messages.
    #[default]
    All,
    /// All but these, and messages.
    Without(BTreeSet<TableName>),
    /// These, and no messages.
    Only(BTreeSet<TableName>),
}

impl Scope {
    fn has(&self, table: &TableName) -> bool {
        match self {
            Self::All => true,
            Self::Without(others) => !others.contains(table),
            Self::Only(tables) => tables.contains(table),
        }
    }
}

/// All that is declared.
#[derive(Clone, Debug)]
pub struct Routes {
    source: SourceName,
    scope: Scope,
    declared: BTreeMap<TableName, Declared>,
    /// By prefix.
    messages: BTreeMap<String, MessagePlace>,
}

/// Where the messages of one prefix go.
#[derive(Clone, Debug)]
pub enum MessagePlace {
    /// To a topic of their own.
    Topic(MessageRoute),
    /// They are events.
    Outbox(Outbox),
    /// Nowhere, because their topic was removed.
    GivenUp,
}

impl Routes {
    /// Takes what is registered.
    ///
    /// # Errors
    /// Two topics for the same rows.
    pub fn new(
        source: SourceName,
        scope: Scope,
        registrations: &Registrations,
    ) -> Result<Self, RouteError> {
        let mut declared: BTreeMap<TableName, Declared> = BTreeMap::new();
        let mut messages: BTreeMap<String, MessagePlace> = BTreeMap::new();
        let outbox =
            |table: &TableName| Declared::Outbox(Outbox::new(table.clone(), &source.pipeline));
        for topic in registrations.written() {
            let name = &topic.spec.name;
            match &topic.spec.from {
                From::Table(table) => {
                    let hmac = topic.spec.mask.iter().find(|(_, mask)| **mask == Mask::Hmac);
                    if let (Some((column, _)), None) = (hmac, &source.mask_key) {
                        let (table, column) = (table.clone(), column.clone());
                        return Err(PlanError::NoMaskKey { table, column }.into());
                    }
                    let partitions = i32::try_from(topic.spec.partitions).unwrap_or(i32::MAX);
                    let entry = DeclaredTable {
                        topic: name.clone(),
                        key_columns: topic.key_columns.clone(),
                        partitions,
                        is_compacted: topic.spec.is_compacted(),
                        values: topic.spec.values,
                        mask: topic.spec.mask.clone(),
                    };
                    let entry = Declared::Table(Box::new(entry));
                    if let Some(first) = declared.insert(table.clone(), entry) {
                        return Err(first.and_also(table, name));
                    }
                }
                From::Outbox { aggregate, table } => {
                    let entry = declared.entry(table.clone()).or_insert_with(|| outbox(table));
                    let taken = match entry {
                        Declared::Outbox(outbox) => outbox.topics.contains_key(aggregate),
                        Declared::Table(_) | Declared::GivenUp => true,
                    };
                    if taken {
                        return Err(entry.and_also(table, name));
                    }
                    if let Declared::Outbox(outbox) = entry {
                        outbox.topics.insert(aggregate.clone(), Some(name.clone()));
                    }
                }
                From::Message(prefix) => {
                    let (pipeline, database) = (source.pipeline.as_str(), &source.database);
                    let route = MessageRoute::new(name.clone(), prefix, pipeline, database);
                    let before = messages.insert(prefix.clone(), MessagePlace::Topic(route));
                    if let Some(MessagePlace::Topic(first)) = before {
                        return Err(RouteError::TwoForPrefix {
                            prefix: prefix.clone(),
                            first: first.topic,
                            second: name.clone(),
                        });
                    }
                }
            }
        }
        // What was removed comes after all that stands: another topic may have taken its rows since.
        let removed =
            registrations.topics.values().filter(|topic| topic.standing == Standing::Removed);
        for topic in removed {
            match &topic.spec.from {
                From::Table(table) => {
                    declared.entry(table.clone()).or_insert(Declared::GivenUp);
                }
                From::Message(prefix) => {
                    messages.entry(prefix.clone()).or_insert(MessagePlace::GivenUp);
                }
                From::Outbox { aggregate, table } => {
                    let entry = declared.entry(table.clone()).or_insert_with(|| outbox(table));
                    if let Declared::Outbox(outbox) = entry {
                        outbox.topics.entry(aggregate.clone()).or_insert(None);
                    }
                }
            }
        }
        for declared in declared.values() {
            let Declared::Outbox(outbox) = declared else { continue };
            let prefix = outbox.prefix();
            let before = messages.insert(prefix.clone(), MessagePlace::Outbox(outbox.clone()));
            if let Some(MessagePlace::Topic(MessageRoute { topic, .. })) = before {
                return Err(RouteError::PrefixOfOutbox { prefix, topic });
            }
        }
        Ok(Self { source, scope, declared, messages })
    }

    /// The same for other tables.
    pub fn within(&self, scope: Scope) -> Self {
        Self { scope, ..self.clone() }
    }

    /// Which tables are meant.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// What was given at the start.
    pub fn source(&self) -> &SourceName {
        &self.source
    }

    /// Where messages of a prefix go; `None` for a prefix that nobody declared. Other programs write messages too, so
    /// those without a topic are nobody's loss.
    pub fn message(&self, prefix: &str) -> Option<&MessagePlace> {
        match self.scope {
            Scope::All | Scope::Without(_) => self.messages.get(prefix),
            Scope::Only(_) => None,
        }
    }

    /// Finds the place of a relation and prepares its encoder.
    pub fn route(&self, relation: &RelationMessage) -> Result<Route, RouteError> {
        let table = TableName { schema: relation.schema.clone(), table: relation.name.clone() };
        if !self.scope.has(&table) {
            return Ok(Route::Elsewhere);
        }
        match self.declared.get(&table) {
            None => Ok(Route::Undeclared(table)),
            Some(Declared::GivenUp) => Ok(Route::GivenUp),
            Some(Declared::Table(table)) => {
                let style = Style {
                    pipeline: self.source.pipeline.as_str(),
                    database: &self.source.database,
                    key_columns: &table.key_columns,
                    values: table.values,
                    mask: &table.mask,
                    mask_key: self.source.mask_key.as_ref(),
                };
                Ok(Route::Table(TableRoute {
                    plan: Plan::compile(relation, style)?,
                    topic: table.topic.clone(),
                    partitions: table.partitions,
                    is_compacted: table.is_compacted,
                }))
            }
            Some(Declared::Outbox(outbox)) => {
                Ok(Route::Outbox(OutboxTable::compile(relation, outbox.clone())?))
            }
        }
    }
}
