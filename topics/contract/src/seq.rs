//! The dense number of every record the pipeline writes.

use std::fmt;

/// Bits of the counter. With 9 bits of epoch above it the whole stays below 2^53, the largest range in which
/// JSON readers that use doubles keep whole numbers exact.
const COUNT_BITS: u32 = 44;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
const EPOCH_MAX: u16 = (1 << (53 - COUNT_BITS)) - 1;

/// `epoch * 2^44 + n`. Every record written to Kafka takes the next one; an epoch begins at first start, at a
/// resync and when the counter is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(u64);

impl Seq {
    /// The `n`-th number of an epoch; `None` beyond 511 epochs or 2^44 - 1 numbers.
    pub fn new(epoch: u16, n: u64) -> Option<Self> {
        (epoch <= EPOCH_MAX && n <= COUNT_MAX).then(|| Self((u64::from(epoch) << COUNT_BITS) | n))
    }

    /// The number as stored.
    pub fn get(self) -> u64 {
        self.0
    }

    /// A stored number; `None` at 2^53 and above.
    pub fn from_stored(stored: u64) -> Option<Self> {
        (stored >> 53 == 0).then_some(Self(stored))
    }

    /// The epoch, from 0 to 511.
    pub fn epoch(self) -> u16 {
        (self.0 >> COUNT_BITS) as u16
    }

    /// The place within the epoch.
    pub fn n(self) -> u64 {
        self.0 & COUNT_MAX
    }

    /// The number after this one; `None` when the epoch is used up.
    pub fn next(self) -> Option<Self> {
        Self::new(self.epoch(), self.n() + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_reaches_two_to_the_fifty_third() {
        let last = Seq::new(EPOCH_MAX, COUNT_MAX).expect("in range");
        assert_eq!(last.get(), (1 << 53) - 1);
        assert_eq!(last.next(), None);
        assert_eq!(Seq::new(EPOCH_MAX + 1, 0), None);
        assert_eq!(Seq::from_stored(1 << 53), None);
    }

    #[test]
    fn an_epoch_begins_above_all_before_it() {
        let last = Seq::new(1, COUNT_MAX).expect("in range");
        let first = Seq::new(2, 0).expect("in range");
        assert!(last < first);
        assert_eq!((first.epoch(), first.n()), (2, 0));
        assert_eq!(first.next(), Seq::new(2, 1));
    }
}
