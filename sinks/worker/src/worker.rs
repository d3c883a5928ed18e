//! The whole, from joining the group to leaving it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use tailwater_runtime::Health;
use tailwater_topics_contract::{PipelineName, SinkRegistration};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use crate::assignment::Maker;
use crate::budget::Budget;
use crate::consumer::Fetcher;
use crate::dead_letter::DeadLetterTopic;
use crate::error::WorkerError;
use crate::sink::{Sink, TopicPartition};

/// How long the last commit and leaving the group may take beyond the grace period.
const LEAVE: Duration = Duration::from_secs(30);

/// How many partitions may open or flush at once: enough to keep a destination busy that answers slowly, few enough that a
/// thousand partitions, all new or all old at the same moment, neither flood it nor hold a thousand requests in memory.
const AT_ONCE: usize = 16;

/// The part of the budget that the client may fetch ahead.
const FETCHED_SHARE: usize = 8;
/// What a partition takes whether it holds records or not: its task, its writer, and the client's own state of it.
const PARTITION_BYTES: usize = 32 << 10;

/// What a worker is told.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The pipeline, which names group and dead-letter topic.
    pub pipeline: PipelineName,
    /// The sink as registered.
    pub registration: SinkRegistration,
    /// `bootstrap.servers`.
    pub brokers: String,
    /// Further client properties, such as those for TLS; they win over ours, save those that correctness needs.
    pub properties: HashMap<String, String>,
    /// Bytes that records of all partitions may take together: fetched ahead, in queues and in open batches.
    pub budget_bytes: usize,
    /// How long a drain may take.
    pub grace: Duration,
    /// A name that stays the same when this worker restarts, so that it takes up its partitions without a rebalance.
    /// Two running workers must not share one.
    pub instance_id: Option<String>,
}

impl WorkerConfig {
    /// The defaults of everything but where and what: 64 MiB, with which an archive at full speed stays below twice as
    /// much in all; 30 seconds of grace; no fixed instance.
    pub fn new(pipeline: PipelineName, registration: SinkRegistration, brokers: String) -> Self {
        Self {
            pipeline,
            registration,
            brokers,
            properties: HashMap::new(),
            budget_bytes: 64 << 20,
            grace: Duration::from_secs(30),
            instance_id: None,
        }
    }

    fn client(&self) -> ClientConfig {
        let mut settings = ClientConfig::new();
        settings.set("client.id", format!("tailwater-sink-{}", self.registration.spec.name));
        for (name, value) in &self.properties {
            settings.set(name, value);
        }
        settings.set("bootstrap.servers", &self.brokers);
        settings
    }

    /// What records may hold in queues and open batches: the budget without what is taken beside them, and a quarter of
    /// that for the holes that the allocator has.
    fn held_bytes(&self) -> usize {
        let beside = self.budget_bytes / FETCHED_SHARE + self.partitions() * PARTITION_BYTES;
        // However many partitions there are, something must be held.
        self.budget_bytes.saturating_sub(beside).max(self.budget_bytes / 4) / 4 * 3
    }

    fn partitions(&self) -> usize {
        self.registration.origins.len().max(1)
    }

    fn consumer(&self) -> ClientConfig {
        let mut settings = self.client();
        // What the client fetches ahead, for all partitions there are together. More than some MiB of one partition bring
        // nothing: it is fetched again before it is empty.
        let prefetch_kib = self.budget_bytes / FETCHED_SHARE / 1024 / self.partitions();
        let prefetch_kib = prefetch_kib.clamp(16, 4 * 1024);
        // A partition is fetched while less than that is there, and one answer comes on top, unpacked to several times
        // its size. The client asks for more by itself where a batch is larger than this.
        let answer_bytes = (prefetch_kib * 1024 / 2).clamp(16 << 10, 1 << 20);
        let defaults = [
            ("session.timeout.ms", "10000".to_owned()),
            ("heartbeat.interval.ms", "3000".to_owned()),
            ("max.poll.interval.ms", "300000".to_owned()),
            ("fetch.wait.max.ms", "100".to_owned()),
            ("queued.max.messages.kbytes", prefetch_kib.to_string()),
            ("fetch.message.max.bytes", answer_bytes.to_string()),
            // After that it fetches on; the client's own second leaves a fast sink waiting.
            ("fetch.queue.backoff.ms", "20".to_owned()),
            ("statistics.interval.ms", "2000".to_owned()),
        ];
        for (name, value) in defaults {
            if settings.get(name).is_none() {
                settings.set(name, value);
            }
        }
        if let Some(instance) = &self.instance_id {
            settings.set("group.instance.id", instance);
        }
        settings
            .set("group.id", self.pipeline.consumer_group(&self.registration.spec.name))
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error");
        settings
    }
}

/// Runs a sink until `shutdown` is cancelled: then flushes, commits and leaves the group. May be called again in the
/// same process when it has ended: it leaves nothing behind, neither in the group nor in `health`.
///
/// # Errors
/// When the client refuses its settings or fails for good, when a partition's task panics, and when open batches were
/// not finished within the grace period or the last offsets not committed. A partition that cannot go on is no error of
/// the worker: it stops alone, and `health` says so.
pub async fn run<S: Sink>(
    config: WorkerConfig,
    sink: S,
    shutdown: CancellationToken,
    health: Health,
) -> Result<(), WorkerError> {
    tailwater_runtime::describe(crate::metrics::ALL);
    let spec = &config.registration.spec;
    let dead_letters = config.pipeline.dead_letter_topic(&spec.name);
    let dead_letters = DeadLetterTopic::new(spec.name.clone(), dead_letters, config.client())
        .map_err(WorkerError::Settings)?;
    let origin = |origin: &tailwater_topics_contract::Origin| {
        let id = TopicPartition { topic: origin.topic.clone(), partition: origin.partition };
        (id, origin.offset)
    };
    let maker = Maker {
        sink_name: spec.name.clone(),
        sink: Arc::new(sink),
        dead_letters: Arc::new(dead_letters),
        health: health.clone(),
        tasks: Handle::current(),
        turns: Arc::new(Semaphore::new(AT_ONCE)),
        origins: config.registration.origins.iter().map(origin).collect(),
    };
    let topics: Vec<&str> = spec.topics.iter().map(|topic| topic.as_str()).collect();
    let budget = Budget::new(config.held_bytes());
    let fetcher =
        Fetcher::new(&config.consumer(), &topics, maker, budget).map_err(WorkerError::Settings)?;
    health.not_ready("group", "joining");

    // A thread of its own: the client blocks, and closing it may take long or, as its issues say, hang; then the
    // process ends without it.
    let (ended, mut end) = oneshot::channel();
    let (stop, grace) = (shutdown.clone(), config.grace);
    std::thread::Builder::new()
        .name("consumer".to_owned())
        .spawn(move || {
            // Nobody listens any more when the deadline has passed.
            let _ = ended.send(fetcher.run(&stop, grace));
        })
        .map_err(WorkerError::Thread)?;
    let outcome = tokio::select! {
        outcome = &mut end => outcome,
        () = shutdown.cancelled() => match tokio::time::timeout(grace + LEAVE, end).await {
            Ok(outcome) => outcome,
            Err(_) => return Err(WorkerError::Grace { seconds: (grace + LEAVE).as_secs() }),
        },
    };
    outcome.map_err(|_| WorkerError::Panicked)?
}
