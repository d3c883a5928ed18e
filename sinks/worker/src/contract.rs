//! The suite that every sink must pass.
//!
//! Each scenario disturbs a sink in one way and compares what it holds at the end with what an undisturbed one holds.
//! A sink's own tests add what only it can show.
//!
//! ```text
//!  check            repeats, other borders, crashes, zombies, sparse offsets, poison, drain      any destination
//!  check_disturbed  lost replies, failures, slowness                           one that fails as it is told
//! ```

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use tailwater_topics_contract::TopicName;

use crate::sink::{
    Committed, Rejected, Resume, Sink, SinkError, SourceRecord, TopicPartition, Writer,
};

/// Records in the log that every scenario delivers.
const LOG: i64 = 40;
/// Offsets without a record in the sparse log: at its beginning, in the middle, at its end.
const HOLES: [i64; 9] = [0, 1, 11, 12, 13, 29, 37, 38, 39];
/// Offsets that hold poison in the poisoned log: at a batch's beginning, alone, at the end.
const POISON: [i64; 4] = [0, 8, 9, 39];

/// A sink and a way to look at what it holds.
pub trait Subject: Send + Sync {
    /// The sink.
    type Sink: Sink;
    /// What it holds, in a form that can be compared.
    type Held: PartialEq + Debug;

    /// A sink process; every call is another process over the same destination.
    fn sink(&self) -> Self::Sink;
    /// The topic whose records it takes.
    fn topic(&self) -> TopicName;
    /// The record at an offset of the log.
    fn record(&self, offset: i64) -> SourceRecord;
    /// A record at an offset that can never be stored; none when there is no such record for this sink.
    fn poison(&self, offset: i64) -> Option<SourceRecord>;
    /// What the destination holds now.
    fn held(&self) -> impl Future<Output = Self::Held> + Send;
}

/// How a destination treats the next request that would store something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It does what it is asked, and its answer is lost.
    LostReply,
    /// It does nothing and says that it cannot now.
    Fails,
    /// It takes its time, some milliseconds.
    Slow,
}

/// A destination that fails as it is told.
pub trait Disturbed: Subject {
    /// The next request that would store something meets this; told several times, the next ones do.
    fn disturb(&self, trouble: Trouble);
    /// How many troubles have been met.
    fn met(&self) -> usize;
}

/// Runs the scenarios that need nothing from the destination but to work, each over a fresh one from `fresh`.
///
/// # Panics
/// When the sink breaks the contract; the message names the scenario.
pub async fn check<S, F, Fut>(mut fresh: F)
where
    S: Subject,
    F: FnMut() -> Fut,
    Fut: Future<Output = S>,
{
    Box::pin(check_whole(&mut fresh)).await;
    Box::pin(check_sparse(&mut fresh)).await;
    Box::pin(check_poison(&mut fresh)).await;
}

/// A record at every offset.
async fn check_whole<S, F, Fut>(fresh: &mut F)
where
    S: Subject,
    F: FnMut() -> Fut,
    Fut: Future<Output = S>,
{
    let undisturbed = fresh().await;
    Process::open(&undisturbed, WHOLE, None).await.deliver(LOG, 10).await;
    let expected = undisturbed.held().await;

    let subject = fresh().await;
    for batch in [7, 3, 40] {
        Process::open(&subject, WHOLE, None).await.deliver(LOG, batch).await;
    }
    assert_eq!(subject.held().await, expected, "repeats with other batch borders");

    let subject = fresh().await;
    let mut committed = None;
    for stop in [5, 11, 12, 26, LOG] {
        let mut process = Process::open(&subject, WHOLE, committed).await;
        process.deliver(stop, 4).await;
        process.push((stop + 3).min(LOG));
        // Killed with records pushed and not flushed.
        committed = process.committed;
    }
    assert_eq!(subject.held().await, expected, "killed between push and flush");

    let subject = fresh().await;
    for cut in 0..6 {
        let mut process = Process::open(&subject, WHOLE, None).await;
        process.push(10 + cut);
        process.cut_off_flush(cut).await;
    }
    Process::open(&subject, WHOLE, None).await.deliver(LOG, 9).await;
    assert_eq!(subject.held().await, expected, "killed in the middle of a flush");

    let subject = fresh().await;
    let mut zombie = Process::open(&subject, WHOLE, None).await;
    zombie.push(15);
    let mut successor = Process::open(&subject, WHOLE, None).await;
    successor.deliver(20, 6).await;
    zombie.flush().await;
    zombie.deliver(25, 4).await;
    successor.deliver(LOG, 8).await;
    assert_eq!(subject.held().await, expected, "a paused writer wakes up beside its successor");

    let subject = fresh().await;
    let mut process = Process::open(&subject, WHOLE, None).await;
    process.deliver(LOG, 10).await;
    process.flush().await;
    assert_eq!(subject.held().await, expected, "a flush of nothing");

    let subject = fresh().await;
    let mut committed = None;
    for stop in [3, 17, 18, LOG] {
        let mut process = Process::open(&subject, WHOLE, committed).await;
        process.push(stop);
        // Drained: what was pushed is flushed and committed, however little it is.
        process.flush().await;
        assert_eq!(process.next, stop, "a drain");
        committed = process.committed;
        let successor = Process::open(&subject, WHOLE, committed.clone()).await;
        assert_eq!(successor.next, stop, "a drained sink goes on exactly there");
    }
    assert_eq!(subject.held().await, expected, "drained and started again");
}

/// Markers, aborted records and compaction leave offsets without a record.
async fn check_sparse<S, F, Fut>(fresh: &mut F)
where
    S: Subject,
    F: FnMut() -> Fut,
    Fut: Future<Output = S>,
{
    let undisturbed = fresh().await;
    Process::open(&undisturbed, SPARSE, None).await.deliver(LOG, LOG).await;
    let expected = undisturbed.held().await;

    let subject = fresh().await;
    let mut committed = None;
    // Borders before, within and behind the holes; some batches hold no record at all.
    for stop in [1, 2, 7, 12, 13, 14, 29, 30, 36, 38, LOG] {
        let mut process = Process::open(&subject, SPARSE, committed).await;
        process.push(stop);
        process.flush().await;
        assert_eq!(process.next, stop, "offsets without records are passed");
        committed = process.committed;
        let successor = Process::open(&subject, SPARSE, committed.clone()).await;
        assert_eq!(successor.next, stop, "and not asked for again");
    }
    Process::open(&subject, SPARSE, None).await.deliver(LOG, 6).await;
    assert_eq!(subject.held().await, expected, "sparse offsets");
}

/// Poison comes back, once, and takes nothing with it.
async fn check_poison<S, F, Fut>(fresh: &mut F)
where
    S: Subject,
    F: FnMut() -> Fut,
    Fut: Future<Output = S>,
{
    let undisturbed = fresh().await;
    if undisturbed.poison(0).is_none() {
        return;
    }
    let without = Log { holes: &POISON, poison: &[] };
    Process::open(&undisturbed, without, None).await.deliver(LOG, 10).await;
    let expected = undisturbed.held().await;

    for batch in [1, 4, LOG] {
        let subject = fresh().await;
        let mut process = Process::open(&subject, POISONED, None).await;
        process.deliver(LOG, batch).await;
        assert_eq!(subject.held().await, expected, "poison beside records, {batch} at a time");
        let mut rejected: Vec<SourceRecord> =
            process.rejected.into_iter().map(|rejected| rejected.record).collect();
        rejected.sort_by_key(|record| record.offset);
        let poison: Vec<_> = POISON.iter().filter_map(|offset| subject.poison(*offset)).collect();
        if batch == 1 {
            assert_eq!(rejected, poison, "poison comes back untouched and once");
        } else {
            // A later record of the same batch may have taken its place, so that it was never tried.
            let is_poison = rejected.iter().all(|record| poison.contains(record));
            assert!(is_poison, "poison comes back untouched: {rejected:?}");
            let offsets: BTreeSet<i64> = rejected.iter().map(|record| record.offset).collect();
            assert_eq!(offsets.len(), rejected.len(), "poison comes back once");
        }
    }
}

/// Runs the scenarios of a destination that fails as it is told, each over a fresh one from `fresh`.
///
/// # Panics
/// When the sink breaks the contract; the message names the scenario.
pub async fn check_disturbed<S, F, Fut>(mut fresh: F)
where
    S: Disturbed,
    F: FnMut() -> Fut,
    Fut: Future<Output = S>,
{
    let undisturbed = fresh().await;
    Process::open(&undisturbed, WHOLE, None).await.deliver(LOG, 10).await;
    let expected = undisturbed.held().await;

    for trouble in [Trouble::LostReply, Trouble::Fails, Trouble::Slow] {
        for times in [1, 3] {
            let subject = fresh().await;
            let mut process = Process::open(&subject, WHOLE, None).await;
            process.deliver(10, 10).await;
            (0..times).for_each(|_| subject.disturb(trouble));
            process.deliver(LOG, 7).await;
            assert_eq!(subject.held().await, expected, "{trouble:?}, {times} times");
            assert_eq!(subject.met(), times, "{trouble:?} was met");
        }

        let subject = fresh().await;
        let mut process = Process::open(&subject, WHOLE, None).await;
        subject.disturb(trouble);
        process.push(15);
        // Whatever became of it, the process dies without having heard.
        process.cut_off_flush(50).await;
        Process::open(&subject, WHOLE, None).await.deliver(LOG, 9).await;
        assert_eq!(subject.held().await, expected, "{trouble:?}, then killed");

        let subject = fresh().await;
        let mut zombie = Process::open(&subject, WHOLE, None).await;
        zombie.push(15);
        subject.disturb(trouble);
        let mut successor = Process::open(&subject, WHOLE, None).await;
        tokio::join!(zombie.flush(), successor.deliver(20, 6));
        zombie.deliver(25, 4).await;
        successor.deliver(LOG, 8).await;
        assert_eq!(subject.held().await, expected, "{trouble:?}, and a rival");
    }
}

/// What a scenario delivers: every offset up to [`LOG`] has the record of the subject, but for these.
#[derive(Clone, Copy)]
struct Log {
    holes: &'static [i64],
    poison: &'static [i64],
}

const WHOLE: Log = Log { holes: &[], poison: &[] };
const SPARSE: Log = Log { holes: &HOLES, poison: &[] };
const POISONED: Log = Log { holes: &[], poison: &POISON };

impl Log {
    fn at<S: Subject>(self, subject: &S, offset: i64) -> Option<SourceRecord> {
        if self.holes.contains(&offset) {
            None
        } else if self.poison.contains(&offset) {
            subject.poison(offset)
        } else {
            Some(subject.record(offset))
        }
    }
}

/// One sink process, as the worker would drive it.
struct Process<'s, S: Subject> {
    subject: &'s S,
    log: Log,
    writer: <S::Sink as Sink>::Writer,
    next: i64,
    committed: Option<Committed>,
    rejected: Vec<Rejected>,
}

impl<'s, S: Subject> Process<'s, S> {
    async fn open(subject: &'s S, log: Log, committed: Option<Committed>) -> Self {
        let partition = TopicPartition { topic: subject.topic(), partition: 0 };
        let (writer, next) = loop {
            match subject.sink().open(&partition, committed.as_ref()).await {
                Ok(opened) => break opened,
                Err(SinkError::Transient(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("it opens: {error:?}"),
            }
        };
        Self { subject, log, writer, next, committed, rejected: Vec::new() }
    }

    /// Pushes the log up to `end`, without flushing.
    fn push(&mut self, end: i64) {
        while self.next < end {
            if let Some(record) = self.log.at(self.subject, self.next)
                && let Err(rejected) = self.writer.push(record)
            {
                self.rejected.push(rejected);
            }
            self.next += 1;
        }
    }

    /// Delivers the log up to `end` in batches.
    async fn deliver(&mut self, end: i64, batch: i64) {
        while self.next < end {
            let to = (self.next + batch).min(end);
            self.push(to);
            self.flush().await;
        }
    }

    async fn flush(&mut self) {
        let flushed = loop {
            match self.writer.flush(self.next).await {
                Ok(flushed) => break flushed,
                // As the worker, but with little patience.
                Err(SinkError::Transient(_)) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => panic!("the destination works: {error:?}"),
            }
        };
        self.rejected.extend(flushed.rejected);
        let offsets: BTreeSet<i64> = self.rejected.iter().map(|one| one.record.offset).collect();
        let poison: BTreeSet<i64> = self.log.poison.iter().copied().collect();
        assert!(offsets.is_subset(&poison), "good records are stored: {:?}", self.rejected);
        if flushed.resume == Resume::Continue {
            assert_eq!(flushed.next, self.next, "continues where it stands");
        }
        self.next = flushed.next;
        self.committed = Some(Committed { offset: flushed.next, metadata: flushed.metadata });
    }

    /// Begins a flush and drops it after so many steps.
    async fn cut_off_flush(&mut self, steps: i64) {
        let flush = self.writer.flush(self.next);
        let limit = async {
            for _ in 0..steps {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = limit => {}
            _ = flush => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::testing::{Fault, MemorySink, record};

    struct Memory {
        sink: MemorySink,
        told: AtomicUsize,
    }

    impl Memory {
        fn new() -> Self {
            let sink = MemorySink::new(1000);
            Self { sink, told: AtomicUsize::new(0) }
        }
    }

    impl Subject for Memory {
        type Sink = MemorySink;
        type Held = Vec<i64>;

        fn sink(&self) -> MemorySink {
            self.sink.clone()
        }

        fn topic(&self) -> TopicName {
            "t".parse().expect("valid")
        }

        fn record(&self, offset: i64) -> SourceRecord {
            record(offset)
        }

        fn poison(&self, offset: i64) -> Option<SourceRecord> {
            Some(SourceRecord { headers: vec![("poison".into(), None)], ..record(offset) })
        }

        async fn held(&self) -> Vec<i64> {
            self.sink.stored(&TopicPartition { topic: self.topic(), partition: 0 })
        }
    }

    impl Disturbed for Memory {
        fn disturb(&self, trouble: Trouble) {
            self.told.fetch_add(1, Ordering::Relaxed);
            let fault = match trouble {
                Trouble::LostReply => Fault::StoredWithoutReply,
                Trouble::Fails => Fault::Transient,
                Trouble::Slow => Fault::Slow,
            };
            self.sink.fail_next(fault, 1);
        }

        fn met(&self) -> usize {
            self.told.load(Ordering::Relaxed) - self.sink.faults_left()
        }
    }

    #[tokio::test]
    async fn the_memory_sink_keeps_the_contract() {
        check(|| async { Memory::new() }).await;
        check_disturbed(|| async { Memory::new() }).await;
    }
}
