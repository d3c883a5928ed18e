//! How long to wait before trying again.

use std::time::Duration;

use rand::Rng;

/// Endless waits that double from `first` to `most`, each cut by up to half at random so that many clients do
/// not come back together.
#[derive(Debug)]
pub struct Backoff<R> {
    next: Duration,
    first: Duration,
    most: Duration,
    random: R,
}

impl<R: Rng> Backoff<R> {
    /// Waits from `first` up to `most`; both more than nothing.
    pub fn new(first: Duration, most: Duration, random: R) -> Self {
        Self { next: first, first, most, random }
    }

    /// Begins again at the first wait, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

impl<R: Rng> Iterator for Backoff<R> {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.next;
        self.next = self.next.saturating_mul(2).min(self.most);
        Some(wait.mul_f64(self.random.random_range(0.5..=1.0)))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn waits_grow_to_the_limit_and_start_over_after_success() {
        let (first, most) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut backoff = Backoff::new(first, most, StdRng::seed_from_u64(7));
        let waits: Vec<Duration> = backoff.by_ref().take(20).collect();
        assert!(waits[0] >= first / 2 && waits[0] <= first);
        assert!(waits[19] >= most / 2 && waits.iter().all(|wait| *wait <= most));
        backoff.reset();
        assert!(backoff.next().is_some_and(|wait| wait <= first));
    }
}
