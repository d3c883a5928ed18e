//! What Kafka knows of a pipeline: its archives, its topics' partitions, how far its reader is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tailwater_topics_contract::{
    ArchiveSpec, Lsn, Origin, PipelineName, SinkKind, SinkName, TopicName,
};
use tailwater_topics_registry::registrations;

use crate::archive::Archive;
use crate::complete::Pipeline;

/// How long Kafka may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Kafka does not tell.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not reached, or it refuses.
    #[error("Kafka did not answer")]
    Kafka(#[from] KafkaError),
    /// It stays silent.
    #[error("Kafka has been silent for {} seconds", SILENCE_MAX.as_secs())]
    Silent,
    /// What is registered cannot be read.
    #[error("what is registered cannot be read")]
    Registrations(#[from] registrations::Error),
    /// No archive, or several.
    #[error("{0}")]
    Archive(String),
}

/// The archive sink of a pipeline; the only one, or the one that is named.
pub async fn archive(
    kafka: &ClientConfig,
    pipeline: &PipelineName,
    wanted: Option<&SinkName>,
) -> Result<ArchiveSpec, Error> {
    let registered = registrations::load(kafka, pipeline).await?;
    let archives = registered.standing_sinks().filter_map(|sink| match &sink.spec.kind {
        SinkKind::Archive(spec) => Some((&sink.spec.name, spec)),
        SinkKind::Search(_) => None,
    });
    let archives: Vec<_> =
        archives.filter(|(name, _)| wanted.is_none_or(|wanted| *name == wanted)).collect();
    match (archives.as_slice(), wanted) {
        ([(_, spec)], _) => Ok((*spec).clone()),
        ([], Some(wanted)) => {
            Err(Error::Archive(format!("no archive sink `{wanted}` is registered")))
        }
        ([], None) => Err(Error::Archive(
            "no archive sink is registered; run `tailwater apply`, or name a place with --archive"
                .to_owned(),
        )),
        (several, _) => {
            let names: Vec<&str> = several.iter().map(|(name, _)| name.as_str()).collect();
            let names = names.join(", ");
            Err(Error::Archive(format!(
                "there are several archives; choose one with --sink: {names}"
            )))
        }
    }
}

/// Where the chains of an archive were registered to begin.
pub async fn origins(
    kafka: &ClientConfig,
    pipeline: &PipelineName,
    archive: &Archive,
) -> Result<Vec<Origin>, Error> {
    let registered = registrations::load(kafka, pipeline).await?;
    let ours = registered.sinks.into_values().filter(|sink| match &sink.spec.kind {
        SinkKind::Archive(spec) => {
            spec.bucket == archive.store.bucket() && spec.prefix == archive.prefix
        }
        SinkKind::Search(_) => false,
    });
    Ok(ours.flat_map(|sink| sink.origins).collect())
}

/// Partitions of topics, and the reader's progress. It blocks.
pub fn look(
    kafka: &ClientConfig,
    pipeline: &PipelineName,
    topics: &[TopicName],
) -> Result<Pipeline, Error> {
    let mut client = kafka.clone();
    client.set("enable.auto.commit", "false");
    client.set("enable.partition.eof", "true");
    client.set("isolation.level", "read_committed");
    client.set("group.id", format!("tailwater.{pipeline}.lake"));
    let consumer: BaseConsumer = client.create()?;
    // All topics at once: asking for one by name could create it.
    let metadata = consumer.fetch_metadata(None, SILENCE_MAX)?;
    let mut known = Pipeline::default();
    for topic in metadata.topics() {
        if let Some(name) = topics.iter().find(|name| name.as_str() == topic.name()) {
            known.partitions.insert(name.clone(), topic.partitions().len() as i32);
        }
    }
    let progress = pipeline.progress_topic();
    if metadata.topics().iter().any(|topic| topic.name() == progress.as_str())
        && let Some(record) = last(&consumer, progress.as_str())?
    {
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap_or_default();
        let lsn = |text: &serde_json::Value| text.as_str()?.parse::<Lsn>().ok();
        // Tables that are joining the stream are behind it.
        known.position = lsn(&record["position"]).map(|position| {
            lsn(&record["joining"]["position"]).map_or(position, |j| j.min(position))
        });
        let ends = serde_json::from_value::<BTreeMap<TopicName, Vec<i64>>>(record["ends"].clone());
        known.ends = ends.unwrap_or_default();
    }
    Ok(known)
}

/// The value of the last record of a topic of one partition.
fn last(consumer: &BaseConsumer, topic: &str) -> Result<Option<Vec<u8>>, Error> {
    let (low, high) = consumer.fetch_watermarks(topic, 0, SILENCE_MAX)?;
    // Few of the last offsets are markers of transactions; a topic that is compacted is short anyway.
    for back in [64, 4_096, i64::MAX] {
        let start = low.max(high.saturating_sub(back));
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, 0, Offset::Offset(start))?;
        consumer.assign(&assignment)?;
        let mut found = None;
        let began = Instant::now();
        loop {
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => found = message.payload().map(<[u8]>::to_vec).or(found),
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(error)) => return Err(error.into()),
                None if began.elapsed() > SILENCE_MAX => return Err(Error::Silent),
                None => {}
            }
        }
        if found.is_some() || start == low {
            return Ok(found);
        }
    }
    Ok(None)
}
