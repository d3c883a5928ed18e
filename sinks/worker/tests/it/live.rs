//! Records in, offsets out.

use std::time::{Duration, Instant};

use tailwater_runtime::Health;
use tailwater_sinks_worker::testing::{Fault, MemorySink};
use tailwater_sinks_worker::{TopicPartition, WorkerError, run};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::kafka::Log;

const WAIT: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread")]
async fn committed_records_arrive_once_and_aborted_ones_never() {
    let log = Log::create().await;
    log.transaction(0, 0..10, true);
    log.transaction(0, 10..20, false);
    log.transaction(0, 20..25, true);
    let sink = MemorySink::new(4);
    let worker = Worker::start(&log, &sink);
    // Ten records and a marker, ten aborted and a marker, five.
    let expected: Vec<i64> = (0..10).chain(22..27).collect();
    until("all records", || sink.stored(&partition(&log, 0)) == expected).await;
    worker.drain().await.expect("drains");
    assert_eq!(log.committed(0), Some(27));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_commits_what_was_read_and_a_successor_goes_on_there() {
    let log = Log::create().await;
    log.transaction(0, 0..7, true);
    let sink = MemorySink::new(1_000_000);
    let worker = Worker::start(&log, &sink);
    until("all taken", || sink.taken() == 7).await;
    worker.drain().await.expect("drains");
    assert_eq!(log.committed(0), Some(7));
    log.transaction(0, 7..9, true);
    let successor = MemorySink::new(1);
    let worker = Worker::start(&log, &successor);
    until("the rest", || successor.stored(&partition(&log, 0)) == [8, 9]).await;
    worker.drain().await.expect("drains");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_worker_takes_a_share_and_nothing_is_missed() {
    let log = Log::create().await;
    let sink = MemorySink::new(3);
    let first = Worker::start(&log, &sink);
    log.transaction(0, 0..20, true);
    log.transaction(1, 0..20, true);
    until("the first part", || stored(&log, &sink) == [20, 20]).await;
    let second = Worker::start(&log, &sink);
    until("both at work", || second.health.check().is_ok()).await;
    log.transaction(0, 20..40, true);
    log.transaction(1, 20..40, true);
    until("the second part", || stored(&log, &sink) == [40, 40]).await;
    first.drain().await.expect("drains");
    log.transaction(0, 40..50, true);
    log.transaction(1, 40..50, true);
    until("the third part", || stored(&log, &sink) == [50, 50]).await;
    second.drain().await.expect("drains");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_record_is_set_aside_with_its_bytes_and_place() {
    let log = Log::create().await;
    log.transaction(1, 0..5, true);
    let sink = MemorySink::new(2);
    sink.reject(3);
    let worker = Worker::start(&log, &sink);
    until("its neighbours", || sink.stored(&partition(&log, 1)) == [0, 1, 2, 4]).await;
    worker.drain().await.expect("drains");
    let dead = log.dead_letters(1).remove(0);
    assert_eq!((dead.key.as_deref(), dead.value.as_deref()), (Some(&b"k3"[..]), Some(&b"v3"[..])));
    let header = |name: &str| {
        dead.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    };
    assert_eq!(header("tw-dlq-topic"), Some(log.topic.as_str()));
    assert_eq!(header("tw-dlq-partition"), Some("1"));
    assert_eq!(header("tw-dlq-offset"), Some("3"));
    assert_eq!(header("tw-dlq-class"), Some("poison"));
    assert_eq!(header("tw-dlq-reason"), Some("the test says so"));
    assert_eq!(log.committed(1), Some(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_cannot_go_on_stops_alone_and_readiness_says_so() {
    let log = Log::create().await;
    log.transaction(0, 0..1, true);
    let sink = MemorySink::new(1);
    sink.fail_next(Fault::Definite, 1);
    let worker = Worker::start(&log, &sink);
    let name = partition(&log, 0).to_string();
    until("not ready", || says(&worker.health, &name, "refused")).await;
    log.transaction(1, 0..5, true);
    until("the other partition", || stored(&log, &sink) == [0, 5]).await;
    worker.drain().await.expect("drains");
    assert_eq!((log.committed(0), log.committed(1)), (None, Some(5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_that_retention_tore_stops_the_partition_rather_than_being_bridged() {
    let log = Log::create().await;
    log.transaction(0, 0..10, true);
    log.forget(0, 4).await;
    let sink = MemorySink::new(1);
    let worker = Worker::start(&log, &sink);
    let name = partition(&log, 0).to_string();
    until("not ready", || says(&worker.health, &name, "retention")).await;
    worker.drain().await.expect("drains");
    assert!(sink.stored(&partition(&log, 0)).is_empty());
    assert_eq!(log.committed(0), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_budget_slows_a_worker_down_and_loses_nothing() {
    let log = Log::create().await;
    log.transaction(0, 0..5_000, true);
    log.transaction(1, 0..5_000, true);
    let sink = MemorySink::new(1_000_000);
    let mut config = log.config();
    config.budget_bytes = 64 << 10;
    let worker = Worker::with(config, &sink);
    until("all records", || stored(&log, &sink) == [5_000, 5_000]).await;
    worker.drain().await.expect("drains");
}

struct Worker {
    stop: CancellationToken,
    health: Health,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl Worker {
    fn start(log: &Log, sink: &MemorySink) -> Self {
        Self::with(log.config(), sink)
    }

    fn with(config: tailwater_sinks_worker::WorkerConfig, sink: &MemorySink) -> Self {
        let (stop, health) = (CancellationToken::new(), Health::default());
        let task = tokio::spawn(run(config, sink.clone(), stop.clone(), health.clone()));
        Self { stop, health, task }
    }

    async fn drain(self) -> Result<(), WorkerError> {
        self.stop.cancel();
        self.task.await.expect("does not panic")
    }
}

fn partition(log: &Log, partition: i32) -> TopicPartition {
    TopicPartition { topic: log.topic.clone(), partition }
}

fn stored(log: &Log, sink: &MemorySink) -> [usize; 2] {
    [0, 1].map(|number| sink.stored(&partition(log, number)).len())
}

fn says(health: &Health, part: &str, why: &str) -> bool {
    let reasons = health.check().err().unwrap_or_default();
    reasons.iter().any(|reason| reason.starts_with(part) && reason.contains(why))
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < WAIT, "waited {WAIT:?} in vain for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
