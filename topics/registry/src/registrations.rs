//! The registration topic: written by `apply`, read by the reader and the workers.
//!
//! ```text
//!  apply ──▶ write ──▶ tailwater.<pipeline>.registrations (1 partition, compacted) ──▶ load, follow ──▶ Registrations
//! ```
//!
//! A reader of the topic never sees it half-read: the first value it gets is the fold up to the end of the
//! partition, and each later one is one registration further.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{Offset, TopicPartitionList};
use tailwater_topics_contract::{PipelineName, Registration, Registrations, TopicName};
use tokio::sync::watch;

use crate::broker::{self, address, admitted, blocking, failed};

/// How long the whole topic may take to be read or a record to be written.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// How soon a follower whose receivers are gone ends.
const POLL_MAX: Duration = Duration::from_millis(250);

/// The registration topic could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not exist, so nothing was ever registered.
    #[error(
        "nothing is registered for pipeline `{pipeline}`: topic `{topic}` does not exist in Kafka at {address}; run `tailwater apply` first"
    )]
    Missing {
        /// The pipeline.
        pipeline: PipelineName,
        /// Its registration topic.
        topic: TopicName,
        /// The brokers.
        address: String,
    },
    /// Kafka failed.
    #[error(transparent)]
    Broker(#[from] broker::Error),
    /// A record is not a registration of this version.
    #[error(
        "topic `{topic}` holds something else at offset {offset}; it may be of a newer version"
    )]
    Unreadable {
        /// The registration topic.
        topic: TopicName,
        /// Where.
        offset: i64,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The end of the topic was not reached in time.
    #[error("topic `{topic}` could not be read to its end within {} s", waited.as_secs())]
    Slow {
        /// The registration topic.
        topic: TopicName,
        /// How long it was tried.
        waited: Duration,
    },
    /// The thread that follows the topic could not be started.
    #[error("could not start the thread that follows registrations")]
    Thread(#[source] std::io::Error),
}

/// Everything registered now.
pub async fn load(kafka: &ClientConfig, pipeline: &PipelineName) -> Result<Registrations, Error> {
    let mut reader = open(kafka, pipeline).await?;
    blocking(move || reader.read_to_end().map(|()| reader.registrations)).await
}

/// Everything registered, kept up to date by a thread that ends when the last receiver is dropped.
///
/// The first value is complete. A record that cannot be read later on is logged and passed over: what runs
/// goes on with what it knew.
pub async fn follow(
    kafka: &ClientConfig,
    pipeline: &PipelineName,
) -> Result<watch::Receiver<Registrations>, Error> {
    let mut reader = open(kafka, pipeline).await?;
    let reader = blocking(move || reader.read_to_end().map(|()| reader)).await?;
    let (sender, receiver) = watch::channel(reader.registrations.clone());
    std::thread::Builder::new()
        .name("registrations".to_owned())
        .spawn(move || reader.follow(&sender))
        .map_err(Error::Thread)?;
    Ok(receiver)
}

/// A reader whose brokers will have us.
async fn open(kafka: &ClientConfig, pipeline: &PipelineName) -> Result<Reader, Error> {
    let config = kafka.clone();
    blocking(move || admitted(&config)).await?;
    Reader::new(kafka, pipeline)
}

/// Writes registrations, in order, and waits until the brokers have them.
pub(crate) async fn write(
    kafka: &ClientConfig,
    pipeline: &PipelineName,
    registrations: Vec<Registration>,
) -> Result<(), Error> {
    let address = address(kafka);
    let topic = pipeline.registrations_topic();
    let mut config = kafka.clone();
    config.set("enable.idempotence", "true").set("message.timeout.ms", millis(ANSWER_MAX));
    let what = format!("take a registration into `{topic}`");
    blocking(move || {
        let fail = |source| Error::Broker(failed(&address, &what, source));
        let deliveries = Deliveries::default();
        let producer: BaseProducer<Deliveries> =
            config.create_with_context(deliveries.clone()).map_err(broker::client)?;
        for registration in &registrations {
            let key = registration.key();
            // Maps with text keys and plain values: nothing in a registration can fail to be JSON.
            let value = serde_json::to_vec(registration).expect("a registration is JSON");
            let record = BaseRecord::to(topic.as_str()).partition(0).key(&key).payload(&value);
            producer.send(record).map_err(|(source, _)| fail(source))?;
        }
        producer.flush(ANSWER_MAX).map_err(fail)?;
        deliveries.first_failure().map_or(Ok(()), |source| Err(fail(source)))
    })
    .await
}

/// The first delivery that failed.
#[derive(Clone, Default)]
struct Deliveries(Arc<Mutex<Option<KafkaError>>>);

impl Deliveries {
    fn first_failure(&self) -> Option<KafkaError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((failure, _)) = result {
            let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert_with(|| failure.clone());
        }
    }
}

struct Reader {
    consumer: BaseConsumer,
    address: String,
    pipeline: PipelineName,
    topic: TopicName,
    registrations: Registrations,
}

impl Reader {
    fn new(kafka: &ClientConfig, pipeline: &PipelineName) -> Result<Self, Error> {
        let topic = pipeline.registrations_topic();
        let mut config = kafka.clone();
        config
            // Only named because the client demands it: nothing joins the group and nothing is committed.
            .set("group.id", format!("{topic}.reader"))
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "earliest");
        Ok(Self {
            consumer: config.create().map_err(broker::client)?,
            address: address(kafka),
            pipeline: pipeline.clone(),
            topic,
            registrations: Registrations::default(),
        })
    }

    /// Reads from the beginning to the end of the partition.
    fn read_to_end(&mut self) -> Result<(), Error> {
        let begun = Instant::now();
        self.check_exists()?;
        let (first, end) = self
            .consumer
            .fetch_watermarks(self.topic.as_str(), 0, ANSWER_MAX)
            .map_err(|source| failed(&self.address, "show the end of its registrations", source))?;
        let mut next = first;
        let mut partitions = TopicPartitionList::new();
        let assigned = partitions
            .add_partition_offset(self.topic.as_str(), 0, Offset::Beginning)
            .and_then(|()| self.consumer.assign(&partitions));
        assigned.map_err(|source| failed(&self.address, "be read", source))?;
        while next < end {
            if begun.elapsed() > ANSWER_MAX {
                return Err(Error::Slow { topic: self.topic.clone(), waited: ANSWER_MAX });
            }
            let Some(polled) = self.consumer.poll(POLL_MAX) else { continue };
            match polled {
                Ok(record) => {
                    next = record.offset() + 1;
                    fold(&mut self.registrations, &record).map_err(|source| Error::Unreadable {
                        topic: self.topic.clone(),
                        offset: record.offset(),
                        source,
                    })?;
                }
                Err(source) if is_fleeting(&source) => {}
                Err(source) => {
                    return Err(failed(&self.address, "show its registrations", source).into());
                }
            }
        }
        Ok(())
    }

    fn check_exists(&self) -> Result<(), Error> {
        let metadata = self
            .consumer
            .fetch_metadata(Some(self.topic.as_str()), ANSWER_MAX)
            .map_err(|source| failed(&self.address, "list its topics", source))?;
        let exists = |topic: &rdkafka::metadata::MetadataTopic| {
            topic.name() == self.topic.as_str() && !topic.partitions().is_empty()
        };
        if metadata.topics().iter().any(exists) {
            return Ok(());
        }
        Err(Error::Missing {
            pipeline: self.pipeline.clone(),
            topic: self.topic.clone(),
            address: self.address.clone(),
        })
    }

    fn follow(mut self, sender: &watch::Sender<Registrations>) {
        while !sender.is_closed() {
            let Some(polled) = self.consumer.poll(POLL_MAX) else { continue };
            let record = match polled {
                Ok(record) => record,
                Err(error) => {
                    tracing::warn!(topic = %self.topic, %error, "registrations are late");
                    continue;
                }
            };
            if let Err(error) = fold(&mut self.registrations, &record) {
                let offset = record.offset();
                tracing::error!(topic = %self.topic, offset, %error, "passed over a registration");
            }
            sender.send_if_modified(|known| {
                let changed = *known != self.registrations;
                if changed {
                    known.clone_from(&self.registrations);
                }
                changed
            });
        }
    }
}

fn fold(
    registrations: &mut Registrations,
    record: &impl Message,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let key = record.key().ok_or("it has no key")?;
    registrations.on_record(key, record.payload()).map_err(Into::into)
}

/// Errors the client gets over by itself while the partition is read.
fn is_fleeting(error: &KafkaError) -> bool {
    error.rdkafka_error_code().is_some_and(|code| {
        matches!(
            code,
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::UnknownTopicOrPartition
        )
    })
}

fn millis(span: Duration) -> String {
    span.as_millis().to_string()
}
