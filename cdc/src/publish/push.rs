//! Makes the client send what waits for company.
//!
//! The only unsafe code of this crate: the safe wrapper of `rd_kafka_flush` always passes a time of zero, and with that
//! the client's threads, which look at its flag when they have woken up, find it taken back.
#![expect(unsafe_code, reason = "one call whose safe wrapper has no effect here")]

use std::time::Duration;

use rdkafka::bindings::rd_kafka_flush;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};

/// While the client's threads are told not to wait for company. Also how late the end of a wait is noticed.
const PUSH: Duration = Duration::from_millis(1);

/// Sends what was handed over without waiting for `linger.ms`, for a millisecond or until all of it is delivered and
/// reported. What that came to is seen in `in_flight_count`.
pub(super) fn push<C: ProducerContext>(producer: &BaseProducer<C>) {
    // SAFETY: the pointer is the producer's own and lives as long as it is borrowed. The function may be called from any
    // thread. With delivery reports as events, as this client has them, it calls nobody back.
    let _ = unsafe { rd_kafka_flush(producer.client().native_ptr(), PUSH.as_millis() as i32) };
}
