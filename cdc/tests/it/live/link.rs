//! The link to Postgres, cut at places the reader did not choose.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tailwater_config::postgres::{Host, Hosts};
use tailwater_runtime::clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::{PATIENCE, World};

/// About what a start and the rows of one round take, so that cuts fall into both.
const FARTHEST: i64 = 90 << 10;

const ROWS: i64 = 300;

/// Carries connections to a server, and cuts all of them once when so many bytes came from there.
struct Link {
    port: u16,
    left: Arc<AtomicI64>,
}

impl Link {
    async fn to(server: Host) -> Self {
        let Host::Tcp { name, port } = server else { panic!("a TCP address") };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let own = listener.local_addr().expect("an address").port();
        let left = Arc::new(AtomicI64::new(i64::MAX));
        let (shared, cut) = (Arc::clone(&left), Arc::new(tokio::sync::Notify::new()));
        tokio::spawn(async move {
            loop {
                let (inner, _) = listener.accept().await.expect("it listens");
                let outer = TcpStream::connect((name.as_str(), port)).await.expect("it answers");
                tokio::spawn(carry(inner, outer, Arc::clone(&shared), Arc::clone(&cut)));
            }
        });
        Self { port: own, left }
    }

    fn cut_after(&self, bytes: i64) {
        self.left.store(bytes, Ordering::SeqCst);
    }

    fn was_cut(&self) -> bool {
        self.left.load(Ordering::SeqCst) < 0
    }
}

async fn carry(
    mut inner: TcpStream,
    mut outer: TcpStream,
    left: Arc<AtomicI64>,
    cut: Arc<tokio::sync::Notify>,
) {
    let (mut there, mut back) = (vec![0; 4096], vec![0; 4096]);
    loop {
        tokio::select! {
            () = cut.notified() => return,
            read = inner.read(&mut there) => match read {
                Ok(bytes @ 1..) if outer.write_all(&there[..bytes]).await.is_ok() => {}
                _ => return,
            },
            read = outer.read(&mut back) => {
                let Ok(bytes @ 1..) = read else { return };
                let before = left.load(Ordering::SeqCst);
                let counts = (0..i64::MAX).contains(&before);
                let passing = if counts { bytes.min(before as usize) } else { bytes };
                if inner.write_all(&back[..passing]).await.is_err() {
                    return;
                }
                if counts && passing < bytes {
                    left.store(-1, Ordering::SeqCst);
                    cut.notify_waiters();
                    return;
                }
                if counts {
                    left.fetch_sub(passing as i64, Ordering::SeqCst);
                }
            }
        }
    }
}

/// Twenty places by itself; `TAILWATER_TEST_CUTS` says how many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_cut_at_any_byte_repeats_and_loses_nothing() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("TAILWATER_TEST_SEED").unwrap_or_else(|| clock::now_ms() as u64);
    let cuts = number("TAILWATER_TEST_CUTS").unwrap_or(20);
    println!("seed {seed} (TAILWATER_TEST_SEED), {cuts} cuts (TAILWATER_TEST_CUTS)");
    let mut random = StdRng::seed_from_u64(seed);

    let mut world = World::new().await;
    // A first copy would bring rows a second time; what it does under cuts is tested with it.
    world.config.from_now = true;
    world.begin().await;
    let server = world.config.postgres.hosts.iter().next().expect("one").clone();
    let link = Link::to(server).await;
    world.config.postgres.hosts = Hosts::one("127.0.0.1", link.port);
    let (mut done, mut cut) = (0, 0);
    for round in 0..cuts as i64 {
        let at = random.random_range(0..FARTHEST);
        link.cut_after(at);
        let (reader, health) = world.spawn();
        let insert = "INSERT INTO item SELECT g, repeat('x', 200) FROM generate_series";
        for _ in 0..3 {
            world.sql(&format!("{insert}({}, {}) g", done + 1, done + ROWS / 3)).await;
            done += ROWS / 3;
        }
        let began = Instant::now();
        let records = loop {
            let records = World::read_all(&world.changes());
            let where_it_is =
                format!("seed {seed}, round {round}, cut at {at}, {} records", records.len());
            if records.len() as i64 >= done {
                break records;
            }
            assert!(!reader.has_ended(), "{where_it_is}: {:?}", reader.ended().await);
            assert!(began.elapsed() < PATIENCE * 2, "{where_it_is}: {:?}", health.check());
            sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(records.len() as i64, done, "seed {seed}, round {round}, cut at {at}");
        cut += u64::from(link.was_cut());
        world.assert_not_ahead().await;
        reader.stop().await.unwrap_or_else(|error| panic!("seed {seed}, cut at {at}: {error}"));
    }
    // How much a round takes varies; the farthest places may lie behind it.
    println!("{cut} of {cuts} rounds were cut");
    assert!(cut * 3 >= cuts, "seed {seed}: only {cut} of {cuts} rounds were cut");
    let records = World::read_all(&world.changes());
    println!("| link cuts | {seed} | {cut} | {} | {} | 0 | 0 | 0 |", 3 * cuts, records.len());
    let first = records[0].seq();
    for (index, record) in records.iter().enumerate() {
        let id = record.json().expect("no delete")["after"]["id"].as_i64();
        assert_eq!(id, Some(index as i64 + 1), "seed {seed}");
        assert_eq!(record.seq(), first + index as u64, "seed {seed}");
    }
    world.drop().await;
}
