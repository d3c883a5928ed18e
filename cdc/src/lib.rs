//! Postgres to Kafka, exactly once.
//!
//! ```text
//!  Postgres ──WAL──▶ stream ──bounded bytes──▶ reader ──▶ capture ──▶ batch ──▶ publish ──▶ Kafka
//!                      ▲                                                            │ committed
//!                      └── status: durable LSN ◀──────────── progress ◀─────────────┘
//! ```
//!
//! * The slot is confirmed from [`progress`] and from nowhere else, and only up to what a committed progress record
//!   holds.
//! * Status replies do not wait for the data path, so a slow broker never looks like a dead reader.
//! * After an unclear outcome nothing goes on: a fresh session fences this one and reads what happened.
#![deny(unsafe_code)]

/// What a reader is told: source, brokers, limits.
pub mod config;
/// What is wrong before or at the start, and the statement that mends it.
pub mod preflight;
/// The slot: found, created, looked at.
pub mod slot;
/// How long the WAL that it may keep will last (pure).
pub mod budget;
/// Whether the reader may begin, decided from facts (pure).
pub mod start;
/// The replication connection: frames in, status out.
pub mod stream;
/// Messages of the stream, decoded in place (pure).
pub mod pgoutput;
/// The text of a value as JSON (pure).
pub mod value;
/// Columns that do not go out as they are (pure).
pub mod mask;
/// Rows as JSON, by a plan compiled per relation (pure).
pub mod encode;
/// Outbox rows as events (pure).
pub mod outbox;
/// Logical messages as records (pure).
pub mod message;
/// Which relation goes where (pure).
pub mod route;
/// Records on their way, in one arena (pure).
pub mod batch;
/// One message in, records out (pure).
pub mod capture;
/// Where records go, a transaction at a time.
pub mod publish;
/// How far it is durable, and so what the slot may forget.
pub mod progress;
/// Which tables' existing rows are in Kafka (pure).
pub mod copies;
/// The first copy of rows that are there already.
pub mod snapshot;
/// From stream and copies to the log.
pub mod pipeline;
/// What is there before a session begins.
mod found;
/// The very first start.
mod first;
/// Which copies a session makes.
mod copier;
/// How tables come to the stream that runs already.
mod joiner;
/// What people can do when the reader must not go on.
pub mod repair;
/// An eye on the server, beside the stream.
mod watch;
/// One session after the other.
pub mod reader;
/// Where a test can end the process.
pub mod crash;
/// What can go wrong, with codes.
pub mod error;
/// Names of metrics.
pub mod metrics;

pub use config::Config;
pub use error::Error;
pub use reader::run;
