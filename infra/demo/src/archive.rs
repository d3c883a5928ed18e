//! What stands in the archive: objects by listing, lines by unzipping, records by cutting lines apart.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;

use anyhow::{Context, bail, ensure};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::read::GzDecoder;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// How to reach a store.
#[derive(Clone, Debug)]
pub struct Store {
    /// Where it listens, with scheme.
    pub endpoint: String,
    /// Access key.
    pub access_key: String,
    /// Secret key.
    pub secret_key: String,
}

impl Store {
    /// A client of the store.
    pub fn client(&self) -> Client {
        let credentials =
            Credentials::new(&self.access_key, &self.secret_key, None, None, "configuration");
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&self.endpoint)
            .region(Region::new("us-east-1"))
            .credentials_provider(credentials)
            .force_path_style(true)
            .build();
        Client::from_conf(config)
    }
}

/// One archived line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Timestamp in milliseconds.
    pub timestamp_ms: i64,
    /// Key as Kafka had it.
    pub key: Option<Vec<u8>>,
    /// Value as Kafka had it.
    pub value: Option<Vec<u8>>,
}

/// One object of the chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Partition, from the name.
    pub partition: i32,
    /// First position, from the name.
    pub start: i64,
    /// Position after its last record, from its metadata.
    pub next: i64,
    /// The object key.
    pub key: String,
    /// Lines found in it.
    pub lines: usize,
}

/// Everything read of a topic's archive so far.
pub struct ArchiveReader {
    client: Client,
    bucket: String,
    topic: String,
    links: BTreeMap<String, Link>,
    lines: Vec<Line>,
}

impl ArchiveReader {
    /// Begins with nothing read.
    pub fn new(store: &Store, bucket: &str, topic: &str) -> Self {
        Self {
            client: store.client(),
            bucket: bucket.into(),
            topic: topic.into(),
            links: BTreeMap::new(),
            lines: Vec::new(),
        }
    }

    /// Every line read so far.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Every object read so far.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// Reads objects that were not there before; answers how many lines are new.
    pub async fn catch_up(&mut self) -> anyhow::Result<usize> {
        let before = self.lines.len();
        let prefix = format!("data/{}/", self.topic);
        let mut pages = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(&prefix)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.with_context(|| format!("listing `{prefix}` in `{}`", self.bucket))?;
            for object in page.contents() {
                let key = object.key().context("an object without key")?;
                if !self.links.contains_key(key) {
                    let link = self.read(key).await.with_context(|| format!("object `{key}`"))?;
                    self.links.insert(key.to_owned(), link);
                }
            }
        }
        Ok(self.lines.len() - before)
    }

    async fn read(&mut self, key: &str) -> anyhow::Result<Link> {
        let (partition, start) = name(key)?;
        let object = self.client.get_object().bucket(&self.bucket).key(key).send().await?;
        let next = object.metadata().and_then(|metadata| metadata.get("next")).cloned();
        let next: i64 = next.context("no `next` in its metadata")?.parse()?;
        let zipped = object.body.collect().await?.into_bytes();
        let mut text = Vec::new();
        GzDecoder::new(&zipped[..]).read_to_end(&mut text)?;
        let mut lines = 0;
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\n").context("the last line has no end")?;
            let line = cut(std::str::from_utf8(line)?)?;
            ensure!(line.partition == partition, "a line of partition {}", line.partition);
            ensure!(
                line.offset >= start && line.offset < next,
                "offset {} is outside",
                line.offset
            );
            self.lines.push(line);
            lines += 1;
        }
        Ok(Link { partition, start, next, key: key.to_owned(), lines })
    }

    /// Checks that the objects of each partition form one chain: each begins where the one before it ends.
    pub fn check_chain(&self) -> anyhow::Result<()> {
        let mut partitions: BTreeMap<i32, Vec<&Link>> = BTreeMap::new();
        for link in self.links.values() {
            partitions.entry(link.partition).or_default().push(link);
        }
        for (partition, mut links) in partitions {
            // An empty link shares its start with its successor and stands before it: it ends where it begins.
            links.sort_by_key(|link| (link.start, link.next, &link.key));
            for pair in links.windows(2) {
                if pair[0].next != pair[1].start {
                    bail!(
                        "`{}` partition {partition}: `{}` ends at {} and `{}` begins at {}",
                        self.topic,
                        pair[0].key,
                        pair[0].next,
                        pair[1].key,
                        pair[1].start
                    );
                }
            }
        }
        Ok(())
    }
}

/// Partition and start from `data/<topic>/dt=YYYY-MM-DD/p00003-00000000000000750000.jsonl.gz`.
fn name(key: &str) -> anyhow::Result<(i32, i64)> {
    let parse = || {
        let file = key.rsplit('/').next()?.strip_suffix(".jsonl.gz")?;
        let (partition, start) = file.strip_prefix('p')?.split_once('-')?;
        (start.len() == 20).then_some(())?;
        Some((partition.parse().ok()?, start.parse().ok()?))
    };
    parse().with_context(|| format!("`{key}` has no place under `data/`"))
}

/// Cuts a line into the record it was made from.
fn cut(line: &str) -> anyhow::Result<Line> {
    let fields = fields(line).with_context(|| format!("line `{}`", start_of(line)))?;
    let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, raw)| *raw);
    let number = |name: &str| -> anyhow::Result<i64> {
        let raw = field(name).with_context(|| format!("no `{name}`"))?;
        Ok(raw.get().parse()?)
    };
    let base64 = |raw: &RawValue| -> anyhow::Result<Vec<u8>> {
        Ok(BASE64.decode(serde_json::from_str::<String>(raw.get())?)?)
    };
    let key = match (field("kafka_key"), field("kafka_key_b64")) {
        (_, Some(raw)) => Some(base64(raw)?),
        (Some(raw), _) if raw.get() == "null" => None,
        (Some(raw), _) if raw.get().starts_with('"') => {
            Some(serde_json::from_str::<String>(raw.get())?.into_bytes())
        }
        (Some(raw), _) => Some(raw.get().as_bytes().to_vec()),
        (None, None) => bail!("no key"),
    };
    let op = field("op_code").context("no `op_code`")?.get();
    let value = match (op, field("value_b64")) {
        ("\"x\"", _) => None,
        (_, Some(raw)) => Some(base64(raw)?),
        _ => {
            let headers = field("kafka_headers").context("no `kafka_headers`")?.get();
            // The raw text is a slice of the line, so where it ends the head ends.
            let end = headers.as_ptr() as usize - line.as_ptr() as usize + headers.len();
            let rest = &line[end..];
            let rest = rest.strip_prefix(',').unwrap_or(rest);
            Some(format!("{{{rest}").into_bytes())
        }
    };
    Ok(Line {
        partition: i32::try_from(number("kafka_partition")?)?,
        offset: number("kafka_offset")?,
        timestamp_ms: number("kafka_ts_ms")?,
        key,
        value,
    })
}

fn start_of(line: &str) -> &str {
    let end = line.char_indices().nth(200).map_or(line.len(), |(at, _)| at);
    &line[..end]
}

/// The fields of an object in their order, with their texts as they stand in it.
fn fields(object: &str) -> serde_json::Result<Vec<(Cow<'_, str>, &RawValue)>> {
    struct Fields;

    impl<'de> Visitor<'de> for Fields {
        type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut fields = Vec::new();
            while let Some((name, raw)) = map.next_entry::<String, &RawValue>()? {
                fields.push((Cow::Owned(name), raw));
            }
            Ok(fields)
        }
    }

    serde_json::Deserializer::from_str(object).deserialize_map(Fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = r#"{"kafka_offset":5,"kafka_partition":1,"kafka_ts_ms":9,"op_code":"c","kafka_key":{"id":1},"kafka_headers":null"#;

    #[test]
    fn a_line_gives_back_the_value_byte_for_byte() {
        let line = cut(&format!(r#"{HEAD},"before":null, "after": {{"id":1}}}}"#)).expect("cuts");
        assert_eq!(line.value.as_deref(), Some(&br#"{"before":null, "after": {"id":1}}"#[..]));
        assert_eq!(line.key.as_deref(), Some(&br#"{"id":1}"#[..]));
        assert_eq!((line.partition, line.offset, line.timestamp_ms), (1, 5, 9));
    }

    #[test]
    fn a_tombstone_has_no_value() {
        let line = cut(&format!("{}}}", HEAD.replace("\"c\"", "\"x\""))).expect("cuts");
        assert_eq!(line.value, None);
    }

    #[test]
    fn names_outside_the_layout_are_refused() {
        let good = "data/t/dt=2026-01-02/p00003-00000000000000000042.jsonl.gz";
        assert_eq!(name(good).expect("reads"), (3, 42));
        assert!(name("data/t/dt=2026-01-02/x.jsonl.gz").is_err());
    }
}
