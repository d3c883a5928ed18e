//! Writing to a dead-letter topic.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use tailwater_runtime::clock;
use tailwater_topics_contract::{SinkName, TopicName};
use tokio::sync::oneshot;

use super::wire::{self, DeadLetter, Settled};
use crate::partition::{DeadLetters, size};
use crate::sink::{Rejected, SinkError, TopicPartition};

/// After so long the broker counts as silent. The record is sent again then and may be there twice: its coordinates
/// tell.
const SILENCE_MAX_MS: &str = "10000";
/// The client's own limit is off, so that the topic's decides.
const RECORD_BYTES_MAX: &str = "1000000000";

/// Writes to the dead-letter topic of one sink.
///
/// Key and value are the original bytes, the original headers come first, and ours say where the record stood and why
/// it was set aside.
pub(crate) struct DeadLetterTopic {
    sink: SinkName,
    topic: TopicName,
    producer: ThreadedProducer<Deliveries>,
}

impl DeadLetterTopic {
    pub(crate) fn new(
        sink: SinkName,
        topic: TopicName,
        mut settings: ClientConfig,
    ) -> Result<Self, KafkaError> {
        settings
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "1")
            .set("message.timeout.ms", SILENCE_MAX_MS)
            .set("message.max.bytes", RECORD_BYTES_MAX);
        let producer = settings.create_with_context(Deliveries)?;
        Ok(Self { sink, topic, producer })
    }

    async fn send(
        &self,
        partition: &TopicPartition,
        rejected: &Rejected,
    ) -> Result<(), KafkaError> {
        let headers = wire::letter(&self.sink, partition, rejected, clock::now_ms());
        let record = &rejected.record;
        self.deliver(None, record.key.as_deref(), record.value.as_deref(), headers).await
    }

    /// Writes what became of a letter, into the letter's own partition, so that it comes after it.
    pub(super) async fn settle(
        &self,
        letter: &DeadLetter,
        settled: Settled,
    ) -> Result<(), KafkaError> {
        let headers = wire::settles(&self.sink, letter, settled);
        self.deliver(Some(letter.position.partition), None, None, headers).await
    }

    async fn deliver(
        &self,
        partition: Option<i32>,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        headers: OwnedHeaders,
    ) -> Result<(), KafkaError> {
        let (sent, delivered) = oneshot::channel();
        let record = BaseRecord {
            topic: self.topic.as_str(),
            partition,
            payload,
            key,
            timestamp: None,
            headers: Some(headers),
            delivery_opaque: Box::new(sent),
        };
        self.producer.send(record).map_err(|(error, _)| error)?;
        delivered.await.unwrap_or(Err(KafkaError::Canceled))
    }
}

/// A record that was not set aside.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the record at offset {offset} could not be set aside in `{topic}`")]
    NotTaken { topic: TopicName, offset: i64, source: KafkaError },
    #[error(
        "the record at offset {offset} is too large for `{topic}`: raise the topic's `max.message.bytes` above {bytes}, then start the worker again"
    )]
    TooLarge { topic: TopicName, offset: i64, bytes: usize },
}

impl DeadLetters for DeadLetterTopic {
    async fn set_aside(
        &self,
        partition: &TopicPartition,
        rejected: &Rejected,
    ) -> Result<(), SinkError> {
        let Err(source) = self.send(partition, rejected).await else { return Ok(()) };
        let (topic, offset) = (self.topic.clone(), rejected.record.offset);
        match source.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                // Our headers, and what the broker adds.
                let bytes = size(&rejected.record) + rejected.reason.len() + 1024;
                Err(SinkError::definite(Error::TooLarge { topic, offset, bytes }))
            }
            _ => Err(SinkError::transient(Error::NotTaken { topic, offset, source })),
        }
    }
}

impl Drop for DeadLetterTopic {
    fn drop(&mut self) {
        // Everything set aside was awaited; there is nothing to lose, only a thread to end.
        let _ = self.producer.flush(Duration::from_secs(1));
    }
}

/// Answers whoever waits for a delivery.
struct Deliveries;

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<oneshot::Sender<Result<(), KafkaError>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Self::DeliveryOpaque) {
        let answer = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error.clone()),
        };
        // Nobody waits any more when the partition was abandoned.
        let _ = waiting.send(answer);
    }
}
