//! Places between two steps at which a test can end the process, as a kill would, or freeze it.
//!
//! ```text
//!  fence ─Fenced─▶ progress ─ProgressRead─▶ announce ─Announced─▶ slot ─SlotMade─▶ snapshot ─SnapshotKept─▶ position ─PositionWritten─▶ stream
//!  copy ─CopyBegun─ rows ─RowsCopied─ range ─RangeCopied─ table ─TableCopied─ … ─CopyEnding─▶ commit ─CopyEnded─▶
//!  stream ─TablesLeft─▶ their own lane: a copy as above, then changes ─▶ ─TablesJoined─▶ stream
//!  batch ─BatchSent─ … ─Closing─▶ progress ─ProgressSent─▶ delivered ─Delivered─▶ commit ─Committed─▶ ─Noted─▶ slot
//! ```
//!
//! Only with the feature `crash-points` is there anything here; without it [`point`] is nothing.

/// A place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The predecessor is fenced, progress not read.
    Fenced,
    /// Progress is read, the server not asked.
    ProgressRead,
    /// A first start has announced itself and made no slot.
    Announced,
    /// The slot is made, its snapshot not imported.
    SlotMade,
    /// The snapshot is imported, the position not written.
    SnapshotKept,
    /// The position of a first start is durable, nothing is streamed.
    PositionWritten,
    /// The server has begun to stream.
    Streaming,
    /// A copy begins.
    CopyBegun,
    /// Some rows of a copy are written, not committed.
    RowsCopied,
    /// A range of a copy is written, not committed.
    RangeCopied,
    /// A table is noted as copied, not committed.
    TableCopied,
    /// Every table is copied, the last rows are not committed.
    CopyEnding,
    /// The copy is durable, the stream is still held.
    CopyEnded,
    /// Tables that are to join have left the stream; nobody has written that down.
    TablesLeft,
    /// Tables have joined the stream; nobody has written that down.
    TablesJoined,
    /// New registrations came, and are not taken.
    Registering,
    /// New registrations are taken.
    Registered,
    /// A Kafka transaction is open and empty.
    Begun,
    /// Records were handed to the client.
    BatchSent,
    /// A Kafka transaction is about to end; its progress is not sent.
    Closing,
    /// Its progress was handed to the client.
    ProgressSent,
    /// Everything is acknowledged, nothing committed.
    Delivered,
    /// The brokers have committed, and we have not noted it.
    Committed,
    /// It is noted, and the slot not told.
    Noted,
    /// The slot is about to be told what is durable.
    Confirming,
    /// The slot was told.
    Confirmed,
}

impl Point {
    /// All, in the order of a reader's life.
    pub const ALL: [Self; 26] = [
        Self::Fenced,
        Self::ProgressRead,
        Self::Announced,
        Self::SlotMade,
        Self::SnapshotKept,
        Self::PositionWritten,
        Self::Streaming,
        Self::CopyBegun,
        Self::RowsCopied,
        Self::RangeCopied,
        Self::TableCopied,
        Self::CopyEnding,
        Self::CopyEnded,
        Self::TablesLeft,
        Self::TablesJoined,
        Self::Registering,
        Self::Registered,
        Self::Begun,
        Self::BatchSent,
        Self::Closing,
        Self::ProgressSent,
        Self::Delivered,
        Self::Committed,
        Self::Noted,
        Self::Confirming,
        Self::Confirmed,
    ];
}

#[cfg(feature = "crash-points")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::Point;

    static ARMED: OnceLock<(Point, u32, fn())> = OnceLock::new();
    static HITS: AtomicU32 = AtomicU32::new(0);

    /// From now on the process ends when it comes to the point for the `hit`-th time, counted from 1, or does what it is
    /// told instead. Once in a process.
    pub fn arm(point: Point, hit: u32, act: fn()) {
        let _ = ARMED.set((point, hit, act));
    }

    pub(crate) fn point(here: Point) {
        let Some((_, hit, act)) = ARMED.get().filter(|(point, ..)| *point == here) else { return };
        if HITS.fetch_add(1, Ordering::SeqCst) + 1 == *hit {
            act();
        }
    }
}

#[cfg(feature = "crash-points")]
pub use armed::arm;
#[cfg(feature = "crash-points")]
pub(crate) use armed::point;

/// Nothing, outside of tests.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub(crate) fn point(_: Point) {}
