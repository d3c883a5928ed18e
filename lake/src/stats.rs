//! What a query has cost and met: the numbers of its last line.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one query.
#[derive(Debug, Default)]
pub struct Stats {
    /// Manifests of the tables in the query that were fetched one by one, when no query before had.
    pub manifests_fetched: AtomicU64,
    /// Segments of the tables in the query.
    pub segments: AtomicU64,
    /// Of these, the ones of which something was fetched.
    pub segments_read: AtomicU64,
    /// Chunks of the tables in the query.
    pub chunks: AtomicU64,
    /// Of these, the ones that were fetched.
    pub chunks_read: AtomicU64,
    /// Bytes of the tables' segments.
    pub bytes: AtomicU64,
    /// Bytes that were fetched, filters included.
    pub bytes_fetched: AtomicU64,
    /// Bytes of lines.
    pub bytes_decoded: AtomicU64,
    /// Values that have not the type of their column.
    pub drifted: AtomicU64,
    /// Unchanged values whose earlier value is not in the archive.
    pub unfilled: AtomicU64,
    /// Why chunks were left out, as bits of [`Self::REASONS`].
    pub reasons: AtomicU64,
}

impl Stats {
    /// What can make a chunk unnecessary.
    pub const REASONS: [&'static str; 7] =
        ["offset", "partition", "timestamp", "commit_lsn", "commit time", "tw_seq", "key"];

    /// Begins another query.
    pub(crate) fn reset(&self) {
        let all = [
            &self.manifests_fetched,
            &self.segments,
            &self.segments_read,
            &self.chunks,
            &self.chunks_read,
            &self.bytes,
            &self.bytes_fetched,
            &self.bytes_decoded,
            &self.drifted,
            &self.unfilled,
            &self.reasons,
        ];
        all.into_iter().for_each(|counter| counter.store(0, Ordering::Relaxed));
    }

    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn pruned_by(&self, reason: usize) {
        self.reasons.fetch_or(1 << reason, Ordering::Relaxed);
    }

    /// The reasons for which chunks were left out.
    pub fn reasons(&self) -> Vec<&'static str> {
        let bits = self.reasons.load(Ordering::Relaxed);
        let at = Self::REASONS.iter().enumerate();
        at.filter(|(at, _)| bits & (1 << at) != 0).map(|(_, reason)| *reason).collect()
    }
}
