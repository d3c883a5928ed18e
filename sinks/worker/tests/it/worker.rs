//! A worker to be watched.

use std::time::{Duration, Instant};

use tailwater_runtime::Health;
use tailwater_sinks_worker::testing::MemorySink;
use tailwater_sinks_worker::{WorkerConfig, WorkerError, run};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const WAIT: Duration = Duration::from_secs(40);

/// A worker that runs.
pub(crate) struct Worker {
    stop: CancellationToken,
    pub(crate) health: Health,
    pub(crate) task: JoinHandle<Result<(), WorkerError>>,
}

impl Worker {
    pub(crate) fn start(config: WorkerConfig, sink: &MemorySink) -> Self {
        Self::in_process(config, sink, &Health::default())
    }

    /// A worker in a process whose health is that of others, too.
    pub(crate) fn in_process(config: WorkerConfig, sink: &MemorySink, health: &Health) -> Self {
        let (stop, health) = (CancellationToken::new(), health.clone());
        let task = tokio::spawn(run(config, sink.clone(), stop.clone(), health.clone()));
        Self { stop, health, task }
    }

    pub(crate) async fn drain(self) -> Result<(), WorkerError> {
        self.stop.cancel();
        self.task.await.expect("does not panic")
    }
}

/// Whether a part is not ready for such a reason.
pub(crate) fn says(health: &Health, part: &str, why: &str) -> bool {
    let reasons = health.check().err().unwrap_or_default();
    reasons.iter().any(|reason| reason.starts_with(part) && reason.contains(why))
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < WAIT, "waited {WAIT:?} in vain for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
