//! What the brokers acknowledge, as the client reports it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::ProducerContext;

/// The opaque of a progress record, which has no place in [`Ends`].
pub(super) const PROGRESS: usize = usize::MAX;

/// The same of a letter.
pub(super) const LETTER: usize = usize::MAX - 1;

/// What delivery reports say. Filled from within `poll`, on the thread that calls it.
#[derive(Default)]
pub(super) struct Deliveries {
    seen: Mutex<Seen>,
}

#[derive(Default)]
pub(super) struct Seen {
    /// Next offsets by topic (its place) and partition.
    pub(super) ends: Vec<Vec<i64>>,
    /// The same of the progress topic.
    progress_end: i64,
    /// The first record that stands before what stood there already.
    pub(super) receded: Option<Receded>,
    /// The first delivery that failed.
    pub(super) failure: Option<(KafkaError, usize)>,
}

/// A record at an offset that its partition had passed.
#[derive(Clone, Copy)]
pub(super) struct Receded {
    pub(super) topic: usize,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) end: i64,
}

impl Seen {
    fn on_delivered(&mut self, topic: usize, partition: i32, offset: i64) {
        let end = match (topic, usize::try_from(partition)) {
            (PROGRESS, _) => &mut self.progress_end,
            (topic, Ok(at)) => {
                let Some(ends) = self.ends.get_mut(topic) else { return };
                if ends.len() <= at {
                    ends.resize(at + 1, -1);
                }
                &mut ends[at]
            }
            (_, Err(_)) => return,
        };
        // A repeat whose first answer was lost is acknowledged without its offset.
        if offset < 0 {
            return;
        }
        if offset < *end {
            let end = *end;
            self.receded.get_or_insert(Receded { topic, partition, offset, end });
        } else {
            *end = offset + 1;
        }
    }
}

impl Deliveries {
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "the Kafka client has trouble");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, topic: usize) {
        let mut seen = self.seen();
        match result {
            Ok(message) => seen.on_delivered(topic, message.partition(), message.offset()),
            Err((error, _)) => {
                seen.failure.get_or_insert_with(|| (error.clone(), topic));
            }
        }
    }
}

/// What the client has to say, as the reader's own log.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error
        | RDKafkaLogLevel::Warning => tracing::warn!(facility, message, "librdkafka"),
        _ => tracing::debug!(facility, message, "librdkafka"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_before_the_end_of_its_partition_is_noticed() {
        let mut seen = Seen { ends: vec![vec![-1, 40]], ..Seen::default() };
        seen.on_delivered(0, 0, 0);
        seen.on_delivered(0, 1, 40);
        seen.on_delivered(0, 1, -1001);
        seen.on_delivered(0, 2, 7);
        seen.on_delivered(PROGRESS, 0, 5);
        seen.on_delivered(LETTER, 0, 0);
        assert!(seen.receded.is_none());
        assert_eq!(seen.ends, [[1, 41, 8]]);
        seen.on_delivered(0, 1, 40);
        seen.on_delivered(0, 1, 3);
        let first = seen.receded.take().expect("it went back");
        assert_eq!((first.topic, first.partition, first.offset, first.end), (0, 1, 40, 41));
        assert_eq!(seen.ends[0][1], 41, "what is known stays known");
        seen.on_delivered(PROGRESS, 0, 5);
        assert!(seen.receded.is_some_and(|receded| receded.topic == PROGRESS));
    }
}
