//! A topic of its own on the broker that `make test` has started, and the worker that archives it.

use std::ops::Range;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tailwater_runtime::Health;
use tailwater_sinks_archive::{ArchiveSink, Store};
use tailwater_sinks_worker::source::{Source, Sources};
use tailwater_sinks_worker::topic_id::TopicIds;
use tailwater_sinks_worker::{SinkError, WorkerConfig, WorkerError, run};
use tailwater_topics_contract::{
    ArchiveSpec, Generation, Guarantee, Origin, PipelineName, SegmentSpec, SinkKind, SinkName,
    SinkRegistration, SinkSpec, Standing, TopicName,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const WAIT: Duration = Duration::from_secs(40);

/// A topic of one partition.
pub(crate) struct Topic {
    pipeline: PipelineName,
    pub(crate) name: TopicName,
}

/// A worker that archives it.
pub(crate) struct Worker {
    stop: CancellationToken,
    pub(crate) health: Health,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl Topic {
    pub(crate) async fn create() -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let pipeline: PipelineName = format!("a{}", &id[..20]).parse().expect("valid");
        let name: TopicName = format!("{pipeline}.events").parse().expect("valid");
        let topic = Self { pipeline, name };
        assert!(topic.make().await, "is created");
        topic
    }

    /// Whether it was created.
    async fn make(&self) -> bool {
        let admin: AdminClient<DefaultClientContext> = client().create().expect("creates");
        let new = NewTopic::new(self.name.as_str(), 1, TopicReplication::Fixed(1));
        let made = admin.create_topics(&[new], &AdminOptions::new()).await.expect("answers");
        made.iter().all(Result::is_ok)
    }

    /// Deletes it and makes it again; its offsets begin anew.
    pub(crate) async fn make_again(&self) {
        let admin: AdminClient<DefaultClientContext> = client().create().expect("creates");
        let gone = admin.delete_topics(&[self.name.as_str()], &AdminOptions::new()).await;
        gone.expect("answers").into_iter().for_each(|gone| drop(gone.expect("is deleted")));
        let began = Instant::now();
        while !self.make().await {
            assert!(began.elapsed() < WAIT, "its name is not free");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Writes records in one transaction and commits or aborts it.
    pub(crate) fn transaction(&self, values: Range<u32>, commits: bool) {
        let producer: BaseProducer =
            client().set("transactional.id", self.name.as_str()).create().expect("creates");
        producer.init_transactions(WAIT).expect("fences");
        producer.begin_transaction().expect("begins");
        for value in values {
            let value = format!("{{\"n\":{value}}}");
            let record = BaseRecord::<(), _>::to(self.name.as_str()).partition(0).payload(&value);
            producer.send(record).expect("is queued");
        }
        producer.flush(WAIT).expect("is sent");
        if commits {
            producer.commit_transaction(WAIT).expect("commits");
        } else {
            producer.abort_transaction(WAIT).expect("aborts");
        }
    }

    /// Deletes everything before an offset, as retention would.
    pub(crate) async fn forget(&self, before: i64) {
        let admin: AdminClient<DefaultClientContext> = client().create().expect("creates");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(self.name.as_str(), 0, Offset::Offset(before)).expect("valid");
        admin.delete_records(&list, &AdminOptions::new()).await.expect("deletes");
    }

    /// What the sink's group has committed; nothing is known while a fresh broker has no coordinator yet.
    pub(crate) fn committed(&self) -> Option<i64> {
        let group = self.pipeline.consumer_group(&sink());
        let consumer: BaseConsumer = client().set("group.id", group).create().expect("creates");
        let mut list = TopicPartitionList::new();
        list.add_partition(self.name.as_str(), 0);
        let known = consumer.committed_offsets(list, WAIT).ok()?;
        match known.elements()[0].offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    /// Starts a worker of an archive sink on it.
    pub(crate) fn archive(&self, store: &Store) -> Worker {
        let archive = ArchiveSpec {
            bucket: store.bucket().to_owned(),
            prefix: String::new(),
            guarantee: Guarantee::ExactlyOnce,
            segment: SegmentSpec { bytes: 1 << 20, records: 1_000, age_ms: 300, idle_ms: None },
        };
        let dt = "1970-01-01".into();
        let origins = vec![Origin { topic: self.name.clone(), partition: 0, offset: 0, dt }];
        let spec = SinkSpec {
            name: sink(),
            topics: vec![self.name.clone()],
            kind: SinkKind::Archive(archive.clone()),
            declared_at: None,
        };
        let sink = ArchiveSink::new(store.clone(), archive, origins.clone())
            .with_sources(Ids(TopicIds::new(&client()).expect("creates")));
        let registration = SinkRegistration { spec, origins, standing: Standing::Active };
        let config = WorkerConfig::new(self.pipeline.clone(), registration, brokers());
        let (stop, health) = (CancellationToken::new(), Health::default());
        let task = tokio::spawn(run(config, sink, stop.clone(), health.clone()));
        Worker { stop, health, task }
    }

    pub(crate) async fn until(&self, what: &str, done: impl Fn() -> bool) {
        let began = Instant::now();
        while !done() {
            assert!(began.elapsed() < WAIT, "waited {WAIT:?} in vain for {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Worker {
    pub(crate) async fn drain(self) {
        self.stop.cancel();
        self.task.await.expect("does not panic").expect("drains");
    }
}

/// As Kafka tells topics apart.
struct Ids(TopicIds);

impl Sources for Ids {
    fn source(&self, topic: &TopicName) -> BoxFuture<'_, Result<Source, SinkError>> {
        let topic = topic.clone();
        async move {
            let id = self.0.of(&topic).await.map_err(SinkError::transient)?;
            Ok(Source { topic, id, generation: Generation::default() })
        }
        .boxed()
    }
}

fn sink() -> SinkName {
    "lake".parse().expect("valid")
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
