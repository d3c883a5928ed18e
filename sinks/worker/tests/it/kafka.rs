//! Topics of our own on the server that `make test` has started.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tailwater_sinks_worker::WorkerConfig;
use tailwater_sinks_worker::dead_letter::{self, DeadLetter, Filter, Replayed};
use tailwater_sinks_worker::testing::MemorySink;
use tailwater_sinks_worker::topic_id::{TopicId, TopicIdError, TopicIds};
use tailwater_topics_contract::{
    ArchiveSpec, Guarantee, Origin, PipelineName, SegmentSpec, SinkKind, SinkRegistration,
    SinkSpec, Standing, TopicName,
};

const WAIT: Duration = Duration::from_secs(15);

/// One pipeline with one topic, and a sink named `memory` on it.
pub(crate) struct Log {
    pub(crate) pipeline: PipelineName,
    pub(crate) topic: TopicName,
    pub(crate) partitions: i32,
}

/// A dead letter: key, value, and the headers as texts.
#[derive(Debug)]
pub(crate) struct Dead {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, String)>,
}

impl Log {
    pub(crate) async fn create() -> Self {
        Self::of(2).await
    }

    pub(crate) async fn of(partitions: i32) -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let pipeline: PipelineName = format!("w{}", &id[..20]).parse().expect("valid");
        let topic: TopicName = format!("{pipeline}.events").parse().expect("valid");
        let dead = pipeline.dead_letter_topic(&"memory".parse().expect("valid"));
        let admin: AdminClient<DefaultClientContext> = client().create().expect("creates");
        let new = |name, partitions| NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let topics = [new(topic.as_str(), partitions), new(dead.as_str(), 1)];
        for created in admin.create_topics(&topics, &AdminOptions::new()).await.expect("answers") {
            created.expect("is created");
        }
        Self { pipeline, topic, partitions }
    }

    /// Deletes the topic and makes one of the same name.
    pub(crate) async fn make_again(&self) {
        let admin: AdminClient<DefaultClientContext> = client().create().expect("creates");
        let gone = admin.delete_topics(&[self.topic.as_str()], &AdminOptions::new()).await;
        gone.expect("answers").remove(0).expect("is deleted");
        let new = NewTopic::new(self.topic.as_str(), self.partitions, TopicReplication::Fixed(1));
        let made = admin.create_topics(&[new], &AdminOptions::new()).await;
        made.expect("answers").remove(0).expect("is created");
    }

    /// Which topic has the name now.
    pub(crate) async fn topic_id(&self) -> Result<Option<TopicId>, TopicIdError> {
        TopicIds::new(&client()).expect("creates").of(&self.topic).await
    }

    pub(crate) fn config(&self) -> WorkerConfig {
        let mut config = config(&self.pipeline, &self.topic, brokers());
        config.registration.origins =
            (0..self.partitions).map(|partition| origin(&self.topic, partition)).collect();
        config
    }

    /// Writes records in one transaction and commits or aborts it.
    pub(crate) fn transaction(&self, partition: i32, values: std::ops::Range<u32>, commits: bool) {
        let producer: BaseProducer = client()
            .set("transactional.id", format!("{}-{partition}", self.pipeline))
            .create()
            .expect("creates");
        producer.init_transactions(WAIT).expect("fences");
        producer.begin_transaction().expect("begins");
        for value in values {
            let (key, value) = (format!("k{value}"), format!("v{value}"));
            let record =
                BaseRecord::to(self.topic.as_str()).partition(partition).key(&key).payload(&value);
            producer.send(record).expect("is queued");
        }
        producer.flush(WAIT).expect("is sent");
        if commits {
            producer.commit_transaction(WAIT).expect("commits");
        } else {
            producer.abort_transaction(WAIT).expect("aborts");
        }
    }

    /// Writes one record with a value of so many bytes.
    pub(crate) fn large(&self, partition: i32, bytes: usize) {
        self.fill(partition..partition + 1, 1, bytes);
    }

    /// Writes so many records with values of so many bytes into each of these partitions.
    pub(crate) fn fill(&self, partitions: std::ops::Range<i32>, records: usize, bytes: usize) {
        let producer: BaseProducer = client().create().expect("creates");
        let value = vec![b'x'; bytes];
        for partition in partitions.flat_map(|number| std::iter::repeat_n(number, records)) {
            let record =
                BaseRecord::<(), _>::to(self.topic.as_str()).partition(partition).payload(&value);
            producer.send(record).expect("is queued");
        }
        producer.flush(WAIT).expect("is sent");
    }

    /// Lets the dead-letter topic take only records of so many bytes.
    pub(crate) async fn limit_dead_letters(&self, bytes: &str) {
        let topic = self.pipeline.dead_letter_topic(&"memory".parse().expect("valid"));
        let admin: AdminClient<DefaultClientContext> = client().create().expect("creates");
        let resource = ResourceSpecifier::Topic(topic.as_str());
        let alter = AlterConfig::new(resource).set("max.message.bytes", bytes);
        admin.alter_configs([&alter], &AdminOptions::new()).await.expect("alters");
    }

    /// What the sink's group has committed; `None` where nothing was.
    pub(crate) fn committed(&self, partition: i32) -> Option<i64> {
        let group = self.pipeline.consumer_group(&"memory".parse().expect("valid"));
        let consumer: BaseConsumer = client().set("group.id", group).create().expect("creates");
        let mut list = TopicPartitionList::new();
        list.add_partition(self.topic.as_str(), partition);
        let known = consumer.committed_offsets(list, WAIT).expect("answers");
        match known.elements()[0].offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    /// Deletes everything before an offset, as retention would.
    pub(crate) async fn forget(&self, partition: i32, before: i64) {
        let admin: AdminClient<DefaultClientContext> = client().create().expect("creates");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(self.topic.as_str(), partition, Offset::Offset(before))
            .expect("valid");
        admin.delete_records(&list, &AdminOptions::new()).await.expect("deletes");
    }

    /// The dead letters as people are shown them.
    pub(crate) fn letters(&self, filter: Filter) -> Vec<DeadLetter> {
        let sink = "memory".parse().expect("valid");
        let letters = dead_letter::read(&client(), &self.pipeline, &sink, filter).expect("opens");
        letters.map(|letter| letter.expect("reads")).collect()
    }

    pub(crate) async fn replay(
        &self,
        sink: &MemorySink,
        letters: Vec<DeadLetter>,
        even_if_gone: bool,
    ) -> Vec<Replayed> {
        let (name, sink) = ("memory".parse().expect("valid"), Arc::new(sink.clone()));
        dead_letter::replay(&client(), &self.pipeline, &name, &sink, letters, even_if_gone)
            .await
            .expect("replays")
    }

    pub(crate) async fn discard(&self, letters: Vec<DeadLetter>) {
        let name = "memory".parse().expect("valid");
        dead_letter::discard(&client(), &self.pipeline, &name, letters).await.expect("settles");
    }

    /// Waits for so many dead letters.
    pub(crate) fn dead_letters(&self, count: usize) -> Vec<Dead> {
        let topic = self.pipeline.dead_letter_topic(&"memory".parse().expect("valid"));
        let consumer: BaseConsumer = client()
            .set("group.id", "judge")
            .set("auto.offset.reset", "earliest")
            .create()
            .expect("creates");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic.as_str(), 0, Offset::Beginning).expect("valid");
        consumer.assign(&list).expect("assigns");
        let mut dead = Vec::new();
        while dead.len() < count {
            let message = consumer.poll(WAIT).expect("arrives in time").expect("reads");
            let headers = message.headers().expect("has headers").iter().map(|header| {
                let value = String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned();
                (header.key.to_owned(), value)
            });
            dead.push(Dead {
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
                headers: headers.collect(),
            });
        }
        dead
    }
}

/// A sink named `memory` on a topic of two partitions.
pub(crate) fn config(pipeline: &PipelineName, topic: &TopicName, brokers: String) -> WorkerConfig {
    let kind = SinkKind::Archive(ArchiveSpec {
        bucket: "unused".into(),
        prefix: String::new(),
        guarantee: Guarantee::ExactlyOnce,
        segment: SegmentSpec { bytes: 1, records: 1, age_ms: 1, idle_ms: None },
    });
    let spec = SinkSpec {
        name: "memory".parse().expect("valid"),
        topics: vec![topic.clone()],
        kind,
        declared_at: None,
    };
    let origins = vec![origin(topic, 0), origin(topic, 1)];
    let registration = SinkRegistration { spec, origins, standing: Standing::Active };
    WorkerConfig::new(pipeline.clone(), registration, brokers)
}

fn origin(topic: &TopicName, partition: i32) -> Origin {
    Origin { topic: topic.clone(), partition, offset: 0, dt: "1970-01-01".into() }
}

fn brokers() -> String {
    std::env::var("TAILWATER_TEST_KAFKA")
        .expect("`TAILWATER_TEST_KAFKA` is not set; run the tests with `make test`")
}

fn client() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers());
    config
}
