//! The sink: lines into segments, segments into the chain.
//!
//! ```text
//!  open:   the same topic? ──▶ hint ──▶ link ──▶ link … the head                         (no hint: listing; nothing listed: origin)
//!  push:   record ──▶ line ──▶ segment writer                         (the record itself is not kept)
//!  flush:  create at the head ──▶ what stands there now? ─┬─ our content ──▶ manifest ──▶ continue at `next`
//!                ▲                                        ├─ an empty link ──┐
//!                └────────────────────────────────────────┼──────────────────┘
//!                                                         └─ another's ──▶ the end of the chain ──▶ seek
//! ```
//!
//! **At least once.** Where a store cannot tell who was first, a batch goes under a key that nobody else has, beside whatever
//! others store, and nobody takes anything away. So nothing is lost, and rivals store some records twice. A writer begins
//! where everything before stands, and goes on where its last object ends: so in all objects together there is no hole.
//!
//! ```text
//!  open:   hint ──▶ objects that begin there or behind it ──▶ the end of what they cover without a hole
//!  flush:  put under a key by chance ──▶ manifest ──▶ continue at `next`
//! ```
//!
//! The batch is sealed once, so that every attempt sends the same bytes, and let go only when it is decided. A flush
//! that is cut off anywhere and called again, or never again, changes nothing.
//!
//! **Offsets without records.** Transaction markers and aborted records take offsets that no line shows. A link covers
//! them when they lie between its records or were passed before it was closed; those passed afterwards are covered by
//! the next link, which begins at the head whatever its first record is. No object is written for them alone. But the
//! group may commit an offset *beyond* the head, and then remembers the head along with it: [`Remembered`].
//!
//! Suppose the chain is found to end at head *h*, the group has committed *c > h*, and retention has deleted everything
//! below *c*. Were there records between *h* and *c*? The worker commits *c* only when every record below *c* is
//! stored, and when it did so the head was the one remembered beside *c*. If that was *h*, every stored record lies
//! below *h*, so between *h* and *c* there was none: the next link may cover the range, and nothing was lost. If it was
//! another one, links have vanished from the store since; then the records from *h* on are asked for again, and when
//! the topic no longer has them the partition stops. It stops as well when the topic begins beyond *c*: nobody can say
//! what was there.

use std::sync::Arc;
use std::time::Duration;

use tailwater_runtime::{Classify, ErrorClass, clock};
use tailwater_sinks_worker::source::Sources;
use tailwater_sinks_worker::{
    Committed, Flushed, Rejected, Resume, Sink, SinkError, SourceRecord, TopicPartition, Writer,
};
use tailwater_topics_contract::{ArchiveSpec, Guarantee, Origin, SegmentSpec};
use uuid::Uuid;

use crate::chain::{Claim, Create, Link, Verdict};
use crate::layout::{Day, Layout, NotADay, Place, Twin};
use crate::line;
use crate::links::{self, End, Links};
use crate::manifest::Summary;
use crate::metrics;
use crate::segment::{Segment, SegmentWriter};
use crate::store::{Objects, Store};
use crate::topic::{self, TopicError};

/// How far ahead of our clock a record's day is believed. Days never go back, so one record from the year 9999 would
/// otherwise put everything after it into that year.
const AHEAD_MAX_MS: i64 = 24 * 60 * 60 * 1000;

/// An archive in one bucket.
pub struct ArchiveSink<S = Store> {
    store: S,
    spec: ArchiveSpec,
    origins: Vec<Origin>,
    /// None where records do not come out of a topic.
    sources: Option<Arc<dyn Sources>>,
    /// Names this process in the objects it writes.
    writer: String,
}

/// Why the archive cannot go on.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Links(#[from] links::Error),
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error("{0} is not registered for this sink; run `tailwater apply`")]
    NotRegistered(TopicPartition),
    #[error("the archive of {partition} has gone on meanwhile; look at it again")]
    Moved { partition: TopicPartition },
    #[error("the registration of {partition} names no day")]
    Origin { partition: TopicPartition, source: NotADay },
}

impl From<Error> for SinkError {
    fn from(error: Error) -> Self {
        match &error {
            Error::Links(links) if links.class() == ErrorClass::Transient => Self::transient(error),
            Error::Topic(topic) if topic.class() == ErrorClass::Transient => Self::transient(error),
            Error::Moved { .. } => Self::transient(error),
            _ => Self::definite(error),
        }
    }
}

impl<S: Objects> ArchiveSink<S> {
    /// An archive as declared. `origins` are where each partition begins, from the sink's registration.
    pub fn new(store: S, spec: ArchiveSpec, origins: Vec<Origin>) -> Self {
        tailwater_runtime::describe(metrics::ALL);
        Self { store, spec, origins, sources: None, writer: Uuid::new_v4().to_string() }
    }

    /// The same, which goes on only with the topics that it was filled from.
    pub fn with_sources(self, sources: impl Sources) -> Self {
        Self { sources: Some(Arc::new(sources)), ..self }
    }

    /// Gives up every position from the head of a partition's chain to `to`, as a link of its own with the reason in
    /// it: for records that the topic lost before they were archived. Answers the first position given up; nothing
    /// when the chain has reached `to` already, whoever did that. `reason` is printable ASCII, as metadata must be.
    ///
    /// A worker that is running notices when it next writes, one that has stopped for the gap when it is started again.
    /// Called again it changes nothing.
    ///
    /// # Errors
    /// When the partition is not registered or the store fails.
    pub async fn record_gap(
        &self,
        partition: &TopicPartition,
        to: i64,
        reason: &str,
    ) -> Result<Option<i64>, SinkError> {
        let links = self.links(partition);
        let origin = self.origin(partition)?;
        let head = self.end(&links, origin, None).await?.head;
        let head = Place { twin: self.twin(), ..head };
        if to <= head.start {
            return Ok(None);
        }
        let empty = Open::default().seal();
        let link = empty.link(Place::new(to, head.dt), &self.writer);
        let bytes = empty.segment.bytes;
        let found = links.create_gap(head, link, reason, bytes).await.map_err(Error::from)?;
        if found.is_gap_at(head) && found.next.start == to {
            tracing::warn!(%partition, from = head.start, to, reason, "positions given up");
            return Ok(Some(head.start));
        }
        // A writer was at work, so the gap begins elsewhere or is none.
        Err(Error::Moved { partition: partition.clone() }.into())
    }

    fn links(&self, partition: &TopicPartition) -> Links<S> {
        let layout = Layout::new(&self.spec.prefix, partition.topic.clone(), partition.partition);
        Links { store: self.store.clone(), layout }
    }

    /// Where a partition's chain begins.
    fn origin(&self, partition: &TopicPartition) -> Result<Place, Error> {
        let origin = self
            .origins
            .iter()
            .find(|o| o.topic == partition.topic && o.partition == partition.partition)
            .ok_or_else(|| Error::NotRegistered(partition.clone()))?;
        let dt = origin
            .dt
            .parse()
            .map_err(|source| Error::Origin { partition: partition.clone(), source })?;
        Ok(Place::new(origin.offset, dt))
    }

    /// Where what is stored ends.
    async fn end(
        &self,
        links: &Links<S>,
        origin: Place,
        hint: Option<Place>,
    ) -> Result<End, Error> {
        Ok(match self.spec.guarantee {
            Guarantee::ExactlyOnce => links.find(origin, hint).await?,
            Guarantee::AtLeastOnce => links.covered(origin, hint).await?,
        })
    }

    /// What tells the next object from others at its place.
    fn twin(&self) -> Option<Twin> {
        (self.spec.guarantee == Guarantee::AtLeastOnce).then(|| Twin::of(Uuid::new_v4()))
    }
}

impl<S: Objects> Sink for ArchiveSink<S> {
    type Writer = ArchiveWriter<S>;

    async fn open(
        &self,
        partition: &TopicPartition,
        committed: Option<&Committed>,
    ) -> Result<(ArchiveWriter<S>, i64), SinkError> {
        let links = self.links(partition);
        let origin = self.origin(partition)?;
        if let Some(sources) = &self.sources {
            let now = sources.source(&partition.topic).await?;
            topic::remember(&self.store, &self.spec.prefix, &now).await.map_err(Error::from)?;
        }
        let remembered = committed.and_then(|committed| Remembered::parse(&committed.metadata));
        let hint = remembered.map(|remembered| remembered.last);
        let end = self.end(&links, origin, hint).await?;
        let beyond = committed.map(|committed| committed.offset).filter(|c| *c > end.head.start);
        let is_empty = remembered.and_then(|remembered| remembered.head) == Some(end.head.start);
        let next = beyond.filter(|_| is_empty).unwrap_or(end.head.start);
        tracing::debug!(%partition, head = %end.head, last = %end.last, next, "chain found");
        if let Some(committed) = beyond.filter(|_| !is_empty) {
            // What was committed once stood here, so somebody has taken objects away. As far as the topic still
            // holds their records, they are archived again.
            tracing::warn!(
                %partition, committed, head = %end.head,
                "the archive ends before what the group has committed; objects are missing"
            );
        }
        let writer = ArchiveWriter {
            links,
            partition: partition.clone(),
            limits: self.spec.segment,
            guarantee: self.spec.guarantee,
            writer: self.writer.clone(),
            end,
            next,
            batch: None,
            twin: None,
            line: Vec::new(),
        };
        Ok((writer, next))
    }
}

/// What the group remembers beside an offset: `2026-09-21/750000 head 761234`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Remembered {
    /// The last link there was: a hint of where to look for the head.
    last: Place,
    /// Where the head was.
    head: Option<i64>,
}

impl std::fmt::Display for Remembered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.last.fmt(f)?;
        self.head.map_or(Ok(()), |head| write!(f, " head {head}"))
    }
}

impl Remembered {
    /// Reads what `Display` prints; what only resembles it is nothing.
    fn parse(text: &str) -> Option<Self> {
        let (last, head) = match text.split_once(" head ") {
            Some((last, head)) => (last, Some(head.parse().ok()?)),
            None => (text, None),
        };
        Some(Self { last: Place::parse(last)?, head })
    }
}

/// Writes the chain of one partition.
#[derive(Debug)]
pub struct ArchiveWriter<S = Store> {
    links: Links<S>,
    partition: TopicPartition,
    limits: SegmentSpec,
    guarantee: Guarantee,
    writer: String,
    /// The end of the chain, as far as we know.
    end: End,
    /// No record below this is still to be stored: the head, or beyond it where there are none.
    next: i64,
    batch: Option<Batch>,
    /// Where several objects may stand at a place: which one the batch is to be while it ends at this position. A request
    /// that was given up may arrive yet, so under one key there is never anything else.
    twin: Option<(i64, Twin)>,
    /// Memory for one line.
    line: Vec<u8>,
}

#[derive(Debug)]
enum Batch {
    Open(Box<Open>),
    Sealed(Arc<Sealed>),
}

#[derive(Debug, Default)]
struct Open {
    segment: SegmentWriter,
    summary: Summary,
    /// Timestamp of the first record.
    first_ms: i64,
    /// When the day ends that its folder is of.
    day_end_ms: i64,
    /// Whether a record is of a later one. It is the only one, because the batch is full with it: what follows is in its
    /// own folder.
    is_of_two_days: bool,
}

#[derive(Debug)]
struct Sealed {
    segment: Segment,
    sha256: String,
    summary: Summary,
    first_ms: i64,
}

impl<S: Objects> Writer for ArchiveWriter<S> {
    fn push(&mut self, record: SourceRecord) -> Result<(), Rejected> {
        self.line.clear();
        let (offset, timestamp_ms) = (record.offset, record.timestamp_ms);
        let origin = line::write(self.partition.partition, &record, &mut self.line);
        let batch = self.batch.get_or_insert_with(|| {
            Batch::Open(Box::new(Open::begin(timestamp_ms, self.end.head.dt)))
        });
        match batch {
            Batch::Open(open) => {
                let begins_chunk = open.segment.is_at_border();
                let key = record.key.as_deref();
                open.summary.on_record(begins_chunk, offset, timestamp_ms, key, &origin);
                open.segment.line(&self.line);
                open.is_of_two_days |= open.is_of_a_later_day(timestamp_ms);
            }
            Batch::Sealed(_) => unreachable!("nothing is pushed between a flush and its repeat"),
        }
        Ok(())
    }

    fn buffered_bytes(&self) -> usize {
        match &self.batch {
            None => 0,
            Some(Batch::Open(open)) => open.segment.memory() + open.summary.keys.memory(),
            Some(Batch::Sealed(sealed)) => sealed.segment.bytes.len(),
        }
    }

    fn is_full(&self) -> bool {
        match &self.batch {
            None => false,
            Some(Batch::Open(open)) => {
                open.segment.compressed_bytes() as u64 >= self.limits.bytes
                    || open.summary.extent.records >= self.limits.records
                    || open.is_of_two_days
                    || open.segment.is_full()
            }
            Some(Batch::Sealed(_)) => true,
        }
    }

    fn age_limit(&self) -> Duration {
        Duration::from_millis(self.limits.age_ms)
    }

    fn idle_limit(&self) -> Option<Duration> {
        self.limits.idle_ms.map(Duration::from_millis)
    }

    async fn flush(&mut self, next: i64) -> Result<Flushed, SinkError> {
        let resume = match self.batch.as_mut().map(Batch::seal) {
            None => {
                self.next = self.next.max(next);
                Resume::Continue
            }
            Some(sealed) => {
                let stored = match self.guarantee {
                    Guarantee::ExactlyOnce => self.claim(&sealed, next).await,
                    Guarantee::AtLeastOnce => self.add(&sealed, next).await,
                };
                let resume = stored.map_err(Error::from)?;
                self.next = self.end.head.start;
                resume
            }
        };
        self.batch = None;
        self.twin = None;
        self.line = Vec::new();
        let remembered = Remembered { last: self.end.last, head: Some(self.end.head.start) };
        Ok(Flushed {
            next: self.next,
            metadata: remembered.to_string(),
            resume,
            rejected: Vec::new(),
        })
    }
}

impl Batch {
    fn seal(&mut self) -> Arc<Sealed> {
        let sealed = match self {
            Self::Open(open) => Arc::new(std::mem::take(&mut **open).seal()),
            Self::Sealed(sealed) => sealed.clone(),
        };
        *self = Self::Sealed(sealed.clone());
        sealed
    }
}

impl Open {
    /// What begins with a record, in a folder of its day or a later one.
    fn begin(first_ms: i64, dt: Day) -> Self {
        let day_end_ms = Day::of_ms(first_ms).max(dt).end_ms();
        Self { first_ms, day_end_ms, ..Self::default() }
    }

    fn is_of_a_later_day(&self, timestamp_ms: i64) -> bool {
        // Only then, because it asks for the time: one from the year 9999 is of tomorrow, as are those behind it.
        timestamp_ms >= self.day_end_ms
            && believed(timestamp_ms, clock::now_ms()).end_ms() > self.day_end_ms
    }

    fn seal(self) -> Sealed {
        let segment = self.segment.finish();
        let sha256 = links::sha256(&segment.bytes);
        let Self { summary, first_ms, .. } = self;
        Sealed { segment, sha256, summary, first_ms }
    }
}

impl Sealed {
    /// Its link, when `next` is the place of what follows.
    fn link(&self, next: Place, writer: &str) -> Link {
        Link {
            next,
            extent: self.summary.extent,
            raw_bytes: self.segment.raw_bytes,
            sha256: self.sha256.clone(),
            writer: writer.to_owned(),
        }
    }

    /// What the next link must hold, when `now_ms` is the time.
    fn claim(&self, end: i64, now_ms: i64) -> Claim {
        let day = |ms: i64| believed(ms, now_ms);
        let last_ms = self.summary.extent.kafka_ts_ms.map_or(self.first_ms, |(_, last)| last);
        Claim { end, first_dt: day(self.first_ms), last_dt: day(last_ms) }
    }
}

/// The day of a record, when `now_ms` is the time.
fn believed(timestamp_ms: i64, now_ms: i64) -> Day {
    Day::of_ms(timestamp_ms.min(now_ms.saturating_add(AHEAD_MAX_MS)))
}

impl<S: Objects> ArchiveWriter<S> {
    /// Stores the batch beside whatever others store.
    async fn add(&mut self, sealed: &Sealed, end: i64) -> Result<Resume, links::Error> {
        let Claim { first_dt, last_dt, .. } = sealed.claim(end, clock::now_ms());
        let kept = self.twin.filter(|(of, _)| *of == end);
        let (_, twin) = *self.twin.insert(kept.unwrap_or_else(|| (end, Twin::of(Uuid::new_v4()))));
        let at = Place { start: self.end.head.start, dt: first_dt, twin: Some(twin) };
        let next = Place::new(end, first_dt.max(last_dt));
        let standing = self.create(at, next, sealed).await?;
        let Sealed { segment, summary, .. } = sealed;
        let bytes = segment.bytes.len();
        self.links.write_manifest(at, &standing, bytes, &segment.chunks, summary).await?;
        self.end = End { last: at, head: next };
        Ok(Resume::Continue)
    }

    /// Makes the batch a link of the chain, or finds that the chain has gone on without it.
    async fn claim(&mut self, sealed: &Sealed, end: i64) -> Result<Resume, links::Error> {
        let claim = sealed.claim(end, clock::now_ms());
        loop {
            let head = self.end.head;
            let standing = match claim.at(head) {
                Create::Empty { next } => self.create(head, next, &Open::default().seal()).await?,
                Create::Data { next } => self.create(head, next, sealed).await?,
            };
            match claim.judge(head, &sealed.sha256, &standing) {
                Verdict::Turned { head: next } => self.end = End { last: head, head: next },
                Verdict::Ours { head: next } => {
                    let Sealed { segment, summary, .. } = sealed;
                    let bytes = segment.bytes.len();
                    self.links
                        .write_manifest(head, &standing, bytes, &segment.chunks, summary)
                        .await?;
                    self.end = End { last: head, head: next };
                    return Ok(Resume::Continue);
                }
                Verdict::Adopt { .. } => {
                    self.end = self.links.walk(head).await?;
                    tracing::info!(
                        partition = %self.partition, %head, next = %self.end.head, writer = standing.writer,
                        "another writer was here"
                    );
                    ::metrics::counter!(metrics::ADOPTED, "topic" => self.partition.topic.to_string())
                        .increment(1);
                    return Ok(Resume::Seek);
                }
            }
        }
    }

    async fn create(&self, at: Place, next: Place, content: &Sealed) -> Result<Link, links::Error> {
        let link = content.link(next, &self.writer);
        self.links.create(at, link, content.segment.bytes.clone()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_group_remembers_is_read_back() {
        let last = Place::new(7, Day::of_ms(0));
        for (head, text) in [(None, "1970-01-01/7"), (Some(12), "1970-01-01/7 head 12")] {
            let remembered = Remembered { last, head };
            assert_eq!(remembered.to_string(), text);
            assert_eq!(Remembered::parse(text), Some(remembered));
        }
        for text in ["", "nonsense", "1970-01-01/7 head x", "1970-01-01/7 head 12 "] {
            assert_eq!(Remembered::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_timestamp_from_the_far_future_moves_the_day_by_one_at_most() {
        let day_ms = AHEAD_MAX_MS;
        let sealed = |first_ms| Open { first_ms, ..Open::default() }.seal();
        let claim = sealed(253_402_300_000_000).claim(1, 20 * day_ms + 5);
        assert_eq!(claim.first_dt, Day::of_ms(21 * day_ms));
        let claim = sealed(3 * day_ms).claim(1, 20 * day_ms);
        assert_eq!((claim.first_dt, claim.last_dt), (Day::of_ms(3 * day_ms), claim.first_dt));
    }
}
