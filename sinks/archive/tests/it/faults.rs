//! Real servers behind something that throttles, loses answers, resets connections and breaks off answers.

use std::collections::HashMap;

use bytes::Bytes;
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tailwater_runtime::{Classify, ErrorClass};
use tailwater_sinks_archive::repair::{self, repair};
use tailwater_sinks_archive::verify::{self, verify};
use tailwater_sinks_archive::{ArchiveSink, Objects, Put, Store, StoreError};
use tailwater_sinks_worker::contract::{self, Subject};
use tailwater_sinks_worker::testing::record;
use tailwater_sinks_worker::{Sink, SinkError, TopicPartition, Writer};
use tailwater_topics_contract::Origin;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::bucket::{Bucket, PREFIX};
use crate::faulty::{Fault, Faulty};
use crate::live::{Archive, stored};
use crate::{seed, server};

/// Records in the log that rivals archive.
const LOG: i64 = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rivals_over_a_store_that_fails_a_third_of_its_requests_make_one_exact_chain() {
    let seed = seed::new();
    for (name, endpoint) in server::all() {
        let bucket = server::bucket(&endpoint).await;
        let mut rivals = Vec::new();
        let mut behind = Vec::new();
        for rival in 0..2 {
            let faulty = Faulty::start(&endpoint, seed.wrapping_add(rival)).await;
            let store = server::connect(&faulty.endpoint, bucket.bucket());
            let random = StdRng::seed_from_u64(!seed.wrapping_add(rival));
            rivals.push(tokio::spawn(archive(store, random)));
            behind.push(faulty);
        }
        for rival in join_all(rivals).await {
            rival.expect(name);
        }
        for fault in [Fault::Throttled, Fault::Lost, Fault::Reset, Fault::BrokenOff] {
            let met: Vec<_> = behind.iter().map(|faulty| faulty.met(fault)).collect();
            println!("{name}, {fault:?}: {met:?}");
            assert!(met.iter().any(|(_, met)| *met > 0), "{name}: {fault:?} never came");
        }
        let archive = Archive { store: bucket.clone() };
        assert_eq!(archive.held().await, (0..LOG).map(record).collect::<Vec<_>>(), "{name}");
        // Looking takes the same way, and finds a whole archive.
        let faulty = server::connect(&behind[0].endpoint, bucket.bucket());
        let scope = verify::Scope { level: 2, whole: false, origins: vec![origin()] };
        for store in [&faulty, &bucket] {
            let report = verify(store, "", &[], &scope, &mut |_| {}).await.expect(name);
            assert_eq!((report.findings, report.notes), (vec![], vec![]), "{name}");
            assert_eq!(report.records, LOG.unsigned_abs(), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_archive_keeps_the_contract_of_sinks_over_such_a_store() {
    let seed = seed::new();
    for (_, endpoint) in server::all() {
        contract::check(|| async {
            let bucket = server::bucket(&endpoint).await;
            let faulty = Faulty::start(&endpoint, seed).await;
            Archive { store: server::connect(&faulty.endpoint, bucket.bucket()) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_passes_such_a_store() {
    let seed = seed::new();
    for (name, endpoint) in server::all() {
        let bucket = server::bucket(&endpoint).await;
        let faulty = Faulty::start(&endpoint, seed).await;
        let store = server::connect(&faulty.endpoint, bucket.bucket());
        for _ in 0..5 {
            // Too few clear answers for as long as that show nothing, and the worker probes again.
            while let Err(error) = store.probe(u64::MAX).await {
                assert_eq!(error.class(), ErrorClass::Transient, "{name}: {error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_over_such_a_store_makes_what_is_missing_byte_for_byte() {
    let seed = seed::new();
    for (name, endpoint) in server::all() {
        let bucket = Bucket::create(&endpoint).await;
        bucket.write("orders.events", 0, (0..60).map(record).collect(), 5).await;
        let whole = bucket.everything().await;
        let beside = bucket.keys("meta/").await;
        let missing: Vec<String> = beside.into_iter().step_by(2).collect();
        for key in &missing {
            bucket.remove(key).await;
        }
        let faulty = Faulty::start(&endpoint, seed).await;
        let store = server::connect(&faulty.endpoint, bucket.store.bucket());
        let repaired = repair(&store, PREFIX, &[], repair::Scope::default(), &mut |_| {}).await;
        let mut repaired = repaired.expect(name);
        repaired.made.sort();
        assert_eq!((repaired.made, repaired.beyond), (missing, vec![]), "{name}");
        assert_eq!(bucket.everything().await, whole, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_in_parts_is_created_once_over_such_a_store() {
    let seed = seed::new();
    for (name, endpoint) in server::all() {
        let bucket = Bucket::create(&endpoint).await;
        let faulty = Faulty::start(&endpoint, seed).await;
        let store = server::connect(&faulty.endpoint, bucket.store.bucket());
        let mut body = vec![0; (64 << 20) + 1];
        StdRng::seed_from_u64(seed).fill(&mut body[..]);
        let body = Bytes::from(body);
        loop {
            match store.create("k", body.clone(), HashMap::new(), "text/plain").await {
                Ok(Put::Created | Put::Taken) => break,
                Ok(Put::Conflict(_) | Put::Unclear(_)) => {}
                Err(error) => panic!("{name}: {error}"),
            }
        }
        assert!(bucket.object("k").await.body == body, "{name}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_refusal() {
    for status in [400, 403, 404, 409, 500] {
        let store = server::connect(&breaks_off(status, 2).await, "bucket");
        let got = store.get("k").await;
        assert!(matches!(got, Ok(None)), "{status}: it is asked until an answer is whole: {got:?}");
        let store = server::connect(&breaks_off(status, 2).await, "bucket");
        let put = store.create("k", Bytes::new(), HashMap::new(), "text/plain").await;
        let is_unclear = matches!(put, Ok(Put::Unclear(_) | Put::Conflict(_)));
        assert!(is_unclear, "{status}: nobody can tell: {put:?}");
    }
    // A whole one is.
    let store = server::connect(&breaks_off(403, 0).await, "bucket");
    let put = store.create("k", Bytes::new(), HashMap::new(), "text/plain").await;
    assert!(matches!(put, Err(StoreError::Refused { .. })), "{put:?}");
}

/// What such a listing leaves out would pass for lost.
#[tokio::test]
async fn a_listing_that_does_not_say_where_it_goes_on_is_none() {
    for token in ["", "<NextContinuationToken>here</NextContinuationToken>"] {
        let body = format!(
            "<ListBucketResult><IsTruncated>true</IsTruncated>{token}\
             <Contents><Key>k</Key><Size>1</Size></Contents></ListBucketResult>"
        );
        let store = server::connect(&always(&body).await, "bucket");
        let listed = store.list("").await;
        let Err(StoreError::Refused { why, .. }) = &listed else { panic!("{token}: {listed:?}") };
        assert_eq!(why, "it says that there is more, and not where", "{token}");
    }
    let whole = "<ListBucketResult><IsTruncated>false</IsTruncated>\
                 <Contents><Key>k</Key><Size>1</Size></Contents></ListBucketResult>";
    let store = server::connect(&always(whole).await, "bucket");
    assert_eq!(store.list("").await.expect("whole").len(), 1);
}

/// A store that gives one answer to everything.
async fn always(body: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/xml\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let _ = client.read(&mut vec![0; 65_536]).await;
            let _ = client.write_all(answer.as_bytes()).await;
        }
    });
    endpoint
}

/// A store whose first answers end before their length; those that follow say that there is no such key.
async fn breaks_off(status: u16, times: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    let body = "<Error><Code>NoSuchKey</Code><Message>as told</Message></Error>";
    tokio::spawn(async move {
        let mut answers = 0;
        while let Ok((mut client, _)) = listener.accept().await {
            let _ = client.read(&mut vec![0; 65_536]).await;
            let is_whole = answers >= times;
            answers += 1;
            let (status, shown) = if is_whole { (404, body) } else { (status, &body[..20]) };
            let answer = format!(
                "HTTP/1.1 {status} No\r\ncontent-type: application/xml\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{shown}",
                body.len()
            );
            let _ = client.write_all(answer.as_bytes()).await;
        }
    });
    endpoint
}

/// Archives the whole log, in batches of many sizes, as a process that is killed now and then.
async fn archive(store: Store, mut random: StdRng) {
    let mut next = 0;
    while next < LOG {
        let sink = Archive { store: store.clone() }.sink();
        let (mut writer, start) = open(&sink).await;
        next = start;
        while next < LOG && random.random_bool(0.9) {
            let to = (next + random.random_range(1..20)).min(LOG);
            (next..to).for_each(|offset| writer.push(record(offset)).expect("stored"));
            next = stored(&mut writer, to).await;
        }
    }
}

/// As the worker does: what passes is waited for.
async fn open(sink: &ArchiveSink) -> (impl Writer + use<>, i64) {
    let Origin { topic, partition, .. } = origin();
    let partition = TopicPartition { topic, partition };
    loop {
        match sink.open(&partition, None).await {
            Ok(opened) => return opened,
            Err(SinkError::Transient(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn origin() -> Origin {
    let topic = "orders.events".parse().expect("valid");
    Origin { topic, partition: 0, offset: 0, dt: "1970-01-01".to_owned() }
}
