//! Makes the client send what waits for company, and not more often than that helps.
//!
//! ```text
//!  a share of the transaction:  ██ request ──▶ ░░ rest, waits for the answer ──▶ ██ request ──▶ …
//!  told not to wait:            ▔                                                ▔
//! ```
//!
//! * Of a partition, an idempotent client has one batch unanswered at a time, if it has five messages or more. While one
//!   of them waits behind it and the client is told not to wait for company, its thread looks again and again without a
//!   pause, and takes the core that a broker beside it needs for the answer. So it is told for a moment only: at the end
//!   of a transaction, and whenever an answer has come.
//! * Nobody says when partitions have joined the transaction and may be sent to, so the first moments follow one another
//!   closely.
//!
//! The only unsafe code of this crate: the safe wrapper of `rd_kafka_flush` always passes a time of zero, and with that
//! the client's threads, which look at its flag when they have woken up, find it taken back.
#![expect(unsafe_code, reason = "one call whose safe wrapper has no effect here")]

use std::time::{Duration, Instant};

use rdkafka::bindings::rd_kafka_flush;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};

/// How long the client's threads are told. The least that the call knows.
const PUSH: Duration = Duration::from_millis(1);

/// Least and most time between two, when no answers come.
const GAP: (Duration, Duration) = (Duration::from_micros(250), Duration::from_millis(8));

/// When the client is to be told (pure).
#[derive(Debug)]
pub(super) struct Pushes {
    due: Instant,
    gap: Duration,
}

impl Pushes {
    /// At the end of a transaction: at once.
    pub(super) fn begin(now: Instant) -> Self {
        Self { due: now, gap: GAP.0 }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.due
    }

    /// The client was told.
    pub(super) fn on_pushed(&mut self, now: Instant) {
        self.due = now + self.gap;
        self.gap = (self.gap * 2).min(GAP.1);
    }

    /// An answer has come: what waited behind its request may go.
    pub(super) fn on_reports(&mut self, now: Instant) {
        self.due = now;
    }
}

/// Sends what was handed over without waiting for `linger.ms`, for a millisecond or until all of it is delivered and
/// reported. What that came to is seen in `in_flight_count`.
pub(super) fn push<C: ProducerContext>(producer: &BaseProducer<C>) {
    // SAFETY: the pointer is the producer's own and lives as long as it is borrowed. The function may be called from any
    // thread. With delivery reports as events, as this client has them, it calls nobody back.
    let _ = unsafe { rd_kafka_flush(producer.client().native_ptr(), PUSH.as_millis() as i32) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_told_at_once_after_an_answer_and_ever_less_often_in_silence() {
        let began = Instant::now();
        let mut pushes = Pushes::begin(began);
        let mut told = Vec::new();
        for us in 0..20_000 {
            let now = began + Duration::from_micros(us);
            if us == 12_000 {
                pushes.on_reports(now);
            }
            if pushes.is_due(now) {
                told.push(us);
                pushes.on_pushed(now);
            }
        }
        assert_eq!(told, [0, 250, 750, 1_750, 3_750, 7_750, 12_000]);
    }
}
