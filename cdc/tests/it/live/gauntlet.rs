//! The reader under torment while the ledger is written: killed, ended at every crash point, its server crashed, frozen
//! until another took over. Afterwards the verifier compares all that a consumer got with the tables.
//!
//! `make test` runs a short form, `make gauntlet-reader` the long one. How often is set by
//! `TAILWATER_GAUNTLET=kills=300,hits=5,restarts=20,freezes=10,points=13`; `TAILWATER_TEST_SEED` replays.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tailwater_cdc::crash::Point;
use tailwater_config::postgres::Hosts;
use tailwater_topics_contract::Lsn;
use tokio::task::block_in_place;
use tokio::time::sleep;

use super::{PATIENCE, World, unique};
use crate::ledger::{self, Ledger};
use crate::own_postgres::OwnPostgres;
use crate::verifier::judge;

/// Between two transactions of a writer. There are three writers.
const PAUSE: Duration = Duration::from_millis(15);

/// Records in a Kafka transaction of a tormented reader at most, so that large transactions are split.
const ROWS: u64 = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_killed_at_any_moment_delivers_the_ledger_once() {
    let kills = often("kills", 12);
    let mut ground = Ground::new(World::new().await).await;
    ground.first_start().await;
    let mut worked = 0;
    for kill in 0..kills {
        let before = ground.seq().await;
        let mut child = ground.child(json!({"rows": ROWS}));
        // Every other one dies while it works, the others wherever they are.
        let lives = if kill % 2 == 0 {
            ground.wait_for_work(&mut child, before).await;
            ground.random.random_range(0..600)
        } else {
            ground.random.random_range(50..2_500)
        };
        let died = Instant::now() + Duration::from_millis(lives);
        while Instant::now() < died {
            ground.world.assert_not_ahead().await;
            sleep(Duration::from_millis(20)).await;
        }
        ground.check_running(&mut child, "before it is killed");
        child.kill().expect("it can be killed");
        child.wait().expect("it is gone");
        worked += u64::from(ground.seq().await > before);
    }
    println!("{worked} of {kills} readers had written before they were killed");
    assert!(worked * 3 >= kills, "hardly any reader came to work: nothing was tried");
    ground.finish("kills", kills).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_dies_at_every_crash_point_delivers_the_ledger_once() {
    let hits = often("hits", 1);
    let mut missed = Vec::new();
    for hit in 1..=hits {
        let ground = Ground::new(World::new().await).await;
        let mut deaths = 0;
        for point in Point::ALL {
            if matches!(point, Point::TablesLeft | Point::TablesJoined) {
                // No table joins here; see `live::join`.
                continue;
            }
            // A place that a process passes once, or that ends the copy for good, is hit again and again by the next ones.
            let (deaths_here, hit) = match point {
                Point::PositionWritten | Point::CopyEnded => (1, 1),
                Point::Fenced
                | Point::ProgressRead
                | Point::Announced
                | Point::SlotMade
                | Point::SnapshotKept
                | Point::Streaming
                | Point::CopyBegun
                | Point::RowsCopied
                | Point::RangeCopied
                | Point::TableCopied
                | Point::CopyEnding => (hit, 1),
                _ => (1, hit),
            };
            for _ in 0..deaths_here {
                if ground.die_at(point, hit).await {
                    deaths += 1;
                } else {
                    missed.push((point, hit));
                }
            }
            if point == Point::PositionWritten {
                ground.ledger.write_events();
            }
        }
        ground.finish(&format!("crash points, hit {hit}"), deaths).await;
    }
    assert!(missed.is_empty(), "never reached: {missed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_again_and_again_is_followed_exactly() {
    let restarts = often("restarts", 3);
    let mut server = own_server();
    let mut ground = Ground::new(World::prepare(|config| own(config, &server)).await).await;
    ground.first_start().await;
    let mut child = ground.child(json!({"rows": ROWS}));
    for _ in 0..restarts {
        sleep(Duration::from_millis(ground.random.random_range(300..3_000))).await;
        block_in_place(|| {
            server.crash();
            server.start();
        });
        let (config, database) =
            (&ground.world.config.postgres, ground.world.config.pipeline.as_str());
        ground.world.client = super::connect(config, database).await;
        let before = ground.seq().await;
        ground.wait_for_work(&mut child, before).await;
        ground.world.assert_not_ahead().await;
    }
    child.kill().expect("it can be killed");
    child.wait().expect("it is gone");
    ground.finish("server crashes", restarts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_frozen_until_another_took_over_writes_nothing_more() {
    let freezes = often("freezes", 1);
    let server = own_server();
    let mut ground = Ground::new(World::prepare(|config| own(config, &server)).await).await;
    ground.first_start().await;
    // One that is frozen before it has fenced the others comes after them when it wakes up, and rightly takes over.
    let before = ground.seq().await;
    let mut first = ground.child(brief());
    ground.wait_for_work(&mut first, before).await;
    let mut codes = Vec::new();
    for _ in 0..freezes {
        sleep(Duration::from_millis(ground.random.random_range(500..3_000))).await;
        ground.check_running(&mut first, "before it is frozen");
        signal(&first, Signal::SIGSTOP);
        let second = ground.take_over().await;
        codes.push(ground.thaw(&mut first).await);
        first = second;
    }
    println!("frozen readers gave up with {codes:?}");
    first.kill().expect("it can be killed");
    first.wait().expect("it is gone");
    ground.finish("freezes", freezes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_frozen_between_two_steps_writes_nothing_more() {
    // The first one compares, when it wakes up, what it knew with a slot that its successor has moved.
    let mut points = vec![Point::ProgressRead];
    let mut others: Vec<_> = Point::ALL.into_iter().filter(passed_by_every_session).collect();
    let server = own_server();
    let mut ground = Ground::new(World::prepare(|config| own(config, &server)).await).await;
    ground.first_start().await;
    // Nothing below is about copies.
    let mut reader = ground.child(brief());
    let before = ground.seq().await;
    ground.wait_for_work(&mut reader, before).await;
    others.shuffle(&mut ground.random);
    points.extend(others);
    points.truncate(often("points", 2) as usize);
    for point in &points {
        reader.kill().expect("it can be killed");
        reader.wait().expect("it is gone");
        let mut frozen = ground.child_at(*point, 1, "freeze", brief());
        ground.wait_until_frozen(&mut frozen).await;
        reader = ground.take_over().await;
        let code = ground.thaw(&mut frozen).await;
        println!("frozen at {point:?}, it gave up with {code}");
        assert!(*point != Point::ProgressRead || code == 30, "{code}: {}", ground.log());
    }
    reader.kill().expect("it can be killed");
    reader.wait().expect("it is gone");
    ground.finish("frozen between steps", points.len() as u64).await;
}

/// Not those of a first start, of a copy, or the one that is always tried.
fn passed_by_every_session(point: &Point) -> bool {
    !matches!(
        point,
        Point::ProgressRead
            | Point::Announced
            | Point::SlotMade
            | Point::SnapshotKept
            | Point::PositionWritten
            | Point::CopyBegun
            | Point::RowsCopied
            | Point::RangeCopied
            | Point::TableCopied
            | Point::CopyEnding
            | Point::CopyEnded
            | Point::TablesLeft
            | Point::TablesJoined
    )
}

/// For a reader that gives up soon when it finds the slot taken.
fn brief() -> Value {
    json!({"rows": ROWS, "slot_wait_ms": 1_000})
}

// ---- what they share ----

/// A world with a ledger that is written to.
struct Ground {
    world: World,
    ledger: Ledger,
    seed: u64,
    random: StdRng,
    log: PathBuf,
}

impl Ground {
    async fn new(mut world: World) -> Self {
        let seed =
            std::env::var("TAILWATER_TEST_SEED").ok().map(|seed| seed.parse().expect("a number"));
        let seed = seed.unwrap_or_else(|| rand::rng().random());
        println!("seed {seed}; replay with TAILWATER_TEST_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        Ledger::prepare(&mut world).await;
        let ledger = Ledger::start(&world, random.random(), PAUSE);
        let log = std::env::temp_dir().join(format!("tailwater-gauntlet-{}.log", unique()));
        Self { world, ledger, seed, random, log }
    }

    /// The slot exists from here on, the tables are copied or about to be, and events are written.
    async fn first_start(&self) {
        self.world.start_reader().await.stop().await.expect("it drains");
        self.ledger.write_events();
    }

    fn child(&self, words: Value) -> Child {
        let log = File::options().create(true).append(true).open(&self.log).expect("a log");
        self.world.start_child_with(words, Stdio::from(log))
    }

    /// A reader that does something at a point: it dies or freezes.
    fn child_at(&self, point: Point, hit: u64, act: &str, mut words: Value) -> Child {
        let number = Point::ALL.iter().position(|each| *each == point);
        words["crash"] = json!({"point": number, "hit": hit, "act": act});
        words["register_every_ms"] = 150.into();
        self.child(words)
    }

    async fn wait_until_frozen(&self, child: &mut Child) {
        let began = Instant::now();
        loop {
            self.check_running(child, "before it is frozen");
            let path = format!("/proc/{}/stat", child.id());
            let stat = std::fs::read_to_string(path).expect("it is not waited for");
            // Behind the name, which stands in brackets: the state.
            if stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "seed {}: it does not freeze", self.seed);
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts readers until one works in place of a frozen one, and the slot has moved.
    async fn take_over(&self) -> Child {
        let (before, confirmed) = (self.seq().await, self.world.confirmed().await);
        let began = Instant::now();
        loop {
            // The server lets go of the frozen one after its `wal_sender_timeout`.
            let mut second = self.child(brief());
            let status = loop {
                if let Some(status) = second.try_wait().expect("ours") {
                    break status;
                }
                if self.seq().await > before && self.world.confirmed().await > confirmed {
                    return second;
                }
                assert!(began.elapsed() < PATIENCE, "seed {}: nobody takes over", self.seed);
                sleep(Duration::from_millis(50)).await;
            };
            assert_eq!(status.code(), Some(20), "seed {}: {}", self.seed, self.log());
        }
    }

    /// Lets a frozen reader go on, which has to notice that it is not the reader any more. Answers its exit code.
    async fn thaw(&self, frozen: &mut Child) -> i32 {
        signal(frozen, Signal::SIGCONT);
        let status = self.wait(frozen, PATIENCE).await;
        let status = status.unwrap_or_else(|| panic!("seed {}: it must give up", self.seed));
        let code = status.code().filter(|code| matches!(code, 20 | 30));
        code.unwrap_or_else(|| panic!("seed {}: {status}: {}", self.seed, self.log()))
    }

    /// The end of what the readers had to say.
    fn log(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text[text.floor_char_boundary(text.len().saturating_sub(4_000))..].to_owned()
    }

    fn check_running(&self, child: &mut Child, when: &str) {
        if let Some(status) = child.try_wait().expect("ours") {
            panic!("seed {}: it ended with {status} {when}: {}", self.seed, self.log());
        }
    }

    /// Waits until something new is written.
    async fn wait_for_work(&self, child: &mut Child, before: u64) {
        let began = Instant::now();
        while self.seq().await <= before {
            self.check_running(child, "before it wrote anything");
            assert!(began.elapsed() < PATIENCE, "seed {}: nothing is written", self.seed);
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn wait(&self, child: &mut Child, within: Duration) -> Option<ExitStatus> {
        let began = Instant::now();
        loop {
            match child.try_wait().expect("ours") {
                Some(status) => return Some(status),
                None if began.elapsed() > within => return None,
                None => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Lets a reader die at a point; `false` when it does not come there.
    async fn die_at(&self, point: Point, hit: u64) -> bool {
        let mut child = self.child_at(point, hit, "die", json!({"rows": ROWS}));
        let ended = self.wait(&mut child, Duration::from_secs(30)).await;
        let Some(status) = ended else {
            child.kill().expect("it can be killed");
            child.wait().expect("it is gone");
            return false;
        };
        let log = || self.log();
        assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{point:?}: {status}: {}", log());
        self.world.assert_not_ahead().await;
        true
    }

    /// The last number used.
    async fn seq(&self) -> u64 {
        self.world.progress().await.map_or(0, |record| record.seq)
    }

    /// Lets an unharmed reader come to the end, and judges.
    async fn finish(self, what: &str, faults: u64) {
        let (world, seed) = (self.world, self.seed);
        let transactions = self.ledger.stop().await;
        let reader = world.start_reader().await;
        let end: Lsn =
            world.value("SELECT pg_current_wal_insert_lsn()::text").await.parse().expect("an LSN");
        world.sql("INSERT INTO ledger.transfers VALUES (0, 0, 0, 0)").await;
        let began = Instant::now();
        while world.progress().await.is_none_or(|record| record.position <= end) {
            assert!(began.elapsed() < PATIENCE * 3, "seed {seed}: the reader does not catch up");
            sleep(Duration::from_millis(100)).await;
        }
        reader.stop().await.expect("it drains");
        let truth = ledger::truth(&world).await;
        let verdict = block_in_place(|| judge(&ledger::read(&world), &truth));
        println!(
            "| {what} | {seed} | {faults} | {transactions} | {} | {} | {} | {} |",
            verdict.records, verdict.lost, verdict.duplicated, verdict.reordered
        );
        assert!(verdict.is_clean(), "seed {seed}, {what}: {:#?}", verdict.wrong);
        assert!(verdict.records > 500, "seed {seed}: too little was written to show anything");
        let _ = std::fs::remove_file(&self.log);
        world.drop().await;
    }
}

/// A server whose crashes, and whose WAL, are nobody else's affair.
pub(super) fn own_server() -> OwnPostgres {
    let mut server = OwnPostgres::new();
    server.set("wal_sender_timeout = 2s\nmax_connections = 50");
    server.start();
    server
}

pub(super) fn own(config: &mut tailwater_cdc::Config, server: &OwnPostgres) {
    config.postgres.hosts = Hosts::one("127.0.0.1", server.port);
    config.postgres.password = None;
}

fn signal(child: &Child, signal: Signal) {
    // Our child, not yet waited for, so its id is nobody else's.
    kill(Pid::from_raw(child.id() as i32), signal).expect("it runs");
}

fn often(what: &str, short: u64) -> u64 {
    let Ok(told) = std::env::var("TAILWATER_GAUNTLET") else { return short };
    let mut told = told.split(',').filter_map(|part| part.split_once('='));
    let count = told.find(|(name, _)| *name == what);
    count.map_or(short, |(_, count)| count.parse().expect("a number"))
}
