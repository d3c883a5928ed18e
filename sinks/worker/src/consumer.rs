//! The consumer's thread: fetching, handing on, committing.
//!
//! ```text
//!  client ──one queue a partition──▶ runs of records ──▶ partition's queue ──▶ its task
//!            │ not polled while the task has no room or too much is held: what the client has fetched stays there
//!  mailbox ──commit (the latest of each), seek, stop, answers──▶ carried out at the next turn
//! ```
//!
//! * Everything here happens on one thread, so a revocation cannot overtake a record or a commit.
//! * `auto.offset.reset` is `error`: no offset is ever guessed. A client that lost its place is set on it again, when
//!   it is still in the log.
//! * **Markers.** Transaction markers and aborted records take offsets and are never handed on. The client's *position*
//!   is the offset after the last record or marker that it has gone past on this thread, and everything it handed out
//!   was given to the partition's queue before the position is looked at. So no record below the position is still to
//!   come, and the position, sent down the same queue, may be committed when everything before it there is finished.
//!   Without this a partition that falls silent would keep a marker uncommitted until retention deletes it, and at the
//!   next start that would look like a lost record.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use tailwater_runtime::clock;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::assignment::{
    Answered, Assignment, Callbacks, Client, Maker, NotCommitted, Owned, Phase, Question, id, list,
};
use crate::budget::{Budget, Holding};
use crate::error::WorkerError;
use crate::mailbox::{Answer, Mailbox, Said};
use crate::metrics;
use crate::partition::{DeadLetters, Input, size};
use crate::run::Run;
use crate::sink::{Committed, Sink, SourceRecord, TopicPartition};

/// Records of one run.
const RUN_RECORDS: usize = 500;
/// Bytes after which a run ends.
const RUN_BYTES: usize = 256 << 10;
/// Longest sleep. Everything that happens rings the bell; this is for what is due by time.
const NAP: Duration = Duration::from_millis(50);
/// How often positions and lag are looked at.
const LOOK_AROUND: Duration = Duration::from_secs(1);
/// How long a broker may take to answer a question.
const ASK: Duration = Duration::from_secs(5);
/// How many threads may wait for answers at once. Where more partitions than this are asked for together, one without a
/// leader keeps a few others waiting.
const ASKING_MAX: usize = 32;
/// How long the last commit may take, beyond the grace period. A broker answers the requests of a connection one after the
/// other, so it may have to wait until every other worker has given up what is taken from it.
const LAST_COMMIT: Duration = Duration::from_secs(10);
/// How long the group may take to hear that we leave, beyond that.
const LEAVING: Duration = Duration::from_secs(5);
/// Pause before a queue without room, or a group without an ear, is tried again.
const ROOM: Duration = Duration::from_millis(20);

/// The client's queue of a partition, and for which time of owning it that was made.
type Queue<S, D> = (u64, PartitionQueue<Callbacks<S, D>>);

/// The thread's whole state.
pub(crate) struct Fetcher<S: Sink, D: DeadLetters> {
    consumer: Arc<Client<S, D>>,
    mailbox: Arc<Mailbox>,
    queues: BTreeMap<TopicPartition, Queue<S, D>>,
    budget: Budget,
    /// Bytes that may be taken until the budget is looked at again.
    room: usize,
    held: usize,
    /// The last partition that was given records before there was no more room; those behind it come first.
    cut: Option<TopicPartition>,
    questions: Vec<JoinHandle<()>>,
    /// Nobody wants to know any more. Whoever asks holds the client, which leaves the group when nobody does.
    asked_enough: CancellationToken,
    committing: Option<JoinHandle<()>>,
    looked_at: Instant,
}

impl<S: Sink, D: DeadLetters> Fetcher<S, D> {
    pub(crate) fn new(
        settings: &rdkafka::ClientConfig,
        topics: &[&str],
        maker: Maker<S, D>,
        budget: Budget,
    ) -> Result<Self, KafkaError> {
        let assignment = Assignment::new(maker);
        let mailbox = assignment.mailbox.clone();
        let mut consumer: Client<S, D> = settings.create_with_context(Callbacks(assignment))?;
        let bell = mailbox.clone();
        consumer.set_nonempty_callback(move || bell.wake());
        let consumer = Arc::new(consumer);
        // Just made, so it is not set yet.
        let _ = consumer.context().0.consumer.set(Arc::downgrade(&consumer));
        consumer.subscribe(topics)?;
        Ok(Self {
            consumer,
            mailbox,
            queues: BTreeMap::new(),
            budget,
            room: 0,
            held: 0,
            cut: None,
            questions: Vec::new(),
            asked_enough: CancellationToken::new(),
            committing: None,
            looked_at: Instant::now(),
        })
    }

    /// Runs until told to stop, then drains, commits and leaves the group.
    pub(crate) fn run(
        mut self,
        stop: &CancellationToken,
        grace: Duration,
    ) -> Result<(), WorkerError> {
        let mut ended = Ok(());
        while ended.is_ok() && !stop.is_cancelled() {
            ended = self.turn();
        }
        let drained = self.drain(grace);
        ended.and(drained)
    }

    fn turn(&mut self) -> Result<(), WorkerError> {
        self.serve_client()?;
        self.take_mail();
        self.let_go();
        let consumer = self.consumer.clone();
        let assignment = &consumer.context().0;
        assignment.watch_tasks();
        if let Some(failure) = assignment.failure() {
            return Err(failure);
        }
        self.commit();
        self.ask();
        self.watch_budget();
        if self.looked_at.elapsed() >= LOOK_AROUND {
            self.looked_at = Instant::now();
            self.look_around();
        }
        if !self.fetch()? {
            self.mailbox.wait(NAP);
        }
        Ok(())
    }

    /// Lets the client call back: rebalances, commits, statistics, errors.
    fn serve_client(&self) -> Result<(), WorkerError> {
        // One look gives one event at most, and nothing rings for the second.
        for _ in 0..4 {
            match self.consumer.poll(Duration::ZERO) {
                None => {}
                Some(Ok(message)) => {
                    // Every partition that is fetched has a queue of its own, so this one has lost its way.
                    if let Some(id) = id(message.topic(), message.partition())
                        && let Some(owned) = self.consumer.context().0.owned().get_mut(&id)
                    {
                        owned.on_lost_place(Instant::now());
                    }
                }
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    return Err(WorkerError::Consumer(code));
                }
                // A partition that is read is asked after by its own queue.
                Some(Err(error)) => tracing::warn!(%error, "the consumer reports"),
            }
        }
        Ok(())
    }

    fn take_mail(&mut self) {
        let wishes = self.mailbox.take();
        let consumer = self.consumer.clone();
        let (assignment, now) = (&consumer.context().0, Instant::now());
        assignment.commits().want(wishes.commits);
        if let Some((sent, answer)) = wishes.committed {
            assignment.commits().on_answer(now, &sent, answer.is_ok());
            match answer {
                Ok(()) => assignment.show_committed(&sent),
                // The sink holds the truth, so this costs reading again and nothing else.
                Err(error) => tracing::warn!(error, "offsets were not committed; trying again"),
            }
        }
        for (id, offset) in wishes.seeks {
            if let Some(owned) = assignment.owned().get_mut(&id) {
                owned.on_seek(now, offset);
            }
        }
        for id in wishes.stopped {
            if let Some(owned) = assignment.owned().get_mut(&id) {
                owned.phase = Phase::Stopped { at: now };
            }
        }
        for answer in wishes.answers {
            if let Some(id) = assignment.on_answer(answer, now) {
                self.read(&id, now);
            }
        }
    }

    /// Fetches a partition from its position on.
    fn read(&mut self, id: &TopicPartition, now: Instant) {
        let consumer = self.consumer.clone();
        let assignment = &consumer.context().0;
        let mut all = assignment.owned();
        let Some(owned) = all.get_mut(id) else { return };
        if !owned.has_room() {
            // Its task is dropping what it holds.
            owned.phase = Phase::Away { at: now + ROOM, failures: 0 };
            return;
        }
        if let Err(error) = self.fetch_from(id, owned) {
            let why = format!("it cannot be fetched: {error}");
            tracing::warn!(partition = %id, why, "asking again");
            assignment.maker.health.not_ready(&id.to_string(), why);
            owned.phase = Phase::Away { at: now + LOOK_AROUND, failures: 0 };
            return;
        }
        // There is room, and nobody else gives it anything.
        owned.give(Input::Sought);
        owned.phase = Phase::Reading;
    }

    /// Taking a partition from the client and giving it back is the one way that works in every state: it refuses to
    /// seek where it has met an error. What it had fetched before is outdated with that, and never handed out.
    fn fetch_from(&mut self, id: &TopicPartition, owned: &mut Owned) -> Result<(), KafkaError> {
        self.stop_fetching(id, owned)?;
        let topic = id.topic.as_str();
        let Some(mut queue) = self.consumer.split_partition_queue(topic, id.partition) else {
            return Err(KafkaError::Subscription("it has no queue".to_owned()));
        };
        let bell = self.mailbox.clone();
        queue.set_nonempty_callback(move || bell.wake());
        self.queues.insert(id.clone(), (owned.assignment, queue));
        let mut at = TopicPartitionList::new();
        at.add_partition_offset(topic, id.partition, Offset::Offset(owned.position))?;
        self.consumer.incremental_assign(&at)?;
        owned.fetched = true;
        Ok(())
    }

    /// The client keeps nothing of a partition that is not read.
    fn stop_fetching(&mut self, id: &TopicPartition, owned: &mut Owned) -> Result<(), KafkaError> {
        if owned.fetched {
            let mut list = TopicPartitionList::new();
            list.add_partition(id.topic.as_str(), id.partition);
            self.consumer.incremental_unassign(&list)?;
            owned.fetched = false;
        }
        self.queues.remove(id).into_iter().for_each(empty);
        Ok(())
    }

    /// Lets go of what was fetched for partitions that have stopped or are no longer ours.
    fn let_go(&mut self) {
        let consumer = self.consumer.clone();
        let mut all = consumer.context().0.owned();
        for (id, owned) in all.iter_mut() {
            if let Phase::Unreadable(why) = &owned.phase
                && owned.give(Input::Unreadable(why.clone()))
            {
                owned.phase = Phase::Stopped { at: Instant::now() };
            }
            if matches!(owned.phase, Phase::Stopped { .. })
                && (owned.fetched || self.queues.contains_key(id))
                && let Err(error) = self.stop_fetching(id, owned)
            {
                tracing::warn!(partition = %id, %error, "the client goes on fetching it");
            }
        }
        let gone = |(id, (assignment, _)): (&TopicPartition, &Queue<S, D>)| {
            all.get(id).is_none_or(|owned| owned.assignment != *assignment).then(|| id.clone())
        };
        let gone: Vec<TopicPartition> = self.queues.iter().filter_map(gone).collect();
        for id in gone {
            self.queues.remove(&id).into_iter().for_each(empty);
        }
    }

    /// Commits what is wanted, on another thread: there the client says how that went, which it does not when it is
    /// asked not to wait.
    fn commit(&mut self) {
        let assignment = &self.consumer.context().0;
        let Some(offsets) = assignment.commits().due(Instant::now()) else { return };
        let (consumer, mailbox) = (self.consumer.clone(), self.mailbox.clone());
        self.committing = Some(assignment.maker.tasks.spawn_blocking(move || {
            let committed = consumer.commit(&list(&offsets), CommitMode::Sync);
            drop(consumer);
            mailbox.committed(offsets, committed.map_err(|error| error.to_string()));
        }));
    }

    /// Asks what is due, on other threads: a partition without a leader keeps its question waiting for seconds.
    fn ask(&mut self) {
        self.questions.retain(|question| !question.is_finished());
        // A thread for each of a thousand partitions would take more memory than the partitions.
        let Some(threads) = NonZero::new(ASKING_MAX.saturating_sub(self.questions.len())) else {
            return;
        };
        let now = Instant::now();
        let consumer = self.consumer.clone();
        let assignment = &consumer.context().0;
        let tasks = assignment.maker.tasks.clone();
        let (mut unknown, mut away) = (Vec::new(), Vec::new());
        for (id, owned) in assignment.owned().iter_mut() {
            match owned.question(now) {
                Some(Question::Committed) => unknown.push((id.clone(), owned.assignment)),
                Some(Question::Ends) => away.push((id.clone(), owned.assignment)),
                None => {}
            }
        }
        for asked in away.chunks(away.len().div_ceil(threads.get()).max(1)) {
            let (asked, enough) = (asked.to_vec(), self.asked_enough.clone());
            let (consumer, mailbox) = (self.consumer.clone(), self.mailbox.clone());
            self.questions.push(tasks.spawn_blocking(move || {
                for (id, assignment) in asked {
                    if enough.is_cancelled() {
                        break;
                    }
                    let ends = consumer.fetch_watermarks(id.topic.as_str(), id.partition, ASK);
                    let said = Said::Ends(ends.map_err(|error| error.to_string()));
                    mailbox.answer(Answer { id, assignment, said });
                }
                drop(consumer);
            }));
        }
        if !unknown.is_empty() {
            let (consumer, mailbox) = (self.consumer.clone(), self.mailbox.clone());
            self.questions.push(tasks.spawn_blocking(move || {
                let answers = committed(&consumer, unknown);
                drop(consumer);
                answers.into_iter().for_each(|answer| mailbox.answer(answer));
            }));
        }
    }

    fn watch_budget(&mut self) {
        let owned = self.consumer.context().0.owned();
        let holdings = owned.iter().map(|(partition, owned)| {
            let (bytes, flush) = owned.holds();
            Holding { partition, bytes, flush }
        });
        let decision = self.budget.on_usage(holdings);
        for big in decision.flush.iter().filter_map(|id| owned.get(id)) {
            big.flush();
        }
        (self.held, self.room) = (decision.held, decision.room);
    }

    /// Goes past markers, and says how things stand.
    fn look_around(&self) {
        let assignment = &self.consumer.context().0;
        let positions = self.consumer.position().unwrap_or_default();
        let mut all = assignment.owned();
        let mut stopped = 0;
        for (id, owned) in all.iter_mut() {
            stopped += u32::from(matches!(owned.phase, Phase::Stopped { .. }));
            let element = positions.find_partition(id.topic.as_str(), id.partition);
            if owned.phase == Phase::Reading
                && let Some(Offset::Offset(position)) = element.map(|element| element.offset())
                && position > owned.position
                && owned.give(Input::Reached(position))
            {
                owned.position = position;
            }
        }
        drop(all);
        assignment.show_lag(clock::now_ms());
        self.show(self.held, self.room == 0, stopped);
    }

    fn show(&self, held: usize, paused: bool, stopped: u32) {
        let label = [("sink", self.consumer.context().0.maker.sink_name.to_string())];
        ::metrics::gauge!(metrics::HELD_BYTES, &label).set(held as f64);
        ::metrics::gauge!(metrics::PAUSED, &label).set(f64::from(u8::from(paused)));
        ::metrics::gauge!(metrics::STOPPED_PARTITIONS, &label).set(stopped);
    }

    /// Hands each partition that has room a run of its records, as far as the budget goes; answers whether there were any.
    fn fetch(&mut self) -> Result<bool, WorkerError> {
        let mut fetched = false;
        let cut = self.cut.take();
        let consumer = self.consumer.clone();
        let assignment = &consumer.context().0;
        let mut all = assignment.owned();
        // Those that went without in the last round come first.
        for had in [false, true] {
            for (id, owned) in all.iter_mut() {
                if self.room == 0 || cut.as_ref().is_some_and(|cut| id <= cut) != had {
                    continue;
                }
                let Some((_, queue)) = self.queues.get(id) else { continue };
                if owned.phase != Phase::Reading || !owned.has_room() {
                    continue;
                }
                let run = take(queue, id, owned)?;
                let (Some(last), Some(running)) = (run.last(), &owned.running) else { continue };
                fetched = true;
                owned.position = last.offset + 1;
                let bytes = run.iter().map(size).sum();
                count(&assignment.maker.sink_name, id, &run);
                running.account.on_queued(bytes);
                owned.give(Input::Records(run));
                self.room = self.room.saturating_sub(bytes);
                self.cut = (self.room == 0).then(|| id.clone());
            }
        }
        Ok(fetched)
    }

    fn drain(&mut self, grace: Duration) -> Result<(), WorkerError> {
        self.asked_enough.cancel();
        let consumer = self.consumer.clone();
        let assignment = &consumer.context().0;
        let mut ids = Vec::new();
        for (id, owned) in assignment.owned().iter_mut() {
            ids.push(id.clone());
            if let Err(error) = self.stop_fetching(id, owned) {
                tracing::debug!(partition = %id, %error, "fetched until the end");
            }
        }
        let unfinished = assignment.end(&ids, Some(grace));
        // A commit on its way must not overtake the last one.
        let until = Instant::now() + LAST_COMMIT;
        let is_under_way = |committing: &JoinHandle<()>| !committing.is_finished();
        while Instant::now() < until && self.committing.as_ref().is_some_and(is_under_way) {
            self.call_back();
        }
        assignment.commits().want(std::mem::take(&mut self.mailbox.wishes().commits));
        let committed = self.commit_last(until);
        self.leave();
        self.queues.clear();
        // Each is at its last question by now.
        let questions = std::mem::take(&mut self.questions);
        questions.into_iter().for_each(|question| self.wait_for(Some(question), ASK));
        self.show(0, false, 0);
        assignment.maker.health.forget("group");
        if let Some(failure) = assignment.failure() {
            return Err(failure);
        }
        if !unfinished.is_empty() {
            let names: Vec<String> = unfinished.iter().map(ToString::to_string).collect();
            let partitions = names.join(", ");
            return Err(WorkerError::Undrained { partitions, seconds: grace.as_secs() });
        }
        committed.map_err(|error| WorkerError::Uncommitted { why: error.to_string() })
    }

    /// Commits what is left. A group that divides its partitions anew takes no offsets at one point of that, so it is let
    /// through first; what it takes from us meanwhile is committed on its way out and not here.
    fn commit_last(&self, until: Instant) -> Result<(), NotCommitted> {
        let assignment = &self.consumer.context().0;
        loop {
            let offsets = assignment.commits().wanted();
            if offsets.is_empty() {
                return Ok(());
            }
            let sent = assignment.send(&offsets);
            match sent.and_then(|answered| self.answer(&answered, until)) {
                Ok(()) => {
                    assignment.commits().on_answer(Instant::now(), &offsets, true);
                    assignment.show_committed(&offsets);
                }
                Err(error) if error.is_for_now() && Instant::now() < until => self.call_back(),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for the answer to a commit; the client may have to call back before there is one.
    fn answer(&self, answered: &Answered, until: Instant) -> Result<(), NotCommitted> {
        while Instant::now() < until {
            match answered.recv_timeout(ROOM) {
                Ok(answer) => return answer.map_err(NotCommitted::Refused),
                Err(_) => self.call_back(),
            }
        }
        Err(NotCommitted::NoAnswer { most: LAST_COMMIT })
    }

    /// Leaves the group, and waits until that has taken back what it gave: a client that is closed before may wait for
    /// itself for ever.
    fn leave(&self) {
        self.consumer.unsubscribe();
        let until = Instant::now() + LEAVING;
        while !self.consumer.context().0.has_left() && Instant::now() < until {
            self.call_back();
        }
    }

    /// Lets the client call back while nothing else is done.
    fn call_back(&self) {
        if let Err(error) = self.serve_client() {
            tracing::debug!(%error, "at the end");
        }
        std::thread::sleep(ROOM);
    }

    fn wait_for(&self, task: Option<JoinHandle<()>>, most: Duration) {
        let tasks = &self.consumer.context().0.maker.tasks;
        // Whether it ended or not: it has a time limit of its own.
        let _ = task.map(|task| tasks.block_on(async { tokio::time::timeout(most, task).await }));
    }
}

/// Throws away what the client has fetched and nobody wants.
fn empty<S: Sink, D: DeadLetters>((_, queue): Queue<S, D>) {
    while queue.poll(Duration::ZERO).is_some() {}
}

/// Takes a run of a partition's records from the client.
fn take<S: Sink, D: DeadLetters>(
    queue: &PartitionQueue<Callbacks<S, D>>,
    id: &TopicPartition,
    owned: &mut Owned,
) -> Result<Vec<SourceRecord>, WorkerError> {
    let mut run = Run::default();
    while run.records() < RUN_RECORDS && run.bytes() < RUN_BYTES {
        match queue.poll(Duration::ZERO) {
            None => break,
            Some(Ok(message)) => run.add(message),
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                return Err(WorkerError::Consumer(code));
            }
            Some(Err(error)) => {
                tracing::warn!(partition = %id, %error, "the consumer reports");
                match error.rdkafka_error_code() {
                    Some(
                        RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange,
                    ) => {
                        owned.on_lost_place(Instant::now());
                    }
                    Some(RDKafkaErrorCode::LogTruncation) => {
                        owned.phase = Phase::Unreadable(format!(
                            "the topic lost records at {} after a change of leader: what this sink has stored before may no longer be in the topic",
                            owned.position
                        ));
                    }
                    // The client goes on by itself.
                    _ => continue,
                }
                break;
            }
        }
    }
    Ok(run.finish())
}

fn count(sink: &tailwater_topics_contract::SinkName, id: &TopicPartition, run: &[SourceRecord]) {
    let labels = [("sink", sink.to_string()), ("topic", id.topic.to_string())];
    let length = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len) as u64;
    let bytes = run.iter().map(|record| length(&record.key) + length(&record.value)).sum();
    ::metrics::counter!(metrics::RECORDS, &labels).increment(run.len() as u64);
    ::metrics::counter!(metrics::BYTES, &labels).increment(bytes);
}

/// What the group has committed for each of these partitions.
fn committed<S: Sink, D: DeadLetters>(
    consumer: &Client<S, D>,
    asked: Vec<(TopicPartition, u64)>,
) -> Vec<Answer> {
    let mut list = TopicPartitionList::new();
    for (id, _) in &asked {
        list.add_partition(id.topic.as_str(), id.partition);
    }
    let known = consumer.committed_offsets(list, ASK).map_err(|error| error.to_string());
    let answer = |(id, assignment): (TopicPartition, u64)| {
        let committed = known.as_ref().map_err(Clone::clone).and_then(|known| {
            let element = known.find_partition(id.topic.as_str(), id.partition);
            let element = element.ok_or("it is not in the answer")?;
            element.error().map_err(|error| error.to_string())?;
            Ok(match element.offset() {
                Offset::Offset(offset) => {
                    Some(Committed { offset, metadata: element.metadata().to_owned() })
                }
                _ => None,
            })
        });
        Answer { id, assignment, said: Said::Committed(committed) }
    };
    asked.into_iter().map(answer).collect()
}
