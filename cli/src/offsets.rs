//! What Kafka knows of topics and consumer groups.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tailwater_sinks_worker::TopicPartition;
use tailwater_topics_contract::{SinkRegistration, TopicName};

/// How long one answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// First and next offset of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// The first offset still there.
    pub(crate) first: i64,
    /// The offset the next record gets.
    pub(crate) next: i64,
}

/// An offset of each partition of topics, by number; -1 where there is none.
pub(crate) type Offsets = BTreeMap<TopicName, Vec<i64>>;

/// Those of some topics.
pub(crate) fn of<'t>(topics: impl IntoIterator<Item = &'t TopicName>, all: &Offsets) -> Offsets {
    let of = |topic: &TopicName| Some((topic.clone(), all.get(topic)?.clone()));
    topics.into_iter().filter_map(of).collect()
}

/// Ranges of all partitions of a topic, by number; `None` when the topic does not exist. Blocks.
pub(crate) fn ranges(
    config: &ClientConfig,
    topic: &TopicName,
) -> anyhow::Result<Option<Vec<Range>>> {
    let consumer = consumer(config, "tailwater.status")?;
    let unanswered = || format!("Kafka at {} did not answer about `{topic}`", address(config));
    let metadata =
        consumer.fetch_metadata(Some(topic.as_str()), ANSWER_MAX).with_context(unanswered)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic.as_str());
    let partitions = found.map_or(0, |found| found.partitions().len());
    if partitions == 0 {
        return Ok(None);
    }
    let range = |partition| {
        let (first, next) = consumer
            .fetch_watermarks(topic.as_str(), partition, ANSWER_MAX)
            .with_context(unanswered)?;
        Ok(Range { first, next })
    };
    (0..partitions as i32).map(range).collect::<anyhow::Result<_>>().map(Some)
}

/// The next offset of every partition of these topics, committed records alone; a topic that does not exist has none. Two
/// questions for all of them. Blocks.
pub(crate) fn ends(config: &ClientConfig, topics: &BTreeSet<TopicName>) -> anyhow::Result<Offsets> {
    // For a time of `End` brokers answer the end.
    let [ends] = at(config, topics, [Offset::End])?;
    Ok(ends)
}

/// How many offsets every partition of these topics was given since a time, in milliseconds since 1970. Blocks.
pub(crate) fn since(
    config: &ClientConfig,
    topics: &BTreeSet<TopicName>,
    since_ms: i64,
) -> anyhow::Result<Offsets> {
    let [firsts, mut ends] = at(config, topics, [Offset::Offset(since_ms), Offset::End])?;
    for (topic, ends) in &mut ends {
        for (end, first) in ends.iter_mut().zip(&firsts[topic]) {
            // There is no first where nothing came since.
            *end = if *first < 0 { 0 } else { *end - first };
        }
    }
    Ok(ends)
}

/// What brokers answer for such times, for every partition of these topics. Blocks.
fn at<const N: usize>(
    config: &ClientConfig,
    topics: &BTreeSet<TopicName>,
    times: [Offset; N],
) -> anyhow::Result<[Offsets; N]> {
    let consumer = consumer(config, "tailwater.status")?;
    let unanswered = || format!("Kafka at {} did not say where topics end", address(config));
    let metadata = consumer.fetch_metadata(None, ANSWER_MAX).with_context(unanswered)?;
    let is_asked = |name: &str| name.parse().is_ok_and(|name| topics.contains(&name));
    let mut found = times.map(|_| topics.iter().map(|topic| (topic.clone(), Vec::new())).collect());
    for (time, found) in times.into_iter().zip(&mut found) {
        let mut asked = TopicPartitionList::new();
        for topic in metadata.topics().iter().filter(|topic| is_asked(topic.name())) {
            for partition in topic.partitions() {
                asked.add_partition_offset(topic.name(), partition.id(), time)?;
            }
        }
        if asked.count() > 0 {
            let answer = consumer.offsets_for_times(asked, ANSWER_MAX);
            by_partition(&answer.with_context(unanswered)?, found)?;
        }
    }
    Ok(found)
}

/// Where a sink stands in as many partitions of each topic as `ends` has: what its group committed, and its origin where it
/// never did. Blocks.
pub(crate) fn stands(
    config: &ClientConfig,
    group: &str,
    sink: &SinkRegistration,
    ends: &Offsets,
) -> anyhow::Result<Offsets> {
    let consumer = consumer(config, group)?;
    let mut asked = TopicPartitionList::new();
    for (topic, ends) in ends.iter().filter(|(_, ends)| !ends.is_empty()) {
        asked.add_partition_range(topic.as_str(), 0, ends.len() as i32 - 1);
    }
    let mut stands: Offsets =
        ends.iter().map(|(topic, ends)| (topic.clone(), vec![-1; ends.len()])).collect();
    if asked.count() > 0 {
        let answer = consumer.committed_offsets(asked, ANSWER_MAX).with_context(|| {
            format!("Kafka at {} did not answer about group `{group}`", address(config))
        })?;
        by_partition(&answer, &mut stands)?;
    }
    for (topic, partitions) in &mut stands {
        for (at, partition) in partitions.iter_mut().zip(0..).filter(|(at, _)| **at < 0) {
            *at = sink.origin(topic, partition).map_or(0, |origin| origin.offset);
        }
    }
    Ok(stands)
}

/// Notes offsets under their partitions.
fn by_partition(answer: &TopicPartitionList, offsets: &mut Offsets) -> anyhow::Result<()> {
    for element in answer.elements() {
        element.error()?;
        let Some(offsets) = offsets.get_mut(&element.topic().parse()?) else { continue };
        let at = usize::try_from(element.partition())?;
        if offsets.len() <= at {
            offsets.resize(at + 1, -1);
        }
        if let Offset::Offset(offset) = element.offset() {
            offsets[at] = offset;
        }
    }
    Ok(())
}

/// The offsets a group committed for the partitions of a topic; `None` for those it never did. Blocks.
pub(crate) fn committed(
    config: &ClientConfig,
    group: &str,
    topic: &TopicName,
    partitions: usize,
) -> anyhow::Result<Vec<Option<i64>>> {
    let consumer = consumer(config, group)?;
    let mut asked = TopicPartitionList::new();
    asked.add_partition_range(topic.as_str(), 0, partitions as i32 - 1);
    let answer = consumer.committed_offsets(asked, ANSWER_MAX).with_context(|| {
        format!("Kafka at {} did not answer about group `{group}`", address(config))
    })?;
    let offset = |partition: i32| {
        let found = answer.find_partition(topic.as_str(), partition)?;
        match found.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    };
    Ok((0..partitions as i32).map(offset).collect())
}

/// Sets what a group has committed, with this metadata. The group must have no members. Blocks.
pub(crate) fn commit(
    config: &ClientConfig,
    group: &str,
    offsets: &BTreeMap<TopicPartition, i64>,
    metadata: &str,
) -> anyhow::Result<()> {
    let mut list = TopicPartitionList::new();
    for (at, next) in offsets {
        let mut element = list.add_partition(at.topic.as_str(), at.partition);
        element.set_offset(Offset::Offset(*next))?;
        element.set_metadata(metadata);
    }
    let committed = consumer(config, group)?.commit(&list, CommitMode::Sync);
    committed.with_context(|| format!("the offsets of group `{group}` could not be set"))
}

/// Of the partitions of a topic, each with an offset: those that hold a record there or after it. Offsets alone
/// cannot tell, because markers of transactions take some too. Blocks.
pub(crate) fn pending(
    config: &ClientConfig,
    topic: &TopicName,
    from: &[(i32, i64)],
) -> anyhow::Result<BTreeSet<i32>> {
    let mut pending = BTreeSet::new();
    if from.is_empty() {
        return Ok(pending);
    }
    let mut config = config.clone();
    config
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        // One record is enough to know, and at the end nobody should be waited for.
        .set("fetch.message.max.bytes", "65536")
        .set("fetch.wait.max.ms", "10");
    let consumer = consumer(&config, "tailwater.status")?;
    let mut assigned = TopicPartitionList::new();
    for (partition, offset) in from {
        assigned.add_partition_offset(topic.as_str(), *partition, Offset::Offset(*offset))?;
    }
    consumer.assign(&assigned)?;
    let mut open: BTreeSet<i32> = from.iter().map(|(partition, _)| *partition).collect();
    let begun = Instant::now();
    while !open.is_empty() {
        if begun.elapsed() > ANSWER_MAX {
            bail!("Kafka at {} stopped sending `{topic}`", address(&config));
        }
        match consumer.poll(Duration::from_millis(250)) {
            None => {}
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                open.remove(&partition);
            }
            Some(Err(error)) => tracing::debug!(%error, "the client goes on by itself"),
            Some(Ok(record)) => {
                let partition = record.partition();
                if open.remove(&partition) {
                    pending.insert(partition);
                    let mut known = TopicPartitionList::new();
                    known.add_partition(topic.as_str(), partition);
                    consumer.pause(&known)?;
                }
            }
        }
    }
    Ok(pending)
}

/// Runs a call that blocks, off the threads that must not.
pub(crate) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(call).await.context("a call into the Kafka client panicked")?
}

/// `group` is named because the client demands it; nothing joins it and nothing is committed.
fn consumer(config: &ClientConfig, group: &str) -> anyhow::Result<BaseConsumer> {
    let mut config = config.clone();
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed");
    config.create().context("the Kafka client cannot be set up with these `kafka.properties`")
}

fn address(config: &ClientConfig) -> &str {
    config.get("bootstrap.servers").unwrap_or_default()
}
