//! Bytes that no server, broker or person should send, thrown at everything that reads bytes: nothing may panic, and
//! what is written in spite of them is JSON.
//!
//! Inputs are made from valid ones: bits are turned, lengths lie, pieces are cut out, repeated and exchanged. `make test`
//! tries some thousands, `make fuzz` as many as fit into `TAILWATER_FUZZ_S` seconds; `TAILWATER_TEST_SEED` replays.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tailwater_cdc::batch::Batch;
use tailwater_cdc::capture::{Capture, Resume, SourceName};
use tailwater_cdc::pgoutput::decode;
use tailwater_cdc::pipeline::Pipeline;
use tailwater_cdc::progress::{Progress, Record};
use tailwater_cdc::publish::memory::Memory;
use tailwater_cdc::slot::History;
use tailwater_cdc::stream::Frames;
use tailwater_topics_contract::{Lsn, Registrations, Seq, Values};

use crate::script::{self, Script};
use crate::wire::{self, Value};

/// Inputs tried when nobody says how long.
const SHORT: u64 = 20_000;

/// Types whose text is read; the others are passed on as text. Without JSON, which the server has checked and which is
/// passed on as it is.
const OIDS: [u32; 37] = [
    16, 17, 18, 20, 21, 23, 25, 26, 600, 700, 701, 790, 869, 1000, 1001, 1005, 1007, 1009, 1016,
    1021, 1022, 1082, 1083, 1114, 1115, 1182, 1184, 1185, 1186, 1187, 1231, 1266, 1560, 1700, 2249,
    2950, 3904,
];

/// Texts of those types, and texts that look like them.
const TEXTS: [&str; 60] = [
    "",
    "t",
    "f",
    "0",
    "-1",
    "9223372036854775807",
    "-9223372036854775808",
    "1e400",
    "NaN",
    "Infinity",
    "-Infinity",
    "0.1",
    "-0",
    "1e-400",
    "00012",
    "123456789012345678901234567890.123456789",
    "+1",
    "0x10",
    "2024-02-29",
    "0001-01-01 BC",
    "294276-12-31",
    "infinity",
    "-infinity",
    "24:00:00",
    "23:59:60",
    "12:34:56.789012+15:59:59",
    "2024-01-01 00:00:00.000001+00",
    "4714-11-24 00:00:00+00 BC",
    "P1Y2M3DT4H5M6.789S",
    "PT0S",
    "P-1Y-2M3DT-4H-5M-6.7S",
    "P",
    "PT",
    "P1",
    "PT1.S",
    "P99999999999999Y",
    r"\x",
    r"\xdeadbeef",
    r"\xf",
    r"\x0g",
    "{}",
    "{1,2,NULL}",
    "{{1,2},{3,4}}",
    "[0:1]={1,2}",
    "{\"a\\\"b\",c}",
    "{",
    "{{",
    "{1,",
    "[",
    "[2:1]=",
    "{\"",
    r#"{"a": 1, "a": 2}"#,
    "[1e400]",
    "\"\\u0000\"",
    "null",
    "{\"a\":",
    "$1,234.56",
    "101",
    "é\u{2028}\u{0}",
    "\u{1f600}",
];

#[test]
fn no_input_makes_it_panic_or_write_what_is_no_json() {
    let number =
        |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seed = number("TAILWATER_TEST_SEED").unwrap_or_else(|| rand::rng().random());
    let limit = number("TAILWATER_FUZZ_S").map(Duration::from_secs);
    println!("seed {seed}; replay with TAILWATER_TEST_SEED={seed}");
    let (mut random, began, mut tried) = (StdRng::seed_from_u64(seed), Instant::now(), [0_u64; 5]);
    let mut accepted = [0_u64; 5];
    let more = |tried: u64| limit.map_or(tried < SHORT, |limit| began.elapsed() < limit);
    while more(tried.iter().sum()) {
        let target = random.random_range(0..5);
        let one: u64 = random.random();
        let run = || {
            let mut random = StdRng::seed_from_u64(one);
            match target {
                0 => a_message(&mut random),
                1 => a_stream(&mut random),
                2 => a_transaction(&mut random),
                3 => a_progress_record(&mut random),
                _ => a_history(&mut random),
            }
        };
        let Ok(is_accepted) = catch_unwind(AssertUnwindSafe(run)) else {
            panic!("seed {seed}: input {one} of target {target} after {tried:?}");
        };
        accepted[target] += u64::from(is_accepted);
        tried[target] += 1;
    }
    for (at, name) in
        ["messages", "streams", "transactions", "progress records", "histories"].iter().enumerate()
    {
        println!("{name}: {} tried, {} read", tried[at], accepted[at]);
        assert!(
            accepted[at] > 0 && accepted[at] < tried[at].max(2),
            "{name}: nothing but the one outcome"
        );
    }
}

/// A message of the plugin.
fn a_message(random: &mut StdRng) -> bool {
    let mut message = message(random);
    damage(&mut message, random);
    decode(&message).is_ok()
}

/// Frames of the copy stream, through the whole pipeline.
fn a_stream(random: &mut StdRng) -> bool {
    let mut script = Script::default();
    for _ in 0..random.random_range(1..4) {
        script.transaction(random.random_range(0..4));
    }
    let mut messages = script.messages_from(Lsn(1_000));
    messages.push(script::keepalive(random.random(), random.random()));
    let at = random.random_range(0..messages.len());
    match random.random_range(0..5) {
        0 => drop(messages.remove(at)),
        1 => messages.insert(at, messages[at].clone()),
        2 => messages.swap(0, at),
        3 => damage(&mut messages[at], random),
        _ => {}
    }
    let chunk = messages.concat();
    let whole = Frames::new(&chunk).count();
    let log = Memory::default();
    let record = Record { position: Lsn(1_000), ..first() };
    let capture =
        Capture::new(source(), &script::registrations(), record.resume()).expect("it resumes");
    let limits = tailwater_cdc::config::Limits { transaction_rows: 3, ..Default::default() };
    let mut pipeline = Pipeline::new(capture, log.writer(), Progress::new(record), limits, || 5);
    let taken = pipeline.on_chunk(&chunk).and_then(|_| pipeline.drain());
    for stored in log.committed() {
        assert_json(stored.key.as_deref());
        assert_json(stored.value.as_deref());
    }
    taken.is_ok() && whole == messages.len()
}

/// A table of any columns, and rows of any texts in them.
fn a_transaction(random: &mut StdRng) -> bool {
    let mut registrations = script::registrations();
    if random.random_bool(0.5) {
        as_debezium(&mut registrations);
    }
    let resume =
        Resume { seq: Seq::new(1, 0).expect("in range"), position: Lsn::ZERO, in_flight: None };
    let mut capture = Capture::new(source(), &registrations, resume).expect("it begins");
    let count = random.random_range(0..6);
    let names: Vec<String> = (0..count).map(|at| format!("c{at}\"\\\n")).collect();
    let mut columns = vec![("id", *[20, 25, 1700].choose(random).expect("some"), true)];
    columns.extend(
        names.iter().map(|name| (name.as_str(), *OIDS.choose(random).expect("some"), false)),
    );
    let identity = *b"dfni".choose(random).expect("some");
    let mut messages =
        vec![wire::relation(7, "public", "item", identity, &columns), wire::begin(100, 1)];
    for _ in 0..random.random_range(1..5) {
        let (new, old) = (values(columns.len(), random), values(columns.len(), random));
        messages.push(match random.random_range(0..5) {
            0 | 1 => wire::insert(7, &new),
            2 => wire::update(7, None, &new),
            3 => wire::update(7, Some((*b"KO".choose(random).expect("some"), &old)), &new),
            _ => wire::delete(7, *b"KO".choose(random).expect("some"), &old),
        });
    }
    messages.push(wire::commit(100, 148));
    // Not the relation: with another type's number it could make JSON of a column, which is believed.
    if random.random_bool(0.2) {
        let at = random.random_range(1..messages.len());
        damage(&mut messages[at], random);
    }
    let mut batch = Batch::default();
    let taken = messages
        .iter()
        .try_for_each(|message| capture.on_message(Lsn(100), message, 5, &mut batch).map(drop));
    if taken.is_ok() {
        for record in batch.records() {
            assert_json(record.key());
            assert_json(record.value());
        }
    }
    taken.is_ok()
}

fn a_progress_record(random: &mut StdRng) -> bool {
    let mut record = Record { position: Lsn(random.random()), ..first() };
    record.ends.insert("a.b".parse().expect("a name"), vec![random.random(), -1]);
    record.seq = random.random_range(0..1 << 54);
    let mut bytes = record.encode();
    if random.random_bool(0.7) {
        damage(&mut bytes, random);
    }
    // What can be read can be gone on with, and written again.
    match Record::decode(&bytes) {
        Ok(record) => {
            let resume = record.resume();
            let progress = Progress::new(record.clone());
            let next = progress.next(&resume, record.ends.clone(), 7);
            assert!(next.position >= record.position);
            Record::decode(&next.encode()).is_ok()
        }
        Err(_) => false,
    }
}

fn a_history(random: &mut StdRng) -> bool {
    let mut text = b"1\t0/16B3740\tno recovery target\n2\t0/26B3740\tbefore\n".to_vec();
    if random.random_bool(0.5) {
        damage(&mut text, random);
    }
    let history = History::parse(&String::from_utf8_lossy(&text));
    history.end_of(1).is_some() && history.end_of(2).is_some()
}

// ---- what inputs are made of ----

fn message(random: &mut StdRng) -> Vec<u8> {
    let columns = [("id", 23, true), ("name", 25, false)];
    let (new, old) = (values(2, random), values(2, random));
    match random.random_range(0..10) {
        0 => wire::begin(random.random(), random.random()),
        1 => wire::commit(random.random(), random.random()),
        2 => wire::relation(random.random(), "public", "t", b'd', &columns),
        3 => wire::insert(1, &new),
        4 => wire::update(1, None, &new),
        5 => wire::update(1, Some((b'K', &old)), &new),
        6 => wire::update(1, Some((b'O', &old)), &new),
        7 => wire::delete(1, b'K', &old),
        8 => wire::truncate(&[random.random(), 2]),
        _ => wire::logical(random.random_bool(0.5).then_some(9), "p", b"content"),
    }
}

fn values(count: usize, random: &mut StdRng) -> Vec<Value> {
    let value = |_| match random.random_range(0..12) {
        0 => Value::Null,
        1 => Value::Unchanged,
        2 => Value::Text((0..random.random_range(0..12)).map(|_| random.random()).collect()),
        _ => {
            let mut text = TEXTS.choose(random).expect("some").as_bytes().to_vec();
            if random.random_bool(0.3) {
                damage(&mut text, random);
            }
            Value::Text(text)
        }
    };
    (0..count).map(value).collect()
}

fn damage(bytes: &mut Vec<u8>, random: &mut StdRng) {
    for _ in 0..random.random_range(0..4) {
        if bytes.is_empty() {
            bytes.push(random.random());
            continue;
        }
        let at = random.random_range(0..bytes.len());
        let end = random.random_range(at..=bytes.len());
        match random.random_range(0..8) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = random.random(),
            2 => bytes[at] = *[0, 0x7f, 0x80, 0xff].choose(random).expect("some"),
            3 => drop(bytes.drain(at..end)),
            4 => bytes.truncate(at),
            5 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            6 if at + 4 <= bytes.len() => {
                let length = *[0, 1, u32::MAX, 1 << 31, 1 << 30].choose(random).expect("some");
                bytes[at..at + 4].copy_from_slice(&length.to_be_bytes());
            }
            _ => bytes.insert(at, random.random()),
        }
    }
}

fn as_debezium(registrations: &mut Registrations) {
    for topic in registrations.topics.values_mut() {
        topic.spec.values = Values::Debezium;
    }
}

fn first() -> Record {
    Record::first(&"fuzz".parse().expect("a name"), "7012", 1, "proto_version=1")
}

fn source() -> SourceName {
    SourceName {
        pipeline: "fuzz".parse().expect("a name"),
        database: "shop".to_owned(),
        mask_key: None,
    }
}

fn assert_json(bytes: Option<&[u8]>) {
    let Some(bytes) = bytes else { return };
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
        panic!("{error}: {}", String::from_utf8_lossy(bytes));
    }
}
