//! The real world, as far as a catalog touches it.

use std::collections::{BTreeMap, BTreeSet};

use tailwater_topics_contract::{Registrations, TableName, TopicName};

use crate::table::TableState;

/// What was observed before anything is planned.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Topics that exist, of those the catalog or the pipeline names.
    pub topics: BTreeMap<TopicName, TopicState>,
    /// Topics the broker said it would not create as declared, with its reason.
    pub uncreatable: BTreeMap<TopicName, String>,
    /// Tables that exist, of those the catalog names.
    pub tables: BTreeMap<TableName, TableState>,
    /// Aggregate types of events found in the outbox tables the catalog names.
    pub aggregates: BTreeMap<TableName, BTreeSet<String>>,
    /// The pipeline's publications that exist.
    pub publications: BTreeMap<String, PublicationState>,
    /// What was registered before.
    pub registrations: Registrations,
    /// Buckets that exist, of those the catalog names; `None` when no S3 store is configured.
    pub buckets: Option<BTreeSet<String>>,
    /// What is behind the aliases the catalog names; `None` when no OpenSearch is configured.
    pub indices: Option<BTreeMap<String, IndexState>>,
}

/// What is behind an alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexState {
    /// Nothing yet.
    Absent,
    /// The declared index.
    Ready,
    /// Something that the sink cannot use; the text says what.
    Unusable(String),
}

/// A topic as it stands in Kafka.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicState {
    /// Number of partitions.
    pub partitions: u32,
    /// Every setting with the value in force.
    pub config: BTreeMap<String, String>,
    /// Whether it ever held a record.
    pub has_records: bool,
}

/// A publication as it stands in Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicationState {
    /// Its tables.
    pub tables: BTreeSet<TableName>,
    /// Whether it takes all tables of the database, present and future.
    pub takes_all: bool,
    /// Whether changes of partitions appear as changes of their root.
    pub via_root: bool,
    /// What it publishes, in the order Postgres lists it: `insert, update, delete, truncate`.
    pub publish: String,
}
