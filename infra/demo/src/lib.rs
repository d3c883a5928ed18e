//! Drives traffic and proves that nothing is missing.
//!
//! ```text
//!  traffic ──HTTP──▶ services          what stands in each store, read without the product's code
//!                                        source (Postgres) · records (Kafka) · archive (S3) · index (OpenSearch)
//!                                                       └────────▶ reconcile: counts and content hashes
//! ```
//!
//! This crate is the judge of the pipeline, so it shares no decoding, naming or encoding code with it. It
//! reads Postgres through SQL, Kafka as a read-committed consumer, the archive by listing and unzipping
//! objects, and the index by scrolling; what it compares are digests of what it read.
#![forbid(unsafe_code)]

pub mod row;
pub mod source;
pub mod records;
pub mod archive;
pub mod index;
pub mod reconcile;
pub mod traffic;
pub mod drain;
