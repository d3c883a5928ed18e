//! A memory sink with faults, for the contract suite and for tests of other crates.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;

use crate::dead_letter::Replay;
use crate::sink::{
    Committed, Flushed, Rejected, Resume, Sink, SinkError, SourceRecord, TopicPartition, Writer,
};

/// How the next flush goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is stored; trying again helps.
    Transient,
    /// Nothing is stored; trying again does not help.
    Definite,
    /// Everything is stored, and the answer is lost.
    StoredWithoutReply,
    /// Nothing is stored, and no answer ever comes.
    Hangs,
    /// Nothing is stored: another writer has stored everything below this offset.
    AnotherWriterReached(i64),
    /// Everything is stored, after a while.
    Slow,
    /// The sink has a mistake in it.
    Panics,
}

/// Stores records by offset, so that storing one again changes nothing.
#[derive(Clone, Debug)]
pub struct MemorySink {
    batch_size: usize,
    idle: Option<Duration>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    stored: BTreeMap<TopicPartition, BTreeMap<i64, SourceRecord>>,
    faults: VecDeque<Fault>,
    poison: BTreeSet<i64>,
    taken: usize,
    holds: Weak<()>,
    held: BTreeSet<TopicPartition>,
}

impl MemorySink {
    /// A sink whose batches are full with so many records.
    pub fn new(batch_size: usize) -> Self {
        Self { batch_size, idle: None, state: Arc::default() }
    }

    /// The same, whose batches are flushed when no record has come for so long.
    pub fn flushed_idle(self, idle: Duration) -> Self {
        Self { idle: Some(idle), ..self }
    }

    /// The next `times` flushes go wrong.
    pub fn fail_next(&self, fault: Fault, times: usize) {
        self.state().faults.extend(std::iter::repeat_n(fault, times));
    }

    /// How many flushes are still to go wrong.
    pub fn faults_left(&self) -> usize {
        self.state().faults.len()
    }

    /// The record at this offset can never be stored. Neither can one with a header `poison`.
    pub fn reject(&self, offset: i64) {
        self.state().poison.insert(offset);
    }

    /// The record at this offset can be stored after all.
    pub fn accept(&self, offset: i64) {
        self.state().poison.remove(&offset);
    }

    /// Nothing is flushed while the answer lives.
    pub fn hold(&self) -> Arc<()> {
        let hold = Arc::new(());
        self.state().holds = Arc::downgrade(&hold);
        hold
    }

    /// How many partitions' flushes have been held up.
    pub fn held(&self) -> usize {
        self.state().held.len()
    }

    /// The offsets stored for a partition.
    pub fn stored(&self, partition: &TopicPartition) -> Vec<i64> {
        self.state().stored.get(partition).into_iter().flat_map(BTreeMap::keys).copied().collect()
    }

    /// How many records were pushed, stored or not.
    pub fn taken(&self) -> usize {
        self.state().taken
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for MemorySink {
    type Writer = MemoryWriter;

    async fn open(
        &self,
        partition: &TopicPartition,
        committed: Option<&Committed>,
    ) -> Result<(MemoryWriter, i64), SinkError> {
        let writer =
            MemoryWriter { sink: self.clone(), partition: partition.clone(), batch: Vec::new() };
        Ok((writer, committed.map_or(0, |committed| committed.offset)))
    }
}

/// It keeps records by offset, so an older one never takes a newer one's place.
impl Replay for MemorySink {}

/// Writes one partition of a [`MemorySink`].
#[derive(Debug)]
pub struct MemoryWriter {
    sink: MemorySink,
    partition: TopicPartition,
    batch: Vec<SourceRecord>,
}

impl MemoryWriter {
    fn store(&mut self) {
        let mut state = self.sink.state();
        let stored = state.stored.entry(self.partition.clone()).or_default();
        stored.extend(self.batch.drain(..).map(|record| (record.offset, record)));
    }
}

impl Writer for MemoryWriter {
    fn push(&mut self, record: SourceRecord) -> Result<(), Rejected> {
        let is_marked = record.headers.iter().any(|(name, _)| name == "poison");
        if is_marked || self.sink.state().poison.contains(&record.offset) {
            let reason = "the test says so".to_owned();
            return Err(Rejected { record, class: "poison", reason, attempts: 0 });
        }
        self.batch.push(record);
        self.sink.state().taken += 1;
        Ok(())
    }

    fn buffered_bytes(&self) -> usize {
        self.batch.iter().map(crate::partition::size).sum()
    }

    fn is_full(&self) -> bool {
        self.batch.len() >= self.sink.batch_size
    }

    fn age_limit(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn idle_limit(&self) -> Option<Duration> {
        self.sink.idle
    }

    async fn flush(&mut self, next: i64) -> Result<Flushed, SinkError> {
        while self.sink.state().holds.strong_count() > 0 {
            self.sink.state().held.insert(self.partition.clone());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let fault = self.sink.state().faults.pop_front();
        let done =
            |next, resume| Flushed { next, metadata: String::new(), resume, rejected: vec![] };
        match fault {
            None => {
                self.store();
                Ok(done(next, Resume::Continue))
            }
            Some(Fault::Transient) => Err(SinkError::transient("not now")),
            Some(Fault::Definite) => Err(SinkError::definite("refused")),
            Some(Fault::StoredWithoutReply) => {
                let kept = self.batch.clone();
                self.store();
                self.batch = kept;
                Err(SinkError::transient("no reply"))
            }
            Some(Fault::Slow) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                self.store();
                Ok(done(next, Resume::Continue))
            }
            Some(Fault::Hangs) => std::future::pending().await,
            Some(Fault::Panics) => panic!("the test says so"),
            Some(Fault::AnotherWriterReached(next)) => {
                self.batch.clear();
                Ok(done(next, Resume::Seek))
            }
        }
    }
}

/// A record whose content follows from its offset.
pub fn record(offset: i64) -> SourceRecord {
    SourceRecord {
        offset,
        timestamp_ms: 1_700_000_000_000 + offset,
        key: Some(Bytes::from(format!("{{\"id\":{offset}}}"))),
        value: Some(Bytes::from(format!("{{\"n\":{offset}}}"))),
        headers: vec![],
    }
}
