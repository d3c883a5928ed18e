//! Records as the client hands them out, copied into one block of memory.
//!
//! ```text
//!  message ──▶ key value header header │ key value header │ …      one block for the run
//!               ▲    ▲     ▲                                       a record refers to its parts
//! ```
//!
//! * A copy, because a message keeps the whole answer of the broker that it came in from being let go.
//! * One block, because a part of its own for each key, value and header is most of what a record costs, in time and, by
//!   the holes that parts leave behind when they are let go one by one, in memory.
//! * The block lives as long as any of its records, so a run is short.

use bytes::BytesMut;
use rdkafka::message::{BorrowedMessage, Headers, Message};

use crate::sink::SourceRecord;

/// Messages that the client has handed out.
#[derive(Default)]
pub(crate) struct Run<'c> {
    messages: Vec<BorrowedMessage<'c>>,
    bytes: usize,
}

impl<'c> Run<'c> {
    pub(crate) fn records(&self) -> usize {
        self.messages.len()
    }

    /// Bytes of keys, values and headers.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn add(&mut self, message: BorrowedMessage<'c>) {
        self.bytes += bytes(&message);
        self.messages.push(message);
    }

    pub(crate) fn finish(self) -> Vec<SourceRecord> {
        let mut block = BytesMut::with_capacity(self.bytes);
        self.messages.iter().map(|message| copied(message, &mut block)).collect()
    }
}

/// A message alone.
pub(crate) fn record(message: &BorrowedMessage<'_>) -> SourceRecord {
    copied(message, &mut BytesMut::with_capacity(bytes(message)))
}

fn bytes(message: &BorrowedMessage<'_>) -> usize {
    let values = message.headers().into_iter().flat_map(|headers| headers.iter());
    let values = values.map(|header| header.value.map_or(0, <[u8]>::len));
    message.key_len() + message.payload_len() + values.sum::<usize>()
}

fn copied(message: &BorrowedMessage<'_>, block: &mut BytesMut) -> SourceRecord {
    let mut part = |part: &[u8]| {
        block.extend_from_slice(part);
        block.split().freeze()
    };
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    let header = |header: rdkafka::message::Header<'_, &[u8]>| {
        (header.key.to_owned(), header.value.map(&mut part))
    };
    let headers = headers.map(header).collect();
    SourceRecord {
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
        key: message.key().map(&mut part),
        value: message.payload().map(&mut part),
        headers,
    }
}
