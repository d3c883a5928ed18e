//! One partition: batch, flush, report.
//!
//! ```text
//!  open ──▶ seek ──▶ ┌─▶ records ──push──▶ full, old, asked or draining? ──flush──▶ dead-letter ──▶ commit ─┐
//!            ▲       └───────────────────────────────────────────────────────────────────────────────┘
//!            └── another writer was here
//! ```
//!
//! * Whatever was queued before a seek is dropped: the consumer says `Sought` in the same queue, and everything behind
//!   it is from the new place.
//! * Only this task says whether its partition is ready once it has opened, so a reason not to be is never overwritten
//!   by somebody who does not know it. A stopped partition says nothing more.
//! * A stopped partition keeps its queue, so that the consumer sees a stopped partition and not a dead one, and holds
//!   nothing: its batch goes with its writer, and what is still queued is let go.

use std::future::Future;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tailwater_runtime::{Backoff, Health, clock};
use tailwater_topics_contract::SinkName;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::budget::Flush;
use crate::metrics;
use crate::sink::{
    Committed, Flushed, Rejected, Resume, Sink, SinkError, SourceRecord, TopicPartition, Writer,
};

/// First and longest wait before a destination is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));

/// What the consumer sends to a partition.
#[derive(Debug)]
pub(crate) enum Input {
    /// Records in order.
    Records(Vec<SourceRecord>),
    /// The consumer stands where it was asked to seek.
    Sought,
    /// Memory is short.
    Flush,
    /// No record below this offset is still to come.
    Reached(i64),
    /// Nothing can be read from here on, and why.
    Unreadable(String),
}

/// What a partition asks of the consumer.
pub(crate) trait Group: Send + Sync + 'static {
    /// Remember that everything below `next` is finished.
    fn commit(&self, partition: &TopicPartition, next: i64, metadata: String);
    /// Read on at `offset`, and say `Sought`.
    fn seek(&self, partition: &TopicPartition, offset: i64);
    /// Give this partition nothing more.
    fn stop(&self, partition: &TopicPartition);
    /// A full queue has room again.
    fn has_room(&self);
}

/// Where rejected records go.
pub(crate) trait DeadLetters: Send + Sync + 'static {
    /// Sets one record aside; `Ok` when it is durable there. May be called again after an error.
    fn set_aside(
        &self,
        partition: &TopicPartition,
        rejected: &Rejected,
    ) -> impl Future<Output = Result<(), SinkError>> + Send;
}

/// What everybody may know of a partition at any time.
#[derive(Debug)]
pub(crate) struct Account {
    queued: AtomicUsize,
    batch: AtomicUsize,
    /// Everything below is finished; negative while that is not known.
    finished: AtomicI64,
    /// Timestamp of the first record that is not; `i64::MAX` when there is none.
    oldest_ms: AtomicI64,
    flush: Mutex<Flush>,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            queued: AtomicUsize::new(0),
            batch: AtomicUsize::new(0),
            finished: AtomicI64::new(-1),
            oldest_ms: AtomicI64::new(i64::MAX),
            flush: Mutex::default(),
        }
    }
}

impl Account {
    /// Everything below this offset is finished, if that is known.
    pub(crate) fn finished(&self) -> Option<i64> {
        Some(self.finished.load(Ordering::Relaxed)).filter(|next| *next >= 0)
    }

    /// Timestamp of the first record in the open batch.
    pub(crate) fn oldest_ms(&self) -> Option<i64> {
        Some(self.oldest_ms.load(Ordering::Relaxed)).filter(|oldest| *oldest < i64::MAX)
    }

    pub(crate) fn on_finished(&self, next: i64) {
        self.finished.store(next, Ordering::Relaxed);
        self.oldest_ms.store(i64::MAX, Ordering::Relaxed);
    }

    fn on_oldest(&self, timestamp_ms: i64) {
        self.oldest_ms.store(timestamp_ms, Ordering::Relaxed);
    }

    /// Bytes that count against the budget.
    pub(crate) fn bytes(&self) -> usize {
        self.queued.load(Ordering::Relaxed) + self.batch.load(Ordering::Relaxed)
    }

    pub(crate) fn on_queued(&self, bytes: usize) {
        self.queued.fetch_add(bytes, Ordering::Relaxed);
    }

    fn on_taken(&self, bytes: usize) {
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether the batch is about to go.
    pub(crate) fn flush(&self) -> Flush {
        *self.flush.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn on_flush(&self, flush: Flush) {
        *self.flush.lock().unwrap_or_else(PoisonError::into_inner) = flush;
    }

    fn on_batch(&self, bytes: usize) {
        self.batch.store(bytes, Ordering::Relaxed);
    }
}

/// Bytes of a record in memory, near enough: what it is, what it refers to, and what the allocator takes for a name.
pub(crate) fn size(record: &SourceRecord) -> usize {
    const HEADER: usize = size_of::<(String, Option<Bytes>)>() + 16;
    let bytes = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
    let headers = record.headers.iter().map(|(name, value)| HEADER + name.len() + bytes(value));
    size_of::<SourceRecord>() + bytes(&record.key) + bytes(&record.value) + headers.sum::<usize>()
}

/// Records that are on their way from the queue to the batch. They count until the last of them is there.
struct Taken<'a> {
    account: &'a Account,
    bytes: usize,
}

impl<'a> Taken<'a> {
    fn new(account: &'a Account, records: &[SourceRecord]) -> Self {
        Self { account, bytes: records.iter().map(size).sum() }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.account.on_taken(self.bytes);
    }
}

/// How a partition may be ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ending {
    /// Flush what was pushed, commit, end.
    pub(crate) drain: CancellationToken,
    /// End at once: the partition belongs to somebody else, or time is up.
    pub(crate) abandon: CancellationToken,
}

/// Everything one partition works with.
pub(crate) struct Partition<S, G, D> {
    pub(crate) sink_name: SinkName,
    pub(crate) id: TopicPartition,
    pub(crate) sink: Arc<S>,
    pub(crate) group: Arc<G>,
    pub(crate) dead_letters: Arc<D>,
    pub(crate) health: Health,
    pub(crate) account: Arc<Account>,
    pub(crate) ending: Ending,
    /// How many partitions may ask something of the destination at once.
    pub(crate) turns: Arc<Semaphore>,
}

/// The open batch, apart from what the writer keeps.
#[derive(Default)]
struct Batch {
    /// Position after the last record consumed.
    next: i64,
    /// When its first record came.
    since: Option<Instant>,
    /// When its last records came.
    last: Option<Instant>,
    /// Timestamp of its last record.
    last_ms: i64,
    /// Records refused on push.
    rejected: Vec<Rejected>,
}

impl Batch {
    /// When it is flushed for its age, or because nothing has come for a while.
    fn due(&self, writer: &impl Writer) -> Option<Instant> {
        let old = self.since? + writer.age_limit();
        let idle = self.last.zip(writer.idle_limit()).map(|(last, limit)| last + limit);
        Some(idle.map_or(old, |idle| old.min(idle)))
    }
}

/// Why a partition cannot go on.
enum Stop {
    /// Its sink refuses.
    Sink(SinkError),
    /// The topic does not give what comes next.
    Unreadable(String),
}

impl From<SinkError> for Stop {
    fn from(error: SinkError) -> Self {
        Self::Sink(error)
    }
}

impl<S: Sink, G: Group, D: DeadLetters> Partition<S, G, D> {
    /// Runs until drained or abandoned.
    pub(crate) async fn run(self, committed: Option<Committed>, mut inputs: mpsc::Receiver<Input>) {
        let abandon = self.ending.abandon.clone();
        tokio::select! {
            biased;
            () = abandon.cancelled() => {}
            stopped = self.work(committed, &mut inputs) => if let Err(stop) = stopped {
                self.on_stop(stop);
                tokio::select! {
                    () = self.ending.drain.cancelled() => {}
                    () = abandon.cancelled() => {}
                    () = self.let_go(&mut inputs) => {}
                }
            },
        }
        self.health.forget(&self.id.to_string());
    }

    async fn work(
        &self,
        committed: Option<Committed>,
        inputs: &mut mpsc::Receiver<Input>,
    ) -> Result<(), Stop> {
        let Some((mut writer, start)) = self.open(committed.as_ref()).await? else {
            return Ok(());
        };
        self.account.on_finished(start);
        let mut batch = Batch { next: start, ..Batch::default() };
        let mut seeking = true;
        self.group.seek(&self.id, start);
        loop {
            let due = batch.due(&writer);
            let input = tokio::select! {
                biased;
                () = self.ending.drain.cancelled() => {
                    self.flush(&mut writer, &mut batch).await?;
                    return Ok(());
                }
                () = at(due) => Input::Flush,
                input = self.next(inputs) => match input {
                    Some(input) => input,
                    None => return Ok(()),
                },
            };
            match input {
                Input::Sought => {
                    seeking = false;
                    self.health.ready(&self.id.to_string());
                }
                Input::Flush => {
                    seeking |= self.flush(&mut writer, &mut batch).await?;
                    self.account.on_flush(Flush::Unasked);
                }
                Input::Records(records) => {
                    let _taken = Taken::new(&self.account, &records);
                    for record in records {
                        if seeking || record.offset < batch.next {
                            continue;
                        }
                        self.push(&mut writer, &mut batch, record);
                        if writer.is_full() {
                            seeking |= self.flush(&mut writer, &mut batch).await?;
                        }
                    }
                    batch.last = batch.since.map(|_| Instant::now());
                    self.account.on_batch(writer.buffered_bytes());
                }
                Input::Reached(next) if !seeking && next > batch.next => {
                    batch.next = next;
                    if batch.since.is_none() {
                        seeking |= self.go_past(&mut writer, &mut batch).await?;
                    }
                }
                Input::Reached(_) => {}
                Input::Unreadable(why) => {
                    self.flush(&mut writer, &mut batch).await?;
                    return Err(Stop::Unreadable(why));
                }
            }
        }
    }

    /// The next input; the consumer hears when a full queue has room again.
    async fn next(&self, inputs: &mut mpsc::Receiver<Input>) -> Option<Input> {
        let input = inputs.recv().await;
        if inputs.len() + 1 >= inputs.max_capacity() {
            self.group.has_room();
        }
        input
    }

    /// Lets go of what comes, or came, after the partition has stopped.
    async fn let_go(&self, inputs: &mut mpsc::Receiver<Input>) {
        while let Some(input) = inputs.recv().await {
            if let Input::Records(records) = input {
                drop(Taken::new(&self.account, &records));
            }
        }
        std::future::pending::<()>().await;
    }

    /// Opens the writer, trying again while that may help. `None` when told to drain first.
    async fn open(
        &self,
        committed: Option<&Committed>,
    ) -> Result<Option<(S::Writer, i64)>, SinkError> {
        let mut waits = waits();
        loop {
            let opened = tokio::select! {
                biased;
                () = self.ending.drain.cancelled() => return Ok(None),
                opened = async {
                    let _permit = self.turns.acquire().await;
                    self.sink.open(&self.id, committed).await
                } => opened,
            };
            match opened {
                Ok(opened) => return Ok(Some(opened)),
                Err(error @ SinkError::Definite(_)) => return Err(error),
                Err(error @ SinkError::Transient(_)) => {
                    self.on_transient("opening", &error);
                    tokio::select! {
                        () = self.ending.drain.cancelled() => return Ok(None),
                        () = sleep(waits.next().unwrap_or(RETRY.1)) => {}
                    }
                }
            }
        }
    }

    fn push(&self, writer: &mut S::Writer, batch: &mut Batch, record: SourceRecord) {
        batch.next = record.offset + 1;
        batch.last_ms = record.timestamp_ms;
        if batch.since.is_none() {
            batch.since = Some(Instant::now());
            self.account.on_oldest(record.timestamp_ms);
        }
        if let Err(rejected) = writer.push(record) {
            batch.rejected.push(rejected);
        }
    }

    /// Makes the batch durable, sets its rejected records aside, then commits: in this order, so that a committed
    /// offset has nothing unfinished below it. Answers whether the partition reads on elsewhere.
    async fn flush(&self, writer: &mut S::Writer, batch: &mut Batch) -> Result<bool, SinkError> {
        if batch.since.is_none() {
            return Ok(false);
        }
        let began = Instant::now();
        let labels = [("sink", self.sink_name.to_string()), ("topic", self.id.topic.to_string())];
        let flushed = self.store(writer, batch.next, &labels).await?;
        for rejected in batch.rejected.drain(..).chain(flushed.rejected) {
            self.set_aside(&rejected, &labels).await?;
        }
        self.health.ready(&self.id.to_string());
        ::metrics::counter!(metrics::FLUSHES, &labels).increment(1);
        ::metrics::histogram!(metrics::FLUSH_SECONDS, &labels)
            .record(began.elapsed().as_secs_f64());
        let durable_ms = clock::now_ms().saturating_sub(batch.last_ms).max(0);
        ::metrics::histogram!(metrics::DURABLE_SECONDS, &labels).record(durable_ms as f64 / 1e3);
        *batch = Batch { next: flushed.next, ..Batch::default() };
        Ok(self.on_finished(writer, flushed.next, flushed.metadata, flushed.resume))
    }

    /// Nothing was pushed, and only offsets without records have been passed: nothing is written, but they are
    /// committed, with what the sink wants to remember.
    async fn go_past(&self, writer: &mut S::Writer, batch: &mut Batch) -> Result<bool, SinkError> {
        let labels = [("sink", self.sink_name.to_string()), ("topic", self.id.topic.to_string())];
        let flushed = self.store(writer, batch.next, &labels).await?;
        batch.next = flushed.next;
        Ok(self.on_finished(writer, flushed.next, flushed.metadata, flushed.resume))
    }

    fn on_finished(&self, writer: &S::Writer, next: i64, metadata: String, resume: Resume) -> bool {
        self.account.on_finished(next);
        self.account.on_batch(writer.buffered_bytes());
        self.account.on_flush(Flush::Unasked);
        self.group.commit(&self.id, next, metadata);
        let seeks = resume == Resume::Seek;
        if seeks {
            self.group.seek(&self.id, next);
        }
        seeks
    }

    /// Flushes until it succeeds or never will.
    async fn store(
        &self,
        writer: &mut S::Writer,
        next: i64,
        labels: &[(&'static str, String)],
    ) -> Result<Flushed, SinkError> {
        let mut waits = waits();
        loop {
            let flushed = {
                let _permit = self.turns.acquire().await;
                writer.flush(next).await
            };
            match flushed {
                Ok(flushed) => return Ok(flushed),
                Err(error @ SinkError::Definite(_)) => return Err(error),
                Err(error @ SinkError::Transient(_)) => {
                    self.account.on_flush(Flush::Failing);
                    ::metrics::counter!(metrics::FLUSH_RETRIES, labels).increment(1);
                    self.on_transient("flushing", &error);
                    sleep(waits.next().unwrap_or(RETRY.1)).await;
                }
            }
        }
    }

    /// Sets a record aside. Not ready while that fails: nothing behind the record is committed.
    async fn set_aside(
        &self,
        rejected: &Rejected,
        labels: &[(&'static str, String)],
    ) -> Result<(), SinkError> {
        tracing::warn!(
            topic = %self.id.topic, partition = self.id.partition,
            offset = rejected.record.offset, class = rejected.class, reason = %rejected.reason,
            "record set aside"
        );
        let mut waits = waits();
        while let Err(error) = self.dead_letters.set_aside(&self.id, rejected).await {
            if let SinkError::Definite(_) = error {
                return Err(error);
            }
            self.on_transient("setting a record aside", &error);
            sleep(waits.next().unwrap_or(RETRY.1)).await;
        }
        let class = ("class", rejected.class.to_owned());
        let labels: Vec<_> = labels.iter().cloned().chain([class]).collect();
        ::metrics::counter!(metrics::DEAD_LETTERS, &labels).increment(1);
        Ok(())
    }

    fn on_transient(&self, doing: &str, error: &SinkError) {
        let why = chain(error);
        tracing::warn!(partition = %self.id, error = %why, "{doing} failed; trying again");
        self.health.not_ready(&self.id.to_string(), why);
    }

    fn on_stop(&self, stop: Stop) {
        let why = match stop {
            Stop::Sink(error) => chain(&error),
            Stop::Unreadable(why) => why,
        };
        tracing::error!(partition = %self.id, error = %why, "partition stopped; it needs a person");
        self.health.not_ready(&self.id.to_string(), why);
        // The writer has gone, and its batch with it.
        self.account.on_batch(0);
        self.group.stop(&self.id);
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn waits() -> Backoff<StdRng> {
    Backoff::new(RETRY.0, RETRY.1, StdRng::from_os_rng())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod loops {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;
    use crate::testing::{Fault, MemorySink, record};

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_flushed_when_it_is_full_or_old_and_then_committed() {
        let world = World::start(MemorySink::new(4));
        world.records(0..4).await;
        world.settle().await;
        assert_eq!(world.committed(), Some(4), "full");
        world.records(4..6).await;
        world.settle().await;
        assert_eq!(world.committed(), Some(4), "neither full nor old");
        sleep(Duration::from_secs(2)).await;
        assert_eq!(world.committed(), Some(6), "old");
        assert_eq!(world.sink.stored(&world.id).len(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_to_which_nothing_is_added_is_flushed_before_it_is_old() {
        let world = World::start(MemorySink::new(100).flushed_idle(Duration::from_millis(300)));
        for offset in 0..4 {
            world.records(offset..offset + 1).await;
            sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(world.committed(), None, "something came every 200 ms");
        sleep(Duration::from_millis(150)).await;
        assert_eq!(world.committed(), Some(4));
        for offset in 4..12 {
            world.records(offset..offset + 1).await;
            sleep(Duration::from_millis(200)).await;
        }
        assert!(world.committed() > Some(4), "it is old after a second all the same");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_committed_while_the_destination_fails_and_nothing_is_lost() {
        let world = World::start(MemorySink::new(2));
        world.sink.fail_next(Fault::Transient, 5);
        world.records(0..2).await;
        world.settle().await;
        assert_eq!(world.committed(), None);
        assert!(world.health.check().is_err());
        sleep(Duration::from_secs(60)).await;
        assert_eq!(world.committed(), Some(2));
        assert_eq!(world.sink.stored(&world.id).len(), 2);
        assert_eq!(world.health.check(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_reply_stores_nothing_twice() {
        let world = World::start(MemorySink::new(2));
        world.sink.fail_next(Fault::StoredWithoutReply, 1);
        world.records(0..2).await;
        sleep(Duration::from_secs(60)).await;
        assert_eq!(world.committed(), Some(2));
        assert_eq!(world.sink.stored(&world.id).len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_poison_record_is_set_aside_before_its_offset_is_committed() {
        let world = World::start(MemorySink::new(2));
        world.sink.reject(1);
        world.records(0..3).await;
        world.settle().await;
        assert_eq!(world.dead_letters(), [(1, None)], "set aside while nothing was committed");
        assert_eq!(world.committed(), Some(3));
        assert_eq!(world.sink.stored(&world.id), [0, 2], "its neighbours are delivered");
    }

    #[tokio::test(start_paused = true)]
    async fn a_definite_failure_stops_the_partition_and_says_why() {
        let world = World::start(MemorySink::new(1));
        world.sink.fail_next(Fault::Definite, 1);
        world.records(0..1).await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(world.committed(), None);
        let reasons = world.health.check().expect_err("not ready");
        assert!(reasons[0].contains("t[0]") && reasons[0].contains("refused"), "{reasons:?}");
        assert_eq!(world.group.0.lock().expect("whole").stopped, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_queued_before_a_seek_is_dropped() {
        let world = World::start(MemorySink::new(2));
        world.sink.fail_next(Fault::AnotherWriterReached(10), 1);
        world.records(0..2).await;
        world.records(2..6).await;
        world.settle().await;
        assert_eq!(world.group.0.lock().expect("whole").seeks, [0, 10]);
        world.inputs.send(Input::Sought).await.expect("open");
        world.records(10..12).await;
        world.settle().await;
        assert_eq!(world.committed(), Some(12));
        assert_eq!(world.sink.stored(&world.id), [10, 11]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_flushes_and_commits_what_was_taken() {
        let world = World::start(MemorySink::new(100));
        world.records(0..7).await;
        world.settle().await;
        world.ending.drain.cancel();
        world.settle().await;
        assert_eq!(world.committed(), Some(7));
        assert!(world.task.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn an_abandoned_partition_commits_nothing_more() {
        let world = World::start(MemorySink::new(2));
        world.sink.fail_next(Fault::Hangs, 1);
        world.records(0..2).await;
        world.settle().await;
        world.ending.abandon.cancel();
        world.settle().await;
        assert_eq!(world.committed(), None);
        assert!(world.task.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn offsets_without_records_are_committed_too_when_nothing_is_open() {
        let world = World::start(MemorySink::new(2));
        world.records(0..2).await;
        world.send(Input::Reached(3)).await;
        assert_eq!(world.committed(), Some(3), "a marker behind what was flushed");
        world.records(3..4).await;
        world.send(Input::Reached(6)).await;
        assert_eq!(world.committed(), Some(3), "an open batch takes it along");
        sleep(Duration::from_secs(2)).await;
        assert_eq!(world.committed(), Some(6));
        world.send(Input::Reached(5)).await;
        assert_eq!(world.committed(), Some(6), "never back");
        assert_eq!(world.account.finished(), Some(6));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_reached_before_a_seek_counts_no_more() {
        let world = World::start(MemorySink::new(2));
        world.sink.fail_next(Fault::AnotherWriterReached(10), 1);
        world.records(0..2).await;
        world.send(Input::Reached(15)).await;
        assert_eq!(world.committed(), Some(10));
        world.send(Input::Sought).await;
        world.send(Input::Reached(11)).await;
        assert_eq!(world.committed(), Some(11));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopped_partition_stays_not_ready_and_holds_nothing() {
        let world = World::start(MemorySink::new(100));
        world.records(0..3).await;
        world.send(Input::Unreadable("deleted by retention".to_owned())).await;
        assert_eq!(world.committed(), Some(3), "what was read is finished first");
        assert_eq!(world.account.bytes(), 0);
        let reasons = world.health.check().expect_err("not ready");
        assert_eq!(reasons, ["t[0]: deleted by retention"]);
        world.records(3..50).await;
        world.send(Input::Flush).await;
        sleep(Duration::from_secs(60)).await;
        assert_eq!(world.health.check().expect_err("not ready"), reasons);
        assert_eq!((world.account.bytes(), world.committed()), (0, Some(3)));
        world.ending.drain.cancel();
        world.settle().await;
        assert!(world.task.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_a_definite_failure_threw_away_frees_its_bytes() {
        let world = World::start(MemorySink::new(10));
        world.sink.fail_next(Fault::Definite, 1);
        world.records(0..25).await;
        world.settle().await;
        assert_eq!(world.group.0.lock().expect("whole").stopped, 1);
        assert_eq!(world.account.bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_letter_that_is_not_taken_is_tried_again_and_is_no_readiness() {
        let world = World::start(MemorySink::new(2));
        world.sink.reject(1);
        let busy = || SinkError::transient("no broker");
        world.dead.failures.lock().expect("whole").extend([busy(), busy(), busy()]);
        world.records(0..3).await;
        world.settle().await;
        assert_eq!(world.committed(), None);
        let reasons = world.health.check().expect_err("not ready");
        assert!(reasons[0].contains("no broker"), "{reasons:?}");
        sleep(Duration::from_secs(60)).await;
        assert_eq!((world.committed(), world.health.check()), (Some(3), Ok(())));
        assert_eq!(world.dead_letters(), [(1, None)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_letter_that_never_fits_stops_the_partition_uncommitted() {
        let world = World::start(MemorySink::new(2));
        world.sink.reject(1);
        world.dead.failures.lock().expect("whole").push(SinkError::definite("too large"));
        world.records(0..3).await;
        sleep(Duration::from_secs(60)).await;
        assert_eq!(world.committed(), None);
        assert!(world.health.check().expect_err("not ready")[0].contains("too large"));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_known_how_old_the_oldest_unfinished_record_is() {
        let world = World::start(MemorySink::new(100));
        assert_eq!((world.account.finished(), world.account.oldest_ms()), (None, None));
        world.records(0..3).await;
        world.settle().await;
        assert_eq!(world.account.finished(), Some(0));
        assert_eq!(world.account.oldest_ms(), Some(record(0).timestamp_ms));
        sleep(Duration::from_secs(2)).await;
        assert_eq!((world.account.finished(), world.account.oldest_ms()), (Some(3), None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_that_has_room_again_is_told() {
        let world = World::start(MemorySink::new(1));
        world.sink.fail_next(Fault::Transient, 1);
        for offset in 0..17 {
            world.records(offset..offset + 1).await;
        }
        sleep(Duration::from_secs(60)).await;
        assert_eq!(world.committed(), Some(17));
        assert!(world.group.0.lock().expect("whole").room > 0);
    }

    struct World {
        id: TopicPartition,
        sink: Arc<MemorySink>,
        group: Arc<Recorded>,
        dead: Arc<Dead>,
        health: Health,
        account: Arc<Account>,
        inputs: mpsc::Sender<Input>,
        ending: Ending,
        task: tokio::task::JoinHandle<()>,
    }

    #[derive(Default)]
    struct Calls {
        commits: Vec<i64>,
        seeks: Vec<i64>,
        stopped: u32,
        room: u32,
    }

    #[derive(Default)]
    struct Recorded(Mutex<Calls>);

    impl Group for Recorded {
        fn commit(&self, _: &TopicPartition, next: i64, _: String) {
            self.0.lock().expect("whole").commits.push(next);
        }

        fn seek(&self, _: &TopicPartition, offset: i64) {
            self.0.lock().expect("whole").seeks.push(offset);
        }

        fn stop(&self, _: &TopicPartition) {
            self.0.lock().expect("whole").stopped += 1;
        }

        fn has_room(&self) {
            self.0.lock().expect("whole").room += 1;
        }
    }

    /// Each dead letter with what was committed when it came, and how the next ones fail.
    #[derive(Default)]
    struct Dead {
        group: Arc<Recorded>,
        letters: Mutex<BTreeMap<i64, Option<i64>>>,
        failures: Mutex<Vec<SinkError>>,
    }

    impl DeadLetters for Dead {
        async fn set_aside(
            &self,
            _: &TopicPartition,
            rejected: &Rejected,
        ) -> Result<(), SinkError> {
            if let Some(error) = self.failures.lock().expect("whole").pop() {
                return Err(error);
            }
            let committed = self.group.0.lock().expect("whole").commits.last().copied();
            self.letters.lock().expect("whole").insert(rejected.record.offset, committed);
            Ok(())
        }
    }

    impl World {
        fn start(sink: MemorySink) -> Self {
            let id = TopicPartition { topic: "t".parse().expect("valid"), partition: 0 };
            let (inputs, queue) = mpsc::channel(16);
            let sink = Arc::new(sink);
            let group = Arc::new(Recorded::default());
            let dead = Arc::new(Dead { group: group.clone(), ..Dead::default() });
            let account = Arc::<Account>::default();
            let (health, ending) = (Health::default(), Ending::default());
            let partition = Partition {
                sink_name: "memory".parse().expect("valid"),
                id: id.clone(),
                sink: sink.clone(),
                group: group.clone(),
                dead_letters: dead.clone(),
                health: health.clone(),
                account: account.clone(),
                turns: Arc::new(Semaphore::new(1)),
                ending: ending.clone(),
            };
            let task = tokio::spawn(partition.run(None, queue));
            inputs.try_send(Input::Sought).expect("room");
            Self { id, sink, group, dead, health, account, inputs, ending, task }
        }

        async fn records(&self, offsets: std::ops::Range<i64>) {
            let run: Vec<SourceRecord> = offsets.map(record).collect();
            self.account.on_queued(run.iter().map(size).sum());
            self.inputs.send(Input::Records(run)).await.expect("open");
        }

        async fn send(&self, input: Input) {
            self.inputs.send(input).await.expect("open");
            self.settle().await;
        }

        /// Lets everything happen that needs no time.
        async fn settle(&self) {
            sleep(Duration::from_millis(1)).await;
        }

        fn committed(&self) -> Option<i64> {
            self.group.0.lock().expect("whole").commits.last().copied()
        }

        fn dead_letters(&self) -> Vec<(i64, Option<i64>)> {
            self.dead.letters.lock().expect("whole").clone().into_iter().collect()
        }
    }
}
