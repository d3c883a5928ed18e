//! Every record of a topic, kept as gzipped JSONL on S3, exactly once by construction.
//!
//! ```text
//!  record ──▶ line ──▶ segment (gzip, seekable) ──create-only──▶ object ──▶ manifest
//!                                  ▲
//!            chain: the predecessor determines the key ◀── metadata `next`, `next-dt`
//! ```
//!
//! * The object is the commit; manifest and consumer offset follow from it and can be rebuilt.
//! * Objects are created with `If-None-Match: *` and never replaced, so a writer that was paused for an hour can do no
//!   harm: its key is taken.
//! * Whoever writes a format here also reads it, in the same file.
#![forbid(unsafe_code)]

/// Object keys from topic, partition and place (pure).
pub mod layout;
/// One record as one line, and back, byte for byte (pure).
pub mod line;
/// Lines as one gzip member that can be read from the middle (pure).
pub mod segment;
/// Which keys its chunks may hold, beside it (pure).
pub mod filter;
/// What an object holds, beside it.
pub mod manifest;
/// Which key is next, and what a taken key means (pure).
pub mod chain;
/// The store: create-only writes, looks, lists.
mod store;
/// The links of one partition in a store.
mod links;
/// Which topic an archive is filled from.
pub mod topic;
/// The sink.
mod sink;
/// Listing and reading back.
pub mod read;
/// What is stored under a prefix.
mod tree;
/// Proof, from what is stored alone.
pub mod verify;
/// Manifests and filters made again from their objects.
pub mod repair;
/// What is measured.
pub mod metrics;

pub use sink::{ArchiveSink, ArchiveWriter};
pub use store::{Listed, Objects, Put, Store, StoreError, requests};
