//! What is done to a column before it leaves the reader.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How a column is kept from Kafka. It holds in every image of a row; a column of the key cannot be masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Mask {
    /// The column is left out.
    Drop,
    /// HMAC-SHA256 of the value's text under the pipeline's own key, as 64 hexadecimal digits. Equal values stay
    /// equal, in every table.
    Hmac,
    /// The first characters of a text, as many as said.
    Truncate(u32),
}

/// A text that names no mask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected `drop`, `hmac` or `truncate(<characters>)`")]
pub struct NotAMask;

impl FromStr for Mask {
    type Err = NotAMask;

    fn from_str(text: &str) -> Result<Self, NotAMask> {
        match text {
            "drop" => Ok(Self::Drop),
            "hmac" => Ok(Self::Hmac),
            _ => {
                let count = text.strip_prefix("truncate(").and_then(|rest| rest.strip_suffix(')'));
                let count = count.and_then(|count| count.trim().parse().ok()).ok_or(NotAMask)?;
                Ok(Self::Truncate(count))
            }
        }
    }
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop => f.write_str("drop"),
            Self::Hmac => f.write_str("hmac"),
            Self::Truncate(count) => write!(f, "truncate({count})"),
        }
    }
}

impl From<Mask> for String {
    fn from(mask: Mask) -> Self {
        mask.to_string()
    }
}

impl TryFrom<String> for Mask {
    type Error = NotAMask;

    fn try_from(text: String) -> Result<Self, NotAMask> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_reads_as_it_prints_and_anything_else_is_refused() {
        for mask in [Mask::Drop, Mask::Hmac, Mask::Truncate(0), Mask::Truncate(12)] {
            assert_eq!(mask.to_string().parse(), Ok(mask));
        }
        for text in ["", "hash", "truncate", "truncate()", "truncate(-1)", "truncate(x)", "DROP"] {
            assert_eq!(text.parse::<Mask>(), Err(NotAMask), "{text}");
        }
    }
}
