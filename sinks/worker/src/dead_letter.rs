//! Records that no sink can take: set aside with their reason, looked at, given to their sink again.
//!
//! ```text
//!  partition ──rejected──▶ dead-letter topic ──read──▶ letters ──replay──▶ still the newest of its key? ──▶ the sink
//!                              ▲                                              │ no: superseded
//!                              └────────────── settled: how and when ◀────────┘
//! ```
//!
//! The topic is a log: nothing in it is changed. A letter is settled by a record behind it that names the same place.

mod read;
mod replay;
mod topic;
mod wire;

pub use read::{Filter, ReadError, read};
pub use replay::{Outcome, Replay, ReplayError, Replayed, discard, replay};
pub(crate) use topic::DeadLetterTopic;
pub use wire::{DeadLetter, Position, Settled, Settlement};
