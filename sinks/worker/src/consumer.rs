//! The consumer group: assignment, fetching, seeking, committing.
//!
//! ```text
//!  rebalance ──▶ assigned: paused, committed offsets looked up ──▶ partition task opens its sink
//!                revoked: drain the tasks, commit, then let go · lost: abandon them, commit nothing
//!  poll ──▶ runs of records ──▶ partition queue (full: hold the run, pause the partition)
//!  asked by tasks: commit (the latest of each partition), seek, stop
//! ```
//!
//! * Everything here happens on one thread, so a revocation cannot overtake a record or a commit.
//! * Partitions are assigned at the offset that was committed, or at the one registered, and paused until the sink
//!   has said where it goes on. `auto.offset.reset` is `error`: no offset is ever guessed.
//! * Offsets are committed asynchronously and only the latest counts, save on revocation and at the end, where the
//!   commit is awaited.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use tailwater_runtime::Health;
use tailwater_topics_contract::SinkName;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::budget::Budget;
use crate::metrics;
use crate::partition::{DeadLetters, Ending, Group, Input, Partition, Usage, size};
use crate::sink::{Committed, Sink, SourceRecord, TopicPartition};

/// Runs of records that a partition may have waiting.
const QUEUE_RUNS: usize = 16;
/// Records taken from the client before they are handed on.
const BURST: usize = 500;
/// How long one look at an empty client lasts; also how long a seek or commit waits at most for its turn.
const LOOK: Duration = Duration::from_millis(10);
/// How long a broker may take to answer a question about offsets.
const ASK: Duration = Duration::from_secs(10);
/// How long a revoked partition may flush. Well below the session time-out of ten seconds, so that the group does not
/// count us as dead meanwhile.
const REVOKE_GRACE: Duration = Duration::from_secs(6);

/// What partitions ask for; the newest wish of each counts, so this is bounded by their number.
#[derive(Debug, Default)]
struct Wishes {
    commits: BTreeMap<TopicPartition, (i64, String)>,
    seeks: BTreeMap<TopicPartition, i64>,
    stopped: HashSet<TopicPartition>,
}

/// Where partitions leave what they ask for.
#[derive(Debug, Default)]
pub(crate) struct Mailbox(Mutex<Wishes>);

impl Mailbox {
    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        // Every change is one call on one map, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group for Mailbox {
    fn commit(&self, partition: &TopicPartition, next: i64, metadata: String) {
        self.wishes().commits.insert(partition.clone(), (next, metadata));
    }

    fn seek(&self, partition: &TopicPartition, offset: i64) {
        self.wishes().seeks.insert(partition.clone(), offset);
    }

    fn stop(&self, partition: &TopicPartition) {
        self.wishes().stopped.insert(partition.clone());
    }
}

/// What every partition task is made from.
pub(crate) struct Maker<S, D> {
    pub(crate) sink_name: SinkName,
    pub(crate) sink: Arc<S>,
    pub(crate) dead_letters: Arc<D>,
    pub(crate) health: Health,
    pub(crate) tasks: Handle,
    /// Where each partition begins for this sink, as registered.
    pub(crate) origins: HashMap<TopicPartition, i64>,
}

/// A partition that is ours.
struct Owned {
    inputs: mpsc::Sender<Input>,
    task: JoinHandle<()>,
    ending: Ending,
    usage: Arc<Usage>,
    /// A run that did not fit.
    held: Option<Vec<SourceRecord>>,
    /// Nothing was committed yet: the sink may not begin before this.
    origin: Option<i64>,
    /// Waits for its sink to say where to go on.
    opening: bool,
    stopped: bool,
    paused: bool,
}

/// The partitions that are ours; shared with the rebalance callback, which runs on the same thread.
struct Assignment<S, D> {
    maker: Maker<S, D>,
    mailbox: Arc<Mailbox>,
    owned: Mutex<BTreeMap<TopicPartition, Owned>>,
}

/// The consumer's callbacks.
pub(crate) struct Callbacks<S, D>(Assignment<S, D>);

impl<S: Sink, D: DeadLetters> ClientContext for Callbacks<S, D> {}

impl<S: Sink, D: DeadLetters> ConsumerContext for Callbacks<S, D> {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        err: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let done = match err {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.0.assign(consumer, list),
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => self.0.revoke(consumer, list),
            other => {
                let error: RDKafkaErrorCode = other.into();
                tracing::error!(%error, "rebalance failed");
                consumer.unassign()
            }
        };
        if let Err(error) = done {
            // The client goes on with what it had; the group's next rebalance mends it.
            tracing::error!(%error, "rebalance could not be carried out");
        }
    }

    fn commit_callback(&self, result: Result<(), KafkaError>, _: &TopicPartitionList) {
        if let Err(error) = result {
            // The sink holds the truth; the next commit says the same or more.
            tracing::warn!(%error, "offsets were not committed");
        }
    }
}

impl<S: Sink, D: DeadLetters> Assignment<S, D> {
    fn owned(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, Owned>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn assign(
        &self,
        consumer: &BaseConsumer<Callbacks<S, D>>,
        list: &mut TopicPartitionList,
    ) -> Result<(), KafkaError> {
        let mut named = TopicPartitionList::new();
        for element in list.elements() {
            named.add_partition(element.topic(), element.partition());
        }
        let known = consumer.committed_offsets(named, ASK)?;
        let mut starts = TopicPartitionList::new();
        let mut begin = Vec::new();
        for element in known.elements() {
            let Some(id) = id(element.topic(), element.partition()) else { continue };
            let committed = match element.offset() {
                Offset::Offset(offset) => {
                    Some(Committed { offset, metadata: element.metadata().to_owned() })
                }
                _ => None,
            };
            let origin = self.maker.origins.get(&id).copied().unwrap_or(0);
            let start = committed.as_ref().map_or(origin, |committed| committed.offset);
            starts.add_partition_offset(
                element.topic(),
                element.partition(),
                Offset::Offset(start),
            )?;
            let origin = committed.is_none().then_some(origin);
            begin.push((id, committed, origin));
        }
        consumer.incremental_assign(&starts)?;
        consumer.pause(&starts)?;
        for (id, committed, origin) in begin {
            tracing::info!(partition = %id, committed = ?committed.as_ref().map(|c| c.offset), "assigned");
            let owned = self.start(id.clone(), committed, origin);
            self.owned().insert(id, owned);
        }
        self.maker.health.ready("group");
        Ok(())
    }

    fn start(
        &self,
        id: TopicPartition,
        committed: Option<Committed>,
        origin: Option<i64>,
    ) -> Owned {
        let (inputs, queue) = mpsc::channel(QUEUE_RUNS);
        let ending = Ending::default();
        let usage = Arc::new(Usage::default());
        let partition = Partition {
            sink_name: self.maker.sink_name.clone(),
            id,
            sink: self.maker.sink.clone(),
            group: self.mailbox.clone(),
            dead_letters: self.maker.dead_letters.clone(),
            health: self.maker.health.clone(),
            usage: usage.clone(),
            ending: ending.clone(),
        };
        let task = self.maker.tasks.spawn(partition.run(committed, queue));
        Owned {
            inputs,
            task,
            ending,
            usage,
            held: None,
            origin,
            opening: true,
            stopped: false,
            paused: true,
        }
    }

    fn revoke(
        &self,
        consumer: &BaseConsumer<Callbacks<S, D>>,
        list: &TopicPartitionList,
    ) -> Result<(), KafkaError> {
        let ids: Vec<TopicPartition> =
            list.elements().iter().filter_map(|e| id(e.topic(), e.partition())).collect();
        let lost = consumer.assignment_lost();
        self.end(&ids, if lost { None } else { Some(REVOKE_GRACE) });
        let mut commits = BTreeMap::new();
        {
            let mut wishes = self.mailbox.wishes();
            for id in &ids {
                wishes.seeks.remove(id);
                wishes.stopped.remove(id);
                commits.extend(wishes.commits.remove_entry(id).filter(|_| !lost));
            }
        }
        tracing::info!(partitions = ids.len(), lost, "revoked");
        commit(consumer, &commits, CommitMode::Sync);
        consumer.incremental_unassign(list)
    }

    /// Ends the tasks of these partitions: within `grace` by draining, after it, or without it, at once.
    fn end(&self, ids: &[TopicPartition], grace: Option<Duration>) {
        let ending: Vec<Owned> = {
            let mut owned = self.owned();
            ids.iter().filter_map(|id| owned.remove(id)).collect()
        };
        let deadline = grace.map(|grace| Instant::now() + grace);
        for owned in &ending {
            match deadline {
                Some(_) => owned.ending.drain.cancel(),
                None => owned.ending.abandon.cancel(),
            }
        }
        for owned in ending {
            let Owned { mut task, ending, .. } = owned;
            self.maker.tasks.block_on(async {
                if let Some(deadline) = deadline
                    && tokio::time::timeout_at(deadline.into(), &mut task).await.is_ok()
                {
                    return;
                }
                ending.abandon.cancel();
                // Abandoned at its next await, which no task is far from.
                let _ = task.await;
            });
        }
    }
}

/// The thread's whole state.
pub(crate) struct Fetcher<S: Sink, D: DeadLetters> {
    consumer: BaseConsumer<Callbacks<S, D>>,
    budget: Budget,
    sink_name: SinkName,
    over_budget: bool,
}

impl<S: Sink, D: DeadLetters> Fetcher<S, D> {
    pub(crate) fn new(
        settings: &rdkafka::ClientConfig,
        topics: &[&str],
        maker: Maker<S, D>,
        budget: Budget,
    ) -> Result<Self, KafkaError> {
        let sink_name = maker.sink_name.clone();
        let assignment = Assignment { maker, mailbox: Arc::default(), owned: Mutex::default() };
        let consumer: BaseConsumer<Callbacks<S, D>> =
            settings.create_with_context(Callbacks(assignment))?;
        consumer.subscribe(topics)?;
        Ok(Self { consumer, budget, sink_name, over_budget: false })
    }

    /// Runs until told to stop, then drains, commits and leaves the group.
    pub(crate) fn run(
        mut self,
        stop: &CancellationToken,
        grace: Duration,
    ) -> Result<(), KafkaError> {
        let mut ended = Ok(());
        while !stop.is_cancelled() {
            if let Err(error) = self.turn() {
                ended = Err(error);
                break;
            }
        }
        self.drain(grace);
        ended
    }

    fn turn(&mut self) -> Result<(), KafkaError> {
        self.commit(CommitMode::Async);
        self.seek();
        self.watch_budget();
        self.pause_and_resume()?;
        self.fetch()
    }

    fn assignment(&self) -> &Assignment<S, D> {
        &self.consumer.context().0
    }

    fn commit(&self, mode: CommitMode) {
        let commits = std::mem::take(&mut self.assignment().mailbox.wishes().commits);
        for (id, (next, _)) in &commits {
            let labels = [
                ("sink", self.sink_name.to_string()),
                ("topic", id.topic.to_string()),
                ("partition", id.partition.to_string()),
            ];
            ::metrics::gauge!(metrics::COMMITTED_OFFSET, &labels).set(*next as f64);
        }
        commit(&self.consumer, &commits, mode);
    }

    /// Carries out what partitions asked for, as far as it can be done now.
    fn seek(&self) {
        let (seeks, stopped) = {
            let mut wishes = self.assignment().mailbox.wishes();
            (std::mem::take(&mut wishes.seeks), std::mem::take(&mut wishes.stopped))
        };
        let mut owned = self.assignment().owned();
        for id in stopped {
            if let Some(owned) = owned.get_mut(&id) {
                owned.stopped = true;
            }
        }
        for (id, offset) in seeks {
            let Some(owned) = owned.get_mut(&id) else { continue };
            let offset = owned.origin.take().map_or(offset, |origin| offset.max(origin));
            if let Err(again) = self.seek_one(&id, owned, offset) {
                tracing::debug!(partition = %id, offset, error = %again, "not there yet");
                self.assignment().mailbox.wishes().seeks.entry(id).or_insert(offset);
            }
        }
    }

    fn seek_one(&self, id: &TopicPartition, owned: &mut Owned, offset: i64) -> Result<(), String> {
        let topic = id.topic.as_str();
        let watermarks = self.consumer.fetch_watermarks(topic, id.partition, ASK);
        let (low, high) = watermarks.map_err(|error| error.to_string())?;
        if let Some(why) = outside(offset, low, high) {
            tracing::error!(partition = %id, why, "partition stopped; it needs a person");
            self.assignment().maker.health.not_ready(&id.to_string(), why);
            owned.stopped = true;
            return Ok(());
        }
        self.consumer
            .seek(topic, id.partition, Offset::Offset(offset), ASK)
            .map_err(|error| error.to_string())?;
        if let Some(run) = owned.held.take() {
            owned.usage.on_taken(run.iter().map(size).sum());
        }
        // A full queue belongs to a task that is dropping what it holds; it will have room at the next turn.
        owned.inputs.try_send(Input::Sought).map_err(|_| "its queue is full".to_owned())?;
        owned.opening = false;
        Ok(())
    }

    fn watch_budget(&mut self) {
        let (held, decision) = {
            let owned = self.consumer.context().0.owned();
            let usage = owned.iter().map(|(id, owned)| (id, owned.usage.bytes()));
            let (held, decision) = self.budget.on_usage(usage);
            if let Some(biggest) = decision.flush.as_ref().and_then(|id| owned.get(id)) {
                // A full queue means that it is busy flushing or pushing already.
                let _ = biggest.inputs.try_send(Input::Flush);
            }
            (held, decision)
        };
        self.over_budget = decision.paused;
        let label = [("sink", self.sink_name.to_string())];
        ::metrics::gauge!(metrics::HELD_BYTES, &label).set(held as f64);
        ::metrics::gauge!(metrics::PAUSED, &label).set(f64::from(u8::from(decision.paused)));
    }

    fn pause_and_resume(&self) -> Result<(), KafkaError> {
        let (mut pause, mut resume) = (TopicPartitionList::new(), TopicPartitionList::new());
        let mut stopped = 0;
        for (id, owned) in self.assignment().owned().iter_mut() {
            stopped += u32::from(owned.stopped);
            if let Some(run) = owned.held.take() {
                hand_over(owned, run);
            }
            let wanted = owned.opening || owned.stopped || owned.held.is_some() || self.over_budget;
            if wanted != owned.paused {
                owned.paused = wanted;
                let list = if wanted { &mut pause } else { &mut resume };
                list.add_partition(id.topic.as_str(), id.partition);
            }
        }
        let label = [("sink", self.sink_name.to_string())];
        ::metrics::gauge!(metrics::STOPPED_PARTITIONS, &label).set(stopped);
        if pause.count() > 0 {
            self.consumer.pause(&pause)?;
        }
        if resume.count() > 0 {
            self.consumer.resume(&resume)?;
        }
        Ok(())
    }

    /// Takes a burst of records and hands each partition its run.
    fn fetch(&self) -> Result<(), KafkaError> {
        let mut runs: BTreeMap<TopicPartition, Vec<SourceRecord>> = BTreeMap::new();
        let mut wait = LOOK;
        for _ in 0..BURST {
            match self.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => {
                    if let Some(id) = id(message.topic(), message.partition()) {
                        runs.entry(id).or_default().push(record(&message));
                    }
                }
                Some(Err(error)) => self.on_error(error)?,
            }
            wait = Duration::ZERO;
        }
        let mut owned = self.assignment().owned();
        for (id, run) in runs {
            self.count(&id, &run);
            if let Some(owned) = owned.get_mut(&id) {
                owned.usage.on_queued(run.iter().map(size).sum());
                match &mut owned.held {
                    // Fetched before the pause took effect.
                    Some(held) => held.extend(run),
                    None => hand_over(owned, run),
                }
            }
        }
        Ok(())
    }

    fn count(&self, id: &TopicPartition, run: &[SourceRecord]) {
        let labels = [("sink", self.sink_name.to_string()), ("topic", id.topic.to_string())];
        let length = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len) as u64;
        let bytes = run.iter().map(|record| length(&record.key) + length(&record.value)).sum();
        ::metrics::counter!(metrics::RECORDS, &labels).increment(run.len() as u64);
        ::metrics::counter!(metrics::BYTES, &labels).increment(bytes);
    }

    /// Errors of the client: most mend themselves.
    fn on_error(&self, error: KafkaError) -> Result<(), KafkaError> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                self.stop_what_is_outside();
                Ok(())
            }
            Some(RDKafkaErrorCode::Fatal) => Err(error),
            _ => {
                tracing::warn!(%error, "the consumer reports");
                Ok(())
            }
        }
    }

    /// The client does not say which partition left the log, so all are looked at.
    fn stop_what_is_outside(&self) {
        let Ok(positions) = self.consumer.position() else { return };
        let mut all = self.assignment().owned();
        for (id, owned) in all.iter_mut().filter(|(_, owned)| !owned.opening) {
            let element = positions.find_partition(id.topic.as_str(), id.partition);
            let Some(Offset::Offset(offset)) = element.map(|element| element.offset()) else {
                continue;
            };
            let watermarks = self.consumer.fetch_watermarks(id.topic.as_str(), id.partition, ASK);
            if let Ok((low, high)) = watermarks
                && let Some(why) = outside(offset, low, high)
            {
                tracing::error!(partition = %id, why, "partition stopped; it needs a person");
                self.assignment().maker.health.not_ready(&id.to_string(), why);
                owned.stopped = true;
            }
        }
    }

    fn drain(&self, grace: Duration) {
        let ids: Vec<TopicPartition> = self.assignment().owned().keys().cloned().collect();
        self.assignment().end(&ids, Some(grace));
        self.commit(CommitMode::Sync);
        self.consumer.unsubscribe();
    }
}

fn hand_over(owned: &mut Owned, run: Vec<SourceRecord>) {
    // A closed queue means that the task has ended and the partition is about to be revoked.
    if let Err(TrySendError::Full(Input::Records(run))) = owned.inputs.try_send(Input::Records(run))
    {
        owned.held = Some(run);
    }
}

/// Why an offset cannot be read, if it cannot.
fn outside(offset: i64, low: i64, high: i64) -> Option<String> {
    if offset < low {
        Some(format!(
            "records {offset} to {} were deleted by the topic's retention before this sink stored them; register the sink anew to go on from {low}",
            low - 1
        ))
    } else if offset > high {
        Some(format!(
            "the sink stands at {offset}, the topic ends at {high}: the topic was re-created or truncated; register the sink anew for the new topic"
        ))
    } else {
        None
    }
}

fn commit<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    commits: &BTreeMap<TopicPartition, (i64, String)>,
    mode: CommitMode,
) {
    if commits.is_empty() {
        return;
    }
    let mut list = TopicPartitionList::new();
    for (id, (next, metadata)) in commits {
        let mut element = list.add_partition(id.topic.as_str(), id.partition);
        // Both only fail on values that the client could not send: offsets are never negative, metadata is text.
        let _ = element.set_offset(Offset::Offset(*next));
        element.set_metadata(metadata);
    }
    if let Err(error) = consumer.commit(&list, mode) {
        // The sink holds the truth, so this costs reading again and nothing else.
        tracing::warn!(%error, "offsets were not committed");
    }
}

fn id(topic: &str, partition: i32) -> Option<TopicPartition> {
    Some(TopicPartition { topic: topic.parse().ok()?, partition })
}

fn record(message: &BorrowedMessage<'_>) -> SourceRecord {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        let header = |header: rdkafka::message::Header<'_, &[u8]>| {
            (header.key.to_owned(), header.value.map(Bytes::copy_from_slice))
        };
        headers.iter().map(header).collect()
    });
    SourceRecord {
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
        key: message.key().map(Bytes::copy_from_slice),
        value: message.payload().map(Bytes::copy_from_slice),
        headers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_outside_the_log_is_named_with_its_remedy() {
        assert_eq!(outside(5, 5, 5), None);
        assert_eq!(outside(5, 0, 9), None);
        assert!(
            outside(4, 5, 9).is_some_and(|why| why.contains("4 to 4") && why.contains("retention"))
        );
        assert!(outside(10, 5, 9).is_some_and(|why| why.contains("re-created")));
    }
}
