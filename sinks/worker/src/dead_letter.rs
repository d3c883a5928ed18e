//! Records that no sink can take, set aside with their reason.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use tailwater_runtime::clock;
use tailwater_topics_contract::{SinkName, TopicName, header};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::error::WorkerError;
use crate::partition::DeadLetters;
use crate::sink::{Rejected, TopicPartition};

/// Pause before a record that the broker did not take is sent again.
const AGAIN: Duration = Duration::from_secs(1);

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
    ) -> Result<Self, WorkerError> {
        settings.set("enable.idempotence", "true").set("acks", "all").set("linger.ms", "1");
        let producer = settings.create_with_context(Deliveries).map_err(WorkerError::Settings)?;
        Ok(Self { sink, topic, producer })
    }

    async fn send(&self, partition: &TopicPartition, rejected: &Rejected) -> Result<(), String> {
        let (sent, delivered) = oneshot::channel();
        let mut record = BaseRecord::with_opaque_to(self.topic.as_str(), Box::new(sent))
            .headers(headers(&self.sink, partition, rejected, clock::now_ms()));
        if let Some(key) = &rejected.record.key {
            record = record.key(&key[..]);
        }
        if let Some(value) = &rejected.record.value {
            record = record.payload(&value[..]);
        }
        self.producer.send(record).map_err(|(error, _)| error.to_string())?;
        delivered.await.unwrap_or_else(|_| Err("the client was closed".to_owned()))
    }
}

impl DeadLetters for DeadLetterTopic {
    async fn set_aside(&self, partition: &TopicPartition, rejected: Rejected) {
        while let Err(error) = self.send(partition, &rejected).await {
            tracing::warn!(
                topic = %self.topic, %partition, offset = rejected.record.offset, %error,
                "a dead letter was not taken; trying again"
            );
            sleep(AGAIN).await;
        }
    }
}

impl Drop for DeadLetterTopic {
    fn drop(&mut self) {
        // Everything set aside was awaited; there is nothing to lose, only a thread to end.
        let _ = self.producer.flush(Duration::from_secs(1));
    }
}

fn headers(
    sink: &SinkName,
    partition: &TopicPartition,
    rejected: &Rejected,
    now_ms: i64,
) -> OwnedHeaders {
    let record = &rejected.record;
    let mut headers = OwnedHeaders::new_with_capacity(record.headers.len() + 9);
    for (key, value) in &record.headers {
        headers = headers.insert(Header { key, value: value.as_ref().map(|value| &value[..]) });
    }
    let ours = [
        (header::DLQ_SINK, sink.to_string()),
        (header::DLQ_TOPIC, partition.topic.to_string()),
        (header::DLQ_PARTITION, partition.partition.to_string()),
        (header::DLQ_OFFSET, record.offset.to_string()),
        (header::DLQ_TIMESTAMP, record.timestamp_ms.to_string()),
        (header::DLQ_CLASS, rejected.class.to_owned()),
        (header::DLQ_REASON, rejected.reason.clone()),
        (header::DLQ_ATTEMPTS, rejected.attempts.to_string()),
        (header::DLQ_AT, now_ms.to_string()),
    ];
    for (key, value) in &ours {
        headers = headers.insert(Header { key, value: Some(value) });
    }
    headers
}

/// Answers whoever waits for a delivery.
struct Deliveries;

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<oneshot::Sender<Result<(), String>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Self::DeliveryOpaque) {
        let answer = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error.to_string()),
        };
        // Nobody waits any more when the partition was abandoned.
        let _ = waiting.send(answer);
    }
}
