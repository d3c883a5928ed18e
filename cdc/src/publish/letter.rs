//! A record that its topic does not take because it is too large, as it is set aside (pure).
//!
//! Key, value and headers stay as they are; further headers say where it belonged and why it is not there. Its `seq` is
//! in the value or in the headers as ever, so that a hole in the topics' numbers is explained by the letter.

use rdkafka::message::{Header, OwnedHeaders};
use tailwater_topics_contract::header;

use crate::batch::BatchRecord;

/// Largest letter: what the dead-letter topic takes, less room for headers.
pub(super) const BYTES_MAX: usize = 60 << 20;

/// What the client has to let pass for that.
pub(super) const CLIENT_BYTES_MAX: &str = "67108864";

/// What the dead-letter topic is created with. Letters are kept until somebody decides about them.
pub(super) const TOPIC: [(&str, &str); 3] =
    [("cleanup.policy", "delete"), ("max.message.bytes", CLIENT_BYTES_MAX), ("retention.ms", "-1")];

/// Bytes that a broker adds at most to a record of its own batch: the batch's header, lengths and stamps.
const OVERHEAD: usize = 128;

/// The same for each header.
const HEADER_OVERHEAD: usize = 10;

/// What a record counts against its topic's limit. Compression is not reckoned with: how well the next one compresses
/// nobody knows.
pub(super) fn size(record: &BatchRecord<'_>) -> usize {
    let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
    let headers = record.headers().map(|(name, value)| name.len() + value.len() + HEADER_OVERHEAD);
    OVERHEAD + length(record.key()) + length(record.value()) + headers.sum::<usize>()
}

/// The headers of a letter.
pub(super) fn headers(
    record: &BatchRecord<'_>,
    size: usize,
    limit: usize,
    now_ms: i64,
) -> OwnedHeaders {
    let why = format!(
        "{size} bytes with their frame, and the topic takes {limit}; raise its `max.message.bytes`"
    );
    let now = now_ms.to_string();
    let ours: [(&str, &[u8]); 5] = [
        (header::DLQ_TOPIC, record.topic().as_str().as_bytes()),
        (header::DLQ_CLASS, b"too-large"),
        (header::DLQ_REASON, why.as_bytes()),
        (header::DLQ_ATTEMPTS, b"0"),
        (header::DLQ_AT, now.as_bytes()),
    ];
    let all = record.headers().chain(ours);
    all.fold(OwnedHeaders::new(), |headers, (key, value)| {
        headers.insert(Header { key, value: Some(value) })
    })
}
