//! From the commit's answer to a read-committed consumer, at a steady rate; and the same of bare transactions, which shows
//! what of it the broker and the consumer take.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use rdkafka::ClientConfig;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::Options;
use crate::postgres::connect;
use crate::report::{Report, Target};
use crate::stage::{Further, PARTITIONS, Pipeline, Stage, Table};

/// Connections that write.
const WRITERS: u64 = 4;

/// Rows of a transaction.
const EACH: u64 = 4;

/// What comes before the first round is not looked at.
const WARM: Duration = Duration::from_secs(3);

/// How long the last rows may take to arrive.
const ARRIVAL_WAIT: Duration = Duration::from_secs(10);

/// The first number of records that come from no table.
const BARE: i64 = 1 << 40;

/// How long one bare transaction may take.
const BARE_WAIT: Duration = Duration::from_secs(30);

/// A row and when something happened to it.
type Seen = (i64, Instant);

pub(super) async fn measure(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let ddl = "create table events (id bigint primary key, at timestamptz, body text)";
    let stage = Stage::create(&options.servers, "latency", ddl).await?;
    let outcome = follow(options, &stage, report).await;
    stage.remove().await?;
    outcome
}

async fn follow(options: &Options, stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let table = Table { name: "events", partitions: PARTITIONS, key: "" };
    let pipeline = stage.pipeline("", &[table], Further::default())?;
    stage.settle(&pipeline).await?;
    let mut reader = pipeline.start(&["cdc", "run"])?;
    stage.until_ready(&pipeline, &mut reader).await?;

    let stop = Arc::new(AtomicBool::new(false));
    let consumer = consumer(&pipeline)?;
    let consuming = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || consume(&consumer, &stop))
    };
    let rounds = options.rounds as u32;
    let round = Duration::from_secs(options.steady_seconds);
    let pause = Duration::from_secs_f64((WRITERS * EACH) as f64 / options.steady_rows as f64);
    // First, because a broker that has just been started is slow for its first minute.
    let sending = {
        let (brokers, topic) = (pipeline.brokers().to_owned(), pipeline.topic("events"));
        let end = WARM + round * rounds;
        tokio::task::spawn_blocking(move || send(&brokers, &topic, pause, end))
    };
    let bare_began = Instant::now();
    let sent = sending.await??;
    let began = Instant::now();
    let end = began + WARM + round * rounds;
    let before = reader.cost()?;
    let next = Arc::new(AtomicI64::new(1));
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| tokio::spawn(write(stage.url().to_owned(), Arc::clone(&next), pause, end)))
        .collect();
    let mut committed = Vec::new();
    for writer in writers {
        committed.extend(writer.await??);
    }
    let cost = reader.cost()?.since(before);
    let mark = stage.mark().await?;
    stage.until_confirmed(&pipeline, &mut reader, &mark).await?;
    reader.stop()?;
    // All is committed in Kafka; the consumer needs a moment to fetch it.
    sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Release);
    let arrived = consuming.join().map_err(|_| anyhow::anyhow!("the consumer panicked"))??;

    let arrived: HashMap<i64, Instant> = arrived.into_iter().collect();
    let windows =
        |from: Instant, seen: &[Seen]| windows(&arrived, options.rounds, round, from, seen);
    let rows = windows(began + WARM, &committed)?;
    let bare = windows(bare_began + WARM, &sent)?;
    let at = |windows: &[Vec<f64>], part: f64| {
        windows.iter().map(|window| window[(part * (window.len() - 1) as f64) as usize]).collect()
    };
    let paces = rows.iter().map(|window| window.len() as f64 / round.as_secs_f64()).collect();
    report.add("rows committed", "1/s", paces, None);
    report.add("commit to consumer, p50", "ms", at(&rows, 0.5), Some(Target::AtMost(10.0)));
    report.add("commit to consumer, p99", "ms", at(&rows, 0.99), Some(Target::AtMost(50.0)));
    report.add("commit to consumer, p99.9", "ms", at(&rows, 0.999), None);
    report.add("commit to consumer, most", "ms", at(&rows, 1.0), None);
    report.add("bare transactions, send to consumer, p50", "ms", at(&bare, 0.5), None);
    report.add("bare transactions, send to consumer, p99", "ms", at(&bare, 0.99), None);
    report.add("bare transactions, send to consumer, p99.9", "ms", at(&bare, 0.999), None);
    report.add("reader", "cores", vec![cost.cpu_seconds / cost.seconds], None);
    report.add("reader, most memory", "MiB", vec![cost.peak_mib], None);
    Ok(())
}

/// Milliseconds until each arrived, in order, by the round in which it began.
fn windows(
    arrived: &HashMap<i64, Instant>,
    rounds: usize,
    round: Duration,
    from: Instant,
    begun: &[Seen],
) -> anyhow::Result<Vec<Vec<f64>>> {
    let mut windows = vec![Vec::new(); rounds];
    for (id, at) in begun {
        let seen = arrived.get(id).with_context(|| format!("row {id} did not arrive"))?;
        let Some(since) = at.checked_duration_since(from) else { continue };
        let window = (since.as_secs_f64() / round.as_secs_f64()) as usize;
        if let Some(window) = windows.get_mut(window) {
            // The consumer may see a row before its writer has read the answer.
            window.push(seen.saturating_duration_since(*at).as_secs_f64() * 1e3);
        }
    }
    for window in &mut windows {
        ensure!(!window.is_empty(), "a round without rows");
        window.sort_by(f64::total_cmp);
    }
    Ok(windows)
}

/// Sends as many records as the writers write rows, in Kafka transactions at even distances; answers when each was sent.
fn send(
    brokers: &str,
    topic: &str,
    pause: Duration,
    during: Duration,
) -> anyhow::Result<Vec<Seen>> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("transactional.id", "bare-latency")
        .set("linger.ms", "0")
        .set("compression.type", "lz4")
        .create()?;
    producer.init_transactions(BARE_WAIT)?;
    let value = "x".repeat(300);
    let (mut sent, mut id) = (Vec::new(), BARE);
    let began = Instant::now();
    let mut due = began;
    while due < began + during {
        // Late ones are made up for, as by the writers.
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due += pause;
        let now = Instant::now();
        producer.begin_transaction()?;
        for _ in 0..WRITERS * EACH {
            let key = format!(r#"{{"id":{id}}}"#);
            let record = BaseRecord::to(topic).key(&key).payload(&value);
            producer.send(record).map_err(|(error, _)| error)?;
            sent.push((id, now));
            id += 1;
        }
        // The client's own flush would wait for reports that nobody serves.
        while producer.in_flight_count() > 0 {
            producer.poll(Duration::from_millis(1));
        }
        producer.commit_transaction(BARE_WAIT)?;
    }
    Ok(sent)
}

/// Commits transactions at even distances until the end; answers when each row was committed.
async fn write(
    url: String,
    next: Arc<AtomicI64>,
    pause: Duration,
    end: Instant,
) -> anyhow::Result<Vec<Seen>> {
    let client = connect(&url).await?;
    let insert = client
        .prepare(
            "insert into events select i, now(), repeat(md5(i::text), 3) from generate_series($1::bigint, $1::bigint + $2::bigint - 1) i",
        )
        .await?;
    let mut ticks = interval(pause);
    // Late ones are made up for, so that the rate holds and a slow moment is felt.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut committed = Vec::new();
    while Instant::now() < end {
        ticks.tick().await;
        let first = next.fetch_add(EACH as i64, Ordering::Relaxed);
        client.execute(&insert, &[&first, &(EACH as i64)]).await?;
        let now = Instant::now();
        committed.extend((first..first + EACH as i64).map(|id| (id, now)));
    }
    Ok(committed)
}

fn consumer(pipeline: &Pipeline) -> anyhow::Result<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", pipeline.brokers())
        .set("group.id", pipeline.slot())
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "5")
        .create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(&pipeline.topic("events"), partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    Ok(consumer)
}

/// Notes when each row arrived, until told to stop and nothing more comes.
fn consume(consumer: &BaseConsumer, stop: &AtomicBool) -> anyhow::Result<Vec<Seen>> {
    let mut arrived = Vec::new();
    let mut quiet_since = Instant::now();
    loop {
        match consumer.poll(Duration::from_millis(20)) {
            Some(message) => {
                let message = message?;
                let now = Instant::now();
                quiet_since = now;
                arrived.push((id_of(message.key().context("a record without a key")?)?, now));
            }
            None if stop.load(Ordering::Acquire) => return Ok(arrived),
            None => ensure!(quiet_since.elapsed() < ARRIVAL_WAIT + WARM, "no records come"),
        }
    }
}

/// `{"id":42}`
fn id_of(key: &[u8]) -> anyhow::Result<i64> {
    let digits: String =
        key.iter().filter(|byte| byte.is_ascii_digit()).map(|byte| char::from(*byte)).collect();
    digits.parse().context("a key without a number")
}
