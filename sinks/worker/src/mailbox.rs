//! What others leave for the consumer's thread, and how it is woken.
//!
//! ```text
//!  partition tasks ──commit, seek, stopped──▶ ┌─────────┐
//!  questions to brokers ──────answers───────▶ │ mailbox │ ──▶ the consumer's thread takes everything at its next turn
//!  the client's queues ───────a record!─────▶ └─────────┘
//! ```
//!
//! The newest wish of each partition counts and a partition has one question open at most, so this is bounded by the
//! number of partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::commits::Offsets;
use crate::partition::Group;
use crate::sink::{Committed, TopicPartition};

/// What a broker said about a partition. `assignment` tells for which time of owning it that was asked.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) id: TopicPartition,
    pub(crate) assignment: u64,
    pub(crate) said: Said,
}

/// The answers there are.
#[derive(Debug)]
pub(crate) enum Said {
    /// What the group has committed, if anything.
    Committed(Result<Option<Committed>, String>),
    /// First offset of the log and, as a reader of committed records sees it, the end.
    Ends(Result<(i64, i64), String>),
}

/// Everything that has come since the last turn.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) commits: Offsets,
    pub(crate) seeks: BTreeMap<TopicPartition, i64>,
    pub(crate) stopped: BTreeSet<TopicPartition>,
    pub(crate) answers: Vec<Answer>,
    /// What was sent to the group, and how that went.
    pub(crate) committed: Option<(Offsets, Result<(), String>)>,
    woken: bool,
}

/// Where it is left.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    wishes: Mutex<Wishes>,
    bell: Condvar,
}

impl Mailbox {
    pub(crate) fn wishes(&self) -> MutexGuard<'_, Wishes> {
        // Every change is one call on one map, so a panic elsewhere leaves nothing half done.
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything, and nothing is left.
    pub(crate) fn take(&self) -> Wishes {
        let mut wishes = self.wishes();
        let woken = wishes.woken;
        std::mem::replace(&mut *wishes, Wishes { woken, ..Wishes::default() })
    }

    pub(crate) fn answer(&self, answer: Answer) {
        self.leave(|wishes| wishes.answers.push(answer));
    }

    pub(crate) fn committed(&self, sent: Offsets, answer: Result<(), String>) {
        self.leave(|wishes| wishes.committed = Some((sent, answer)));
    }

    /// There is something to do.
    pub(crate) fn wake(&self) {
        self.leave(|_| ());
    }

    /// Waits until woken since the last wait, but no longer than `most`.
    pub(crate) fn wait(&self, most: Duration) {
        let asleep = |wishes: &mut Wishes| !wishes.woken;
        let waited = self.bell.wait_timeout_while(self.wishes(), most, asleep);
        waited.unwrap_or_else(PoisonError::into_inner).0.woken = false;
    }

    fn leave(&self, what: impl FnOnce(&mut Wishes)) {
        let mut wishes = self.wishes();
        what(&mut wishes);
        if !std::mem::replace(&mut wishes.woken, true) {
            self.bell.notify_one();
        }
    }
}

impl Group for Mailbox {
    fn commit(&self, partition: &TopicPartition, next: i64, metadata: String) {
        self.leave(|wishes| {
            wishes.commits.insert(partition.clone(), (next, metadata));
        });
    }

    fn seek(&self, partition: &TopicPartition, offset: i64) {
        self.leave(|wishes| {
            wishes.seeks.insert(partition.clone(), offset);
        });
    }

    fn stop(&self, partition: &TopicPartition) {
        self.leave(|wishes| {
            wishes.stopped.insert(partition.clone());
        });
    }

    fn has_room(&self) {
        self.wake();
    }
}
