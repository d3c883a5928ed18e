//! What stands in Kafka, as a read-committed consumer sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// How long a read may go without a record before it is given up.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Timestamp in milliseconds.
    pub timestamp_ms: i64,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Headers as texts.
    pub headers: BTreeMap<String, String>,
}

/// Everything read from a topic so far, in the order of each partition.
#[derive(Debug)]
pub struct TopicReader {
    brokers: String,
    topic: String,
    next: BTreeMap<i32, i64>,
    records: Vec<Record>,
}

impl TopicReader {
    /// Begins at the start of a topic.
    pub fn new(brokers: &str, topic: &str) -> Self {
        Self {
            brokers: brokers.into(),
            topic: topic.into(),
            next: BTreeMap::new(),
            records: Vec::new(),
        }
    }

    /// Everything read so far.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Reads on until the end of every partition; answers how many records are new.
    pub fn catch_up(&mut self) -> anyhow::Result<usize> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("group.id", "tailwater-judge")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "20")
            .create()?;
        let mut open = self.assign(&consumer)?;
        let before = self.records.len();
        let mut heard = Instant::now();
        while !open.is_empty() {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let record = record(&message)?;
                    self.next.insert(record.partition, record.offset + 1);
                    self.records.push(record);
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    open.remove(&partition);
                }
                Some(Err(error)) => return Err(error).context(format!("reading `{}`", self.topic)),
                None if heard.elapsed() > SILENCE_MAX => {
                    bail!("`{}` gave nothing for {SILENCE_MAX:?} before its end", self.topic)
                }
                None => {}
            }
        }
        Ok(self.records.len() - before)
    }

    fn assign(&self, consumer: &BaseConsumer) -> anyhow::Result<BTreeSet<i32>> {
        let metadata = consumer.fetch_metadata(Some(&self.topic), Duration::from_secs(10))?;
        let partitions: BTreeSet<i32> =
            metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|p| p.id()).collect();
        if partitions.is_empty() {
            bail!("topic `{}` does not exist", self.topic);
        }
        let mut list = TopicPartitionList::new();
        for partition in &partitions {
            let offset =
                self.next.get(partition).map_or(Offset::Beginning, |next| Offset::Offset(*next));
            list.add_partition_offset(&self.topic, *partition, offset)?;
        }
        consumer.assign(&list)?;
        Ok(partitions)
    }
}

fn record(message: &rdkafka::message::BorrowedMessage<'_>) -> anyhow::Result<Record> {
    let mut headers = BTreeMap::new();
    for header in message.headers().iter().flat_map(|headers| headers.iter()) {
        let value = header.value.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        headers.insert(header.key.to_owned(), value.unwrap_or_default());
    }
    Ok(Record {
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().context("a record has no timestamp")?,
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers,
    })
}
