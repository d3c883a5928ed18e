//! What ends a worker.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// Why a worker ended.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The client does not accept its settings.
    #[error("the Kafka client refuses its settings")]
    Settings(#[source] KafkaError),
    /// The consumer failed in a way that it does not mend by itself.
    #[error("the Kafka consumer failed for good")]
    Consumer(#[source] RDKafkaErrorCode),
    /// The client did not carry out what the group decided; only a new one does.
    #[error("the Kafka consumer did not carry out a rebalance; start the worker again")]
    Rebalance(#[source] KafkaError),
    /// A partition's task panicked: a mistake in the sink or the worker. The partition's records are read again by the
    /// next worker.
    #[error("the task of partition {partition} panicked; the log above says where")]
    PartitionPanicked {
        /// The partition.
        partition: String,
    },
    /// The consumer's thread could not be started.
    #[error("the consumer's thread could not be started")]
    Thread(#[source] std::io::Error),
    /// The consumer's thread ended without a word.
    #[error("the consumer's thread panicked; the log above says where")]
    Panicked,
    /// Open batches could not be finished. Nothing is lost: what was not committed is read again.
    #[error(
        "not drained within {seconds} s: {partitions}; what was not finished is read again by the next worker"
    )]
    Undrained {
        /// The partitions with an open batch.
        partitions: String,
        /// The grace period.
        seconds: u64,
    },
    /// Everything was stored, and the group does not know. Nothing is lost: it is read again.
    #[error(
        "everything was stored, but the last offsets were not committed: {why}; some records are read again by the next worker"
    )]
    Uncommitted {
        /// What the client said.
        why: String,
    },
    /// Leaving the group took too long. Everything else was done.
    #[error("the worker did not leave its group within {seconds} s")]
    Grace {
        /// How long it was waited for.
        seconds: u64,
    },
}

impl WorkerError {
    /// Whether a new worker may do better at once: this one's client has lost its standing in the group, and all else
    /// is as it was.
    ///
    /// A worker under a fixed name that hung beyond its session joins again by itself, and what it had wanted to commit
    /// before may then reach the broker under the identity it no longer has. The broker calls that fenced, as if
    /// another process had taken the name, and the client gives up for good.
    pub fn is_mended_by_a_new_client(&self) -> bool {
        matches!(self, Self::Rebalance(_) | Self::Consumer(RDKafkaErrorCode::FencedInstanceId))
    }

    /// Whether it stopped as told, and something is read again by the next worker. Nothing is lost.
    pub fn is_unfinished(&self) -> bool {
        matches!(self, Self::Undrained { .. } | Self::Uncommitted { .. } | Self::Grace { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_whose_name_was_taken_starts_again_and_one_that_cannot_work_does_not() {
        assert!(
            WorkerError::Consumer(RDKafkaErrorCode::FencedInstanceId).is_mended_by_a_new_client()
        );
        let denied = RDKafkaErrorCode::GroupAuthorizationFailed;
        assert!(!WorkerError::Consumer(denied).is_mended_by_a_new_client());
        assert!(!WorkerError::Panicked.is_mended_by_a_new_client());
        assert!(WorkerError::Grace { seconds: 1 }.is_unfinished());
        assert!(!WorkerError::Panicked.is_unfinished());
    }
}
