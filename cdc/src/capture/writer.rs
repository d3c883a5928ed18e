//! The records of one change, as they are added to a batch.

use tailwater_topics_contract::{Lsn, Position, Seq, TopicName, header};

use super::{Error, Open};
use crate::batch::Batch;
use crate::encode::debezium::{self, OtherKey};
use crate::encode::{Images, Origin};
use crate::outbox::{Cells, Outbox, place_headers};
use crate::pgoutput::{Old, Tuple};
use crate::route::TableRoute;

/// Writes the records of one change.
pub(super) struct RecordWriter<'a> {
    pub(super) pipeline: &'a str,
    pub(super) open: &'a Open,
    pub(super) seq: &'a mut Seq,
    pub(super) unchanged: &'a mut Vec<usize>,
    pub(super) lsn: Lsn,
    pub(super) last_commit: Lsn,
    pub(super) position: Position,
    pub(super) now_ms: i64,
    pub(super) out: &'a mut Batch,
}

impl RecordWriter<'_> {
    pub(super) fn row(
        &mut self,
        route: &TableRoute,
        op: u8,
        old: Option<&Old<'_>>,
        new: Option<&Tuple<'_>>,
    ) -> Result<(), Error> {
        if op != b'c' {
            route.plan.check_identity()?;
        }
        match (old, new) {
            (_, None) => self.delete(route, old, None),
            (None, Some(new)) => {
                self.write(route, Images { op, before: None, after: Some(new), fill: None }, None)
            }
            (Some(before), Some(new)) => {
                let arena = self.out.arena();
                let mark = arena.len();
                let old_key = route.plan.old_key(before, arena)?;
                let new_key = route.plan.key(new, old, arena)?;
                let moved = (arena[old_key.clone()] != arena[new_key.clone()])
                    .then(|| (arena[old_key].to_vec(), arena[new_key].to_vec()));
                arena.truncate(mark);
                let update = Images { op, before: old, after: Some(new), fill: old };
                let Some((old_key, new_key)) = moved else {
                    return self.write(route, update, None);
                };
                // Consumers know rows by their key: to them the old row goes and a new one comes.
                self.delete(route, old, Some((debezium::NEW_KEY, &new_key)))?;
                let create = Images { op: b'c', before: None, ..update };
                self.write(route, create, Some((debezium::OLD_KEY, &old_key)))
            }
        }
    }

    /// `false` when the event is given up.
    pub(super) fn event(&mut self, outbox: &Outbox, cells: &Cells<'_>) -> Result<bool, Error> {
        let Some(topic) = outbox.topic(cells)? else { return Ok(false) };
        let seq = self.next_seq()?;
        outbox.event(topic, cells, self.position, seq, self.out)?;
        Ok(true)
    }

    /// Sets a message aside, with its bytes.
    pub(super) fn no_event(
        &mut self,
        letters: &TopicName,
        prefix: &str,
        content: &[u8],
        why: &str,
    ) -> Result<(), Error> {
        let seq = self.next_seq()?;
        let arena = self.out.arena();
        let start = arena.len();
        arena.extend_from_slice(content);
        let value = start..arena.len();
        place_headers(self.position, seq, self.out);
        let reason = format!("a message with prefix `{prefix}` is no event: {why}");
        let at = self.now_ms.to_string();
        for (name, value) in [
            (header::DLQ_CLASS, "no-event"),
            (header::DLQ_REASON, &reason),
            (header::DLQ_ATTEMPTS, "0"),
            (header::DLQ_AT, &at),
        ] {
            let start = self.out.bytes();
            self.out.arena().extend_from_slice(value.as_bytes());
            self.out.header(name, start);
        }
        self.out.push(letters, Some(0), None, Some(value));
        Ok(())
    }

    fn delete(
        &mut self,
        route: &TableRoute,
        old: Option<&Old<'_>>,
        other_key: OtherKey<'_>,
    ) -> Result<(), Error> {
        let images = Images { op: b'd', before: old, after: None, fill: None };
        self.write(route, images, other_key)?;
        if (route.is_compacted || route.plan.is_debezium())
            && let Some(old) = old
        {
            let seq = self.next_seq()?;
            self.headers(route, seq, other_key);
            let key = route.plan.old_key(old, self.out.arena())?;
            self.out.push(&route.topic, None, Some(key), None);
        }
        Ok(())
    }

    pub(super) fn write(
        &mut self,
        route: &TableRoute,
        images: Images<'_, '_>,
        other_key: OtherKey<'_>,
    ) -> Result<(), Error> {
        let origin = self.origin()?;
        let arena = self.out.arena();
        let key = match (images.after, images.before) {
            (Some(after), _) => route.plan.key(after, images.fill, arena)?,
            (None, Some(before)) => route.plan.old_key(before, arena)?,
            (None, None) => return Err(Error::Order { message: "row" }),
        };
        let value = route.plan.change(images, origin, self.unchanged, arena)?;
        if route.plan.is_debezium() {
            self.headers(route, *self.seq, other_key);
        }
        self.out.push(&route.topic, None, Some(key), Some(value));
        Ok(())
    }

    /// Headers of a record whose value does not say where it stands.
    pub(super) fn headers(&mut self, route: &TableRoute, seq: Seq, other_key: OtherKey<'_>) {
        if route.plan.is_debezium() {
            debezium::headers(self.pipeline, other_key, self.out);
        }
        place_headers(self.position, seq, self.out);
    }

    /// One record to each partition, so that whoever follows only some of them learns of it in its place.
    pub(super) fn truncate(&mut self, route: &TableRoute) -> Result<(), Error> {
        for partition in 0..route.partitions {
            let origin = self.origin()?;
            let arena = self.out.arena();
            let start = arena.len();
            // Not a row's key, but a key: compacted topics take no record without one.
            arena.extend_from_slice(b"{}");
            let key = start..arena.len();
            let images = Images { op: b't', before: None, after: None, fill: None };
            let value = route.plan.change(images, origin, self.unchanged, arena)?;
            let is_keyed = route.is_compacted || !route.plan.is_debezium();
            if route.plan.is_debezium() {
                self.headers(route, *self.seq, None);
            }
            self.out.push(&route.topic, Some(partition), is_keyed.then_some(key), Some(value));
        }
        Ok(())
    }

    pub(super) fn origin(&mut self) -> Result<Origin, Error> {
        Ok(Origin {
            commit_us: self.open.commit_us,
            lsn: self.lsn.0,
            last_commit: self.last_commit.0,
            xid: self.open.xid,
            commit_lsn: self.position.commit_lsn.0,
            ordinal: self.position.ordinal,
            seq: self.next_seq()?.get(),
            now_ms: self.now_ms,
        })
    }

    pub(super) fn next_seq(&mut self) -> Result<Seq, Error> {
        *self.seq = self.seq.next().ok_or(Error::SeqUsedUp)?;
        Ok(*self.seq)
    }
}
