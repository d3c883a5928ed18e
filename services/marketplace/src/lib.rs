//! The example domain: a marketplace of four services over one database.
//!
//! ```text
//!  HTTP ──▶ catalog | inventory | orders | payments ──one transaction──▶ state, and an event in the outbox
//! ```
//!
//! Each service owns one schema and its folder has the same files: `routes` (every endpoint at a glance), `model` (what
//! comes and goes, checked at the border) and `store` (the SQL). None knows Kafka, S3 or OpenSearch.
#![forbid(unsafe_code)]

/// The pool, and the schema's migrations.
pub mod database;
/// What a client did wrong, or what failed, as a JSON problem.
pub mod problem;
/// JSON bodies and headers, parsed with messages a client can act on.
pub mod request;
/// Products, prices and the documents made of them.
pub mod catalog;
/// Stock in warehouses.
pub mod inventory;
/// Orders and their events.
pub mod orders;
/// Payments and their events.
pub mod payments;
/// A router on a port, with health, metrics and drain.
pub mod serve;
