//! Keeps an OpenSearch index equal to the table behind a topic.
//!
//! ```text
//!  record ──▶ document ──▶ batch (newest per id) ──▶ bulk ──▶ client ──gzip──▶ OpenSearch
//!              │ cannot be one                        ▲ │                        │
//!              ▼                                      │ └── 429, 5xx: again      │
//!          dead letter ◀── 4xx of an item ────────────┴──────── one outcome per item
//! ```
//!
//! * Only `index` and `delete`, each with the pipeline's sequence as external version. So a repeat, a
//!   zombie or another batch border can only lose: no document ever goes back.
//! * A version conflict and the deletion of a missing document are success.
//! * A bulk reply is read item by item. What was stored leaves the batch at once, so that another try
//!   sends only the rest.
//! * A bulk of deletes alone would *create* a missing index, `require_alias` or not (seen on 3.6), so
//!   the alias is looked at before one is sent.

#![forbid(unsafe_code)]

/// Keys become ids and rows documents, as declared (pure).
pub mod shape;
/// A row change becomes a document or a deletion (pure).
pub mod document;
/// Bulk body out, one outcome per item in (pure).
pub mod bulk;
/// Operations waiting to be sent, and how many go together (pure).
mod batch;
/// AWS's signature of a request, and what a service has against one.
mod signature;
/// Who we are to the cluster.
mod login;
/// HTTP to the cluster.
pub mod client;
/// The index behind the alias: made, and looked at before anything is written.
pub mod index;
/// Which topic an index is filled from.
mod source;
/// An index beside the one in use: filled, then put in its place.
pub mod succession;
/// Every document of an index.
pub mod scan;
/// One writer per partition.
mod sink;
/// What can go wrong, and of what kind it is.
mod error;
/// What is measured.
pub mod metrics;

pub use client::Client;
pub use error::Error;
pub use sink::{Patience, SearchSink, SearchWriter};
