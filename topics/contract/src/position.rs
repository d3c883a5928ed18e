//! The identity and total order of changes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Lsn;

/// Which change: the commit of its transaction, then its place inside.
///
/// `commit_lsn` is `BEGIN.final_lsn`, known before the first row. `ordinal` counts every decoded change of the
/// transaction from 0, before any filter of ours, so a second decoding gives the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Where the commit record of the transaction begins.
    pub commit_lsn: Lsn,
    /// Place in the transaction, from 0.
    pub ordinal: u64,
}

/// As in the header `tw-position`: `<commit_lsn in decimal>:<ordinal>`.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.commit_lsn.0, self.ordinal)
    }
}

/// A text that is no position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a position such as `97500747848:3`")]
pub struct NotAPosition(String);

impl FromStr for Position {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let parse = || {
            let (commit_lsn, ordinal) = text.split_once(':')?;
            Some(Self { commit_lsn: Lsn(commit_lsn.parse().ok()?), ordinal: ordinal.parse().ok()? })
        };
        parse().ok_or_else(|| NotAPosition(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_orders_by_commit_then_by_place() {
        let at = |commit_lsn, ordinal| Position { commit_lsn: Lsn(commit_lsn), ordinal };
        assert!(at(1, 9) < at(2, 0));
        assert!(at(2, 0) < at(2, 1));
        assert_eq!("2:1".parse(), Ok(at(2, 1)));
        assert_eq!(at(2, 1).to_string(), "2:1");
    }
}
