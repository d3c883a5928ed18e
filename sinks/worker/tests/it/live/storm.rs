//! Workers that come and go, so that partitions are taken away in the middle of writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};
use tailwater_sinks_worker::testing::{Fault, MemorySink};
use tailwater_sinks_worker::{TopicPartition, WorkerError};
use tokio::task::JoinHandle;

use crate::kafka::Log;
use crate::worker::{Worker, until};

const PARTITIONS: i32 = 6;
/// Every so often a worker comes or goes.
const ROUNDS: u32 = 25;
/// Some have names of their own, under which they are known again; others are new each time.
const NAMES: [&str; 2] = ["a", "b"];

/// One that was told to go, and its name.
type Left = (Option<&'static str>, JoinHandle<Result<(), WorkerError>>);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_rebalances_commits_nothing_that_is_not_stored_and_misses_nothing() {
    let given = std::env::var("TAILWATER_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(rand::random);
    println!("seed {seed}; replay with TAILWATER_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let log = Arc::new(Log::of(PARTITIONS).await);
    let sink = MemorySink::new(7);
    let is_over = Arc::new(AtomicBool::new(false));
    let traffic = write(log.clone(), is_over.clone());
    let mut workers: Vec<(Option<&'static str>, Worker)> = Vec::new();
    let mut left: Vec<Left> = Vec::new();
    for _ in 0..ROUNDS {
        sink.fail_next(Fault::Slow, random.random_range(5..30));
        let trouble = [Fault::Transient, Fault::StoredWithoutReply, Fault::Slow];
        sink.fail_next(*trouble.choose(&mut random).expect("three"), 1);
        if workers.len() < 2 || workers.len() < 4 && random.random_bool(0.5) {
            let is_free = |name: &&str| {
                workers.iter().all(|(taken, _)| *taken != Some(*name))
                    && left.iter().all(|(had, gone)| *had != Some(*name) || gone.is_finished())
            };
            let free: Vec<&str> = NAMES.into_iter().filter(is_free).collect();
            let name = free.choose(&mut random).copied().filter(|_| random.random_bool(0.5));
            let mut config = log.config();
            config.instance_id = name.map(str::to_owned);
            workers.push((name, Worker::start(config, &sink)));
        } else {
            let (name, leaves) = workers.swap_remove(random.random_range(0..workers.len()));
            left.push((name, tokio::spawn(leaves.drain())));
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(50..900))).await;
        for partition in 0..PARTITIONS {
            // Asked first, because both only grow.
            let committed = log.committed(partition).unwrap_or(0);
            let stored = stored(&log, &sink, partition);
            assert!(stored.into_iter().take(committed as usize).eq(0..committed), "{partition}");
        }
    }
    is_over.store(true, Ordering::Relaxed);
    let written = traffic.await.expect("no panic");
    for (_, leaves) in left {
        leaves.await.expect("no panic").expect("drains");
    }
    let is_whole = |partition| stored(&log, &sink, partition).into_iter().eq(0..written);
    until("all records", || (0..PARTITIONS).all(is_whole)).await;
    for (_, worker) in workers {
        worker.drain().await.expect("drains");
    }
    for partition in 0..PARTITIONS {
        assert_eq!(log.committed(partition), Some(written), "{partition}");
    }
}

/// Writes on. Answers how many records each partition holds at the end.
fn write(log: Arc<Log>, is_over: Arc<AtomicBool>) -> JoinHandle<i64> {
    const AT_ONCE: usize = 5;
    tokio::task::spawn_blocking(move || {
        let mut written = 0;
        while !is_over.load(Ordering::Relaxed) {
            log.fill(0..PARTITIONS, AT_ONCE, 100);
            written += AT_ONCE as i64;
            std::thread::sleep(Duration::from_millis(30));
        }
        written
    })
}

fn stored(log: &Log, sink: &MemorySink, partition: i32) -> Vec<i64> {
    sink.stored(&TopicPartition { topic: log.topic.clone(), partition })
}
