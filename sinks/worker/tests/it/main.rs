//! The worker on a real Kafka.

mod kafka;
mod live;
