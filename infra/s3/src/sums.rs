use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::Checksum as _;
use s3s::{S3Result, s3_error};
use serde::{Deserialize, Serialize};

/// Checksums S3 knows, base64 of the big-endian digest. A composite one ends in `-<parts>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sums {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) crc32: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) crc32c: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) crc64nvme: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sha1: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sha256: Option<String>,
}

/// Names as in `x-amz-checksum-algorithm`, in the order of [`Sums::slots`].
pub(crate) const ALGORITHMS: [&str; 5] = ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"];

/// Moves the five checksum fields of any S3 structure into [`Sums`].
macro_rules! sums_of {
    ($from:expr) => {
        $crate::sums::Sums {
            crc32: $from.checksum_crc32.clone(),
            crc32c: $from.checksum_crc32c.clone(),
            crc64nvme: $from.checksum_crc64nvme.clone(),
            sha1: $from.checksum_sha1.clone(),
            sha256: $from.checksum_sha256.clone(),
        }
    };
}
/// Sets the five checksum fields of any S3 structure from [`Sums`].
macro_rules! set_sums {
    ($into:expr, $sums:expr) => {{
        $into.checksum_crc32 = $sums.crc32.clone();
        $into.checksum_crc32c = $sums.crc32c.clone();
        $into.checksum_crc64nvme = $sums.crc64nvme.clone();
        $into.checksum_sha1 = $sums.sha1.clone();
        $into.checksum_sha256 = $sums.sha256.clone();
    }};
}
pub(crate) use {set_sums, sums_of};

impl Sums {
    fn slots(&self) -> [&Option<String>; 5] {
        [&self.crc32, &self.crc32c, &self.crc64nvme, &self.sha1, &self.sha256]
    }

    /// The checksum of that algorithm, a name of [`ALGORITHMS`].
    pub(crate) fn get(&self, algorithm: &str) -> Option<&String> {
        let place = ALGORITHMS.iter().position(|name| *name == algorithm)?;
        self.slots()[place].as_ref()
    }

    pub(crate) fn set(&mut self, algorithm: &str, value: String) {
        match algorithm {
            "CRC32" => self.crc32 = Some(value),
            "CRC32C" => self.crc32c = Some(value),
            "CRC64NVME" => self.crc64nvme = Some(value),
            "SHA1" => self.sha1 = Some(value),
            "SHA256" => self.sha256 = Some(value),
            _ => {}
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots().iter().all(|slot| slot.is_none())
    }

    /// True when these are sums over the parts' sums rather than over the bytes.
    pub(crate) fn is_composite(&self) -> bool {
        self.slots().iter().any(|slot| slot.as_ref().is_some_and(|sum| sum.contains('-')))
    }

    /// Every sum in `declared` must be here and equal.
    pub(crate) fn verify(&self, declared: &Sums) -> S3Result<()> {
        for algorithm in ALGORITHMS {
            if let Some(expected) = declared.get(algorithm)
                && self.get(algorithm) != Some(expected)
            {
                return Err(s3_error!(
                    BadDigest,
                    "the {algorithm} you specified did not match the calculated checksum"
                ));
            }
        }
        Ok(())
    }

    /// A hasher for the given algorithms.
    pub(crate) fn hasher(algorithms: &[&str]) -> ChecksumHasher {
        let wants = |name: &str| algorithms.contains(&name);
        ChecksumHasher {
            crc32: wants("CRC32").then(s3s::crypto::Crc32::new),
            crc32c: wants("CRC32C").then(s3s::crypto::Crc32c::new),
            crc64nvme: wants("CRC64NVME").then(s3s::crypto::Crc64Nvme::new),
            sha1: wants("SHA1").then(s3s::crypto::Sha1::new),
            sha256: wants("SHA256").then(s3s::crypto::Sha256::new),
        }
    }

    pub(crate) fn finish(hasher: ChecksumHasher) -> Sums {
        let sums = hasher.finalize();
        sums_of!(sums)
    }

    /// The sum over the parts' sums; nothing when a part has none.
    pub(crate) fn composite<'a>(
        algorithm: &str,
        parts: impl ExactSizeIterator<Item = &'a Sums>,
    ) -> Option<Sums> {
        let count = parts.len();
        let mut hasher = Self::hasher(&[algorithm]);
        for part in parts {
            hasher.update(&BASE64.decode(part.get(algorithm)?).ok()?);
        }
        let whole = Self::finish(hasher);
        let mut sums = Sums::default();
        sums.set(algorithm, format!("{}-{count}", whole.get(algorithm)?));
        Some(sums)
    }
}

/// The MD5 of a whole body or of a list of digests.
pub(crate) fn hex(digest: &[u8]) -> String {
    use std::fmt::Write as _;
    digest.iter().fold(String::with_capacity(digest.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Inverse of [`hex`].
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

pub(crate) fn base64(digest: &[u8]) -> String {
    BASE64.encode(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(algorithms: &[&str], bytes: &[u8]) -> Sums {
        let mut hasher = Sums::hasher(algorithms);
        hasher.update(bytes);
        Sums::finish(hasher)
    }

    #[test]
    fn known_values_of_the_check_string() {
        let sums = sums(&ALGORITHMS, b"123456789");
        assert_eq!(sums.crc32.as_deref(), Some("y/Q5Jg=="));
        assert_eq!(sums.crc32c.as_deref(), Some("4waSgw=="));
        assert_eq!(sums.crc64nvme.as_deref(), Some("rosUhgp5mIg="));
    }

    #[test]
    fn a_declared_sum_that_was_not_computed_is_a_mismatch() {
        let declared = sums(&["SHA256"], b"x");
        assert!(Sums::default().verify(&declared).is_err());
        assert!(sums(&["SHA256"], b"y").verify(&declared).is_err());
        assert!(sums(&["SHA256"], b"x").verify(&declared).is_ok());
    }

    #[test]
    fn a_composite_needs_the_sum_of_every_part() {
        let (one, two) = (sums(&["CRC32C"], b"a"), Sums::default());
        assert!(Sums::composite("CRC32C", [&one, &two].into_iter()).is_none());
        let whole = Sums::composite("CRC32C", [&one, &one].into_iter()).unwrap();
        assert!(whole.is_composite() && whole.crc32c.unwrap().ends_with("-2"));
    }

    #[test]
    fn hex_goes_both_ways() {
        assert_eq!(unhex(&hex(&[0, 15, 255])), Some(vec![0, 15, 255]));
        assert_eq!(unhex("0g"), None);
        assert_eq!(unhex("éé"), None);
    }
}
