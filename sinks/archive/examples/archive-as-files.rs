//! An archive as files, made by the real writer, for `make check-readers`. usage: archive-as-files FOLDER RECORDS
//!
//! Three partitions, several chunks an object, and among the changes what topics really hold: tombstones, events, keys
//! and values that are no JSON or no text, numbers beyond 2^53, a value of two megabytes, records of another day. Prints
//! as JSON what a reader must find.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tailwater_sinks_archive::chain::Link;
use tailwater_sinks_archive::{ArchiveSink, Listed, Objects, Put, StoreError, segment};
use tailwater_sinks_worker::{Sink, SourceRecord, TopicPartition, Writer};
use tailwater_topics_contract::{ArchiveSpec, Guarantee, Origin, SegmentSpec, TopicName};

const PARTITIONS: i32 = 3;
/// 2026-01-01.
const FIRST_MS: i64 = 1_767_225_600_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| "archive".to_owned());
    let records: i64 = arguments.next().map_or(Ok(60_000), |text| text.parse())?;
    let files = Files { folder: folder.into(), links: Arc::default() };
    for partition in 0..PARTITIONS {
        write(&files, partition, records / i64::from(PARTITIONS)).await?;
    }
    println!("{}", files.expected()?);
    Ok(())
}

async fn write(files: &Files, partition: i32, records: i64) -> anyhow::Result<()> {
    let topic: TopicName = "shop.stock".parse()?;
    let origin = Origin { topic: topic.clone(), partition, offset: 0, dt: "2026-01-01".to_owned() };
    let spec = ArchiveSpec {
        bucket: String::new(),
        prefix: String::new(),
        guarantee: Guarantee::ExactlyOnce,
        segment: SegmentSpec { bytes: 1 << 20, records: 500_000, age_ms: 60_000, idle_ms: None },
    };
    let sink = ArchiveSink::new(files.clone(), spec, vec![origin]);
    let (mut writer, _) = sink.open(&TopicPartition { topic, partition }, None).await?;
    for offset in 0..records {
        writer.push(record(partition, offset, records)).map_err(|_| anyhow::anyhow!("rejected"))?;
        if writer.is_full() || offset + 1 == records {
            writer.flush(offset + 1).await?;
        }
    }
    Ok(())
}

fn record(partition: i32, offset: i64, records: i64) -> SourceRecord {
    let seq = (1_u64 << 44) + u64::from(offset.unsigned_abs() as u32) * 3 + partition as u64;
    let change = format!(
        r#"{{"before":null,"after":{{"id":{offset},"big":9007199254740993,"price":"{offset}.50","note":"Zeile\nzwei \u0000 漢字 \"x\"","pad":"{}"}},"source":{{"version":"0.1.0","connector":"tailwater","name":"shop","ts_ms":{FIRST_MS},"snapshot":"false","db":"d","schema":"shop","table":"stock","txId":{offset},"lsn":{seq},"commit_lsn":{seq},"ordinal":0,"seq":{seq}}},"op":"c","ts_ms":{FIRST_MS}}}"#,
        format!("{:x}", seq.wrapping_mul(0x9E37_79B9_7F4A_7C15)).repeat(8)
    );
    let (key, value): (Option<Bytes>, Option<Bytes>) = match offset % 50 {
        7 => (Some(format!("{{\"id\":{offset}}}").into()), None),
        11 => (None, Some(r#"{"event":"paid","amount":1e300}"#.into())),
        13 => (Some(vec![0xFF, 0x00, 0x0A].into()), Some(vec![0xFE, 0x0A, 0x1F, 0x8B].into())),
        17 => (Some("text key".into()), Some("[1,2]\n".into())),
        _ if offset == 100 => {
            (Some("large".into()), Some(format!("{{\"x\":\"{}\"}}", "ab".repeat(1 << 20)).into()))
        }
        _ => (Some(format!("{{\"id\":{offset}}}").into()), Some(change.into())),
    };
    let day = i64::from(offset > records / 2) * 86_400_000;
    SourceRecord { offset, timestamp_ms: FIRST_MS + day + offset, key, value, headers: vec![] }
}

/// Objects as files; links stay in memory.
#[derive(Clone)]
struct Files {
    folder: PathBuf,
    links: Arc<Mutex<BTreeMap<String, Link>>>,
}

impl Files {
    /// Every line in the order of names, as a reader of the whole finds them.
    fn expected(&self) -> anyhow::Result<serde_json::Value> {
        let links = self.links.lock().expect("nobody panicked");
        let (mut lines, mut bytes, mut offsets, mut sha256) = (0, 0, 0, Sha256::new());
        for key in links.keys() {
            let raw = segment::read_all(&std::fs::read(self.folder.join(key))?)?;
            for line in raw.split_inclusive(|byte| *byte == b'\n') {
                let (_, record) = tailwater_sinks_archive::line::read(&line[..line.len() - 1])?;
                lines += 1;
                offsets += record.offset;
            }
            bytes += raw.len();
            sha256.update(&raw);
        }
        let sha256: String = sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let files = links.len();
        Ok(
            serde_json::json!({"files": files, "lines": lines, "bytes": bytes, "offsets": offsets, "sha256": sha256}),
        )
    }
}

impl Objects for Files {
    async fn create(
        &self,
        key: &str,
        body: Bytes,
        metadata: HashMap<String, String>,
        _content_type: &str,
    ) -> Result<Put, StoreError> {
        if let Ok(link) = Link::from_metadata(&metadata) {
            self.links.lock().expect("nobody panicked").insert(key.to_owned(), link);
            let path = self.folder.join(key);
            std::fs::create_dir_all(path.parent().expect("has one")).expect("a folder");
            std::fs::write(path, body).expect("a file");
        }
        Ok(Put::Created)
    }

    async fn link(&self, key: &str) -> Result<Option<Link>, StoreError> {
        Ok(self.links.lock().expect("nobody panicked").get(key).cloned())
    }

    async fn get(&self, _key: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(None)
    }

    async fn list(&self, _prefix: &str) -> Result<Vec<Listed>, StoreError> {
        Ok(Vec::new())
    }
}
