//! ```text
//!  flush ──▶ round: cut by pace ──▶ send ──▶ items ──▶ stored, stale        done
//!              ▲                      │        ├─────▶ refused              done, dead letter
//!              │                      │        ├─────▶ busy ── wait ──┐
//!              │                      │        └─────▶ blocked        │ error: the worker waits
//!              │                      ├─▶ 413, 400: halve; alone: dead letter
//!              └──────────────────────┴─▶ 429, 5xx ────── wait ──────┘
//! ```
//! * A lost reply needs no care: everything not known to be done is sent again, and its version decides.
//! * The batch is the writer's own. Dropping a flush midway loses nothing but knowledge.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, histogram};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tailwater_runtime::Backoff;
use tailwater_sinks_worker::dead_letter::Replay;
use tailwater_sinks_worker::source::{Source, Sources};
use tailwater_sinks_worker::{
    Committed, Flushed, Rejected, Resume, Sink, SinkError, SourceRecord, TopicPartition, Writer,
};
use tailwater_topics_contract::{PipelineName, SearchSpec};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::batch::{Batch, Pace};
use crate::bulk::{self, Outcome};
use crate::client::Client;
use crate::document::{self, Wish};
use crate::error::Error;
use crate::index::{self, Index, State};
use crate::metrics::{BULK_BYTES, BULK_SECONDS, DOCUMENTS, SKIPPED};
use crate::shape::Shape;
use crate::succession::{self, Beside};

/// From so many refusals on, when they are more than half of all answers, the mapping is to blame.
const STORM_REFUSALS: usize = 100;

/// How long a writer tries by itself before it tells the worker.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The first wait.
    pub first: Duration,
    /// The longest wait.
    pub most: Duration,
    /// Rounds in a row that bring nothing forward before the flush fails as transient.
    pub rounds: u32,
}

impl Default for Patience {
    /// About ten seconds in all: longer than the pauses of a healthy cluster, shorter than a session.
    fn default() -> Self {
        Self { first: Duration::from_millis(100), most: Duration::from_secs(5), rounds: 8 }
    }
}

/// A search sink. One per process; its writers share the connection pool.
pub struct SearchSink {
    client: Client,
    pipeline: PipelineName,
    spec: Arc<SearchSpec>,
    shape: Arc<Shape>,
    sources: Arc<dyn Sources>,
    patience: Patience,
    /// The index once it was found right, so that not every partition has to ask.
    found: Mutex<Option<Index>>,
}

impl SearchSink {
    /// Does not connect yet; the first `open` looks at the index.
    pub fn new(
        client: Client,
        pipeline: PipelineName,
        spec: SearchSpec,
        sources: impl Sources,
    ) -> Self {
        tailwater_runtime::describe(crate::metrics::ALL);
        let shape = Arc::new(Shape::new(spec.document.clone()));
        let (spec, sources, found) = (Arc::new(spec), Arc::new(sources), Mutex::new(None));
        Self { client, pipeline, spec, shape, sources, patience: Patience::default(), found }
    }

    /// With other waits than the default ones.
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// The shape of its documents.
    pub fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }

    /// The index to write to. A partition that was never written may find none and make it; one that
    /// was must find the very index it was written to, or everything before its offset is lost.
    async fn index(
        &self,
        partition: &TopicPartition,
        source: &Source,
        committed: Option<&Committed>,
    ) -> Result<Index, Error> {
        let missing = |reason: String| Error::NoIndex {
            address: self.client.address().to_owned(),
            alias: self.spec.alias.clone(),
            reason,
        };
        let mut found = self.found.lock().await;
        let mut index = match (&*found, committed) {
            (Some(index), _) => index.clone(),
            (None, None) => index::ensure(&self.client, &self.pipeline, &self.spec).await?,
            (None, Some(_)) => {
                match index::inspect(&self.client, &self.pipeline, &self.spec).await? {
                    State::Ready(index) => index,
                    State::Absent => {
                        let reason = "it is gone, with the documents written before".to_owned();
                        return Err(missing(reason));
                    }
                }
            }
        };
        // Nothing is remembered of an offset that a person committed.
        if let Some(Committed { metadata, offset }) = committed
            && !metadata.is_empty()
            && *metadata != index.to_string()
            && index.filled.get(partition).is_none_or(|filled| filled < offset)
        {
            return Err(missing(format!(
                "documents before offset {offset} went to `{metadata}`, and now there is `{index}`"
            )));
        }
        succession::fill_from(&self.client, &self.spec.alias, &mut index, source).await?;
        *found = Some(index.clone());
        Ok(index)
    }
}

impl Sink for SearchSink {
    type Writer = SearchWriter;

    /// Continues at the committed offset; without one at the beginning of the partition.
    async fn open(
        &self,
        partition: &TopicPartition,
        committed: Option<&Committed>,
    ) -> Result<(SearchWriter, i64), SinkError> {
        let source = self.sources.source(&partition.topic).await?;
        let index = self.index(partition, &source, committed).await?;
        let writer = self.writer(partition, Arc::clone(&self.spec), &index);
        Ok((writer, committed.map_or(0, |committed| committed.offset)))
    }
}

impl SearchSink {
    /// Writes a partition into an index that is not in use, from wherever its records are given.
    pub fn writer_beside(&self, partition: &TopicPartition, beside: &Beside) -> SearchWriter {
        let spec = SearchSpec { alias: beside.alias.clone(), ..SearchSpec::clone(&self.spec) };
        self.writer(partition, Arc::new(spec), &beside.index)
    }

    fn writer(
        &self,
        partition: &TopicPartition,
        spec: Arc<SearchSpec>,
        index: &Index,
    ) -> SearchWriter {
        // Partitions must not wait in step; no two have the same name.
        let mut seed = DefaultHasher::new();
        partition.hash(&mut seed);
        let Patience { first, most, rounds } = self.patience;
        SearchWriter {
            client: self.client.clone(),
            partition: partition.clone(),
            index: index.to_string(),
            pace: Pace::new(usize::try_from(spec.bulk.operations).unwrap_or(usize::MAX)),
            spec,
            shape: Arc::clone(&self.shape),
            batch: Batch::default(),
            truncated: None,
            rejected: Vec::new(),
            answered: 0,
            backoff: Backoff::new(first, most, StdRng::seed_from_u64(seed.finish())),
            rounds,
        }
    }
}

/// Every document has its row's sequence as its version, so an older record never replaces a newer one.
impl Replay for SearchSink {
    /// A truncation ends every row before it.
    fn supersedes(&self, later: &SourceRecord, earlier: &SourceRecord) -> bool {
        let is_same_row = later.key.is_some() && later.key == earlier.key;
        let truncates = || {
            let read = document::read(&self.shape, later.key.as_ref(), later.value.as_ref());
            matches!(read, Ok(Wish::Truncate))
        };
        is_same_row || truncates()
    }
}

/// Writes one partition.
pub struct SearchWriter {
    client: Client,
    partition: TopicPartition,
    /// Committed along with every offset: which index holds what is below it.
    index: String,
    spec: Arc<SearchSpec>,
    shape: Arc<Shape>,
    batch: Batch,
    /// Offset of a truncation in the open batch; nothing behind it is taken.
    truncated: Option<i64>,
    /// Refused by the index since the last finished flush.
    rejected: Vec<Rejected>,
    /// Items answered for good since then.
    answered: usize,
    pace: Pace,
    backoff: Backoff<StdRng>,
    rounds: u32,
}

/// What one request came to.
enum Sent {
    /// Every item got its outcome.
    Answered,
    /// The request as a whole was refused, because of its size or because of some item in it.
    Split { class: &'static str, reason: String },
    /// The cluster has too much to do.
    Busy { reason: String },
}

impl SearchWriter {
    /// Sends everything once. Answers why something is left, if the cluster was busy.
    async fn round(&mut self) -> Result<Option<String>, Error> {
        let bytes = usize::try_from(self.spec.bulk.bytes).unwrap_or(usize::MAX);
        let mut queue: VecDeque<Range<usize>> =
            self.batch.cut(self.pace.operations(), bytes).into();
        let mut busy = None;
        while let Some(range) = queue.pop_front() {
            match self.send(range.clone(), &mut busy).await? {
                Sent::Answered => {}
                Sent::Busy { reason } => {
                    self.pace.on_busy();
                    busy = Some(reason);
                    break;
                }
                Sent::Split { class, reason } if range.len() == 1 => {
                    self.reject(range.start, class, reason);
                }
                Sent::Split { .. } => {
                    let middle = range.start + range.len() / 2;
                    queue.push_front(middle..range.end);
                    queue.push_front(range.start..middle);
                }
            }
            self.check_storm()?;
        }
        Ok(busy)
    }

    /// Sends one request and notes what became of its items.
    async fn send(
        &mut self,
        range: Range<usize>,
        busy: &mut Option<String>,
    ) -> Result<Sent, Error> {
        let operations = || self.batch.items(range.clone()).iter().map(|item| &item.operation);
        let alias = self.spec.alias.as_str();
        if operations().all(|operation| operation.document.is_none())
            && !index::alias_exists(&self.client, alias).await?
        {
            return Err(self.no_index("the alias is missing".to_owned()));
        }
        let body = bulk::encode(operations());
        counter!(BULK_BYTES, "alias" => alias.to_owned()).increment(body.len() as u64);
        let started = Instant::now();
        let reply = self.client.bulk(alias, body).await?;
        histogram!(BULK_SECONDS, "alias" => alias.to_owned()).record(started.elapsed());

        match reply.status.as_u16() {
            200 => {}
            413 => {
                self.pace.on_busy();
                let reason =
                    format!("the document is larger than the server takes: {}", reply.reason().1);
                return Ok(Sent::Split { class: "too-large", reason });
            }
            400 => return Ok(Sent::Split { class: "refused", reason: reply.reason().1 }),
            _ => {
                return match self.client.refusal(&reply) {
                    Some(Error::Busy { reason, .. }) => Ok(Sent::Busy { reason }),
                    Some(error) => Err(error),
                    None => Err(self.client.unexpected(format!("POST /{alias}/_bulk"), &reply)),
                };
            }
        }
        let outcomes = bulk::decode(&reply.body, operations()).map_err(|source| {
            Error::BadReply { address: self.client.address().to_owned(), source }
        })?;
        self.note(range.start, outcomes, busy)?;
        Ok(Sent::Answered)
    }

    /// Applies the outcomes of one request to the batch. An error comes only after all were applied.
    fn note(
        &mut self,
        start: usize,
        outcomes: Vec<Outcome>,
        busy: &mut Option<String>,
    ) -> Result<(), Error> {
        let (mut stored, mut stale, mut retried) = (0, 0, 0);
        let mut failure = None;
        for (place, outcome) in (start..).zip(outcomes) {
            self.batch.item(place).attempts += 1;
            match outcome {
                Outcome::Stored => stored += 1,
                Outcome::Stale => stale += 1,
                Outcome::Refused(reason) => {
                    self.reject(place, "refused", reason);
                    continue;
                }
                Outcome::Busy(reason) => {
                    retried += 1;
                    *busy = Some(reason);
                    continue;
                }
                Outcome::Blocked(reason) => {
                    failure = Some(Error::Blocked {
                        address: self.client.address().to_owned(),
                        alias: self.spec.alias.clone(),
                        reason,
                    });
                    continue;
                }
                Outcome::NoIndex(reason) => {
                    failure = Some(self.no_index(reason));
                    continue;
                }
                Outcome::Denied(reason) => {
                    failure = Some(self.client.denied(403, reason));
                    continue;
                }
            }
            self.batch.item(place).done = true;
        }
        self.answered += stored + stale;
        if retried > 0 {
            self.pace.on_busy();
        } else {
            self.pace.on_success();
        }
        self.count("stored", stored);
        self.count("stale", stale);
        self.count("retried", retried);
        failure.map_or(Ok(()), Err)
    }

    fn reject(&mut self, place: usize, class: &'static str, reason: String) {
        let (record, attempts) = self.batch.refuse(place);
        self.rejected.push(Rejected { record, class, reason, attempts: attempts.max(1) });
        self.answered += 1;
        self.count("refused", 1);
    }

    /// Many refusals at once are a mistake of ours in the mapping, not of the documents.
    fn check_storm(&self) -> Result<(), Error> {
        let refused = self.rejected.len();
        match self.rejected.last() {
            Some(last) if refused >= STORM_REFUSALS && refused * 2 > self.answered => {
                Err(Error::Storm {
                    alias: self.spec.alias.clone(),
                    refused,
                    answered: self.answered,
                    reason: last.reason.clone(),
                })
            }
            _ => Ok(()),
        }
    }

    fn no_index(&self, reason: String) -> Error {
        Error::NoIndex {
            address: self.client.address().to_owned(),
            alias: self.spec.alias.clone(),
            reason,
        }
    }

    fn count(&self, outcome: &'static str, documents: usize) {
        if documents > 0 {
            counter!(DOCUMENTS, "alias" => self.spec.alias.clone(), "outcome" => outcome)
                .increment(documents as u64);
        }
    }

    /// Rounds, with waits between them, until nothing is left.
    async fn write_all(&mut self) -> Result<(), Error> {
        let mut idle_rounds = 0;
        while !self.batch.is_empty() {
            let before = self.answered;
            let round = self.round().await;
            self.batch.settle();
            let busy = round?;
            if self.batch.is_empty() {
                break;
            }
            idle_rounds = if self.answered > before { 0 } else { idle_rounds + 1 };
            if busy.is_none() {
                // Only what came back in place of something refused.
                continue;
            }
            let reason = busy.unwrap_or_default();
            if idle_rounds >= self.rounds {
                return Err(Error::Busy { address: self.client.address().to_owned(), reason });
            }
            if idle_rounds == 0 {
                self.backoff.reset();
            }
            let wait = self.backoff.next().unwrap_or_default();
            tracing::debug!(
                partition = %self.partition,
                left = self.batch.len(),
                wait_ms = wait.as_millis() as u64,
                "`{}` is busy",
                self.spec.alias
            );
            tokio::time::sleep(wait).await;
        }
        self.backoff.reset();
        Ok(())
    }
}

impl Writer for SearchWriter {
    fn push(&mut self, record: SourceRecord) -> Result<(), Rejected> {
        if self.truncated.is_some() {
            // The flush will stop the partition, and all of this comes again.
            return Ok(());
        }
        match document::read(&self.shape, record.key.as_ref(), record.value.as_ref()) {
            Ok(Wish::Write(operation)) => {
                if self.batch.push(operation, record) {
                    self.count("superseded", 1);
                }
                Ok(())
            }
            Ok(Wish::Nothing) => {
                counter!(SKIPPED, "alias" => self.spec.alias.clone()).increment(1);
                Ok(())
            }
            Ok(Wish::Truncate) => {
                self.truncated = Some(record.offset);
                Ok(())
            }
            Err(unusable) => Err(Rejected {
                record,
                class: unusable.class(),
                reason: unusable.to_string(),
                attempts: 0,
            }),
        }
    }

    fn buffered_bytes(&self) -> usize {
        let kept = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
        let rejected = self.rejected.iter();
        let rejected = rejected.map(|one| kept(&one.record.key) + kept(&one.record.value));
        self.batch.memory_bytes() + rejected.sum::<usize>()
    }

    fn is_full(&self) -> bool {
        self.truncated.is_some()
            || self.batch.len() as u64 >= self.spec.bulk.operations
            || self.batch.encoded_bytes() as u64 >= self.spec.bulk.bytes
    }

    fn age_limit(&self) -> Duration {
        Duration::from_millis(self.spec.bulk.age_ms)
    }

    async fn flush(&mut self, next: i64) -> Result<Flushed, SinkError> {
        self.write_all().await?;
        if let Some(offset) = self.truncated {
            return Err(Error::Truncated {
                partition: self.partition.clone(),
                offset,
                after: offset + 1,
                alias: self.spec.alias.clone(),
            }
            .into());
        }
        self.answered = 0;
        Ok(Flushed {
            next,
            metadata: self.index.clone(),
            resume: Resume::Continue,
            rejected: std::mem::take(&mut self.rejected),
        })
    }
}
