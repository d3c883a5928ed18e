//! Chunks out of the store, a few at a time, by several workers.
//!
//! ```text
//!  segments ──ranges──▶ key filters ──▶ pieces: runs of adjacent chunks, up to 4 MiB ──▶ a queue
//!                                              worker: fetch the next piece ∥ inflate, check, hand out this one's chunks
//! ```
//!
//! Whichever worker is free takes the next piece, so one large segment keeps all of them busy.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use libdeflater::Decompressor;
use tailwater_sinks_archive::segment::Chunk;
use tailwater_sinks_archive::{Store, StoreError};

use crate::archive::{self, Archive, Segment, Topic};
use crate::head::{self, Depth, NotOurs};
use crate::stats::Stats;
use crate::wanted::Wanted;

/// Compressed bytes that are fetched in one request: a request costs as much as half a MiB or so.
const PIECE_BYTES: u64 = 4 << 20;
/// Filters that may be under way at once.
const FILTERS: usize = 16;
/// An empty last block in place of what follows a chunk.
const END: [u8; 5] = [0x01, 0x00, 0x00, 0xFF, 0xFF];

/// A chunk that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The archive failed.
    #[error(transparent)]
    Archive(archive::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No such object.
    #[error("object `{0}` is missing; run `verify`")]
    Missing(String),
    /// The bytes are not those that were archived.
    #[error(
        "object `{key}` is damaged in chunk {number}; run `verify`, and put it back from a copy"
    )]
    Damaged {
        /// The object.
        key: String,
        /// The chunk.
        number: usize,
    },
    /// A line that no writer of ours made.
    #[error("object `{key}` holds a line that is none of an archive's")]
    Foreign {
        /// The object.
        key: String,
        /// Why.
        #[source]
        source: NotOurs,
    },
}

/// Adjacent chunks of one segment.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) segment: Arc<Segment>,
    /// First chunk.
    first: usize,
    /// How many.
    count: usize,
}

/// The lines of one chunk.
pub(crate) struct Raw {
    pub(crate) segment: Arc<Segment>,
    pub(crate) lines: Vec<u8>,
}

/// What must be fetched of a topic.
pub(crate) async fn pieces(
    archive: &Archive,
    topic: &Topic,
    wanted: &Wanted,
    stats: &Stats,
) -> Result<Vec<Piece>, FetchError> {
    let mut left = Vec::new();
    for segment in &topic.segments {
        Stats::add(&stats.segments, 1);
        Stats::add(&stats.chunks, segment.chunks.len() as u64);
        Stats::add(&stats.bytes, segment.bytes);
        if segment.chunks.is_empty() {
            continue;
        }
        match wanted.excludes_segment(segment) {
            Some(reason) => stats.pruned_by(reason),
            None => left.push(segment.clone()),
        }
    }
    let chunks = stream::iter(left).map(|segment| async move {
        let mut chunks: Vec<usize> = (0..segment.chunks.len()).collect();
        chunks.retain(|chunk| {
            let reason = segment.chunks[*chunk].extent.and_then(|extent| wanted.excludes(&extent));
            reason.inspect(|reason| stats.pruned_by(*reason)).is_none()
        });
        if let (Some(keys), false) = (&wanted.keys, chunks.is_empty())
            && let Some(filters) = archive.filters(&topic.name, &segment).await?
        {
            Stats::add(&stats.bytes_fetched, filters.bytes() as u64);
            let before = chunks.len();
            chunks.retain(|chunk| keys.iter().any(|key| filters.may_hold(*chunk, key)));
            if chunks.len() < before {
                stats.pruned_by(6);
            }
        }
        Ok::<_, FetchError>((segment, chunks))
    });
    let chosen: Vec<_> = chunks.buffered(FILTERS).try_collect().await?;
    let mut pieces: Vec<Piece> = Vec::new();
    for (segment, chunks) in chosen {
        Stats::add(&stats.segments_read, u64::from(!chunks.is_empty()));
        Stats::add(&stats.chunks_read, chunks.len() as u64);
        let mut open: Option<(Piece, u64)> = None;
        for chunk in chunks {
            let bytes = u64::from(segment.chunks[chunk].chunk.compressed_bytes);
            match &mut open {
                Some((piece, held))
                    if piece.first + piece.count == chunk && *held + bytes <= PIECE_BYTES =>
                {
                    piece.count += 1;
                    *held += bytes;
                }
                open => {
                    let next = Piece { segment: segment.clone(), first: chunk, count: 1 };
                    pieces.extend(open.replace((next, bytes)).map(|(piece, _)| piece));
                }
            }
        }
        pieces.extend(open.map(|(piece, _)| piece));
    }
    Ok(pieces)
}

/// What several workers share.
#[derive(Debug)]
pub(crate) struct Queue {
    store: Store,
    stats: Arc<Stats>,
    pieces: Mutex<VecDeque<Piece>>,
}

impl Queue {
    pub(crate) fn new(store: Store, stats: Arc<Stats>, pieces: Vec<Piece>) -> Self {
        Self { store, stats, pieces: Mutex::new(pieces.into()) }
    }

    fn take(&self) -> Option<Piece> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// One worker: chunks until the queue is empty, the next piece fetched while this one is worked on.
    pub(crate) fn chunks(self: Arc<Self>) -> impl Stream<Item = Result<Raw, FetchError>> + Send {
        let worker =
            Worker { queue: self, coming: None, current: None, inflater: Inflater::default() };
        stream::try_unfold(worker, |mut worker| async move {
            Ok(worker.next().await?.map(|raw| (raw, worker)))
        })
    }
}

struct Worker {
    queue: Arc<Queue>,
    coming: Option<SpawnedTask<Result<(Piece, Bytes), FetchError>>>,
    current: Option<(Piece, Bytes, usize)>,
    inflater: Inflater,
}

impl Worker {
    async fn next(&mut self) -> Result<Option<Raw>, FetchError> {
        loop {
            if let Some((piece, bytes, done)) = &mut self.current
                && *done < piece.count
            {
                let number = piece.first + *done;
                *done += 1;
                let segment = piece.segment.clone();
                let base = segment.chunks[piece.first].chunk.at;
                let chunk = segment.chunks[number].chunk;
                let from = (chunk.at - base) as usize;
                let compressed = bytes.get(from..from + chunk.compressed_bytes as usize);
                let lines = compressed.and_then(|bytes| self.inflater.inflate(chunk, bytes));
                let Some(lines) = lines else {
                    return Err(FetchError::Damaged { key: segment.key.clone(), number });
                };
                Stats::add(&self.queue.stats.bytes_decoded, lines.len() as u64);
                let lines = without_repeats(&segment, lines)?;
                return Ok(Some(Raw { segment, lines }));
            }
            let Some(coming) = self.coming.take().or_else(|| self.start()) else {
                return Ok(None);
            };
            let (piece, bytes) = coming
                .join_unwind()
                .await
                .unwrap_or_else(|_| unreachable!("only the drop of this worker ends the task"))?;
            self.current = Some((piece, bytes, 0));
            self.coming = self.start();
        }
    }

    fn start(&self) -> Option<SpawnedTask<Result<(Piece, Bytes), FetchError>>> {
        let piece = self.queue.take()?;
        let queue = self.queue.clone();
        Some(SpawnedTask::spawn(async move {
            let bytes = piece.fetch(&queue.store).await?;
            Stats::add(&queue.stats.bytes_fetched, bytes.len() as u64);
            Ok((piece, bytes))
        }))
    }
}

impl Piece {
    async fn fetch(&self, store: &Store) -> Result<Bytes, FetchError> {
        let chunks = &self.segment.chunks[self.first..self.first + self.count];
        let start = chunks.first().map_or(0, |reach| reach.chunk.at);
        let last = chunks.last().map(|reach| reach.chunk);
        let end = last.map_or(0, |chunk| chunk.at + u64::from(chunk.compressed_bytes));
        range(store, &self.segment.key, start..end).await
    }
}

async fn range(store: &Store, key: &str, range: Range<u64>) -> Result<Bytes, FetchError> {
    store.get_range(key, range).await?.ok_or_else(|| FetchError::Missing(key.to_owned()))
}

/// The lines of one chunk.
pub(crate) async fn one(
    archive: &Archive,
    segment: &Segment,
    number: usize,
) -> Result<Vec<u8>, FetchError> {
    let chunk = segment.chunks[number].chunk;
    let end = chunk.at + u64::from(chunk.compressed_bytes);
    let compressed = range(&archive.store, &segment.key, chunk.at..end).await?;
    let lines = Inflater::default()
        .inflate(chunk, &compressed)
        .ok_or_else(|| FetchError::Damaged { key: segment.key.clone(), number })?;
    without_repeats(segment, lines)
}

/// The lines of a chunk without those that stand in segments before its own.
fn without_repeats(segment: &Segment, mut lines: Vec<u8>) -> Result<Vec<u8>, FetchError> {
    if !segment.repeats() {
        return Ok(lines);
    }
    let mut repeated = 0;
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        let head = head::read(line.trim_ascii_end(), Depth::Offset)
            .map_err(|source| FetchError::Foreign { key: segment.key.clone(), source })?;
        if head.offset >= segment.begins {
            break;
        }
        repeated += line.len();
    }
    lines.drain(..repeated);
    Ok(lines)
}

/// Inflates whole chunks in memory.
struct Inflater {
    decompressor: Decompressor,
    input: Vec<u8>,
}

impl Default for Inflater {
    fn default() -> Self {
        Self { decompressor: Decompressor::new(), input: Vec::new() }
    }
}

impl Inflater {
    /// The lines of a chunk, or nothing when the bytes are not its own.
    fn inflate(&mut self, chunk: Chunk, compressed: &[u8]) -> Option<Vec<u8>> {
        self.input.clear();
        self.input.extend_from_slice(compressed);
        self.input.extend_from_slice(&END);
        let mut lines = vec![0; chunk.raw_bytes as usize];
        let length = self.decompressor.deflate_decompress(&self.input, &mut lines).ok()?;
        (length == lines.len() && crc32fast::hash(&lines) == chunk.crc32).then_some(lines)
    }
}

#[cfg(test)]
mod tests {
    use tailwater_sinks_archive::segment::SegmentWriter;

    use super::*;

    #[test]
    fn chunks_inflate_to_what_the_archive_itself_reads() {
        let mut writer = SegmentWriter::default();
        for number in 0..60_000_u32 {
            writer.line(format!("{{\"n\":{number},\"x\":\"{:x}\"}}\n", number ^ 0x5A5A).as_bytes());
        }
        let segment = writer.finish();
        assert!(segment.chunks.len() > 1);
        let mut inflater = Inflater::default();
        let mut whole = Vec::new();
        for chunk in &segment.chunks {
            whole.extend(inflater.inflate(*chunk, chunk.of(&segment.bytes)).expect("whole"));
        }
        assert_eq!(
            whole,
            tailwater_sinks_archive::segment::read_all(&segment.bytes).expect("gzip")
        );
        let chunk = segment.chunks[0];
        let mut damaged = chunk.of(&segment.bytes).to_vec();
        damaged[50] ^= 1;
        assert!(inflater.inflate(chunk, &damaged).is_none());
        assert!(inflater.inflate(chunk, &damaged[..40]).is_none());
    }
}
