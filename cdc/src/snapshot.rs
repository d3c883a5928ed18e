//! The first copy of rows that a table holds already.
//!
//! ```text
//!  slot ──export──▶ snapshot at C ──▶ keeper ──▶ workers: COPY of page ranges ──▶ queue (bytes) ─┐
//!                                                                                               ▼
//!  stream ── changes that commit before C ──▶ hold ─────────────────────────▶ pipeline: rows, then C and after
//! ```
//!
//! **Invariant.** In the log, the rows of a copy at C stand behind every change of their table that committed before C
//! and ahead of every other. Postgres gives the halves: a slot created at C exports a snapshot that sees exactly the
//! transactions whose commit record lies before C, and the stream of the same cluster hands over transactions in the
//! order of those records. The pipeline joins them: it holds the stream at the first transaction that commits at or
//! after C, writes the rows, and goes on.
//!
//! What follows from it:
//!
//! * At the very first start C is the consistent point of the pipeline's own slot, so nothing comes before the rows.
//! * **After a crash** an exported snapshot cannot be imported again. Tables that stand as copied in progress are left
//!   alone: their C lies at or before our position. For the others a temporary slot gives a new, later C, and their
//!   stream runs up to it first. So a row that the first attempt wrote and that was deleted since is deleted in the
//!   log too, in between. A new epoch is not needed, and neither is a comparison of keys.
//! * Every consumer converges, because sequence and history agree: a row's `seq` is above all changes before C and
//!   below all others, and its `commit_lsn` is C.
//! * The copy of a table that was added later, or that is read again, is the same thing at a later C, on a stream of its
//!   own: the table leaves the pipeline's stream, and joins it again when it has caught up (`pipeline::join`).
//!
//! Further:
//!
//! * The slot's snapshot lives until the next command on its connection. One session, the keeper, imports it and
//!   exports its own for as long as it stays in its transaction; workers import that one, range by range. So no worker
//!   holds a lock for longer than a range takes, and nobody's `ALTER TABLE` waits for hours with all queries behind it.
//! * TRUNCATE and rewrites are not versioned: a snapshot from before sees an empty table. Both give the table a new
//!   file, so after each range, still under its lock, the file must be the one that the snapshot knows.
//! * Row security would leave rows out without a word; with `row_security = off` the server refuses instead.

mod keeper;
mod order;
mod ranges;
mod tables;
mod text;
mod vanished;
mod workers;

pub use order::{Copying, Join, Order, Ordered, Rows};
pub use text::BadLine;

pub(crate) use keeper::{Keeper, Taken, published};
pub(crate) use tables::Table;
pub(crate) use text::cells;
pub(crate) use vanished::Vanished;

use tailwater_runtime::ErrorClass;
use tailwater_topics_contract::{Lsn, TableName};

use crate::stream;

/// Why rows cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refuses, or is gone.
    #[error("the rows of {table} cannot be read")]
    Read {
        /// The table.
        table: TableName,
        /// Why.
        #[source]
        source: stream::Error,
    },
    /// The table was altered, truncated or rewritten while it was read.
    #[error("{table} was altered, truncated or rewritten while its rows were being copied")]
    Changed {
        /// The table.
        table: TableName,
    },
    /// The stream is beyond the point of the snapshot.
    #[error("a snapshot at {at} is of no use, because the stream has passed it and is at {passed}")]
    Passed {
        /// The point of the snapshot.
        at: Lsn,
        /// Where the stream is.
        passed: Lsn,
    },
    /// The session that keeps the snapshot is gone.
    #[error("the snapshot is gone, because the session that kept it has ended")]
    Gone,
    /// The server sent another number of rows than it said.
    #[error("{table}: {found} rows of a range arrived, but the server sent {sent}")]
    Count {
        /// The table.
        table: TableName,
        /// Arrived.
        found: u64,
        /// As the server says.
        sent: u64,
    },
    /// A line that is no row of the table.
    #[error("a copied row of {table} cannot be taken apart")]
    Line {
        /// The table.
        table: TableName,
        /// Why.
        #[source]
        source: BadLine,
    },
    /// The connection on which the snapshot is made.
    #[error("no snapshot can be taken")]
    Snapshot(#[source] stream::Error),
}

impl Error {
    /// Whether another attempt, with another snapshot, helps.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Changed { .. } | Self::Passed { .. } | Self::Gone => ErrorClass::Transient,
            Self::Read { source, .. } | Self::Snapshot(source) => source.class(),
            Self::Count { .. } | Self::Line { .. } => ErrorClass::Definite,
        }
    }
}
