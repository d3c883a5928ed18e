//! Where records go, a transaction at a time.
//!
//! ```text
//!  send, send, … ──▶ open transaction ──commit(progress)──▶ visible, with its progress, or not at all
//!                          └──abort──▶ never visible
//! ```

pub mod kafka;
pub mod memory;
/// What stands in topics already.
pub mod past;

use rdkafka::error::KafkaError;
use tailwater_runtime::ErrorClass;
use tailwater_topics_contract::TopicName;

use crate::batch::Batch;
use crate::error::{Code, code};
use crate::progress::Ends;

/// A transactional log.
///
/// * Records become visible to a read-committed consumer when [`Self::commit`] answers `Ok`, and never if the
///   transaction is aborted, by us or by a successor.
/// * The progress value is committed together with the records, or not at all.
/// * Records of one partition keep the order in which they were sent.
/// * After any error the publisher is used up: abort and drop it. [`Error::Unclear`] means that nobody can tell
///   whether the transaction was committed; only the progress record can.
pub trait Publisher: Send + 'static {
    /// Adds the records to the open transaction, or opens one.
    fn send(&mut self, batch: &Batch) -> Result<(), Error>;

    /// Adds the progress value and commits; without sent records it is a transaction of its own.
    fn commit(&mut self, progress: &[u8]) -> Result<(), Error>;

    /// Gives up the open transaction, so that consumers need not wait for its time-out. Best effort: a
    /// successor does the same.
    fn abort(&mut self);

    /// Where each partition ends at least, as far as this publisher knows.
    fn ends(&self) -> Ends;
}

/// What can go wrong with the log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client does not accept its settings.
    #[error("the Kafka client refuses its settings")]
    Settings(#[source] Box<KafkaError>),
    /// Another producer with our transactional id has begun.
    #[error("another reader of this pipeline has taken over")]
    Fenced,
    /// A commit without a clear answer.
    #[error(
        "it is unknown whether a Kafka transaction was committed; start again, which finds out"
    )]
    Unclear(#[source] Box<KafkaError>),
    /// No answer in time.
    #[error("Kafka at `{brokers}` did not finish within {seconds} s while {doing}")]
    TimedOut {
        /// `bootstrap.servers`.
        brokers: String,
        /// What we waited for.
        doing: &'static str,
        /// How long.
        seconds: u64,
    },
    /// The brokers cannot be reached or answer that it does not work now.
    #[error("Kafka at `{brokers}` failed while {doing}")]
    Failed {
        /// `bootstrap.servers`.
        brokers: String,
        /// What we tried.
        doing: &'static str,
        /// Why.
        #[source]
        source: Box<KafkaError>,
    },
    /// The brokers refuse, and will go on refusing.
    #[error("Kafka at `{brokers}` refused while {doing}")]
    Refused {
        /// `bootstrap.servers`.
        brokers: String,
        /// What we tried.
        doing: &'static str,
        /// Why.
        #[source]
        source: Box<KafkaError>,
    },
    /// A topic that does not exist.
    #[error("topic `{topic}` does not exist; create it with `tailwater apply`")]
    NoTopic {
        /// The topic.
        topic: TopicName,
    },
    /// A topic with other partitions than registered, on which keys would move.
    #[error("topic `{topic}` has {found} partitions, but is registered with {registered}")]
    Partitions {
        /// The topic.
        topic: TopicName,
        /// What Kafka says.
        found: usize,
        /// What is registered.
        registered: u32,
    },
    /// A record larger than the client or the broker takes.
    #[error(
        "a record of {bytes} bytes for topic `{topic}` is larger than Kafka takes; raise `max.message.bytes` of the topic and `message.max.bytes` in `kafka.properties`"
    )]
    TooLarge {
        /// The topic.
        topic: TopicName,
        /// Key and value; 0 when only the broker knows.
        bytes: usize,
    },
    /// Told to stop while waiting.
    #[error("told to stop while waiting for Kafka")]
    Stopped,
}

impl Error {
    /// Whether waiting helps. An unclear commit is definite: the process ends, and the next one reads what
    /// happened after it has fenced this one.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::TimedOut { .. } | Self::Failed { .. } | Self::Stopped => ErrorClass::Transient,
            Self::Settings(_)
            | Self::Fenced
            | Self::Unclear(_)
            | Self::Refused { .. }
            | Self::NoTopic { .. }
            | Self::Partitions { .. }
            | Self::TooLarge { .. } => ErrorClass::Definite,
        }
    }

    /// The code to look up.
    pub fn code(&self) -> Code {
        match self {
            Self::Fenced => code::FENCED,
            Self::Unclear(_) => code::OUTCOME_UNCLEAR,
            Self::Settings(_) | Self::Refused { .. } => code::KAFKA_REFUSED,
            Self::NoTopic { .. } | Self::Partitions { .. } => code::TOPIC,
            Self::TooLarge { .. } => code::RECORD_TOO_LARGE,
            Self::TimedOut { .. } | Self::Failed { .. } | Self::Stopped => code::KAFKA_UNREACHABLE,
        }
    }
}
