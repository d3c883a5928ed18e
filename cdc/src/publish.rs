//! Where records go, a transaction at a time.
//!
//! ```text
//!  send, send, … ──▶ open transaction ──commit(progress)──▶ visible, with its progress, or not at all
//!                          └──abort──▶ never visible
//! ```

mod ask;
mod deliveries;
pub mod kafka;
mod letter;
pub mod memory;
mod partition;
/// What stands in topics already.
pub mod past;
mod push;

use rdkafka::error::KafkaError;
use tailwater_runtime::ErrorClass;
use tailwater_topics_contract::{Registrations, TopicName};

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

    /// Waits until [`Self::ends`] knows an end of every partition that has records, so that progress never lacks one: a
    /// topic that was deleted and made again while no reader ran would not be found out.
    fn settle(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Adds the progress value and commits; without sent records it is a transaction of its own.
    fn commit(&mut self, progress: &[u8]) -> Result<(), Error>;

    /// Gives up the open transaction, so that consumers need not wait for its time-out. Best effort: a
    /// successor does the same.
    fn abort(&mut self);

    /// Where each partition ends at least, as far as this publisher knows.
    fn ends(&self) -> Ends;

    /// What is registered has changed; comes between two Postgres transactions.
    fn on_registrations(&mut self, _registered: &Registrations) {}
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
        "it is unknown whether a Kafka transaction was committed; the next session fences this one and finds out"
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
    /// The topic of progress does not exist.
    #[error(
        "the progress topic `{topic}` does not exist; create it with `tailwater apply`; if it was there before and was deleted, the pipeline is then brought back with `tailwater cdc adopt` or `tailwater cdc resync`"
    )]
    NoProgressTopic {
        /// The topic.
        topic: TopicName,
    },
    /// A record stands before what its partition held already.
    #[error(
        "topic `{topic}` partition {partition} put a record at offset {offset}, but its records reached {end}: the topic was deleted and made again, or Kafka lost acknowledged records; nothing of this was committed, and the reader stops until `tailwater cdc adopt` or `tailwater cdc resync`"
    )]
    Receded {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: i32,
        /// Where the record went.
        offset: i64,
        /// Where it had to go at least.
        end: i64,
    },
    /// A topic with other partitions than registered, on which keys would move.
    #[error(
        "topic `{topic}` has {found} partitions, but is registered with {registered}: the same key would go on in another one and lose its order; declare a new topic with {found} partitions"
    )]
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
        "a record of {bytes} bytes for topic `{topic}` is larger than Kafka takes, and larger than what can be set aside; raise `max.message.bytes` of the topic and `message.max.bytes` in `kafka.properties`"
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
    /// Whether a fresh session helps. After an unclear commit it does: it fences this one, and reads what happened.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::TimedOut { .. } | Self::Failed { .. } | Self::Unclear(_) | Self::Stopped => {
                ErrorClass::Transient
            }
            Self::Settings(_)
            | Self::Fenced
            | Self::Refused { .. }
            | Self::NoTopic { .. }
            | Self::NoProgressTopic { .. }
            | Self::Receded { .. }
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
            Self::NoTopic { .. } | Self::NoProgressTopic { .. } | Self::Partitions { .. } => {
                code::TOPIC
            }
            Self::Receded { .. } => code::KAFKA_BEHIND,
            Self::TooLarge { .. } => code::RECORD_TOO_LARGE,
            Self::TimedOut { .. } | Self::Failed { .. } | Self::Stopped => code::KAFKA_UNREACHABLE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_by_itself_is_tried_again() {
        let (brokers, topic) =
            ("kafka:9092".to_owned(), "a.b".parse::<TopicName>().expect("a name"));
        let receded = Error::Receded { topic: topic.clone(), partition: 0, offset: 0, end: 9 };
        let partitions = Error::Partitions { topic: topic.clone(), found: 2, registered: 1 };
        for (error, code) in [
            (Error::Fenced, code::FENCED),
            (Error::NoTopic { topic: topic.clone() }, code::TOPIC),
            (Error::NoProgressTopic { topic: topic.clone() }, code::TOPIC),
            (partitions, code::TOPIC),
            (receded, code::KAFKA_BEHIND),
            (Error::TooLarge { topic, bytes: 7 }, code::RECORD_TOO_LARGE),
        ] {
            assert_eq!((error.class(), error.code()), (ErrorClass::Definite, code), "{error}");
        }
        let late = Error::TimedOut { brokers, doing: "waiting", seconds: 1 };
        let unclear = Error::Unclear(Box::new(KafkaError::Canceled));
        assert_eq!(unclear.code(), code::OUTCOME_UNCLEAR);
        for error in [late, unclear, Error::Stopped] {
            assert_eq!(error.class(), ErrorClass::Transient, "{error}");
        }
    }
}
