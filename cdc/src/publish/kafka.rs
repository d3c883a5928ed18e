//! Kafka through librdkafka, used from one thread.
//!
//! * Progress is read only after `init_transactions`, which ends whatever a predecessor left open. Reading
//!   first would let it commit once more behind our back.
//! * The producer's own flush waits in slices of 100 ms. We serve its queue ourselves until nothing is in
//!   flight, and only then commit.
//! * Nothing is sent for its age: the client sends what fills a batch, and the rest when it is told to at the end of a
//!   transaction. See [`super::push`] for what comes of it otherwise.
//! * Messages have no time limit of their own (`message.timeout.ms=0`); the transaction has one, kept here.
//! * Offsets of a partition only grow. One that does not belongs to a topic that was made again, and is seen before the
//!   transaction commits, so nothing goes on in it.
//! * A record that its topic would refuse for its size goes to the dead-letter topic in the same transaction, because a
//!   refusal by the broker costs the transaction with all the records beside it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, PurgeConfig};
use tailwater_config::KafkaConfig;
use tailwater_runtime::clock;
use tailwater_topics_contract::{
    PipelineName, Registrations, TopicName, TopicRegistration, header,
};

use super::ask::{ASK_WAIT, limits, make_letter_topic};
pub use super::ask::{End, check_topics, find_end, last_value};
use super::deliveries::{Deliveries, LETTER, PROGRESS, Receded};
use super::push::{Pushes, push};
use super::{Error, Publisher, letter, partition};
use crate::batch::{Batch, BatchRecord};
use crate::config::Limits;
use crate::crash::{self, Point};
use crate::metrics as names;
use crate::progress::{self, Ends};

/// How much later than our own deadline the brokers abort a transaction by themselves.
const TRANSACTION_GRACE: Duration = Duration::from_secs(10);

/// How long the first contact may take before the session counts it as an attempt that failed.
const INIT_WAIT: Duration = Duration::from_secs(20);

/// Between two looks at the stop flag during the first contact.
const INIT_SLICE: Duration = Duration::from_secs(2);

/// How long the limit of a topic that refused a record counts as known.
const LIMIT_KNOWN: Duration = Duration::from_secs(1);

/// How long a courtesy abort may take; a successor's `init_transactions` does the same.
const ABORT_WAIT: Duration = Duration::from_secs(5);

/// Between two looks at what was delivered. The client's own `poll` spins in its last millisecond.
const SERVE_PAUSE: Duration = Duration::from_micros(100);

/// How long a record waits for company within a transaction: longer than any transaction stays open, because what has
/// waited longer behind an unanswered request keeps the client's thread awake. Its end goes by [`push`].
const LINGER_MS: &str = "1000";

/// What librdkafka packs into one batch at most unless told otherwise.
const BATCH_BYTES: usize = 1_000_000;

/// Size of the largest record unless the brokers or the user say otherwise: librdkafka's own default.
const RECORD_BYTES: usize = 1_000_000;

/// A transactional producer.
pub struct Kafka {
    producer: BaseProducer<Deliveries>,
    config: KafkaConfig,
    progress_topic: TopicName,
    letter_topic: TopicName,
    /// Whether the dead-letter topic is known to be there.
    has_letters: bool,
    /// Largest record that the user's own settings allow.
    record_bytes_max: Option<usize>,
    /// Places in `topics`.
    places: HashMap<TopicName, usize>,
    topics: Vec<Topic>,
    /// How long records may take to be delivered and committed: less than the brokers' patience.
    wait: Duration,
    /// What is left to the next session.
    known: KnownEnds,
    /// When the open transaction must be over.
    deadline: Option<Instant>,
    /// The open transaction has records for partitions whose end nobody has told.
    is_news: bool,
}

/// Ends of partitions that a session has seen and perhaps could not write down: its successor must not find less.
#[derive(Clone, Debug, Default)]
pub struct KnownEnds(Arc<Mutex<Ends>>);

impl KnownEnds {
    /// These, and what was known before.
    pub fn with(&self, ends: &Ends) -> Ends {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = progress::merged(&known, ends.clone());
        known.clone()
    }
}

/// A topic that was written to, or is registered.
struct Topic {
    name: TopicName,
    /// As registered; `None` leaves the choice to the client.
    partitions: Option<u32>,
    /// Largest batch that it takes; `None` when the brokers did not say.
    bytes_max: Option<usize>,
    /// When the brokers were last asked for that.
    asked: Option<Instant>,
    /// Partitions whose ends are known.
    known: Vec<bool>,
}

impl Topic {
    /// Whether nobody has told the end of the partition that a record goes to.
    fn is_news(&self, partition: Option<i32>) -> bool {
        let at = partition.and_then(|partition| usize::try_from(partition).ok());
        match (at, self.partitions) {
            (Some(at), _) => !self.known.get(at).is_some_and(|known| *known),
            // The client chooses.
            (None, Some(count)) => self.known.len() < count as usize || self.known.contains(&false),
            (None, None) => false,
        }
    }
}

impl Kafka {
    /// Prepares a producer that knows no topic; nothing is sent yet. Users' properties override only what delivery does
    /// not rest on.
    pub fn new(config: &KafkaConfig, pipeline: &PipelineName) -> Result<Self, Error> {
        let wait = Duration::from_millis(Limits::default().transaction_wait_ms);
        Self::for_topics(config, pipeline, &[], wait, KnownEnds::default())
    }

    /// Prepares a producer for topics as they are registered, whose transactions may take as long as `wait`. Asks the
    /// brokers what the topics take; blocks.
    pub fn for_topics(
        config: &KafkaConfig,
        pipeline: &PipelineName,
        topics: &[TopicRegistration],
        wait: Duration,
        known: KnownEnds,
    ) -> Result<Self, Error> {
        let limits = limits(config, topics.iter().map(|topic| &topic.spec.name))?;
        let smallest = limits.values().copied().min().unwrap_or(BATCH_BYTES).min(BATCH_BYTES);
        let mut client = config.client();
        let ours = [
            ("linger.ms", LINGER_MS),
            ("compression.type", "lz4"),
            ("queue.buffering.max.kbytes", "65536"),
            ("queue.buffering.max.messages", "1000000"),
            // The limit of each topic is kept here; the client has one for all.
            ("message.max.bytes", letter::CLIENT_BYTES_MAX),
            // A batch is refused as a record is.
            ("batch.size", &smallest.to_string()),
        ];
        for (property, value) in ours {
            if !config.properties.contains_key(property) {
                client.set(property, value);
            }
        }
        client
            .set("transactional.id", pipeline.transactional_id())
            .set("transaction.timeout.ms", (wait + TRANSACTION_GRACE).as_millis().to_string())
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", "0")
            // Only for topics whose registration is unknown here; see `partition`.
            .set("partitioner", "murmur2_random");
        let own_max = config.properties.get("message.max.bytes");
        let mut kafka = Self {
            producer: client
                .create_with_context(Deliveries::default())
                .map_err(|error| Error::Settings(Box::new(error)))?,
            config: config.clone(),
            progress_topic: pipeline.progress_topic(),
            letter_topic: pipeline.reader_dead_letter_topic(),
            has_letters: false,
            record_bytes_max: own_max.and_then(|bytes| bytes.parse().ok()),
            places: HashMap::new(),
            topics: Vec::new(),
            wait,
            known,
            deadline: None,
            is_news: false,
        };
        for topic in topics {
            let place = kafka.place(&topic.spec.name);
            kafka.topics[place].partitions = Some(topic.spec.partitions);
            kafka.topics[place].bytes_max = limits.get(&topic.spec.name).copied();
        }
        Ok(kafka)
    }

    /// Nothing may be written before these offsets any more.
    pub fn expect(&mut self, ends: &Ends) {
        for (topic, ends) in ends {
            let place = self.place(topic);
            self.producer.context().seen().ends[place].clone_from(ends);
        }
        self.note_ends();
    }

    fn note_ends(&mut self) {
        let seen = self.producer.context().seen();
        for (topic, ends) in self.topics.iter_mut().zip(&seen.ends) {
            topic.known = ends.iter().map(|end| *end >= 0).collect();
        }
    }

    /// Fences every predecessor and ends what it left open. Blocks; looks at `stop` now and then.
    pub fn init(&self, stop: &AtomicBool) -> Result<(), Error> {
        let began = Instant::now();
        loop {
            let error = match self.producer.init_transactions(INIT_SLICE) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            // Serves error events, which say more than "timed out".
            self.producer.poll(Duration::ZERO);
            if stop.load(Ordering::Acquire) {
                return Err(Error::Stopped);
            }
            if !is_retriable(&error) || began.elapsed() >= INIT_WAIT.min(self.wait) {
                return Err(self.classified(error, "registering the transactional id"));
            }
        }
    }

    fn begin(&mut self) -> Result<Instant, Error> {
        if let Some(deadline) = self.deadline {
            return Ok(deadline);
        }
        self.producer
            .begin_transaction()
            .map_err(|error| self.classified(error, "beginning a transaction"))?;
        let deadline = Instant::now() + self.wait;
        self.deadline = Some(deadline);
        crash::point(Point::Begun);
        Ok(deadline)
    }

    /// Where a topic stands in `topics`.
    fn place(&mut self, topic: &TopicName) -> usize {
        if let Some(place) = self.places.get(topic) {
            return *place;
        }
        let place = self.topics.len();
        self.places.insert(topic.clone(), place);
        let (name, known) = (topic.clone(), Vec::new());
        self.topics.push(Topic { name, partitions: None, bytes_max: None, asked: None, known });
        self.producer.context().seen().ends.push(Vec::new());
        place
    }

    /// The largest record of a topic as far as it is known.
    fn limit(&self, place: usize) -> usize {
        let topic = self.topics[place].bytes_max;
        let own = self.record_bytes_max;
        match (topic, own) {
            (Some(topic), Some(own)) => topic.min(own),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => RECORD_BYTES,
        }
    }

    /// Whether a topic would refuse a record of this size. Asks once more, because limits are raised when they bite; not for
    /// each of many.
    fn is_too_large(&mut self, place: usize, size: usize) -> Result<bool, Error> {
        if size <= self.limit(place) {
            return Ok(false);
        }
        let topic = &self.topics[place];
        if topic.asked.is_none_or(|asked| asked.elapsed() >= LIMIT_KNOWN) {
            let limit = limits(&self.config, std::iter::once(&topic.name))?.remove(&topic.name);
            let topic = &mut self.topics[place];
            topic.bytes_max = limit.or(topic.bytes_max);
            topic.asked = Some(Instant::now());
        }
        Ok(size > self.limit(place))
    }

    /// Puts a record that its topic would refuse into the dead-letter topic.
    fn set_aside(
        &mut self,
        record: &BatchRecord<'_>,
        place: usize,
        size: usize,
        deadline: Instant,
    ) -> Result<(), Error> {
        let limit = self.limit(place);
        let headers = letter::headers(record, size, limit, clock::now_ms());
        self.write_letter(record, size, Some(headers), deadline)?;
        metrics::counter!(names::SET_ASIDE, "topic" => record.topic().to_string()).increment(1);
        tracing::error!(
            topic = %record.topic(),
            bytes = size,
            limit,
            dead_letters = %self.letter_topic,
            "a record is larger than its topic takes and was set aside; raise `max.message.bytes` of the topic"
        );
        Ok(())
    }

    /// Writes a record that was set aside before it came here.
    fn pass_on(&mut self, record: &BatchRecord<'_>, deadline: Instant) -> Result<(), Error> {
        self.write_letter(record, letter::size(record), headers(record), deadline)?;
        let reason = record.headers().find(|(name, _)| *name == header::DLQ_REASON);
        let reason = reason.map(|(_, text)| String::from_utf8_lossy(text)).unwrap_or_default();
        metrics::counter!(names::SET_ASIDE, "topic" => "").increment(1);
        tracing::error!(%reason, dead_letters = %self.letter_topic, "a change was set aside");
        Ok(())
    }

    fn write_letter(
        &mut self,
        record: &BatchRecord<'_>,
        size: usize,
        headers: Option<OwnedHeaders>,
        deadline: Instant,
    ) -> Result<(), Error> {
        if size > letter::BYTES_MAX {
            return Err(Error::TooLarge { topic: record.topic().clone(), bytes: size });
        }
        if !self.has_letters {
            make_letter_topic(&self.config, &self.letter_topic)?;
            self.has_letters = true;
        }
        let letter = BaseRecord {
            topic: self.letter_topic.as_str(),
            partition: Some(0),
            payload: record.value(),
            key: record.key(),
            timestamp: None,
            headers,
            delivery_opaque: LETTER,
        };
        self.hand_over(letter, deadline)
    }

    /// Hands one record over, waiting while the client's own queue is full.
    fn hand_over(
        &self,
        mut record: BaseRecord<'_, [u8], [u8], usize>,
        deadline: Instant,
    ) -> Result<(), Error> {
        loop {
            let (error, back) = match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err(refused) => refused,
            };
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                let topic = self.name_of(back.delivery_opaque);
                let bytes = back.key.map_or(0, <[u8]>::len) + back.payload.map_or(0, <[u8]>::len);
                return Err(self.undelivered(error, topic, bytes));
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out("waiting for room to send"));
            }
            record = back;
            // All of it may be waiting for company.
            push(&self.producer);
            self.producer.poll(Duration::ZERO);
        }
    }

    /// Waits until every record handed over is acknowledged.
    fn deliver(&self, deadline: Instant) -> Result<(), Error> {
        let mut pushes = Pushes::begin(Instant::now());
        loop {
            let before = self.producer.in_flight_count();
            self.producer.poll(Duration::ZERO);
            let mut seen = self.producer.context().seen();
            let (failure, receded) = (seen.failure.take(), seen.receded.take());
            drop(seen);
            if let Some((error, topic)) = failure {
                return Err(self.undelivered(error, self.name_of(topic), 0));
            }
            if let Some(Receded { topic, partition, offset, end }) = receded {
                let topic = self.name_of(topic).clone();
                return Err(Error::Receded { topic, partition, offset, end });
            }
            let after = self.producer.in_flight_count();
            if after == 0 {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out("delivering records"));
            }
            // One call serves one report; there may be more.
            let now = Instant::now();
            if after != before {
                pushes.on_reports(now);
            } else if pushes.is_due(now) {
                push(&self.producer);
                pushes.on_pushed(Instant::now());
            } else {
                thread::sleep(SERVE_PAUSE);
            }
        }
    }

    fn name_of(&self, topic: usize) -> &TopicName {
        match topic {
            LETTER => &self.letter_topic,
            place => self.topics.get(place).map_or(&self.progress_topic, |topic| &topic.name),
        }
    }

    fn timed_out(&self, doing: &'static str) -> Error {
        Error::TimedOut {
            brokers: self.config.brokers.clone(),
            doing,
            seconds: self.wait.as_secs(),
        }
    }

    fn undelivered(&self, error: KafkaError, topic: &TopicName, bytes: usize) -> Error {
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownPartition,
            ) if *topic == self.progress_topic => Error::NoProgressTopic { topic: topic.clone() },
            Some(
                RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownPartition,
            ) => Error::NoTopic { topic: topic.clone() },
            Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize) => {
                Error::TooLarge { topic: topic.clone(), bytes }
            }
            _ => self.classified(error, "delivering records"),
        }
    }

    /// Whether this transaction was committed is for the next session to find out. An abort could only add to the question.
    fn unclear(&mut self, error: KafkaError) -> Error {
        self.deadline = None;
        Error::Unclear(Box::new(error))
    }

    fn classified(&self, error: KafkaError, doing: &'static str) -> Error {
        // A fenced client throws away its queue first, so the error at hand need not be the cause.
        match self.producer.client().fatal_error() {
            Some((code, _)) if is_fence(code) => Error::Fenced,
            _ => classified(error, &self.config.brokers, doing),
        }
    }
}

impl Publisher for Kafka {
    fn send(&mut self, batch: &Batch) -> Result<(), Error> {
        let deadline = self.begin()?;
        let mut last: Option<(TopicName, usize)> = None;
        for record in batch.records() {
            if *record.topic() == self.letter_topic {
                self.pass_on(&record, deadline)?;
                continue;
            }
            let place = match &last {
                Some((name, place)) if name == record.topic() => *place,
                _ => {
                    let place = self.place(record.topic());
                    last = Some((record.topic().clone(), place));
                    place
                }
            };
            let size = letter::size(&record);
            if self.is_too_large(place, size)? {
                self.set_aside(&record, place, size, deadline)?;
                continue;
            }
            let by_key = |partitions| Some(partition::of_key(record.key()?, partitions));
            let partition =
                record.partition().or_else(|| self.topics[place].partitions.and_then(by_key));
            self.is_news |= self.topics[place].is_news(partition);
            let out = BaseRecord {
                topic: record.topic().as_str(),
                partition,
                payload: record.value(),
                key: record.key(),
                timestamp: None,
                headers: headers(&record),
                delivery_opaque: place,
            };
            self.hand_over(out, deadline)?;
        }
        self.producer.poll(Duration::ZERO);
        Ok(())
    }

    fn settle(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.is_news) {
            let deadline = self.begin()?;
            self.deliver(deadline)?;
            self.note_ends();
        }
        Ok(())
    }

    fn commit(&mut self, progress: &[u8]) -> Result<(), Error> {
        let deadline = self.begin()?;
        let topic = self.progress_topic.clone();
        let record = BaseRecord::with_opaque_to(topic.as_str(), PROGRESS)
            .partition(0)
            .key(progress::KEY)
            .payload(progress);
        self.hand_over(record, deadline)?;
        crash::point(Point::ProgressSent);
        let began = Instant::now();
        self.deliver(deadline)?;
        crash::point(Point::Delivered);
        let delivered = Instant::now();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let error = match self.producer.commit_transaction(left) {
                Ok(()) => break,
                Err(error) => error,
            };
            let KafkaError::Transaction(transaction) = &error else {
                return Err(self.unclear(error));
            };
            if is_fenced(&error) {
                return Err(Error::Fenced);
            }
            if transaction.txn_requires_abort() {
                return Err(self.classified(error, "committing a transaction"));
            }
            // A retriable error means that the client does not know yet either.
            if !transaction.is_retriable() || left.is_zero() {
                return Err(self.unclear(error));
            }
        }
        self.deadline = None;
        let stage = |stage: &'static str, took: Duration| {
            metrics::histogram!(names::STAGE, "stage" => stage).record(took.as_secs_f64());
        };
        stage("deliver", delivered - began);
        stage("commit", delivered.elapsed());
        Ok(())
    }

    fn abort(&mut self) {
        self.known.with(&self.ends());
        if self.deadline.take().is_none() {
            return;
        }
        // The client's abort waits for every message to be reported; purging makes that short.
        self.producer.purge(PurgeConfig::default().queue().inflight());
        let deadline = Instant::now() + ABORT_WAIT;
        while self.producer.in_flight_count() > 0 && Instant::now() < deadline {
            self.producer.poll(Duration::ZERO);
            thread::sleep(SERVE_PAUSE);
        }
        if let Err(error) = self.producer.abort_transaction(ABORT_WAIT) {
            tracing::debug!(%error, "the open transaction was not aborted; the next start does it");
        }
        // What was purged is reported as undelivered, and belongs to no transaction that may follow.
        let mut seen = self.producer.context().seen();
        (seen.failure, seen.receded) = (None, None);
    }

    fn ends(&self) -> Ends {
        let seen = self.producer.context().seen();
        let known = |(topic, ends): (&Topic, &Vec<i64>)| {
            (!ends.is_empty()).then(|| (topic.name.clone(), ends.clone()))
        };
        self.topics.iter().zip(&seen.ends).filter_map(known).collect()
    }

    fn on_registrations(&mut self, registered: &Registrations) {
        for topic in registered.written() {
            let place = self.place(&topic.spec.name);
            let before = self.topics[place].partitions.replace(topic.spec.partitions);
            // The client learns of new partitions late by itself, and refuses them until then.
            if before.is_some_and(|before| before != topic.spec.partitions) {
                let name = Some(topic.spec.name.as_str());
                let asked = self.producer.client().fetch_metadata(name, ASK_WAIT);
                asked.inspect_err(|error| tracing::debug!(%error, "asking for partitions")).ok();
            }
        }
    }
}

/// `None` when there are none.
fn headers(record: &BatchRecord<'_>) -> Option<OwnedHeaders> {
    record.headers().fold(None, |headers, (key, value)| {
        Some(headers.unwrap_or_default().insert(Header { key, value: Some(value) }))
    })
}

fn is_retriable(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(error) if error.is_retriable())
}

fn is_fenced(error: &KafkaError) -> bool {
    error.rdkafka_error_code().is_some_and(is_fence)
}

fn is_fence(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::Fenced
            | RDKafkaErrorCode::ProducerFenced
            | RDKafkaErrorCode::InvalidProducerEpoch
    )
}

/// Which errors will not pass by waiting. Everything else on the way to a broker may.
pub(super) fn classified(source: KafkaError, brokers: &str, doing: &'static str) -> Error {
    use RDKafkaErrorCode as C;

    if is_fenced(&source) {
        return Error::Fenced;
    }
    let brokers = brokers.to_owned();
    let source = Box::new(source);
    match source.rdkafka_error_code() {
        Some(
            C::Authentication
            | C::SaslAuthenticationFailed
            | C::SSL
            | C::TopicAuthorizationFailed
            | C::GroupAuthorizationFailed
            | C::ClusterAuthorizationFailed
            | C::TransactionalIdAuthorizationFailed
            | C::UnsupportedFeature
            | C::UnsupportedSASLMechanism
            | C::UnsupportedVersion
            | C::InvalidTransactionTimeout
            | C::InvalidRequiredAcks
            | C::PolicyViolation
            | C::InvalidRecord,
        ) => Error::Refused { brokers, doing, source },
        _ => Error::Failed { brokers, doing, source },
    }
}
