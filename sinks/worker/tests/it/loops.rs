//! A broker within the client library, which fails as it is told.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};
use tailwater_sinks_worker::testing::MemorySink;
use tailwater_sinks_worker::{TopicPartition, WorkerConfig};
use tailwater_topics_contract::{PipelineName, TopicName};

use crate::kafka;
use crate::worker::{Worker, says, until};

const WAIT: Duration = Duration::from_secs(15);
const REFUSED: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
const DIVIDING: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS;

#[tokio::test(flavor = "multi_thread")]
async fn while_the_committed_offsets_cannot_be_read_it_is_not_ready_and_asks_again() {
    let broker = Broker::start();
    broker.send(0, 0..3);
    broker.cluster.request_errors(RDKafkaApiKey::OffsetFetch, &[REFUSED; 3]);
    let sink = MemorySink::new(1);
    let worker = Worker::start(broker.config(), &sink);
    let name = broker.partition(0).to_string();
    until("not ready", || says(&worker.health, &name, "has committed cannot be read")).await;
    assert!(sink.stored(&broker.partition(0)).is_empty());
    until("all records", || sink.stored(&broker.partition(0)) == [0, 1, 2]).await;
    until("ready", || worker.health.check().is_ok()).await;
    worker.drain().await.expect("drains");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_a_leader_is_not_ready_and_holds_nobody_up() {
    let broker = Broker::start();
    let sink = MemorySink::new(1);
    broker.cluster.partition_leader(broker.topic.as_str(), 0, None).expect("leaderless");
    let worker = Worker::start(broker.config(), &sink);
    let name = broker.partition(0).to_string();
    until("not ready", || says(&worker.health, &name, "")).await;
    // It is asked about again and again; each time the client waits for seconds.
    for round in 0..8 {
        let began = Instant::now();
        broker.send(1, round..round + 1);
        until("the record", || sink.stored(&broker.partition(1)).len() == round as usize + 1).await;
        assert!(began.elapsed() < Duration::from_secs(2), "took {:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(says(&worker.health, &name, "cannot be read"), "{:?}", worker.health.check());
    broker.cluster.partition_leader(broker.topic.as_str(), 0, Some(1)).expect("has a leader");
    broker.send(0, 0..2);
    until("its records", || sink.stored(&broker.partition(0)) == [0, 1]).await;
    until("ready", || worker.health.check().is_ok()).await;
    worker.drain().await.expect("drains");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_failed_is_made_good_without_anything_new() {
    let broker = Broker::start();
    broker.cluster.request_errors(RDKafkaApiKey::OffsetCommit, &[REFUSED; 2]);
    let sink = MemorySink::new(1);
    let worker = Worker::start(broker.config(), &sink);
    broker.send(0, 0..2);
    until("the commit", || broker.committed(0) == Some(2)).await;
    worker.drain().await.expect("drains");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_failed_is_made_good_by_the_drain_and_one_that_fails_there_is_an_error() {
    let broker = Broker::start();
    let sink = MemorySink::new(1);
    let worker = Worker::start(broker.config(), &sink);
    until("ready", || worker.health.check().is_ok()).await;
    broker.cluster.request_errors(RDKafkaApiKey::OffsetCommit, &[REFUSED]);
    broker.send(0, 0..1);
    until("stored", || sink.stored(&broker.partition(0)) == [0]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    worker.drain().await.expect("drains");
    assert_eq!(broker.committed(0), Some(1));

    let worker = Worker::start(broker.config(), &sink);
    until("ready", || worker.health.check().is_ok()).await;
    broker.cluster.request_errors(RDKafkaApiKey::OffsetCommit, &[REFUSED; 9]);
    broker.send(0, 1..2);
    until("stored", || sink.stored(&broker.partition(0)) == [0, 1]).await;
    let error = worker.drain().await.expect_err("is not committed");
    assert!(error.to_string().contains("not committed"), "{error}");
    broker.cluster.clear_request_errors(RDKafkaApiKey::OffsetCommit);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_a_group_divide_its_partitions_and_commits_then() {
    let broker = Broker::start();
    let sink = MemorySink::new(1);
    let worker = Worker::start(broker.config(), &sink);
    until("ready", || worker.health.check().is_ok()).await;
    broker.cluster.request_errors(RDKafkaApiKey::OffsetCommit, &[DIVIDING; 4]);
    broker.send(0, 0..1);
    until("stored", || sink.stored(&broker.partition(0)) == [0]).await;
    worker.drain().await.expect("drains");
    assert_eq!(broker.committed(0), Some(1));
}

/// One broker, one topic of two partitions.
struct Broker {
    cluster: MockCluster<'static, DefaultProducerContext>,
    pipeline: PipelineName,
    topic: TopicName,
}

impl Broker {
    fn start() -> Self {
        let cluster = MockCluster::new(1).expect("starts");
        let pipeline: PipelineName = "mocked".parse().expect("valid");
        let topic: TopicName = "mocked.events".parse().expect("valid");
        cluster.create_topic(topic.as_str(), 2, 1).expect("is created");
        let dead = pipeline.dead_letter_topic(&"memory".parse().expect("valid"));
        cluster.create_topic(dead.as_str(), 1, 1).expect("is created");
        Self { cluster, pipeline, topic }
    }

    fn config(&self) -> WorkerConfig {
        kafka::config(&self.pipeline, &self.topic, self.cluster.bootstrap_servers())
    }

    fn partition(&self, partition: i32) -> TopicPartition {
        TopicPartition { topic: self.topic.clone(), partition }
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.cluster.bootstrap_servers());
        config
    }

    fn send(&self, partition: i32, values: std::ops::Range<u32>) {
        let producer: BaseProducer = self.client().create().expect("creates");
        for value in values {
            let value = value.to_string();
            let record = BaseRecord::<(), _>::to(self.topic.as_str());
            producer.send(record.partition(partition).payload(&value)).expect("is queued");
        }
        producer.flush(WAIT).expect("is sent");
    }

    fn committed(&self, partition: i32) -> Option<i64> {
        let group = self.pipeline.consumer_group(&"memory".parse().expect("valid"));
        let consumer: BaseConsumer =
            self.client().set("group.id", group).create().expect("creates");
        let mut list = TopicPartitionList::new();
        list.add_partition(self.topic.as_str(), partition);
        let known = consumer.committed_offsets(list, WAIT).expect("answers");
        match known.elements()[0].offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }
}
