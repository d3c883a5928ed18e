//! Process plumbing that is neither source, sink nor contract.
//!
//! ```text
//!  main ──▶ telemetry (logs, metrics, /live /ready) ──▶ shutdown (signals to one token) ──▶ tasks (named, joined)
//!                                        health ◀── parts say why they are not ready
//! ```
//!
//! This crate knows nothing of records. It is also the only place, with the `main` files, that may look at
//! the clock: [`clock`] hands it on.
#![deny(unsafe_code)]

pub mod clock;

mod backoff;
mod class;
mod health;
mod memory;
mod metric;
mod secret;
mod shutdown;
mod tasks;
mod telemetry;
mod watermark;

pub use backoff::Backoff;
pub use class::{Classify, ErrorClass};
pub use health::{Condition, Health};
pub use memory::settle_memory;
pub use metric::{Kind, Metric, describe};
pub use secret::Secret;
pub use shutdown::{Shutdown, ShutdownError};
pub use tasks::{TaskError, Tasks};
pub use telemetry::{AdminError, METRICS, Telemetry, init_logging, install_metrics, serve_admin};
pub use watermark::Watermark;
