//! Deletes of rows that a topic still holds and a table does not.

use tailwater_topics_contract::Position;

use super::writer::RecordWriter;
use super::{Capture, Error, Open};
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
        let open = Open::of_copy(position, taken_ms);
        let mut writer = self.copy_writer(&open, position, now_ms, out);
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
