//! Topics in Kafka: looked at, created, grown and set.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigResource, ConfigSource, NewPartitions,
    ResourceSpecifier, TopicReplication, TopicResult,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tailwater_config::kafka::{self, Refusal};
use tailwater_topics_contract::TopicName;

use crate::change::{NewTopic, Setting};
use crate::world::TopicState;

/// How long one request may take; the client connects again and again within it.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// How long a new topic may be without leaders. A busy cluster of many brokers takes seconds.
const LEADERS_MAX: Duration = Duration::from_secs(60);
/// How often leaders are asked for.
const LEADERS_EVERY: Duration = Duration::from_millis(50);

/// Topics of one request. A controller writes what a request makes in one piece, which it limits to 10,000 entries: one
/// for each topic, partition and setting.
const CREATE_AT_ONCE: usize = 100;

/// A connection to the brokers.
pub(crate) struct Broker {
    address: String,
    admin: AdminClient<DefaultClientContext>,
    consumer: Arc<BaseConsumer>,
}

/// Kafka did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client cannot be set up.
    #[error("the Kafka client cannot be set up with these `kafka.properties`")]
    Client(#[source] Box<KafkaError>),
    /// Nobody answered.
    #[error("Kafka at {address} did not answer within {} s", waited.as_secs())]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// How long it was tried.
        waited: Duration,
        /// What the client said last.
        #[source]
        source: Box<KafkaError>,
    },
    /// The brokers will not have us.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A request failed.
    #[error("Kafka at {address} could not {what}")]
    Request {
        /// Where.
        address: String,
        /// What was asked.
        what: String,
        /// Why not.
        #[source]
        source: Box<KafkaError>,
    },
    /// A topic was refused.
    #[error("Kafka at {address} could not {what} topic `{topic}`: {code}")]
    Topic {
        /// Where.
        address: String,
        /// The topic.
        topic: String,
        /// What was asked.
        what: &'static str,
        /// Why not.
        code: RDKafkaErrorCode,
    },
    /// A topic exists and has no leaders.
    #[error("topic `{topic}` has partitions without a leader {} s after it was created", waited.as_secs())]
    NoLeader {
        /// The topic.
        topic: TopicName,
        /// How long it was waited for.
        waited: Duration,
    },
}

impl Broker {
    /// Sets up the clients; the first request connects.
    pub(crate) fn new(config: &ClientConfig) -> Result<Self, Error> {
        Ok(Self {
            address: address(config),
            admin: config.create().map_err(client)?,
            consumer: Arc::new(config.create().map_err(client)?),
        })
    }

    /// Those of the topics that exist.
    pub(crate) async fn topics(
        &self,
        names: &[TopicName],
    ) -> Result<BTreeMap<TopicName, TopicState>, Error> {
        let mut found = partition_counts(&self.metadata().await?);
        found.retain(|name, _| names.contains(name));
        let mut configs = self.configs(found.keys()).await?;
        let written = self.written(&found).await?;
        let state = |(name, partitions): (TopicName, u32)| {
            let config = configs.remove(name.as_str()).unwrap_or_default();
            let has_records = written.contains(name.as_str());
            (name, TopicState { partitions, config, has_records })
        };
        Ok(found.into_iter().map(state).collect())
    }

    /// Those of the topics to which something was ever written, by their partitions.
    async fn written(&self, topics: &BTreeMap<TopicName, u32>) -> Result<BTreeSet<String>, Error> {
        let failed = |source| self.failed("show the ends of its topics", source);
        let mut asked = TopicPartitionList::new();
        for (topic, partitions) in topics {
            for partition in 0..*partitions as i32 {
                let asked = asked.add_partition_offset(topic.as_str(), partition, Offset::End);
                asked.map_err(failed)?;
            }
        }
        if asked.count() == 0 {
            return Ok(BTreeSet::new());
        }
        let consumer = self.consumer.clone();
        // For a time of `End` brokers answer the end. One question for all partitions.
        let ends = blocking(move || consumer.offsets_for_times(asked, ANSWER_MAX)).await;
        let ends = ends.map_err(failed)?;
        let mut written = BTreeSet::new();
        for end in ends.elements() {
            end.error().map_err(failed)?;
            if matches!(end.offset(), Offset::Offset(offset) if offset > 0) {
                written.insert(end.topic().to_owned());
            }
        }
        Ok(written)
    }

    /// Why the broker would not create a topic, for each that it would not.
    pub(crate) async fn uncreatable(
        &self,
        topics: &[NewTopic],
    ) -> Result<BTreeMap<TopicName, String>, Error> {
        let results = self.create_all(topics, &options().validate_only(true)).await?;
        let mut uncreatable = BTreeMap::new();
        for (topic, result) in topics.iter().zip(results) {
            let why = match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => continue,
                Err((_, RDKafkaErrorCode::InvalidConfig)) => self.refused_settings(topic).await?,
                Err((_, code)) => code.to_string(),
            };
            uncreatable.insert(topic.name.clone(), why);
        }
        Ok(uncreatable)
    }

    /// Which settings the broker refuses. It says only that there are some, so each is tried alone.
    async fn refused_settings(&self, topic: &NewTopic) -> Result<String, Error> {
        let with_one = |(name, value): (&String, &String)| NewTopic {
            config: BTreeMap::from([(name.clone(), value.clone())]),
            ..topic.clone()
        };
        let trials: Vec<NewTopic> = topic.config.iter().map(with_one).collect();
        let mut refused = Vec::new();
        for (trial, (name, value)) in trials.iter().zip(&topic.config) {
            let results = self
                .create_all(std::slice::from_ref(trial), &options().validate_only(true))
                .await?;
            if results
                .iter()
                .any(|result| matches!(result, Err((_, RDKafkaErrorCode::InvalidConfig))))
            {
                refused.push(format!("`{name}: {value}`"));
            }
        }
        if refused.is_empty() {
            return Ok("its `config` contradicts itself".to_owned());
        }
        Ok(format!("it refuses {}", refused.join(", ")))
    }

    /// Creates topics unless they exist, with one request, and waits until all their partitions have leaders.
    pub(crate) async fn create(&self, topics: &[NewTopic]) -> Result<(), Error> {
        let results = self.create_all(topics, &options()).await?;
        for (topic, result) in topics.iter().zip(results) {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(self.refused(&topic.name, "create", code)),
            }
        }
        self.wait_for_leaders(topics.iter().map(|topic| (&topic.name, topic.partitions))).await
    }

    /// Grows a topic to `partitions`.
    pub(crate) async fn grow(&self, name: &TopicName, partitions: u32) -> Result<(), Error> {
        let request = [NewPartitions::new(name.as_str(), partitions as usize)];
        let results = self.admin.create_partitions(&request, &options()).await;
        for result in results.map_err(|source| self.failed("add partitions", source))? {
            if let Err((_, code)) = result {
                return Err(self.refused(name, "add partitions to", code));
            }
        }
        self.wait_for_leaders(std::iter::once((name, partitions))).await
    }

    /// Sets some settings of a topic and keeps all others.
    pub(crate) async fn set(&self, name: &TopicName, settings: &[Setting]) -> Result<(), Error> {
        // The request replaces everything that was set on the topic, so what was set before goes along.
        let described = self.describe([name]).await?;
        let own = described.iter().flat_map(|resource| &resource.entries);
        let own = own.filter(|entry| entry.source == ConfigSource::DynamicTopic);
        let mut config: BTreeMap<&str, &str> =
            own.filter_map(|e| Some((e.name.as_str(), e.value.as_deref()?))).collect();
        config.extend(settings.iter().map(|s| (s.key.as_str(), s.to.as_str())));
        let request = config.iter().fold(
            AlterConfig::new(ResourceSpecifier::Topic(name.as_str())),
            |request, (key, value)| request.set(key, value),
        );
        let results = self.admin.alter_configs([&request], &options()).await;
        for result in results.map_err(|source| self.failed("set topic settings", source))? {
            if let Err((_, code)) = result {
                return Err(self.refused(name, "set the settings of", code));
            }
        }
        Ok(())
    }

    /// First and next offset of a partition. A leader that has not heard yet that it is one is asked again: of a topic
    /// with a thousand partitions that was just created there are many.
    pub(crate) async fn watermarks(
        &self,
        name: &TopicName,
        partition: i32,
    ) -> Result<(i64, i64), Error> {
        let begun = Instant::now();
        loop {
            let (consumer, topic) = (self.consumer.clone(), name.clone());
            let read =
                blocking(move || consumer.fetch_watermarks(topic.as_str(), partition, ANSWER_MAX))
                    .await;
            match read {
                Err(source) if is_unaware(&source) && begun.elapsed() < LEADERS_MAX => {
                    tokio::time::sleep(LEADERS_EVERY).await;
                }
                read => {
                    let what = format!("show the offsets of `{name}`");
                    return read.map_err(|source| self.failed(&what, source));
                }
            }
        }
    }

    async fn metadata(&self) -> Result<Metadata, Error> {
        let consumer = self.consumer.clone();
        // All topics, because asking for one that does not exist may create it.
        blocking(move || consumer.fetch_metadata(None, ANSWER_MAX))
            .await
            .map_err(|source| self.failed("list its topics", source))
    }

    async fn configs(
        &self,
        names: impl IntoIterator<Item = &TopicName>,
    ) -> Result<BTreeMap<String, BTreeMap<String, String>>, Error> {
        let mut configs = BTreeMap::new();
        for resource in self.describe(names).await? {
            let rdkafka::admin::OwnedResourceSpecifier::Topic(name) = resource.specifier else {
                continue;
            };
            let entries = resource.entries.into_iter();
            configs.insert(name, entries.filter_map(|e| Some((e.name, e.value?))).collect());
        }
        Ok(configs)
    }

    async fn describe(
        &self,
        names: impl IntoIterator<Item = &TopicName>,
    ) -> Result<Vec<ConfigResource>, Error> {
        let request: Vec<_> =
            names.into_iter().map(|name| ResourceSpecifier::Topic(name.as_str())).collect();
        if request.is_empty() {
            return Ok(Vec::new());
        }
        let what = "show topic settings";
        let results = self.admin.describe_configs(&request, &options()).await;
        let results = results.map_err(|source| self.failed(what, source))?;
        let read = |result: Result<ConfigResource, _>| {
            result.map_err(|code| self.failed(what, KafkaError::AdminOp(code)))
        };
        results.into_iter().map(read).collect()
    }

    async fn create_all(
        &self,
        topics: &[NewTopic],
        options: &AdminOptions,
    ) -> Result<Vec<TopicResult>, Error> {
        let mut results = Vec::with_capacity(topics.len());
        for topics in topics.chunks(CREATE_AT_ONCE) {
            let request: Vec<_> = topics.iter().map(requested).collect();
            let answered = self.admin.create_topics(&request, options).await;
            results.extend(answered.map_err(|source| self.failed("create topics", source))?);
        }
        Ok(results)
    }

    async fn wait_for_leaders(
        &self,
        topics: impl Iterator<Item = (&TopicName, u32)> + Clone,
    ) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            let metadata = self.metadata().await?;
            let led: HashMap<&str, usize> = metadata
                .topics()
                .iter()
                .map(|t| (t.name(), t.partitions().iter().filter(|p| p.leader() >= 0).count()))
                .collect();
            let is_led = |name: &TopicName, partitions: u32| {
                led.get(name.as_str()).is_some_and(|led| *led >= partitions as usize)
            };
            let Some((name, _)) = topics.clone().find(|(name, count)| !is_led(name, *count)) else {
                return Ok(());
            };
            if begun.elapsed() > LEADERS_MAX {
                return Err(Error::NoLeader { topic: name.clone(), waited: LEADERS_MAX });
            }
            tokio::time::sleep(LEADERS_EVERY).await;
        }
    }

    fn failed(&self, what: &str, source: KafkaError) -> Error {
        failed(&self.address, what, source)
    }

    fn refused(&self, topic: &TopicName, what: &'static str, code: RDKafkaErrorCode) -> Error {
        Error::Topic { address: self.address.clone(), topic: topic.to_string(), what, code }
    }
}

fn requested(topic: &NewTopic) -> rdkafka::admin::NewTopic<'_> {
    let replication = TopicReplication::Fixed(topic.replication.map_or(-1, i32::from));
    let (name, partitions) = (topic.name.as_str(), topic.partitions as i32);
    let new = rdkafka::admin::NewTopic::new(name, partitions, replication);
    topic.config.iter().fold(new, |new, (key, value)| new.set(key, value))
}

/// The error of a client that cannot be set up.
pub(crate) fn client(source: KafkaError) -> Error {
    Error::Client(Box::new(source))
}

/// The brokers as configured.
pub(crate) fn address(config: &ClientConfig) -> String {
    config.get("bootstrap.servers").unwrap_or("(no `kafka.brokers`)").to_owned()
}

/// The error of a request, told apart by whether anybody answered.
pub(crate) fn failed(address: &str, what: &str, source: KafkaError) -> Error {
    let silent = source.rdkafka_error_code().is_some_and(|code| {
        matches!(
            code,
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::Resolve
        )
    });
    let (address, source) = (address.to_owned(), Box::new(source));
    if silent {
        Error::Unreachable { address, waited: ANSWER_MAX, source }
    } else {
        Error::Request { address, what: what.to_owned(), source }
    }
}

/// Whether a partition's leader does not know yet that it leads, or nobody leads yet.
fn is_unaware(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    code.is_some_and(|code| {
        matches!(
            code,
            RDKafkaErrorCode::NotLeaderForPartition | RDKafkaErrorCode::LeaderNotAvailable
        )
    })
}

/// Learns at once why brokers refuse encryption or login, where otherwise only silence would be noticed. Blocks.
pub(crate) fn admitted(config: &ClientConfig) -> Result<(), Error> {
    match kafka::refusal(config).map_err(client)? {
        Some(refusal) => Err(refusal.into()),
        None => Ok(()),
    }
}

/// Runs a call of the client that waits, off the threads that must not.
pub(crate) async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(call).await {
        Ok(answer) => answer,
        Err(failure) => std::panic::resume_unwind(failure.into_panic()),
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER_MAX)).operation_timeout(Some(ANSWER_MAX))
}

/// Partitions of every topic whose name we could have given.
fn partition_counts(metadata: &Metadata) -> BTreeMap<TopicName, u32> {
    let topics = metadata.topics().iter().filter(|topic| topic.error().is_none());
    topics.filter_map(|t| Some((t.name().parse().ok()?, t.partitions().len() as u32))).collect()
}
