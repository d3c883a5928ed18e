//! Which keys a segment's chunks may hold, so that a reader who looks for one key fetches only chunks that matter.
//!
//! ```text
//!  "TWKF" · version · number of chunks · crc32 of what follows
//!  per chunk: length in bytes, and a Bloom filter of its keys: 16 bits a key, 8 looks
//! ```
//!
//! * One filter a chunk, because a chunk is what is fetched. A key that is not there is suspected in one chunk of 1,700.
//! * Numbers are little-endian. The hash is part of the format: it must never change within a version.
//! * A filter is a hint beside the object: made from it, and made again when it is lost.

use bytes::Bytes;

const MAGIC: [u8; 4] = *b"TWKF";
const VERSION: u32 = 1;
/// More bits make fewer chunks be read for nothing and cost space: these are one percent of the object.
const BITS_PER_KEY: usize = 16;
const LOOKS: u64 = 8;

/// The keys of a segment while it is written: one set of hashes for each chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Filters of chunks that have ended.
    ended: Vec<Vec<u8>>,
    /// Hashes of the open chunk.
    open: Option<Vec<u64>>,
}

impl Keys {
    /// Takes the key of one record; `begins_chunk` when it is the first of a chunk.
    pub fn on_record(&mut self, begins_chunk: bool, key: Option<&[u8]>) {
        if begins_chunk && let Some(open) = self.open.take() {
            self.ended.push(bloom(open));
        }
        self.open.get_or_insert_default().extend(key.map(hash));
    }

    /// Memory in use.
    pub fn memory(&self) -> usize {
        let open = self.open.as_ref().map_or(0, |open| open.capacity() * 8);
        open + self.ended.iter().map(Vec::len).sum::<usize>()
    }

    /// The filters as stored.
    pub fn encode(&self) -> Bytes {
        let open = self.open.clone().map(bloom);
        let mut filters = Vec::new();
        let mut count = 0_u32;
        for filter in self.ended.iter().chain(&open) {
            filters.extend_from_slice(&(filter.len() as u32).to_le_bytes());
            filters.extend_from_slice(filter);
            count += 1;
        }
        let mut out = Vec::with_capacity(filters.len() + 16);
        out.extend_from_slice(&MAGIC);
        for word in [VERSION, count, crc32fast::hash(&filters)] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&filters);
        out.into()
    }
}

/// Bytes that are no filters of this version, or damaged ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the key filters of a segment, or damaged")]
pub struct BadFilter;

/// The filters of a segment's chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filters(Vec<Bytes>);

impl Filters {
    /// Reads what [`Keys::encode`] wrote.
    pub fn decode(bytes: &Bytes) -> Result<Self, BadFilter> {
        let word = |at: usize| -> Result<u32, BadFilter> {
            let word = bytes.get(at..at + 4).ok_or(BadFilter)?;
            Ok(u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        };
        let whole = bytes.starts_with(&MAGIC) && word(4)? == VERSION;
        if !whole || word(12)? != crc32fast::hash(bytes.get(16..).unwrap_or_default()) {
            return Err(BadFilter);
        }
        let mut filters = Vec::new();
        let mut at = 16;
        for _ in 0..word(8)? {
            let length = word(at)? as usize;
            let range = at + 4..at + 4 + length;
            if bytes.len() < range.end {
                return Err(BadFilter);
            }
            at = range.end;
            filters.push(bytes.slice(range));
        }
        if at == bytes.len() { Ok(Self(filters)) } else { Err(BadFilter) }
    }

    /// How many chunks there are.
    pub fn chunks(&self) -> usize {
        self.0.len()
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// Whether a chunk may hold a record with this key. `false` is certain.
    pub fn may_hold(&self, chunk: usize, key: &[u8]) -> bool {
        // A chunk without a filter is one we know nothing of.
        self.0.get(chunk).is_none_or(|filter| {
            places(hash(key), filter.len())
                .all(|(byte, bit)| filter.get(byte).is_some_and(|byte| byte & bit != 0))
        })
    }
}

fn bloom(mut hashes: Vec<u64>) -> Vec<u8> {
    hashes.sort_unstable();
    hashes.dedup();
    let mut filter = vec![0; hashes.len() * BITS_PER_KEY / 8];
    let length = filter.len();
    for hash in hashes {
        places(hash, length).for_each(|(byte, bit)| filter[byte] |= bit);
    }
    filter
}

/// Where a hash's bits stand. A filter of no keys has no bits, and one place that it does not hold.
fn places(hash: u64, length: usize) -> impl Iterator<Item = (usize, u8)> {
    let (start, step) = (hash & 0xFFFF_FFFF, (hash >> 32) | 1);
    let bits = (length as u64 * 8).max(1);
    (0..LOOKS).map(move |look| {
        let bit = (start + look * step) % bits;
        ((bit / 8) as usize, 1 << (bit % 8))
    })
}

/// FNV-1a, its bits mixed at the end as MurmurHash3 does.
fn hash(key: &[u8]) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    for byte in key {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Vec<u8> {
        format!("{{\"id\":{number}}}").into_bytes()
    }

    #[test]
    fn no_key_that_is_there_is_denied_and_few_are_suspected() {
        let mut keys = Keys::default();
        for number in 0..5_000 {
            keys.on_record(number % 1_000 == 0, Some(&key(number)));
        }
        let filters = Filters::decode(&keys.encode()).expect("reads");
        assert_eq!(filters.chunks(), 5);
        assert!((0..5_000).all(|number| filters.may_hold(number / 1_000, &key(number))));
        let suspected = (5_000..105_000).filter(|number| filters.may_hold(0, &key(*number)));
        let suspected = suspected.count();
        assert!(suspected < 120, "{suspected} of 100,000");
    }

    #[test]
    fn a_chunk_without_keys_holds_none_and_an_unknown_chunk_may_hold_any() {
        let mut keys = Keys::default();
        keys.on_record(true, None);
        let filters = Filters::decode(&keys.encode()).expect("reads");
        assert!(!filters.may_hold(0, b"x"));
        assert!(filters.may_hold(1, b"x"));
        assert_eq!(Filters::decode(&Keys::default().encode()).expect("reads").chunks(), 0);
    }

    #[test]
    fn the_hash_is_part_of_the_format() {
        assert_eq!(hash(b""), 0xEFD0_1F60_BA99_2926);
        assert_eq!(hash(b"{\"id\":1}"), 0x3E25_98CE_DA0D_C80E);
    }

    #[test]
    fn damage_is_seen() {
        let mut keys = Keys::default();
        (0..20).for_each(|number| keys.on_record(number % 7 == 0, Some(&key(number))));
        let whole = keys.encode();
        for at in 0..whole.len() {
            let mut damaged = whole.to_vec();
            damaged[at] ^= 0x04;
            assert_eq!(Filters::decode(&damaged.into()), Err(BadFilter), "byte {at}");
            assert_eq!(Filters::decode(&whole.slice(..at)), Err(BadFilter), "cut at {at}");
        }
    }
}
