//! Records that no document can be made of, each kind in several makes, among good ones.

use std::time::Duration;

use anyhow::Context;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use serde_json::{Value, json};

/// A record as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
}

/// A row that fits the mapping.
pub(crate) fn good(id: u64) -> Sent {
    let row = json!({"id": id, "name": format!("animal {id}"), "weight": 1, "notes": null});
    change(id, id, &row)
}

/// Every kind, `makes` times with other ids and numbers; none can become a document.
pub(crate) fn hostile(makes: u64) -> Vec<Sent> {
    (0..makes).flat_map(|make| kinds(1_000_000 + make * 100)).collect()
}

fn change(id: u64, seq: u64, after: &Value) -> Sent {
    sent(&key(id), value(&after.to_string(), "c", &seq.to_string()))
}

fn key(id: u64) -> String {
    json!({ "id": id }).to_string()
}

fn sent(key: &str, value: impl Into<Vec<u8>>) -> Sent {
    Sent { key: Some(key.as_bytes().to_vec()), value: Some(value.into()) }
}

fn value(after: &str, op: &str, seq: &str) -> String {
    format!(
        r#"{{"before":null,"after":{after},"source":{{"schema":"zoo","table":"animals","seq":{seq}}},"op":"{op}","ts_ms":1}}"#
    )
}

fn kinds(id: u64) -> Vec<Sent> {
    let row = json!({"id": id, "name": "x", "weight": 1}).to_string();
    let seq = id.to_string();
    let whole = value(&row, "c", &seq);
    let mut kinds = Vec::new();

    // Values that are no row changes.
    let mut not_utf8 = whole.clone().into_bytes();
    not_utf8[whole.find("\"x\"").unwrap_or_default() + 1] = 0xFF;
    let values: Vec<Vec<u8>> = [
        String::new(),
        "{".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        "plain text".to_owned(),
        "\u{0}".repeat(64),
        "[".repeat(50_000),
        whole[..whole.len() - 1].to_owned(),
        format!("{whole}{whole}"),
        format!(r#"{{"order_id":{id}}}"#),
        value(&row, "m", &seq),
        value(&row, "", &seq),
        value("null", "u", &seq),
        value("[1]", "u", &seq),
        value("\"{}\"", "r", &seq),
        value(&row, "c", "-1"),
        value(&row, "c", "1.5"),
        value(&row, "c", "\"7\""),
        value(&row, "c", "9007199254740992"),
        value(&row, "c", "99999999999999999999999"),
        whole.replace("\"seq\"", "\"sec\""),
        whole.replace("\"source\"", "\"sauce\""),
        whole.replace("\"ts_ms\":1", "\"unchanged\":[\"notes\"]"),
    ]
    .map(String::into_bytes)
    .into();
    let values = values.into_iter().chain([not_utf8]);
    kinds.extend(values.map(|value| sent(&key(id), value)));

    // Keys that name no document.
    let long = json!({ "id": "x".repeat(513) }).to_string();
    let keys = ["", "{}", "[]", "7", "plain", r#"{"id":null}"#, r#"{"id":""}"#, "{\"id\":", &long];
    kinds.extend(keys.map(|key| sent(key, whole.as_str())));
    kinds.push(Sent { key: None, ..sent("", whole.as_str()) });
    kinds.push(Sent { key: Some(vec![0xFF, 0xFE]), ..sent("", whole) });

    // Documents that the index refuses.
    let deep = format!("{}1{}", "{\"d\":".repeat(30), "}".repeat(30));
    let documents = [
        r#"{"weight":"heavy"}"#.to_owned(),
        r#"{"weight":{"kilos":1}}"#.to_owned(),
        r#"{"weight":1e400}"#.to_owned(),
        r#"{"weight":99999999999999999999}"#.to_owned(),
        r#"{"id":2147483648}"#.to_owned(),
        r#"{"id":[1,"two"]}"#.to_owned(),
        r#"{"name":{"first":"x"}}"#.to_owned(),
        format!(r#"{{"name":"{}"}}"#, "y".repeat(40_000)),
        r#"{"_id":"x"}"#.to_owned(),
        r#"{"":1}"#.to_owned(),
        r#"{".":1}"#.to_owned(),
        r#"{"id":1,"id":2}"#.to_owned(),
        deep,
    ];
    let documents = documents.iter().enumerate();
    kinds.extend(
        documents
            .map(|(place, document)| sent(&key(id + place as u64), value(document, "c", &seq))),
    );
    kinds
}

/// Sends records to a topic, each to the partition of its number.
pub(crate) fn send(brokers: &str, topic: &str, records: &[Sent]) -> anyhow::Result<()> {
    let producer: ThreadedProducer<_> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .create()?;
    for (number, sent) in records.iter().enumerate() {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition((number % 4) as i32);
        if let Some(key) = &sent.key {
            record = record.key(key);
        }
        if let Some(value) = &sent.value {
            record = record.payload(value);
        }
        producer.send(record).map_err(|(error, _)| error).context("sending")?;
    }
    Ok(producer.flush(Duration::from_secs(30))?)
}
