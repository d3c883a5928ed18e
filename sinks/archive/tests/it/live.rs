//! The chain on real servers.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tailwater_sinks_archive::{ArchiveSink, Store, layout, line, read};
use tailwater_sinks_worker::contract::{self, Subject};
use tailwater_sinks_worker::testing::record;
use tailwater_sinks_worker::{Resume, Sink, SinkError, SourceRecord, TopicPartition, Writer};
use tailwater_topics_contract::{ArchiveSpec, Origin, SegmentSpec, TopicName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::server;

#[tokio::test]
async fn every_server_lets_exactly_one_writer_create_an_object() {
    for (name, endpoint) in server::all() {
        let store = server::bucket(&endpoint).await;
        for _ in 0..5 {
            store.probe().await.expect(name);
        }
    }
}

#[tokio::test]
async fn the_archive_keeps_the_contract_of_sinks() {
    for (_, endpoint) in server::all() {
        contract::check(|| async { Archive { store: server::bucket(&endpoint).await } }).await;
    }
}

#[tokio::test]
async fn two_writers_that_race_make_one_chain_with_every_record_once() {
    for (name, endpoint) in server::all() {
        let archive = Archive { store: server::bucket(&endpoint).await };
        let race = (0..2_i64).map(|rival| {
            let sink = archive.sink();
            tokio::spawn(async move { deliver_all(&sink, 120, 3 + 4 * rival).await })
        });
        for rival in race.collect::<Vec<_>>() {
            rival.await.expect("does not panic");
        }
        assert_eq!(archive.held().await, (0..120).map(record).collect::<Vec<_>>(), "{name}");
        let objects = read::list(&archive.store, "", &archive.topic()).await.expect("lists");
        for pair in objects.windows(2) {
            assert_eq!(pair[0].next, pair[1].first, "{name}: {pair:?}");
        }
    }
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_recognised_and_not_repeated() {
    for (name, endpoint) in server::all() {
        let direct = server::bucket(&endpoint).await;
        let proxy = Proxy::start(&endpoint).await;
        let through = server::connect(&proxy.endpoint, direct.bucket());
        let archive = Archive { store: through };
        let (mut writer, start) = open(&archive.sink()).await;
        assert_eq!(start, 0);
        (0..10).for_each(|offset| writer.push(record(offset)).expect("stored"));
        proxy.cut_next_answer.store(true, Ordering::SeqCst);
        let flushed = loop {
            match writer.flush(10).await {
                Ok(flushed) => break flushed,
                Err(SinkError::Transient(_)) => {}
                Err(error) => panic!("{name}: {error:?}"),
            }
        };
        assert!(!proxy.cut_next_answer.load(Ordering::SeqCst), "{name}: the fault took effect");
        assert_eq!((flushed.next, flushed.resume), (10, Resume::Continue), "{name}");
        let archive = Archive { store: direct };
        assert_eq!(archive.held().await, (0..10).map(record).collect::<Vec<_>>(), "{name}");
    }
}

#[tokio::test]
async fn a_new_day_begins_in_its_own_folder() {
    let (_, endpoint) = server::all().remove(0);
    let archive = Archive { store: server::bucket(&endpoint).await };
    let (mut writer, _) = open(&archive.sink()).await;
    for (offset, day) in [(0, 1), (1, 1), (2, 4)] {
        let timestamp_ms = day * 86_400_000;
        writer.push(SourceRecord { timestamp_ms, ..record(offset) }).expect("stored");
        writer.flush(offset + 1).await.expect("stored");
    }
    let objects = read::list(&archive.store, "", &archive.topic()).await.expect("lists");
    let seen: Vec<_> = objects
        .iter()
        .map(|object| {
            let (_, place) = layout::parse(&object.key).expect("ours");
            (place.dt.to_string(), object.first, object.next, object.records)
        })
        .collect();
    let expected = [
        ("1970-01-01", 0, 0, 0),
        ("1970-01-02", 0, 1, 1),
        ("1970-01-02", 1, 2, 1),
        ("1970-01-02", 2, 2, 0),
        ("1970-01-05", 2, 3, 1),
    ];
    assert_eq!(seen, expected.map(|(dt, a, b, c)| (dt.to_owned(), a, b, c)));
}

#[tokio::test]
async fn a_process_that_starts_finds_the_head_with_a_hint_without_one_and_with_a_wrong_one() {
    let (_, endpoint) = server::all().remove(0);
    let archive = Archive { store: server::bucket(&endpoint).await };
    deliver_all(&archive.sink(), 30, 4).await;
    let partition = archive.partition();
    for metadata in ["", "1970-01-01/8", "1970-01-01/9", "nonsense"] {
        let committed =
            tailwater_sinks_worker::Committed { offset: 5, metadata: metadata.to_owned() };
        let (_, start) = archive.sink().open(&partition, Some(&committed)).await.expect("opens");
        assert_eq!(start, 30, "hint `{metadata}`");
    }
}

#[tokio::test]
async fn gzip_itself_reads_what_we_write() {
    let (_, endpoint) = server::all().remove(0);
    let archive = Archive { store: server::bucket(&endpoint).await };
    deliver_all(&archive.sink(), 30, 30).await;
    let objects = read::list(&archive.store, "", &archive.topic()).await.expect("lists");
    let object = objects.iter().find(|object| object.records == 30).expect("one segment");
    let bytes = archive.store.get(&object.key).await.expect("reads").expect("is there");
    let mut gzip = Command::new("gzip")
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip is installed everywhere");
    gzip.stdin.take().expect("piped").write_all(&bytes).expect("writes");
    let output = gzip.wait_with_output().expect("ends");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 30);
}

#[tokio::test]
async fn a_missing_bucket_stops_the_sink_and_says_what_to_do() {
    let (_, endpoint) = server::all().remove(0);
    let archive = Archive { store: server::connect(&endpoint, "no-such-bucket-here") };
    match archive.sink().open(&archive.partition(), None).await {
        Err(SinkError::Definite(error)) => {
            assert!(error.to_string().contains("tailwater apply"), "{error}");
        }
        other => panic!("{:?}", other.map(|(_, start)| start)),
    }
}

struct Archive {
    store: Store,
}

impl Archive {
    fn partition(&self) -> TopicPartition {
        TopicPartition { topic: self.topic(), partition: 0 }
    }
}

impl Subject for Archive {
    type Sink = ArchiveSink;
    type Held = Vec<SourceRecord>;

    fn sink(&self) -> ArchiveSink {
        let spec = ArchiveSpec {
            bucket: String::new(),
            prefix: String::new(),
            segment: SegmentSpec { bytes: 1 << 20, records: 1_000, age_ms: 1_000 },
        };
        let origin =
            Origin { topic: self.topic(), partition: 0, offset: 0, dt: "1970-01-01".into() };
        ArchiveSink::new(self.store.clone(), spec, vec![origin])
    }

    fn topic(&self) -> TopicName {
        "orders.events".parse().expect("valid")
    }

    fn record(&self, offset: i64) -> SourceRecord {
        record(offset)
    }

    /// Every record in the order of the chain; a repeat or a hole shows.
    async fn held(&self) -> Vec<SourceRecord> {
        let mut held = Vec::new();
        for object in read::list(&self.store, "", &self.topic()).await.expect("lists") {
            for text in read::lines(&self.store, &object.key).await.expect("reads") {
                held.push(line::read(&text).expect("a line").1);
            }
        }
        held
    }
}

async fn open(sink: &ArchiveSink) -> (impl Writer + use<>, i64) {
    let partition = TopicPartition { topic: "orders.events".parse().expect("valid"), partition: 0 };
    sink.open(&partition, None).await.expect("opens")
}

/// Delivers a log in batches, going back or ahead wherever the sink says.
async fn deliver_all(sink: &ArchiveSink, log: i64, batch: i64) {
    let (mut writer, mut next) = open(sink).await;
    while next < log {
        let to = (next + batch).min(log);
        (next..to).for_each(|offset| writer.push(record(offset)).expect("stored"));
        next = loop {
            match writer.flush(to).await {
                Ok(flushed) => break flushed.next,
                Err(SinkError::Transient(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error:?}"),
            }
        };
    }
}

/// Passes bytes on, and once, when told, drops the answer to a PUT after the server has sent it.
struct Proxy {
    endpoint: String,
    cut_next_answer: Arc<AtomicBool>,
}

impl Proxy {
    async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let cut_next_answer = Arc::new(AtomicBool::new(false));
        let (target, cut) =
            (target.trim_start_matches("http://").to_owned(), cut_next_answer.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, target.clone(), cut.clone()));
            }
        });
        Self { endpoint, cut_next_answer }
    }
}

async fn pass(mut client: TcpStream, target: String, cut: Arc<AtomicBool>) {
    let mut server = TcpStream::connect(target).await.expect("the server runs");
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    let mut is_put = false;
    loop {
        tokio::select! {
            read = client.read(&mut up) => match read {
                Ok(count @ 1..) => {
                    is_put |= up[..count].starts_with(b"PUT /");
                    if server.write_all(&up[..count]).await.is_err() { return; }
                }
                _ => return,
            },
            read = server.read(&mut down) => match read {
                Ok(count @ 1..) => {
                    let is_answer = down[..count].starts_with(b"HTTP/1.1 200");
                    if is_put && is_answer && cut.swap(false, Ordering::SeqCst) { return; }
                    if client.write_all(&down[..count]).await.is_err() { return; }
                }
                _ => return,
            },
        }
    }
}
