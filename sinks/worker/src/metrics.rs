//! What the worker measures.

use tailwater_runtime::Metric;

/// Records taken from Kafka.
pub const RECORDS: &str = "tailwater_sink_records_total";
/// Bytes taken from Kafka.
pub const BYTES: &str = "tailwater_sink_bytes_total";
/// Successful flushes.
pub const FLUSHES: &str = "tailwater_sink_flushes_total";
/// Length of a flush.
pub const FLUSH_SECONDS: &str = "tailwater_sink_flush_seconds";
/// Failed flushes.
pub const FLUSH_RETRIES: &str = "tailwater_sink_flush_retries_total";
/// Age of a record when it is durable.
pub const DURABLE_SECONDS: &str = "tailwater_sink_durable_seconds";
/// Records set aside.
pub const DEAD_LETTERS: &str = "tailwater_sink_dead_letters_total";
/// What the group has committed.
pub const COMMITTED_OFFSET: &str = "tailwater_sink_committed_offset";
/// Distance to the end of the log.
pub const LAG_RECORDS: &str = "tailwater_sink_lag_records";
/// Age of what is not finished.
pub const OLDEST_UNFINISHED: &str = "tailwater_sink_oldest_unfinished_seconds";
/// Memory.
pub const HELD_BYTES: &str = "tailwater_sink_held_bytes";
/// Whether memory is short.
pub const PAUSED: &str = "tailwater_sink_paused";
/// Partitions that need a person.
pub const STOPPED_PARTITIONS: &str = "tailwater_sink_stopped_partitions";

const TOPIC: &[&str] = &["sink", "topic"];
const PARTITION: &[&str] = &["sink", "topic", "partition"];

/// All of them.
pub const ALL: &[Metric] = &[
    Metric::counter(RECORDS, TOPIC, "records taken from Kafka"),
    Metric::counter(BYTES, TOPIC, "bytes of keys and values taken from Kafka"),
    Metric::counter(FLUSHES, TOPIC, "batches made durable"),
    Metric::histogram(FLUSH_SECONDS, TOPIC, "how long a flush took, with its retries"),
    Metric::counter(FLUSH_RETRIES, TOPIC, "flushes that failed and were tried again"),
    Metric::histogram(
        DURABLE_SECONDS,
        TOPIC,
        "from a record's timestamp until it is durable, for the last record of each flush",
    ),
    Metric::counter(
        DEAD_LETTERS,
        &["sink", "topic", "class"],
        "records set aside in the dead-letter topic",
    ),
    Metric::gauge(COMMITTED_OFFSET, PARTITION, "offset that the group has committed"),
    Metric::gauge(
        LAG_RECORDS,
        PARTITION,
        "offsets between what is finished and the end of the log, transaction markers included",
    ),
    Metric::gauge(
        OLDEST_UNFINISHED,
        PARTITION,
        "age of the oldest record that was taken and is not finished, 0 when there is none",
    ),
    Metric::gauge(HELD_BYTES, &["sink"], "bytes held in queues and open batches"),
    Metric::gauge(PAUSED, &["sink"], "1 while nothing is taken because too many bytes are held"),
    Metric::gauge(STOPPED_PARTITIONS, &["sink"], "partitions that stopped and need a person"),
];
