//! One limit in bytes for everything that is held.

use crate::sink::TopicPartition;

/// What a partition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holding<'p> {
    pub(crate) partition: &'p TopicPartition,
    pub(crate) bytes: usize,
    pub(crate) flush: Flush,
}

/// Whether what a partition holds is about to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Flush {
    /// Nobody has asked for it.
    #[default]
    Unasked,
    /// It was told to flush.
    Asked,
    /// Its destination fails, so nobody knows when it will be gone.
    Failing,
}

/// What the consumer should do about memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Bytes held by all.
    pub(crate) held: usize,
    /// Bytes that may be taken until the next look; none while fetching is paused.
    pub(crate) room: usize,
    /// Whose batches should be flushed now: the biggest, as many as bring what is held down to where fetching goes on.
    pub(crate) flush: Vec<TopicPartition>,
}

/// Has batches flushed from three quarters of the limit on, pauses at the limit, and goes on below three quarters.
///
/// So while flushes keep up, nobody waits for them; and a pause does not flutter.
///
/// What is asked to flush counts as held until it is gone. What cannot be flushed now is never waited for: others are
/// flushed in its place, so that partitions with a failing destination cost the rest memory and nothing else.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    is_paused: bool,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, is_paused: false }
    }

    /// Takes what every partition holds.
    pub(crate) fn on_usage<'p>(
        &mut self,
        holdings: impl Iterator<Item = Holding<'p>> + Clone,
    ) -> Decision {
        let held = holdings.clone().map(|holding| holding.bytes).sum();
        let goes_on = self.limit / 4 * 3;
        self.is_paused = if self.is_paused { held > goes_on } else { held >= self.limit };
        let room = if self.is_paused { 0 } else { self.limit - held };
        if held <= goes_on {
            return Decision { held, room, flush: Vec::new() };
        }
        let (mut stays, mut unasked) = (0, Vec::new());
        for holding in holdings {
            match holding.flush {
                Flush::Asked => {}
                Flush::Failing => stays += holding.bytes,
                Flush::Unasked => {
                    stays += holding.bytes;
                    unasked.push(holding);
                }
            }
        }
        unasked.sort_unstable_by_key(|holding| std::cmp::Reverse(holding.bytes));
        let mut flush = Vec::new();
        for holding in unasked {
            if stays <= goes_on {
                break;
            }
            stays -= holding.bytes;
            flush.push(holding.partition.clone());
        }
        Decision { held, room, flush }
    }
}

#[cfg(test)]
mod tests {
    use tailwater_topics_contract::TopicName;

    use super::*;

    /// What is decided about partitions 0, 1, … that hold so much.
    fn decide(budget: &mut Budget, holdings: &[(usize, Flush)]) -> (usize, Vec<i32>) {
        let topic: TopicName = "t".parse().expect("valid");
        let id = |partition| TopicPartition { topic: topic.clone(), partition };
        let ids: Vec<TopicPartition> = (0..).map(id).take(holdings.len()).collect();
        let holding = |(partition, (bytes, flush)): (_, &(usize, Flush))| Holding {
            partition,
            bytes: *bytes,
            flush: *flush,
        };
        let decision = budget.on_usage(ids.iter().zip(holdings).map(holding));
        assert_eq!(decision.held, holdings.iter().map(|(bytes, _)| bytes).sum::<usize>());
        (decision.room, decision.flush.iter().map(|id| id.partition).collect())
    }

    fn unasked<const N: usize>(bytes: [usize; N]) -> [(usize, Flush); N] {
        bytes.map(|bytes| (bytes, Flush::Unasked))
    }

    #[test]
    fn it_flushes_the_biggest_before_it_pauses_at_the_limit_and_resumes_well_below() {
        let mut budget = Budget::new(100);
        let mut decide = |bytes| decide(&mut budget, &unasked(bytes));
        assert_eq!(decide([40, 35, 0]), (25, vec![]));
        assert_eq!(decide([40, 59, 0]), (1, vec![1]));
        assert_eq!(decide([40, 60, 0]), (0, vec![1]));
        assert_eq!(decide([34, 30, 36]), (0, vec![2]));
        assert_eq!(decide([60, 65, 70]), (0, vec![2, 1]));
        assert_eq!(decide([56, 20, 0]), (0, vec![0]));
        assert_eq!(decide([55, 20, 0]), (25, vec![]));
        assert_eq!(decide([60, 20, 0]), (20, vec![0]));
    }

    #[test]
    fn nobody_is_asked_twice_and_others_go_in_place_of_those_that_fail() {
        use Flush::{Asked, Failing, Unasked};
        let mut budget = Budget::new(100);
        let mut decide = |holdings: &[(usize, Flush)]| decide(&mut budget, holdings);
        assert_eq!(decide(&[(50, Asked), (50, Unasked)]), (0, vec![]));
        assert_eq!(decide(&[(50, Failing), (40, Unasked), (10, Unasked)]), (0, vec![1]));
        assert_eq!(decide(&[(90, Failing), (10, Unasked)]), (0, vec![1]));
        assert_eq!(decide(&[(90, Failing), (10, Asked)]), (0, vec![]));
    }
}
