//! The logical decoding messages of `pgoutput`, protocol version 1.
//!
//! ```text
//!  XLogData payload ──▶ cursor (checked reads) ──▶ message ──▶ tuple: one cell a column, still in place
//! ```
//!
//! Format: PostgreSQL documentation, "Logical Replication Message Formats".
//!
//! * Nothing is copied but the names in `Relation` and `Type`, which come once per table.
//! * Every length is checked before it is used, and bytes left over at the end are an error: a message we
//!   understand only in part could hide a change.

mod builtin;
mod cursor;
mod message;
mod tuple;

pub(crate) use builtin::oid_of;
pub use cursor::DecodeError;
pub use message::{Message, Old, RelationColumn, RelationMessage, ReplicaIdentity, decode};
pub use tuple::{Cell, Tuple};
