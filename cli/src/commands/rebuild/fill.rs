//! From the archive and the topic into an index that is not in use.
//!
//! ```text
//!  filled up to n ──▶ is n in the topic? ─┬─ yes ─────────────────────────▶ topic, to where it ends now
//!                                         └─ no ──▶ archive, to its head ──▶ ┘
//! ```

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rdkafka::ClientConfig;
use tailwater_sinks_archive::{Store, line, read as archive, topic};
use tailwater_sinks_search::shape::Shape;
use tailwater_sinks_search::succession::{self, Beside, Filled};
use tailwater_sinks_search::{Client, SearchSink, SearchWriter};
use tailwater_sinks_worker::feed::{self, Feeder};
use tailwater_sinks_worker::source;
use tailwater_sinks_worker::{Rejected, SourceRecord, TopicPartition};
use tailwater_topics_contract::{Registrations, SinkKind, SinkRegistration};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::offsets::{self, Range};
use crate::workers;

/// Partitions that are filled at once.
const AT_ONCE: usize = 4;
/// How often what was filled is noted in the index, and shown.
const NOTE: Duration = Duration::from_secs(5);

/// An index on its way to hold everything.
pub(super) struct Filler {
    source: Arc<Source>,
    shape: Arc<Shape>,
    client: Client,
    index: String,
    feeders: BTreeMap<TopicPartition, Feeder<SearchWriter>>,
    shared: Arc<Mutex<Shared>>,
}

/// Where records come from.
struct Source {
    kafka: ClientConfig,
    archive: Option<Archive>,
}

struct Archive {
    sink: String,
    /// The topics of now.
    topics: Vec<source::Source>,
    store: Store,
    prefix: String,
}

#[derive(Default)]
struct Shared {
    filled: Filled,
    refused: Vec<Rejected>,
    records: u64,
    touched: Option<Touched>,
}

/// Ids of everything that came, while somebody wants to know.
struct Touched {
    shape: Arc<Shape>,
    ids: HashSet<String>,
}

type Fed = (TopicPartition, Feeder<SearchWriter>);

impl Filler {
    pub(super) fn new(
        config: &Config,
        registrations: &Registrations,
        registration: &SinkRegistration,
        sources: &[source::Source],
        client: Client,
        sink: &SearchSink,
        target: &Beside,
    ) -> anyhow::Result<Self> {
        let topics = &registration.spec.topics;
        let keeps = registrations.standing_sinks().find_map(|kept| match &kept.spec.kind {
            SinkKind::Archive(spec) if topics.iter().all(|t| kept.spec.topics.contains(t)) => {
                Some((kept.spec.name.to_string(), spec))
            }
            _ => None,
        });
        let archive = match keeps {
            Some((sink, spec)) => {
                let store = workers::store(config, spec)?;
                let (topics, prefix) = (sources.to_vec(), spec.prefix.clone());
                Some(Archive { sink, topics, store, prefix })
            }
            None => None,
        };
        let mut feeders = BTreeMap::new();
        for origin in &registration.origins {
            let at = TopicPartition { topic: origin.topic.clone(), partition: origin.partition };
            let next = target.filled().get(&at).copied().unwrap_or(origin.offset);
            let writer = sink.writer_beside(&at, target);
            feeders.insert(at, Feeder::new(writer, next));
        }
        let filled = feeders.iter().map(|(at, feeder)| (at.clone(), feeder.next())).collect();
        Ok(Self {
            source: Arc::new(Source { kafka: config.kafka_client(), archive }),
            shape: Arc::clone(sink.shape()),
            client,
            index: target.index.name.clone(),
            feeders,
            shared: Arc::new(Mutex::new(Shared { filled, ..Shared::default() })),
        })
    }

    /// Where it takes records from, in words.
    pub(super) fn sources(&self) -> String {
        match &self.source.archive {
            Some(archive) => {
                format!(
                    "from the topic, and what that no longer holds from archive `{}`",
                    archive.sink
                )
            }
            None => "from the topic alone: no archive takes it".to_owned(),
        }
    }

    /// The shape of its documents.
    pub(super) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The index that is filled.
    pub(super) fn index(&self) -> &str {
        &self.index
    }

    /// Up to where it is filled.
    pub(super) fn filled(&self) -> Filled {
        lock(&self.shared).filled.clone()
    }

    /// Records that cannot be documents of it.
    pub(super) fn refused(&self) -> Vec<Rejected> {
        lock(&self.shared).refused.clone()
    }

    /// From now on, remembers the ids of everything that comes.
    pub(super) fn remember_touched(&self) {
        let (shape, ids) = (Arc::clone(&self.shape), HashSet::new());
        lock(&self.shared).touched = Some(Touched { shape, ids });
    }

    /// What came since then.
    pub(super) fn take_touched(&self) -> HashSet<String> {
        lock(&self.shared).touched.take().map(|touched| touched.ids).unwrap_or_default()
    }

    /// Takes everything up to where each partition ends now.
    pub(super) async fn catch_up(&mut self) -> anyhow::Result<()> {
        let (limit, mut tasks) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
        for (at, feeder) in std::mem::take(&mut self.feeders) {
            let (source, shared) = (self.source.clone(), self.shared.clone());
            let limit = limit.clone();
            tasks.spawn(async move {
                let _permit = limit.acquire_owned().await?;
                fill(&source, at, feeder, &shared).await
            });
        }
        let (began, before) = (Instant::now(), lock(&self.shared).records);
        let mut ticks = tokio::time::interval(NOTE);
        ticks.tick().await;
        loop {
            tokio::select! {
                done = tasks.join_next() => match done {
                    None => break,
                    Some(done) => {
                        let (at, feeder): Fed = done.context("filling a partition panicked")??;
                        self.feeders.insert(at, feeder);
                    }
                },
                _ = ticks.tick() => {
                    let taken = lock(&self.shared).records - before;
                    let rate = taken as f64 / began.elapsed().as_secs_f64();
                    eprintln!("  {taken} records, {rate:.0} a second, {} partitions to go", tasks.len());
                    self.note().await?;
                }
            }
        }
        let taken = lock(&self.shared).records - before;
        if taken > 0 {
            eprintln!("  {taken} records in {:.1} s", began.elapsed().as_secs_f64());
        }
        self.note().await
    }

    async fn note(&self) -> anyhow::Result<()> {
        let filled = self.filled();
        Ok(succession::note(&self.client, &self.index, &filled).await?)
    }
}

async fn fill(
    source: &Source,
    at: TopicPartition,
    mut feeder: Feeder<SearchWriter>,
    shared: &Mutex<Shared>,
) -> anyhow::Result<Fed> {
    let (kafka, topic) = (source.kafka.clone(), at.topic.clone());
    let ranges = offsets::blocking(move || offsets::ranges(&kafka, &topic)).await?;
    let ranges = ranges.with_context(|| format!("topic `{}` does not exist", at.topic))?;
    let first = ranges.get(at.partition as usize).map_or(0, |Range { first, .. }| *first);
    if feeder.next() < first {
        let archive = source.archive.as_ref().with_context(|| {
            format!(
                "{at} begins at {first}, the index is filled up to {}, and no archive takes the topic: what is between is nowhere",
                feeder.next()
            )
        })?;
        archive.fill(&at, &mut feeder, shared).await?;
        ensure!(
            feeder.next() >= first,
            "archive `{}` holds {at} up to {}, and the topic begins at {first}: what is between is nowhere",
            archive.sink,
            feeder.next()
        );
    }
    let (runs, mut queue) = mpsc::channel(8);
    let (kafka, partition, from) = (source.kafka.clone(), at.clone(), feeder.next());
    let reading = tokio::task::spawn_blocking(move || {
        feed::read(&kafka, &partition, from, |run| runs.blocking_send(run).is_ok())
    });
    while let Some(run) = queue.recv().await {
        for record in run {
            push(&mut feeder, record, shared).await?;
        }
        note(&at, &mut feeder, shared);
    }
    let end = reading.await.context("reading a partition panicked")??;
    feeder.flush(end).await?;
    note(&at, &mut feeder, shared);
    Ok((at, feeder))
}

impl Archive {
    /// Takes everything from where the feeder stands to the end of the chain.
    async fn fill(
        &self,
        at: &TopicPartition,
        feeder: &mut Feeder<SearchWriter>,
        shared: &Mutex<Shared>,
    ) -> anyhow::Result<()> {
        for now in self.topics.iter().filter(|now| now.topic == at.topic) {
            topic::ensure_same(&self.store, &self.prefix, now).await?;
        }
        let objects = archive::list(&self.store, &self.prefix, &at.topic).await?;
        for object in objects.iter().filter(|object| object.partition == at.partition) {
            if object.next <= feeder.next() {
                continue;
            }
            ensure!(
                object.first <= feeder.next(),
                "archive `{}` has nothing from {} to {} of {at}",
                self.sink,
                feeder.next(),
                object.first
            );
            if object.records == 0 {
                eprintln!(
                    "  {at}: offsets {} to {} were given up in the archive",
                    object.first,
                    object.next - 1
                );
            }
            for text in archive::lines(&self.store, &object.key).await? {
                let (_, record) = line::read(&text).with_context(|| object.key.clone())?;
                push(feeder, record, shared).await?;
            }
            feeder.pass(object.next);
            note(at, feeder, shared);
        }
        Ok(())
    }
}

async fn push(
    feeder: &mut Feeder<SearchWriter>,
    record: SourceRecord,
    shared: &Mutex<Shared>,
) -> anyhow::Result<()> {
    {
        let mut shared = lock(shared);
        shared.records += 1;
        if let Some(touched) = &mut shared.touched
            && let Ok(address) = touched.shape.address(record.key.as_ref())
        {
            touched.ids.insert(address.id);
        }
    }
    Ok(feeder.push(record).await?)
}

fn note(at: &TopicPartition, feeder: &mut Feeder<SearchWriter>, shared: &Mutex<Shared>) {
    let mut shared = lock(shared);
    shared.filled.insert(at.clone(), feeder.flushed());
    shared.refused.extend(feeder.take_rejected());
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
