//! ```text
//!  ┌──────────────┬──────────────────┬─────────────┬────────────┐
//!  │ data (size)  │ Meta as JSON (n) │ n, 4 B, LE  │ "TWOBJ001" │
//!  └──────────────┴──────────────────┴─────────────┴────────────┘
//! ```
//! The description comes last because sums are known only after the data has passed. A reader needs
//! two small reads at the end of the file, and data offsets are file offsets.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::sums::Sums;

const MAGIC: &[u8; 8] = b"TWOBJ001";
const TRAILER_BYTES: u64 = 12;
/// A description is small: a key of at most 1 KiB, metadata of at most 2 KiB, some headers.
const META_BYTES_MAX: u64 = 1 << 20;

/// Everything about an object except its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// Object key; of a part, its upload's.
    pub(crate) key: String,
    /// Length of the data in bytes.
    pub(crate) size: u64,
    /// Without quotes.
    pub(crate) etag: String,
    /// Milliseconds since 1970.
    pub(crate) modified_ms: u64,
    #[serde(default)]
    pub(crate) sums: Sums,
    #[serde(default)]
    pub(crate) headers: Headers,
}

/// What the client said about an object and gets back with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Headers {
    pub(crate) content_type: Option<String>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) content_language: Option<String>,
    pub(crate) content_disposition: Option<String>,
    pub(crate) cache_control: Option<String>,
    /// `x-amz-meta-*`, without that prefix.
    pub(crate) user: BTreeMap<String, String>,
}

impl Meta {
    pub(crate) fn modified(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.modified_ms)
    }
}

/// Milliseconds since 1970, now.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Appends the description to a file that holds the data and nothing else.
pub(crate) fn write_meta(file: &mut File, meta: &Meta) -> io::Result<()> {
    let mut tail = serde_json::to_vec(meta)?;
    let length = u32::try_from(tail.len()).map_err(io::Error::other)?;
    tail.extend_from_slice(&length.to_le_bytes());
    tail.extend_from_slice(MAGIC);
    file.write_all(&tail)
}

/// Reads the description back. Errors when the file is not a whole object.
pub(crate) fn read_meta(file: &File) -> io::Result<Meta> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let length = file.metadata()?.len();
    let mut trailer = [0; TRAILER_BYTES as usize];
    let trailer_at = length.checked_sub(TRAILER_BYTES).ok_or_else(|| damaged("too short"))?;
    file.read_exact_at(&mut trailer, trailer_at)?;
    let (meta_bytes, magic) = trailer.split_at(4);
    if magic != MAGIC {
        return Err(damaged("does not end as an object does"));
    }
    let meta_bytes = meta_bytes.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
    let meta_at = trailer_at
        .checked_sub(meta_bytes)
        .filter(|_| meta_bytes <= META_BYTES_MAX)
        .ok_or_else(|| damaged("has a description of impossible length"))?;
    let mut json = vec![0; meta_bytes as usize];
    file.read_exact_at(&mut json, meta_at)?;
    let meta: Meta = serde_json::from_slice(&json)?;
    if meta.size != meta_at {
        return Err(damaged("holds another number of bytes than it says"));
    }
    Ok(meta)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(size: u64) -> Meta {
        Meta {
            key: "a/b".into(),
            size,
            etag: "e".into(),
            modified_ms: 1,
            sums: Sums::default(),
            headers: Headers {
                user: BTreeMap::from([("next".into(), "7".into())]),
                ..Headers::default()
            },
        }
    }

    fn scratch() -> (std::path::PathBuf, File) {
        let path = std::env::temp_dir().join(format!("tailwater-s3-{}", uuid::Uuid::new_v4()));
        let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        (path, file)
    }

    #[test]
    fn a_description_reads_back_from_behind_the_data() {
        let (path, mut file) = scratch();
        file.write_all(b"hello").unwrap();
        write_meta(&mut file, &meta(5)).unwrap();
        assert_eq!(read_meta(&file).unwrap(), meta(5));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn every_truncation_is_noticed() {
        let (path, mut file) = scratch();
        file.write_all(b"hello").unwrap();
        write_meta(&mut file, &meta(5)).unwrap();
        let length = file.metadata().unwrap().len();
        for cut in (0..length).rev() {
            file.set_len(cut).unwrap();
            assert!(read_meta(&file).is_err(), "cut to {cut} bytes");
        }
        std::fs::remove_file(path).unwrap();
    }
}
