//! An archive of a gigabyte and more, made by the real writer, and the same objects as files for engines that cannot
//! reach our store. usage: make-archive ENDPOINT BUCKET FOLDER MEGABYTES

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tailwater_config::{Keys, S3Config};
use tailwater_sinks_archive::{ArchiveSink, Objects as _, Store};
use tailwater_sinks_worker::{Sink, SourceRecord, TopicPartition, Writer};
use tailwater_topics_contract::{ArchiveSpec, Guarantee, Origin, SegmentSpec, TopicName};

const PARTITIONS: i32 = 3;
const PRODUCTS: f64 = 40_000.0;
const WORDS: [&str; 32] = [
    "amber", "basket", "copper", "delta", "ember", "field", "garnet", "harbour", "indigo",
    "jasper", "kettle", "linen", "marble", "north", "orchard", "pepper", "quartz", "river",
    "saddle", "timber", "umber", "velvet", "walnut", "xenon", "yarrow", "zinc", "anchor", "bridge",
    "candle", "drum", "engine", "flint",
];

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, bucket, folder, megabytes] = arguments.as_slice() else {
        anyhow::bail!("usage: make-archive ENDPOINT BUCKET FOLDER MEGABYTES");
    };
    let goal = megabytes.parse::<u64>().context("megabytes")? << 20;
    let config = S3Config {
        endpoint: endpoint.clone(),
        region: "us-east-1".to_owned(),
        keys: Keys::given("tailwater", "tailwater-secret"),
        path_style: true,
        encryption: None,
    };
    let store = Store::connect(config, bucket);
    store.ensure_bucket().await?;
    let topic: TopicName = "bench.product".parse().context("topic")?;
    let spec = ArchiveSpec {
        bucket: bucket.clone(),
        prefix: String::new(),
        guarantee: Guarantee::ExactlyOnce,
        segment: SegmentSpec { bytes: 32 << 20, records: 500_000, age_ms: 60_000, idle_ms: None },
    };
    let origin = |partition| Origin {
        topic: topic.clone(),
        partition,
        offset: 0,
        dt: "2026-01-01".to_owned(),
    };
    let sink = ArchiveSink::new(store.clone(), spec, (0..PARTITIONS).map(origin).collect());
    let mut writers = Vec::new();
    for partition in 0..PARTITIONS {
        let place = TopicPartition { topic: topic.clone(), partition };
        writers.push((sink.open(&place, None).await?.0, 0_i64));
    }
    let mut random = StdRng::seed_from_u64(7);
    let (mut raw, mut number) = (0_u64, 0_u64);
    while raw < goal {
        let (key, value) = change(&mut random, number);
        let (writer, offset) =
            &mut writers[(number % u64::from(PARTITIONS.unsigned_abs())) as usize];
        raw += (value.len() + key.len() + 230) as u64;
        let record = SourceRecord {
            offset: *offset,
            timestamp_ms: 1_767_225_600_000 + (number / 20) as i64,
            key: Some(key.into()),
            value: Some(value.into()),
            headers: Vec::new(),
        };
        if writer.push(record).is_err() {
            anyhow::bail!("a record was refused");
        }
        *offset += 1;
        if writer.is_full() {
            writer.flush(*offset).await?;
        }
        number += 1;
    }
    for (writer, offset) in &mut writers {
        writer.flush(*offset).await?;
    }
    let mut bytes = 0;
    for listed in store.list("data/").await? {
        let path = Path::new(folder).join(&listed.key);
        std::fs::create_dir_all(path.parent().context("a folder")?)?;
        std::fs::write(path, store.get(&listed.key).await?.context("just written")?)?;
        bytes += listed.bytes;
    }
    println!("{{\"records\":{number},\"raw\":{raw},\"bytes\":{bytes}}}");
    Ok(())
}

/// The key and value of one change, as the reader writes them.
fn change(random: &mut StdRng, number: u64) -> (String, String) {
    // Few products change often, most seldom.
    let id = (PRODUCTS * random.random::<f64>().powi(3)) as u64;
    let mut text = String::new();
    for _ in 0..18 {
        // Two of them make a word, so that texts repeat about as much as real ones.
        let (one, other) =
            (random.random_range(0..WORDS.len()), random.random_range(0..WORDS.len()));
        let _ = write!(text, "{}{} ", WORDS[one], &WORDS[other][1..]);
    }
    let (price, stock) = (random.random_range(100..99_999), random.random_range(0..500));
    let currency = ["EUR", "USD", "GBP"][random.random_range(0..3)];
    let (commit, seq) = (100_000 + number * 64, (1_u64 << 44) + 1 + number);
    let row = format!(
        r#"{{"id":{id},"sku":"SKU-{id:08}","title":"{} {id}","description":"{text}","price":"{}.{:02}","currency":"{currency}","stock":{stock},"active":{},"attributes":{{"color":"{}","weight":{}}},"updated_at":"2026-01-01T00:00:00.{:06}Z"}}"#,
        WORDS[(id % 32) as usize],
        price / 100,
        price % 100,
        stock % 2 == 0,
        WORDS[random.random_range(0..32)],
        random.random_range(1..5_000),
        random.random_range(0..1_000_000)
    );
    let is_delete = random.random_range(0..20) == 0;
    let (before, after, op) = if is_delete {
        (format!("{{\"id\":{id}}}"), "null".to_owned(), 'd')
    } else {
        ("null".to_owned(), row, 'u')
    };
    let ms = 1_767_225_600_000_u64 + number / 20;
    let value = format!(
        r#"{{"before":{before},"after":{after},"source":{{"version":"0.1.0","connector":"tailwater","name":"bench","ts_ms":{ms},"snapshot":"false","db":"shop","schema":"public","table":"product","txId":{},"lsn":{commit},"commit_lsn":{commit},"ordinal":0,"seq":{seq}}},"op":"{op}","ts_ms":{ms}}}"#,
        700 + number
    );
    (format!("{{\"id\":{id}}}"), value)
}
