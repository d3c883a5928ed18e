//! A bucket of our own with what the product never does: replacing and removing.

use std::collections::{BTreeMap, HashMap};

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Region};
use aws_sdk_s3::primitives::ByteStream;
use tailwater_sinks_archive::{ArchiveSink, Objects, Store};
use tailwater_sinks_worker::{Sink, SourceRecord, TopicPartition, Writer};
use tailwater_topics_contract::{ArchiveSpec, Guarantee, Origin, SegmentSpec, TopicName};

use crate::server;

/// Before every key.
pub(crate) const PREFIX: &str = "tw/";

#[derive(Clone)]
pub(crate) struct Bucket {
    pub(crate) store: Store,
    raw: Client,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) body: Vec<u8>,
    pub(crate) metadata: HashMap<String, String>,
}

impl Bucket {
    pub(crate) async fn create(endpoint: &str) -> Self {
        let raw = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(endpoint)
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new(
                "tailwater",
                "tailwater-secret",
                None,
                None,
                "test",
            ))
            .force_path_style(true)
            .build();
        Self { store: server::bucket(endpoint).await, raw: Client::from_conf(raw) }
    }

    /// Archives records of one partition, an object for every so many.
    pub(crate) async fn write(
        &self,
        topic: &str,
        partition: i32,
        records: Vec<SourceRecord>,
        per_object: usize,
    ) {
        let guarantee = Guarantee::ExactlyOnce;
        self.write_under(guarantee, topic, partition, records, per_object).await;
    }

    /// The same, as an archive with this guarantee is written.
    pub(crate) async fn write_under(
        &self,
        guarantee: Guarantee,
        topic: &str,
        partition: i32,
        records: Vec<SourceRecord>,
        per_object: usize,
    ) {
        let topic: TopicName = topic.parse().expect("a name");
        let spec = ArchiveSpec {
            bucket: self.store.bucket().to_owned(),
            prefix: PREFIX.to_owned(),
            guarantee,
            segment: SegmentSpec::default(),
        };
        let origin =
            Origin { topic: topic.clone(), partition, offset: 0, dt: "2026-01-01".to_owned() };
        let sink = ArchiveSink::new(self.store.clone(), spec, vec![origin]);
        let (mut writer, _) =
            sink.open(&TopicPartition { topic, partition }, None).await.expect("opens");
        for records in records.chunks(per_object) {
            for record in records {
                writer.push(record.clone()).expect("any record can be archived");
            }
            let next = records.last().expect("a chunk has one").offset + 1;
            writer.flush(next).await.expect("stored");
        }
    }

    pub(crate) async fn keys(&self, under: &str) -> Vec<String> {
        let listed = self.store.list(&format!("{PREFIX}{under}")).await.expect("lists");
        listed.into_iter().map(|listed| listed.key).collect()
    }

    pub(crate) async fn everything(&self) -> BTreeMap<String, Stored> {
        let mut all = BTreeMap::new();
        for key in self.keys("").await {
            let object = self.object(&key).await;
            all.insert(key, object);
        }
        all
    }

    pub(crate) async fn object(&self, key: &str) -> Stored {
        let got =
            self.raw.get_object().bucket(self.store.bucket()).key(key).send().await.expect("there");
        let metadata = got.metadata().cloned().unwrap_or_default();
        let body = got.body.collect().await.expect("whole").to_vec();
        Stored { body, metadata }
    }

    pub(crate) async fn put(&self, key: &str, object: &Stored) {
        let put = self.raw.put_object().bucket(self.store.bucket()).key(key);
        let put = put.set_metadata(Some(object.metadata.clone()));
        put.body(ByteStream::from(object.body.clone())).send().await.expect("put");
    }

    /// How an object is encrypted, in the words of S3, and with which key.
    pub(crate) async fn encryption(&self, key: &str) -> (Option<String>, Option<String>) {
        let head = self.raw.head_object().bucket(self.store.bucket()).key(key);
        let head = head.send().await.expect("there");
        let how = head.server_side_encryption().map(|how| how.as_str().to_owned());
        (how, head.ssekms_key_id().map(str::to_owned))
    }

    /// Begins an upload in parts and leaves it.
    pub(crate) async fn begin_upload(&self, key: &str) {
        let begin = self.raw.create_multipart_upload().bucket(self.store.bucket()).key(key);
        begin.send().await.expect("begun");
    }

    /// How many uploads in parts to keys with this prefix have begun and not ended.
    pub(crate) async fn uploads(&self, prefix: &str) -> usize {
        let list = self.raw.list_multipart_uploads().bucket(self.store.bucket()).prefix(prefix);
        list.send().await.expect("listed").uploads().len()
    }

    pub(crate) async fn remove(&self, key: &str) {
        let remove = self.raw.delete_object().bucket(self.store.bucket()).key(key);
        remove.send().await.expect("removed");
    }
}
