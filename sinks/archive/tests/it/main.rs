//! The archive as a whole: against a store in memory, against careless ones and against real S3 servers.

mod bucket;
mod careless;
mod damage;
mod faults;
mod faulty;
mod keys;
mod live;
mod loops;
mod memory;
mod parts;
mod proxy;
mod seed;
mod server;
mod topic;
