//! A bucket of our own, an archive in it made by the real sink, and the program over it.

use std::path::PathBuf;
use std::process::{Command, Output};

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use tailwater_config::{Keys, S3Config};
use tailwater_lake::Archive;
use tailwater_sinks_archive::{ArchiveSink, Store};
use tailwater_sinks_worker::{Sink, SourceRecord, TopicPartition, Writer};
use tailwater_topics_contract::{ArchiveSpec, Guarantee, Origin, SegmentSpec, TopicName};

pub(crate) fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("`{name}` is not set; run the tests with `make test`"))
}

pub(crate) fn unique() -> String {
    uuid::Uuid::new_v4().simple().to_string()[..10].to_owned()
}

/// An archive in a bucket of its own.
pub(crate) struct Archived {
    pub(crate) archive: Archive,
    /// For what the product never does: replace and remove.
    pub(crate) raw: Client,
    pub(crate) pipeline: String,
    folder: PathBuf,
}

impl Archived {
    pub(crate) async fn new(pipeline: &str) -> Self {
        let endpoint = variable("TAILWATER_TEST_S3");
        let bucket = format!("lake-{}", unique());
        let config = S3Config {
            endpoint: endpoint.clone(),
            region: "us-east-1".to_owned(),
            keys: Keys::given("tailwater", "tailwater-secret"),
            path_style: true,
            encryption: None,
        };
        let store = Store::connect(config, &bucket);
        store.ensure_bucket().await.expect("a bucket");
        let keys = aws_credential_types::Credentials::new(
            "tailwater",
            "tailwater-secret",
            None,
            None,
            "test",
        );
        let raw = aws_sdk_s3::Config::builder()
            .behavior_version(aws_sdk_s3::config::BehaviorVersion::latest())
            .endpoint_url(endpoint)
            .region(aws_sdk_s3::config::Region::new("us-east-1"))
            .credentials_provider(keys)
            .force_path_style(true)
            .build();
        let folder = std::env::temp_dir().join(format!("tailwater-lake-{}", unique()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let archive = Archive { store, prefix: "tw/".to_owned() };
        let archived =
            Self { archive, raw: Client::from_conf(raw), pipeline: pipeline.to_owned(), folder };
        archived.configure("tailwater-secret", &variable("TAILWATER_TEST_S3"));
        archived
    }

    /// Writes the configuration that the program reads.
    pub(crate) fn configure(&self, secret: &str, endpoint: &str) {
        let kafka = variable("TAILWATER_TEST_KAFKA");
        let text = format!(
            "pipeline: {}\nkafka: {{ brokers: \"{kafka}\" }}\ns3: {{ endpoint: \"{endpoint}\", access_key: tailwater, secret_key: {secret} }}\n",
            self.pipeline
        );
        std::fs::write(self.folder.join("tailwater.yaml"), text).expect("written");
    }

    pub(crate) fn folder(&self) -> &PathBuf {
        &self.folder
    }

    /// Archives records of one partition, a segment for every so many, going on where the chain ends.
    pub(crate) async fn write(
        &self,
        topic: &TopicName,
        partition: i32,
        records: Vec<SourceRecord>,
        per_segment: usize,
        next: i64,
    ) {
        let guarantee = Guarantee::ExactlyOnce;
        self.write_under(guarantee, topic, partition, records, per_segment, next).await;
    }

    /// The same, as an archive with this guarantee is written.
    pub(crate) async fn write_under(
        &self,
        guarantee: Guarantee,
        topic: &TopicName,
        partition: i32,
        records: Vec<SourceRecord>,
        per_segment: usize,
        next: i64,
    ) {
        let spec = ArchiveSpec {
            bucket: self.archive.store.bucket().to_owned(),
            prefix: self.archive.prefix.clone(),
            guarantee,
            segment: SegmentSpec::default(),
        };
        let origin =
            Origin { topic: topic.clone(), partition, offset: 0, dt: "2026-01-01".to_owned() };
        let sink = ArchiveSink::new(self.archive.store.clone(), spec, vec![origin]);
        let place = TopicPartition { topic: topic.clone(), partition };
        let (mut writer, start) = sink.open(&place, None).await.expect("opens");
        let records: Vec<_> = records.into_iter().filter(|record| record.offset >= start).collect();
        let count = records.len();
        for (at, record) in records.into_iter().enumerate() {
            let after = record.offset + 1;
            writer.push(record).expect("any record can be archived");
            if at + 1 == count {
                writer.flush(next.max(after)).await.expect("stored");
            } else if (at + 1) % per_segment == 0 {
                writer.flush(after).await.expect("stored");
            }
        }
    }

    /// The program with these arguments, and no word of where the archive is.
    pub(crate) fn run_unaided(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_tailwater-lake"))
            .args(arguments)
            .current_dir(&self.folder)
            .env_remove("TAILWATER_ARCHIVE")
            .env_remove("TAILWATER_CONFIG")
            .env_remove("TAILWATER_LOG")
            .output()
            .expect("the program starts")
    }

    /// The program with these arguments.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let address = format!("s3://{}/{}", self.archive.store.bucket(), self.archive.prefix);
        Command::new(env!("CARGO_BIN_EXE_tailwater-lake"))
            .args(arguments)
            .current_dir(&self.folder)
            .env("TAILWATER_ARCHIVE", address)
            .env_remove("TAILWATER_CONFIG")
            .env_remove("TAILWATER_LOG")
            .output()
            .expect("the program starts")
    }

    /// Standard output of the program, which must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Exit code and standard error of the program, which must fail.
    pub(crate) fn refused(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        let out = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "{arguments:?}: {out}");
        (
            output.status.code().expect("not killed"),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }

    pub(crate) async fn keys(&self, under: &str) -> Vec<String> {
        use tailwater_sinks_archive::Objects as _;
        let listed = self.archive.store.list(&format!("tw/{under}")).await.expect("lists");
        listed.into_iter().map(|listed| listed.key).collect()
    }

    pub(crate) async fn object(&self, key: &str) -> Stored {
        let bucket = self.archive.store.bucket();
        let got = self.raw.get_object().bucket(bucket).key(key).send().await.expect("there");
        let metadata = got.metadata().cloned().unwrap_or_default();
        let body = got.body.collect().await.expect("whole").to_vec();
        Stored { body, metadata }
    }

    pub(crate) async fn put(&self, key: &str, object: &Stored) {
        self.raw
            .put_object()
            .bucket(self.archive.store.bucket())
            .key(key)
            .set_metadata(Some(object.metadata.clone()))
            .body(ByteStream::from(object.body.clone()))
            .send()
            .await
            .expect("put");
    }

    pub(crate) async fn remove(&self, key: &str) {
        let bucket = self.archive.store.bucket();
        self.raw.delete_object().bucket(bucket).key(key).send().await.expect("removed");
    }

    /// All objects under `data/` as files, for engines that cannot reach our store.
    pub(crate) async fn download(&self) -> String {
        for key in self.keys("data/").await {
            let path = self.folder.join(key.strip_prefix("tw/").expect("ours"));
            std::fs::create_dir_all(path.parent().expect("has one")).expect("folders");
            std::fs::write(path, self.object(&key).await.body).expect("written");
        }
        format!("{}/", self.folder.display())
    }

    /// The whole bucket as files under their keys.
    pub(crate) async fn download_all(&self) -> String {
        for key in self.keys("").await {
            let path = self.folder.join(&key);
            std::fs::create_dir_all(path.parent().expect("has one")).expect("folders");
            std::fs::write(path, self.object(&key).await.body).expect("written");
        }
        format!("{}/", self.folder.display())
    }
}

impl Drop for Archived {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) body: Vec<u8>,
    pub(crate) metadata: std::collections::HashMap<String, String>,
}

/// Changes of a table, numbered without a hole from `first` on, as the reader writes them.
pub(crate) fn changes(first: u64, count: i64) -> Vec<SourceRecord> {
    let record = |offset: i64| {
        let number = first + offset.unsigned_abs();
        let (lsn, seq) = (number + 1, (1_u64 << 44) + 1 + number);
        let pad = "x".repeat(200);
        let value = format!(
            r#"{{"before":null,"after":{{"id":{number},"price":"{number}.50","pad":"{pad}"}},"source":{{"version":"0.1.0","connector":"tailwater","name":"p","ts_ms":1767225600000,"snapshot":"false","db":"d","schema":"shop","table":"item","txId":{number},"lsn":{lsn},"commit_lsn":{lsn},"ordinal":0,"seq":{seq}}},"op":"c","ts_ms":1767225600001}}"#
        );
        SourceRecord {
            offset,
            timestamp_ms: 1_767_225_600_000 + offset,
            key: Some(format!("{{\"id\":{number}}}").into()),
            value: Some(value.into()),
            headers: vec![],
        }
    };
    (0..count).map(record).collect()
}
