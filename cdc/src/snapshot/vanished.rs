//! Keys that a topic holds and a table does not hold any more (pure, but for what it reads).
//!
//! ```text
//!  records before the copy ── alive: key in, delete: key out ──┐
//!  records of the copy ────── key out ─────────────────────────┴─▶ what is left has vanished ──▶ deletes
//! ```
//!
//! * The topic itself says which keys its consumers know; no other memory of them is needed. The table's changes wait
//!   while it is read, so nothing is written to it meanwhile but what comes out of here.
//! * **Memory is bounded by reading more than once.** A partition is read alone, and of each key 16 bytes are kept. When
//!   they become too many, half of them, told by their last bit, are left to another reading; and so on. No disk is
//!   needed and no key is sorted.
//! * A key is known by 128 bits of two hashes under random keys. That two of a thousand million keys share them, and one
//!   vanished key stays, has a chance of 10^-21.
//! * What retention or compaction has taken out of the topic is not known to it. Of a compacted topic that is nothing
//!   that counts; of one with retention it is every key that was last written before.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

use serde::Deserialize;
use tailwater_topics_contract::TopicName;

use crate::publish;
use crate::publish::past::{Extent, Past};

/// The search for vanished keys in one topic.
pub(crate) struct Vanished {
    topic: TopicName,
    /// Partitions that have not been read, each with its extent and where the copy begins in it.
    partitions: VecDeque<(i32, Extent, i64)>,
    hashes: (RandomState, RandomState),
    keys_max: usize,
    reading: Option<Reading>,
}

/// The partition at hand.
struct Reading {
    partition: i32,
    extent: Extent,
    copied_from: i64,
    alive: Alive,
    /// Keys are known by their hashes; a second reading finds what they are.
    is_second: bool,
    /// What other readings of the partition have to look at.
    shares: Vec<Share>,
}

/// Keys whose hashes have these last bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    bits: u128,
    mask: u128,
}

/// Keys that are alive in the topic and did not come with the copy.
struct Alive {
    share: Share,
    keys: HashSet<u128>,
}

impl Vanished {
    /// A search in partitions as they end now; `copied_from` are their ends when the copy began. At most `keys_max` keys
    /// are held at a time.
    pub(crate) fn new(
        topic: TopicName,
        extents: Vec<Extent>,
        copied_from: &[i64],
        keys_max: usize,
    ) -> Self {
        let with_copy = extents.into_iter().zip(0..).map(|(extent, partition)| {
            let from = copied_from.get(partition as usize).copied().unwrap_or(extent.first);
            (partition, extent, from)
        });
        // Nothing from before, so nothing to vanish.
        let partitions = with_copy.filter(|(_, extent, from)| extent.first < *from).collect();
        let hashes = (RandomState::new(), RandomState::new());
        Self { topic, partitions, hashes, keys_max: keys_max.max(1), reading: None }
    }

    /// Reads on for a moment. Answers vanished keys, each once; `None` when there are no more.
    pub(crate) fn next(
        &mut self,
        past: &mut dyn Past,
    ) -> Result<Option<Vec<Vec<u8>>>, publish::Error> {
        let Some(mut reading) = self.reading.take() else {
            let Some((partition, extent, copied_from)) = self.partitions.pop_front() else {
                return Ok(None);
            };
            let alive = Alive::of(Share::ALL);
            let (is_second, shares) = (false, Vec::new());
            past.begin(&self.topic, partition, extent)?;
            let begun = Reading { partition, extent, copied_from, alive, is_second, shares };
            self.reading = Some(begun);
            return Ok(Some(Vec::new()));
        };
        let mut vanished = Vec::new();
        let is_more = past.read(&mut |record| {
            let Some(key) = record.key else { return };
            let hash = hash(&self.hashes, key);
            if reading.is_second {
                if reading.alive.keys.remove(&hash) {
                    vanished.push(key.to_vec());
                }
            } else {
                let is_copied = record.offset >= reading.copied_from;
                reading.alive.on_record(hash, record.value, is_copied);
                reading.alive.split(self.keys_max, &mut reading.shares);
            }
        })?;
        if (is_more && !(reading.is_second && reading.alive.keys.is_empty()))
            || self.again(&mut reading, past)?
        {
            self.reading = Some(reading);
        }
        Ok(Some(vanished))
    }

    /// Begins the next reading of the same partition; `false` when there is none.
    fn again(&self, reading: &mut Reading, past: &mut dyn Past) -> Result<bool, publish::Error> {
        let Reading { partition, extent, copied_from, .. } = *reading;
        if !reading.is_second && !reading.alive.keys.is_empty() {
            reading.is_second = true;
            past.begin(&self.topic, partition, Extent { next: copied_from, ..extent })?;
            return Ok(true);
        }
        let Some(share) = reading.shares.pop() else { return Ok(false) };
        reading.is_second = false;
        reading.alive = Alive::of(share);
        past.begin(&self.topic, partition, extent)?;
        Ok(true)
    }
}

impl Share {
    const ALL: Self = Self { bits: 0, mask: 0 };

    fn has(self, hash: u128) -> bool {
        hash & self.mask == self.bits
    }

    /// Two halves by one bit more.
    fn halves(self) -> (Self, Self) {
        let bit = self.mask + 1;
        let mask = self.mask | bit;
        (Self { bits: self.bits, mask }, Self { bits: self.bits | bit, mask })
    }
}

impl Alive {
    fn of(share: Share) -> Self {
        Self { share, keys: HashSet::new() }
    }

    fn on_record(&mut self, hash: u128, value: Option<&[u8]>, is_copied: bool) {
        match value.map_or(Op::Gone, op) {
            // Whatever came before is gone, whichever key it had.
            Op::Truncate if !is_copied => self.keys.clear(),
            Op::Alive if !is_copied => {
                if self.share.has(hash) {
                    self.keys.insert(hash);
                }
            }
            Op::Alive | Op::Gone | Op::Truncate => {
                self.keys.remove(&hash);
            }
        }
    }

    /// Leaves what is too much to other readings.
    fn split(&mut self, keys_max: usize, others: &mut Vec<Share>) {
        while self.keys.len() > keys_max {
            let (mine, other) = self.share.halves();
            self.share = mine;
            others.push(other);
            self.keys.retain(|hash| mine.has(*hash));
        }
    }
}

/// What a record does to its key.
enum Op {
    Alive,
    Gone,
    Truncate,
}

fn op(value: &[u8]) -> Op {
    #[derive(Deserialize)]
    struct Change<'a> {
        op: &'a str,
    }
    match serde_json::from_slice(value) {
        Ok(Change { op: "d" }) => Op::Gone,
        Ok(Change { op: "t" }) => Op::Truncate,
        _ => Op::Alive,
    }
}

fn hash((low, high): &(RandomState, RandomState), key: &[u8]) -> u128 {
    u128::from(high.hash_one(key)) << 64 | u128::from(low.hash_one(key))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::publish::past::PastRecord;

    /// A topic with one partition, of which a few records are read at a time.
    #[derive(Debug)]
    struct Log {
        records: Vec<(Vec<u8>, Option<Vec<u8>>)>,
        at: usize,
        end: usize,
        readings: usize,
    }

    impl Past for Log {
        fn extents(&mut self, _: &TopicName) -> Result<Vec<Extent>, publish::Error> {
            Ok(vec![Extent { first: 0, next: self.records.len() as i64 }])
        }

        fn begin(&mut self, _: &TopicName, _: i32, extent: Extent) -> Result<(), publish::Error> {
            (self.at, self.end) = (extent.first as usize, extent.next as usize);
            self.readings += 1;
            Ok(())
        }

        fn read(&mut self, on: &mut dyn FnMut(PastRecord<'_>)) -> Result<bool, publish::Error> {
            let end = (self.at + 3).min(self.end);
            for (at, (key, value)) in self.records.iter().enumerate().take(end).skip(self.at) {
                let (key, value) = (Some(key.as_slice()), value.as_deref());
                on(PastRecord { offset: at as i64, key, value });
            }
            self.at = end;
            Ok(self.at < self.end)
        }
    }

    fn search(records: Vec<(u8, &str)>, copied_from: usize, keys_max: usize) -> (Vec<u8>, usize) {
        let value =
            |op: &str| (op != "-").then(|| format!(r#"{{"x":1,"op":"{op}"}}"#).into_bytes());
        let records = records.into_iter().map(|(key, op)| (vec![key], value(op))).collect();
        let mut log = Log { records, at: 0, end: 0, readings: 0 };
        let topic: TopicName = "t".parse().expect("a name");
        let extents = log.extents(&topic).expect("no fault");
        let mut search = Vanished::new(topic, extents, &[copied_from as i64], keys_max);
        let mut found = Vec::new();
        while let Some(keys) = search.next(&mut log).expect("no fault") {
            found.extend(keys.into_iter().map(|key| key[0]));
        }
        (found, log.readings)
    }

    #[test]
    fn a_key_that_the_copy_did_not_bring_has_vanished() {
        let records = vec![(1, "c"), (2, "u"), (3, "c"), (3, "d"), (3, "-"), (4, "r"), (2, "r")];
        assert_eq!(search(records, 6, 100), (vec![1, 4], 2));
    }

    #[test]
    fn what_was_truncated_or_never_there_has_not_vanished() {
        assert_eq!(search(vec![(1, "c"), (9, "t"), (2, "c"), (2, "r")], 3, 100), (vec![], 1));
        assert_eq!(search(vec![(1, "r"), (2, "r")], 0, 100), (vec![], 0), "nothing was before");
    }

    proptest! {
        #[test]
        fn in_any_amount_of_memory_the_same_keys_have_vanished(
            before in proptest::collection::vec((0_u8..40, 0_usize..12), 0..120),
            brought in proptest::collection::btree_set(0_u8..40, 0..40),
            keys_max in 1_usize..50,
        ) {
            let ops = ["c", "c", "c", "c", "c", "u", "r", "r", "d", "d", "-", "t"];
            let before: Vec<(u8, &str)> =
                before.into_iter().map(|(key, op)| (key, ops[op])).collect();
            let mut alive = BTreeSet::new();
            for (key, op) in &before {
                match *op {
                    "t" => alive.clear(),
                    "d" | "-" => { alive.remove(key); }
                    _ => { alive.insert(*key); }
                }
            }
            let expected: Vec<u8> = alive.difference(&brought).copied().collect();
            let copied_from = before.len();
            let records = before.into_iter().chain(brought.iter().map(|key| (*key, "r"))).collect();
            let (mut found, _) = search(records, copied_from, keys_max);
            found.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }
}
