//! Ready-made records, handed to librdkafka one after the other.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Buf;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

/// How long the last records may take to be delivered.
const DELIVERY_WAIT: Duration = Duration::from_secs(60);

/// Between two looks at the delivery reports while all is handed over.
const SERVE_EVERY: u64 = 256;

/// A producer with the reader's settings, and records to send in turn.
pub(super) struct Sending {
    producer: BaseProducer,
    topic: String,
    records: Vec<(Vec<u8>, Vec<u8>)>,
    sent: u64,
}

impl Sending {
    pub(super) fn begin(brokers: &str, topic: &str, records: &Path) -> anyhow::Result<Self> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("enable.idempotence", "true")
            .set("compression.type", "lz4")
            .set("linger.ms", "1")
            .set("queue.buffering.max.kbytes", "65536")
            .set("queue.buffering.max.messages", "1000000")
            .set("partitioner", "murmur2_random")
            .create()?;
        let records = read(records)?;
        Ok(Self { producer, topic: topic.to_owned(), records, sent: 0 })
    }

    pub(super) fn next(&mut self) -> anyhow::Result<()> {
        let (key, value) = &self.records[(self.sent % self.records.len() as u64) as usize];
        let mut record = BaseRecord::to(&self.topic).key(key).payload(value);
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    self.producer.poll(Duration::from_millis(5));
                    record = back;
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
        self.sent += 1;
        if self.sent.is_multiple_of(SERVE_EVERY) {
            self.producer.poll(Duration::ZERO);
        }
        Ok(())
    }

    /// Waits until everything is delivered.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        let deadline = Instant::now() + DELIVERY_WAIT;
        while self.producer.in_flight_count() > 0 {
            if Instant::now() >= deadline {
                bail!("{} records were not delivered", self.producer.in_flight_count());
            }
            self.producer.poll(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// Writes records for [`Sending`]: each key and each value after its length.
pub(crate) fn write(path: &Path, records: &[(Vec<u8>, Vec<u8>)]) -> anyhow::Result<()> {
    let mut out = Vec::new();
    for (key, value) in records {
        for part in [key, value] {
            out.extend_from_slice(&u32::try_from(part.len())?.to_be_bytes());
            out.extend_from_slice(part);
        }
    }
    std::fs::write(path, out).with_context(|| format!("writing {}", path.display()))
}

fn read(path: &Path) -> anyhow::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let mut rest = bytes.as_slice();
    let mut part = || -> Option<Vec<u8>> {
        let length = rest.try_get_u32().ok()? as usize;
        let (part, after) = rest.split_at_checked(length)?;
        rest = after;
        Some(part.to_vec())
    };
    let mut records = Vec::new();
    while let (Some(key), Some(value)) = (part(), part()) {
        records.push((key, value));
    }
    if records.is_empty() {
        bail!("{} holds no record", path.display());
    }
    Ok(records)
}
