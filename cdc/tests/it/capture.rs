//! Messages in, records out.

use proptest::prelude::*;
use serde_json::{Value as Json, json};
use tailwater_cdc::batch::Batch;
use tailwater_cdc::capture::{Capture, Error, Resume, SourceName, Step};
use tailwater_topics_contract::{
    From, Generation, Lsn, Position, Registrations, Seq, Standing, TopicRegistration, TopicSpec,
};

use crate::wire::{self, Value, row, text};

const NOW_MS: i64 = 1_700_000_000_000;
const STOCK: u32 = 1;
const OUTBOX: u32 = 2;

/// A record as a consumer would see it.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    topic: String,
    partition: Option<i32>,
    key: Option<String>,
    value: Option<String>,
    headers: Vec<(String, String)>,
}

#[test]
fn an_insert_becomes_one_record_with_everything_a_consumer_needs() {
    let mut reader = Reader::new();
    reader.take(&stock(b'd'));
    let seen = reader.transaction(100, &[wire::insert(STOCK, &row(&["p1", "7", "a \"q\"", "t"]))]);
    let expected = concat!(
        r#"{"before":null,"after":{"product":"p1","warehouse":7,"note":"a \"q\"","ok":true},"#,
        r#""source":{"version":"0.1.0","connector":"tailwater","name":"market","ts_ms":946684801000,"#,
        r#""snapshot":"false","db":"shop","schema":"inventory","table":"stock","txId":9,"lsn":100,"#,
        r#""commit_lsn":100,"ordinal":0,"seq":1},"op":"c","ts_ms":1700000000000}"#
    );
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].value.as_deref(), Some(expected));
    assert_eq!(seen[0].key.as_deref(), Some(r#"{"product":"p1","warehouse":7}"#));
    assert_eq!(seen[0].topic, "inventory.cdc");
    assert!(seen[0].headers.is_empty());
}

#[test]
fn a_delete_is_followed_by_a_tombstone_with_its_own_number() {
    let mut reader = Reader::new();
    reader.take(&stock(b'd'));
    let old = [text("p1"), text("7"), Value::Null, Value::Null];
    let seen = reader.transaction(100, &[wire::delete(STOCK, b'K', &old)]);
    let value: Json = seen[0].json();
    assert_eq!(value["op"], "d");
    assert_eq!(value["before"], json!({"product": "p1", "warehouse": 7}));
    assert_eq!(value["after"], Json::Null);
    assert_eq!(seen[1].value, None);
    assert_eq!(seen[1].key, seen[0].key);
    let headers = [("tw-seq", "2"), ("tw-position", "100:0")];
    assert_eq!(seen[1].headers, headers.map(|(n, v)| (n.to_owned(), v.to_owned())));
}

#[test]
fn a_moved_key_is_a_delete_of_the_old_and_a_create_of_the_new_row() {
    let mut reader = Reader::new();
    reader.take(&stock(b'd'));
    let old = [text("p1"), text("7"), Value::Null, Value::Null];
    let new = row(&["p2", "7", "n", "f"]);
    let seen = reader.transaction(100, &[wire::update(STOCK, Some((b'K', &old)), &new)]);
    let ops: Vec<Json> = seen.iter().map(|s| s.json()["op"].clone()).collect();
    assert_eq!(ops, [json!("d"), Json::Null, json!("c")]);
    assert_eq!(seen[0].key.as_deref(), Some(r#"{"product":"p1","warehouse":7}"#));
    assert_eq!(seen[2].key.as_deref(), Some(r#"{"product":"p2","warehouse":7}"#));
    assert_eq!(seen[2].json()["before"], Json::Null);
    assert_eq!(seen[2].json()["source"]["seq"], 3);
    assert_eq!(seen[2].json()["source"]["ordinal"], 0);
}

#[test]
fn an_unchanged_value_is_named_or_filled_from_the_old_image() {
    let mut reader = Reader::new();
    reader.take(&stock(b'd'));
    let new = [text("p1"), text("7"), Value::Unchanged, text("t")];
    let seen = reader.transaction(100, &[wire::update(STOCK, None, &new)]);
    assert_eq!(seen[0].json()["unchanged"], json!(["note"]));
    assert_eq!(seen[0].json()["after"], json!({"product": "p1", "warehouse": 7, "ok": true}));

    reader.take(&stock(b'f'));
    let old = row(&["p1", "7", "long", "f"]);
    let seen = reader.transaction(200, &[wire::update(STOCK, Some((b'O', &old)), &new)]);
    assert_eq!(seen[0].json()["after"]["note"], "long");
    assert_eq!(seen[0].json()["before"]["ok"], false);
    assert_eq!(seen[0].json().get("unchanged"), None);
}

#[test]
fn a_partition_with_another_identity_than_its_root_gives_no_wrong_values() {
    let mut reader = Reader::new();
    reader.take(&stock(b'f'));
    let nulls = [text("p1"), text("7"), Value::Null, Value::Null];
    let new = [text("p1"), text("7"), Value::Unchanged, text("t")];
    let seen = reader.transaction(100, &[wire::update(STOCK, Some((b'O', &nulls)), &new)]);
    assert_eq!(seen[0].json()["unchanged"], json!(["note"]), "named, not taken for null");
    let no_key = [text("p1"), Value::Null, Value::Null, Value::Null];
    reader.take(&wire::begin(200, 9));
    let error = reader.try_take(&wire::delete(STOCK, b'O', &no_key)).expect_err("no key to delete");
    assert!(error.to_string().contains("warehouse"), "{error}");
}

#[test]
fn a_truncate_reaches_every_partition() {
    let mut reader = Reader::new();
    reader.take(&stock(b'd'));
    let seen = reader.transaction(100, &[wire::truncate(&[STOCK])]);
    let partitions: Vec<_> = seen.iter().map(|s| s.partition).collect();
    assert_eq!(partitions, [Some(0), Some(1), Some(2)]);
    assert!(seen.iter().all(|s| s.json()["op"] == "t" && s.key.as_deref() == Some("{}")));
}

#[test]
fn an_outbox_row_becomes_a_cloud_event_with_its_payload_verbatim() {
    let mut reader = Reader::new();
    reader.take(&outbox());
    let mut event = row(&[
        "e1",
        "2026-01-02 03:04:05.6+00",
        "orders",
        "o1",
        "OrderPlaced",
        "1",
        "",
        "{\"a\": 1}",
        "",
        "",
        "",
        "",
    ]);
    event[5] = text("1");
    for null in [6, 8, 9, 10, 11] {
        event[null] = Value::Null;
    }
    event[8] = text(r#"{"tenant": "t1", "n": 5}"#);
    let seen = reader.transaction(100, &[wire::insert(OUTBOX, &event)]);
    assert_eq!(seen[0].topic, "orders.events");
    assert_eq!(seen[0].key.as_deref(), Some("o1"));
    assert_eq!(seen[0].value.as_deref(), Some("{\"a\": 1}"));
    let header = |name: &str| {
        seen[0].headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    };
    let expected = [
        ("ce_specversion", "1.0"),
        ("ce_id", "e1"),
        ("ce_type", "OrderPlaced"),
        ("ce_source", "/market/orders"),
        ("ce_time", "2026-01-02T03:04:05.6Z"),
        ("ce_subject", "o1"),
        ("content-type", "application/json"),
        ("tw-seq", "1"),
        ("tw-position", "100:0"),
        ("tenant", "t1"),
        ("n", "5"),
        ("ce_eventversion", "1"),
    ];
    for (name, value) in expected {
        assert_eq!(header(name), Some(value), "{name}");
    }
    assert_eq!(header("correlation-id"), None);
}

#[test]
fn what_has_no_place_to_go_stops_the_reader() {
    let refuse = |messages: &[Vec<u8>]| {
        let mut reader = Reader::new();
        let all = [vec![wire::begin(100, 9)], messages.to_vec()].concat();
        all.iter().find_map(|m| reader.try_take(m).err()).expect("must be refused").to_string()
    };
    let undeclared = wire::relation(5, "public", "other", b'd', &[("id", 23, true)]);
    let change = wire::insert(5, &row(&["1"]));
    assert!(refuse(&[undeclared, change]).contains("public.other"));
    assert!(refuse(&[wire::insert(77, &row(&["1"]))]).contains("77"));
    let mut event = row(&["e", "t", "invoices", "i", "T", "1", "k", "{}", "{}", "c", "c", "t"]);
    event[1] = text("2026-01-02 03:04:05+00");
    assert!(refuse(&[outbox(), wire::insert(OUTBOX, &event)]).contains("invoices"));
    let no_key = wire::relation(STOCK, "inventory", "stock", b'd', &[("product", 25, true)]);
    assert!(refuse(&[no_key]).contains("warehouse"));
    let not_identity = wire::relation(
        STOCK,
        "inventory",
        "stock",
        b'd',
        &[("product", 25, true), ("warehouse", 23, false)],
    );
    let update = wire::update(STOCK, None, &row(&["p", "1"]));
    assert!(refuse(&[not_identity, update]).contains("REPLICA IDENTITY FULL"));
    let bytes = wire::insert(STOCK, &[text("p"), text("1"), Value::Text(vec![0xFF]), text("t")]);
    assert!(refuse(&[stock(b'd'), bytes]).contains("note"));
}

#[test]
fn headers_of_a_row_neither_pass_for_ours_nor_stop_the_reader() {
    let headers_of = |headers: &str| {
        let mut reader = Reader::new();
        reader.take(&outbox());
        let mut event = event();
        event[8] = text(headers);
        let mut seen = reader.transaction(100, &[wire::insert(OUTBOX, &event)]);
        let headers = seen.pop().expect("an event").headers;
        let is_own =
            |name: &str| name.starts_with("own-") || ["tenant", "n", "deep"].contains(&name);
        headers.into_iter().filter(|(name, _)| is_own(name)).collect::<Vec<_>>()
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        headers_of(r#"{"tw-seq": "7", "ce_id": "x", "traceparent": "00", "tenant": "a\"b"}"#),
        [
            pair("own-ce_id", "x"),
            pair("tenant", "a\"b"),
            pair("own-traceparent", "00"),
            pair("own-tw-seq", "7"),
        ]
    );
    assert_eq!(
        headers_of(r#"{"n": 1e400, "deep": {"a": [1]}}"#),
        [pair("deep", r#"{"a": [1]}"#), pair("n", "1e400")]
    );
    assert_eq!(headers_of("[1, 2]"), [pair("own-headers", "[1, 2]")]);
    assert_eq!(headers_of("null"), []);
}

#[test]
fn rows_of_a_removed_topic_and_housekeeping_in_an_outbox_are_given_up() {
    let mut reader = Reader::new();
    reader.take(&stock(b'd'));
    reader.take(&outbox());
    let changes = [
        wire::insert(STOCK, &row(&["p", "1", "n", "t"])),
        wire::insert(OUTBOX, &event()),
        wire::delete(OUTBOX, b'K', &event()),
        wire::truncate(&[OUTBOX]),
    ];
    assert_eq!(reader.transaction(100, &changes).len(), 2, "a row and an event");
    assert_eq!(reader.capture.given_up(), 2);

    let mut removed = registrations();
    for topic in removed.topics.values_mut() {
        topic.standing = Standing::Removed;
    }
    reader.capture.on_registrations(&removed).expect("can be routed");
    assert_eq!(reader.transaction(200, &changes), []);
    assert_eq!(reader.capture.given_up(), 6);
    assert_eq!(reader.capture.at().seq, seq(2), "what is given up takes no number");

    let mut again = removed.topics[&"inventory.cdc".parse().expect("valid")].clone();
    again.spec.name = "inventory.again".parse().expect("valid");
    again.standing = Standing::Active;
    removed.topics.insert(again.spec.name.clone(), again);
    reader.capture.on_registrations(&removed).expect("can be routed");
    let seen = reader.transaction(300, &[changes[2].clone(), changes[0].clone()]);
    assert_eq!(seen[0].topic, "inventory.again");
    assert_eq!(seen[0].json()["source"]["ordinal"], 1, "what is given up has its place");
}

#[test]
fn a_transaction_that_comes_again_shorter_than_its_durable_part_stops_the_reader() {
    let in_flight = Some(Position { commit_lsn: Lsn(100), ordinal: 2 });
    let mut reader = Reader::at(Resume { seq: seq(2), position: Lsn(50), in_flight });
    reader.take(&stock(b'd'));
    reader.take(&wire::begin(100, 9));
    reader.take(&wire::insert(STOCK, &row(&["p", "1", "n", "t"])));
    let error = reader.try_take(&wire::commit(100, 110)).expect_err("must be refused");
    assert!(error.to_string().contains("has 1 changes, but 2 of them"), "{error}");
}

#[test]
fn two_topics_registered_for_the_same_rows_stop_the_reader() {
    let source = || SourceName {
        pipeline: "market".parse().expect("valid"),
        database: "shop".into(),
        mask_key: None,
    };
    let resume = Resume { seq: seq(0), position: Lsn::ZERO, in_flight: None };
    for twice in ["inventory.cdc", "orders.events"] {
        let mut registrations = registrations();
        let mut second = registrations.topics[&twice.parse().expect("valid")].clone();
        second.spec.name = "another".parse().expect("valid");
        registrations.topics.insert(second.spec.name.clone(), second);
        let error = Capture::new(source(), &registrations, resume).expect_err("must be refused");
        assert!(
            error.to_string().contains("`another` and") && error.to_string().contains(twice),
            "{error}"
        );
    }
}

#[test]
fn our_own_heartbeat_is_counted_and_goes_nowhere() {
    let mut reader = Reader::new();
    reader.take(&stock(b'd'));
    let beat = wire::logical(None, "tailwater.heartbeat", b"");
    let seen = reader.transaction(100, &[beat, wire::insert(STOCK, &row(&["p", "1", "n", "t"]))]);
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].json()["source"]["ordinal"], 1);
}

#[test]
fn a_transaction_that_is_wholly_durable_is_passed_over() {
    let mut reader = Reader::at(Resume { seq: seq(5), position: Lsn(110), in_flight: None });
    reader.take(&stock(b'd'));
    let insert = wire::insert(STOCK, &row(&["p", "1", "n", "t"]));
    assert!(reader.transaction(100, std::slice::from_ref(&insert)).is_empty());
    assert_eq!(reader.capture.at(), Resume { seq: seq(5), position: Lsn(110), in_flight: None });
    let seen = reader.transaction(120, &[insert]);
    assert_eq!(seen[0].json()["source"]["seq"], 6);
}

#[test]
fn another_transaction_than_the_one_in_flight_stops_the_reader() {
    let in_flight = Some(Position { commit_lsn: Lsn(200), ordinal: 3 });
    let mut reader = Reader::at(Resume { seq: seq(5), position: Lsn(110), in_flight });
    assert!(matches!(reader.try_take(&wire::begin(300, 1)), Err(Error::InFlight { .. })));
}

#[test]
fn messages_out_of_place_are_refused() {
    let mut reader = Reader::new();
    assert!(reader.try_take(&wire::commit(1, 2)).is_err());
    let mut reader = Reader::new();
    reader.take(&stock(b'd'));
    assert!(reader.try_take(&wire::insert(STOCK, &row(&["p", "1", "n", "t"]))).is_err());
    let mut reader = Reader::new();
    reader.take(&wire::begin(1, 1));
    assert!(reader.try_take(&wire::begin(2, 1)).is_err());
    assert!(reader.try_take(&wire::commit(7, 8)).is_err(), "not the one that began");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The heart of exactly once: stop after any message, start again from what progress would say, and the records
    /// of both lives together are those of one life.
    #[test]
    fn a_reader_that_resumes_anywhere_emits_what_one_that_never_stopped_does(
        sizes in proptest::collection::vec(0..6_usize, 1..8),
        ops in proptest::collection::vec(0..7_u8, 64),
        stops in proptest::collection::vec(any::<prop::sample::Index>(), 1..4),
    ) {
        let stream = stream(&sizes, &ops);
        let mut whole = Reader::new();
        stream.iter().for_each(|(_, message)| whole.take(message));
        let expected = whole.seen();

        let mut seen = Vec::new();
        let mut resume = Resume { seq: seq(0), position: Lsn::ZERO, in_flight: None };
        let mut stops: Vec<usize> = stops.iter().map(|at| at.index(stream.len())).collect();
        stops.sort_unstable();
        stops.push(stream.len());
        for stop in stops {
            let mut reader = Reader::at(resume);
            reader.take(&stock(b'd'));
            // The server begins with the first transaction that ends behind the position.
            let from = stream.iter().position(|(end, _)| *end > resume.position.0).unwrap_or(stream.len());
            for (_, message) in &stream[from..stop.max(from)] {
                reader.take(message);
            }
            seen.extend(reader.seen());
            resume = reader.capture.at();
        }
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn the_encoder_writes_what_a_tree_of_values_would(
        product in "\\PC{0,20}",
        warehouse: i32,
        note in proptest::option::of("\\PC{0,40}"),
        ok: bool,
    ) {
        let mut reader = Reader::new();
        reader.take(&stock(b'd'));
        let note_value = note.as_deref().map_or(Value::Null, text);
        let values = [text(&product), text(&warehouse.to_string()), note_value, text(if ok { "t" } else { "f" })];
        let seen = reader.transaction(100, &[wire::insert(STOCK, &values)]);
        let expected = json!({"product": product, "warehouse": warehouse, "note": note, "ok": ok});
        prop_assert_eq!(&seen[0].json()["after"], &expected);
        let key: Json = serde_json::from_str(seen[0].key.as_deref().expect("keyed")).expect("JSON");
        prop_assert_eq!(key, json!({"product": product, "warehouse": warehouse}));
        prop_assert!(!seen[0].value.as_deref().expect("a value").contains('\n'));
    }
}

struct Reader {
    capture: Capture,
    batch: Batch,
}

impl Reader {
    fn new() -> Self {
        Self::at(Resume { seq: seq(0), position: Lsn::ZERO, in_flight: None })
    }

    fn at(resume: Resume) -> Self {
        let source = SourceName {
            pipeline: "market".parse().expect("valid"),
            database: "shop".into(),
            mask_key: None,
        };
        let capture = Capture::new(source, &registrations(), resume).expect("starts");
        Self { capture, batch: Batch::default() }
    }

    fn try_take(&mut self, message: &[u8]) -> Result<Step, Error> {
        self.capture.on_message(Lsn(90), message, NOW_MS, &mut self.batch)
    }

    fn take(&mut self, message: &[u8]) {
        self.try_take(message).expect("is followed");
    }

    fn transaction(&mut self, commit_lsn: u64, changes: &[Vec<u8>]) -> Vec<Seen> {
        self.batch.clear();
        self.take(&wire::begin(commit_lsn, 9));
        changes.iter().for_each(|change| self.take(change));
        self.take(&wire::commit(commit_lsn, commit_lsn + 10));
        self.seen()
    }

    fn seen(&self) -> Vec<Seen> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        let seen = self.batch.records().map(|record| Seen {
            topic: record.topic().to_string(),
            partition: record.partition(),
            key: record.key().map(text),
            value: record.value().map(text),
            headers: record.headers().map(|(name, value)| (name.to_owned(), text(value))).collect(),
        });
        seen.collect()
    }
}

impl Seen {
    fn json(&self) -> Json {
        self.value.as_deref().map_or(Json::Null, |value| serde_json::from_str(value).expect("JSON"))
    }
}

/// Transactions of these sizes; every message with the end LSN of its transaction.
fn stream(sizes: &[usize], ops: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut ops = ops.iter().cycle();
    let mut messages = vec![(0, stock(b'd'))];
    for (number, size) in sizes.iter().enumerate() {
        let commit_lsn = 100 * (number as u64 + 1);
        let end_lsn = commit_lsn + 50;
        messages.push((end_lsn, wire::begin(commit_lsn, 9)));
        for change in 0..*size {
            let id = change.to_string();
            let new = row(&[&id, "1", "n", "t"]);
            let key = [text(&id), text("1"), Value::Null, Value::Null];
            let moved = row(&[&id, "2", "n", "t"]);
            messages.push((
                end_lsn,
                match ops.next().expect("cycles") {
                    0 => wire::insert(STOCK, &new),
                    1 => wire::update(STOCK, None, &new),
                    2 => wire::update(STOCK, Some((b'K', &key)), &moved),
                    3 => wire::delete(STOCK, b'K', &key),
                    4 => wire::logical(None, "audit", b"within"),
                    5 => wire::logical(None, "other", b"nobody's"),
                    _ => wire::truncate(&[STOCK]),
                },
            ));
        }
        messages.push((end_lsn, wire::commit(commit_lsn, end_lsn)));
        // Its record ends where the next commit record begins, as it may.
        if size % 2 == 1 {
            let at = commit_lsn + 100;
            messages.push((at, wire::logical(Some(at), "audit", b"alone")));
        }
    }
    // Relation messages come again in every session.
    messages.retain(|(_, message)| message[0] != b'R' || message == &stock(b'd'));
    messages
}

fn stock(identity: u8) -> Vec<u8> {
    let full = identity == b'f';
    let columns =
        [("product", 25, true), ("warehouse", 23, true), ("note", 25, full), ("ok", 16, full)];
    wire::relation(STOCK, "inventory", "stock", identity, &columns)
}

fn event() -> Vec<Value> {
    let mut event = row(&["e", "", "orders", "i", "T", "1", "k", "{}", "{}", "c", "c", "t"]);
    event[1] = text("2026-01-02 03:04:05+00");
    event
}

fn outbox() -> Vec<u8> {
    let columns = [
        ("id", 2950, true),
        ("created_at", 1184, true),
        ("aggregate_type", 25, false),
        ("aggregate_id", 25, false),
        ("event_type", 25, false),
        ("event_version", 21, false),
        ("partition_key", 25, false),
        ("payload", 3802, false),
        ("headers", 3802, false),
        ("correlation_id", 2950, false),
        ("causation_id", 2950, false),
        ("traceparent", 25, false),
    ];
    wire::relation(OUTBOX, "orders", "outbox", b'd', &columns)
}

fn registrations() -> Registrations {
    let topic = |name: &str, from: From, key: &[&str], policy: &str| TopicRegistration {
        spec: TopicSpec {
            name: name.parse().expect("valid"),
            from,
            key: None,
            partitions: 3,
            replication: None,
            config: [("cleanup.policy".to_owned(), policy.to_owned())].into(),
            expose: Vec::new(),
            values: tailwater_topics_contract::Values::default(),
            mask: std::collections::BTreeMap::new(),
            declared_at: None,
        },
        key_columns: key.iter().map(|column| (*column).to_owned()).collect(),
        generation: Generation::default(),
        standing: Standing::Active,
        reread: None,
    };
    let table = "inventory.stock".parse().expect("valid");
    let outbox =
        From::Outbox { aggregate: "orders".into(), table: "orders.outbox".parse().expect("valid") };
    let topics = [
        topic("inventory.cdc", From::Table(table), &["product", "warehouse"], "compact"),
        topic("orders.events", outbox, &[], "delete"),
        topic("audit.messages", From::Message("audit".into()), &[], "delete"),
    ];
    Registrations {
        topics: topics.into_iter().map(|topic| (topic.spec.name.clone(), topic)).collect(),
        sinks: std::collections::BTreeMap::default(),
    }
}

fn seq(n: u64) -> Seq {
    Seq::new(0, n).expect("in range")
}
