//! What a record is, and which topics and sinks exist.
//!
//! ```text
//!  Postgres ──▶ position, seq ──▶ record: key, value, headers ──▶ Kafka ──▶ sinks
//!  YAML ──▶ spec ──▶ catalog ──▶ registration (stored in Kafka, followed by reader and workers)
//! ```
//!
//! Everything here is a value: no input, no output, no clock. The reader and the sinks share this crate and
//! nothing else.
//!
//! * The identity of a change is its [`Position`], never the LSN of the change: three rows of one `COPY` share
//!   one LSN.
//! * [`Seq`] is dense and owned by the pipeline. It is the version of a search document and the proof that
//!   nothing is missing, and stays below 2^53 so that JSON readers keep it exact.
#![forbid(unsafe_code)]

pub mod header;
pub mod name;
pub mod shape;
mod shaping;

mod lsn;
mod mask;
mod position;
mod seq;
mod spec;
mod catalog;
mod registration;

pub use catalog::Catalog;
pub use lsn::{Lsn, NotAnLsn};
pub use mask::{Mask, NotAMask};
pub use name::{PipelineName, SinkName, TableName, TopicName};
pub use position::{NotAPosition, Position};
pub use registration::{
    Generation, Origin, Registration, Registrations, Reread, SinkRegistration, Standing,
    TopicRegistration,
};
pub use seq::Seq;
pub use shaping::{Columns, DocumentSpec};
pub use spec::{
    ArchiveSpec, BulkSpec, From, Guarantee, SearchSpec, SegmentSpec, SinkKind, SinkSpec, TopicSpec,
    Values, looks_like_card_data,
};
