//! Kafka to somewhere durable: the loop that every sink shares.
//!
//! ```text
//!            one thread                        one task a partition                      sink
//!  Kafka ──▶ consumer ──records (≤ 8 runs)───▶ partition: push, push … flush ──────────▶ writer
//!               ▲  ▲                              │    │ rejected                          │
//!               │  └── commit `next`, seek ───────┘    └──▶ dead letters ──▶ Kafka         ▼
//!               └───── take or leave ◀── budget: one limit in bytes for the process     durable
//! ```
//!
//! * An offset is committed only when everything below it is stored, superseded or set aside; only [`worker`] commits.
//! * A partition that cannot go on stops alone, and readiness says which and why.
//! * What Kafka remembers is a hint: the sink says where a partition goes on.
#![deny(unsafe_code)]

/// The contract between the worker and a sink.
mod sink;
/// One limit in bytes for everything that is held (pure).
mod budget;
/// One partition: batch, flush, report.
mod partition;
/// Records that no sink can take: set aside, read, replayed.
pub mod dead_letter;
/// What tasks and brokers leave for the consumer's thread.
mod mailbox;
/// Offsets on their way to the group (pure).
mod commits;
/// The partitions that are ours, and how far each has come.
mod assignment;
/// Records as the client hands them out, copied into one block of memory.
mod run;
/// The consumer's thread: fetching, handing on, committing.
mod consumer;
/// Records into a writer without a group.
pub mod feed;
/// Which topic it is that has a name.
pub mod topic_id;
/// Which topic a destination is filled from.
pub mod source;
/// The whole, from joining the group to leaving it.
pub mod worker;
/// What can go wrong.
mod error;
/// What is measured.
pub mod metrics;
/// A memory sink with faults, for the contract suite and for tests of other crates.
pub mod testing;
/// The suite that every sink must pass.
pub mod contract;

pub use error::WorkerError;
pub use sink::{
    Committed, Flushed, Rejected, Resume, Sink, SinkError, SourceRecord, TopicPartition, Writer,
};
pub use worker::{WorkerConfig, run};
