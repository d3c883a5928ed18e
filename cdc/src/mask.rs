//! Columns that do not go out as they are.
//!
//! A mask holds in every image of a row, and what it hides stands in no message of ours. It is looked for by name: a
//! masked column that is not there may have been renamed, so its relation is refused rather than written in the clear.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2_mac::Sha256;
use tailwater_runtime::Secret;

use crate::value::{self, BadText};

/// The pipeline's own key of `hmac` masks. Prints as nothing.
#[derive(Clone)]
pub struct MaskKey(Hmac<Sha256>);

impl MaskKey {
    /// Takes a key of any length; the configuration refuses short ones.
    pub fn new(secret: &Secret) -> Self {
        // HMAC takes keys of every length, so the empty one stands for a case that cannot be.
        let mac = Hmac::new_from_slice(secret.expose().as_bytes());
        Self(mac.unwrap_or_else(|_| Hmac::new(&hmac::digest::Key::<Hmac<Sha256>>::default())))
    }

    /// Appends the code of a value's text as a JSON string.
    pub fn write(&self, text: &[u8], out: &mut Vec<u8>) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut mac = self.0.clone();
        mac.update(text);
        out.push(b'"');
        for byte in mac.finalize().into_bytes() {
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        }
        out.push(b'"');
    }
}

impl fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MaskKey")
    }
}

/// Appends the first characters of a text as a JSON string.
///
/// # Errors
/// It is no UTF-8.
pub fn truncate(count: u32, text: &[u8], out: &mut Vec<u8>) -> Result<(), BadText> {
    let text = std::str::from_utf8(text).map_err(|_| BadText::NotUtf8)?;
    let end = text.char_indices().nth(count as usize).map_or(text.len(), |(at, _)| at);
    value::string(&text.as_bytes()[..end], out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_hmac_sha256() {
        // RFC 4231, test case 2.
        let mut out = Vec::new();
        let key = MaskKey::new(&Secret::new("Jefe"));
        key.write(b"what do ya want for nothing?", &mut out);
        let expected = "\"5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843\"";
        assert_eq!(out, expected.as_bytes());
        assert_eq!(format!("{key:?}"), "MaskKey", "a key does not print");
    }

    #[test]
    fn characters_are_counted_and_not_bytes() {
        for (count, expected) in [(0, "\"\""), (2, "\"ü\\\"\""), (9, "\"ü\\\"🦀\"")] {
            let mut out = Vec::new();
            truncate(count, "ü\"🦀".as_bytes(), &mut out).expect("UTF-8");
            assert_eq!(out, expected.as_bytes());
        }
    }
}
