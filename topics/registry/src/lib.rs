//! The declared catalog against the real Kafka, Postgres, bucket and index.
//!
//! ```text
//!  catalog ───────────────────┐
//!                             ├─▶ plan ──▶ changes ──▶ apply ──▶ the world, registrations last
//!  broker, database,          │    └─────▶ refusals
//!  destinations ──▶ world ────┘
//!                                registrations ──▶ reader, workers
//! ```
//!
//! * Planning is a function of two values. Everything that can be refused is refused there, before anything is
//!   touched.
//! * No data is deleted or shrunk. A killed apply is repeated: it goes on from what it finds.
#![forbid(unsafe_code)]

pub mod table; // what Postgres says of a table, and whether it can be captured
pub mod world; // everything observed
mod change; // what can be done to it
mod refusal; // why something declared cannot work
pub mod plan; // declared against observed
pub mod removal; // pausing, resuming and removing what is registered
pub mod reread; // asking the reader to read tables once more
pub mod broker; // Kafka topics
pub mod database; // Postgres tables and publications
pub mod destinations; // bucket and index, through the sinks' own crates
mod apply; // observes and changes
pub mod registrations; // the topic that makes all of it known

pub use apply::{Error, Registry, Servers};
pub use change::{Change, NewTopic, Setting, steps};
pub use plan::{Plan, Scope, plan};
pub use refusal::Refusal;
pub use world::World;
