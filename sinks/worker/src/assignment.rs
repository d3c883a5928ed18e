//! The partitions that are ours, from the group's word to the group's word.
//!
//! ```text
//!  assigned ──▶ unknown ──what did the group commit?──▶ opening ──the sink says where──▶ away ──▶ reading
//!                 ▲ no answer: again, later                         ▲ is that still in the log?  │
//!                 └──                                               └──── lost its place ────────┤
//!                                                            not in the log, or the sink refuses ▼
//!                                                                                             stopped
//! ```
//!
//! * A partition is fetched only while it is read. Until then, and once it has stopped, the client holds nothing of it.
//! * Nothing here waits for a broker, save for a revoked partition's last flush and commit: questions are asked on
//!   other threads, and the answers come by mail.
//! * One partition without a leader is not ready; the others are read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use tailwater_runtime::Health;
use tailwater_topics_contract::SinkName;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::budget::Flush;
use crate::commits::{Commits, Offsets};
use crate::error::WorkerError;
use crate::mailbox::{Answer, Mailbox, Said};
use crate::metrics;
use crate::partition::{Account, DeadLetters, Ending, Input, Partition};
use crate::sink::{Committed, Sink, TopicPartition};

/// Runs of records that a partition may have waiting.
const QUEUE_RUNS: usize = 8;
/// How long a revoked partition may flush. Well below the session time-out of ten seconds, so that the group does not
/// count us as dead meanwhile.
const REVOKE_GRACE: Duration = Duration::from_secs(6);
/// How long a revoked partition's commit may take on top of that.
const REVOKE_COMMIT: Duration = Duration::from_secs(2);
/// First and longest pause before a broker is asked again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// How often the end of a stopped partition is looked at: only its lag depends on it.
const STOPPED_LOOK: Duration = Duration::from_secs(15);

/// The client.
pub(crate) type Client<S, D> = BaseConsumer<Callbacks<S, D>>;

/// Why offsets are not with the group.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotCommitted {
    #[error("the consumer is closed")]
    Closed,
    #[error("no thread could be had for it: {0}")]
    NoThread(std::io::Error),
    #[error(transparent)]
    Refused(KafkaError),
    #[error("no answer within {most:.1?}")]
    NoAnswer { most: Duration },
}

impl NotCommitted {
    /// Whether the group takes them once it has divided its partitions.
    pub(crate) fn is_for_now(&self) -> bool {
        use RDKafkaErrorCode::{IllegalGeneration, RebalanceInProgress};
        let Self::Refused(KafkaError::ConsumerCommit(code)) = self else { return false };
        // The generation of before is refused when the client has yet to hear of the next.
        matches!(code, RebalanceInProgress | IllegalGeneration)
    }
}

/// What becomes of a commit that was sent.
pub(crate) type Answered = std::sync::mpsc::Receiver<Result<(), KafkaError>>;

/// What every partition task is made from.
pub(crate) struct Maker<S, D> {
    pub(crate) sink_name: SinkName,
    pub(crate) sink: Arc<S>,
    pub(crate) dead_letters: Arc<D>,
    pub(crate) health: Health,
    pub(crate) tasks: Handle,
    /// How many partitions may ask something of the destination at once.
    pub(crate) turns: Arc<Semaphore>,
    /// Where each partition begins for this sink, as registered.
    pub(crate) origins: HashMap<TopicPartition, i64>,
}

/// How far a partition has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// What the group has committed is asked for at this time, after so many failures.
    Unknown { at: Instant, failures: u32 },
    /// The sink looks for its place.
    Opening,
    /// To be read from [`Owned::position`] on, if that is in the log, which is asked at this time.
    Away { at: Instant, failures: u32 },
    /// Fetched and handed on.
    Reading,
    /// Cannot be read on; its task is told as soon as its queue has room.
    Unreadable(String),
    /// Waits for a person. Its end is asked for at this time.
    Stopped { at: Instant },
}

/// What is to be asked of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    Committed,
    Ends,
}

/// What follows from an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Nothing,
    /// Start the task.
    Start(Option<Committed>),
    /// Fetch from the position on.
    Read,
    /// Say that it is not ready, and why.
    Wait(String),
}

/// A partition that is ours.
pub(crate) struct Owned {
    /// Which time of owning it this is.
    pub(crate) assignment: u64,
    pub(crate) phase: Phase,
    asked: bool,
    /// Next offset to be taken from the client, once it is known.
    pub(crate) position: i64,
    /// The sink may not begin before this, if nothing was committed yet.
    origin: Option<i64>,
    /// End of the log, as a reader of committed records sees it.
    pub(crate) end: Option<i64>,
    /// Whether the client fetches it.
    pub(crate) fetched: bool,
    pub(crate) running: Option<Running>,
}

/// The task of a partition.
pub(crate) struct Running {
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) task: JoinHandle<()>,
    pub(crate) ending: Ending,
    pub(crate) account: Arc<Account>,
}

impl Owned {
    fn new(assignment: u64, now: Instant, origin: i64) -> Self {
        Self {
            assignment,
            phase: Phase::Unknown { at: now, failures: 0 },
            asked: false,
            position: origin,
            origin: Some(origin),
            end: None,
            fetched: false,
            running: None,
        }
    }

    /// What is to be asked now; it counts as asked.
    pub(crate) fn question(&mut self, now: Instant) -> Option<Question> {
        let (question, due) = match &self.phase {
            Phase::Unknown { at, .. } => (Question::Committed, now >= *at),
            Phase::Away { at, .. } | Phase::Stopped { at } => (Question::Ends, now >= *at),
            Phase::Opening | Phase::Reading | Phase::Unreadable(_) => return None,
        };
        let asks = due && !self.asked;
        self.asked |= asks;
        asks.then_some(question)
    }

    /// The sink wants to read from here on.
    pub(crate) fn on_seek(&mut self, now: Instant, offset: i64) {
        self.position = self.origin.take().map_or(offset, |origin| offset.max(origin));
        self.phase = Phase::Away { at: now, failures: 0 };
    }

    /// The client has lost its place.
    pub(crate) fn on_lost_place(&mut self, now: Instant) {
        if self.phase == Phase::Reading {
            self.phase = Phase::Away { at: now, failures: 0 };
        }
    }

    /// A broker has answered, or has not.
    pub(crate) fn on_said(&mut self, now: Instant, said: Said) -> Step {
        self.asked = false;
        match (said, &self.phase) {
            (Said::Committed(Ok(committed)), Phase::Unknown { .. }) => {
                if committed.is_some() {
                    self.origin = None;
                }
                self.phase = Phase::Opening;
                Step::Start(committed)
            }
            (Said::Committed(Err(why)), Phase::Unknown { failures, .. }) => {
                let failures = failures + 1;
                self.phase = Phase::Unknown { at: now + pause(failures), failures };
                Step::Wait(format!("what the group has committed cannot be read: {why}"))
            }
            (Said::Ends(Ok((low, high))), Phase::Away { .. }) => {
                self.end = Some(high);
                match outside(self.position, low, high) {
                    Some(why) => {
                        self.phase = Phase::Unreadable(why);
                        Step::Nothing
                    }
                    None => Step::Read,
                }
            }
            (Said::Ends(Err(why)), Phase::Away { failures, .. }) => {
                let failures = failures + 1;
                self.phase = Phase::Away { at: now + pause(failures), failures };
                Step::Wait(format!("the ends of the log cannot be read: {why}"))
            }
            (Said::Ends(said), Phase::Stopped { .. }) => {
                self.end = said.map_or(self.end, |(_, high)| Some(high));
                self.phase = Phase::Stopped { at: now + STOPPED_LOOK };
                Step::Nothing
            }
            // Asked in another phase.
            _ => Step::Nothing,
        }
    }

    /// Whether its task takes another run of records.
    pub(crate) fn has_room(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.inputs.capacity() > 0)
    }

    /// Hands something to its task; false when that has no room.
    pub(crate) fn give(&self, input: Input) -> bool {
        self.running.as_ref().is_some_and(|running| running.inputs.try_send(input).is_ok())
    }

    /// Bytes held for it, and whether they are about to go.
    pub(crate) fn holds(&self) -> (usize, Flush) {
        let account = self.running.as_ref().map(|running| &running.account);
        account.map_or((0, Flush::Unasked), |account| (account.bytes(), account.flush()))
    }

    /// Has its batch flushed because memory is short. One without room is busy flushing or pushing already.
    pub(crate) fn flush(&self) {
        if let Some(running) = &self.running {
            // Said before it can have been done.
            running.account.on_flush(Flush::Asked);
            if running.inputs.try_send(Input::Flush).is_err() {
                running.account.on_flush(Flush::Unasked);
            }
        }
    }
}

fn pause(failures: u32) -> Duration {
    AGAIN.0.saturating_mul(1 << failures.min(10)).min(AGAIN.1)
}

/// Why an offset cannot be read, if it cannot.
fn outside(offset: i64, low: i64, high: i64) -> Option<String> {
    if offset < low {
        Some(format!(
            "offsets {offset} to {} were deleted by the topic's retention before this sink stored them; records may be missing from here to {low}",
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

/// The partitions that are ours; shared with the client's callbacks, which run on the same thread.
pub(crate) struct Assignment<S: Sink, D: DeadLetters> {
    pub(crate) maker: Maker<S, D>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) consumer: OnceLock<Weak<Client<S, D>>>,
    owned: Mutex<BTreeMap<TopicPartition, Owned>>,
    /// What the group has given us and not taken back. In a drain that is more than what is owned.
    given: Mutex<BTreeSet<TopicPartition>>,
    commits: Mutex<Commits>,
    /// Why the worker must end, found where nothing can be returned.
    failure: Mutex<Option<WorkerError>>,
    assignments: AtomicU64,
}

impl<S: Sink, D: DeadLetters> Assignment<S, D> {
    pub(crate) fn new(maker: Maker<S, D>) -> Self {
        Self {
            maker,
            mailbox: Arc::default(),
            consumer: OnceLock::new(),
            owned: Mutex::default(),
            given: Mutex::default(),
            commits: Mutex::default(),
            failure: Mutex::default(),
            assignments: AtomicU64::default(),
        }
    }

    pub(crate) fn owned(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, Owned>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn given(&self) -> MutexGuard<'_, BTreeSet<TopicPartition>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the group has taken back everything.
    pub(crate) fn has_left(&self) -> bool {
        self.given().is_empty()
    }

    pub(crate) fn commits(&self) -> MutexGuard<'_, Commits> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the worker must end, if it must.
    pub(crate) fn failure(&self) -> Option<WorkerError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn fail(&self, error: WorkerError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// Partitions that the group gives us. The client is told nothing of them yet: each is fetched when its sink has
    /// said from where.
    fn assign(&self, consumer: &Client<S, D>, list: &TopicPartitionList) -> Result<(), KafkaError> {
        consumer.incremental_assign(&TopicPartitionList::new())?;
        let now = Instant::now();
        for id in ids(list) {
            tracing::info!(partition = %id, "assigned");
            self.given().insert(id.clone());
            self.maker.health.not_ready(&id.to_string(), "looking for the place to go on at");
            let origin = self.maker.origins.get(&id).copied().unwrap_or(0);
            let assignment = self.assignments.fetch_add(1, Ordering::Relaxed);
            self.owned().insert(id, Owned::new(assignment, now, origin));
        }
        self.maker.health.ready("group");
        Ok(())
    }

    /// Starts a partition's task.
    pub(crate) fn start(&self, id: &TopicPartition, committed: Option<Committed>) -> Running {
        let (inputs, queue) = mpsc::channel(QUEUE_RUNS);
        let (ending, account) = (Ending::default(), Arc::new(Account::default()));
        if let Some(committed) = &committed {
            account.on_finished(committed.offset);
        }
        let partition = Partition {
            sink_name: self.maker.sink_name.clone(),
            id: id.clone(),
            sink: self.maker.sink.clone(),
            group: self.mailbox.clone(),
            dead_letters: self.maker.dead_letters.clone(),
            health: self.maker.health.clone(),
            account: account.clone(),
            ending: ending.clone(),
            turns: self.maker.turns.clone(),
        };
        let task = self.maker.tasks.spawn(partition.run(committed, queue));
        Running { inputs, task, ending, account }
    }

    fn revoke(&self, consumer: &Client<S, D>, list: &TopicPartitionList) -> Result<(), KafkaError> {
        let ids: Vec<TopicPartition> = ids(list).collect();
        self.given().retain(|id| !ids.contains(id));
        let lost = consumer.assignment_lost();
        let fetched = self.fetched(&ids);
        let unfinished = self.end(&ids, if lost { None } else { Some(REVOKE_GRACE) });
        for id in unfinished {
            tracing::warn!(partition = %id, "its open batch was not finished before it was given up");
        }
        self.take_wishes_of(&ids);
        let offsets = self.commits().leave(&ids);
        tracing::info!(partitions = ids.len(), lost, "revoked");
        if !lost && let Err(error) = self.commit_now(offsets, REVOKE_COMMIT) {
            // The sink holds the truth, so this costs reading again and nothing else.
            tracing::warn!(%error, "offsets of revoked partitions were not committed");
        }
        consumer.incremental_unassign(&fetched)
    }

    /// The partitions among these that the client fetches.
    fn fetched(&self, ids: &[TopicPartition]) -> TopicPartitionList {
        let owned = self.owned();
        let mut list = TopicPartitionList::new();
        for id in ids.iter().filter(|id| owned.get(*id).is_some_and(|owned| owned.fetched)) {
            list.add_partition(id.topic.as_str(), id.partition);
        }
        list
    }

    /// Partitions that ended leave nothing behind but what they want committed.
    fn take_wishes_of(&self, ids: &[TopicPartition]) {
        let mut wishes = self.mailbox.wishes();
        let mut offsets = Offsets::new();
        for id in ids {
            wishes.seeks.remove(id);
            wishes.stopped.remove(id);
            offsets.extend(wishes.commits.remove_entry(id));
        }
        self.commits().want(offsets);
    }

    /// Ends the tasks of these partitions: within `grace` by draining, after it, or without it, at once. Answers those
    /// that had to be cut off.
    pub(crate) fn end(
        &self,
        ids: &[TopicPartition],
        grace: Option<Duration>,
    ) -> Vec<TopicPartition> {
        let ending: Vec<(TopicPartition, Running)> = {
            let mut owned = self.owned();
            let mut running = |id: &TopicPartition| {
                self.no_lag(id);
                let running = owned.remove(id)?.running;
                if running.is_none() {
                    self.maker.health.forget(&id.to_string());
                }
                Some((id.clone(), running?))
            };
            ids.iter().filter_map(&mut running).collect()
        };
        let deadline = grace.map(|grace| Instant::now() + grace);
        for (_, running) in &ending {
            match deadline {
                Some(_) => running.ending.drain.cancel(),
                None => running.ending.abandon.cancel(),
            }
        }
        let mut unfinished = Vec::new();
        for (id, running) in ending {
            let Running { mut task, ending, .. } = running;
            let ended = self.maker.tasks.block_on(async {
                if let Some(deadline) = deadline
                    && let Ok(ended) = tokio::time::timeout_at(deadline.into(), &mut task).await
                {
                    return ended;
                }
                ending.abandon.cancel();
                unfinished.extend(deadline.map(|_| id.clone()));
                // Abandoned at its next await, which no task is far from.
                task.await
            });
            if ended.is_err_and(|error| error.is_panic()) {
                self.fail(WorkerError::PartitionPanicked { partition: id.to_string() });
            }
        }
        unfinished
    }

    /// A task ends only when it is told to; one that ended by itself has panicked.
    pub(crate) fn watch_tasks(&self) {
        for (id, owned) in self.owned().iter() {
            if owned.running.as_ref().is_some_and(|running| running.task.is_finished()) {
                self.fail(WorkerError::PartitionPanicked { partition: id.to_string() });
            }
        }
    }

    /// Commits and waits for the answer, but no longer than `most`.
    pub(crate) fn commit_now(&self, offsets: Offsets, most: Duration) -> Result<(), NotCommitted> {
        if offsets.is_empty() {
            return Ok(());
        }
        let answer = self.send(&offsets)?.recv_timeout(most);
        answer.map_err(|_| NotCommitted::NoAnswer { most })?.map_err(NotCommitted::Refused)?;
        self.show_committed(&offsets);
        Ok(())
    }

    /// Commits on another thread: the client waits as long as it takes to find the group's coordinator, which may be
    /// minutes.
    pub(crate) fn send(&self, offsets: &Offsets) -> Result<Answered, NotCommitted> {
        let consumer = self.consumer.get().and_then(Weak::upgrade);
        let consumer = consumer.ok_or(NotCommitted::Closed)?;
        let (answer, answered) = std::sync::mpsc::channel();
        let list = list(offsets);
        let committing = std::thread::Builder::new().name("commit".to_owned()).spawn(move || {
            let committed = consumer.commit(&list, CommitMode::Sync);
            drop(consumer);
            // Nobody listens when it took too long.
            let _ = answer.send(committed);
        });
        committing.map_err(NotCommitted::NoThread)?;
        Ok(answered)
    }

    /// Shows what the group has.
    pub(crate) fn show_committed(&self, offsets: &Offsets) {
        for (id, (next, _)) in offsets {
            ::metrics::gauge!(metrics::COMMITTED_OFFSET, &self.labels(id)).set(*next as f64);
        }
    }

    fn labels(&self, id: &TopicPartition) -> [(&'static str, String); 3] {
        [
            ("sink", self.maker.sink_name.to_string()),
            ("topic", id.topic.to_string()),
            ("partition", id.partition.to_string()),
        ]
    }

    /// Says how far each partition is behind.
    pub(crate) fn show_lag(&self, now_ms: i64) {
        for (id, owned) in self.owned().iter() {
            let account = owned.running.as_ref().map(|running| &running.account);
            let next = account.and_then(|account| account.finished()).unwrap_or(owned.position);
            let oldest_ms = account.and_then(|account| account.oldest_ms());
            let labels = self.labels(id);
            if let Some(end) = owned.end {
                ::metrics::gauge!(metrics::LAG_RECORDS, &labels).set((end - next).max(0) as f64);
            }
            let age_ms = oldest_ms.map_or(0, |oldest| now_ms.saturating_sub(oldest).max(0));
            ::metrics::gauge!(metrics::OLDEST_UNFINISHED, &labels).set(age_ms as f64 / 1e3);
        }
    }

    /// A partition that is no longer ours shows no lag; its new owner does.
    fn no_lag(&self, id: &TopicPartition) {
        let labels = self.labels(id);
        ::metrics::gauge!(metrics::LAG_RECORDS, &labels).set(0.0);
        ::metrics::gauge!(metrics::OLDEST_UNFINISHED, &labels).set(0.0);
    }

    /// Takes an answer to the partition that it is for, unless that has gone meanwhile.
    pub(crate) fn on_answer(&self, answer: Answer, now: Instant) -> Option<TopicPartition> {
        let Answer { id, assignment, said } = answer;
        let mut all = self.owned();
        let owned = all.get_mut(&id).filter(|owned| owned.assignment == assignment)?;
        match owned.on_said(now, said) {
            Step::Nothing => None,
            Step::Start(committed) => {
                let offset = committed.as_ref().map(|committed| committed.offset);
                tracing::info!(partition = %id, committed = ?offset, "opening");
                owned.running = Some(self.start(&id, committed));
                None
            }
            Step::Wait(why) => {
                tracing::warn!(partition = %id, why, "asking again");
                self.maker.health.not_ready(&id.to_string(), why);
                None
            }
            Step::Read => Some(id),
        }
    }
}

/// The client's callbacks.
pub(crate) struct Callbacks<S: Sink, D: DeadLetters>(pub(crate) Assignment<S, D>);

impl<S: Sink, D: DeadLetters> ClientContext for Callbacks<S, D> {
    fn stats(&self, statistics: Statistics) {
        let mut all = self.0.owned();
        for (id, owned) in all.iter_mut().filter(|(_, owned)| owned.fetched) {
            let topic = statistics.topics.get(id.topic.as_str());
            let partition = topic.and_then(|topic| topic.partitions.get(&id.partition));
            if let Some(end) = partition.map(|partition| partition.ls_offset)
                && end >= 0
            {
                owned.end = Some(end);
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the client reports");
    }
}

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
            // What the client fetches is no longer what we think; only a new one is sure to be right.
            tracing::error!(%error, "rebalance could not be carried out");
            self.0.fail(WorkerError::Rebalance(error));
        }
    }
}

/// As the client takes it.
pub(crate) fn list(offsets: &Offsets) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (id, (next, metadata)) in offsets {
        let mut element = list.add_partition(id.topic.as_str(), id.partition);
        // Both only fail on values that the client could not send: offsets are never negative, metadata is text.
        let _ = element.set_offset(Offset::Offset(*next));
        element.set_metadata(metadata);
    }
    list
}

fn ids(list: &TopicPartitionList) -> impl Iterator<Item = TopicPartition> {
    let elements = list.elements().into_iter();
    let ids: Vec<_> = elements.filter_map(|e| id(e.topic(), e.partition())).collect();
    ids.into_iter()
}

pub(crate) fn id(topic: &str, partition: i32) -> Option<TopicPartition> {
    Some(TopicPartition { topic: topic.parse().ok()?, partition })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(offset: i64) -> Committed {
        Committed { offset, metadata: String::new() }
    }

    #[test]
    fn an_offset_outside_the_log_is_named_with_its_reason() {
        assert_eq!(outside(5, 5, 5), None);
        assert_eq!(outside(5, 0, 9), None);
        assert!(
            outside(4, 5, 9).is_some_and(|why| why.contains("4 to 4") && why.contains("retention"))
        );
        assert!(outside(10, 5, 9).is_some_and(|why| why.contains("re-created")));
    }

    #[test]
    fn a_question_without_an_answer_is_asked_again_after_growing_pauses() {
        let start = Instant::now();
        let mut owned = Owned::new(0, start, 7);
        let mut now = start;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert_eq!(owned.question(now), Some(Question::Committed));
            assert_eq!(owned.question(now), None, "one at a time");
            let said = Said::Committed(Err("no coordinator".to_owned()));
            let Step::Wait(why) = owned.on_said(now, said) else { panic!("it waits") };
            assert!(why.contains("no coordinator"));
            assert_eq!(owned.question(now), None, "not at once");
            let again = now;
            while owned.question(now).is_none() {
                now += Duration::from_millis(50);
            }
            owned.asked = false;
            pauses.push(now - again);
        }
        assert!(pauses.is_sorted() && pauses[0] < Duration::from_secs(1), "{pauses:?}");
        assert!(pauses[7] <= AGAIN.1 + Duration::from_millis(50), "{pauses:?}");
        assert_eq!(owned.question(now), Some(Question::Committed));
        assert_eq!(owned.on_said(now, Said::Committed(Ok(None))), Step::Start(None));
        assert_eq!(owned.question(now), None);
        assert_eq!(owned.phase, Phase::Opening);
    }

    #[test]
    fn a_sink_begins_at_its_origin_and_goes_on_where_it_says() {
        let now = Instant::now();
        for (known, wanted, expected) in
            [(None, 0, 7), (None, 9, 9), (Some(committed(3)), 3, 3), (Some(committed(8)), 5, 5)]
        {
            let mut owned = Owned::new(0, now, 7);
            owned.on_said(now, Said::Committed(Ok(known.clone())));
            owned.on_seek(now, wanted);
            assert_eq!(owned.position, expected, "{known:?}");
            assert_eq!(owned.on_said(now, Said::Ends(Ok((0, 20)))), Step::Read);
            owned.on_seek(now, 4);
            assert_eq!(owned.position, 4, "the origin counts only at the beginning");
        }
    }

    #[test]
    fn a_place_outside_the_log_stops_the_partition_and_no_other_answer_does() {
        let now = Instant::now();
        let mut owned = Owned::new(0, now, 7);
        owned.on_said(now, Said::Committed(Ok(Some(committed(7)))));
        owned.on_seek(now, 7);
        assert_eq!(owned.question(now), Some(Question::Ends));
        let said = Said::Ends(Err("no leader".to_owned()));
        assert!(matches!(owned.on_said(now, said), Step::Wait(why) if why.contains("no leader")));
        assert_eq!(owned.on_said(now, Said::Ends(Ok((8, 20)))), Step::Nothing);
        assert!(matches!(&owned.phase, Phase::Unreadable(why) if why.contains("7 to 7")));
        owned.phase = Phase::Reading;
        assert_eq!(owned.on_said(now, Said::Ends(Ok((8, 20)))), Step::Nothing, "not asked for");
        owned.on_lost_place(now);
        assert_eq!(owned.question(now), Some(Question::Ends));
    }
}
