//! Kafka through librdkafka, used from one thread.
//!
//! * Progress is read only after `init_transactions`, which ends whatever a predecessor left open. Reading
//!   first would let it commit once more behind our back.
//! * The producer's own flush waits in slices of 100 ms. We serve its queue ourselves until nothing is in
//!   flight, and only then commit.
//! * Messages have no time limit of their own (`message.timeout.ms=0`); the transaction has one, kept here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext, PurgeConfig};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tailwater_topics_contract::{PipelineName, TopicName, TopicRegistration};

use super::{Error, Publisher};
use crate::batch::Batch;
use crate::progress::{self, Ends};
use tailwater_config::KafkaConfig;

/// After this the broker aborts a transaction by itself. Librdkafka's own default.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);

/// How long records may take to be delivered and committed: less than the broker's patience.
const TRANSACTION_WAIT: Duration = Duration::from_secs(50);

/// How long the first contact may take before the session counts it as an attempt that failed.
const INIT_WAIT: Duration = Duration::from_secs(20);

/// Between two looks at the stop flag during the first contact.
const INIT_SLICE: Duration = Duration::from_secs(2);

/// How long a courtesy abort may take; a successor's `init_transactions` does the same.
const ABORT_WAIT: Duration = Duration::from_secs(5);

/// How long questions about topics may take.
pub(super) const ASK_WAIT: Duration = Duration::from_secs(15);

/// Between two looks at what was delivered. The client's own `poll` spins in its last millisecond.
const SERVE_PAUSE: Duration = Duration::from_micros(100);

/// A transactional producer.
pub struct Kafka {
    producer: BaseProducer<Deliveries>,
    brokers: String,
    progress_topic: TopicName,
    topics: HashMap<TopicName, usize>,
    /// When the open transaction must be over.
    deadline: Option<Instant>,
}

/// The opaque of a progress record, which has no place in [`Ends`].
const PROGRESS: usize = usize::MAX;

/// What delivery reports say. Filled from within `poll`, on the thread that calls it.
#[derive(Default)]
struct Deliveries {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Next offsets by topic (in the order they were first sent to) and partition.
    ends: Vec<Vec<i64>>,
    /// The first delivery that failed.
    failure: Option<(KafkaError, usize)>,
}

impl Deliveries {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "the Kafka client has trouble");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, topic: usize) {
        let mut seen = self.seen();
        match result {
            Ok(message) => {
                let partition = usize::try_from(message.partition()).unwrap_or_default();
                if let Some(ends) = seen.ends.get_mut(topic) {
                    if ends.len() <= partition {
                        ends.resize(partition + 1, -1);
                    }
                    ends[partition] = message.offset() + 1;
                }
            }
            Err((error, _)) => {
                seen.failure.get_or_insert_with(|| (error.clone(), topic));
            }
        }
    }
}

/// A context that says nothing but logs.
pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the Kafka client has trouble");
    }
}

impl rdkafka::consumer::ConsumerContext for Quiet {}

fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error
        | RDKafkaLogLevel::Warning => tracing::warn!(facility, message, "librdkafka"),
        _ => tracing::debug!(facility, message, "librdkafka"),
    }
}

impl Kafka {
    /// Prepares a producer; nothing is sent yet. Users' properties override only what delivery does not rest on.
    pub fn new(config: &KafkaConfig, pipeline: &PipelineName) -> Result<Self, Error> {
        let mut client = config.client();
        // Every batch is committed at once; waiting for company would only add to each commit.
        let ours = [
            ("linger.ms", "1"),
            ("compression.type", "lz4"),
            ("queue.buffering.max.kbytes", "65536"),
            ("queue.buffering.max.messages", "1000000"),
        ];
        for (property, value) in ours {
            if !config.properties.contains_key(property) {
                client.set(property, value);
            }
        }
        client
            .set("transactional.id", pipeline.transactional_id())
            .set("transaction.timeout.ms", TRANSACTION_TIMEOUT.as_millis().to_string())
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", "0")
            // As Java clients do, so that every producer puts a key into the same partition.
            .set("partitioner", "murmur2_random");
        Ok(Self {
            producer: client
                .create_with_context(Deliveries::default())
                .map_err(|error| Error::Settings(Box::new(error)))?,
            brokers: config.brokers.clone(),
            progress_topic: pipeline.progress_topic(),
            topics: HashMap::new(),
            deadline: None,
        })
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
            if !is_retriable(&error) || began.elapsed() >= INIT_WAIT {
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
        let deadline = Instant::now() + TRANSACTION_WAIT;
        self.deadline = Some(deadline);
        Ok(deadline)
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
                let topic = back.topic;
                let bytes = back.key.map_or(0, <[u8]>::len) + back.payload.map_or(0, <[u8]>::len);
                return Err(self.undelivered(error, topic, bytes));
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out("waiting for room to send"));
            }
            record = back;
            self.producer.poll(Duration::from_millis(5));
        }
    }

    /// Waits until every record handed over is acknowledged.
    fn deliver(&self, deadline: Instant) -> Result<(), Error> {
        loop {
            let before = self.producer.in_flight_count();
            self.producer.poll(Duration::ZERO);
            if let Some((error, topic)) = self.producer.context().seen().failure.take() {
                return Err(self.undelivered(error, self.name_of(topic), 0));
            }
            let after = self.producer.in_flight_count();
            if after == 0 {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out("delivering records"));
            }
            // One call serves one report; there may be more.
            if after == before {
                thread::sleep(SERVE_PAUSE);
            }
        }
    }

    fn name_of(&self, topic: usize) -> &str {
        let known = self.topics.iter().find(|(_, index)| **index == topic);
        known.map_or(self.progress_topic.as_str(), |(name, _)| name.as_str())
    }

    fn timed_out(&self, doing: &'static str) -> Error {
        Error::TimedOut {
            brokers: self.brokers.clone(),
            doing,
            seconds: TRANSACTION_WAIT.as_secs(),
        }
    }

    fn undelivered(&self, error: KafkaError, topic: &str, bytes: usize) -> Error {
        let named = || topic.parse().unwrap_or_else(|_| self.progress_topic.clone());
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownPartition,
            ) => Error::NoTopic { topic: named() },
            Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize) => {
                Error::TooLarge { topic: named(), bytes }
            }
            _ => self.classified(error, "delivering records"),
        }
    }

    fn classified(&self, error: KafkaError, doing: &'static str) -> Error {
        // A fenced client throws away its queue first, so the error at hand need not be the cause.
        match self.producer.client().fatal_error() {
            Some((code, _)) if is_fence(code) => Error::Fenced,
            _ => classified(error, &self.brokers, doing),
        }
    }
}

impl Publisher for Kafka {
    fn send(&mut self, batch: &Batch) -> Result<(), Error> {
        let deadline = self.begin()?;
        let mut last: Option<(TopicName, usize)> = None;
        for record in batch.records() {
            let index = match &last {
                Some((name, index)) if name == record.topic() => *index,
                _ => {
                    let next = self.topics.len();
                    let index = *self.topics.entry(record.topic().clone()).or_insert(next);
                    if index == next {
                        self.producer.context().seen().ends.push(Vec::new());
                    }
                    last = Some((record.topic().clone(), index));
                    index
                }
            };
            let mut headers: Option<OwnedHeaders> = None;
            for (key, value) in record.headers() {
                let into = headers.take().unwrap_or_default();
                headers = Some(into.insert(Header { key, value: Some(value) }));
            }
            let out = BaseRecord {
                topic: record.topic().as_str(),
                partition: record.partition(),
                payload: record.value(),
                key: record.key(),
                timestamp: None,
                headers,
                delivery_opaque: index,
            };
            self.hand_over(out, deadline)?;
        }
        self.producer.poll(Duration::ZERO);
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
        let began = Instant::now();
        self.deliver(deadline)?;
        let delivered = Instant::now();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let error = match self.producer.commit_transaction(left) {
                Ok(()) => break,
                Err(error) => error,
            };
            let KafkaError::Transaction(transaction) = &error else {
                return Err(Error::Unclear(Box::new(error)));
            };
            if is_fenced(&error) {
                return Err(Error::Fenced);
            }
            if transaction.txn_requires_abort() {
                return Err(self.classified(error, "committing a transaction"));
            }
            // A retriable error means that the client does not know yet either.
            if !transaction.is_retriable() || left.is_zero() {
                return Err(Error::Unclear(Box::new(error)));
            }
        }
        self.deadline = None;
        let stage = |stage: &'static str, took: Duration| {
            metrics::histogram!(crate::metrics::STAGE, "stage" => stage).record(took.as_secs_f64());
        };
        stage("deliver", delivered - began);
        stage("commit", delivered.elapsed());
        Ok(())
    }

    fn abort(&mut self) {
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
    }

    fn ends(&self) -> Ends {
        let seen = self.producer.context().seen();
        let known = |(name, index): (&TopicName, &usize)| {
            let ends = seen.ends.get(*index)?;
            (!ends.is_empty()).then(|| (name.clone(), ends.clone()))
        };
        self.topics.iter().filter_map(known).collect()
    }
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

pub(super) fn partitions<C: ClientContext>(
    client: &rdkafka::client::Client<C>,
    brokers: &str,
    topic: &TopicName,
) -> Result<usize, Error> {
    let doing = "asking for topics";
    let metadata = client
        .fetch_metadata(Some(topic.as_str()), ASK_WAIT)
        .map_err(|source| classified(source, brokers, doing))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic.as_str());
    let count = found.map_or(0, |found| found.partitions().len());
    if count == 0 { Err(Error::NoTopic { topic: topic.clone() }) } else { Ok(count) }
}

pub(super) fn consumer(
    config: &KafkaConfig,
    isolation: &str,
    group: &str,
) -> Result<BaseConsumer<Quiet>, Error> {
    config
        .client()
        .set("group.id", group)
        .set("isolation.level", isolation)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", "50")
        .create_with_context(Quiet)
        .map_err(|error| Error::Settings(Box::new(error)))
}

/// Compares topics with their registrations: they exist, with the registered number of partitions. Blocks.
///
/// Asks as a consumer, because a producer's question makes a broker create the topic where it may.
pub fn check_topics<'a>(
    config: &KafkaConfig,
    topics: impl Iterator<Item = &'a TopicRegistration>,
) -> Result<(), Error> {
    let consumer = consumer(config, "read_committed", "tailwater")?;
    for topic in topics {
        let found = partitions(consumer.client(), &config.brokers, &topic.spec.name)?;
        let registered = topic.spec.partitions;
        if found != registered as usize {
            let topic = topic.spec.name.clone();
            return Err(Error::Partitions { topic, found, registered });
        }
    }
    Ok(())
}

/// The last committed value of a topic with one partition; `None` when it holds none. Blocks.
pub fn last_value(config: &KafkaConfig, topic: &TopicName) -> Result<Option<Vec<u8>>, Error> {
    let doing = "reading progress";
    let failed = |source| classified(source, &config.brokers, doing);
    let consumer = consumer(config, "read_committed", topic.as_str())?;
    partitions(consumer.client(), &config.brokers, topic)?;
    let (low, high) = consumer.fetch_watermarks(topic.as_str(), 0, ASK_WAIT).map_err(failed)?;
    let window = Window { topic, partition: 0, first: low, next: high };
    newest(&consumer, &config.brokers, doing, window, |message| {
        (message.key() == Some(progress::KEY)).then(|| message.payload().map(<[u8]>::to_vec))?
    })
}

/// Offsets of a partition.
#[derive(Clone, Copy)]
pub(super) struct Window<'a> {
    pub(super) topic: &'a TopicName,
    pub(super) partition: i32,
    /// The first that is still there.
    pub(super) first: i64,
    /// The one that the next record gets.
    pub(super) next: i64,
}

/// What `pick` makes of the last record of which it makes anything; `None` when there is no such record. Blocks.
pub(super) fn newest<T>(
    consumer: &BaseConsumer<Quiet>,
    brokers: &str,
    doing: &'static str,
    window: Window<'_>,
    pick: impl Fn(&BorrowedMessage<'_>) -> Option<T>,
) -> Result<Option<T>, Error> {
    let failed = |source| classified(source, brokers, doing);
    let Window { topic, partition, first, next } = window;
    let deadline = Instant::now() + ASK_WAIT;
    // Nearly always among the last few records; what comes before is read only if not. Markers of transactions take
    // offsets, too.
    for window in [64, 8192, i64::MAX] {
        let start = next.saturating_sub(window).max(first);
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(topic.as_str(), partition, Offset::Offset(start))
            .and_then(|()| consumer.assign(&assignment))
            .map_err(failed)?;
        let mut last = None;
        loop {
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => {
                    last = pick(&message).or(last);
                    // Somebody who writes without a pause would keep the end away for ever.
                    if message.offset() + 1 >= next {
                        break;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(source)) if is_passing(&source) => {}
                Some(Err(source)) => return Err(failed(source)),
                None => {}
            }
            if Instant::now() >= deadline {
                let (brokers, seconds) = (brokers.to_owned(), ASK_WAIT.as_secs());
                return Err(Error::TimedOut { brokers, doing, seconds });
            }
        }
        if last.is_some() || start == first {
            return Ok(last);
        }
    }
    Ok(None)
}

/// Errors that the client gets over by itself; the deadline bounds them.
pub(super) fn is_passing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as C;
    matches!(
        error.rdkafka_error_code(),
        Some(
            C::BrokerTransportFailure
                | C::AllBrokersDown
                | C::OperationTimedOut
                | C::NotLeaderForPartition
                | C::LeaderNotAvailable
        )
    )
}

/// Where one partition ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End<'a> {
    /// The topic.
    pub topic: &'a TopicName,
    /// The partition.
    pub partition: i32,
    /// The offset the next record will have.
    pub offset: i64,
}

/// Asks for the ends of partitions and answers the first for which `wrong` says so. Blocks.
pub fn find_end<'a>(
    config: &KafkaConfig,
    partitions: impl Iterator<Item = (&'a TopicName, i32)>,
    wrong: impl Fn(End<'a>) -> bool,
) -> Result<Option<End<'a>>, Error> {
    // Uncommitted: somebody else's open transaction must not look like lost records.
    let consumer: BaseConsumer<Quiet> = consumer(config, "read_uncommitted", "tailwater")?;
    for (topic, partition) in partitions {
        let ends = consumer.fetch_watermarks(topic.as_str(), partition, ASK_WAIT);
        let (_, offset) = match ends {
            Ok(ends) => ends,
            Err(source) => match source.rdkafka_error_code() {
                Some(
                    RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::UnknownPartition,
                ) => return Err(Error::NoTopic { topic: topic.clone() }),
                _ => return Err(classified(source, &config.brokers, "asking for log ends")),
            },
        };
        let end = End { topic, partition, offset };
        if wrong(end) {
            return Ok(Some(end));
        }
    }
    Ok(None)
}
