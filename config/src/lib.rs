//! Where the servers are: the sections of `tailwater.yaml` that more than one program reads.
//!
//! ```text
//!  file ──▶ document ──▶ postgres │ kafka │ s3 │ opensearch ──▶ typed values ──▶ reader, registry, workers, lake
//! ```
//!
//! * Each section stands in one file: its type, its shape for JSON Schema and the reference page, and its reading.
//! * What has been read can be used: whoever holds one of these types need not check it again.
//! * The text of a secret appears in no message.
#![forbid(unsafe_code)]

/// A configuration file.
mod file;
/// Secrets and addresses, which several sections have.
mod scalars;
/// Keys by which a service knows us.
mod keys;

/// `postgres`.
pub mod postgres;
/// `kafka`.
pub mod kafka;
/// `s3`.
pub mod s3;
/// `opensearch`.
pub mod opensearch;

pub use file::{Environment, Error, Load, load, parse};
pub use kafka::KafkaConfig;
pub use keys::Keys;
pub use opensearch::{Login, SearchConfig, Service, Signature};
pub use postgres::{PostgresConfig, SslMode};
pub use s3::S3Config;
pub use scalars::{NoWord, Word, secret};
