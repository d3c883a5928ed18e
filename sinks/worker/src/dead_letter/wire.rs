//! A dead letter as a record, both ways (pure).
//!
//! Key and value are the original bytes, the original headers come first, and ours say where the record stood and why
//! it was set aside. What settles a letter has neither key nor value, and the letter's place in its headers.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use tailwater_topics_contract::{SinkName, header};

use crate::sink::{Rejected, SourceRecord, TopicPartition};

/// How a letter was settled.
const SETTLED: &str = "tw-dlq-settled";
/// Before every header of ours.
const OURS: &str = "tw-dlq-";

/// Where a letter stands in the dead-letter topic: `<partition>/<offset>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Partition of the dead-letter topic.
    pub partition: i32,
    /// Offset in it.
    pub offset: i64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.offset)
    }
}

/// A text that is no position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a position such as `0/12`")]
pub struct NotAPosition(String);

impl FromStr for Position {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let parse = || {
            let (partition, offset) = text.split_once('/')?;
            Some(Self { partition: partition.parse().ok()?, offset: offset.parse().ok()? })
        };
        parse().ok_or_else(|| NotAPosition(text.to_owned()))
    }
}

/// A record that a sink set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where it stands in the dead-letter topic.
    pub position: Position,
    /// Where the record stood.
    pub from: TopicPartition,
    /// The record as it was: offset, timestamp, key, value, and headers without ours.
    pub record: SourceRecord,
    /// Short machine-readable class of the failure.
    pub class: String,
    /// What the destination said.
    pub reason: String,
    /// How often it was tried; 0 when it was refused unseen.
    pub attempts: u32,
    /// When it was set aside, in milliseconds since 1970.
    pub at_ms: i64,
    /// How it was settled, if it was.
    pub settled: Option<Settled>,
}

/// What became of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// How.
    pub how: Settlement,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
}

/// How a letter is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The sink has taken it.
    Replayed,
    /// A newer record of the same key has taken its place.
    Superseded,
    /// A person has decided that it is not needed.
    Discarded,
}

impl Settlement {
    /// As in the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Superseded => "superseded",
            Self::Discarded => "discarded",
        }
    }
}

impl fmt::Display for Settlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Place of a record: topic and partition, offset.
pub(super) type Place = (TopicPartition, i64);

/// What a record of the topic is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Letter(Box<DeadLetter>),
    Settles(Place, Settled),
}

/// The headers of a letter.
pub(super) fn letter(
    sink: &SinkName,
    partition: &TopicPartition,
    rejected: &Rejected,
    now_ms: i64,
) -> OwnedHeaders {
    let record = &rejected.record;
    let mut headers = OwnedHeaders::new_with_capacity(record.headers.len() + 9);
    for (key, value) in &record.headers {
        headers = headers.insert(Header { key, value: value.as_ref().map(|value| &value[..]) });
    }
    let why = [
        (header::DLQ_TIMESTAMP, record.timestamp_ms.to_string()),
        (header::DLQ_CLASS, rejected.class.to_owned()),
        (header::DLQ_REASON, rejected.reason.clone()),
        (header::DLQ_ATTEMPTS, rejected.attempts.to_string()),
    ];
    insert(insert(headers, &place(sink, partition, record.offset, now_ms)), &why)
}

/// The headers of what settles a letter.
pub(super) fn settles(sink: &SinkName, letter: &DeadLetter, settled: Settled) -> OwnedHeaders {
    let how = [(SETTLED, settled.how.as_str().to_owned())];
    let place = place(sink, &letter.from, letter.record.offset, settled.at_ms);
    insert(insert(OwnedHeaders::new_with_capacity(6), &place), &how)
}

fn place(
    sink: &SinkName,
    partition: &TopicPartition,
    offset: i64,
    at_ms: i64,
) -> [(&'static str, String); 5] {
    [
        (header::DLQ_SINK, sink.to_string()),
        (header::DLQ_TOPIC, partition.topic.to_string()),
        (header::DLQ_PARTITION, partition.partition.to_string()),
        (header::DLQ_OFFSET, offset.to_string()),
        (header::DLQ_AT, at_ms.to_string()),
    ]
}

fn insert(headers: OwnedHeaders, ours: &[(&'static str, String)]) -> OwnedHeaders {
    ours.iter()
        .fold(headers, |headers, (key, value)| headers.insert(Header { key, value: Some(value) }))
}

/// Reads a record of the topic; none of ours is nothing.
pub(super) fn entry(record: &BorrowedMessage<'_>) -> Option<Entry> {
    let headers: Vec<(String, Option<Bytes>)> = record
        .headers()?
        .iter()
        .map(|header| (header.key.to_owned(), header.value.map(Bytes::copy_from_slice)))
        .collect();
    let position = Position { partition: record.partition(), offset: record.offset() };
    let bytes = |part: Option<&[u8]>| part.map(Bytes::copy_from_slice);
    parse(position, bytes(record.key()), bytes(record.payload()), headers)
}

fn parse(
    position: Position,
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Vec<(String, Option<Bytes>)>,
) -> Option<Entry> {
    // Ours come last, and the original may have been a dead letter itself.
    let text = |name: &str| {
        let (_, value) = headers.iter().rev().find(|(header, _)| header == name)?;
        std::str::from_utf8(value.as_ref()?).ok().map(str::to_owned)
    };
    let number = |name: &str| text(name)?.parse::<i64>().ok();
    let topic = text(header::DLQ_TOPIC)?.parse().ok()?;
    let partition = number(header::DLQ_PARTITION)?.try_into().ok()?;
    let from = TopicPartition { topic, partition };
    let offset = number(header::DLQ_OFFSET)?;
    let at_ms = number(header::DLQ_AT)?;
    if let Some(how) = text(SETTLED) {
        let all = [Settlement::Replayed, Settlement::Superseded, Settlement::Discarded];
        let how = all.into_iter().find(|known| known.as_str() == how)?;
        return Some(Entry::Settles((from, offset), Settled { how, at_ms }));
    }
    let (class, reason) = (text(header::DLQ_CLASS)?, text(header::DLQ_REASON)?);
    let attempts = number(header::DLQ_ATTEMPTS)?.try_into().ok()?;
    let timestamp_ms = number(header::DLQ_TIMESTAMP)?;
    let theirs = headers.into_iter().filter(|(name, _)| !name.starts_with(OURS)).collect();
    let record = SourceRecord { offset, timestamp_ms, key, value, headers: theirs };
    Some(Entry::Letter(Box::new(DeadLetter {
        position,
        from,
        record,
        class,
        reason,
        attempts,
        at_ms,
        settled: None,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &OwnedHeaders, record: &SourceRecord) -> Option<Entry> {
        let headers = headers
            .iter()
            .map(|header| (header.key.to_owned(), header.value.map(Bytes::copy_from_slice)))
            .collect();
        let position = Position { partition: 0, offset: 3 };
        parse(position, record.key.clone(), record.value.clone(), headers)
    }

    #[test]
    fn a_letter_gives_back_the_record_as_it_was_and_what_settles_it_names_its_place() {
        let sink: SinkName = "search".parse().expect("valid");
        let from = TopicPartition { topic: "orders.cdc".parse().expect("valid"), partition: 2 };
        let record = SourceRecord {
            offset: 77,
            timestamp_ms: -5,
            key: Some(Bytes::from_static(b"\xff")),
            value: None,
            headers: vec![("a".into(), Some("1".into())), ("b".into(), None)],
        };
        let rejected = Rejected {
            record: record.clone(),
            class: "refused",
            reason: "too — long".into(),
            attempts: 3,
        };
        let written = letter(&sink, &from, &rejected, 42);
        let Some(Entry::Letter(letter)) = read(&written, &record) else { panic!("a letter") };
        assert_eq!((&letter.record, &letter.from), (&record, &from));
        assert_eq!((letter.class.as_str(), letter.attempts, letter.at_ms), ("refused", 3, 42));
        assert_eq!(letter.reason, "too — long");
        let settled = Settled { how: Settlement::Superseded, at_ms: 50 };
        let written = settles(&sink, &letter, settled);
        assert_eq!(read(&written, &record), Some(Entry::Settles((from, 77), settled)));
        assert_eq!(read(&OwnedHeaders::new(), &record), None);
    }

    #[test]
    fn positions_are_read_back() {
        let position = Position { partition: 1, offset: 12 };
        assert_eq!(position.to_string().parse(), Ok(position));
        for text in ["", "12", "x/1", "1/", "1/2/3"] {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
    }
}
