//! Records on their way to Kafka: one arena of bytes, reused.

use std::ops::Range;

use tailwater_topics_contract::TopicName;

/// Records in the order in which they must be sent.
#[derive(Debug, Default)]
pub struct Batch {
    arena: Vec<u8>,
    headers: Vec<Header>,
    records: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    topic: TopicName,
    partition: Option<i32>,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: Range<usize>,
}

#[derive(Debug)]
struct Header {
    name: HeaderName,
    value: Range<usize>,
}

#[derive(Debug)]
enum HeaderName {
    Fixed(&'static str),
    /// Taken from the outbox row.
    Own(Box<str>),
}

/// One record of a batch.
#[derive(Clone, Copy)]
pub struct BatchRecord<'b> {
    batch: &'b Batch,
    slot: &'b Slot,
}

impl Batch {
    /// The records, in order.
    pub fn records(&self) -> impl Iterator<Item = BatchRecord<'_>> {
        self.records.iter().map(|slot| BatchRecord { batch: self, slot })
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes of all keys, values and header values.
    pub fn bytes(&self) -> usize {
        self.arena.len()
    }

    /// Forgets the records and keeps the memory.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.headers.clear();
        self.records.clear();
    }

    /// Where key, value and header bytes are written.
    pub(crate) fn arena(&mut self) -> &mut Vec<u8> {
        &mut self.arena
    }

    /// Adds a header to the record that is pushed next. Its value is what was written to the arena since `start`.
    pub(crate) fn header(&mut self, name: &'static str, start: usize) {
        let value = start..self.arena.len();
        self.headers.push(Header { name: HeaderName::Fixed(name), value });
    }

    /// As [`Self::header`], under a name of its own.
    pub(crate) fn own_header(&mut self, name: &str, start: usize) {
        let value = start..self.arena.len();
        self.headers.push(Header { name: HeaderName::Own(name.into()), value });
    }

    /// Adds a record; headers given since the last one belong to it.
    pub(crate) fn push(
        &mut self,
        topic: &TopicName,
        partition: Option<i32>,
        key: Option<Range<usize>>,
        value: Option<Range<usize>>,
    ) {
        let first = self.records.last().map_or(0, |record| record.headers.end);
        let headers = first..self.headers.len();
        self.records.push(Slot { topic: topic.clone(), partition, key, value, headers });
    }
}

impl<'b> BatchRecord<'b> {
    /// Where it goes.
    pub fn topic(&self) -> &'b TopicName {
        &self.slot.topic
    }

    /// The partition, where the key does not choose it.
    pub fn partition(&self) -> Option<i32> {
        self.slot.partition
    }

    /// The key.
    pub fn key(&self) -> Option<&'b [u8]> {
        self.slot.key.clone().map(|range| &self.batch.arena[range])
    }

    /// The value; `None` is a tombstone.
    pub fn value(&self) -> Option<&'b [u8]> {
        self.slot.value.clone().map(|range| &self.batch.arena[range])
    }

    /// The headers, in order.
    pub fn headers(&self) -> impl Iterator<Item = (&'b str, &'b [u8])> + use<'b> {
        let batch = self.batch;
        batch.headers[self.slot.headers.clone()].iter().map(move |header| {
            let name = match &header.name {
                HeaderName::Fixed(name) => name,
                HeaderName::Own(name) => name.as_ref(),
            };
            (name, &batch.arena[header.value.clone()])
        })
    }
}
