//! What ends a worker.

/// Why a worker ended.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The client does not accept its settings.
    #[error("the Kafka client refuses its settings")]
    Settings(#[source] rdkafka::error::KafkaError),
    /// The consumer failed in a way that it does not mend by itself.
    #[error("the consumer of group `{group}` at `{brokers}` failed")]
    Consumer {
        /// The group.
        group: String,
        /// `bootstrap.servers`.
        brokers: String,
        /// Why.
        #[source]
        source: rdkafka::error::KafkaError,
    },
    /// The consumer's thread could not be started.
    #[error("the consumer's thread could not be started")]
    Thread(#[source] std::io::Error),
    /// The consumer's thread ended without a word.
    #[error("the consumer's thread panicked")]
    Panicked,
    /// Draining took longer than the grace period. Nothing is lost: what was not committed is read again.
    #[error("the worker did not drain within {seconds} s")]
    Grace {
        /// The grace period.
        seconds: u64,
    },
}
