//! Records into a writer without a group: to fill a destination beside the one that a worker keeps.
//!
//! ```text
//!  archive, then topic ──▶ Feeder: push, push … flush ──▶ writer        the caller remembers how far it came
//! ```
//!
//! A feeder commits nothing and sets nothing aside. What the writer refuses is handed to the caller.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use tailwater_runtime::Backoff;

use crate::run::Run;
use crate::sink::{Rejected, Resume, SinkError, SourceRecord, TopicPartition, Writer};

/// First and longest wait before a destination is tried again, and how often in a row.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));
const RETRIES: u32 = 20;
/// Records of one run.
const RUN_RECORDS: usize = 500;
/// How long Kafka may say nothing before the end of a partition.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Why a partition cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// Kafka failed.
    #[error("{partition} cannot be read from offset {from}")]
    Kafka {
        /// The partition.
        partition: TopicPartition,
        /// Where reading began.
        from: i64,
        /// Why.
        source: KafkaError,
    },
    /// The log begins later.
    #[error("{partition} no longer holds offset {from}, from which it is to be read")]
    Gone {
        /// The partition.
        partition: TopicPartition,
        /// Where reading was to begin.
        from: i64,
    },
    /// Kafka said nothing for a long time before the end was reached.
    #[error("{partition} gave nothing for {} s before its end", SILENCE_MAX.as_secs())]
    Silent {
        /// The partition.
        partition: TopicPartition,
    },
}

/// A writer, and how far it was fed.
pub struct Feeder<W> {
    writer: W,
    next: i64,
    flushed: i64,
    rejected: Vec<Rejected>,
}

impl<W: Writer> Feeder<W> {
    /// A writer that is to be given everything from `next` on.
    pub fn new(writer: W, next: i64) -> Self {
        Self { writer, next, flushed: next, rejected: Vec::new() }
    }

    /// Where reading goes on.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// Everything below is durable.
    pub fn flushed(&self) -> i64 {
        self.flushed
    }

    /// Goes on at a later place: there are no records up to there.
    pub fn pass(&mut self, next: i64) {
        self.next = self.next.max(next);
    }

    /// What was refused since this was last asked.
    pub fn take_rejected(&mut self) -> Vec<Rejected> {
        std::mem::take(&mut self.rejected)
    }

    /// Gives the writer a record, and lets it write when it is full. A record below [`Feeder::next`] is known already.
    ///
    /// # Errors
    /// The destination refuses, or fails again and again.
    pub async fn push(&mut self, record: SourceRecord) -> Result<(), SinkError> {
        if record.offset < self.next {
            return Ok(());
        }
        self.next = record.offset + 1;
        if let Err(rejected) = self.writer.push(record) {
            self.rejected.push(rejected);
        }
        if self.writer.is_full() { self.flush(self.next).await } else { Ok(()) }
    }

    /// Makes everything durable. `next` is where reading goes on: offsets without records may have been passed.
    ///
    /// # Errors
    /// As [`Feeder::push`].
    pub async fn flush(&mut self, next: i64) -> Result<(), SinkError> {
        self.next = self.next.max(next);
        let mut waits =
            Backoff::new(RETRY.0, RETRY.1, StdRng::from_os_rng()).take(RETRIES as usize);
        let flushed = loop {
            match self.writer.flush(self.next).await {
                Ok(flushed) => break flushed,
                Err(error @ SinkError::Definite(_)) => return Err(error),
                Err(error) => {
                    let Some(wait) = waits.next() else { return Err(error) };
                    tracing::debug!(%error, "trying again");
                    tokio::time::sleep(wait).await;
                }
            }
        };
        debug_assert_eq!(flushed.resume, Resume::Continue, "nobody else writes beside a feeder");
        self.rejected.extend(flushed.rejected);
        self.flushed = flushed.next;
        Ok(())
    }
}

/// Reads a partition from an offset to where it ends now, run by run; answers the position behind the last record and
/// marker. `take` says whether to go on. Blocks; call it on a thread that may.
///
/// # Errors
/// The log begins later, or Kafka does not answer.
pub fn read(
    kafka: &ClientConfig,
    partition: &TopicPartition,
    from: i64,
    mut take: impl FnMut(Vec<SourceRecord>) -> bool,
) -> Result<i64, FeedError> {
    let failed = |source| FeedError::Kafka { partition: partition.clone(), from, source };
    let mut settings = kafka.clone();
    settings
        // Never joined: the client asks for a name when partitions are assigned by hand.
        .set("group.id", "tailwater.feed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "20")
        .set("auto.offset.reset", "error");
    let consumer: BaseConsumer = settings.create().map_err(failed)?;
    let mut list = TopicPartitionList::new();
    let topic = partition.topic.as_str();
    list.add_partition_offset(topic, partition.partition, Offset::Offset(from)).map_err(failed)?;
    consumer.assign(&list).map_err(failed)?;
    let (mut run, mut next) = (Run::default(), from);
    loop {
        match consumer.poll(SILENCE_MAX) {
            None => return Err(FeedError::Silent { partition: partition.clone() }),
            Some(Ok(message)) => {
                next = message.offset() + 1;
                run.add(message);
                if run.records() >= RUN_RECORDS && !take(std::mem::take(&mut run).finish()) {
                    return Ok(next);
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => break,
            Some(Err(source)) => match source.rdkafka_error_code() {
                Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                    return Err(FeedError::Gone { partition: partition.clone(), from });
                }
                Some(
                    RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::TopicAuthorizationFailed,
                ) => return Err(failed(source)),
                // The client goes on by itself.
                _ => tracing::debug!(%partition, error = %source, "reading on"),
            },
        }
    }
    // Markers behind the last record are passed as well.
    let positions = consumer.position().map_err(failed)?;
    let element = positions.find_partition(topic, partition.partition);
    if let Some(Offset::Offset(position)) = element.map(|element| element.offset()) {
        next = next.max(position);
    }
    if run.records() > 0 {
        take(run.finish());
    }
    Ok(next)
}

#[cfg(test)]
mod loops {
    use super::*;
    use crate::sink::Sink;
    use crate::testing::{Fault, MemorySink, record};

    #[tokio::test(start_paused = true)]
    async fn what_is_fed_is_stored_once_whatever_fails_and_what_is_refused_is_handed_back() {
        let sink = MemorySink::new(4);
        sink.reject(5);
        sink.fail_next(Fault::Transient, 3);
        let at = TopicPartition { topic: "t".parse().expect("valid"), partition: 0 };
        let (writer, _) = sink.open(&at, None).await.expect("opens");
        let mut feeder = Feeder::new(writer, 0);
        for offset in (0..7).chain(3..10) {
            feeder.push(record(offset)).await.expect("stored");
        }
        assert!(feeder.flushed() < feeder.next());
        feeder.flush(12).await.expect("stored");
        assert_eq!((feeder.flushed(), feeder.next()), (12, 12));
        assert_eq!(sink.stored(&at), [0, 1, 2, 3, 4, 6, 7, 8, 9]);
        let rejected: Vec<i64> = feeder.take_rejected().iter().map(|r| r.record.offset).collect();
        assert_eq!((rejected, feeder.take_rejected().len()), (vec![5], 0));
        sink.fail_next(Fault::Definite, 1);
        feeder.push(record(12)).await.expect("open");
        assert!(feeder.flush(13).await.is_err());
    }
}
