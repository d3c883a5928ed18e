//! Names of metrics.

/// Records taken from Kafka. Labels: `sink`, `topic`.
pub const RECORDS: &str = "tailwater_sink_records_total";
/// Bytes of keys and values taken from Kafka. Labels: `sink`, `topic`.
pub const BYTES: &str = "tailwater_sink_bytes_total";
/// Successful flushes. Labels: `sink`, `topic`.
pub const FLUSHES: &str = "tailwater_sink_flushes_total";
/// How long a flush took, with its retries. Labels: `sink`, `topic`.
pub const FLUSH_SECONDS: &str = "tailwater_sink_flush_seconds";
/// Flushes that failed and were tried again. Labels: `sink`, `topic`.
pub const FLUSH_RETRIES: &str = "tailwater_sink_flush_retries_total";
/// From a record's timestamp until it is durable, for the last record of each flush. Labels: `sink`, `topic`.
pub const DURABLE_SECONDS: &str = "tailwater_sink_durable_seconds";
/// Records set aside. Labels: `sink`, `topic`, `class`.
pub const DEAD_LETTERS: &str = "tailwater_sink_dead_letters_total";
/// Offset after the last committed one. Labels: `sink`, `topic`, `partition`.
pub const COMMITTED_OFFSET: &str = "tailwater_sink_committed_offset";
/// Bytes held in queues and open batches. Labels: `sink`.
pub const HELD_BYTES: &str = "tailwater_sink_held_bytes";
/// 1 while fetching is paused because too many bytes are held. Labels: `sink`.
pub const PAUSED: &str = "tailwater_sink_paused";
/// Partitions that stopped and need a person. Labels: `sink`.
pub const STOPPED_PARTITIONS: &str = "tailwater_sink_stopped_partitions";
