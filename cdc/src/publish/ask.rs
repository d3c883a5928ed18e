//! What is asked of the brokers beside writing: topics, ends, limits, the last progress.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tailwater_config::KafkaConfig;
use tailwater_topics_contract::{TopicName, TopicRegistration};

use super::deliveries::log;
use super::kafka::classified;
use super::{Error, letter};
use crate::progress;

/// How long questions about topics may take.
pub(super) const ASK_WAIT: Duration = Duration::from_secs(15);

/// How long the limits of topics are waited for when a session begins.
const LIMITS_WAIT: Duration = Duration::from_secs(5);

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

pub(super) fn partitions<C: ClientContext>(
    client: &Client<C>,
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

/// How many partitions every topic has. One question for all: the client's for one topic are slow when they are many.
fn partition_counts<C: ClientContext>(
    client: &Client<C>,
    brokers: &str,
) -> Result<HashMap<String, usize>, Error> {
    let metadata = client
        .fetch_metadata(None, ASK_WAIT)
        .map_err(|source| classified(source, brokers, "asking for topics"))?;
    let counts = metadata.topics().iter().map(|t| (t.name().to_owned(), t.partitions().len()));
    Ok(counts.collect())
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
    let counts = partition_counts(consumer.client(), &config.brokers)?;
    for topic in topics {
        let name = &topic.spec.name;
        let found = counts.get(name.as_str()).copied().unwrap_or_default();
        if found == 0 {
            return Err(Error::NoTopic { topic: name.clone() });
        }
        let registered = topic.spec.partitions;
        if found != registered as usize {
            return Err(Error::Partitions { topic: name.clone(), found, registered });
        }
    }
    Ok(())
}

/// The last committed value of a topic with one partition; `None` when it holds none. Blocks.
pub fn last_value(config: &KafkaConfig, topic: &TopicName) -> Result<Option<Vec<u8>>, Error> {
    let doing = "reading progress";
    let failed = |source| classified(source, &config.brokers, doing);
    let consumer = consumer(config, "read_committed", topic.as_str())?;
    match partitions(consumer.client(), &config.brokers, topic) {
        Err(Error::NoTopic { topic }) => return Err(Error::NoProgressTopic { topic }),
        answered => answered?,
    };
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

/// Asks for the ends of partitions, of all at once, and answers the first for which `wrong` says so. Blocks.
pub fn find_end<'a>(
    config: &KafkaConfig,
    partitions: impl Iterator<Item = (&'a TopicName, i32)>,
    wrong: impl Fn(End<'a>) -> bool,
) -> Result<Option<End<'a>>, Error> {
    let failed = |source| classified(source, &config.brokers, "asking for log ends");
    // Uncommitted: somebody else's open transaction must not look like lost records.
    let consumer: BaseConsumer<Quiet> = consumer(config, "read_uncommitted", "tailwater")?;
    let counts = partition_counts(consumer.client(), &config.brokers)?;
    let mut asked = TopicPartitionList::new();
    let mut topics: HashMap<&str, &'a TopicName> = HashMap::new();
    for (topic, partition) in partitions {
        // The client would look for the leader of a partition that is not there until its time is over.
        let count = counts.get(topic.as_str()).copied().unwrap_or_default();
        if usize::try_from(partition).map_or(true, |partition| partition >= count) {
            return Err(Error::NoTopic { topic: topic.clone() });
        }
        asked.add_partition_offset(topic.as_str(), partition, Offset::End).map_err(failed)?;
        topics.insert(topic.as_str(), topic);
    }
    if topics.is_empty() {
        return Ok(None);
    }
    // For a time of `End` brokers answer the end.
    let answered = consumer.offsets_for_times(asked, ASK_WAIT).map_err(failed)?;
    for found in answered.elements() {
        found.error().map_err(failed)?;
        let (Some(topic), Offset::Offset(offset)) = (topics.get(found.topic()), found.offset())
        else {
            return Err(failed(KafkaError::OffsetFetch(RDKafkaErrorCode::NoOffset)));
        };
        let end = End { topic, partition: found.partition(), offset };
        if wrong(end) {
            return Ok(Some(end));
        }
    }
    Ok(None)
}

/// The largest batch that each of these topics takes, as far as the brokers say. Blocks.
pub(super) fn limits<'a>(
    config: &KafkaConfig,
    topics: impl Iterator<Item = &'a TopicName>,
) -> Result<HashMap<TopicName, usize>, Error> {
    let doing = "asking for the limits of topics";
    let topics: Vec<&TopicName> = topics.collect();
    if topics.is_empty() {
        return Ok(HashMap::new());
    }
    let admin = admin(config)?;
    let asked = topics.iter().map(|topic| ResourceSpecifier::Topic(topic.as_str()));
    let asked: Vec<_> = asked.collect();
    let options = AdminOptions::new().request_timeout(Some(LIMITS_WAIT));
    let told = block_on(admin.describe_configs(&asked, &options));
    let told = told.map_err(|source| classified(source, &config.brokers, doing))?;
    let limit = |(topic, told): (&&TopicName, rdkafka::admin::ConfigResourceResult)| {
        // Whoever may not ask, or asks for a topic that is not there, learns it otherwise.
        let told = told.ok()?;
        let value = told.get("max.message.bytes")?.value.as_ref()?.parse().ok()?;
        Some(((*topic).clone(), value))
    };
    Ok(topics.iter().zip(told).filter_map(limit).collect())
}

/// Makes the topic for records that are set aside, unless it is there. Blocks.
pub(super) fn make_letter_topic(config: &KafkaConfig, topic: &TopicName) -> Result<(), Error> {
    let doing = "creating the dead-letter topic";
    let new = NewTopic::new(topic.as_str(), 1, TopicReplication::Fixed(-1));
    let new = letter::TOPIC.iter().fold(new, |new, (name, value)| new.set(name, value));
    let options = AdminOptions::new().request_timeout(Some(ASK_WAIT));
    let made = block_on(admin(config)?.create_topics(&[new], &options));
    let made = made.map_err(|source| classified(source, &config.brokers, doing))?;
    match made.into_iter().next() {
        Some(Err((_, code))) if code != RDKafkaErrorCode::TopicAlreadyExists => {
            Err(classified(KafkaError::AdminOp(code), &config.brokers, doing))
        }
        _ => Ok(()),
    }
}

fn admin(config: &KafkaConfig) -> Result<AdminClient<Quiet>, Error> {
    let admin = config.client().create_with_context(Quiet);
    admin.map_err(|error| Error::Settings(Box::new(error)))
}

/// The client answers from a thread of its own, so whoever blocks here holds nobody up.
fn block_on<T>(answer: impl Future<Output = Result<T, KafkaError>>) -> Result<T, KafkaError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.map_err(|_| KafkaError::Canceled)?.block_on(answer)
}
