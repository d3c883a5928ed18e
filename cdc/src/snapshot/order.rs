//! A copy as the pipeline sees it: what is to come, and how far it is (pure).

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tailwater_topics_contract::{Lsn, TableName};
use tokio::sync::oneshot;
use tokio_util::sync::DropGuard;

use super::Taken;
use crate::copies::Due;
use crate::pgoutput::RelationMessage;
use crate::publish::past::Past;
use crate::stream::Receiver;

/// Between two lines of the log that say how far it is.
const TELL_MS: i64 = 10_000;

/// What the workers hand over.
#[derive(Debug)]
pub enum Rows {
    /// Lines of a table.
    Chunk {
        /// Its place in the order.
        table: usize,
        /// The lines.
        chunk: Bytes,
    },
    /// All lines of one range of a table came before this.
    Range {
        /// The table's place in the order.
        table: usize,
        /// The range's share of the order's bytes.
        bytes: u64,
    },
}

/// Rows to be copied at one point of history.
#[derive(Debug)]
pub struct Order {
    /// The point.
    pub at: Lsn,
    /// When the snapshot was taken, in milliseconds since 1970.
    pub taken_ms: i64,
    /// What is to be copied.
    pub tables: Vec<Ordered>,
    /// Where the rows come from.
    pub rows: Receiver<Rows>,
    /// What stands in the topics.
    pub past: Box<dyn Past>,
}

/// Tables that are to join the stream: they leave it, their rows are copied, and their changes follow on another slot until
/// both stand at the same place.
#[derive(Debug)]
pub struct Join {
    /// The tables.
    pub tables: BTreeSet<TableName>,
    /// Chunks of the stream of another slot, which begins where the stream stands or before.
    pub changes: Receiver,
    /// Told when the tables have left the stream: a snapshot that is taken now lies ahead of where they stand.
    pub begun: oneshot::Sender<()>,
    /// Dropped when they have joined.
    pub until_joined: DropGuard,
}

/// One table of an order.
#[derive(Debug)]
pub struct Ordered {
    /// As the stream would announce it.
    pub relation: RelationMessage,
    /// Why it is copied.
    pub due: Due,
    /// Ranges that have to come.
    pub ranges: usize,
    /// Its size in the database.
    pub bytes: u64,
}

impl Order {
    /// The order for a snapshot.
    pub(crate) fn new(taken: &Taken, rows: Receiver<Rows>, past: Box<dyn Past>) -> Self {
        let ordered = taken.tables.iter().enumerate().map(|(place, table)| {
            let ranges = taken.ranges.iter().filter(|range| range.leaf.table == place);
            Ordered {
                relation: table.relation.clone(),
                due: table.due.clone(),
                ranges: ranges.clone().count(),
                bytes: ranges.map(|range| range.bytes).sum(),
            }
        });
        let (at, taken_ms) = (taken.at, taken.keeper.taken_ms);
        Self { at, taken_ms, tables: ordered.collect(), rows, past }
    }

    /// The copy as it begins.
    pub fn copying(&self, now_ms: i64) -> Copying {
        let bytes = self.tables.iter().map(|table| table.bytes).sum();
        Copying::new(self.at, self.tables.len(), bytes, now_ms)
    }
}

impl Taken {
    /// The copy before it begins; `None` when there is nothing to copy.
    pub(crate) fn copying(&self, now_ms: i64) -> Option<Copying> {
        let bytes = self.ranges.iter().map(|range| range.bytes).sum();
        let tables = self.tables.len();
        (tables > 0).then(|| Copying::new(self.at, tables, bytes, now_ms))
    }
}

impl Ordered {
    /// The table's name.
    pub fn name(&self) -> TableName {
        TableName { schema: self.relation.schema.clone(), table: self.relation.name.clone() }
    }
}

/// How far a copy is, as the progress record tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copying {
    /// The point of history.
    pub at: Lsn,
    /// When it began, in milliseconds since 1970.
    pub began_ms: i64,
    /// Tables that are not finished.
    pub tables_left: usize,
    /// Rows copied so far.
    pub rows: u64,
    /// Bytes of the database's files that are done.
    pub bytes_done: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    #[serde(skip)]
    told_ms: i64,
}

impl Copying {
    fn new(at: Lsn, tables: usize, bytes: u64, now_ms: i64) -> Self {
        let (began_ms, told_ms) = (now_ms, now_ms);
        Self { at, began_ms, tables_left: tables, rows: 0, bytes_done: 0, bytes, told_ms }
    }

    /// Milliseconds until it is done at the pace so far; `None` as long as there is none.
    pub fn left_ms(&self, now_ms: i64) -> Option<i64> {
        let took = now_ms.saturating_sub(self.began_ms).max(0) as f64;
        let left = self.bytes.saturating_sub(self.bytes_done) as f64;
        (self.bytes_done > 0).then(|| (took * left / self.bytes_done as f64) as i64)
    }

    /// Whether it is time to say how far it is.
    pub fn is_time_to_tell(&mut self, now_ms: i64) -> bool {
        let is_time = !(0..TELL_MS).contains(&now_ms.saturating_sub(self.told_ms));
        if is_time {
            self.told_ms = now_ms;
        }
        is_time
    }
}
