use std::error::Error as _;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tailwater_config::SearchConfig;
use tailwater_sinks_search::{Client, SearchSink, SearchWriter};
use tailwater_sinks_worker::source::{Source, Sources};
use tailwater_sinks_worker::topic_id::TopicId;
use tailwater_sinks_worker::{Committed, Sink, SinkError, SourceRecord, TopicPartition, Writer};
use tailwater_topics_contract::{
    BulkSpec, Columns, DocumentSpec, Generation, PipelineName, SearchSpec, TopicName,
};

pub(crate) fn pipeline() -> PipelineName {
    "market".parse().unwrap()
}

pub(crate) fn partition() -> TopicPartition {
    TopicPartition { topic: "product_documents.cdc".parse().unwrap(), partition: 0 }
}

pub(crate) fn spec(alias: &str) -> SearchSpec {
    let mapping = json!({"mappings": {"dynamic": "strict", "properties": {
        "id": {"type": "long"},
        "name": {"type": "text"},
        "price": {"type": "double"},
        "big": {"type": "long"},
    }}});
    let bulk = BulkSpec { bytes: 8 << 20, operations: 2000, age_ms: 500 };
    let document = DocumentSpec::default();
    SearchSpec { alias: alias.to_owned(), mapping, document, bulk }
}

pub(crate) fn client(url: &str) -> Client {
    Client::new(SearchConfig::open(url)).unwrap()
}

/// The topic of [`partition`], the first of its name that ever was, unless said otherwise.
#[derive(Clone)]
pub(crate) struct Topic {
    pub(crate) id: Option<&'static str>,
    pub(crate) generation: Generation,
}

impl Topic {
    pub(crate) const FIRST: &'static str = "first-of-its-name-----";

    pub(crate) fn first() -> Self {
        Self { id: Some(Self::FIRST), generation: Generation::default() }
    }

    pub(crate) fn source(&self, topic: &TopicName) -> Source {
        let id = self.id.map(TopicId::new);
        Source { topic: topic.clone(), id, generation: self.generation }
    }
}

impl Sources for Topic {
    fn source(&self, topic: &TopicName) -> BoxFuture<'_, Result<Source, SinkError>> {
        std::future::ready(Ok(Topic::source(self, topic))).boxed()
    }
}

pub(crate) async fn open(sink: &SearchSink) -> SearchWriter {
    sink.open(&partition(), None).await.unwrap().0
}

pub(crate) fn committed(metadata: &str) -> Committed {
    Committed { offset: 7, metadata: metadata.to_owned() }
}

fn record(offset: i64, id: i64, value: &Value) -> SourceRecord {
    SourceRecord {
        offset,
        timestamp_ms: 0,
        key: Some(Bytes::from(format!("{{\"id\":{id}}}"))),
        value: Some(Bytes::from(value.to_string())),
        headers: Vec::new(),
    }
}

fn change(op: &str, after: &Value, seq: u64) -> Value {
    json!({
        "before": null, "after": after, "op": op, "ts_ms": 2,
        "source": {"schema": "catalog", "table": "product_documents", "seq": seq},
    })
}

/// The row with this id now has this name.
pub(crate) fn put(seq: u64, id: i64, name: &str) -> SourceRecord {
    row(seq, id, &json!({"id": id, "name": name}))
}

pub(crate) fn row(seq: u64, id: i64, after: &Value) -> SourceRecord {
    record(seq.cast_signed(), id, &change("u", after, seq))
}

pub(crate) fn delete(seq: u64, id: i64) -> SourceRecord {
    record(seq.cast_signed(), id, &change("d", &Value::Null, seq))
}

/// What [`shaped`] documents are made of: the row of a tenant, with this text in it.
pub(crate) fn stock(seq: u64, tenant: &str, id: i64, attributes: &str) -> SourceRecord {
    let after = json!({
        "tenant": tenant, "id": id, "name": format!("n{seq}"), "attributes": attributes, "cost": 1,
    });
    keyed(row(seq, id, &after), tenant, id)
}

pub(crate) fn delete_stock(seq: u64, tenant: &str, id: i64) -> SourceRecord {
    keyed(delete(seq, id), tenant, id)
}

fn keyed(record: SourceRecord, tenant: &str, id: i64) -> SourceRecord {
    let key = format!("{{\"tenant\":{},\"id\":{id}}}", json!(tenant));
    SourceRecord { key: Some(key.into()), ..record }
}

/// Documents under ids of two columns, on the shard of their tenant, renamed, nested and without one of their columns.
pub(crate) fn shaped(alias: &str) -> SearchSpec {
    let mapping = json!({
        "settings": {"number_of_shards": 3},
        "mappings": {"dynamic": "strict", "_routing": {"required": true}, "properties": {
            "tenant": {"type": "keyword"},
            "id": {"type": "long"},
            "title": {"type": "keyword"},
            "attributes": {"type": "nested", "properties": {
                "name": {"type": "keyword"}, "value": {"type": "keyword"},
            }},
        }},
    });
    let document = DocumentSpec {
        id: vec!["id".into(), "tenant".into()],
        routing: Some("tenant".into()),
        columns: Columns::Exclude(vec!["cost".into()]),
        rename: [("name".into(), "title".into())].into(),
        nested: vec!["attributes".into()],
    };
    SearchSpec { mapping, document, ..spec(alias) }
}

pub(crate) fn truncate(seq: u64) -> SourceRecord {
    let mut record = record(seq.cast_signed(), 0, &change("t", &Value::Null, seq));
    record.key = Some(Bytes::from_static(b"{}"));
    record
}

pub(crate) fn tombstone(offset: i64, id: i64) -> SourceRecord {
    SourceRecord { value: None, ..record(offset, id, &Value::Null) }
}

pub(crate) fn push_all(writer: &mut SearchWriter, records: impl IntoIterator<Item = SourceRecord>) {
    for record in records {
        writer.push(record).unwrap();
    }
}

/// The whole chain of an error, as a log would show it.
pub(crate) fn chain(error: &SinkError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[track_caller]
pub(crate) fn assert_transient<T: std::fmt::Debug>(result: Result<T, SinkError>, word: &str) {
    let error = result.unwrap_err();
    assert!(matches!(error, SinkError::Transient(_)), "{error:?}");
    assert!(chain(&error).contains(word), "`{word}` is not in: {}", chain(&error));
}

#[track_caller]
pub(crate) fn assert_definite<T: std::fmt::Debug>(result: Result<T, SinkError>, word: &str) {
    let error = result.unwrap_err();
    assert!(matches!(error, SinkError::Definite(_)), "{error:?}");
    assert!(chain(&error).contains(word), "`{word}` is not in: {}", chain(&error));
}

/// The records of the contract suite: few keys, each written again and again, and deleted now and then.
pub(crate) fn contract_record(offset: i64) -> SourceRecord {
    let (seq, id) = (offset.cast_unsigned() + 1, offset % 7);
    let record =
        if offset % 5 == 4 { delete(seq, id) } else { put(seq, id, &format!("n{offset}")) };
    SourceRecord { offset, ..record }
}

/// Poison of the contract suite: what is no change, and what no index takes.
pub(crate) fn contract_poison(offset: i64) -> SourceRecord {
    let (seq, id) = (offset.cast_unsigned() + 1, offset % 7);
    let mut record = row(seq, id, &json!({"id": id, "name": REFUSED_NAME, "colour": "red"}));
    if offset % 2 == 1 {
        record.value = Some("{\"order\":1}".into());
    }
    SourceRecord { offset, ..record }
}

/// A name that the fake refuses; a real index refuses the field that comes with it.
pub(crate) const REFUSED_NAME: &str = "bad";
