//! Which tables' rows, present before their changes were captured, are in Kafka.
//!
//! A table that is declared and not listed here has yet to be copied. The list is part of the progress record, so a
//! table stands in it exactly when its last copied row is durable.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tailwater_topics_contract::{From, Lsn, Registrations, TableName};

/// What became of the rows that a table held when it was first captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Existing {
    /// They are in Kafka.
    Copied {
        /// The point of the table's history at which they were read: behind every change that committed before, ahead
        /// of every other.
        at: Lsn,
        /// How many there were.
        rows: u64,
    },
    /// Somebody asked to leave them out.
    LeftOut,
}

/// Every table that needs no copy any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Copies(BTreeMap<TableName, Existing>);

impl Copies {
    /// Tables that topics take and that nobody has copied yet.
    pub fn missing(&self, registered: &Registrations) -> Vec<TableName> {
        let missing = tables(registered).filter(|table| !self.0.contains_key(*table));
        missing.cloned().collect()
    }

    /// What is known of a table; `None` when it has yet to be copied.
    pub fn get(&self, table: &TableName) -> Option<&Existing> {
        self.0.get(table)
    }

    /// Every table with what is known of it.
    pub fn iter(&self) -> impl Iterator<Item = (&TableName, &Existing)> {
        self.0.iter()
    }

    /// Whether nothing is known of any table.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes what became of a table's rows.
    pub fn insert(&mut self, table: TableName, existing: Existing) {
        self.0.insert(table, existing);
    }

    /// Forgets tables that no topic takes any more. What changes until one takes them again is not captured, so they
    /// will have to be copied then.
    pub fn retain(&mut self, registered: &Registrations) {
        self.0.retain(|known, _| tables(registered).any(|table| table == known));
    }
}

fn tables(registered: &Registrations) -> impl Iterator<Item = &TableName> {
    registered.written().filter_map(|topic| match &topic.spec.from {
        From::Table(table) => Some(table),
        // Events are what is inserted from now on; the rows of an outbox are a queue, not a state.
        From::Outbox { .. } | From::Message(_) => None,
    })
}
