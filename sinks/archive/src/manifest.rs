//! What an object holds, beside it: created once, and made again from the object when it is missing.

use serde::{Deserialize, Serialize};

use crate::chain::Link;
use crate::filter::Keys;
use crate::layout::{Layout, Place};
use crate::line::{self, BadLine, Origin};
use crate::segment::{self, BadSegment, Chunk};

/// Version of this form.
pub const FORMAT: u32 = 1;

/// The manifest of one object, as JSON under `meta/<topic>/manifest/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Key of the object.
    pub key: String,
    /// First position.
    pub start: i64,
    /// Position after the last record.
    pub next: i64,
    /// Folder of what follows, as far as it was known.
    pub next_dt: String,
    /// Bytes of the object.
    pub bytes: u64,
    /// Bytes of its lines.
    pub raw_bytes: u64,
    /// SHA-256 of the object, in hexadecimal.
    pub sha256: String,
    /// Who wrote it.
    pub writer: String,
    /// What its records say.
    #[serde(flatten)]
    pub extent: Extent,
    /// How many records of each `op_code`; `?` where it is not known.
    pub ops: Ops,
    /// Its chunks.
    pub chunks: Vec<ChunkEntry>,
}

/// How many records of each `op_code`.
pub type Ops = std::collections::BTreeMap<char, u64>;

/// One chunk, and what its records say: enough to fetch only chunks that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkEntry {
    /// Where it stands.
    #[serde(flatten)]
    pub chunk: Chunk,
    /// What its records say.
    #[serde(flatten)]
    pub extent: Extent,
}

/// How far records reach; ranges are lowest and highest, `None` where no record says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// How many there are.
    pub records: u64,
    /// Offsets.
    pub offset: Option<(i64, i64)>,
    /// Kafka timestamps in milliseconds.
    pub kafka_ts_ms: Option<(i64, i64)>,
    /// Commit LSNs.
    pub commit_lsn: Option<(u64, u64)>,
    /// Commit times in microseconds.
    pub commit_ts_us: Option<(i64, i64)>,
    /// Dense numbers of the pipeline.
    pub tw_seq: Option<(u64, u64)>,
}

/// What is learnt of a segment's records while they are written, or read again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Of all records.
    pub extent: Extent,
    /// How many of each `op_code`.
    pub ops: Ops,
    /// Of each chunk's records.
    pub chunks: Vec<Extent>,
    /// The keys of each chunk's records.
    pub keys: Keys,
}

impl Manifest {
    /// The manifest of the object at a place.
    pub fn new(
        layout: &Layout,
        place: Place,
        link: &Link,
        bytes: u64,
        chunks: &[Chunk],
        summary: &Summary,
    ) -> Self {
        let entry =
            |(chunk, extent): (&Chunk, &Extent)| ChunkEntry { chunk: *chunk, extent: *extent };
        Self {
            format: FORMAT,
            topic: layout.topic().to_string(),
            partition: layout.partition(),
            key: layout.object(place),
            start: place.start,
            next: link.next.start,
            next_dt: link.next.dt.to_string(),
            bytes,
            raw_bytes: link.raw_bytes,
            sha256: link.sha256.clone(),
            writer: link.writer.clone(),
            extent: summary.extent,
            ops: summary.ops.clone(),
            chunks: chunks.iter().zip(&summary.chunks).map(entry).collect(),
        }
    }
}

/// An object whose content is not what a writer of ours puts into it.
#[derive(Debug, thiserror::Error)]
pub enum BadObject {
    /// Not a whole segment.
    #[error("it is no whole segment")]
    Segment(#[from] BadSegment),
    /// A line that is none of ours.
    #[error("line {number} is none of ours")]
    Line {
        /// Which, from 1.
        number: u64,
        /// Why.
        source: BadLine,
    },
}

impl Summary {
    /// Takes one record; `begins_chunk` when it is the first of a chunk.
    pub fn on_record(
        &mut self,
        begins_chunk: bool,
        offset: i64,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        origin: &Origin,
    ) {
        self.keys.on_record(begins_chunk, key);
        if begins_chunk {
            self.chunks.push(Extent::default());
        }
        for extent in self.chunks.last_mut().into_iter().chain([&mut self.extent]) {
            extent.on_record(offset, timestamp_ms, origin);
        }
        *self.ops.entry(origin.op_code.map_or('?', char::from)).or_default() += 1;
    }

    /// Reads it, and the chunks, back from an object.
    pub fn of_object(object: &[u8]) -> Result<(Self, Vec<Chunk>), BadObject> {
        let chunks = segment::chunks(object)?;
        let mut summary = Self::default();
        for (number, chunk) in chunks.iter().enumerate() {
            let raw = segment::read_chunk(number, *chunk, chunk.of(object))?;
            for (at, line) in raw.split_inclusive(|byte| *byte == b'\n').enumerate() {
                let line = line.strip_suffix(b"\n").unwrap_or(line);
                let number = summary.extent.records + 1;
                let (_, record) =
                    line::read(line).map_err(|source| BadObject::Line { number, source })?;
                let origin = line::origin(&record);
                let (offset, timestamp_ms) = (record.offset, record.timestamp_ms);
                summary.on_record(at == 0, offset, timestamp_ms, record.key.as_deref(), &origin);
            }
        }
        Ok((summary, chunks))
    }
}

impl Extent {
    fn on_record(&mut self, offset: i64, timestamp_ms: i64, origin: &Origin) {
        self.records += 1;
        widen(&mut self.offset, Some(offset));
        widen(&mut self.kafka_ts_ms, Some(timestamp_ms));
        widen(&mut self.commit_lsn, origin.commit_lsn);
        widen(&mut self.commit_ts_us, origin.commit_ts_us);
        widen(&mut self.tw_seq, origin.tw_seq);
    }
}

fn widen<T: Ord + Copy>(range: &mut Option<(T, T)>, value: Option<T>) {
    if let Some(value) = value {
        let (low, high) = range.unwrap_or((value, value));
        *range = Some((low.min(value), high.max(value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::SegmentWriter;

    fn origin(op: u8, seq: u64) -> Origin {
        Origin { op_code: Some(op), tw_seq: Some(seq), ..Origin::default() }
    }

    #[test]
    fn a_summary_holds_lowest_and_highest_of_all_and_of_each_chunk() {
        let mut summary = Summary::default();
        summary.on_record(true, 5, 100, None, &origin(b'c', 9));
        summary.on_record(false, 6, 90, None, &origin(b'x', 10));
        summary.on_record(true, 7, 110, None, &Origin::default());
        assert_eq!(summary.extent.offset, Some((5, 7)));
        assert_eq!(summary.extent.kafka_ts_ms, Some((90, 110)));
        assert_eq!(summary.extent.tw_seq, Some((9, 10)));
        assert_eq!(summary.extent.commit_lsn, None);
        assert_eq!(summary.ops, [('?', 1), ('c', 1), ('x', 1)].into());
        let of_chunks: Vec<_> = summary
            .chunks
            .iter()
            .map(|chunk| (chunk.records, chunk.offset, chunk.tw_seq))
            .collect();
        assert_eq!(of_chunks, [(2, Some((5, 6)), Some((9, 10))), (1, Some((7, 7)), None)]);
    }

    #[test]
    fn what_is_read_back_from_an_object_is_what_was_learnt_when_it_was_written() {
        let mut segment = SegmentWriter::default();
        let mut summary = Summary::default();
        for offset in 0..3_000 {
            let record = tailwater_sinks_worker::SourceRecord {
                value: Some(format!("{{\"a\":\"{}\"}}", "x".repeat(1_000)).into()),
                ..tailwater_sinks_worker::testing::record(offset)
            };
            let mut line = Vec::new();
            let origin = line::write(0, &record, &mut line);
            let (key, at) = (record.key.as_deref(), record.timestamp_ms);
            summary.on_record(segment.is_at_border(), offset, at, key, &origin);
            segment.line(&line);
        }
        let segment = segment.finish();
        assert!(segment.chunks.len() > 2);
        assert_eq!(Summary::of_object(&segment.bytes).expect("reads"), (summary, segment.chunks));
        assert!(Summary::of_object(&segment.bytes[..segment.bytes.len() / 2]).is_err());
    }
}
