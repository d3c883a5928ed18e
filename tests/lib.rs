//! A small world of its own for one test: a database, topics, a bucket and an index on the shared servers, and the
//! real binaries running over them.
//!
//! Nothing here is shared with another test but the servers, so worlds may run side by side and may be killed.
#![forbid(unsafe_code)]

mod servers;
mod process;
mod place;
mod world;
mod proxy;
mod line;

pub use line::{KeyAndValue, Line, Worker};
pub use process::Process;
pub use proxy::{Held, Mischief, Proxy};
pub use servers::Servers;
pub use world::{App, World};
