//! The worker on a real Kafka, and on a broker in this process that fails as it is told.

mod kafka;
mod live;
mod loops;
mod worker;
