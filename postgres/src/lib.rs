//! The way to a Postgres server: which host, over which socket, encrypted how, and as whom.
//!
//! ```text
//!  hosts ──▶ dial: socket ──▶ TLS ──▶ Socket ─┬─▶ the replication protocol (of `cdc`)
//!    ▲                                         └─▶ client: SQL
//!    └── next one, when a host does not answer or is a read-only standby
//! ```
//!
//! * Every session of the product begins here, so all of them trust the same certificates, choose the same host and
//!   fail with the same words.
//! * Away from this machine a connection is encrypted and the server's name is checked, unless the configuration
//!   says otherwise. There is no mode that falls back to clear text by itself.

mod certificate;
mod client;
mod dial;
mod error;
mod failover;
mod low_water;
mod socket;
mod tls;
mod url;

pub use client::{Client, client};
pub use dial::{CONNECT_WAIT, dial};
pub use error::{Error, refused};
pub use failover::{Tried, is_standby};
pub use socket::Socket;
pub use url::{WrongUrl, from_url};
