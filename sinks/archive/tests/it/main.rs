//! The archive against real S3 servers.

mod live;
mod server;
