//! Our own connection to Postgres, for queries and for the stream.
//!
//! ```text
//!  socket ──▶ one BytesMut ──▶ whole frames, in place ──▶ queue (bounded in bytes) ──▶ pipeline thread
//!     ▲                                                                                   │
//!     └── status update: when asked, and on a timer ◀── durable LSN (an atomic) ◀─────────┘
//! ```
//!
//! * The server sends every change with its own `send()`. While behind we let the kernel gather 64 KiB before
//!   it wakes us, with a timer of 2 ms for the rest; that costs a fraction of the wake-ups.
//! * When the queue is full we stop reading, and the server feels it through TCP; status updates go on, so
//!   that a slow broker never looks like a dead reader.
//! * Every session pins the settings that the text of values depends on: a role's or database's own defaults
//!   would otherwise change our records.

mod connection;
mod copy_out;
mod feed;
mod frame;
mod low_water;
mod queue;
mod startup;

pub use connection::{Connection, Copying, Mode, Row, quote_identifier, quote_literal};
pub use copy_out::{CopyOut, Lines};
pub use feed::{Feed, Timing};
pub use frame::{Frame, Frames, StatusUpdate};
pub use queue::{Input, Receiver, Sender, queue};

use tailwater_runtime::ErrorClass;

/// What can go wrong on a connection to Postgres.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers at the address.
    #[error("Postgres at `{address}` cannot be reached")]
    Unreachable {
        /// `host:port/database`.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("the connection to Postgres at `{address}` broke")]
    Lost {
        /// `host:port/database`.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No answer in time.
    #[error("Postgres at `{address}` did not answer within {seconds} s while {doing}")]
    Silent {
        /// `host:port/database`.
        address: String,
        /// What we waited for.
        doing: &'static str,
        /// How long.
        seconds: u64,
    },
    /// The server ended the stream, as it does when it shuts down.
    #[error("Postgres at `{address}` ended the stream")]
    Ended {
        /// `host:port/database`.
        address: String,
    },
    /// The server reported an error.
    #[error("Postgres at `{address}` refused, {sqlstate}: {message}")]
    Refused {
        /// `host:port/database`.
        address: String,
        /// The five characters of the SQL standard.
        sqlstate: String,
        /// Message, detail and hint as the server wrote them.
        message: String,
    },
    /// The server wants a password and none is configured.
    #[error("Postgres at `{address}` asks for a password of `{user}` and none is configured")]
    NoPassword {
        /// `host:port/database`.
        address: String,
        /// The role.
        user: String,
    },
    /// The server wants to authenticate us in a way we do not know.
    #[error("Postgres at `{address}` asks for {method}, which this version does not speak")]
    Method {
        /// `host:port/database`.
        address: String,
        /// The method.
        method: String,
    },
    /// The server could not prove that it knows the password, or sent a malformed proof.
    #[error("the password exchange with Postgres at `{address}` failed")]
    Scram {
        /// `host:port/database`.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The server said something that the protocol does not allow there.
    #[error("Postgres at `{address}` broke the protocol: {problem}")]
    Protocol {
        /// `host:port/database`.
        address: String,
        /// What.
        problem: String,
    },
}

impl Error {
    /// Whether waiting helps.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Unreachable { .. }
            | Self::Lost { .. }
            | Self::Silent { .. }
            | Self::Ended { .. } => ErrorClass::Transient,
            Self::Refused { sqlstate, .. } => {
                // 08 connection, 53 resources (disk, memory, connections), 57 operator (shutting down, starting
                // up, terminated), 58030 I/O, 55006 object in use, 40 rollback.
                let passes = ["08", "40", "53", "57", "58030", "55006"];
                if passes.iter().any(|class| sqlstate.starts_with(class)) {
                    ErrorClass::Transient
                } else {
                    ErrorClass::Definite
                }
            }
            Self::NoPassword { .. }
            | Self::Method { .. }
            | Self::Scram { .. }
            | Self::Protocol { .. } => ErrorClass::Definite,
        }
    }

    /// Whether the server refused with this SQLSTATE.
    pub fn is(&self, state: &str) -> bool {
        matches!(self, Self::Refused { sqlstate, .. } if sqlstate == state)
    }

    /// Whether the server refused the login rather than a command.
    pub fn is_login(&self) -> bool {
        match self {
            Self::NoPassword { .. } | Self::Method { .. } | Self::Scram { .. } => true,
            Self::Refused { sqlstate, .. } => sqlstate.starts_with("28") || sqlstate == "3D000",
            _ => false,
        }
    }
}
