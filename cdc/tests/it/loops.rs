//! The loop with fakes: a scripted source, a log in memory, a reader that dies at every step.

mod copy;
mod join;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tailwater_cdc::Error;
use tailwater_cdc::capture::{Capture, SourceName};
use tailwater_cdc::config::Limits;
use tailwater_cdc::pipeline::Pipeline;
use tailwater_cdc::progress::{Durable, Progress, Record};
use tailwater_cdc::publish::memory::{Fault, Memory, Writer};
use tailwater_cdc::stream::{self, Connection, Feed, Frames, Input, Mode, Receiver, Timing, queue};
use tailwater_config::PostgresConfig;
use tailwater_config::postgres::Hosts;
use tailwater_runtime::clock;
use tailwater_topics_contract::Lsn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::script::{self, Script, assert_exactly_once};

fn limits() -> Limits {
    Limits { transaction_rows: 4, transaction_delay_ms: 60_000, ..Limits::default() }
}

fn first_record() -> Record {
    let pipeline = "loops".parse().expect("a name");
    let first = Record::first(&pipeline, "7012", 1, "proto_version=1");
    Record { position: Lsn(1_000), ..first }
}

fn last_record(log: &Memory) -> Record {
    let last = log.progress().pop();
    last.map_or_else(first_record, |value| Record::decode(&value).expect("our own record"))
}

fn pipeline(log: &Memory, limits: Limits) -> (Pipeline<Writer>, Arc<Durable>) {
    // Fence first, then read progress.
    let writer = log.writer();
    let record = last_record(log);
    let source = SourceName {
        pipeline: record.pipeline.clone(),
        database: "shop".to_owned(),
        mask_key: None,
    };
    let capture = Capture::new(source, &script::registrations(), record.resume());
    let progress = Progress::new(record);
    let durable = progress.durable();
    let capture = capture.expect("it resumes");
    (Pipeline::new(capture, writer, progress, limits, clock::now_ms), durable)
}

/// One life of a reader: from progress to the end of the script, or to the fault.
fn live(log: &Memory, script: &Script, random: &mut StdRng) -> Result<(), Error> {
    let position = last_record(log).position;
    let (mut pipeline, durable) = pipeline(log, limits());
    let mut messages = script.messages_from(position).into_iter().peekable();
    let mut sent = 0;
    while messages.peek().is_some() {
        let size = random.random_range(1..=6);
        let chunk: Vec<u8> = messages.by_ref().take(size).flatten().collect();
        sent += size;
        pipeline.on_chunk(&chunk)?;
        if random.random_bool(0.3) {
            pipeline.on_quiet()?;
        }
        let confirmed = durable.get();
        assert!(confirmed <= last_record(log).position, "confirmed beyond progress after {sent}");
    }
    pipeline.drain()?;
    assert_eq!(last_record(log).position, Lsn(script.end()));
    assert_eq!(last_record(log).in_flight, None);
    Ok(())
}

fn random_script(random: &mut StdRng) -> Script {
    let mut script = Script::default();
    for _ in 0..random.random_range(1..=6) {
        script.transaction(random.random_range(0..=11));
    }
    script
}

#[test]
fn a_reader_that_dies_at_any_step_repeats_and_loses_nothing() {
    let base = clock::now_ms() as u64;
    for seed in base..base + 40 {
        let script = random_script(&mut StdRng::seed_from_u64(seed));
        for fault in [Fault::Before, Fault::After] {
            for step in 0.. {
                let what = format!("seed {seed}, {fault:?} step {step}");
                let mut random = StdRng::seed_from_u64(seed ^ step);
                let log = Memory::default();
                log.fail_at(step, fault);
                let first = live(&log, &script, &mut random);
                if first.is_err() {
                    live(&log, &script, &mut random).unwrap_or_else(|e| panic!("{what}: {e}"));
                }
                assert_exactly_once(&script, &log.committed(), &what);
                if !log.has_failed() {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_reader_that_dies_again_and_again_repeats_and_loses_nothing() {
    let base = clock::now_ms() as u64;
    for seed in base..base + 100 {
        let mut random = StdRng::seed_from_u64(seed);
        let script = random_script(&mut random);
        let log = Memory::default();
        for _ in 0..20 {
            let fault = if random.random_bool(0.5) { Fault::Before } else { Fault::After };
            log.fail_at(random.random_range(0..6), fault);
            let _ = live(&log, &script, &mut random);
        }
        log.fail_at(u64::MAX, Fault::Before);
        let what = format!("seed {seed}");
        live(&log, &script, &mut random).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_exactly_once(&script, &log.committed(), &what);
    }
}

#[test]
fn a_large_transaction_is_split_and_a_small_one_is_not() {
    let mut script = Script::default();
    script.transaction(3);
    script.transaction(10);
    let log = Memory::default();
    let (mut pipeline, _) = pipeline(&log, limits());
    for message in script.messages_from(Lsn(1_000)) {
        pipeline.on_chunk(&message).expect("no fault");
    }
    pipeline.drain().expect("no fault");
    assert_eq!(log.transactions(), [3, 4, 4, 2]);
    let in_flight: Vec<_> = log
        .progress()
        .iter()
        .map(|value| Record::decode(value).expect("our own record").in_flight)
        .map(|in_flight| in_flight.map(|in_flight| in_flight.next_ordinal))
        .collect();
    assert_eq!(in_flight, [None, Some(4), Some(8), None]);
}

#[test]
fn a_successor_fences_the_reader_before_it() {
    let mut script = Script::default();
    script.transaction(2);
    let log = Memory::default();
    let (mut first, _) = pipeline(&log, limits());
    let (mut second, _) = pipeline(&log, limits());
    let all: Vec<u8> = script.messages_from(Lsn(1_000)).concat();
    first.on_chunk(&all).expect("nothing was sent yet");
    let error = first.on_quiet().expect_err("it is fenced");
    assert_eq!(error.code(), "TW030");
    second.on_chunk(&all).expect("no fault");
    second.on_quiet().expect("no fault");
    assert_exactly_once(&script, &log.committed(), "after fencing");
}

#[test]
fn an_idle_position_is_written_before_it_is_confirmed() {
    let log = Memory::default();
    let (mut pipeline, durable) = pipeline(&log, limits());
    // Without a quiet moment: another database of the server may be busy.
    pipeline.on_chunk(&script::keepalive(5_000, false)).expect("no fault");
    assert_eq!(last_record(&log).position, Lsn(5_000));
    assert_eq!(durable.get(), Lsn(5_000));
    // The next one waits its time, save when the reader stops.
    pipeline.on_chunk(&script::keepalive(6_000, false)).expect("no fault");
    pipeline.on_quiet().expect("no fault");
    assert_eq!(durable.get(), Lsn(5_000));
    pipeline.drain().expect("no fault");
    assert_eq!(durable.get(), Lsn(6_000));
}

#[test]
fn a_keepalive_before_the_rest_of_a_half_sent_transaction_moves_nothing() {
    let mut script = Script::default();
    script.transaction(6);
    let log = Memory::default();
    let messages = script.messages_from(Lsn(1_000));
    let (mut first, _) = pipeline(&log, limits());
    // Relation, begin, four of six rows; then the reader is gone.
    first.on_chunk(&messages[..6].concat()).expect("no fault");
    drop(first);
    assert_eq!(last_record(&log).in_flight.map(|f| f.next_ordinal), Some(4));
    // The server may speak of its end of the WAL before it has sent the transaction again.
    let (mut second, durable) = pipeline(&log, limits());
    second.on_chunk(&script::keepalive(script.end() + 1_000, true)).expect("no fault");
    second.on_quiet().expect("no fault");
    second.drain().expect("no fault");
    assert_eq!((durable.get(), last_record(&log).position), (Lsn(1_000), Lsn(1_000)));
    live(&log, &script, &mut StdRng::seed_from_u64(1)).expect("it goes on");
    assert_exactly_once(&script, &log.committed(), "after a keepalive");
}

#[test]
fn a_stop_in_a_transaction_commits_its_complete_changes() {
    let mut script = Script::default();
    script.transaction(3);
    let log = Memory::default();
    let (pipeline, _) = pipeline(&log, limits());
    let (sender, receiver) = queue(1 << 20);
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let thread = std::thread::spawn(move || pipeline.run(&receiver, &flag));
    let messages = script.messages_from(Lsn(1_000));
    // Relation, begin, two of three rows.
    sender.push(Input::Chunk(Bytes::from(messages[..4].concat())));
    std::thread::sleep(Duration::from_millis(100));
    stop.store(true, Ordering::Release);
    sender.push(Input::Wake);
    thread.join().expect("no panic").expect("it drains");
    assert_eq!(log.transactions(), [2]);
    assert_eq!(last_record(&log).in_flight.map(|f| f.next_ordinal), Some(2));
    let mut random = StdRng::seed_from_u64(1);
    live(&log, &script, &mut random).expect("it goes on");
    assert_exactly_once(&script, &log.committed(), "after a stop");
}

// ---- the connection, against a server that we play ourselves ----

/// Accepts one reader, lets it in without a password, and begins to stream.
async fn play() -> (PostgresConfig, tokio::task::JoinHandle<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a reader");
        let mut buffer = vec![0; 4096];
        assert!(socket.read(&mut buffer).await.expect("a start-up message") > 8);
        let mut hello = script::message(b'R', &0_u32.to_be_bytes());
        hello.extend(script::message(b'S', b"server_version\x0015.0\0"));
        hello.extend(script::message(b'Z', b"I"));
        socket.write_all(&hello).await.expect("it listens");
        assert!(socket.read(&mut buffer).await.expect("a command") > 5);
        let agreed = script::message(b'W', &[0, 0, 0]);
        socket.write_all(&agreed).await.expect("it listens");
        socket
    });
    let config = PostgresConfig::new(Hosts::one("127.0.0.1", port), "reader", "shop");
    (config, server)
}

struct Played {
    server: TcpStream,
    queue: Receiver,
    stop: CancellationToken,
    feed: tokio::task::JoinHandle<Result<(), stream::Error>>,
}

async fn played(queue_bytes: usize, timing: Timing) -> Played {
    let (config, server) = play().await;
    let connection = Connection::open(&config, "loops", Mode::Replication).await;
    let copying = connection.expect("it logs in").stream("START_REPLICATION").await;
    let server = server.await.expect("no panic");
    let (sender, receiver) = queue(queue_bytes);
    let progress = Progress::new(first_record());
    let stop = CancellationToken::new();
    let feed = Feed::new(copying.expect("it streams"), sender, progress.durable(), timing);
    let feed = tokio::spawn(feed.run(stop.clone()));
    Played { server, queue: receiver, stop, feed }
}

fn timing(status_ms: u64, silence_ms: u64) -> Timing {
    Timing {
        status: Duration::from_millis(status_ms),
        silence: Duration::from_millis(silence_ms),
        clock: clock::now_ms,
    }
}

#[tokio::test]
async fn status_updates_go_on_while_the_queue_is_full() {
    let mut played = played(1024, timing(30, 60_000)).await;
    let large = script::data(9_000, &vec![b'x'; 64 << 10]);
    let writer = async {
        // Far more than queue and socket hold; it must block, and so must not be awaited alone.
        for _ in 0..1_000 {
            if played.server.write_all(&large).await.is_err() {
                break;
            }
        }
    };
    let blocked = tokio::time::timeout(Duration::from_millis(300), writer).await;
    assert!(blocked.is_err(), "the reader took more than its queue holds");
    let mut update = [0; 39];
    for _ in 0..5 {
        played.server.read_exact(&mut update).await.expect("a status update");
        assert_eq!(update[5], b'r');
        let flushed = u64::from_be_bytes(update[14..22].try_into().expect("eight bytes"));
        assert_eq!(flushed, 1_000, "confirmed what is durable and nothing else");
    }
}

#[tokio::test]
async fn a_server_that_asks_is_answered_at_once() {
    let mut played = played(1 << 20, timing(60_000, 60_000)).await;
    played.server.write_all(&script::keepalive(5_000, true)).await.expect("it listens");
    let mut update = [0; 39];
    let answer = played.server.read_exact(&mut update);
    tokio::time::timeout(Duration::from_secs(2), answer).await.expect("in time").expect("a status");
    assert_eq!(u64::from_be_bytes(update[6..14].try_into().expect("eight bytes")), 5_000);
    assert_eq!(u64::from_be_bytes(update[14..22].try_into().expect("eight bytes")), 1_000);
}

#[tokio::test]
async fn a_connection_cut_at_any_byte_hands_over_whole_messages_only() {
    let mut script = Script::default();
    script.transaction(2);
    let messages = script.messages_from(Lsn(1_000));
    let bytes = messages.concat();
    for cut in (0..bytes.len()).step_by(7) {
        let mut played = played(1 << 20, timing(60_000, 60_000)).await;
        played.server.write_all(&bytes[..cut]).await.expect("it listens");
        drop(played.server);
        let ended = played.feed.await.expect("no panic");
        assert!(matches!(ended, Err(stream::Error::Lost { .. })), "cut at {cut}: {ended:?}");
        let mut whole = 0;
        while let Ok(Input::Chunk(chunk)) = played.queue.pop(Duration::ZERO) {
            whole += Frames::new(&chunk).count();
        }
        let mut ends = messages.iter().scan(0, |end, message| {
            *end += message.len();
            Some(*end)
        });
        let expected = ends.position(|end| end > cut).unwrap_or(messages.len());
        assert_eq!(whole, expected, "cut at {cut}");
    }
}

#[tokio::test]
async fn a_silent_server_counts_as_gone() {
    let played = played(1 << 20, timing(20, 200)).await;
    let ended = tokio::time::timeout(Duration::from_secs(5), played.feed).await;
    let ended = ended.expect("in time").expect("no panic");
    assert!(matches!(ended, Err(stream::Error::Silent { .. })), "{ended:?}");
}

#[tokio::test]
async fn nonsense_from_the_server_is_an_error_with_its_name() {
    let mut played = played(1 << 20, timing(60_000, 60_000)).await;
    played.server.write_all(b"d\xff\xff\xff\xff").await.expect("it listens");
    let ended = played.feed.await.expect("no panic");
    assert!(matches!(ended, Err(stream::Error::Protocol { .. })), "{ended:?}");
}

#[tokio::test]
async fn the_last_words_confirm_what_the_drain_made_durable() {
    let mut played = played(1 << 20, timing(60_000, 60_000)).await;
    played.stop.cancel();
    let mut said = Vec::new();
    played.server.read_to_end(&mut said).await.expect("it closes");
    assert_eq!(&said[..6], b"d\0\0\0\x26r");
    assert_eq!(&said[39..44], b"c\0\0\0\x04", "the end of the copy");
    drop(played.server);
    played.feed.await.expect("no panic").expect("it ended as asked");
}
