//! The archive as a whole: against a store in memory, against careless ones and against real S3 servers.

mod careless;
mod live;
mod loops;
mod server;
mod topic;
