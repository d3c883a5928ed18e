//! Kafka to somewhere durable: the loop that every sink shares.
#![forbid(unsafe_code)]

mod sink;

pub use sink::{
    Committed, Flushed, Rejected, Resume, Sink, SinkError, SourceRecord, TopicPartition, Writer,
};
