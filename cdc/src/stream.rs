//! Our own connection to Postgres, for queries and for the stream.
//!
//! ```text
//!  socket ──▶ one BytesMut ──▶ whole frames, in place ──▶ queue (bounded in bytes) ──▶ pipeline thread
//!     ▲                                                                                   │
//!     └── status update: when asked, and on a timer ◀── durable LSN (an atomic) ◀─────────┘
//! ```
//!
//! * Host, socket and encryption are `tailwater_postgres`'s; the protocol on top of them is ours.
//! * When the queue is full we stop reading, and the server feels it through TCP; status updates go on, so
//!   that a slow broker never looks like a dead reader.
//! * Every session pins the settings that the text of values depends on: a role's or database's own defaults
//!   would otherwise change our records.

mod connection;
mod copy_out;
mod feed;
mod frame;
mod queue;
mod startup;

pub use connection::{Connection, Copying, Mode, Row, quote_identifier, quote_literal};
pub use copy_out::{CopyOut, Lines};
pub use feed::{Feed, Timing};
pub use frame::{Frame, Frames, StatusUpdate};
pub use queue::{Input, Receiver, Sender, queue};
pub use tailwater_postgres::Error;
