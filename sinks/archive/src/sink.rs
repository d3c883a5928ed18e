//! The sink: lines into segments, segments into the chain.
//!
//! ```text
//!  open:   hint ──HEAD──▶ link ──HEAD──▶ link … 404: the head        (no hint: listing; nothing listed: origin)
//!  push:   record ──▶ line ──▶ segment writer                         (the record itself is not kept)
//!  flush:  create at the head ─┬─ created ──▶ manifest ──▶ `next`
//!                              ├─ taken ──▶ look ──▶ ours, turned or adopt
//!                              └─ unclear ──▶ look ──▶ as above, or fail and be called again
//! ```

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tailwater_runtime::{Classify, ErrorClass};
use tailwater_sinks_worker::{
    Committed, Flushed, Rejected, Resume, Sink, SinkError, SourceRecord, TopicPartition, Writer,
};
use tailwater_topics_contract::{ArchiveSpec, Origin, SegmentSpec};
use uuid::Uuid;

use crate::chain::{Claim, Create, Link, Verdict};
use crate::layout::{self, Day, Layout, Place};
use crate::manifest::{self, Manifest, Summary};
use crate::metrics;
use crate::segment::{Segment, SegmentWriter};
use crate::store::{Put, Store, StoreError};
use crate::{layout::NotADay, line};

const GZIP: &str = "application/gzip";

/// An archive in one bucket.
#[derive(Debug)]
pub struct ArchiveSink {
    store: Store,
    spec: ArchiveSpec,
    origins: Vec<Origin>,
    /// Names this process in the objects it writes.
    writer: String,
}

/// Why the archive cannot go on.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0} is not registered for this sink; run `tailwater apply`")]
    NotRegistered(TopicPartition),
    #[error("the registration of {partition} names no day")]
    Origin { partition: TopicPartition, source: NotADay },
    #[error(
        "object `{key}` does not lead on from its place; somebody else has written into the archive"
    )]
    Astray { key: String },
    #[error("the manifest of `{key}` could not be written")]
    Manifest { key: String, source: serde_json::Error },
}

impl From<Error> for SinkError {
    fn from(error: Error) -> Self {
        match &error {
            Error::Store(store) if store.class() == ErrorClass::Transient => Self::transient(error),
            _ => Self::definite(error),
        }
    }
}

impl ArchiveSink {
    /// An archive as declared. `origins` are where each partition begins, from the sink's registration.
    pub fn new(store: Store, spec: ArchiveSpec, origins: Vec<Origin>) -> Self {
        Self { store, spec, origins, writer: Uuid::new_v4().to_string() }
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
        Ok(Place { start: origin.offset, dt })
    }

    /// A place that is certainly a link's or the head: the rule of the chain allows no other to begin at.
    async fn known_place(
        &self,
        layout: &Layout,
        origin: Place,
        committed: Option<&Committed>,
    ) -> Result<Place, Error> {
        if let Some(hint) = committed.and_then(|committed| Place::parse(&committed.metadata))
            && self.store.link(&layout.object(hint)).await?.is_some()
        {
            return Ok(hint);
        }
        // No hint, or one that names nothing: whatever object stands last is a link.
        let listed = self.store.list(&layout.data()).await?;
        let places = listed.iter().filter_map(|object| layout::parse(&object.key));
        let ours = places.filter(|(partition, _)| *partition == layout.partition());
        Ok(ours.map(|(_, place)| place).max().unwrap_or(origin))
    }

    /// Walks the chain to its end; answers the last link's place and the head.
    async fn head(&self, layout: &Layout, known: Place) -> Result<(Place, Place), Error> {
        let (mut last, mut place) = (known, known);
        loop {
            let key = layout.object(place);
            match self.store.link(&key).await? {
                None => return Ok((last, place)),
                Some(link) if link.is_at(place) => (last, place) = (place, link.next),
                Some(_) => return Err(Error::Astray { key }),
            }
        }
    }
}

impl Sink for ArchiveSink {
    type Writer = ArchiveWriter;

    async fn open(
        &self,
        partition: &TopicPartition,
        committed: Option<&Committed>,
    ) -> Result<(ArchiveWriter, i64), SinkError> {
        let layout = Layout::new(&self.spec.prefix, partition.topic.clone(), partition.partition);
        let origin = self.origin(partition)?;
        let known = self.known_place(&layout, origin, committed).await?;
        let (last, head) = self.head(&layout, known).await?;
        tracing::debug!(%partition, %head, %last, "chain found");
        let writer = ArchiveWriter {
            store: self.store.clone(),
            layout,
            partition: partition.clone(),
            limits: self.spec.segment,
            writer: self.writer.clone(),
            last,
            head,
            batch: None,
            line: Vec::new(),
        };
        Ok((writer, head.start))
    }
}

/// Writes the chain of one partition.
#[derive(Debug)]
pub struct ArchiveWriter {
    store: Store,
    layout: Layout,
    partition: TopicPartition,
    limits: SegmentSpec,
    writer: String,
    /// The last link we know of, or where the first belongs.
    last: Place,
    /// Where the next link belongs, as far as we know.
    head: Place,
    batch: Option<Batch>,
    /// Memory for one line.
    line: Vec<u8>,
}

#[derive(Debug)]
struct Batch {
    content: Content,
    summary: Summary,
    first_dt: Day,
    last_dt: Day,
}

/// A segment is finished once and then kept until it is stored, so that every attempt sends the same bytes.
#[derive(Debug)]
enum Content {
    Open(Box<SegmentWriter>),
    Finished(Finished),
}

#[derive(Clone, Debug)]
struct Finished {
    bytes: Bytes,
    raw_bytes: u64,
    sha256: String,
    chunks: Vec<(u32, u32, u32)>,
}

impl Finished {
    fn new(segment: Segment) -> Self {
        let chunks = manifest::chunks(&segment);
        let sha256 = hex(&Sha256::digest(&segment.bytes));
        Self { bytes: segment.bytes.into(), raw_bytes: segment.raw_bytes, sha256, chunks }
    }
}

impl Writer for ArchiveWriter {
    fn push(&mut self, record: SourceRecord) -> Result<(), Rejected> {
        self.line.clear();
        let origin = line::write(self.partition.partition, &record, &mut self.line);
        let day = Day::of_ms(record.timestamp_ms);
        let batch = self.batch.get_or_insert_with(|| Batch {
            content: Content::Open(Box::default()),
            summary: Summary::default(),
            first_dt: day,
            last_dt: day,
        });
        batch.last_dt = batch.last_dt.max(day);
        batch.summary.on_record(record.offset, record.timestamp_ms, &origin);
        if let Content::Open(segment) = &mut batch.content {
            segment.line(&self.line);
        }
        Ok(())
    }

    fn buffered_bytes(&self) -> usize {
        self.batch.as_ref().map_or(0, |batch| match &batch.content {
            Content::Open(segment) => segment.memory(),
            Content::Finished(finished) => finished.bytes.len(),
        })
    }

    fn is_full(&self) -> bool {
        self.batch.as_ref().is_some_and(|batch| match &batch.content {
            Content::Open(segment) => {
                segment.compressed_bytes() as u64 >= self.limits.bytes
                    || batch.summary.records >= self.limits.records
                    || segment.is_full()
            }
            Content::Finished(_) => true,
        })
    }

    fn age_limit(&self) -> Duration {
        Duration::from_millis(self.limits.age_ms)
    }

    async fn flush(&mut self, next: i64) -> Result<Flushed, SinkError> {
        let Some(mut batch) = self.batch.take() else { return Ok(self.flushed(Resume::Continue)) };
        let finished = batch.finish();
        let claim = Claim { end: next, first_dt: batch.first_dt, last_dt: batch.last_dt };
        match self.claim(&claim, &batch.summary, &finished).await {
            Ok(resume) => Ok(self.flushed(resume)),
            Err(error) => {
                self.batch = Some(batch);
                Err(error.into())
            }
        }
    }
}

impl Batch {
    fn finish(&mut self) -> Finished {
        if let Content::Open(segment) = &mut self.content {
            let finished = Finished::new(std::mem::take(segment).finish());
            self.content = Content::Finished(finished);
        }
        match &self.content {
            Content::Finished(finished) => finished.clone(),
            Content::Open(_) => unreachable!("finished above"),
        }
    }
}

impl ArchiveWriter {
    /// What the group may commit: the head, and the last link as a hint of where to look for it.
    fn flushed(&self, resume: Resume) -> Flushed {
        Flushed {
            next: self.head.start,
            metadata: self.last.to_string(),
            resume,
            rejected: Vec::new(),
        }
    }

    /// Makes the claim a link of the chain, or finds that the chain has gone on without it.
    async fn claim(
        &mut self,
        claim: &Claim,
        summary: &Summary,
        finished: &Finished,
    ) -> Result<Resume, Error> {
        loop {
            let head = self.head;
            let (link, bytes) = match claim.at(head) {
                Create::Empty { next } => {
                    let empty = Finished::new(SegmentWriter::default().finish());
                    (self.link(next, 0, &empty.sha256), empty.bytes)
                }
                Create::Data { next } => {
                    (self.link(next, summary.records, &finished.sha256), finished.bytes.clone())
                }
            };
            let verdict = match self.create(head, &link, bytes).await? {
                None if link.records == 0 => Verdict::Turned { head: link.next },
                None => Verdict::Ours { head: link.next },
                Some(found) => claim.judge(head, &finished.sha256, &found),
            };
            match verdict {
                Verdict::Turned { head: next } => self.go_on(head, next),
                Verdict::Ours { head: next } => {
                    self.manifest(head, next, summary, finished).await?;
                    self.go_on(head, next);
                    return Ok(Resume::Continue);
                }
                Verdict::Adopt { head: next } => {
                    tracing::info!(partition = %self.partition, %head, %next, "another writer was here");
                    ::metrics::counter!(metrics::ADOPTED, "topic" => self.topic()).increment(1);
                    self.go_on(head, next);
                    return Ok(Resume::Seek);
                }
            }
        }
    }

    /// Creates a link; answers the one that was there instead, if its key was taken.
    async fn create(&self, place: Place, link: &Link, bytes: Bytes) -> Result<Option<Link>, Error> {
        let key = self.layout.object(place);
        let (began, size) = (Instant::now(), bytes.len());
        let found = match self.store.create(&key, bytes, link.to_metadata(), GZIP).await? {
            Put::Created => None,
            Put::Taken => self.store.link(&key).await?,
            // Stored without an answer, or not stored: an object that is there settles it, and without one the
            // worker calls again.
            Put::Unclear(error) => match self.store.link(&key).await? {
                Some(found) => Some(found),
                None => return Err(error.into()),
            },
        };
        match found {
            None => {
                ::metrics::counter!(metrics::OBJECTS, "topic" => self.topic()).increment(1);
                ::metrics::counter!(metrics::OBJECT_BYTES, "topic" => self.topic())
                    .increment(size as u64);
                ::metrics::histogram!(metrics::PUT_SECONDS, "topic" => self.topic())
                    .record(began.elapsed().as_secs_f64());
                Ok(None)
            }
            Some(found) if found.is_at(place) => Ok(Some(found)),
            Some(_) => Err(Error::Astray { key }),
        }
    }

    async fn manifest(
        &self,
        place: Place,
        next: Place,
        summary: &Summary,
        finished: &Finished,
    ) -> Result<(), Error> {
        let key = self.layout.object(place);
        let manifest = Manifest {
            format: manifest::FORMAT,
            topic: self.topic(),
            partition: self.partition.partition,
            key: key.clone(),
            start: place.start,
            next: next.start,
            next_dt: next.dt.to_string(),
            bytes: finished.bytes.len() as u64,
            raw_bytes: finished.raw_bytes,
            sha256: finished.sha256.clone(),
            writer: self.writer.clone(),
            summary: summary.clone(),
            chunks: finished.chunks.clone(),
        };
        let body =
            serde_json::to_vec(&manifest).map_err(|source| Error::Manifest { key, source })?;
        let key = self.layout.manifest(place);
        match self.store.create(&key, body.into(), HashMap::new(), "application/json").await? {
            // A rival with the same content has written the same.
            Put::Created | Put::Taken => Ok(()),
            // Called again, the object turns out to be ours, and the manifest is written then.
            Put::Unclear(error) => Err(error.into()),
        }
    }

    fn go_on(&mut self, last: Place, head: Place) {
        (self.last, self.head) = (last, head);
    }

    fn link(&self, next: Place, records: u64, sha256: &str) -> Link {
        Link { next, records, sha256: sha256.to_owned(), writer: self.writer.clone() }
    }

    fn topic(&self) -> String {
        self.partition.topic.to_string()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
