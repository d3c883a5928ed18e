//! Archived records back into Kafka: key, value, headers, timestamp and partition as they were.
//!
//! Records of a partition keep their order. Their offsets are the new topic's own. The producer is idempotent, so
//! a repeat it makes itself leaves no second copy; a replay that was ended and begun again does, unless `from` says
//! where it stopped.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use tailwater_sinks_archive::line::{self, BadLine};
use tailwater_sinks_worker::SourceRecord;

use crate::archive::{Archive, Segment, Topic};
use crate::fetch::{self, FetchError};

/// How long Kafka may take for what is under way at the end.
const FLUSH_MAX: Duration = Duration::from_secs(60);
const METADATA_MAX: Duration = Duration::from_secs(10);

/// Which records.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Only this partition.
    pub partition: Option<i32>,
    /// Only these offsets.
    pub offsets: Range<i64>,
    /// Only records of commits up to this LSN.
    pub cut: Option<i64>,
}

/// A replay that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive cannot be read.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A line cannot be read back.
    #[error("object `{key}` holds a line that is none of an archive's")]
    Line {
        /// The object.
        key: String,
        /// Why.
        #[source]
        source: BadLine,
    },
    /// Kafka refuses.
    #[error("Kafka did not take a record")]
    Kafka(#[from] KafkaError),
    /// The topic is not there.
    #[error("topic `{0}` does not exist; create it with as many partitions as the archive has")]
    NoTopic(String),
    /// It has too few partitions.
    #[error(
        "topic `{topic}` has {has} partitions, and the archive has records of partition {needs}"
    )]
    Partitions {
        /// The topic.
        topic: String,
        /// How many it has.
        has: i32,
        /// The highest that is needed.
        needs: i32,
    },
}

/// Remembers the first delivery that failed.
#[derive(Clone, Default)]
struct Deliveries(Arc<Mutex<Option<KafkaError>>>);

impl rdkafka::ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, delivered: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = delivered {
            let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(error.clone());
        }
    }
}

impl Deliveries {
    fn check(&self) -> Result<(), KafkaError> {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.take().map_or(Ok(()), Err)
    }
}

/// Writes the selected records of a topic's archive to a topic of Kafka; answers how many.
pub async fn replay(
    archive: &Archive,
    topic: &Topic,
    selection: &Selection,
    kafka: &ClientConfig,
    to: &str,
    on_records: &mut (dyn FnMut(u64) + Send),
) -> Result<u64, Error> {
    let mut client = kafka.clone();
    client.set("enable.idempotence", "true");
    let deliveries = Deliveries::default();
    let producer: BaseProducer<Deliveries> = client.create_with_context(deliveries.clone())?;
    let chosen: Vec<&Segment> =
        topic.segments.iter().map(|segment| &**segment).filter(|s| selection.takes(s)).collect();
    check(&producer, to, chosen.iter().map(|segment| segment.partition).max())?;
    let mut count = 0;
    for segment in chosen {
        for number in 0..segment.chunks.len() {
            let reach = segment.chunks[number].extent.and_then(|extent| extent.offset);
            if reach.is_some_and(|(low, high)| {
                high < selection.offsets.start || low >= selection.offsets.end
            }) {
                continue;
            }
            let raw = fetch::one(archive, segment, number).await?;
            for text in raw.split(|byte| *byte == b'\n').filter(|text| !text.is_empty()) {
                let (partition, record) = line::read(text)
                    .map_err(|source| Error::Line { key: segment.key.clone(), source })?;
                let commit_lsn = || line::origin(&record).commit_lsn;
                let is_cut = selection
                    .cut
                    .is_some_and(|cut| commit_lsn().is_none_or(|lsn| lsn > cut.cast_unsigned()));
                if selection.offsets.contains(&record.offset) && !is_cut {
                    send(&producer, to, partition, &record)?;
                    count += 1;
                }
            }
            producer.poll(Duration::ZERO);
            deliveries.check()?;
            on_records(count);
        }
    }
    producer.flush(FLUSH_MAX)?;
    deliveries.check()?;
    Ok(count)
}

impl Selection {
    fn takes(&self, segment: &Segment) -> bool {
        self.partition.is_none_or(|partition| partition == segment.partition)
            && segment.next.start > self.offsets.start
            && segment.place.start < self.offsets.end
    }
}

fn check(producer: &BaseProducer<Deliveries>, to: &str, highest: Option<i32>) -> Result<(), Error> {
    // All topics at once: asking for one by name could create it.
    let metadata = producer.client().fetch_metadata(None, METADATA_MAX)?;
    let found = metadata.topics().iter().find(|topic| topic.name() == to);
    let has = found.ok_or_else(|| Error::NoTopic(to.to_owned()))?.partitions().len() as i32;
    match highest {
        Some(needs) if needs >= has => Err(Error::Partitions { topic: to.to_owned(), has, needs }),
        _ => Ok(()),
    }
}

fn send(
    producer: &BaseProducer<Deliveries>,
    to: &str,
    partition: i32,
    record: &SourceRecord,
) -> Result<(), KafkaError> {
    let mut message: BaseRecord<'_, [u8], [u8]> =
        BaseRecord::to(to).partition(partition).timestamp(record.timestamp_ms);
    if let Some(key) = &record.key {
        message = message.key(key);
    }
    if let Some(value) = &record.value {
        message = message.payload(value);
    }
    if !record.headers.is_empty() {
        let headers = record.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: value.as_deref() })
        });
        message = message.headers(headers);
    }
    loop {
        match producer.send(message) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned)) => {
                message = returned;
                producer.poll(Duration::from_millis(20));
            }
            Err((error, _)) => return Err(error),
        }
    }
}
