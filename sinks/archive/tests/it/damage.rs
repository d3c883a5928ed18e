//! Damage done to an archive: all of it found, and none where there is none; what follows from objects is made again.

use std::collections::HashMap;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};
use tailwater_sinks_archive::chain::Link;
use tailwater_sinks_archive::layout::{self, Layout};
use tailwater_sinks_archive::manifest::{Manifest, Summary};
use tailwater_sinks_archive::repair::{self, Repaired};
use tailwater_sinks_archive::segment::{self, SegmentWriter};
use tailwater_sinks_archive::verify::{Report, Scope, verify};
use tailwater_sinks_archive::{Listed, Objects, Put, StoreError};
use tailwater_sinks_worker::SourceRecord;
use tailwater_topics_contract::Guarantee;

use crate::bucket::{Bucket, PREFIX, Stored};
use crate::{seed, server};

macro_rules! kind {
    ($does:ident) => {
        |bucket, random| Box::pin($does(bucket, random))
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_damage_is_found_and_none_where_there_is_none() {
    let mut random = StdRng::seed_from_u64(seed::new());
    let bucket = four_chains(&server::all()[0].1).await;
    let clean = look(&bucket).await;
    assert_eq!(clean.findings, [], "an undamaged archive");
    assert_eq!((clean.objects, clean.records), (20, 160));
    for round in 0..75 {
        let kind = Damage::KINDS[round % Damage::KINDS.len()];
        let undo = kind(&bucket, &mut random).await;
        let report = look(&bucket).await;
        assert!(!report.findings.is_empty(), "round {round}: {} was not found", undo.what);
        undo.run(&bucket).await;
    }
    assert_eq!(look(&bucket).await.findings, [], "everything was put back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_beside_objects_is_made_again_byte_for_byte() {
    let mut random = StdRng::seed_from_u64(seed::new());
    for (name, endpoint) in server::all() {
        let bucket = four_chains(&endpoint).await;
        for round in 0..20 {
            let kind = Damage::BESIDE[round % Damage::BESIDE.len()];
            let undo = kind(&bucket, &mut random).await;
            let dry = mend(&bucket, repair::Scope { content: true, dry_run: true }).await;
            let repaired = mend(&bucket, repair::Scope { content: true, dry_run: false }).await;
            let what = format!("{name}, round {round}: {}", undo.what);
            assert_eq!(repaired, dry, "{what}: a dry run says what would be done");
            assert_eq!(repaired.made.len() + repaired.replaced.len(), 1, "{what}: {repaired:?}");
            assert_eq!(repaired.beyond, [], "{what}");
            for (key, before) in undo.before {
                assert_eq!(Some(bucket.object(&key).await.body), before.map(|b| b.body), "{what}");
            }
            assert_eq!(look(&bucket).await.findings, [], "{what}");
        }
    }
}

/// Its writer may have died before it wrote it, and nobody who came later made up for it, as in a chain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_manifest_of_an_archive_at_least_once_is_no_damage_and_is_made_again() {
    let bucket = Bucket::create(&server::all()[0].1).await;
    let guarantee = Guarantee::AtLeastOnce;
    bucket.write_under(guarantee, "orders.events", 0, changes(0, 15), 5).await;
    let whole = bucket.everything().await;
    let first = bucket.keys("meta/orders.events/manifest/").await.swap_remove(0);
    bucket.remove(&first).await;
    let report = look(&bucket).await;
    assert_eq!(report.findings, []);
    let is_said = |note: &String| note.contains("has no manifest; `tailwater archive repair`");
    assert!(report.notes.iter().any(is_said), "{:?}", report.notes);
    let repaired = mend(&bucket, repair::Scope::default()).await;
    assert_eq!((repaired.made, repaired.beyond), (vec![first], vec![]));
    assert_eq!(bucket.everything().await, whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_object_is_beyond_repair_and_nothing_is_written_for_it() {
    let mut random = StdRng::seed_from_u64(seed::new());
    let bucket = four_chains(&server::all()[0].1).await;
    for kind in Damage::OF_OBJECTS {
        let undo = kind(&bucket, &mut random).await;
        let before = bucket.everything().await;
        let repaired = mend(&bucket, repair::Scope { content: true, dry_run: false }).await;
        assert!(!repaired.beyond.is_empty(), "{}: {repaired:?}", undo.what);
        assert_eq!((repaired.made, repaired.replaced), (vec![], vec![]), "{}", undo.what);
        assert_eq!(bucket.everything().await, before, "{}", undo.what);
        undo.run(&bucket).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_content_only_suspicious_objects_are_read() {
    let mut random = StdRng::seed_from_u64(seed::new());
    let bucket = four_chains(&server::all()[0].1).await;
    let quick = repair::Scope::default();
    let repaired = mend(&bucket, quick).await;
    assert_eq!((repaired.objects, repaired.read), (20, 0));
    for kind in [kind!(drop_manifest), kind!(drop_filter), kind!(change_manifest)] as [Kind; 3] {
        let undo = kind(&bucket, &mut random).await;
        let repaired = mend(&bucket, quick).await;
        assert_eq!((repaired.read, &*repaired.beyond), (1, &[][..]), "{}", undo.what);
        assert_eq!(look(&bucket).await.findings, [], "{}", undo.what);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_writer_adds_while_an_archive_is_looked_over_is_no_damage() {
    let bucket = four_chains(&server::all()[0].1).await;
    for (level, objects) in [(1, 22), (2, 24)] {
        let scope = Scope { level, whole: false, origins: Vec::new() };
        let busy = Busy(bucket.clone());
        let report = verify(&busy, PREFIX, &[], &scope, &mut |_| {}).await.expect("looks");
        assert_eq!(report.findings, [], "level {level}");
        assert_eq!(bucket.keys("data/").await.len(), objects, "it did add something");
    }
}

/// A bucket where somebody adds two objects between the listing of objects and that of what stands beside them.
#[derive(Clone)]
struct Busy(Bucket);

impl Objects for Busy {
    async fn create(
        &self,
        key: &str,
        body: Bytes,
        metadata: HashMap<String, String>,
        content_type: &str,
    ) -> Result<Put, StoreError> {
        self.0.store.create(key, body, metadata, content_type).await
    }

    async fn link(&self, key: &str) -> Result<Option<Link>, StoreError> {
        self.0.store.link(key).await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        self.0.store.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        if prefix == "tw/meta/a.one/" {
            let objects = self.0.keys("data/a.one/").await;
            let mine = objects.iter().filter_map(|key| layout::parse(key));
            let last = mine.filter(|(partition, _)| *partition == 0).map(|(_, place)| place.start);
            let first = last.max().expect("a chain") + 4;
            let mut records = changes(1_000 + first.unsigned_abs(), 8);
            records.iter_mut().for_each(|record| record.offset += first);
            self.0.write("a.one", 0, records, 4).await;
        }
        self.0.store.list(prefix).await
    }
}

/// Two topics of two partitions, five objects each; the last of each chain has four records, the others nine.
async fn four_chains(endpoint: &str) -> Bucket {
    let bucket = Bucket::create(endpoint).await;
    let mut first = 0;
    for topic in ["a.one", "b.two"] {
        for partition in 0..2 {
            bucket.write(topic, partition, changes(first, 40), 9).await;
            first += 40;
        }
    }
    bucket
}

async fn look(bucket: &Bucket) -> Report {
    let scope = Scope { level: 2, whole: true, origins: Vec::new() };
    verify(&bucket.store, PREFIX, &[], &scope, &mut |_| {}).await.expect("looks")
}

async fn mend(bucket: &Bucket, scope: repair::Scope) -> Repaired {
    repair::repair(&bucket.store, PREFIX, &[], scope, &mut |_| {}).await.expect("mends")
}

/// Changes of a table, numbered without a hole from `first` on, as the reader writes them.
fn changes(first: u64, count: i64) -> Vec<SourceRecord> {
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

/// How a damage is undone: what stood at each key before.
struct Undo {
    what: String,
    before: Vec<(String, Option<Stored>)>,
}

impl Undo {
    async fn run(self, bucket: &Bucket) {
        for (key, before) in self.before {
            match before {
                Some(object) => bucket.put(&key, &object).await,
                None => bucket.remove(&key).await,
            }
        }
    }
}

type Done<'a> = std::pin::Pin<Box<dyn Future<Output = Undo> + Send + 'a>>;
type Kind = for<'a> fn(&'a Bucket, &'a mut StdRng) -> Done<'a>;

struct Damage;

impl Damage {
    const KINDS: [Kind; 15] = [
        kind!(drop_object),
        kind!(drop_manifest),
        kind!(drop_all_of_one),
        kind!(duplicate),
        kind!(swap_bodies),
        kind!(swap_metadata),
        kind!(flip_bit),
        kind!(flip_in_manifest),
        kind!(flip_in_filter),
        kind!(truncate),
        kind!(append),
        kind!(extra_object),
        kind!(reorder_lines),
        kind!(drop_line),
        kind!(change_line),
    ];

    /// Of what follows from an object that is whole.
    const BESIDE: [Kind; 5] = [
        kind!(drop_manifest),
        kind!(flip_in_manifest),
        kind!(drop_filter),
        kind!(flip_in_filter),
        kind!(change_manifest),
    ];

    /// Of objects, so that what stands beside them cannot be believed either.
    const OF_OBJECTS: [Kind; 6] = [
        kind!(drop_object),
        kind!(swap_bodies),
        kind!(flip_bit),
        kind!(truncate_object),
        kind!(append),
        kind!(extra_object),
    ];
}

async fn any(bucket: &Bucket, under: &str, random: &mut StdRng) -> String {
    let keys = bucket.keys(under).await;
    keys[random.random_range(0..keys.len())].clone()
}

async fn replaced(bucket: &Bucket, what: &str, key: String, object: Stored) -> Undo {
    let before = bucket.object(&key).await;
    assert_ne!(before, object, "{what}: nothing was changed");
    bucket.put(&key, &object).await;
    Undo { what: format!("{what} of {key}"), before: vec![(key, Some(before))] }
}

async fn drop_object(bucket: &Bucket, random: &mut StdRng) -> Undo {
    let key = any(bucket, "data/", random).await;
    let before = vec![(key.clone(), Some(bucket.object(&key).await))];
    bucket.remove(&key).await;
    Undo { what: format!("the loss of {key}"), before }
}

/// Of one that is not the last of its chain: the last may be without.
async fn drop_manifest(bucket: &Bucket, random: &mut StdRng) -> Undo {
    let keys = bucket.keys("meta/").await;
    let keys: Vec<String> = keys
        .into_iter()
        .filter(|key| key.contains("/manifest/") && !key.contains("0036-"))
        .collect();
    let key = keys[random.random_range(0..keys.len())].clone();
    let before = vec![(key.clone(), Some(bucket.object(&key).await))];
    bucket.remove(&key).await;
    Undo { what: format!("the loss of {key}"), before }
}

/// An object with everything that speaks of it, at the end of a chain as well. Only the very last numbers of all can be lost without a trace.
async fn drop_all_of_one(bucket: &Bucket, random: &mut StdRng) -> Undo {
    let mut keys = bucket.keys("data/").await;
    keys.retain(|key| !key.contains("b.two/dt=2026-01-01/p00001-00000000000000000036"));
    let key = keys[random.random_range(0..keys.len())].clone();
    let (partition, place) = layout::parse(&key).expect("ours");
    let topic = key.split('/').nth(2).expect("a topic").to_owned();
    let beside = format!("p{partition:05}/{:020}-{}", place.start, place.dt);
    let mut before = Vec::new();
    for key in [
        key.clone(),
        format!("tw/meta/{topic}/manifest/{beside}.json"),
        format!("tw/meta/{topic}/keys/{beside}.filter"),
    ] {
        before.push((key.clone(), Some(bucket.object(&key).await)));
        bucket.remove(&key).await;
    }
    Undo { what: format!("the loss of {key} and its manifest"), before }
}

async fn duplicate(bucket: &Bucket, random: &mut StdRng) -> Undo {
    let key = any(bucket, "data/", random).await;
    let object = bucket.object(&key).await;
    let (_, place) = layout::parse(&key).expect("ours");
    let start = format!("{:020}", place.start);
    let copy = match random.random_range(0..3) {
        0 => key.replace(&start, &format!("{:020}", place.start + 1)),
        1 => key.replace("dt=2026-01-01", "dt=2026-01-02"),
        _ => key.replace("p0000", "p0001"),
    };
    bucket.put(&copy, &object).await;
    Undo { what: format!("a copy of {key} at {copy}"), before: vec![(copy, None)] }
}

async fn two(bucket: &Bucket, random: &mut StdRng) -> (String, String) {
    let one = any(bucket, "data/", random).await;
    loop {
        let other = any(bucket, "data/", random).await;
        if other != one {
            return (one, other);
        }
    }
}

async fn swap_bodies(bucket: &Bucket, random: &mut StdRng) -> Undo {
    let (one, other) = two(bucket, random).await;
    let (a, b) = (bucket.object(&one).await, bucket.object(&other).await);
    bucket.put(&one, &Stored { body: b.body.clone(), ..a.clone() }).await;
    bucket.put(&other, &Stored { body: a.body.clone(), ..b.clone() }).await;
    Undo {
        what: format!("{one} and {other} swapped"),
        before: vec![(one, Some(a)), (other, Some(b))],
    }
}

async fn swap_metadata(bucket: &Bucket, random: &mut StdRng) -> Undo {
    let (one, other) = two(bucket, random).await;
    let (a, b) = (bucket.object(&one).await, bucket.object(&other).await);
    bucket.put(&one, &b).await;
    bucket.put(&other, &a).await;
    Undo {
        what: format!("{one} and {other} swapped whole"),
        before: vec![(one, Some(a)), (other, Some(b))],
    }
}

async fn flip_bit(bucket: &Bucket, random: &mut StdRng) -> Undo {
    let key = any(bucket, "data/", random).await;
    let mut object = bucket.object(&key).await;
    let at = random.random_range(0..object.body.len());
    object.body[at] ^= 1 << random.random_range(0..8);
    replaced(bucket, &format!("a flipped bit at byte {at}"), key, object).await
}

async fn flip_in_manifest(bucket: &Bucket, random: &mut StdRng) -> Undo {
    let keys = bucket.keys("meta/").await;
    let keys: Vec<String> = keys.into_iter().filter(|key| key.contains("/manifest/")).collect();
    let key = keys[random.random_range(0..keys.len())].clone();
    let mut object = bucket.object(&key).await;
    let at = random.random_range(0..object.body.len());
    object.body[at] ^= 1 << random.random_range(0..7);
    replaced(bucket, &format!("a flipped bit at byte {at}"), key, object).await
}

async fn flip_in_filter(bucket: &Bucket, random: &mut StdRng) -> Undo {
    let keys = bucket.keys("meta/").await;
    let keys: Vec<String> = keys.into_iter().filter(|key| key.contains("/keys/")).collect();
    let key = keys[random.random_range(0..keys.len())].clone();
    let mut object = bucket.object(&key).await;
    let at = random.random_range(0..object.body.len());
    object.body[at] ^= 1 << random.random_range(0..8);
    replaced(bucket, &format!("a flipped bit at byte {at}"), key, object).await
}

async fn drop_filter(bucket: &Bucket, random: &mut StdRng) -> Undo {
    let keys = bucket.keys("meta/").await;
    let keys: Vec<String> = keys.into_iter().filter(|key| key.contains("/keys/")).collect();
    let key = keys[random.random_range(0..keys.len())].clone();
    let before = vec![(key.clone(), Some(bucket.object(&key).await))];
    bucket.remove(&key).await;
    Undo { what: format!("the loss of {key}"), before }
}

/// A manifest that reads well and is of another writer.
async fn change_manifest(bucket: &Bucket, random: &mut StdRng) -> Undo {
    let keys = bucket.keys("meta/").await;
    let keys: Vec<String> = keys.into_iter().filter(|key| key.contains("/manifest/")).collect();
    let key = keys[random.random_range(0..keys.len())].clone();
    let mut object = bucket.object(&key).await;
    let mut manifest: Manifest = serde_json::from_slice(&object.body).expect("ours");
    manifest.writer.push('x');
    object.body = serde_json::to_vec(&manifest).expect("JSON");
    replaced(bucket, "another writer", key, object).await
}

async fn truncate_object(bucket: &Bucket, random: &mut StdRng) -> Undo {
    let key = any(bucket, "data/", random).await;
    let mut object = bucket.object(&key).await;
    object.body.truncate(random.random_range(0..object.body.len()));
    replaced(bucket, "a lost end", key, object).await
}

async fn truncate(bucket: &Bucket, random: &mut StdRng) -> Undo {
    let key = any(bucket, ["data/", "meta/"][random.random_range(0..2)], random).await;
    let mut object = bucket.object(&key).await;
    object.body.truncate(random.random_range(0..object.body.len()));
    replaced(bucket, "a lost end", key, object).await
}

async fn append(bucket: &Bucket, random: &mut StdRng) -> Undo {
    let key = any(bucket, "data/", random).await;
    let mut object = bucket.object(&key).await;
    let more = if random.random() { vec![0] } else { object.body.clone() };
    object.body.extend(more);
    replaced(bucket, "bytes at the end", key, object).await
}

async fn extra_object(bucket: &Bucket, random: &mut StdRng) -> Undo {
    let key = [
        "tw/data/a.one/_SUCCESS",
        "tw/data/a.one/dt=2026-01-01/p00000-00000000000000000099.jsonl.gz",
        "tw/data/a.one/dt=2026-01-01/p00000-7.jsonl.gz",
        "tw/data/stray",
        "tw/meta/b.two/manifest/p00000/00000000000000000077-2026-01-01.json",
        "tw/meta/b.two/notes.txt",
        "tw/data/c.three/dt=2026-01-01/p00000-00000000000000000000.jsonl.gz",
    ];
    let key = key[random.random_range(0..key.len())].to_owned();
    let object = Stored { body: b"{}".to_vec(), metadata: HashMap::new() };
    bucket.put(&key, &object).await;
    Undo { what: format!("a stranger at {key}"), before: vec![(key, None)] }
}

/// Somebody who knows the format and puts everything right that hangs on the lines: hashes, index, metadata, manifest.
async fn forged(
    bucket: &Bucket,
    what: &str,
    key: String,
    forge: impl FnOnce(&mut Vec<Vec<u8>>),
) -> Undo {
    let object = bucket.object(&key).await;
    let raw = segment::read_all(&object.body).expect("whole");
    let mut lines: Vec<Vec<u8>> =
        raw.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    forge(&mut lines);
    let mut writer = SegmentWriter::default();
    lines.iter().for_each(|line| writer.line(line));
    let made = writer.finish();
    let mut metadata = object.metadata.clone();
    let sha256: String = Sha256::digest(&made.bytes).iter().map(|b| format!("{b:02x}")).collect();
    metadata.insert("sha256".to_owned(), sha256);
    metadata.insert("raw-bytes".to_owned(), made.raw_bytes.to_string());
    let (summary, chunks) = Summary::of_object(&made.bytes).expect("reads");
    metadata.insert("records".to_owned(), summary.extent.records.to_string());
    let (low, high) = summary.extent.tw_seq.expect("numbered");
    metadata.insert("tw-seq".to_owned(), format!("{low}..{high}"));
    let (low, high) = summary.extent.commit_lsn.expect("placed");
    metadata.insert("commit-lsn".to_owned(), format!("{low}..{high}"));
    let (low, high) = summary.extent.offset.expect("placed");
    metadata.insert("offset".to_owned(), format!("{low}..{high}"));
    let (low, high) = summary.extent.kafka_ts_ms.expect("timed");
    metadata.insert("kafka-ts-ms".to_owned(), format!("{low}..{high}"));
    let link = Link::from_metadata(&metadata).expect("a link");
    let (partition, place) = layout::parse(&key).expect("ours");
    let topic = key.split('/').nth(2).expect("a topic").parse().expect("a name");
    let layout = Layout::new("tw/", topic, partition);
    let bytes = made.bytes.len() as u64;
    let manifest = Manifest::new(&layout, place, &link, bytes, &chunks, &summary);
    let forged = Stored { body: made.bytes.to_vec(), metadata };
    assert_ne!(object, forged);
    let plain = |body: Vec<u8>| Stored { body, metadata: HashMap::new() };
    let mut before = Vec::new();
    for (key, object) in [
        (key.clone(), forged),
        (layout.manifest(place), plain(serde_json::to_vec(&manifest).expect("JSON"))),
        (layout.filter(place), plain(summary.keys.encode().to_vec())),
    ] {
        before.push((key.clone(), Some(bucket.object(&key).await)));
        bucket.put(&key, &object).await;
    }
    Undo { what: format!("{what} in {key}, with everything put right"), before }
}

async fn with_lines(bucket: &Bucket, random: &mut StdRng) -> String {
    loop {
        let key = any(bucket, "data/", random).await;
        let (_, place) = layout::parse(&key).expect("ours");
        // The last of each chain has four records, the others nine.
        if place.start < 36 {
            return key;
        }
    }
}

async fn reorder_lines(bucket: &Bucket, random: &mut StdRng) -> Undo {
    let key = with_lines(bucket, random).await;
    let (one, other) = (random.random_range(0..4), random.random_range(4..9));
    forged(bucket, "lines in another order", key, |lines| lines.swap(one, other)).await
}

async fn drop_line(bucket: &Bucket, random: &mut StdRng) -> Undo {
    let key = with_lines(bucket, random).await;
    let at = random.random_range(0..9);
    forged(bucket, "a lost line", key, |lines| {
        lines.remove(at);
    })
    .await
}

async fn change_line(bucket: &Bucket, random: &mut StdRng) -> Undo {
    let key = with_lines(bucket, random).await;
    let at = random.random_range(0..9);
    let how = random.random_range(0..3);
    forged(bucket, "a changed line", key, |lines| {
        let line = String::from_utf8(lines[at].clone()).expect("text");
        lines[at] = match how {
            // A head that no longer says what the value says.
            0 => line.replacen("\"commit_lsn\":", "\"commit_lsn\":9", 1),
            1 => line.replacen("\"op_code\":\"c\"", "\"op_code\":\"u\"", 1),
            _ => line.replacen("\"kafka_partition\":", "\"kafka_partition\":7", 1),
        }
        .into_bytes();
    })
    .await
}
