//! State and event commit together, or not at all.
//!
//! ```text
//!  transaction ─┬─ your state
//!               └─ append(&transaction, event) ──commit──▶ WAL ──▶ Tailwater ──▶ <aggregate>.events
//! ```
//!
//! * [`Outbox::append`] takes an open transaction and nothing else, so an event cannot be written beside its state.
//! * [`Outbox::emit`] leaves out the row: the event goes into the write-ahead log alone.
//! * Rows are only inserted. They are published by the reader from the write-ahead log; nothing polls the table.
//!   [`Outbox::keep`] takes away days that every reader has confirmed.
//! * The same is there for every other language as the SQL functions `outbox_append` and `outbox_emit`; see `sql/outbox.sql`.
//!
//! There is no inbox here yet: a consumer that must apply an event once keeps the event's `ce_id` in a table of its own
//! and inserts it in the transaction of the effect.
#![forbid(unsafe_code)]

mod event;
mod outbox;

pub use event::{BadEvent, Event};
pub use outbox::{AppendError, BadSchema, Outbox};
