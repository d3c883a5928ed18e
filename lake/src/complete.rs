//! Whether an archive holds everything up to a commit.
//!
//! **What is to be shown.** For a cut at commit LSN *X*: every record of a commit at or before *X* is archived, in every
//! partition of every topic asked for. Then rows cut at *X* are a state the database really had, and a transaction that
//! touched several topics is seen whole or not at all, because all its records carry its one commit LSN.
//!
//! **What is known.** The reader gives every record the next number of the pipeline, and emits the records of one topic in
//! commit order; Kafka keeps a partition's records in that order; and a chain without breaks holds every record of its
//! partition from its first to its last. The breaks are looked for first. Between topics numbers need not follow commits:
//! a table that is added later, or read again, joins the others beside their stream, and is behind it meanwhile.
//!
//! **By numbers.** Let *S* be the lowest number of an archived record of a later commit of a topic. All its records of
//! commits up to *X* have lower ones. Take the highest *S* of the topics asked for, and let *F* be the lowest number
//! archived. If *S − F* records below *S* are archived, none from *F* on is missing in any partition of any topic, those
//! included that have no object yet. This needs nothing but the archive, and holds only where all topics of the pipeline are
//! archived together and each that is asked for has a later record.
//!
//! **By partitions.** A record of a later commit in the same partition shows that the partition is complete up to *X*:
//! whatever belongs to *X* or before was written before it. A record *of X* does not: another of the same transaction
//! may follow. A quiet partition has no later record; there the reader's progress helps, when it is beyond *X*: it tells
//! where each partition ended at least, and a chain that goes that far has everything. Which partitions there are
//! is told by Kafka alone: one without any object would otherwise go unnoticed.
//!
//! An LSN is a place in one database's log. After a failover to another timeline, or a resync, numbers begin in a new
//! epoch, and cuts before and after it cannot be compared; an archive of two epochs is not vouched for by numbers.

use std::collections::BTreeMap;

use tailwater_topics_contract::{Lsn, Seq, TopicName};

use crate::archive::{Archive, Segment, Topic};
use crate::fetch::{self, FetchError};
use crate::head::{self, Depth};

/// What Kafka knows of a pipeline.
#[derive(Clone, Debug, Default)]
pub struct Pipeline {
    /// How many partitions each topic has.
    pub partitions: BTreeMap<TopicName, i32>,
    /// Everything that committed before this is in Kafka, of tables too that have yet to catch up with the others.
    pub position: Option<Lsn>,
    /// Where each topic's partitions ended at least when that was noted; -1 is unknown.
    pub ends: BTreeMap<TopicName, Vec<i64>>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is there.
    Complete {
        /// Which proof holds.
        proof: &'static str,
    },
    /// It is not known to be there.
    Unknown {
        /// Why, of each topic or partition.
        because: Vec<String>,
    },
}

/// Judges a cut for some topics. `all` are all topics of the archive, those asked for among them.
pub async fn judge(
    archive: &Archive,
    all: &[&Topic],
    asked: &[&TopicName],
    cut: Lsn,
    pipeline: Option<&Pipeline>,
) -> Result<Verdict, FetchError> {
    let topics: Vec<&Topic> =
        all.iter().copied().filter(|topic| asked.contains(&&topic.name)).collect();
    let broken: Vec<String> = topics
        .iter()
        .flat_map(|topic| topic.breaks())
        .map(|broken| format!("a chain is broken: {broken}; run `verify`"))
        .collect();
    if !broken.is_empty() {
        return Ok(Verdict::Unknown { because: broken });
    }
    if is_dense(archive, all, asked, cut).await? {
        return Ok(Verdict::Complete { proof: "every number of the pipeline is archived" });
    }
    let Some(pipeline) = pipeline else {
        let because = "numbers are missing below that commit, in this archive at least, and which partitions there are is told by Kafka alone; name a configuration with `--config`";
        return Ok(Verdict::Unknown { because: vec![because.to_owned()] });
    };
    let mut because = Vec::new();
    for topic in topics {
        let Some(count) = pipeline.partitions.get(&topic.name) else {
            because.push(format!("topic `{}` is not in Kafka any more", topic.name));
            continue;
        };
        for partition in 0..*count {
            because.extend(lacks(topic, partition, cut, pipeline));
        }
    }
    Ok(if because.is_empty() {
        Verdict::Complete { proof: "every partition is archived beyond it" }
    } else {
        Verdict::Unknown { because }
    })
}

/// What is missing to vouch for one partition.
fn lacks(topic: &Topic, partition: i32, cut: Lsn, pipeline: &Pipeline) -> Option<String> {
    let chain = || topic.segments.iter().filter(|segment| segment.partition == partition);
    let newest =
        chain().filter_map(|segment| segment.extent.commit_lsn).map(|(_, last)| last).max();
    if newest.is_some_and(|newest| newest > cut.0) {
        return None;
    }
    let next = chain().map(|segment| segment.next.start).max();
    let ends = pipeline.ends.get(&topic.name);
    let end = ends.and_then(|ends| ends.get(usize::try_from(partition).ok()?)).copied();
    if let (Some(position), Some(end)) = (pipeline.position, end.filter(|end| *end >= 0))
        && position > cut
        && next.unwrap_or(0) >= end
    {
        return None;
    }
    let until = newest.map_or_else(
        || "is not in the archive yet".to_owned(),
        |newest| format!("is archived up to a record of {}", Lsn(newest)),
    );
    let until = match (pipeline.position, end) {
        (Some(position), Some(end)) if position > cut && end >= 0 => {
            format!("{until}, offset {}, and goes on to offset {end}", next.unwrap_or(0))
        }
        _ => format!("{until}, and whether more comes before the cut is not known"),
    };
    Some(format!("partition {partition} of `{}` {until}", topic.name))
}

/// Whether no number is missing below the first later commit of each topic asked for.
async fn is_dense(
    archive: &Archive,
    all: &[&Topic],
    asked: &[&TopicName],
    cut: Lsn,
) -> Result<bool, FetchError> {
    if all.iter().flat_map(|topic| &topic.segments).any(|segment| segment.repeats()) {
        return Ok(false);
    }
    let mut until = None;
    for topic in all.iter().filter(|topic| asked.contains(&&topic.name)) {
        let Some(after) = first_after(archive, topic, cut).await? else { return Ok(false) };
        until = until.max(Some(after));
    }
    let lowest = |topic: &&Topic| {
        let filled = topic.segments.iter().filter(|segment| segment.extent.records > 0);
        filled.map(|segment| segment.extent.tw_seq.map(|(lowest, _)| lowest)).collect::<Vec<_>>()
    };
    let lowest: Option<Vec<u64>> = all.iter().flat_map(lowest).collect();
    let first = lowest.and_then(|lowest| lowest.into_iter().min());
    let (Some(first), Some(until)) = (first, until) else { return Ok(false) };
    let epoch = |seq| Seq::from_stored(seq).map(|seq| seq.epoch());
    if epoch(first).is_none() || epoch(first) != epoch(until) {
        return Ok(false);
    }
    let mut below = 0;
    for topic in all {
        below += count_below(archive, topic, until).await?;
    }
    Ok(below == until.saturating_sub(first))
}

/// The lowest number of a record of a later commit.
async fn first_after(
    archive: &Archive,
    topic: &Topic,
    cut: Lsn,
) -> Result<Option<u64>, FetchError> {
    let mut first: Option<u64> = None;
    let mut on = |seq: u64| first = Some(first.map_or(seq, |first| first.min(seq)));
    for segment in topic.segments.iter().filter(|segment| segment.extent.records > 0) {
        for (number, reach) in segment.chunks.iter().enumerate() {
            match reach.extent.and_then(|extent| extent.commit_lsn.zip(extent.tw_seq)) {
                Some(((_, high), _)) if high <= cut.0 => {}
                Some(((low, _), (lowest, _))) if low > cut.0 => on(lowest),
                _ => {
                    for (lsn, seq) in places(archive, segment, number).await? {
                        match (lsn, seq) {
                            (Some(lsn), Some(seq)) if lsn > cut.0 => on(seq),
                            (Some(_), Some(_)) => {}
                            _ => return Ok(None),
                        }
                    }
                }
            }
        }
    }
    Ok(first)
}

/// How many records have lower numbers.
async fn count_below(archive: &Archive, topic: &Topic, until: u64) -> Result<u64, FetchError> {
    let mut below = 0;
    for segment in topic.segments.iter().filter(|segment| segment.extent.records > 0) {
        for (number, reach) in segment.chunks.iter().enumerate() {
            match reach.extent.and_then(|extent| Some((extent.records, extent.tw_seq?))) {
                Some((records, (_, high))) if high < until => below += records,
                Some((_, (low, _))) if low >= until => {}
                _ => {
                    let places = places(archive, segment, number).await?;
                    let is_below = |seq: Option<u64>| seq.is_some_and(|seq| seq < until);
                    below += places.into_iter().filter(|(_, seq)| is_below(*seq)).count() as u64;
                }
            }
        }
    }
    Ok(below)
}

/// Commit LSN and number of each record of a chunk.
async fn places(
    archive: &Archive,
    segment: &Segment,
    number: usize,
) -> Result<Vec<(Option<u64>, Option<u64>)>, FetchError> {
    let raw = fetch::one(archive, segment, number).await?;
    let lines = raw.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let place = |line: &[u8]| {
        let head = head::read(line, Depth::TwSeq)
            .map_err(|source| FetchError::Foreign { key: segment.key.clone(), source })?;
        Ok((head.commit_lsn.map(i64::cast_unsigned), head.tw_seq.map(i64::cast_unsigned)))
    };
    lines.map(place).collect()
}

/// The newest commit at or before a time, in microseconds since 1970, and its LSN. Commit times do not strictly follow
/// LSNs; the cut is the highest LSN whose commit is not later.
pub async fn commit_at(
    archive: &Archive,
    topics: &[&Topic],
    time_us: i64,
) -> Result<Option<(Lsn, i64)>, FetchError> {
    let mut best: Option<(u64, i64)> = None;
    for topic in topics {
        for segment in &topic.segments {
            for (number, reach) in segment.chunks.iter().enumerate() {
                let extent = reach.extent.unwrap_or(segment.extent);
                let (Some((earliest, _)), Some((_, newest))) =
                    (extent.commit_ts_us, extent.commit_lsn)
                else {
                    continue;
                };
                if earliest > time_us || best.is_some_and(|(lsn, _)| lsn >= newest) {
                    continue;
                }
                let raw = fetch::one(archive, segment, number).await?;
                for line in raw.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    let head = head::read(line, Depth::CommitTime).map_err(|source| {
                        FetchError::Foreign { key: segment.key.clone(), source }
                    })?;
                    if let (Some(lsn), Some(at)) = (head.commit_lsn, head.commit_ts_us)
                        && at <= time_us
                        && best.is_none_or(|(known, _)| known < lsn.cast_unsigned())
                    {
                        best = Some((lsn.cast_unsigned(), at));
                    }
                }
            }
        }
    }
    Ok(best.map(|(lsn, at)| (Lsn(lsn), at)))
}
