//! The contract between the worker and a sink.
//!
//! ```text
//!  worker: one task per assigned partition                     sink
//!    open(partition, committed hint) ─────────────────────────▶ writer, offset to read from
//!    push(record) … push(record) ─────────────────────────────▶ open batch
//!    flush(next) ─────────────────────────────────────────────▶ durable
//!    ◀───────────────────────────── finished below `next`, continue or seek, rejected records
//!    dead-letter the rejected, then commit `next` with `metadata`
//! ```
//!
//! What a sink may rely on and must keep:
//!
//! * **Order.** Records of a partition are pushed with strictly growing offsets. Offsets need not be contiguous:
//!   transaction markers and aborted records take some.
//! * **Repeats.** After a crash the same offsets come again, with other batch borders. Writing them again must
//!   change nothing that counts.
//! * **Rivals.** Another worker may believe it owns the same partition, having been paused past its session.
//!   A sink must stay right with both writing.
//! * **Ok means durable.** `flush` answers `Ok` only when everything pushed and not rejected survives a crash of
//!   everyone involved.
//! * **Failure keeps the batch.** After a transient error the worker waits and calls `flush` again with the same or a
//!   later `next`; nothing was pushed in between.
//! * **Cancel safety.** A `flush` may be dropped at any await. The writer is dropped with it, and a later `open`
//!   finds out what happened.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use tailwater_runtime::{Classify, ErrorClass};
use tailwater_topics_contract::TopicName;

/// One sink process. Knows how to continue each partition.
pub trait Sink: Send + Sync + 'static {
    /// Writes one partition.
    type Writer: Writer;

    /// Finds the place to continue at.
    ///
    /// `committed` is what the consumer group remembers: a hint, possibly old, possibly absent. Answers the writer
    /// and the first offset it wants to be given.
    fn open(
        &self,
        partition: &TopicPartition,
        committed: Option<&Committed>,
    ) -> impl Future<Output = Result<(Self::Writer, i64), SinkError>> + Send;
}

/// Writes one partition, batch by batch.
pub trait Writer: Send + 'static {
    /// Takes one record into the open batch, or gives back one that can never be stored.
    fn push(&mut self, record: SourceRecord) -> Result<(), Rejected>;

    /// Memory that the open batch holds now, in bytes.
    fn buffered_bytes(&self) -> usize;

    /// Whether the batch has reached its size and must be flushed before more is pushed.
    fn is_full(&self) -> bool;

    /// How old the first record of the batch may become before the batch is flushed. The worker keeps the clock.
    fn age_limit(&self) -> Duration;

    /// How long after the last record of the batch it is flushed; none when only its age counts.
    fn idle_limit(&self) -> Option<Duration> {
        None
    }

    /// Makes everything pushed durable. `next` is the position after the last record consumed, whether it was
    /// pushed, rejected or a control record.
    ///
    /// It may be called with nothing pushed, when only offsets without records were passed. Then nothing needs to be
    /// written: the answer is `next`, and what `open` wants to know when it is given that back.
    fn flush(&mut self, next: i64) -> impl Future<Output = Result<Flushed, SinkError>> + Send;
}

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicName,
    /// The partition, from 0.
    pub partition: i32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

/// What the consumer group remembers of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Next offset to consume.
    pub offset: i64,
    /// What the sink gave along with it.
    pub metadata: String,
}

/// A record as Kafka gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRecord {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Its headers, in order.
    pub headers: Vec<(String, Option<Bytes>)>,
}

/// A record that can never be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The record, untouched.
    pub record: SourceRecord,
    /// Short machine-readable class, such as `mapping`.
    pub class: &'static str,
    /// What is wrong with it, in one line.
    pub reason: String,
    /// How often storing it was tried; 0 when it was refused unseen.
    pub attempts: u32,
}

/// The end of a flush. Every offset below `next` is finished, save for `rejected`, which the worker dead-letters
/// before it commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// What may be committed.
    pub next: i64,
    /// A hint for the next `open`, committed along; at most a few hundred bytes.
    pub metadata: String,
    /// Where to read on.
    pub resume: Resume,
    /// Records that can never be stored.
    pub rejected: Vec<Rejected>,
}

/// Where a partition reads on after a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Where it stands.
    Continue,
    /// At `next`: another writer was here. Everything pushed or buffered is dropped.
    Seek,
}

/// Why a sink cannot go on.
#[derive(Debug)]
pub enum SinkError {
    /// It will pass; the worker waits and calls again.
    Transient(Box<dyn Error + Send + Sync>),
    /// It will not pass; the partition stops, the others go on, and readiness says why.
    Definite(Box<dyn Error + Send + Sync>),
}

impl SinkError {
    /// A failure that will pass.
    pub fn transient(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Transient(source.into())
    }

    /// A failure that will not pass by waiting.
    pub fn definite(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Definite(source.into())
    }
}

impl Classify for SinkError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Transient(_) => ErrorClass::Transient,
            Self::Definite(_) => ErrorClass::Definite,
        }
    }
}

impl fmt::Display for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Transient(_) => "the destination cannot take records now",
            Self::Definite(_) => "the destination will not take records",
        })
    }
}

impl Error for SinkError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Transient(source) | Self::Definite(source) => Some(source.as_ref()),
        }
    }
}
