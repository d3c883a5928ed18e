//! Records in, offsets out.

mod storm;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tailwater_runtime::Health;
use tailwater_sinks_worker::TopicPartition;
use tailwater_sinks_worker::dead_letter::{
    DeadLetter, Filter, Outcome, Position, Replayed, Settlement,
};
use tailwater_sinks_worker::testing::{Fault, MemorySink};

use crate::kafka::Log;
use crate::worker::{Worker, says, until};

#[tokio::test(flavor = "multi_thread")]
async fn committed_records_arrive_once_and_aborted_ones_never() {
    let log = Log::create().await;
    log.transaction(0, 0..10, true);
    log.transaction(0, 10..20, false);
    log.transaction(0, 20..25, true);
    let sink = MemorySink::new(4);
    let worker = Worker::start(log.config(), &sink);
    // Ten records and a marker, ten aborted and a marker, five.
    let expected: Vec<i64> = (0..10).chain(22..27).collect();
    until("all records", || sink.stored(&partition(&log, 0)) == expected).await;
    until("the last marker", || log.committed(0) == Some(28)).await;
    worker.drain().await.expect("drains");
    assert_eq!(log.committed(0), Some(28));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_deleted_and_made_again_has_another_id() {
    let log = Log::create().await;
    let first = log.topic_id().await.expect("answers").expect("this broker gives ids");
    assert_eq!(first.to_string().len(), 22);
    assert_eq!(log.topic_id().await.expect("answers"), Some(first.clone()), "asked again");
    log.make_again().await;
    let second = log.topic_id().await.expect("answers").expect("this broker gives ids");
    assert_ne!(first, second);
    let nowhere = Log {
        pipeline: log.pipeline.clone(),
        topic: "no.such.topic".parse().expect("valid"),
        partitions: 0,
    };
    let said = nowhere.topic_id().await.expect_err("there is none").to_string();
    assert!(said.contains("no.such.topic") && said.contains("Unknown topic"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_partition_whose_log_retention_emptied_is_gone_on_with() {
    let log = Log::create().await;
    // Ten records and a marker, then five aborted and a marker: nothing behind the records is ever handed on.
    log.transaction(0, 0..10, true);
    log.transaction(0, 10..15, false);
    let sink = MemorySink::new(10);
    let worker = Worker::start(log.config(), &sink);
    until("all records", || sink.stored(&partition(&log, 0)).len() == 10).await;
    until("both markers", || log.committed(0) == Some(17)).await;
    worker.drain().await.expect("drains");
    log.forget(0, 17).await;
    let worker = Worker::start(log.config(), &sink);
    until("ready", || worker.health.check().is_ok()).await;
    log.transaction(0, 20..21, true);
    until("the next record", || sink.stored(&partition(&log, 0)).last() == Some(&17)).await;
    worker.drain().await.expect("drains");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_retention_overtakes_stops_its_partition_and_no_other() {
    let log = Log::create().await;
    log.transaction(0, 0..20_000, true);
    let sink = MemorySink::new(1);
    // The client gets little ahead of the sink, which stands still while the log goes away under both.
    let mut config = log.config();
    config.properties.insert("queued.max.messages.kbytes".into(), "1".into());
    config.properties.insert("fetch.message.max.bytes".into(), "1000".into());
    let hold = sink.hold();
    let worker = Worker::start(config, &sink);
    until("a flush", || sink.held() > 0).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    log.forget(0, 20_001).await;
    drop(hold);
    let name = partition(&log, 0).to_string();
    until("not ready", || says(&worker.health, &name, "retention")).await;
    log.transaction(1, 0..3, true);
    until("the other one", || sink.stored(&partition(&log, 1)).len() == 3).await;
    assert!(says(&worker.health, &name, "retention"), "it stays so");
    worker.drain().await.expect("drains");
    let stored = stored(&log, &sink)[0];
    assert!((1..20_000).contains(&stored), "{stored}");
    assert_eq!(log.committed(0), Some(stored as i64), "up to where it was read, and no further");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_started_again_in_the_same_process_and_leaves_nothing_behind() {
    let log = Log::create().await;
    let (sink, health) = (MemorySink::new(1), Health::default());
    for round in 0..4 {
        let worker = Worker::in_process(log.config(), &sink, &health);
        until("ready", || worker.health.check().is_ok()).await;
        log.transaction(0, round..round + 1, true);
        until("the record", || sink.stored(&partition(&log, 0)).len() == round as usize + 1).await;
        let began = Instant::now();
        worker.drain().await.expect("drains");
        assert!(began.elapsed() < Duration::from_secs(5), "took {:?}", began.elapsed());
        assert_eq!(health.check(), Err(vec!["starting".to_owned()]), "every part is forgotten");
    }
    // A thread has given its answer a moment before the system has taken it away.
    until("the end of its threads", || threads("consumer") == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_a_fixed_name_is_started_again_without_a_rebalance() {
    let log = Log::create().await;
    let sink = MemorySink::new(1);
    for round in 0..3 {
        let mut config = log.config();
        config.instance_id = Some("one".into());
        let worker = Worker::start(config, &sink);
        log.transaction(1, round..round + 1, true);
        until("the record", || sink.stored(&partition(&log, 1)).len() == round as usize + 1).await;
        worker.drain().await.expect("drains");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_cannot_finish_says_so_and_names_the_partition() {
    let log = Log::create().await;
    log.transaction(0, 0..2, true);
    let sink = MemorySink::new(1);
    sink.fail_next(Fault::Transient, 1_000_000);
    let mut config = log.config();
    config.grace = Duration::from_secs(1);
    let worker = Worker::start(config, &sink);
    until("a record taken", || sink.taken() == 1).await;
    let error = worker.drain().await.expect_err("is not drained");
    assert!(error.to_string().contains(&partition(&log, 0).to_string()), "{error}");
    assert_eq!(log.committed(0), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_ends_the_worker_and_names_the_partition() {
    let log = Log::create().await;
    log.transaction(1, 0..2, true);
    let sink = MemorySink::new(1);
    sink.fail_next(Fault::Panics, 1);
    let worker = Worker::start(log.config(), &sink);
    until("the end", || worker.task.is_finished()).await;
    let error = worker.task.await.expect("joined").expect_err("it panicked");
    assert!(error.to_string().contains(&partition(&log, 1).to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_larger_than_its_topic_takes_stops_the_partition_and_says_what_to_raise() {
    let log = Log::create().await;
    log.large(0, 900_000);
    log.limit_dead_letters("500000").await;
    let sink = MemorySink::new(1);
    sink.reject(0);
    let worker = Worker::start(log.config(), &sink);
    let name = partition(&log, 0).to_string();
    until("not ready", || says(&worker.health, &name, "max.message.bytes")).await;
    worker.drain().await.expect("drains");
    assert_eq!(log.committed(0), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_commits_what_was_read_and_a_successor_goes_on_there() {
    let log = Log::create().await;
    log.transaction(0, 0..7, true);
    let sink = MemorySink::new(1_000_000);
    let worker = Worker::start(log.config(), &sink);
    until("all taken", || sink.taken() == 7).await;
    worker.drain().await.expect("drains");
    assert_eq!(log.committed(0), Some(7));
    log.transaction(0, 7..9, true);
    let successor = MemorySink::new(1);
    let worker = Worker::start(log.config(), &successor);
    until("the rest", || successor.stored(&partition(&log, 0)) == [8, 9]).await;
    worker.drain().await.expect("drains");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_worker_takes_a_share_and_nothing_is_missed() {
    let log = Log::create().await;
    let sink = MemorySink::new(3);
    let first = Worker::start(log.config(), &sink);
    log.transaction(0, 0..20, true);
    log.transaction(1, 0..20, true);
    until("the first part", || stored(&log, &sink) == [20, 20]).await;
    let second = Worker::start(log.config(), &sink);
    until("both at work", || second.health.check().is_ok()).await;
    log.transaction(0, 20..40, true);
    log.transaction(1, 20..40, true);
    until("the second part", || stored(&log, &sink) == [40, 40]).await;
    first.drain().await.expect("drains");
    log.transaction(0, 40..50, true);
    log.transaction(1, 40..50, true);
    until("the third part", || stored(&log, &sink) == [50, 50]).await;
    second.drain().await.expect("drains");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_record_is_set_aside_with_its_bytes_and_place() {
    let log = Log::create().await;
    log.transaction(1, 0..5, true);
    let sink = MemorySink::new(2);
    sink.reject(3);
    let worker = Worker::start(log.config(), &sink);
    until("its neighbours", || sink.stored(&partition(&log, 1)) == [0, 1, 2, 4]).await;
    worker.drain().await.expect("drains");
    let dead = log.dead_letters(1).remove(0);
    assert_eq!((dead.key.as_deref(), dead.value.as_deref()), (Some(&b"k3"[..]), Some(&b"v3"[..])));
    let header = |name: &str| {
        dead.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    };
    assert_eq!(header("tw-dlq-topic"), Some(log.topic.as_str()));
    assert_eq!(header("tw-dlq-partition"), Some("1"));
    assert_eq!(header("tw-dlq-offset"), Some("3"));
    assert_eq!(header("tw-dlq-class"), Some("poison"));
    assert_eq!(header("tw-dlq-reason"), Some("the test says so"));
    assert_eq!(log.committed(1), Some(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_cannot_go_on_stops_alone_and_readiness_says_so() {
    let log = Log::create().await;
    log.transaction(0, 0..1, true);
    let sink = MemorySink::new(1);
    sink.fail_next(Fault::Definite, 1);
    let worker = Worker::start(log.config(), &sink);
    let name = partition(&log, 0).to_string();
    until("not ready", || says(&worker.health, &name, "refused")).await;
    log.transaction(1, 0..5, true);
    until("the other partition", || stored(&log, &sink) == [0, 5]).await;
    worker.drain().await.expect("drains");
    assert_eq!((log.committed(0), log.committed(1)), (None, Some(5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_that_retention_tore_stops_the_partition_rather_than_being_bridged() {
    let log = Log::create().await;
    log.transaction(0, 0..10, true);
    log.forget(0, 4).await;
    let sink = MemorySink::new(1);
    let worker = Worker::start(log.config(), &sink);
    let name = partition(&log, 0).to_string();
    until("not ready", || says(&worker.health, &name, "retention")).await;
    worker.drain().await.expect("drains");
    assert!(sink.stored(&partition(&log, 0)).is_empty());
    assert_eq!(log.committed(0), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_budget_slows_a_worker_down_and_loses_nothing() {
    let log = Log::create().await;
    log.transaction(0, 0..5_000, true);
    log.transaction(1, 0..5_000, true);
    let sink = MemorySink::new(1_000_000);
    let mut config = log.config();
    config.budget_bytes = 64 << 10;
    let worker = Worker::start(config, &sink);
    until("all records", || stored(&log, &sink) == [5_000, 5_000]).await;
    worker.drain().await.expect("drains");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_partitions_hold_no_more_than_the_budget_together_and_none_is_passed_over() {
    const RECORDS: usize = 200;
    let (log, budget) = (Log::of(40).await, 4 << 20);
    log.fill(0..40, RECORDS, 1_000);
    let sink = MemorySink::new(1_000_000);
    let hold = sink.hold();
    let mut config = log.config();
    config.budget_bytes = budget;
    let worker = Worker::start(config, &sink);
    until("a flush for want of memory", || sink.held() > 0).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let held = sink.taken() * 1_000;
    assert!(held > budget / 4, "{held}");
    assert!(held < budget, "{held}");
    drop(hold);
    let stored = |number| sink.stored(&partition(&log, number)).len();
    until("all records", || (0..40).all(|number| stored(number) == RECORDS)).await;
    worker.drain().await.expect("drains");
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_partitions_flush_at_once_and_the_others_wait_for_their_turn() {
    let log = Log::of(40).await;
    log.fill(0..40, 2, 100);
    let sink = MemorySink::new(1_000_000);
    let hold = sink.hold();
    let worker = Worker::start(log.config(), &sink);
    until("as many flushes as there may be", || sink.held() == 16).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((sink.taken(), sink.held()), (80, 16), "all are old enough to be flushed");
    drop(hold);
    let stored = |number| sink.stored(&partition(&log, number)).len();
    until("all records", || (0..40).all(|number| stored(number) == 2)).await;
    worker.drain().await.expect("drains");
}

fn partition(log: &Log, partition: i32) -> TopicPartition {
    TopicPartition { topic: log.topic.clone(), partition }
}

fn stored(log: &Log, sink: &MemorySink) -> [usize; 2] {
    [0, 1].map(|number| sink.stored(&partition(log, number)).len())
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_read_and_given_again_only_while_they_are_the_newest_of_their_key() {
    let log = Log::create().await;
    log.transaction(0, 0..4, true);
    log.transaction(1, 7..8, true);
    let sink = MemorySink::new(1);
    (0..3).for_each(|offset| sink.reject(offset));
    let worker = Worker::start(log.config(), &sink);
    until("the others", || log.committed(0) == Some(5) && log.committed(1) == Some(2)).await;
    // A newer record of the second one's key; it is delivered like any other.
    log.transaction(0, 1..2, true);
    until("the newer one", || log.committed(0) == Some(7)).await;
    worker.drain().await.expect("drains");
    assert_eq!(stored(&log, &sink), [2, 0]);

    let letters = log.letters(Filter::default());
    let at = |partition, offset| {
        let is_at = |letter: &&DeadLetter| {
            (letter.from.partition, letter.record.offset) == (partition, offset)
        };
        letters.iter().find(is_at).expect("set aside").clone()
    };
    assert_eq!(letters.len(), 4, "{letters:?}");
    let letter = at(0, 1);
    assert_eq!(letter.record.key.as_deref(), Some(&b"k1"[..]));
    assert_eq!(letter.record.value.as_deref(), Some(&b"v1"[..]));
    assert_eq!((letter.class.as_str(), letter.settled), ("poison", None));

    // Retention takes the record of the other partition's letter.
    log.forget(1, 1).await;
    sink.accept(1);
    sink.accept(2);
    let outcomes = |replayed: Vec<Replayed>| -> BTreeMap<Position, Outcome> {
        replayed.into_iter().map(|one| (one.position, one.outcome)).collect()
    };
    let refused = Outcome::Refused { reason: "the test says so".to_owned() };
    let replayed = outcomes(log.replay(&sink, letters.clone(), false).await);
    let expected = BTreeMap::from([
        (at(0, 0).position, refused.clone()),
        (at(0, 1).position, Outcome::Superseded { by: 5 }),
        (at(0, 2).position, Outcome::Applied),
        (at(1, 0).position, Outcome::Gone),
    ]);
    assert_eq!(replayed, expected);
    assert_eq!(sink.stored(&partition(&log, 0)), [2, 3, 5]);

    let open = log.letters(Filter::default());
    assert_eq!(open, [at(0, 0), at(1, 0)], "what was settled is not listed");
    let every = Filter { with_settled: true, ..Filter::default() };
    let how: BTreeMap<Position, Option<Settlement>> = log
        .letters(every)
        .into_iter()
        .map(|letter| (letter.position, letter.settled.map(|settled| settled.how)))
        .collect();
    assert_eq!(how[&at(0, 1).position], Some(Settlement::Superseded));
    assert_eq!(how[&at(0, 2).position], Some(Settlement::Replayed));

    sink.accept(0);
    let replayed = outcomes(log.replay(&sink, vec![at(1, 0)], true).await);
    assert_eq!(replayed[&at(1, 0).position], Outcome::Applied, "somebody knows better");
    log.discard(vec![at(0, 0)]).await;
    assert!(log.letters(Filter::default()).is_empty());
    let topic = Filter { topic: Some("other".parse().expect("valid")), ..Filter::default() };
    assert!(log.letters(Filter { with_settled: true, ..topic }).is_empty());
    let class = Filter { class: Some("poison".into()), with_settled: true, ..Filter::default() };
    assert_eq!(log.letters(class).len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_a_partition_is_behind_is_measured_also_when_it_has_stopped() {
    let metrics = tailwater_runtime::install_metrics().expect("nobody else has");
    let value = |name: &str, partition: i32| {
        let text = metrics.render();
        let label = format!("partition=\"{partition}\"");
        let mut lines = text.lines().filter(|line| line.starts_with(name) && line.contains(&label));
        lines.next().and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    };
    let (lag, age) = ("tailwater_sink_lag_records", "tailwater_sink_oldest_unfinished_seconds");
    let log = Log::create().await;
    let sink = MemorySink::new(1);
    let hold = sink.hold();
    let worker = Worker::start(log.config(), &sink);
    log.transaction(0, 0..5, true);
    until("five records and a marker", || value(lag, 0) == Some(6.0)).await;
    until("an age", || value(age, 0) > Some(1.0)).await;
    drop(hold);
    until("no lag", || value(lag, 0) == Some(0.0) && value(age, 0) == Some(0.0)).await;
    sink.fail_next(Fault::Definite, 1);
    log.transaction(1, 0..1, true);
    let name = partition(&log, 1).to_string();
    until("stopped", || says(&worker.health, &name, "refused")).await;
    log.transaction(1, 1..4, true);
    until("all of it", || value(lag, 1) == Some(6.0)).await;
    worker.drain().await.expect("drains");
    assert_eq!(value(lag, 1), Some(0.0), "whoever owns it next says more");
    let text = metrics.render();
    for metric in tailwater_sinks_worker::metrics::ALL {
        let help = format!("# HELP {} {}", metric.name, metric.help);
        let is_shown = text.contains(metric.name);
        assert!(!is_shown || text.contains(&help), "{} is not described", metric.name);
    }
}

/// How many threads of this process have such a name.
fn threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|found| found.trim_end() == name).count()
}
