//! Reading a dead-letter topic.
//!
//! Twice: first for what is settled or repeated, which takes memory only for places; then for the letters, one by one.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tailwater_topics_contract::{PipelineName, SinkName, TopicName};

use super::wire::{DeadLetter, Entry, Place, Position, Settled, entry};
use crate::sink::TopicPartition;

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long a partition may stay silent before its end.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Which letters are wanted; the default is all that are not settled.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Settled ones as well.
    pub with_settled: bool,
    /// Only those of this topic.
    pub topic: Option<TopicName>,
    /// Only those of this class.
    pub class: Option<String>,
    /// Only those at these positions; empty means all.
    pub positions: BTreeSet<Position>,
}

impl Filter {
    fn takes(&self, letter: &DeadLetter) -> bool {
        (self.with_settled || letter.settled.is_none())
            && self.topic.as_ref().is_none_or(|topic| letter.from.topic == *topic)
            && self.class.as_ref().is_none_or(|class| letter.class == *class)
            && (self.positions.is_empty() || self.positions.contains(&letter.position))
    }
}

/// Why a topic cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Kafka failed.
    #[error("`{topic}` cannot be read")]
    Kafka {
        /// The topic.
        topic: TopicName,
        /// Why.
        #[source]
        source: KafkaError,
    },
    /// Nothing came for too long, and neither did the end.
    #[error("`{topic}` stopped coming; is one of its partitions without a leader?")]
    Silent {
        /// The topic.
        topic: TopicName,
    },
}

/// The dead letters of a sink, oldest first within a partition. `kafka` says where the brokers are. Blocks; call it on
/// a thread that may.
///
/// A record that was set aside more than once comes once, as the last letter of it. A sink that never set anything
/// aside, or is not there, has none.
///
/// # Errors
/// When Kafka does not answer.
pub fn read(
    kafka: &ClientConfig,
    pipeline: &PipelineName,
    sink: &SinkName,
    filter: Filter,
) -> Result<impl Iterator<Item = Result<DeadLetter, ReadError>> + use<>, ReadError> {
    let topic = pipeline.dead_letter_topic(sink);
    let mut last: HashMap<Place, Position> = HashMap::new();
    let mut settled: HashMap<Place, Settled> = HashMap::new();
    let mut log = Log::open(kafka, topic.clone(), None)?;
    while let Some(found) = log.next(entry)? {
        match found {
            Some(Entry::Letter(letter)) => {
                let place = (letter.from, letter.record.offset);
                settled.remove(&place);
                last.insert(place, letter.position);
            }
            Some(Entry::Settles(place, how)) => {
                settled.insert(place, how);
            }
            None => {}
        }
    }
    let mut log = Log::open(kafka, topic, None)?;
    let next = move || loop {
        let found = match log.next(entry) {
            Ok(found) => found?,
            Err(error) => return Some(Err(error)),
        };
        let Some(Entry::Letter(mut letter)) = found else { continue };
        let place = (letter.from.clone(), letter.record.offset);
        if last.get(&place) == Some(&letter.position) {
            letter.settled = settled.get(&place).copied();
            if filter.takes(&letter) {
                return Some(Ok(*letter));
            }
        }
    };
    Ok(std::iter::from_fn(next))
}

/// A topic, or one partition of it, from an offset to where it ends now.
pub(super) struct Log {
    consumer: BaseConsumer,
    topic: TopicName,
    open: BTreeSet<i32>,
}

impl Log {
    /// Opens all of a topic, or one partition from an offset on.
    pub(super) fn open(
        kafka: &ClientConfig,
        topic: TopicName,
        from: Option<(i32, i64)>,
    ) -> Result<Self, ReadError> {
        let failed = |source| ReadError::Kafka { topic: topic.clone(), source };
        let mut settings = kafka.clone();
        settings
            // Never joined: the client asks for a name when partitions are assigned by hand.
            .set("group.id", "tailwater.dead-letters")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            // Letters may have gone meanwhile; those that are there come.
            .set("auto.offset.reset", "earliest");
        let consumer: BaseConsumer = settings.create().map_err(failed)?;
        let open: BTreeSet<i32> = match from {
            Some((partition, _)) => [partition].into(),
            None => {
                let found = consumer.fetch_metadata(Some(topic.as_str()), ANSWER_MAX);
                let found = found.map_err(failed)?;
                let partitions = found.topics().iter().flat_map(|topic| topic.partitions());
                partitions.map(rdkafka::metadata::MetadataPartition::id).collect()
            }
        };
        let mut list = TopicPartitionList::new();
        for partition in &open {
            let offset = from.map_or(Offset::Beginning, |(_, offset)| Offset::Offset(offset));
            list.add_partition_offset(topic.as_str(), *partition, offset).map_err(failed)?;
        }
        consumer.assign(&list).map_err(failed)?;
        Ok(Self { consumer, topic, open })
    }

    /// What `see` makes of the next record; nothing when all ends are reached.
    pub(super) fn next<T>(
        &mut self,
        see: impl FnOnce(&BorrowedMessage<'_>) -> T,
    ) -> Result<Option<T>, ReadError> {
        while !self.open.is_empty() {
            match self.consumer.poll(SILENCE_MAX) {
                None => return Err(ReadError::Silent { topic: self.topic.clone() }),
                Some(Ok(record)) => return Ok(Some(see(&record))),
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.open.remove(&partition);
                }
                Some(Err(source)) => match source.rdkafka_error_code() {
                    Some(
                        RDKafkaErrorCode::TopicAuthorizationFailed
                        | RDKafkaErrorCode::UnknownTopicOrPartition,
                    ) => return Err(ReadError::Kafka { topic: self.topic.clone(), source }),
                    // The client goes on by itself.
                    _ => tracing::debug!(topic = %self.topic, error = %source, "reading on"),
                },
            }
        }
        Ok(None)
    }
}

/// Whether anything later in the log makes a record obsolete.
pub(super) enum Standing {
    /// It is there, and nothing does.
    Newest,
    /// The record at this offset does.
    Superseded(i64),
    /// It is not in the log any more.
    Gone,
}

/// Where each of these records of one partition stands in the log. Blocks.
pub(super) fn standing(
    kafka: &ClientConfig,
    partition: &TopicPartition,
    letters: &[DeadLetter],
    supersedes: impl Fn(&crate::sink::SourceRecord, &crate::sink::SourceRecord) -> bool,
) -> Result<Vec<Standing>, ReadError> {
    let mut standing: Vec<Standing> = letters.iter().map(|_| Standing::Gone).collect();
    let Some(first) = letters.iter().map(|letter| letter.record.offset).min() else {
        return Ok(standing);
    };
    let mut log = Log::open(kafka, partition.topic.clone(), Some((partition.partition, first)))?;
    while let Some(record) = log.next(crate::run::record)? {
        for (letter, standing) in letters.iter().zip(&mut standing) {
            let original = &letter.record;
            if record.offset == original.offset {
                let is_same = record.key == original.key && record.value == original.value;
                *standing = if is_same { Standing::Newest } else { Standing::Gone };
            } else if record.offset > original.offset
                && matches!(standing, Standing::Newest)
                && supersedes(&record, original)
            {
                *standing = Standing::Superseded(record.offset);
            }
        }
    }
    Ok(standing)
}
