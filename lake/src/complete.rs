//! Whether an archive holds everything up to a commit.
//!
//! **What is to be shown.** For a cut at commit LSN *X*: every record of a commit at or before *X* is archived, in every
//! partition of every topic asked for. Then rows cut at *X* are a state the database really had, and a transaction that
//! touched several topics is seen whole or not at all, because all its records carry its one commit LSN.
//!
//! **What is known.** The reader emits records in commit order, each with the next number of the pipeline; Kafka keeps a
//! partition's records in that order; and a chain without breaks holds every record of its partition from its first to
//! its last. The breaks are looked for first.
//!
//! **By numbers.** Let *S* be the lowest number of an archived record of a later commit. Numbers follow commit order, so
//! exactly the records below *S* belong to commits up to *X*. Let *F* be the lowest number archived. If *S − F* records
//! below *S* are archived, none from *F* on is missing in any partition of any topic, those included that have no
//! object yet. This needs nothing but the archive, and holds only where all topics of the pipeline are archived together.
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

use crate::archive::{Archive, Topic};
use crate::fetch::{self, FetchError};
use crate::head::{self, Depth};

/// What Kafka knows of a pipeline.
#[derive(Clone, Debug, Default)]
pub struct Pipeline {
    /// How many partitions each topic has.
    pub partitions: BTreeMap<TopicName, i32>,
    /// Everything that committed before this is in Kafka.
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
    if is_dense(archive, all, cut).await? {
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

async fn is_dense(archive: &Archive, all: &[&Topic], cut: Lsn) -> Result<bool, FetchError> {
    let mut first: Option<u64> = None;
    let mut after: Option<u64> = None;
    let mut below = 0_u64;
    for topic in all {
        for segment in topic.segments.iter().filter(|segment| segment.extent.records > 0) {
            let Some((lowest, _)) = segment.extent.tw_seq else { return Ok(false) };
            first = Some(first.map_or(lowest, |first| first.min(lowest)));
            for (number, reach) in segment.chunks.iter().enumerate() {
                let extent = reach.extent;
                match extent.and_then(|extent| extent.commit_lsn.zip(extent.tw_seq)) {
                    Some(((_, high), _)) if high <= cut.0 => {
                        below += extent.map_or(0, |extent| extent.records);
                    }
                    Some(((low, _), (lowest, _))) if low > cut.0 => {
                        after = Some(after.map_or(lowest, |after| after.min(lowest)));
                    }
                    _ => {
                        let raw = fetch::one(archive, segment, number).await?;
                        for line in raw.split(|byte| *byte == b'\n').filter(|l| !l.is_empty()) {
                            let head = head::read(line, Depth::TwSeq).map_err(|source| {
                                FetchError::Foreign { key: segment.key.clone(), source }
                            })?;
                            let (Some(lsn), Some(seq)) = (head.commit_lsn, head.tw_seq) else {
                                return Ok(false);
                            };
                            let seq = seq.cast_unsigned();
                            if lsn.cast_unsigned() <= cut.0 {
                                below += 1;
                            } else {
                                after = Some(after.map_or(seq, |after| after.min(seq)));
                            }
                        }
                    }
                }
            }
        }
    }
    let (Some(first), Some(after)) = (first, after) else { return Ok(false) };
    let epoch = |seq| Seq::from_stored(seq).map(|seq| seq.epoch());
    Ok(epoch(first).is_some()
        && epoch(first) == epoch(after)
        && below == after.saturating_sub(first))
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
