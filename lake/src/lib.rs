//! SQL, proof and replay over the archive.
//!
//! ```text
//!  data/, meta/ ──▶ archive: segments, chunks ──▶ wanted? ──▶ fetch ──▶ head, columns ──▶ tables ──▶ SQL
//!          ▲                                                         └▶ replay · records
//!          └── checkpoint: all manifests of a topic at once
//! ```
//!
//! * Nothing here writes to an archive but checkpoints, which are created beside it and follow from its manifests.
//! * What can be left out is left out before it is fetched; what is read is filtered again, so pruning can only be too
//!   careful, never wrong.
#![forbid(unsafe_code)]

/// `tailwater.yaml`.
pub mod config;
/// What Kafka knows of a pipeline.
pub mod pipeline;
/// Objects and what is known of them unread.
pub mod archive;
/// Their manifests, at once or one by one.
pub mod manifests;
/// Manifests in one file (pure).
pub mod checkpoint;
/// Counters of one query.
pub mod stats;
/// Which chunks can matter (pure).
mod wanted;
/// Chunks out of the store.
mod fetch;
/// JSON looked at in place (pure).
mod json;
/// The head of a line (pure).
mod head;
/// Lines into columns (pure).
pub mod columns;
/// Columns from samples.
mod infer;
/// `<t>` and `<t>_changes`.
mod table;
/// `<t>_current`.
mod current;
/// LSNs and JSON in SQL.
mod functions;
/// Whether everything up to a commit is there.
pub mod complete;
/// What is wrong with a query.
pub mod problem;
/// Rows and the last line.
pub mod output;
/// Tables and queries.
pub mod session;
/// Lines as they stand.
pub mod records;
/// Back into Kafka.
pub mod replay;
/// Tables for other engines.
pub mod ddl;

pub use archive::Archive;
pub use fetch::FetchError;
pub use head::NotOurs;
pub use session::{Cut, Lake, Options};
