//! What the reader needs to know before it starts.

use std::time::Duration;

use tailwater_config::{KafkaConfig, PostgresConfig};
use tailwater_runtime::Secret;
use tailwater_topics_contract::PipelineName;

/// Everything the reader is told by its user.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names the slot, the publications, the transactional id and the progress topic.
    pub pipeline: PipelineName,
    /// Where rows come from.
    pub postgres: PostgresConfig,
    /// Where records go.
    pub kafka: KafkaConfig,
    /// When transactions are closed and how much may wait.
    pub limits: Limits,
    /// Leave the rows that tables hold when they are first captured out of Kafka. Without it they are copied.
    pub from_now: bool,
    /// On the very first start, leave the events that outbox tables hold already out of Kafka. Without it such a start
    /// is refused: whether somebody else has sent them is not to be seen.
    pub events_from_now: bool,
    /// The key of `hmac` masks.
    pub mask_key: Option<Secret>,
}

/// When transactions are closed and how much may wait.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of records in one Kafka transaction before it is committed.
    pub transaction_bytes: usize,
    /// Records in one Kafka transaction before it is committed.
    pub transaction_rows: u64,
    /// Milliseconds a Kafka transaction may stay open while rows keep coming. When none come it is committed
    /// at once.
    pub transaction_delay_ms: u64,
    /// Milliseconds that delivering and committing a Kafka transaction may take. The brokers abort it ten seconds later
    /// by themselves.
    pub transaction_wait_ms: u64,
    /// Bytes received from Postgres and not yet decoded; beyond that the reader stops reading its socket.
    pub queue_bytes: usize,
    /// How many ranges of tables are read at once while existing rows are copied; each takes a connection.
    pub copy_workers: usize,
    /// How many keys of a topic are held at once while those are looked for that have gone from its table, at about 40
    /// bytes each. When there are more, the topic is read more than once.
    pub copy_keys: usize,
    /// Milliseconds to wait for a slot that another connection holds. Should exceed `wal_sender_timeout`,
    /// after which the server drops a reader that no longer answers.
    pub slot_wait_ms: u64,
    /// Between two small messages that the reader writes to the WAL; zero is never.
    pub heartbeat: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            transaction_bytes: 8 << 20,
            transaction_rows: 50_000,
            transaction_delay_ms: 200,
            transaction_wait_ms: 50_000,
            queue_bytes: 8 << 20,
            copy_workers: 4,
            copy_keys: 1 << 20,
            slot_wait_ms: 90_000,
            heartbeat: Duration::from_secs(60),
        }
    }
}

impl Config {
    /// How the reader calls itself in `pg_stat_replication`.
    pub(crate) fn application(&self) -> String {
        format!("tailwater {}", self.pipeline)
    }
}
