//! Damage done to an archive, all of it found, and none found where there is none.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};
use tailwater_lake::verify::{self, Report, Scope};
use tailwater_sinks_archive::manifest::{Manifest, Summary};
use tailwater_sinks_archive::segment::{self, SegmentWriter};
use tailwater_sinks_worker::SourceRecord;

use crate::archived::{Archived, Stored};

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

mod live {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_damage_is_found_and_none_where_there_is_none() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let archived = Archived::new("damage").await;
        let mut first = 0;
        for topic in ["a.one", "b.two"] {
            for partition in 0..2 {
                let topic = topic.parse().expect("a name");
                archived.write(&topic, partition, changes(first, 40), 9, 0).await;
                first += 40;
            }
        }
        let clean = look(&archived).await;
        assert_eq!(clean.findings, [], "an undamaged archive");
        assert_eq!((clean.objects, clean.records), (20, 160));
        let kinds = Damage::KINDS;
        for round in 0..75 {
            let kind = kinds[round % kinds.len()];
            let undo = kind(&archived, &mut random).await;
            let report = look(&archived).await;
            assert!(
                !report.findings.is_empty(),
                "seed {seed}, round {round}: {} was not found",
                undo.what
            );
            undo.run(&archived).await;
        }
        let again = look(&archived).await;
        assert_eq!(again.findings, [], "everything was put back");
        let said = archived.ok(&["verify", "--whole"]);
        assert!(said.contains("nothing wrong at level 2"), "{said}");
        let key = archived.keys("data/").await.remove(3);
        archived.remove(&key).await;
        let output = archived.run(&["verify"]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(said.contains("missing"), "{said}");
    }

    async fn look(archived: &Archived) -> Report {
        let scope = Scope { level: 2, whole: true, origins: Vec::new() };
        verify::verify(&archived.archive, &[], &scope, &mut |_| {}).await.expect("looks")
    }
}

/// How a damage is undone: what stood at each key before.
struct Undo {
    what: String,
    before: Vec<(String, Option<Stored>)>,
}

impl Undo {
    async fn run(self, archived: &Archived) {
        for (key, before) in self.before {
            match before {
                Some(object) => archived.put(&key, &object).await,
                None => archived.remove(&key).await,
            }
        }
    }
}

type Done<'a> = std::pin::Pin<Box<dyn Future<Output = Undo> + Send + 'a>>;
type Kind = for<'a> fn(&'a Archived, &'a mut StdRng) -> Done<'a>;

struct Damage;

macro_rules! kind {
    ($does:ident) => {
        |archived, random| Box::pin($does(archived, random))
    };
}

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
}

async fn any(archived: &Archived, under: &str, random: &mut StdRng) -> String {
    let keys = archived.keys(under).await;
    keys[random.random_range(0..keys.len())].clone()
}

async fn replaced(archived: &Archived, what: &str, key: String, object: Stored) -> Undo {
    let before = archived.object(&key).await;
    assert_ne!(before, object, "{what}: nothing was changed");
    archived.put(&key, &object).await;
    Undo { what: format!("{what} of {key}"), before: vec![(key, Some(before))] }
}

async fn drop_object(archived: &Archived, random: &mut StdRng) -> Undo {
    let key = any(archived, "data/", random).await;
    let before = vec![(key.clone(), Some(archived.object(&key).await))];
    archived.remove(&key).await;
    Undo { what: format!("the loss of {key}"), before }
}

/// Of one that is not the last of its chain: the last may be without.
async fn drop_manifest(archived: &Archived, random: &mut StdRng) -> Undo {
    let keys = archived.keys("meta/").await;
    let keys: Vec<String> = keys
        .into_iter()
        .filter(|key| key.contains("/manifest/") && !key.contains("0036-"))
        .collect();
    let key = keys[random.random_range(0..keys.len())].clone();
    let before = vec![(key.clone(), Some(archived.object(&key).await))];
    archived.remove(&key).await;
    Undo { what: format!("the loss of {key}"), before }
}

/// An object with everything that speaks of it, at the end of a chain as well. Only the very last numbers of all can be lost without a trace.
async fn drop_all_of_one(archived: &Archived, random: &mut StdRng) -> Undo {
    let mut keys = archived.keys("data/").await;
    keys.retain(|key| !key.contains("b.two/dt=2026-01-01/p00001-00000000000000000036"));
    let key = keys[random.random_range(0..keys.len())].clone();
    let (partition, place) = tailwater_sinks_archive::layout::parse(&key).expect("ours");
    let topic = key.split('/').nth(2).expect("a topic").to_owned();
    let beside = format!("p{partition:05}/{:020}-{}", place.start, place.dt);
    let mut before = Vec::new();
    for key in [
        key.clone(),
        format!("tw/meta/{topic}/manifest/{beside}.json"),
        format!("tw/meta/{topic}/keys/{beside}.filter"),
    ] {
        before.push((key.clone(), Some(archived.object(&key).await)));
        archived.remove(&key).await;
    }
    Undo { what: format!("the loss of {key} and its manifest"), before }
}

async fn duplicate(archived: &Archived, random: &mut StdRng) -> Undo {
    let key = any(archived, "data/", random).await;
    let object = archived.object(&key).await;
    let (_, place) = tailwater_sinks_archive::layout::parse(&key).expect("ours");
    let start = format!("{:020}", place.start);
    let copy = match random.random_range(0..3) {
        0 => key.replace(&start, &format!("{:020}", place.start + 1)),
        1 => key.replace("dt=2026-01-01", "dt=2026-01-02"),
        _ => key.replace("p0000", "p0001"),
    };
    archived.put(&copy, &object).await;
    Undo { what: format!("a copy of {key} at {copy}"), before: vec![(copy, None)] }
}

async fn two(archived: &Archived, random: &mut StdRng) -> (String, String) {
    let one = any(archived, "data/", random).await;
    loop {
        let other = any(archived, "data/", random).await;
        if other != one {
            return (one, other);
        }
    }
}

async fn swap_bodies(archived: &Archived, random: &mut StdRng) -> Undo {
    let (one, other) = two(archived, random).await;
    let (a, b) = (archived.object(&one).await, archived.object(&other).await);
    archived.put(&one, &Stored { body: b.body.clone(), ..a.clone() }).await;
    archived.put(&other, &Stored { body: a.body.clone(), ..b.clone() }).await;
    Undo {
        what: format!("{one} and {other} swapped"),
        before: vec![(one, Some(a)), (other, Some(b))],
    }
}

async fn swap_metadata(archived: &Archived, random: &mut StdRng) -> Undo {
    let (one, other) = two(archived, random).await;
    let (a, b) = (archived.object(&one).await, archived.object(&other).await);
    archived.put(&one, &b).await;
    archived.put(&other, &a).await;
    Undo {
        what: format!("{one} and {other} swapped whole"),
        before: vec![(one, Some(a)), (other, Some(b))],
    }
}

async fn flip_bit(archived: &Archived, random: &mut StdRng) -> Undo {
    let key = any(archived, "data/", random).await;
    let mut object = archived.object(&key).await;
    let at = random.random_range(0..object.body.len());
    object.body[at] ^= 1 << random.random_range(0..8);
    replaced(archived, &format!("a flipped bit at byte {at}"), key, object).await
}

async fn flip_in_manifest(archived: &Archived, random: &mut StdRng) -> Undo {
    let keys = archived.keys("meta/").await;
    let keys: Vec<String> = keys.into_iter().filter(|key| key.contains("/manifest/")).collect();
    let key = keys[random.random_range(0..keys.len())].clone();
    let mut object = archived.object(&key).await;
    let at = random.random_range(0..object.body.len());
    object.body[at] ^= 1 << random.random_range(0..7);
    replaced(archived, &format!("a flipped bit at byte {at}"), key, object).await
}

async fn flip_in_filter(archived: &Archived, random: &mut StdRng) -> Undo {
    let keys = archived.keys("meta/").await;
    let keys: Vec<String> = keys.into_iter().filter(|key| key.contains("/keys/")).collect();
    let key = keys[random.random_range(0..keys.len())].clone();
    let mut object = archived.object(&key).await;
    let at = random.random_range(0..object.body.len());
    object.body[at] ^= 1 << random.random_range(0..8);
    replaced(archived, &format!("a flipped bit at byte {at}"), key, object).await
}

async fn truncate(archived: &Archived, random: &mut StdRng) -> Undo {
    let key = any(archived, ["data/", "meta/"][random.random_range(0..2)], random).await;
    let mut object = archived.object(&key).await;
    object.body.truncate(random.random_range(0..object.body.len()));
    replaced(archived, "a lost end", key, object).await
}

async fn append(archived: &Archived, random: &mut StdRng) -> Undo {
    let key = any(archived, "data/", random).await;
    let mut object = archived.object(&key).await;
    let more = if random.random() { vec![0] } else { object.body.clone() };
    object.body.extend(more);
    replaced(archived, "bytes at the end", key, object).await
}

async fn extra_object(archived: &Archived, random: &mut StdRng) -> Undo {
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
    let object = Stored { body: b"{}".to_vec(), metadata: std::collections::HashMap::new() };
    archived.put(&key, &object).await;
    Undo { what: format!("a stranger at {key}"), before: vec![(key, None)] }
}

/// Somebody who knows the format and puts everything right that hangs on the lines: hashes, index, metadata, manifest.
async fn forged(
    archived: &Archived,
    what: &str,
    key: String,
    forge: impl FnOnce(&mut Vec<Vec<u8>>),
) -> Undo {
    let object = archived.object(&key).await;
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
    let link = tailwater_sinks_archive::chain::Link::from_metadata(&metadata).expect("a link");
    let (partition, place) = tailwater_sinks_archive::layout::parse(&key).expect("ours");
    let topic = key.split('/').nth(2).expect("a topic").parse().expect("a name");
    let layout = tailwater_sinks_archive::layout::Layout::new("tw/", topic, partition);
    let bytes = made.bytes.len() as u64;
    let manifest = Manifest::new(&layout, place, &link, bytes, &chunks, &summary);
    let forged = Stored { body: made.bytes.to_vec(), metadata };
    assert_ne!(object, forged);
    let plain = |body: Vec<u8>| Stored { body, metadata: std::collections::HashMap::new() };
    let mut before = Vec::new();
    for (key, object) in [
        (key.clone(), forged),
        (layout.manifest(place), plain(serde_json::to_vec(&manifest).expect("JSON"))),
        (layout.filter(place), plain(summary.keys.encode().to_vec())),
    ] {
        before.push((key.clone(), Some(archived.object(&key).await)));
        archived.put(&key, &object).await;
    }
    Undo { what: format!("{what} in {key}, with everything put right"), before }
}

async fn with_lines(archived: &Archived, random: &mut StdRng) -> String {
    loop {
        let key = any(archived, "data/", random).await;
        let (_, place) = tailwater_sinks_archive::layout::parse(&key).expect("ours");
        // The last of each chain has four records, the others nine.
        if place.start < 36 {
            return key;
        }
    }
}

async fn reorder_lines(archived: &Archived, random: &mut StdRng) -> Undo {
    let key = with_lines(archived, random).await;
    let (one, other) = (random.random_range(0..4), random.random_range(4..9));
    forged(archived, "lines in another order", key, |lines| lines.swap(one, other)).await
}

async fn drop_line(archived: &Archived, random: &mut StdRng) -> Undo {
    let key = with_lines(archived, random).await;
    let at = random.random_range(0..9);
    forged(archived, "a lost line", key, |lines| {
        lines.remove(at);
    })
    .await
}

async fn change_line(archived: &Archived, random: &mut StdRng) -> Undo {
    let key = with_lines(archived, random).await;
    let at = random.random_range(0..9);
    let how = random.random_range(0..3);
    forged(archived, "a changed line", key, |lines| {
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
