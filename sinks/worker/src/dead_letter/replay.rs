//! Giving dead letters to their sink again.
//!
//! **Why the log is asked first.** A sink that orders by version refuses an old record while it knows of a newer one.
//! But a destination does not remember what it deleted for ever: OpenSearch forgets the version of a deleted document
//! after a while. A letter from before the deletion would bring the document back. So a letter is given again only
//! when the log shows that it is still the newest of its key: the record itself is there, and no later one takes its
//! place. Compaction removes a record before it removes the tombstone that came after it, so a record that is still
//! there has not been deleted by one that is gone. A change that comes while this looks is applied by the worker, and
//! the sink's versions decide between the two.

use std::collections::BTreeMap;
use std::sync::Arc;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use tailwater_runtime::clock;
use tailwater_topics_contract::{PipelineName, SinkName, TopicName};

use super::read::{ReadError, Standing, standing};
use super::topic::DeadLetterTopic;
use super::wire::{DeadLetter, Position, Settled, Settlement};
use crate::sink::{Committed, Sink, SinkError, SourceRecord, TopicPartition, Writer};

/// A sink to which single records can be given again, in any order and beside its worker: by `open` with an empty hint,
/// `push` and `flush`. Versions of its own must keep an older record from replacing a newer one.
pub trait Replay: Sink {
    /// Whether a later record of the same partition makes an earlier one obsolete. The same key does; a sink adds what
    /// only it can read.
    fn supersedes(&self, later: &SourceRecord, earlier: &SourceRecord) -> bool {
        later.key.is_some() && later.key == earlier.key
    }
}

/// What became of a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The sink has taken it.
    Applied,
    /// The record at this offset of the same partition has taken its place; nothing was done.
    Superseded {
        /// Its offset.
        by: i64,
    },
    /// The topic no longer holds the record, so nobody can tell whether it is still the newest; nothing was done.
    Gone,
    /// The sink refuses it as before.
    Refused {
        /// Why.
        reason: String,
    },
}

/// A letter and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The letter.
    pub position: Position,
    /// What became of it.
    pub outcome: Outcome,
}

/// Why letters cannot be replayed or settled. What was applied stays so; doing it again changes nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The topic they came from cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The sink cannot take records now.
    #[error("{partition} cannot be replayed")]
    Sink {
        /// Where the records came from.
        partition: TopicPartition,
        /// Why.
        source: SinkError,
    },
    /// That they are settled could not be written.
    #[error("what became of the letters could not be written to `{topic}`")]
    Settle {
        /// The dead-letter topic.
        topic: TopicName,
        /// Why.
        source: KafkaError,
    },
    /// A thread panicked.
    #[error("looking through {partition} panicked; the log says where")]
    Panicked {
        /// Where the records came from.
        partition: TopicPartition,
    },
}

/// Gives letters to their sink again, each only if it is still the newest of its key, and settles those that were
/// applied or superseded. One that is refused again stays as it is.
///
/// With `even_if_gone`, a letter whose record the topic no longer holds is given as well: right only when somebody
/// knows that its row has not been changed or deleted since.
///
/// # Errors
/// When Kafka or the sink cannot be used.
pub async fn replay<S: Replay>(
    kafka: &ClientConfig,
    pipeline: &PipelineName,
    name: &SinkName,
    sink: &Arc<S>,
    letters: Vec<DeadLetter>,
    even_if_gone: bool,
) -> Result<Vec<Replayed>, ReplayError> {
    let mut by_partition: BTreeMap<TopicPartition, Vec<DeadLetter>> = BTreeMap::new();
    for letter in letters {
        by_partition.entry(letter.from.clone()).or_default().push(letter);
    }
    let mut replayed = Vec::new();
    for (partition, mut letters) in by_partition {
        letters.sort_by_key(|letter| letter.record.offset);
        let (looks, at, its) = (kafka.clone(), partition.clone(), sink.clone());
        let looking = tokio::task::spawn_blocking(move || {
            let supersedes = |later: &_, earlier: &_| its.supersedes(later, earlier);
            standing(&looks, &at, &letters, supersedes).map(|standings| (letters, standings))
        });
        let panicked = |_| ReplayError::Panicked { partition: partition.clone() };
        let (letters, standings) = looking.await.map_err(panicked)??;
        let mut settled = Vec::new();
        for (letter, standing) in letters.into_iter().zip(standings) {
            let outcome = match standing {
                Standing::Superseded(by) => Outcome::Superseded { by },
                Standing::Gone if !even_if_gone => Outcome::Gone,
                Standing::Gone | Standing::Newest => apply(&**sink, &letter)
                    .await
                    .map_err(|source| ReplayError::Sink { partition: partition.clone(), source })?,
            };
            match outcome {
                Outcome::Applied => settled.push((letter.clone(), Settlement::Replayed)),
                Outcome::Superseded { .. } => {
                    settled.push((letter.clone(), Settlement::Superseded));
                }
                Outcome::Gone | Outcome::Refused { .. } => {}
            }
            replayed.push(Replayed { position: letter.position, outcome });
        }
        settle(kafka, pipeline, name, settled).await?;
    }
    Ok(replayed)
}

/// Settles letters that nobody needs any more.
///
/// # Errors
/// When Kafka does not take that.
pub async fn discard(
    kafka: &ClientConfig,
    pipeline: &PipelineName,
    name: &SinkName,
    letters: Vec<DeadLetter>,
) -> Result<(), ReplayError> {
    let discarded = letters.into_iter().map(|letter| (letter, Settlement::Discarded));
    settle(kafka, pipeline, name, discarded.collect()).await
}

/// One letter at a time: a record that the sink refuses must not take others with it.
async fn apply<S: Replay>(sink: &S, letter: &DeadLetter) -> Result<Outcome, SinkError> {
    let hint = Committed { offset: letter.record.offset, metadata: String::new() };
    let (mut writer, _) = sink.open(&letter.from, Some(&hint)).await?;
    if let Err(rejected) = writer.push(letter.record.clone()) {
        return Ok(Outcome::Refused { reason: rejected.reason });
    }
    let flushed = writer.flush(letter.record.offset + 1).await?;
    Ok(match flushed.rejected.into_iter().next() {
        None => Outcome::Applied,
        Some(rejected) => Outcome::Refused { reason: rejected.reason },
    })
}

async fn settle(
    kafka: &ClientConfig,
    pipeline: &PipelineName,
    name: &SinkName,
    settled: Vec<(DeadLetter, Settlement)>,
) -> Result<(), ReplayError> {
    if settled.is_empty() {
        return Ok(());
    }
    let topic = pipeline.dead_letter_topic(name);
    let failed = |source| ReplayError::Settle { topic: topic.clone(), source };
    let writer =
        DeadLetterTopic::new(name.clone(), topic.clone(), kafka.clone()).map_err(failed)?;
    for (letter, how) in settled {
        writer.settle(&letter, Settled { how, at_ms: clock::now_ms() }).await.map_err(failed)?;
    }
    Ok(())
}
