//! Operations of one partition, at most one per id: an older one would be overwritten by the same
//! request anyway, and a newer one must not be undone by it. Should the index refuse the newer one,
//! the older takes its place, as it would have done had they come in two batches.

use std::collections::HashMap;
use std::ops::Range;

use tailwater_sinks_worker::SourceRecord;

use crate::bulk;
use crate::document::Operation;

/// What an entry costs beside the bytes of its record: the structures around them.
const ITEM_BYTES: usize = 256;

/// One operation and the record it came from.
pub(crate) struct Item {
    pub(crate) operation: Operation,
    pub(crate) record: SourceRecord,
    /// How often it was sent.
    pub(crate) attempts: u32,
    /// Stored, stale or refused: it must not be sent again.
    pub(crate) done: bool,
    /// What it took the place of.
    older: Option<Box<Item>>,
}

impl Item {
    /// Memory of it and of all that it took the place of.
    fn bytes(&self) -> usize {
        let mut bytes = self.own_bytes();
        let mut older = &self.older;
        while let Some(item) = older {
            bytes += item.own_bytes();
            older = &item.older;
        }
        bytes
    }

    fn own_bytes(&self) -> usize {
        let length = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
        let headers = self.record.headers.iter();
        ITEM_BYTES
            + 2 * self.operation.id.len()
            + self.operation.routing.as_ref().map_or(0, String::len)
            + length(&self.record.key)
            + length(&self.record.value)
            + self.own_document_bytes()
            + headers.map(|(name, value)| name.len() + length(value)).sum::<usize>()
    }
}

impl Item {
    /// Memory of a document that is not a part of its record's value: one of a declared shape.
    fn own_document_bytes(&self) -> usize {
        let (Some(document), Some(value)) = (&self.operation.document, &self.record.value) else {
            return 0;
        };
        if value.as_ptr_range().contains(&document.as_ptr()) { 0 } else { document.len() }
    }
}

/// Operations not yet known to be in the index.
#[derive(Default)]
pub(crate) struct Batch {
    items: Vec<Item>,
    places: HashMap<String, usize>,
    memory_bytes: usize,
    encoded_bytes: usize,
}

impl Batch {
    /// Takes an operation; true when it met another one of its id, of which the newer stays.
    pub(crate) fn push(&mut self, operation: Operation, record: SourceRecord) -> bool {
        let mut item = Item { operation, record, attempts: 0, done: false, older: None };
        let Some(place) = self.places.get(&item.operation.id).copied() else {
            self.add(item);
            return false;
        };
        let met = &mut self.items[place];
        if met.operation.version <= item.operation.version {
            self.memory_bytes += item.own_bytes();
            self.encoded_bytes += bulk::encoded_bytes(&item.operation);
            self.encoded_bytes -= bulk::encoded_bytes(&met.operation);
            std::mem::swap(met, &mut item);
            met.older = Some(Box::new(item));
        }
        true
    }

    fn add(&mut self, item: Item) {
        self.grow(&item);
        self.places.insert(item.operation.id.clone(), self.items.len());
        self.items.push(item);
    }

    /// The index refuses the operation at a place: answers its record, and how often it was sent. What it had taken the
    /// place of comes back.
    pub(crate) fn refuse(&mut self, place: usize) -> (SourceRecord, u32) {
        let item = &mut self.items[place];
        let Some(older) = item.older.take() else {
            item.done = true;
            return (item.record.clone(), item.attempts);
        };
        self.encoded_bytes += bulk::encoded_bytes(&older.operation);
        let refused = std::mem::replace(item, *older);
        self.encoded_bytes -= bulk::encoded_bytes(&refused.operation);
        self.memory_bytes -= refused.own_bytes();
        (refused.record, refused.attempts)
    }

    fn grow(&mut self, item: &Item) {
        self.memory_bytes += item.bytes();
        self.encoded_bytes += bulk::encoded_bytes(&item.operation);
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Memory held, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Bytes of the request that would carry everything.
    pub(crate) fn encoded_bytes(&self) -> usize {
        self.encoded_bytes
    }

    pub(crate) fn items(&self, range: Range<usize>) -> &[Item] {
        &self.items[range]
    }

    pub(crate) fn item(&mut self, place: usize) -> &mut Item {
        &mut self.items[place]
    }

    /// Cuts everything into requests of at most so many operations and bytes, one operation at least.
    pub(crate) fn cut(&self, operations: usize, bytes: usize) -> Vec<Range<usize>> {
        let mut cuts = Vec::new();
        let (mut start, mut taken) = (0, 0);
        for (place, item) in self.items.iter().enumerate() {
            let length = bulk::encoded_bytes(&item.operation);
            if place > start && (place - start >= operations || taken + length > bytes) {
                cuts.push(start..place);
                (start, taken) = (place, 0);
            }
            taken += length;
        }
        if start < self.items.len() {
            cuts.push(start..self.items.len());
        }
        cuts
    }

    /// Forgets what is done.
    pub(crate) fn settle(&mut self) {
        let items = std::mem::take(self).items;
        items.into_iter().filter(|item| !item.done).for_each(|item| self.add(item));
    }
}

/// How many operations go into one request: halved when the cluster has enough, grown by an eighth
/// after each success.
pub(crate) struct Pace {
    now: usize,
    most: usize,
}

impl Pace {
    /// At most `most` operations, from 1.
    pub(crate) fn new(most: usize) -> Self {
        let most = most.max(1);
        Self { now: most, most }
    }

    pub(crate) fn operations(&self) -> usize {
        self.now
    }

    pub(crate) fn on_success(&mut self) {
        self.now = (self.now + self.now / 8 + 1).min(self.most);
    }

    pub(crate) fn on_busy(&mut self) {
        self.now = (self.now / 2).max(1);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn operation(id: &str, version: u64) -> Operation {
        Operation {
            id: id.into(),
            routing: None,
            version,
            document: Some(Bytes::from_static(b"{}")),
        }
    }

    fn record(offset: i64) -> SourceRecord {
        SourceRecord {
            offset,
            timestamp_ms: 0,
            key: Some(Bytes::from_static(b"key")),
            value: Some(Bytes::from(vec![b'x'; 100])),
            headers: vec![("h".into(), None)],
        }
    }

    #[test]
    fn only_the_newest_operation_of_an_id_stays_whatever_the_order() {
        let mut batch = Batch::default();
        assert!(!batch.push(operation("a", 1), record(0)));
        assert!(!batch.push(operation("b", 2), record(1)));
        assert!(batch.push(operation("a", 3), record(2)));
        assert!(batch.push(operation("b", 1), record(3)));
        let left: Vec<_> = batch
            .items(0..2)
            .iter()
            .map(|item| (item.operation.version, item.record.offset))
            .collect();
        assert_eq!(left, [(3, 2), (2, 1)]);
    }

    #[test]
    fn when_the_newest_is_refused_what_it_replaced_comes_back() {
        let mut batch = Batch::default();
        for version in 1..4 {
            batch.push(operation("a", version), record(version.cast_signed()));
        }
        batch.push(operation("b", 9), record(9));
        batch.item(0).attempts = 2;
        let (refused, attempts) = batch.refuse(0);
        assert_eq!((refused.offset, attempts), (3, 2));
        batch.settle();
        let left: Vec<_> = batch.items(0..2).iter().map(|item| item.operation.version).collect();
        assert_eq!(left, [2, 9]);
        assert_eq!(batch.refuse(0).0.offset, 2);
        assert_eq!(batch.refuse(0).0.offset, 1);
        batch.item(1).done = true;
        batch.settle();
        assert!(batch.is_empty());
        assert_eq!((batch.memory_bytes(), batch.encoded_bytes()), (0, 0));
    }

    #[test]
    fn bytes_return_to_nothing_when_all_is_done() {
        let mut batch = Batch::default();
        for n in 0..10 {
            batch.push(operation(&format!("id-{}", n % 4), n), record(n.cast_signed()));
        }
        assert!(batch.memory_bytes() > 4 * 100 && batch.encoded_bytes() > 4 * 20);
        batch.item(1).done = true;
        batch.item(2).attempts = 3;
        batch.settle();
        assert_eq!((batch.len(), batch.item(1).attempts), (3, 3));
        for place in 0..3 {
            batch.item(place).done = true;
        }
        batch.settle();
        assert!(batch.is_empty());
        assert_eq!((batch.memory_bytes(), batch.encoded_bytes()), (0, 0));
    }

    #[test]
    fn cuts_keep_to_both_limits_and_cover_everything() {
        let mut batch = Batch::default();
        for n in 0..10 {
            batch.push(operation(&n.to_string(), 1), record(n));
        }
        let each = bulk::encoded_bytes(&operation("0", 1));
        assert_eq!(batch.cut(4, usize::MAX), [0..4, 4..8, 8..10]);
        assert_eq!(batch.cut(100, 3 * each), [0..3, 3..6, 6..9, 9..10]);
        assert_eq!(batch.cut(100, 1).len(), 10);
        assert!(Batch::default().cut(1, 1).is_empty());
    }

    #[test]
    fn the_pace_halves_and_recovers() {
        let mut pace = Pace::new(1000);
        pace.on_busy();
        assert_eq!(pace.operations(), 500);
        (0..20).for_each(|_| pace.on_busy());
        assert_eq!(pace.operations(), 1);
        (0..100).for_each(|_| pace.on_success());
        assert_eq!(pace.operations(), 1000);
    }
}
