//! What stands in a topic already, read by the reader itself.

use std::fmt;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::Deserialize;
use tailwater_config::KafkaConfig;
use tailwater_topics_contract::{Seq, TopicName, header};

use super::Error;
use super::ask::{ASK_WAIT, Quiet, Window, consumer, is_passing, newest, partitions};
use super::kafka::classified;

/// How long one call reads, and how many records at most, so that its caller can look at other things.
const SLICE: Duration = Duration::from_millis(200);
const SLICE_RECORDS: usize = 20_000;

/// How long nothing may come although there is more.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Between two looks whether the broker has closed a transaction.
const CLOSED_LOOK: Duration = Duration::from_millis(20);

/// First and next offset of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first that is still there.
    pub first: i64,
    /// The one that the next record gets.
    pub next: i64,
}

/// A record that stands in a topic.
#[derive(Clone, Copy, Debug)]
pub struct PastRecord<'r> {
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<&'r [u8]>,
    /// Its value; `None` is a tombstone.
    pub value: Option<&'r [u8]>,
}

/// What stands in topics. Whoever asks is their only writer, and has no transaction open that it wants to see.
pub trait Past: fmt::Debug + Send {
    /// First and next offset of each partition, by number.
    fn extents(&mut self, topic: &TopicName) -> Result<Vec<Extent>, Error>;

    /// Begins to read the committed records of a partition within an extent. What was committed before this is seen.
    fn begin(&mut self, topic: &TopicName, partition: i32, extent: Extent) -> Result<(), Error>;

    /// Reads on for a moment, in order. Answers whether there may be more.
    fn read(&mut self, on: &mut dyn FnMut(PastRecord<'_>)) -> Result<bool, Error>;
}

/// Topics in Kafka.
pub struct KafkaPast {
    config: KafkaConfig,
    reading: Option<Reading>,
}

struct Reading {
    consumer: BaseConsumer<Quiet>,
    next: i64,
    heard: Instant,
}

impl KafkaPast {
    /// Asks nothing yet.
    pub fn new(config: &KafkaConfig) -> Self {
        Self { config: config.clone(), reading: None }
    }
}

impl fmt::Debug for KafkaPast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaPast").finish_non_exhaustive()
    }
}

const DOING: &str = "reading what a topic holds";

impl Past for KafkaPast {
    fn extents(&mut self, topic: &TopicName) -> Result<Vec<Extent>, Error> {
        let consumer = consumer(&self.config, "read_uncommitted", "tailwater")?;
        let count = partitions(consumer.client(), &self.config.brokers, topic)?;
        let extent = |partition| {
            let (first, next) = consumer
                .fetch_watermarks(topic.as_str(), partition, ASK_WAIT)
                .map_err(|source| classified(source, &self.config.brokers, DOING))?;
            Ok(Extent { first, next })
        };
        (0..count as i32).map(extent).collect()
    }

    fn begin(&mut self, topic: &TopicName, partition: i32, extent: Extent) -> Result<(), Error> {
        let failed = |source| classified(source, &self.config.brokers, DOING);
        let consumer = consumer(&self.config, "read_committed", "tailwater")?;
        // A commit is answered before its markers stand in every partition. Until then its records are not shown.
        let deadline = Instant::now() + ASK_WAIT;
        loop {
            let ends = consumer.fetch_watermarks(topic.as_str(), partition, ASK_WAIT);
            if ends.map_err(failed)?.1 >= extent.next {
                break;
            }
            if Instant::now() >= deadline {
                let (brokers, seconds) = (self.config.brokers.clone(), ASK_WAIT.as_secs());
                return Err(Error::TimedOut { brokers, doing: DOING, seconds });
            }
            std::thread::sleep(CLOSED_LOOK);
        }
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(topic.as_str(), partition, Offset::Offset(extent.first))
            .and_then(|()| consumer.assign(&assignment))
            .map_err(failed)?;
        self.reading = Some(Reading { consumer, next: extent.next, heard: Instant::now() });
        Ok(())
    }

    fn read(&mut self, on: &mut dyn FnMut(PastRecord<'_>)) -> Result<bool, Error> {
        let Some(reading) = &mut self.reading else { return Ok(false) };
        let is_more = reading.read(on).map_err(|source| {
            let (brokers, seconds) = (self.config.brokers.clone(), SILENCE_MAX.as_secs());
            match source {
                Some(source) => classified(source, &brokers, DOING),
                None => Error::TimedOut { brokers, doing: DOING, seconds },
            }
        })?;
        if !is_more {
            self.reading = None;
        }
        Ok(is_more)
    }
}

impl Reading {
    /// As [`Past::read`]; an error without a cause is a silence.
    fn read(&mut self, on: &mut dyn FnMut(PastRecord<'_>)) -> Result<bool, Option<KafkaError>> {
        let until = Instant::now() + SLICE;
        for _ in 0..SLICE_RECORDS {
            match self.consumer.poll(until.saturating_duration_since(Instant::now())) {
                Some(Ok(message)) => {
                    self.heard = Instant::now();
                    let offset = message.offset();
                    if offset < self.next {
                        on(PastRecord { offset, key: message.key(), value: message.payload() });
                    }
                    if offset + 1 >= self.next {
                        return Ok(false);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(false),
                Some(Err(source)) if is_passing(&source) => {}
                Some(Err(source)) => return Err(Some(source)),
                None => break,
            }
        }
        if self.heard.elapsed() >= SILENCE_MAX { Err(None) } else { Ok(true) }
    }
}

/// The highest epoch of the sequence among the last records of a topic's partitions; `None` when they hold no record with
/// a number. Blocks. Numbers only grow within a partition, so its last record is enough.
pub fn last_epoch(config: &KafkaConfig, topic: &TopicName) -> Result<Option<u16>, Error> {
    let mut highest = None;
    for (extent, partition) in KafkaPast::new(config).extents(topic)?.into_iter().zip(0..) {
        let consumer = consumer(config, "read_committed", "tailwater")?;
        let window = Window { topic, partition, first: extent.first, next: extent.next };
        let last = newest(&consumer, &config.brokers, DOING, window, |message| seq(message))?;
        highest = highest.max(last);
    }
    Ok(highest.map(Seq::epoch))
}

/// The number of a record: in its header, or in its value.
fn seq(message: &impl Message) -> Option<Seq> {
    #[derive(Deserialize)]
    struct Change {
        source: Source,
    }
    #[derive(Deserialize)]
    struct Source {
        seq: u64,
    }
    let in_header = message.headers().and_then(|headers| {
        let found = headers.iter().find(|found| found.key == header::SEQ)?;
        std::str::from_utf8(found.value?).ok()?.parse().ok()
    });
    let in_value = || {
        let change: Change = serde_json::from_slice(message.payload()?).ok()?;
        Some(change.source.seq)
    };
    in_header.or_else(in_value).and_then(Seq::from_stored)
}
