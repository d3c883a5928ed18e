//! Bare loops: the least that a sink's work can cost, each in a process of its own.
//!
//! ```text
//!  Kafka ──▶ a thread for each partition: line, gzip ──▶ PUT                          `archive`
//!  Kafka ──▶ bulk bodies in memory ─── the clock begins ──▶ POST, one after the other `bulk`
//! ```
//!
//! * They fetch as the sinks do, with the same settings, and work on as many partitions at once.
//! * Nothing is looked at, checked or remembered: no claim, no hash, no manifest, no group, no version.

mod archive;
mod bulk;

use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use nix::sys::resource::{UsageWho, getrusage};
use rdkafka::ClientConfig;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer, DefaultConsumerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

/// One bare loop over one topic.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    source: Source,
    #[command(subcommand)]
    what: Loop,
}

#[derive(Subcommand)]
enum Loop {
    /// Fetches, compresses and puts.
    Archive(archive::Options),
    /// Posts bulk requests that were made before.
    Bulk(bulk::Options),
}

/// A topic to read from its beginning.
#[derive(Args)]
struct Source {
    #[arg(long)]
    brokers: String,
    #[arg(long)]
    topic: String,
    #[arg(long)]
    partitions: i32,
    /// How many records it has.
    #[arg(long)]
    records: u64,
}

/// What of a record is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Keep {
    /// All that Kafka gives: offset, partition, time, key, headers and value.
    Everything,
    /// Its value and a line break.
    Values,
}

/// What a loop did and what it cost.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Outcome {
    /// Bytes sent to the destination, compressed.
    pub(super) bytes: u64,
    /// From the beginning to the last answer.
    pub(super) seconds: f64,
    /// CPU-seconds in that time, user and system.
    pub(super) cpu_seconds: f64,
    /// Most memory it held, in MiB.
    pub(super) peak_mib: f64,
}

/// Runs one loop and prints its outcome as JSON.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let source = &options.source;
    let outcome = match &options.what {
        Loop::Archive(what) => archive::run(source, what).await?,
        Loop::Bulk(what) => bulk::run(source, what).await?,
    };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

type Queue = PartitionQueue<DefaultConsumerContext>;

impl Source {
    /// Begins to fetch all partitions. The settings are those of `sinks/worker` with its default budget.
    fn fetch(&self) -> anyhow::Result<(Arc<BaseConsumer>, Vec<Queue>)> {
        let prefetch_kib = (8192 / self.partitions).clamp(256, 4096);
        let consumer: Arc<BaseConsumer> = Arc::new(
            ClientConfig::new()
                .set("bootstrap.servers", &self.brokers)
                .set("group.id", "bare")
                .set("isolation.level", "read_committed")
                .set("enable.auto.commit", "false")
                .set("enable.auto.offset.store", "false")
                .set("fetch.wait.max.ms", "100")
                .set("queued.max.messages.kbytes", prefetch_kib.to_string())
                .set("fetch.queue.backoff.ms", "20")
                .create()?,
        );
        let mut list = TopicPartitionList::new();
        let mut queues = Vec::new();
        for partition in 0..self.partitions {
            let queue = consumer.split_partition_queue(&self.topic, partition);
            queues.push(queue.context("a partition without a queue")?);
            list.add_partition_offset(&self.topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&list)?;
        Ok((consumer, queues))
    }
}

/// The most memory that this process held, in MiB.
fn peak_mib() -> anyhow::Result<f64> {
    Ok(getrusage(UsageWho::RUSAGE_SELF)?.max_rss() as f64 / 1024.0)
}
