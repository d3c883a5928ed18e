//! What an object holds, beside it: created once, and made again from the object when it is missing.

use serde::{Deserialize, Serialize};

use crate::line::Origin;
use crate::segment::{Chunk, Segment};

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
    pub summary: Summary,
    /// Its chunks: compressed bytes, raw bytes, CRC-32.
    pub chunks: Vec<(u32, u32, u32)>,
}

/// What the records of a segment say together; ranges are lowest and highest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
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
    /// How many of each `op_code`.
    pub ops: std::collections::BTreeMap<char, u64>,
}

impl Summary {
    /// Takes one record.
    pub fn on_record(&mut self, offset: i64, timestamp_ms: i64, origin: &Origin) {
        self.records += 1;
        widen(&mut self.offset, Some(offset));
        widen(&mut self.kafka_ts_ms, Some(timestamp_ms));
        widen(&mut self.commit_lsn, origin.commit_lsn);
        widen(&mut self.commit_ts_us, origin.commit_ts_us);
        widen(&mut self.tw_seq, origin.tw_seq);
        *self.ops.entry(origin.op_code.map_or('?', char::from)).or_default() += 1;
    }
}

/// The chunks of a segment as a manifest lists them.
pub fn chunks(segment: &Segment) -> Vec<(u32, u32, u32)> {
    let entry = |chunk: &Chunk| (chunk.compressed_bytes, chunk.raw_bytes, chunk.crc32);
    segment.chunks.iter().map(entry).collect()
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

    #[test]
    fn a_summary_holds_lowest_and_highest() {
        let mut summary = Summary::default();
        let origin = |op, seq| Origin { op_code: Some(op), tw_seq: Some(seq), ..Origin::default() };
        summary.on_record(5, 100, &origin(b'c', 9));
        summary.on_record(6, 90, &origin(b'x', 10));
        summary.on_record(7, 110, &Origin::default());
        assert_eq!(summary.offset, Some((5, 7)));
        assert_eq!(summary.kafka_ts_ms, Some((90, 110)));
        assert_eq!(summary.tw_seq, Some((9, 10)));
        assert_eq!(summary.commit_lsn, None);
        assert_eq!(summary.ops, [('?', 1), ('c', 1), ('x', 1)].into());
    }
}
