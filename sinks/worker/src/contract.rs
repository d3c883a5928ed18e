//! The suite that every sink must pass.
//!
//! Each scenario disturbs a sink in one way and compares what it holds at the end with what an undisturbed one holds.
//! A sink's own tests add what only it can show.

use std::fmt::Debug;
use std::future::Future;

use tailwater_topics_contract::TopicName;

use crate::sink::{Committed, Resume, Sink, SinkError, SourceRecord, TopicPartition, Writer};

/// Records in the log that every scenario delivers.
const LOG: i64 = 40;

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
    /// What the destination holds now.
    fn held(&self) -> impl Future<Output = Self::Held> + Send;
}

/// Runs every scenario, each over a fresh destination from `fresh`.
///
/// # Panics
/// When the sink breaks the contract; the message names the scenario.
pub async fn check<S, F, Fut>(mut fresh: F)
where
    S: Subject,
    F: FnMut() -> Fut,
    Fut: Future<Output = S>,
{
    let undisturbed = fresh().await;
    Process::open(&undisturbed, None).await.deliver(&undisturbed, LOG, 10).await;
    let expected = undisturbed.held().await;

    let subject = fresh().await;
    for batch in [7, 3, 40] {
        Process::open(&subject, None).await.deliver(&subject, LOG, batch).await;
    }
    assert_eq!(subject.held().await, expected, "repeats with other batch borders");

    let subject = fresh().await;
    let mut committed = None;
    for stop in [5, 11, 12, 26, LOG] {
        let mut process = Process::open(&subject, committed).await;
        process.deliver(&subject, stop, 4).await;
        process.push(&subject, (stop + 3).min(LOG));
        // Killed with records pushed and not flushed.
        committed = process.committed;
    }
    assert_eq!(subject.held().await, expected, "killed between push and flush");

    let subject = fresh().await;
    for cut in 0..6 {
        let mut process = Process::open(&subject, None).await;
        process.push(&subject, 10 + cut);
        process.cut_off_flush(cut).await;
    }
    Process::open(&subject, None).await.deliver(&subject, LOG, 9).await;
    assert_eq!(subject.held().await, expected, "killed in the middle of a flush");

    let subject = fresh().await;
    let mut zombie = Process::open(&subject, None).await;
    zombie.push(&subject, 15);
    let mut successor = Process::open(&subject, None).await;
    successor.deliver(&subject, 20, 6).await;
    zombie.flush().await;
    zombie.deliver(&subject, 25, 4).await;
    successor.deliver(&subject, LOG, 8).await;
    assert_eq!(subject.held().await, expected, "a paused writer wakes up beside its successor");

    let subject = fresh().await;
    let mut process = Process::open(&subject, None).await;
    process.deliver(&subject, LOG, 10).await;
    process.flush().await;
    assert_eq!(subject.held().await, expected, "a flush of nothing");
}

/// One sink process, as the worker would drive it.
struct Process<S: Subject> {
    writer: <S::Sink as Sink>::Writer,
    next: i64,
    committed: Option<Committed>,
}

impl<S: Subject> Process<S> {
    async fn open(subject: &S, committed: Option<Committed>) -> Self {
        let partition = TopicPartition { topic: subject.topic(), partition: 0 };
        let opened = subject.sink().open(&partition, committed.as_ref()).await;
        let (writer, next) = opened.expect("opens");
        Self { writer, next, committed }
    }

    /// Pushes the log up to `end`, without flushing.
    fn push(&mut self, subject: &S, end: i64) {
        while self.next < end {
            let pushed = self.writer.push(subject.record(self.next));
            assert!(pushed.is_ok(), "the suite's records can be stored");
            self.next += 1;
        }
    }

    /// Delivers the log up to `end` in batches.
    async fn deliver(&mut self, subject: &S, end: i64, batch: i64) {
        while self.next < end {
            let to = (self.next + batch).min(end);
            self.push(subject, to);
            self.flush().await;
        }
    }

    async fn flush(&mut self) {
        let flushed = loop {
            match self.writer.flush(self.next).await {
                Ok(flushed) => break flushed,
                Err(SinkError::Transient(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("the destination works: {error:?}"),
            }
        };
        assert!(flushed.rejected.is_empty(), "the suite's records can be stored");
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
    use super::*;
    use crate::testing::{MemorySink, record};

    struct Memory(MemorySink);

    impl Subject for Memory {
        type Sink = MemorySink;
        type Held = Vec<i64>;

        fn sink(&self) -> MemorySink {
            self.0.clone()
        }

        fn topic(&self) -> TopicName {
            "t".parse().expect("valid")
        }

        fn record(&self, offset: i64) -> SourceRecord {
            record(offset)
        }

        async fn held(&self) -> Vec<i64> {
            self.0.stored(&TopicPartition { topic: self.topic(), partition: 0 })
        }
    }

    #[tokio::test]
    async fn the_memory_sink_keeps_the_contract() {
        check(|| async { Memory(MemorySink::new(1000)) }).await;
    }
}
