//! The chain on real servers.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::process::{Command, Stdio};

use futures::future::{BoxFuture, join_all};
use futures::{FutureExt as _, StreamExt as _, stream};
use tailwater_config::s3::Encryption;
use tailwater_sinks_archive::manifest::Manifest;
use tailwater_sinks_archive::topic::{self, TopicError};
use tailwater_sinks_archive::verify::{self, verify};
use tailwater_sinks_archive::{ArchiveSink, Objects, Put, Store, layout, line, read};
use tailwater_sinks_worker::contract::{self, Subject};
use tailwater_sinks_worker::source::{Source, Sources};
use tailwater_sinks_worker::testing::record;
use tailwater_sinks_worker::topic_id::TopicId;
use tailwater_sinks_worker::{Resume, Sink, SinkError, SourceRecord, TopicPartition, Writer};
use tailwater_topics_contract::{
    ArchiveSpec, Generation, Guarantee, Origin, SegmentSpec, TopicName,
};

use crate::bucket::{Bucket, Stored};
use crate::faulty::Faulty;
use crate::proxy::{Fault, Proxy};
use crate::topic::Topic;
use crate::{seed, server};

#[tokio::test]
async fn every_server_lets_exactly_one_writer_create_an_object() {
    for (name, endpoint) in server::all() {
        let store = server::bucket(&endpoint).await;
        for _ in 0..5 {
            store.probe(u64::MAX).await.expect(name);
        }
    }
}

/// A page holds a thousand keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_of_several_pages_is_whole_and_in_order_also_where_pages_fail() {
    let seed = seed::new();
    for (name, endpoint) in server::all() {
        let store = server::bucket(&endpoint).await;
        let mut keys: Vec<String> = (0..2_100).map(|at| format!("many/{at:04}")).collect();
        stream::iter(&keys)
            .for_each_concurrent(16, async |key| {
                let put = store.create(key, "x".into(), HashMap::new(), "text/plain").await;
                assert!(matches!(put, Ok(Put::Created)), "{name}, {key}: {put:?}");
            })
            .await;
        let other = store.create("other", "x".into(), HashMap::new(), "text/plain").await;
        assert!(matches!(other, Ok(Put::Created)), "{name}: {other:?}");
        let faulty = Faulty::start(&endpoint, seed).await;
        for store in [&store, &server::connect(&faulty.endpoint, store.bucket())] {
            let listed = store.list("many/").await.expect(name);
            let listed: Vec<String> = listed.into_iter().map(|listed| listed.key).collect();
            assert!(listed == keys, "{name}: {} keys", listed.len());
        }
        keys.push("other".to_owned());
        assert_eq!(store.list("").await.expect(name).len(), keys.len(), "{name}");
    }
}

#[tokio::test]
async fn the_archive_keeps_the_contract_of_sinks() {
    for (_, endpoint) in server::all() {
        contract::check(|| async { Archive { store: server::bucket(&endpoint).await } }).await;
    }
}

/// The embedded server has no encryption, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_encrypted_as_the_configuration_says_or_not_written_at_all() {
    let named = Encryption::Kms { key: Some("tailwater".to_owned()) };
    for (name, endpoint) in server::all() {
        let bucket = Bucket::create(&endpoint).await;
        for (at, (encryption, expected)) in
            [(Encryption::Aes256, "AES256"), (named.clone(), "aws:kms")].into_iter().enumerate()
        {
            let store = server::encrypting(&endpoint, bucket.store.bucket(), Some(encryption));
            for (size, body) in [("small", vec![1; 10]), ("large", vec![2; (64 << 20) + 1])] {
                let key = format!("{at}-{size}");
                let put = store.create(&key, body.into(), HashMap::new(), "text/plain").await;
                if name == "embedded" {
                    let refused = put.expect_err("it cannot").to_string();
                    assert!(refused.contains("refused"), "{refused}");
                    continue;
                }
                assert!(matches!(put, Ok(Put::Created)), "{name}, {key}: {put:?}");
                let (how, with) = bucket.encryption(&key).await;
                assert_eq!(how.as_deref(), Some(expected), "{name}, {key}");
                let is_named = with.is_some_and(|with| with.ends_with("tailwater"));
                assert_eq!(is_named, expected == "aws:kms", "{name}, {key}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rivals_of_an_archive_at_least_once_lack_nothing_and_take_nothing_away() {
    for (name, endpoint) in server::all() {
        let store = server::bucket(&endpoint).await.without_conditions();
        let archive = Archive { store };
        let race = (0..2_i64).map(|rival| {
            let mut spec = archive_spec();
            spec.guarantee = Guarantee::AtLeastOnce;
            let sink = ArchiveSink::new(archive.store.clone(), spec, vec![archive.origin()]);
            tokio::spawn(async move { deliver_all(&sink, 120, 3 + 4 * rival).await })
        });
        for rival in join_all(race).await {
            rival.expect("does not panic");
        }
        let held = archive.held().await;
        assert!(held.len() > 120, "{name}: they began at the same time");
        let distinct: BTreeMap<i64, SourceRecord> =
            held.into_iter().map(|record| (record.offset, record)).collect();
        assert!(distinct.into_values().eq((0..120).map(record)), "{name}");
        let scope = verify::Scope { level: 2, whole: false, origins: vec![archive.origin()] };
        let report = verify(&archive.store, "", &[], &scope, &mut |_| {}).await.expect("looks");
        assert_eq!((report.findings, report.records > 120), (vec![], true), "{name}");
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
        assert_eq!(read::breaks(&objects), [], "{name}");
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
        proxy.cut_next(Fault::Answer);
        let flushed = loop {
            match writer.flush(10).await {
                Ok(flushed) => break flushed,
                Err(SinkError::Transient(_)) => {}
                Err(error) => panic!("{name}: {error:?}"),
            }
        };
        assert!(proxy.has_cut(Fault::Answer), "{name}: the fault took effect");
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
async fn an_object_is_listed_and_read_with_one_etag_until_it_is_replaced() {
    for (name, endpoint) in server::all() {
        let bucket = Bucket::create(&endpoint).await;
        let mut etags = Vec::new();
        for body in [&b"one"[..], b"two", b"one"] {
            let object = Stored { body: body.to_vec(), metadata: HashMap::new() };
            bucket.put("tw/an object", &object).await;
            let listed = bucket.store.list("tw/").await.expect("lists").remove(0).etag;
            let read = bucket.store.get_with_etag("tw/an object").await.expect("reads");
            assert_eq!(read, Some((body.into(), listed.clone())), "{name}");
            etags.push(listed.expect("both servers tell ETags"));
        }
        assert_ne!(etags[0], etags[1], "{name}");
    }
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
async fn gzip_itself_reads_what_we_write_and_we_read_any_chunk_alone() {
    for (name, endpoint) in server::all() {
        let archive = Archive { store: server::bucket(&endpoint).await };
        let (mut writer, _) = open(&archive.sink()).await;
        for offset in 0..300 {
            let value = format!("{{\"n\":\"{}\"}}", format!("{offset:x}-").repeat(4_000));
            let record = SourceRecord { value: Some(value.into()), ..record(offset) };
            writer.push(record).expect("stored");
        }
        writer.flush(300).await.expect("stored");
        let objects = read::list(&archive.store, "", &archive.topic()).await.expect("lists");
        let object = objects.iter().find(|object| object.records == 300).expect("one segment");
        let lines = read::lines(&archive.store, &object.key).await.expect("reads");
        assert_eq!(lines.len(), 300);

        let bytes = archive.store.get(&object.key).await.expect("reads").expect("is there");
        let mut gzip = Command::new("gzip")
            .arg("-dc")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("gzip is installed everywhere");
        let mut stdin = gzip.stdin.take().expect("piped");
        let sent = bytes.clone();
        let sending = std::thread::spawn(move || stdin.write_all(&sent).expect("writes"));
        let output = gzip.wait_with_output().expect("ends");
        sending.join().expect("sent");
        assert!(output.status.success(), "{name}");
        let mut expected = lines.join(&b'\n');
        expected.push(b'\n');
        assert!(output.stdout == expected, "{name}: gzip reads other lines");

        let chunks = read::chunks(&archive.store, &object.key).await.expect("reads");
        assert!(chunks.len() > 2, "{name}: {} chunks", chunks.len());
        let mut alone = Vec::new();
        for (number, chunk) in chunks.iter().enumerate().rev() {
            let read = read::chunk_lines(&archive.store, &object.key, number, *chunk).await;
            alone.splice(0..0, read.expect("reads"));
        }
        assert!(alone == lines, "{name}: chunks hold other lines");
    }
}

#[tokio::test]
async fn an_object_and_its_manifest_say_what_is_in_it() {
    for (name, endpoint) in server::all() {
        let archive = Archive { store: server::bucket(&endpoint).await };
        let (mut writer, _) = open(&archive.sink()).await;
        for offset in 0..4 {
            let header = ("tw-seq".to_owned(), Some(format!("{}", 70 + offset).into()));
            let value = (offset < 3).then(|| "{}".into());
            let event = ("ce_id".to_owned(), Some("e".into()));
            let headers = vec![header, event];
            writer.push(SourceRecord { headers, value, ..record(offset) }).expect("stored");
        }
        writer.flush(6).await.expect("stored");
        let place = layout::Place::new(0, layout::Day::of_ms(record(0).timestamp_ms));
        let layout = layout::Layout::new("", archive.topic(), 0);
        let link = archive.store.link(&layout.object(place)).await.expect("looks").expect("there");
        assert_eq!((link.next.start, link.extent.records), (6, 4), "{name}");
        assert_eq!((link.extent.offset, link.extent.tw_seq), (Some((0, 3)), Some((70, 73))));
        let manifest = archive.store.get(&layout.manifest(place)).await.expect("reads");
        let manifest: Manifest =
            serde_json::from_slice(&manifest.expect("is there")).expect("a manifest");
        assert_eq!((manifest.start, manifest.next, manifest.extent), (0, 6, link.extent), "{name}");
        assert_eq!(manifest.sha256, link.sha256);
        assert_eq!(manifest.ops, [('o', 3), ('x', 1)].into());
        assert_eq!((manifest.chunks.len(), manifest.chunks[0].extent), (1, link.extent));
    }
}

#[tokio::test]
async fn a_write_that_was_cut_off_half_way_stores_nothing_and_is_repeated() {
    for (name, endpoint) in server::all() {
        let direct = server::bucket(&endpoint).await;
        let proxy = Proxy::start(&endpoint).await;
        let archive = Archive { store: server::connect(&proxy.endpoint, direct.bucket()) };
        let (mut writer, _) = open(&archive.sink()).await;
        for offset in 0..200 {
            // What does not compress: the body takes many packets.
            let noise: Vec<u8> = (0..500).flat_map(|_| uuid::Uuid::new_v4().into_bytes()).collect();
            writer
                .push(SourceRecord { value: Some(noise.into()), ..record(offset) })
                .expect("stored");
        }
        // The empty link that turns the day comes first and is small.
        proxy.cut_next(Fault::Body);
        let flushed = loop {
            match writer.flush(200).await {
                Ok(flushed) => break flushed,
                Err(SinkError::Transient(_)) => {
                    let objects = read::list(&direct, "", &archive.topic()).await.expect("lists");
                    assert!(objects.iter().all(|object| object.records == 0), "{name}: a half");
                }
                Err(error) => panic!("{name}: {error:?}"),
            }
        };
        assert!(proxy.has_cut(Fault::Body), "{name}: the fault took effect");
        assert_eq!(flushed.next, 200, "{name}");
        assert_eq!(Archive { store: direct }.held().await.len(), 200, "{name}");
    }
}

/// The whole way from a topic: what the group remembers is what tells markers from records here.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_retention_emptied_while_nobody_looked_is_archived_on() {
    let (_, endpoint) = server::all().remove(0);
    let store = server::bucket(&endpoint).await;
    let topic = Topic::create().await;
    topic.transaction(0..10, true);
    let archived = async || {
        let objects = read::list(&store, "", &topic.name).await.expect("lists");
        assert_eq!(read::breaks(&objects), []);
        let mut offsets = Vec::new();
        for object in &objects {
            for text in read::lines(&store, &object.key).await.expect("reads") {
                offsets.push(line::read(&text).expect("a line").1.offset);
            }
        }
        offsets
    };
    let worker = topic.archive(&store);
    topic.until("the last marker", || topic.committed() == Some(11)).await;
    // An aborted transaction leaves a marker and nothing to store.
    topic.transaction(10..12, false);
    topic.until("its marker", || topic.committed() == Some(14)).await;
    worker.drain().await;
    assert_eq!(archived().await, (0..10).collect::<Vec<_>>());

    topic.forget(14).await;
    let worker = topic.archive(&store);
    topic.until("ready", || worker.health.check().is_ok()).await;
    topic.transaction(20..22, true);
    topic.until("the marker", || topic.committed() == Some(17)).await;
    worker.drain().await;
    assert_eq!(archived().await, (0..10).chain(14..16).collect::<Vec<_>>());

    // Records that nobody has seen are another matter.
    topic.transaction(30..33, true);
    topic.forget(20).await;
    let worker = topic.archive(&store);
    topic
        .until("not ready", || {
            let reasons = worker.health.check().err().unwrap_or_default();
            reasons.iter().any(|reason| reason.contains("17 to 19"))
        })
        .await;
    worker.drain().await;
}

/// Its first records stand at offsets that the archive has passed, so going on at the head would lose them.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_made_again_is_not_archived_behind_the_one_before_it() {
    let (_, endpoint) = server::all().remove(0);
    let store = server::bucket(&endpoint).await;
    let topic = Topic::create().await;
    for restart in 1..3 {
        topic.transaction(0..10, true);
        let worker = topic.archive(&store);
        topic.until("the marker", || topic.committed() == Some(11 * restart)).await;
        worker.drain().await;
    }
    let before = store.list("").await.expect("lists");
    topic.make_again().await;
    for _ in 0..3 {
        topic.transaction(0..10, true);
    }
    let worker = topic.archive(&store);
    topic
        .until("not ready", || {
            let reasons = worker.health.check().err().unwrap_or_default();
            reasons.iter().any(|reason| reason.contains("deleted and made again"))
        })
        .await;
    worker.drain().await;
    assert_eq!(store.list("").await.expect("lists"), before, "nothing was written");
    let scope = verify::Scope { level: 2, whole: false, origins: vec![] };
    let report = verify(&store, "", &[], &scope, &mut |_| {}).await.expect("looks");
    assert_eq!((report.records, report.findings), (20, vec![]));
}

#[tokio::test]
async fn of_two_that_find_no_topic_remembered_one_says_which_it_is_and_both_keep_to_it() {
    for (name, endpoint) in server::all() {
        let archive = Archive { store: server::bucket(&endpoint).await };
        let opened = ["one", "two"].map(|id| {
            let source = Source {
                topic: archive.topic(),
                id: Some(TopicId::new(id)),
                generation: Generation::default(),
            };
            let sink = archive.sink().with_sources(Told(source));
            let partition = archive.partition();
            async move { (id, sink.open(&partition, None).await.map(drop)) }
        });
        let opened = join_all(opened).await;
        let filled = topic::filled_from(&archive.store, "", &archive.topic()).await.expect("reads");
        let filled = filled.and_then(|source| source.id).expect("remembered").to_string();
        for (id, opened) in opened {
            match opened {
                Ok(()) => assert_eq!(id, filled, "{name}"),
                Err(SinkError::Definite(error)) => {
                    assert_ne!(id, filled, "{name}");
                    let said = error.to_string();
                    assert!(said.contains("another prefix"), "{name}: {said}");
                }
                Err(error) => panic!("{name}: {error:?}"),
            }
        }
        let key = layout::topic("", &archive.topic());
        let damaged = Bucket::create(&endpoint).await;
        damaged.put(&key, &Stored { body: b"{}".to_vec(), metadata: HashMap::new() }).await;
        let read = topic::filled_from(&damaged.store, "", &archive.topic()).await;
        assert!(matches!(read, Err(TopicError::Unreadable { .. })), "{name}: {read:?}");
        let scope = verify::Scope { level: 1, whole: false, origins: vec![] };
        let report = verify(&damaged.store, "", &[], &scope, &mut |_| {}).await.expect("looks");
        assert_eq!(report.findings.len(), 1, "{name}: {report}");
    }
}

/// A topic as the test says.
struct Told(Source);

impl Sources for Told {
    fn source(&self, _: &TopicName) -> BoxFuture<'_, Result<Source, SinkError>> {
        std::future::ready(Ok(self.0.clone())).boxed()
    }
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

pub(crate) struct Archive {
    pub(crate) store: Store,
}

fn archive_spec() -> ArchiveSpec {
    ArchiveSpec {
        bucket: String::new(),
        prefix: String::new(),
        guarantee: Guarantee::ExactlyOnce,
        segment: SegmentSpec { bytes: 1 << 20, records: 1_000, age_ms: 1_000, idle_ms: None },
    }
}

impl Archive {
    fn origin(&self) -> Origin {
        Origin { topic: self.topic(), partition: 0, offset: 0, dt: "1970-01-01".into() }
    }

    fn partition(&self) -> TopicPartition {
        TopicPartition { topic: self.topic(), partition: 0 }
    }
}

impl Subject for Archive {
    type Sink = ArchiveSink;
    type Held = Vec<SourceRecord>;

    fn sink(&self) -> ArchiveSink {
        ArchiveSink::new(self.store.clone(), archive_spec(), vec![self.origin()])
    }

    fn topic(&self) -> TopicName {
        "orders.events".parse().expect("valid")
    }

    fn record(&self, offset: i64) -> SourceRecord {
        record(offset)
    }

    /// Anything can be archived.
    fn poison(&self, _: i64) -> Option<SourceRecord> {
        None
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
        next = stored(&mut writer, to).await;
    }
}

/// Flushes until it is done; answers where the sink goes on.
pub(crate) async fn stored(writer: &mut impl Writer, to: i64) -> i64 {
    loop {
        match writer.flush(to).await {
            Ok(flushed) => return flushed.next,
            Err(SinkError::Transient(_)) => tokio::task::yield_now().await,
            Err(error) => panic!("{error:?}"),
        }
    }
}
