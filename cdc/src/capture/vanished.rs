//! Deletes of rows that a topic still holds and a table does not.

use tailwater_topics_contract::Position;

use super::{Capture, Error, Open, RecordWriter};
use crate::batch::Batch;
use crate::route::TableRoute;

impl Capture {
    /// Adds the delete of a key that stands in the topic and in no row of the copy. To be called between transactions
    /// only. `position` is the point of the copy and the record's place in it, `taken_ms` when its snapshot was taken.
    pub fn on_vanished(
        &mut self,
        route: &TableRoute,
        key: &[u8],
        position: Position,
        taken_ms: i64,
        now_ms: i64,
        out: &mut Batch,
    ) -> Result<(), Error> {
        let commit_lsn = position.commit_lsn;
        let commit_us = taken_ms.saturating_mul(1_000);
        let open = Open { commit_lsn, commit_us, xid: 0, ordinal: 0, emit_from: 0 };
        let mut writer = RecordWriter {
            pipeline: self.routes.source().pipeline.as_str(),
            open: &open,
            seq: &mut self.seq,
            unchanged: &mut self.unchanged,
            lsn: commit_lsn,
            last_commit: self.position,
            position,
            now_ms,
            out,
        };
        let origin = writer.origin()?;
        let arena = writer.out.arena();
        let value = route.plan.vanished(key, origin, writer.unchanged, arena)?;
        if route.plan.is_debezium() {
            writer.headers(route, *writer.seq, None);
        }
        let written = writer.key(key);
        writer.out.push(&route.topic, None, Some(written), Some(value));
        if route.is_compacted || route.plan.is_debezium() {
            let seq = writer.next_seq()?;
            writer.headers(route, seq, None);
            let written = writer.key(key);
            writer.out.push(&route.topic, None, Some(written), None);
        }
        Ok(())
    }
}

impl RecordWriter<'_> {
    fn key(&mut self, key: &[u8]) -> std::ops::Range<usize> {
        let arena = self.out.arena();
        let start = arena.len();
        arena.extend_from_slice(key);
        start..arena.len()
    }
}
