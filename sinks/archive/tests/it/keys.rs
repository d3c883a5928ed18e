//! Keys that a store does not take: those that may be others soon, and those that will not.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tailwater_config::{Keys, Word};
use tailwater_runtime::{Classify, ErrorClass};
use tailwater_sinks_archive::{ArchiveSink, Objects, Put, Store, StoreError, read};
use tailwater_sinks_worker::testing::record;
use tailwater_sinks_worker::{Sink, SinkError, TopicPartition, Writer};
use tailwater_topics_contract::{ArchiveSpec, Guarantee, Origin, SegmentSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::server;

/// Longer than keys that were refused are kept.
const READ_AGAIN: Duration = Duration::from_millis(1_100);

#[tokio::test]
async fn a_wrong_secret_in_a_file_is_waited_out_and_one_in_the_configuration_stops_the_sink() {
    for (name, endpoint) in server::all() {
        let bucket = server::bucket(&endpoint).await;
        let given =
            server::known_by(&endpoint, bucket.bucket(), Keys::given("tailwater", "yesterday"));
        match sink(&given).open(&partition(), None).await {
            Err(SinkError::Definite(error)) => {
                assert!(error.to_string().contains("SignatureDoesNotMatch"), "{name}: {error}");
            }
            other => panic!("{name}: {:?}", other.map(|(_, start)| start)),
        }

        let file = SecretFile::holding("yesterday");
        let store = server::known_by(&endpoint, bucket.bucket(), file.keys());
        let sink = sink(&store);
        for _ in 0..2 {
            match sink.open(&partition(), None).await {
                Err(SinkError::Transient(error)) => {
                    assert!(error.to_string().contains("they are read again"), "{name}: {error}");
                }
                other => panic!("{name}: {:?}", other.map(|(_, start)| start)),
            }
        }
        let put = store.create("k", vec![1].into(), HashMap::new(), "text/plain").await;
        assert!(matches!(put, Err(StoreError::StaleKeys { .. })), "{name}: {put:?}");

        file.write("tailwater-secret");
        tokio::time::sleep(READ_AGAIN).await;
        let (mut writer, start) = sink.open(&partition(), None).await.expect(name);
        assert_eq!(start, 0);
        (0..5).for_each(|offset| writer.push(record(offset)).expect("stored"));
        assert_eq!(writer.flush(5).await.expect(name).next, 5);
        let objects = read::list(&bucket, "", &partition().topic).await.expect("lists");
        assert_eq!(objects.iter().map(|object| object.records).sum::<u64>(), 5, "{name}");
        let put = store.create("k", vec![1].into(), HashMap::new(), "text/plain").await;
        assert!(matches!(put, Ok(Put::Created)), "{name}: nothing was written before: {put:?}");
    }
}

#[tokio::test]
async fn what_the_store_says_of_keys_decides_whether_others_are_waited_for() {
    let stale = [
        (400, "ExpiredToken"),
        (400, "InvalidToken"),
        (400, "TokenRefreshRequired"),
        (403, "InvalidAccessKeyId"),
        (403, "InvalidTokenId"),
        (403, "SignatureDoesNotMatch"),
        (401, "Whatever"),
    ];
    for (status, code) in stale {
        assert_eq!(classes(status, code).await, (ErrorClass::Transient, ErrorClass::Definite));
    }
    for (status, code) in [(403, "AccessDenied"), (403, "AllAccessDisabled"), (400, "Whatever")] {
        assert_eq!(classes(status, code).await, (ErrorClass::Definite, ErrorClass::Definite));
    }
    // Clocks are set, by and by, whoever we are.
    let clock = classes(403, "RequestTimeTooSkewed").await;
    assert_eq!(clock, (ErrorClass::Transient, ErrorClass::Transient));
    let error = refusal(403, "RequestTimeTooSkewed", Keys::given("a", "s")).await.0.to_string();
    assert!(error.contains("set the clock"), "{error}");
}

/// The class of an answer for keys in a file, and for keys in the configuration.
async fn classes(status: u16, code: &str) -> (ErrorClass, ErrorClass) {
    let file = SecretFile::holding("s");
    let mut classes = Vec::new();
    for keys in [file.keys(), Keys::given("a", "s")] {
        let (get, head) = refusal(status, code, keys).await;
        assert!(get.to_string().contains(code) && head.to_string().contains(code), "{get}, {head}");
        assert_eq!(
            get.class(),
            head.class(),
            "{code}: the answer to a HEAD says no more than this"
        );
        classes.push(get.class());
    }
    (classes[0], classes[1])
}

/// What becomes of a GET and of a HEAD that a store answers so.
async fn refusal(status: u16, code: &str, keys: Keys) -> (StoreError, StoreError) {
    let store = server::known_by(&one_answer(status, code).await, "bucket", keys);
    (store.get("key").await.expect_err(code), store.link("key").await.expect_err(code))
}

/// A store that answers everything in one way.
async fn one_answer(status: u16, code: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    let body = format!("<Error><Code>{code}</Code><Message>as told</Message></Error>");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut request = vec![0; 65_536];
            let read = client.read(&mut request).await.unwrap_or_default();
            let body = if request[..read].starts_with(b"HEAD") { "" } else { &body };
            let answer = format!(
                "HTTP/1.1 {status} No\r\ncontent-type: application/xml\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = client.write_all(answer.as_bytes()).await;
        }
    });
    endpoint
}

/// A secret that somebody rotates.
struct SecretFile(PathBuf);

impl SecretFile {
    fn holding(secret: &str) -> Self {
        let name = format!("tailwater-secret-{}", uuid::Uuid::new_v4());
        let file = Self(std::env::temp_dir().join(name));
        file.write(secret);
        file
    }

    fn write(&self, secret: &str) {
        fs::write(&self.0, format!("{secret}\n")).expect("written");
    }

    fn keys(&self) -> Keys {
        Keys::Named {
            access: Word::given("tailwater"),
            secret: Word::File(self.0.clone()),
            session_token: None,
        }
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn partition() -> TopicPartition {
    TopicPartition { topic: "orders.events".parse().expect("valid"), partition: 0 }
}

fn sink(store: &Store) -> ArchiveSink {
    let spec = ArchiveSpec {
        bucket: String::new(),
        prefix: String::new(),
        guarantee: Guarantee::ExactlyOnce,
        segment: SegmentSpec { bytes: 1 << 20, records: 1_000, age_ms: 1_000, idle_ms: None },
    };
    let TopicPartition { topic, partition } = partition();
    let origin = Origin { topic, partition, offset: 0, dt: "1970-01-01".into() };
    ArchiveSink::new(store.clone(), spec, vec![origin])
}
