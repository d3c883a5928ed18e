//! Offsets on their way to the group (pure).
//!
//! ```text
//!  wish ──▶ wanted ──send──▶ under way ──confirmed──▶ gone
//!              ▲                 │ failed
//!              └─────────────────┘ and sent again after a pause
//! ```
//!
//! Only the newest offset of a partition counts, and one request is under way at a time. What the broker has not
//! confirmed stays wanted, so a drain knows what is left to commit.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::sink::TopicPartition;

/// Pause after a failed commit.
const AGAIN: Duration = Duration::from_secs(1);
/// Offset and metadata of each partition.
pub(crate) type Offsets = BTreeMap<TopicPartition, (i64, String)>;

/// What is to be committed.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    wanted: Offsets,
    is_under_way: bool,
    again_at: Option<Instant>,
}

impl Commits {
    /// Notes newer offsets.
    pub(crate) fn want(&mut self, offsets: Offsets) {
        self.wanted.extend(offsets);
    }

    /// What is to be sent now; [`Commits::on_answer`] must follow.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Offsets> {
        let waits = self.is_under_way || self.again_at.is_some_and(|at| now < at);
        if waits || self.wanted.is_empty() {
            return None;
        }
        self.is_under_way = true;
        self.again_at = None;
        Some(self.wanted.clone())
    }

    /// What was sent is committed, or is not.
    pub(crate) fn on_answer(&mut self, now: Instant, sent: &Offsets, is_committed: bool) {
        self.is_under_way = false;
        if !is_committed {
            self.again_at = Some(now + AGAIN);
            return;
        }
        for (id, (offset, _)) in sent {
            if self.wanted.get(id).is_some_and(|(next, _)| next <= offset) {
                self.wanted.remove(id);
            }
        }
    }

    /// What is still wanted for these partitions; they are somebody else's from now on.
    pub(crate) fn leave(&mut self, ids: &[TopicPartition]) -> Offsets {
        ids.iter().filter_map(|id| self.wanted.remove_entry(id)).collect()
    }

    /// Everything still wanted, for the last commit.
    pub(crate) fn wanted(&self) -> Offsets {
        self.wanted.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(partition: i32) -> TopicPartition {
        TopicPartition { topic: "t".parse().expect("valid"), partition }
    }

    fn offsets(pairs: &[(i32, i64)]) -> Offsets {
        pairs.iter().map(|(partition, next)| (id(*partition), (*next, String::new()))).collect()
    }

    #[test]
    fn an_offset_stays_wanted_until_the_group_has_it() {
        let (mut commits, now) = (Commits::default(), Instant::now());
        commits.want(offsets(&[(0, 5), (1, 7)]));
        let sent = commits.due(now).expect("due");
        assert_eq!(sent, offsets(&[(0, 5), (1, 7)]));
        commits.want(offsets(&[(0, 6)]));
        assert_eq!(commits.due(now), None, "one at a time");
        commits.on_answer(now, &sent, true);
        assert_eq!(commits.due(now), Some(offsets(&[(0, 6)])), "5 is there, 6 is not");
        commits.on_answer(now, &offsets(&[(0, 6)]), true);
        assert_eq!(commits.due(now), None);
        assert_eq!(commits.wanted(), offsets(&[]));
    }

    #[test]
    fn a_failed_commit_is_sent_again_after_a_pause_and_left_to_the_drain() {
        let (mut commits, now) = (Commits::default(), Instant::now());
        commits.want(offsets(&[(0, 5), (1, 7)]));
        let sent = commits.due(now).expect("due");
        commits.on_answer(now, &sent, false);
        assert_eq!(commits.due(now), None);
        assert_eq!(commits.due(now + AGAIN), Some(sent.clone()));
        commits.on_answer(now, &sent, false);
        assert_eq!(commits.leave(&[id(0), id(3)]), offsets(&[(0, 5)]));
        assert_eq!(commits.wanted(), offsets(&[(1, 7)]));
    }
}
