//! The sinks of one process, kept as they are registered.
//!
//! ```text
//!  registrations ──▶ what shall run ──┬─ new ──▶ a worker is started
//!                                     ├─ changed, paused, removed ──▶ its worker drains; then as above
//!                                     └─ as it was ──▶ nothing
//! ```
//!
//! A worker that ends with an error is not started again as it was: what stopped it stays until its registration
//! changes or the process restarts. The other sinks go on, and readiness says which one does not. The one exception is
//! a worker whose client has lost its standing in the group: only a new one gets it back, so one is made, after longer
//! and longer waits, because another process under the same name would lose its own each time.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tailwater_runtime::{Backoff, Classify, ErrorClass, Health};
use tailwater_sinks_archive::{ArchiveSink, Store, StoreError};
use tailwater_sinks_search::{Client, SearchSink};
use tailwater_sinks_worker::{self as worker, WorkerConfig, WorkerError};
use tailwater_topics_contract::{
    ArchiveSpec, Generation, Guarantee, Registrations, SinkKind, SinkName, SinkRegistration,
    TopicName,
};
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::output::causes;
use crate::serve;
use crate::sources::{self, TopicsNow};

/// Which sinks a process runs.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    /// All that are registered, now and later.
    All,
    /// These.
    Named(Vec<SinkName>),
}

/// The workers of a process.
pub(crate) struct Workers {
    config: Config,
    wanted: Wanted,
    instance: Option<String>,
    stop: CancellationToken,
    health: Health,
    running: BTreeMap<SinkName, Running>,
    tasks: JoinSet<anyhow::Result<()>>,
    failed: usize,
    unfinished: usize,
}

/// First and longest wait before a worker whose client has lost its standing is replaced.
const REPLACE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// A worker that ran for so long had its standing, and the waits begin anew.
const RAN_WELL: Duration = Duration::from_secs(300);

/// Every worker ended as it was told to, and some left things behind that are read again.
#[derive(Debug)]
pub(crate) struct Unfinished;

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "stopped, but not everything that was read is stored and committed: it is read again by the next worker; the log names the partitions",
        )
    }
}

impl std::error::Error for Unfinished {}

/// What a worker is given to do. It is told to end when anything of it changes.
#[derive(Clone, Debug, PartialEq)]
struct Work {
    sink: SinkRegistration,
    /// Of the topics it takes.
    generations: BTreeMap<TopicName, Generation>,
}

impl Work {
    fn of(name: &SinkName, registered: &Registrations) -> Option<Self> {
        let sink = registered.work_of(name)?;
        let generations = sources::generations(&sink.spec, registered);
        Some(Self { sink, generations })
    }
}

/// A sink that was given a worker.
struct Running {
    work: Work,
    stop: CancellationToken,
    /// `None` once it has ended.
    task: Option<Id>,
}

impl Workers {
    pub(crate) fn new(
        config: Config,
        wanted: Wanted,
        instance: Option<String>,
        stop: CancellationToken,
        health: Health,
    ) -> Self {
        let (running, tasks) = (BTreeMap::new(), JoinSet::new());
        Self { config, wanted, instance, stop, health, running, tasks, failed: 0, unfinished: 0 }
    }

    /// Keeps the workers as registered until told to stop; then waits until all have drained.
    ///
    /// # Errors
    /// A worker had failed, or [`Unfinished`].
    pub(crate) async fn run(
        mut self,
        mut registrations: watch::Receiver<Registrations>,
    ) -> anyhow::Result<()> {
        let stop = self.stop.clone();
        loop {
            let registered = registrations.borrow_and_update().clone();
            self.follow(&registered);
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = self.tasks.join_next_with_id() => self.on_end(ended),
                changed = registrations.changed() => {
                    changed.context("registrations are no longer followed")?;
                }
            }
        }
        while let Some(ended) = self.tasks.join_next_with_id().await {
            self.on_end(ended);
        }
        anyhow::ensure!(self.failed == 0, "a sink had stopped; the log says why");
        if self.unfinished > 0 { Err(Unfinished.into()) } else { Ok(()) }
    }

    /// Starts what is missing and stops what has changed; the place of what was stopped is free when it ends.
    fn follow(&mut self, registered: &Registrations) {
        let names: Vec<SinkName> = match &self.wanted {
            Wanted::All => registered.sinks.keys().cloned().collect(),
            Wanted::Named(names) => names.clone(),
        };
        for name in names {
            let work = Work::of(&name, registered);
            match (self.running.get(&name), work) {
                (Some(running), Some(work)) if running.work == work => {}
                (Some(running), _) if running.task.is_some() => {
                    if !running.stop.is_cancelled() {
                        tracing::info!(sink = %name, "the registration changed; draining");
                        running.stop.cancel();
                    }
                }
                (_, Some(work)) => self.start(work),
                (_, None) => self.stand_by(&name, registered),
            }
        }
    }

    fn start(&mut self, work: Work) {
        let name = work.sink.spec.name.clone();
        tracing::info!(sink = %name, "starting");
        self.health.forget(&part(&name));
        let stop = self.stop.child_token();
        let worker = carry_out(
            self.config.clone(),
            work.clone(),
            self.instance.clone(),
            stop.clone(),
            self.health.clone(),
        );
        let task = Some(self.tasks.spawn(worker).id());
        self.running.insert(name, Running { work, stop, task });
    }

    /// Nothing is to be done for a sink: because it is paused, or because it is not registered (yet).
    fn stand_by(&mut self, name: &SinkName, registered: &Registrations) {
        self.running.remove(name);
        match registered.sink(name) {
            // As somebody wished.
            Some(_) => self.health.ready(&part(name)),
            None => {
                let known: Vec<String> =
                    registered.standing_sinks().map(|sink| sink.spec.name.to_string()).collect();
                let known = if known.is_empty() { "none is".to_owned() } else { known.join(", ") };
                let why = format!(
                    "not registered (registered: {known}); declare it and run `tailwater sinks apply -f DIR`"
                );
                if matches!(self.wanted, Wanted::Named(_)) {
                    tracing::warn!(sink = %name, "waiting: {why}");
                    self.health.not_ready(&part(name), why);
                } else {
                    self.health.forget(&part(name));
                }
            }
        }
    }

    fn on_end(&mut self, ended: Result<(Id, anyhow::Result<()>), tokio::task::JoinError>) {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, outcome),
            Err(error) => {
                let outcome = Err(anyhow::anyhow!("the worker panicked; the log has the place"));
                (error.id(), outcome)
            }
        };
        let found = self.running.iter_mut().find(|(_, running)| running.task == Some(id));
        let Some((name, running)) = found else { return };
        running.task = None;
        match outcome {
            Ok(()) => {
                let name = name.clone();
                self.running.remove(&name);
            }
            Err(error) => {
                let is_unfinished =
                    error.downcast_ref::<WorkerError>().is_some_and(WorkerError::is_unfinished);
                *(if is_unfinished { &mut self.unfinished } else { &mut self.failed }) += 1;
                let why = causes(&error).join(": ");
                tracing::error!(sink = %name, "stopped: {why}");
                self.health.not_ready(&part(name), why);
            }
        }
    }
}

/// The name under which a sink reports its readiness as a whole.
fn part(sink: &SinkName) -> String {
    format!("sink {sink}")
}

/// Runs workers for one form of the registration, a new one whenever only that can help.
async fn carry_out(
    config: Config,
    work: Work,
    instance: Option<String>,
    stop: CancellationToken,
    health: Health,
) -> anyhow::Result<()> {
    let name = work.sink.spec.name.clone();
    let mut waits = Backoff::new(REPLACE.0, REPLACE.1, StdRng::from_os_rng());
    loop {
        let began = Instant::now();
        let ended = work_once(&config, &work, instance.clone(), stop.clone(), health.clone()).await;
        let Err(error) = &ended else { return ended };
        let mended = error.downcast_ref().is_some_and(WorkerError::is_mended_by_a_new_client);
        if !mended || stop.is_cancelled() {
            return ended;
        }
        if began.elapsed() > RAN_WELL {
            waits.reset();
        }
        let (wait, why) = (waits.next().unwrap_or(REPLACE.1), causes(error).join(": "));
        tracing::warn!(sink = %name, error = why, wait_ms = wait.as_millis() as u64,
            "this worker hung beyond its session, or another runs under the same --instance; starting anew");
        health.not_ready(&part(&name), why);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => health.forget(&part(&name)),
        }
    }
}

/// Runs a worker for one form of the registration.
async fn work_once(
    config: &Config,
    Work { sink, generations }: &Work,
    instance: Option<String>,
    stop: CancellationToken,
    health: Health,
) -> anyhow::Result<()> {
    let brokers = config.kafka.brokers.clone();
    let SinkRegistration { spec, origins, .. } = sink.clone();
    let mut worker = WorkerConfig::new(config.pipeline.clone(), sink.clone(), brokers);
    worker.properties = config.kafka.properties.clone().into_iter().collect();
    worker.budget_bytes = config.sinks.memory as usize;
    worker.instance_id = instance;
    match spec.kind {
        SinkKind::Archive(spec) => {
            let store = store(config, &spec)?;
            let is_silence = |error: &StoreError| error.class() == ErrorClass::Transient;
            let probe = || probe(&store, &spec);
            let probed = serve::patiently("store", &stop, &health, is_silence, probe).await;
            let Some(level) = probed.context("this S3 store cannot hold an archive")? else {
                return Ok(());
            };
            tracing::info!(sink = %worker.registration.spec.name, guarantee = %spec.guarantee, "{level}");
            let ending = end_stale_uploads(&store, &spec.prefix);
            if stop.run_until_cancelled(ending).await.is_none() {
                return Ok(());
            }
            let topics = TopicsNow::new(config, generations.clone())?;
            let sink = ArchiveSink::new(store, spec, origins).with_sources(topics);
            worker::run(worker, sink, stop, health).await?;
        }
        SinkKind::Search(spec) => {
            let opensearch = config.opensearch.clone();
            let opensearch =
                opensearch.context("there is no `opensearch` section in the configuration")?;
            let client = Client::new(opensearch)?;
            let topics = TopicsNow::new(config, generations.clone())?;
            let sink = SearchSink::new(client, config.pipeline.clone(), spec, topics);
            worker::run(worker, sink, stop, health).await?;
        }
    }
    Ok(())
}

/// What a writer that died in the middle of an upload left behind costs money and nothing else, so a role that may not
/// look for it is no obstacle.
async fn end_stale_uploads(store: &Store, prefix: &str) {
    match store.abort_stale_uploads(&format!("{prefix}data/"), SystemTime::now()).await {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "uploads that nobody goes on with were ended"),
        Err(error) => {
            tracing::warn!(%error, "uploads that nobody goes on with were not looked for");
        }
    }
}

/// Makes sure that a store can keep what an archive in it promises, and says how that is known.
///
/// # Errors
/// It cannot, or fails.
pub(crate) async fn probe(store: &Store, spec: &ArchiveSpec) -> Result<&'static str, StoreError> {
    match spec.guarantee {
        Guarantee::ExactlyOnce => {
            store.probe(spec.segment.bytes).await?;
            Ok(
                "of several writers that raced for one object the store let exactly one win, and kept what it wrote",
            )
        }
        Guarantee::AtLeastOnce => {
            store.ensure_reachable().await?;
            Ok(
                "nothing is asked of the store but to keep what it is given; where a worker is killed or hangs, records may stand in two objects",
            )
        }
    }
}

/// The store of an archive.
pub(crate) fn store(config: &Config, spec: &ArchiveSpec) -> anyhow::Result<Store> {
    let s3 = config.s3.clone().context("there is no `s3` section in the configuration")?;
    let store = Store::connect(s3, &spec.bucket);
    Ok(match spec.guarantee {
        Guarantee::ExactlyOnce => store,
        Guarantee::AtLeastOnce => store.without_conditions(),
    })
}
