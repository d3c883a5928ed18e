//! Which tables' rows, present before their changes were captured, are in Kafka.
//!
//! ```text
//!  (not listed) ──copied──▶ Copied ◀──copied── Doubtful      Copied, LeftOut ──asked for again──▶ due
//!        └──not wanted──▶ LeftOut                 ▲
//!                           a resync, or a time without a topic
//! ```
//!
//! * What is due has yet to be copied. The list is part of the progress record, so a table stands in it as copied exactly
//!   when its last copied row is durable.
//! * A table that is copied for the first time finds nothing in its topic that a change did not put there. All others
//!   may: keys that have gone from the table while nobody followed it. Their copy ends with deleting those.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tailwater_topics_contract::{From, Lsn, Registrations, TableName, TopicName};

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
        /// The last request to read the table once more that this answers, by its time; 0 is none.
        #[serde(default, skip_serializing_if = "is_zero")]
        asked_ms: i64,
        /// The topic that has them; absent in records of versions that did not say so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        topic: Option<TopicName>,
    },
    /// Somebody asked to leave them out.
    LeftOut,
    /// They were there, and since then changes were lost or nobody followed them.
    Doubtful,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// A table that has to be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The table.
    pub table: TableName,
    /// The last request to read it that the copy will answer, by its time; 0 is none.
    pub asked_ms: i64,
    /// Whether it was never captured before, so that its topic holds no key that the table may have lost since.
    pub is_first: bool,
}

/// Every table of which something is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Copies(BTreeMap<TableName, Existing>);

impl Copies {
    /// Tables that topics take and that have to be copied.
    pub fn due(&self, registered: &Registrations) -> Vec<Due> {
        let due = |Taken { table, topic, asked_ms }: Taken<'_>| {
            let known = self.0.get(table);
            let is_due = match known {
                None | Some(Existing::Doubtful) => true,
                Some(Existing::LeftOut) => asked_ms > 0,
                // Another topic may have taken the table while no reader ran.
                Some(Existing::Copied { asked_ms: answered, topic: has, .. }) => {
                    asked_ms > *answered || has.as_ref().is_some_and(|has| has != topic)
                }
            };
            is_due.then(|| Due { table: table.clone(), asked_ms, is_first: known.is_none() })
        };
        tables(registered).filter_map(due).collect()
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

    /// Notes that these tables stay as they are in Kafka.
    pub fn leave_out(&mut self, due: Vec<Due>) {
        self.0.extend(due.into_iter().map(|due| (due.table, Existing::LeftOut)));
    }

    /// Tables that no topic takes any more: what changes until one takes them again is not captured.
    pub fn on_registrations(&mut self, registered: &Registrations) {
        let is_taken = |table: &TableName| tables(registered).any(|taken| taken.table == table);
        self.0.retain(|table, known| {
            if !is_taken(table) {
                *known = match known {
                    Existing::LeftOut => return false,
                    Existing::Copied { .. } | Existing::Doubtful => Existing::Doubtful,
                };
            }
            true
        });
    }

    /// Changes were lost: everything that is there, or may be, has to be copied once more.
    pub fn doubt(&mut self, registered: &Registrations) {
        for taken in tables(registered) {
            self.0.insert(taken.table.clone(), Existing::Doubtful);
        }
    }
}

/// A table that a topic takes.
struct Taken<'r> {
    table: &'r TableName,
    topic: &'r TopicName,
    /// When somebody last asked for its rows, in milliseconds since 1970; 0 is never.
    asked_ms: i64,
}

fn tables(registered: &Registrations) -> impl Iterator<Item = Taken<'_>> {
    registered.written().filter_map(|topic| match &topic.spec.from {
        From::Table(table) => {
            let asked_ms = topic.reread.as_ref().map_or(0, |reread| reread.asked_ms);
            Some(Taken { table, topic: &topic.spec.name, asked_ms })
        }
        // Events are what is inserted from now on; the rows of an outbox are a queue, not a state.
        From::Outbox { .. } | From::Message(_) => None,
    })
}
