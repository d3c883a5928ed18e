//! One limit in bytes for everything that is held.

use crate::sink::TopicPartition;

/// What the consumer should do about memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Whether fetching is paused.
    pub(crate) paused: bool,
    /// Whose batch should be flushed now: the one that holds most.
    pub(crate) flush: Option<TopicPartition>,
}

/// Pauses at the limit and goes on at three quarters of it, so that it does not flutter.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    paused: bool,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, paused: false }
    }

    /// Takes what each partition holds, in bytes.
    pub(crate) fn on_usage<'p>(
        &mut self,
        usage: impl Iterator<Item = (&'p TopicPartition, usize)>,
    ) -> (usize, Decision) {
        let mut held = 0;
        let mut biggest: Option<(usize, &TopicPartition)> = None;
        for (partition, bytes) in usage {
            held += bytes;
            if biggest.is_none_or(|(most, _)| bytes > most) {
                biggest = Some((bytes, partition));
            }
        }
        self.paused = if self.paused { held > self.limit / 4 * 3 } else { held >= self.limit };
        let flush = biggest.filter(|_| self.paused).map(|(_, partition)| partition.clone());
        (held, Decision { paused: self.paused, flush })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_pauses_at_the_limit_flushes_the_biggest_and_resumes_well_below() {
        let names = ["a", "b"]
            .map(|topic| TopicPartition { topic: topic.parse().expect("valid"), partition: 0 });
        let mut budget = Budget::new(100);
        let mut decide = |usage: [usize; 2]| budget.on_usage(names.iter().zip(usage)).1;
        assert_eq!(decide([40, 59]), Decision { paused: false, flush: None });
        assert_eq!(decide([40, 60]), Decision { paused: true, flush: Some(names[1].clone()) });
        assert_eq!(decide([60, 20]), Decision { paused: true, flush: Some(names[0].clone()) });
        assert_eq!(decide([55, 20]), Decision { paused: false, flush: None });
        assert_eq!(decide([60, 20]), Decision { paused: false, flush: None });
    }
}
