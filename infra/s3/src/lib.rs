//! An S3 endpoint in one process and one folder, for the demo and for tests.
//!
//! ```text
//!  client ──HTTP──▶ server ──▶ s3s (SigV4, XML, chunks) ──▶ backend ─┬─▶ body    temp file, sums checked
//!                                                                    └─▶ bucket  link(2) or rename(2), then visible
//! ```
//!
//! * An object is one file: the bytes, then everything else about it. So data and metadata appear
//!   together, by one system call, or not at all.
//! * `If-None-Match: *` is decided by `link(2)`: among any number of writers exactly one wins.
//! * With `fsync` on, nothing is visible, let alone acknowledged, before it would survive a power cut.
//! * Only one process may serve a folder; a lock file sees to it.

#![forbid(unsafe_code)]

/// Accepts connections and drains them.
mod server;
/// The S3 operations, in terms of the modules below.
mod backend;
/// A request body becomes a checked temporary file.
mod body;
/// Checksums: what a client declares, what we compute.
mod sums;
/// One object on disk: write and read, side by side.
mod object;
/// Conditions on what is there: `If-Match`, `If-None-Match`.
mod condition;
/// The objects of one bucket, and the only place where one appears or goes.
mod bucket;
/// Uploads in parts, until they become objects.
mod upload;
/// Pages of a listing (pure).
mod listing;
/// The folder with all buckets.
mod store;

pub use server::{Config, ServeError, serve};
pub use store::OpenError;
