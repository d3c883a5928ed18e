//! Lines as one gzip member that can be read from the middle.
//!
//! ```text
//!  gzip header, extra field `LK`: (compressed length, raw length, crc32) of each chunk
//!  chunk 0   DEFLATE blocks … full flush        byte aligned, refers to nothing before it
//!  chunk 1   …
//!  03 00     empty last block
//!  crc32, raw length
//! ```
//!
//! * One member, because some readers, Java's among them, silently stop after the first of several.
//! * A full flush about every MiB of lines costs half a percent and lets a reader begin at any chunk.
//! * No time, no name: the same lines give the same bytes.
//! * A compressor takes hundreds of KiB whatever it has seen, so the first lines wait for it as they are: a thousand open
//!   segments with a few lines each take what the lines take.
//!
//! Format: RFC 1951 and RFC 1952.

use std::io::Read;

use bytes::Bytes;
use flate2::read::{DeflateDecoder, GzDecoder};
use flate2::{Compress, Compression, FlushCompress};
use serde::{Deserialize, Serialize};

/// Raw bytes after which a chunk ends, at a line's end. Smaller costs size, larger costs reads that want little.
const CHUNK_BYTES: u64 = 1 << 20;
/// Level 3 of zlib-rs: half the time of level 6 for a twentieth more size.
const LEVEL: u32 = 3;
/// Bytes of one entry of the chunk index.
const ENTRY: usize = 12;
/// The extra field holds at most 65,535 bytes, of which 4 name it.
const CHUNKS_MAX: usize = (65_535 - 4) / ENTRY;
/// Fixed part of the header: magic, deflate, flag FEXTRA, no time, no hint, unknown system.
const HEADER: [u8; 10] = [0x1F, 0x8B, 8, 4, 0, 0, 0, 0, 0, 0xFF];
/// Bytes of the header with so many chunks.
const fn header_bytes(chunks: usize) -> usize {
    HEADER.len() + 6 + chunks * ENTRY
}
/// Room kept before the body for the header, so that a body of up to 80 chunks need not be moved when the header is known.
const HEADER_ROOM: usize = header_bytes(80);
/// Memory of the compressor: in KiB, its window takes 64, chains of equal hashes 64, their heads 128, pending output 64,
/// symbols up to 64 (zlib-rs 0.6, `DeflateAllocOffsets`).
const COMPRESSOR_BYTES: usize = 384 << 10;
/// Bytes of lines that wait until there is a compressor: as many as it takes.
const WAITING_MAX: usize = COMPRESSOR_BYTES;
/// They wait in blocks of one size, so that the memory of a segment that is gone suits the next one.
const BLOCK: usize = 16 << 10;

/// Where the compressor writes first. It does not write into the body itself: the room there would have to be filled
/// with zeros before each line.
const SCRATCH: usize = 16 << 10;
/// By so much the body grows at most. Doubling it for ever would hold as much again in room as in bytes; a large block is
/// moved by the kernel without being copied.
const GROWTH_MAX: usize = 1 << 20;

/// One chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Where it begins in the object.
    pub at: u64,
    /// Bytes in the object.
    pub compressed_bytes: u32,
    /// Bytes of lines.
    pub raw_bytes: u32,
    /// CRC-32 of the lines.
    pub crc32: u32,
}

impl Chunk {
    /// Its bytes in a whole object; none where the object ends before it.
    pub fn of<'o>(&self, object: &'o [u8]) -> &'o [u8] {
        let range = usize::try_from(self.at).ok().map(|at| at..at + self.compressed_bytes as usize);
        range.and_then(|range| object.get(range)).unwrap_or_default()
    }
}

/// A finished segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The object.
    pub bytes: Bytes,
    /// Its chunks.
    pub chunks: Vec<Chunk>,
    /// Bytes of lines.
    pub raw_bytes: u64,
}

/// Writes lines into a segment.
#[derive(Debug)]
pub struct SegmentWriter {
    /// Lines that are not compressed yet, in full blocks but for the last. None once there is a compressor.
    waiting: Vec<Vec<u8>>,
    deflater: Option<Deflater>,
    /// Room for the header, then the chunks.
    body: Vec<u8>,
    /// The chunks that have ended; `at` counts from the first of them.
    chunks: Vec<Chunk>,
    /// Where the open chunk begins in `body`.
    chunk_start: usize,
    chunk_raw: u64,
    chunk_crc: crc32fast::Hasher,
    raw_bytes: u64,
    crc: crc32fast::Hasher,
}

#[derive(Debug)]
struct Deflater {
    compressor: Compress,
    scratch: Box<[u8]>,
}

impl Default for SegmentWriter {
    fn default() -> Self {
        Self {
            waiting: Vec::new(),
            deflater: None,
            body: vec![0; HEADER_ROOM],
            chunks: Vec::new(),
            chunk_start: HEADER_ROOM,
            chunk_raw: 0,
            chunk_crc: crc32fast::Hasher::new(),
            raw_bytes: 0,
            crc: crc32fast::Hasher::new(),
        }
    }
}

impl SegmentWriter {
    /// Adds one whole line, its line break included.
    pub fn line(&mut self, line: &[u8]) {
        // All lines of a segment without a compressor wait, so what waits is what the chunk holds.
        if self.deflater.is_none() && self.chunk_raw as usize + line.len() <= WAITING_MAX {
            self.wait(line);
        } else {
            self.compress(line, FlushCompress::None);
        }
        self.chunk_raw += line.len() as u64;
        self.chunk_crc.update(line);
        if self.chunk_raw >= CHUNK_BYTES {
            self.end_chunk();
        }
    }

    /// Whether the next line begins a chunk.
    pub fn is_at_border(&self) -> bool {
        self.chunk_raw == 0
    }

    /// Bytes of the object so far. What waits for the compressor, or it still holds back, is not counted.
    pub fn compressed_bytes(&self) -> usize {
        self.body.len() - HEADER_ROOM
    }

    /// Memory in use.
    pub fn memory(&self) -> usize {
        let deflater = self.deflater.as_ref().map_or(0, |_| SCRATCH + COMPRESSOR_BYTES);
        self.waiting.len() * BLOCK + self.body.capacity() + deflater
    }

    /// Whether the index has no room for another chunk.
    pub fn is_full(&self) -> bool {
        self.chunks.len() + 1 >= CHUNKS_MAX
    }

    /// Ends the segment.
    pub fn finish(mut self) -> Segment {
        if self.chunk_raw > 0 {
            self.end_chunk();
        }
        self.body.extend_from_slice(&[0x03, 0x00]);
        self.body.extend_from_slice(&self.crc.finalize().to_le_bytes());
        self.body.extend_from_slice(&(self.raw_bytes as u32).to_le_bytes());

        let index_bytes = self.chunks.len() * ENTRY;
        let header_bytes = header_bytes(self.chunks.len());
        let mut header = Vec::with_capacity(header_bytes);
        header.extend_from_slice(&HEADER);
        // Both lengths fit: `is_full` holds the number of chunks down.
        header.extend_from_slice(&((index_bytes + 4) as u16).to_le_bytes());
        header.extend_from_slice(b"LK");
        header.extend_from_slice(&(index_bytes as u16).to_le_bytes());
        for chunk in &mut self.chunks {
            header.extend_from_slice(&chunk.compressed_bytes.to_le_bytes());
            header.extend_from_slice(&chunk.raw_bytes.to_le_bytes());
            header.extend_from_slice(&chunk.crc32.to_le_bytes());
            chunk.at += header_bytes as u64;
        }
        let start = HEADER_ROOM.saturating_sub(header_bytes);
        self.body.splice(start..HEADER_ROOM, header);
        let bytes = Bytes::from(self.body).slice(start..);
        Segment { bytes, chunks: self.chunks, raw_bytes: self.raw_bytes }
    }

    fn end_chunk(&mut self) {
        self.compress(&[], FlushCompress::Full);
        let crc = std::mem::take(&mut self.chunk_crc);
        self.crc.combine(&crc);
        self.chunks.push(Chunk {
            at: (self.chunk_start - HEADER_ROOM) as u64,
            compressed_bytes: (self.body.len() - self.chunk_start) as u32,
            raw_bytes: self.chunk_raw as u32,
            crc32: crc.finalize(),
        });
        self.raw_bytes += self.chunk_raw;
        self.chunk_start = self.body.len();
        self.chunk_raw = 0;
    }

    fn wait(&mut self, mut line: &[u8]) {
        while !line.is_empty() {
            if self.waiting.last().is_none_or(|block| block.len() == BLOCK) {
                self.waiting.push(Vec::with_capacity(BLOCK));
            }
            let Some(block) = self.waiting.last_mut() else { return };
            let (fits, rest) = line.split_at(line.len().min(BLOCK - block.len()));
            block.extend_from_slice(fits);
            line = rest;
        }
    }

    fn compress(&mut self, input: &[u8], flush: FlushCompress) {
        let deflater = self.deflater.get_or_insert_with(Deflater::default);
        for block in std::mem::take(&mut self.waiting) {
            deflater.compress(&block, FlushCompress::None, &mut self.body);
        }
        deflater.compress(input, flush, &mut self.body);
    }
}

impl Default for Deflater {
    fn default() -> Self {
        Self {
            compressor: Compress::new(Compression::new(LEVEL), false),
            scratch: vec![0; SCRATCH].into(),
        }
    }
}

impl Deflater {
    fn compress(&mut self, mut input: &[u8], flush: FlushCompress, body: &mut Vec<u8>) {
        loop {
            let (before, wrote) = (self.compressor.total_in(), self.compressor.total_out());
            // Raw deflate of bytes in memory has no way to fail short of misuse of the stream.
            let _ = self.compressor.compress(input, &mut self.scratch, flush);
            input = &input[(self.compressor.total_in() - before) as usize..];
            let wrote = (self.compressor.total_out() - wrote) as usize;
            if body.capacity() - body.len() < wrote {
                body.reserve_exact(body.len().clamp(SCRATCH, GROWTH_MAX));
            }
            body.extend_from_slice(&self.scratch[..wrote]);
            // A flush is complete when it leaves room unused (zlib manual, `deflate`).
            if input.is_empty() && wrote < self.scratch.len() {
                return;
            }
        }
    }
}

/// An object that is no segment, or is damaged.
#[derive(Debug, thiserror::Error)]
pub enum BadSegment {
    /// Not gzip, or the content does not match its checksum.
    #[error("not a whole gzip member")]
    Gzip(#[from] std::io::Error),
    /// Gzip, but without our index.
    #[error("no chunk index in the gzip header")]
    NoIndex,
    /// A chunk does not match the index.
    #[error("chunk {0} does not match its checksum")]
    Chunk(usize),
}

/// Bytes of an object that always hold its header.
pub const HEAD_BYTES: u64 = header_bytes(CHUNKS_MAX) as u64;

/// The chunks of a segment, from its first [`HEAD_BYTES`] or however many it has.
pub fn chunks(head: &[u8]) -> Result<Vec<Chunk>, BadSegment> {
    let parse = || {
        let (header, rest) = head.split_first_chunk::<10>()?;
        let (extra, rest) = rest.split_first_chunk::<2>()?;
        let (name, rest) = rest.split_first_chunk::<2>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (extra, length) = (u16::from_le_bytes(*extra), u16::from_le_bytes(*length));
        let index = rest.get(..usize::from(length))?;
        let ours = *header == HEADER && name == b"LK" && u32::from(extra) == u32::from(length) + 4;
        let (entries, rest) = index.as_chunks::<ENTRY>();
        (ours && rest.is_empty()).then_some(entries)
    };
    let entries = parse().ok_or(BadSegment::NoIndex)?;
    let mut at = header_bytes(entries.len()) as u64;
    let word = |entry: &[u8; ENTRY], place: usize| {
        u32::from_le_bytes([entry[place], entry[place + 1], entry[place + 2], entry[place + 3]])
    };
    let chunk = |entry: &[u8; ENTRY]| {
        let chunk = Chunk {
            at,
            compressed_bytes: word(entry, 0),
            raw_bytes: word(entry, 4),
            crc32: word(entry, 8),
        };
        at += u64::from(chunk.compressed_bytes);
        chunk
    };
    Ok(entries.iter().map(chunk).collect())
}

/// The lines of one chunk, from its bytes alone. `number` is only for the message.
pub fn read_chunk(number: usize, chunk: Chunk, compressed: &[u8]) -> Result<Vec<u8>, BadSegment> {
    // An empty last block in place of what follows.
    let whole = compressed.chain(&[0x01, 0x00, 0x00, 0xFF, 0xFF][..]);
    let mut raw = Vec::new();
    DeflateDecoder::new(whole).take(u64::from(chunk.raw_bytes) + 1).read_to_end(&mut raw)?;
    let matches = raw.len() == chunk.raw_bytes as usize && crc32fast::hash(&raw) == chunk.crc32;
    if matches { Ok(raw) } else { Err(BadSegment::Chunk(number)) }
}

/// All lines of a segment, checked against its checksum.
pub fn read_all(object: &[u8]) -> Result<Vec<u8>, BadSegment> {
    let mut raw = Vec::new();
    GzDecoder::new(object).read_to_end(&mut raw)?;
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(lines: &[Vec<u8>]) -> Segment {
        let mut writer = SegmentWriter::default();
        lines.iter().for_each(|line| writer.line(line));
        writer.finish()
    }

    #[test]
    fn every_chunk_reads_alone_and_together_they_are_the_whole() {
        let lines: Vec<Vec<u8>> = (0..40_000_u32)
            .map(|n| {
                format!("{{\"n\":{n},\"x\":\"{:x}\"}}\n", n.wrapping_mul(2_654_435_761))
                    .repeat(3)
                    .into_bytes()
            })
            .collect();
        let segment = written(&lines);
        assert!(segment.chunks.len() > 2, "{} chunks", segment.chunks.len());
        let whole = read_all(&segment.bytes).expect("gzip");
        assert_eq!(whole, lines.concat());
        let mut joined = Vec::new();
        let indexed = chunks(&segment.bytes).expect("indexed");
        assert_eq!(indexed, segment.chunks);
        for (number, chunk) in indexed.into_iter().enumerate() {
            let raw = read_chunk(number, chunk, chunk.of(&segment.bytes)).expect("reads alone");
            assert_eq!(raw.last(), Some(&b'\n'), "a chunk ends at a line's end");
            joined.extend(raw);
        }
        assert_eq!(joined, whole);
    }

    #[test]
    fn the_same_lines_give_the_same_bytes() {
        let lines = vec![b"{\"a\":1}\n".to_vec(); 1000];
        assert_eq!(written(&lines).bytes, written(&lines).bytes);
    }

    #[test]
    fn few_lines_take_little_memory_and_no_compressor() {
        let line = [b'x'; 1 << 10];
        let mut writer = SegmentWriter::default();
        writer.line(&line);
        assert!(writer.memory() < BLOCK + (4 << 10), "{}", writer.memory());
        let fit = WAITING_MAX / line.len();
        (1..fit).for_each(|_| writer.line(&line));
        assert_eq!(writer.compressed_bytes(), 0);
        assert!(writer.memory() < WAITING_MAX + (4 << 10), "{}", writer.memory());
        writer.line(&line);
        assert!(writer.memory() > COMPRESSOR_BYTES && writer.waiting.is_empty());
        assert_eq!(read_all(&writer.finish().bytes).expect("gzip"), line.repeat(fit + 1));
    }

    #[test]
    fn the_largest_index_fits_its_field() {
        let mut writer = SegmentWriter::default();
        let mut count = 0;
        while !writer.is_full() {
            writer.line(b"a line\n");
            writer.end_chunk();
            count += 1;
        }
        writer.line(b"one more, as the worker looks after the push\n");
        let segment = writer.finish();
        let indexed = chunks(&segment.bytes[..HEAD_BYTES as usize]).expect("indexed");
        assert_eq!(indexed.len(), count + 1);
        let last = indexed.last().expect("not empty");
        let raw = read_chunk(count, *last, last.of(&segment.bytes)).expect("reads alone");
        assert_eq!(raw, b"one more, as the worker looks after the push\n");
    }

    #[test]
    fn an_empty_segment_is_gzip_of_nothing() {
        let segment = written(&[]);
        assert_eq!(read_all(&segment.bytes).expect("gzip"), b"");
        assert!(chunks(&segment.bytes).expect("indexed").is_empty());
    }

    #[test]
    fn damage_is_seen() {
        let lines = b"some lines of text, long enough to be hit\n".repeat(50);
        let segment = written(std::slice::from_ref(&lines));
        let chunk = chunks(&segment.bytes).expect("indexed")[0];
        let start = usize::try_from(chunk.at).expect("small");
        let end = start + chunk.compressed_bytes as usize;
        for at in start..segment.bytes.len() {
            let mut damaged = segment.bytes.to_vec();
            damaged[at] ^= 0x10;
            // Padding bits between blocks may change; the lines may not.
            assert!(
                read_all(&damaged).is_err() || read_all(&damaged).is_ok_and(|raw| raw == lines)
            );
            let alone = read_chunk(0, chunk, &damaged[start..end]);
            assert!(alone.is_err() || alone.is_ok_and(|raw| raw == lines), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn any_lines_come_back(lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..3000), 0..40)) {
            prop_assert_eq!(read_all(&written(&lines).bytes).expect("gzip"), lines.concat());
        }

        #[test]
        fn any_bytes_are_an_index_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = chunks(&bytes);
        }
    }
}
