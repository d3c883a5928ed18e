//! How long the WAL that a slot may keep will last (pure).
//!
//! The server says how much may still be written before it gives the slot up. That number falls while the slot stands, and
//! rises when the slot moves, in steps. So the pace is taken over some minutes: a reader that keeps up shows none.

use std::collections::VecDeque;

/// How far back the pace is taken, and the least that it needs.
const WINDOW_MS: i64 = 5 * 60_000;
const LEAST_MS: i64 = 15_000;

/// What was seen of the budget.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    /// Time in milliseconds, and bytes left.
    seen: VecDeque<(i64, u64)>,
}

impl Budget {
    /// Takes a look: bytes left, `None` without a limit.
    pub fn on_look(&mut self, now_ms: i64, left: Option<u64>) {
        let Some(left) = left else {
            self.seen.clear();
            return;
        };
        // A clock that was set back leaves no pace that means anything.
        if self.seen.back().is_some_and(|(last, _)| *last > now_ms) {
            self.seen.clear();
        }
        self.seen.push_back((now_ms, left));
        while self.seen.front().is_some_and(|(first, _)| now_ms - first > WINDOW_MS) {
            self.seen.pop_front();
        }
    }

    /// Milliseconds until nothing is left at the pace of the last minutes; `None` while it does not shrink, or has not
    /// been watched for long enough.
    pub fn left_ms(&self) -> Option<u64> {
        let (first, last) = (self.seen.front()?, self.seen.back()?);
        if last.1 == 0 {
            return Some(0);
        }
        let took = last.0 - first.0;
        let spent = first.1.checked_sub(last.1).filter(|spent| *spent > 0)?;
        (took >= LEAST_MS).then(|| (last.1 as f64 * took as f64 / spent as f64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(looks: &[(i64, u64)]) -> Option<u64> {
        let mut budget = Budget::default();
        looks.iter().for_each(|(at, left)| budget.on_look(*at, Some(*left)));
        budget.left_ms()
    }

    #[test]
    fn what_is_left_lasts_as_long_as_the_pace_says() {
        assert_eq!(watched(&[(0, 4_000), (10_000, 3_000), (20_000, 2_000)]), Some(20_000));
        assert_eq!(watched(&[(0, 4_000), (20_000, 0)]), Some(0));
    }

    #[test]
    fn a_slot_that_moves_spends_nothing() {
        assert_eq!(watched(&[(0, 4_000), (10_000, 3_000), (20_000, 4_000)]), None);
        assert_eq!(watched(&[(0, 4_000)]), None);
        assert_eq!(watched(&[(0, 4_000), (5_000, 3_000)]), None, "too soon to say");
    }

    #[test]
    fn what_was_long_ago_does_not_count() {
        let looks: Vec<(i64, u64)> = (0..100)
            .map(|at| (at * 10_000, if at < 50 { 1_000_000 } else { 1_000_000 - (at as u64 - 50) }))
            .collect();
        // One byte every ten seconds, over the last five minutes.
        assert_eq!(watched(&looks), Some((1_000_000 - 49) * 10_000));
    }

    #[test]
    fn a_limit_that_was_lifted_and_a_clock_set_back_begin_anew() {
        let mut budget = Budget::default();
        budget.on_look(0, Some(100));
        budget.on_look(20_000, Some(50));
        budget.on_look(30_000, None);
        assert_eq!(budget.left_ms(), None);
        budget.on_look(20_000, Some(100));
        budget.on_look(10_000, Some(50));
        assert_eq!(budget.left_ms(), None);
    }
}
