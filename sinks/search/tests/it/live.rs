use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tailwater_config::SearchConfig;
use tailwater_sinks_search::index::{self, State};
use tailwater_sinks_search::succession::{self, Beside};
use tailwater_sinks_search::{Client, Patience, SearchSink, scan};
use tailwater_sinks_worker::contract::{self, Subject};
use tailwater_sinks_worker::source::Source;
use tailwater_sinks_worker::{Committed, Sink, SourceRecord, Writer};
use tailwater_topics_contract::{SearchSpec, TopicName};

use crate::records::{
    Topic, assert_definite, assert_transient, committed, contract_poison, contract_record, delete,
    delete_stock, open, partition, pipeline, push_all, put, row, shaped, spec, stock,
};

/// An alias of its own on a real server; everything of it goes with it.
pub(crate) struct Live {
    url: String,
    /// How the sink reaches it.
    config: SearchConfig,
    pub(crate) spec: SearchSpec,
}

pub(crate) fn server() -> String {
    std::env::var("TAILWATER_TEST_OPENSEARCH").expect(
        "TAILWATER_TEST_OPENSEARCH must name an OpenSearch server, as http://127.0.0.1:19200",
    )
}

impl Live {
    pub(crate) fn new() -> Self {
        Self::through(SearchConfig::open(server()))
    }

    /// Reached by the sink, and by nobody else, in a way of its own.
    pub(crate) fn through(config: SearchConfig) -> Self {
        let alias = format!("it-{}", uuid::Uuid::new_v4().simple());
        Self { url: server(), config, spec: spec(&alias) }
    }

    pub(crate) fn sink(&self) -> SearchSink {
        self.sink_of(Topic::first())
    }

    fn sink_of(&self, topic: Topic) -> SearchSink {
        let patience = Patience { rounds: 3, ..Patience::default() };
        let (client, spec) = (self.client(), self.spec.clone());
        SearchSink::new(client, pipeline(), spec, topic).with_patience(patience)
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.config.clone()).unwrap()
    }

    pub(crate) fn first_index(&self) -> String {
        index::first_index(&self.spec)
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let request = reqwest::Client::new().request(method, format!("{}/{path}", self.url));
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let response = request.send().await.unwrap();
        (response.status(), response.json().await.unwrap_or(Value::Null))
    }

    /// Everything in the index: version and document by id.
    pub(crate) async fn documents(&self) -> BTreeMap<String, (u64, Value)> {
        let alias = &self.spec.alias;
        self.call(Method::POST, &format!("{alias}/_refresh"), None).await;
        let path = format!("{alias}/_search?size=1000&version=true");
        let (status, found) = self.call(Method::GET, &path, None).await;
        assert_eq!(status, 200, "{found}");
        let hits = found["hits"]["hits"].as_array().unwrap().iter();
        hits.map(|hit| {
            let id = hit["_id"].as_str().unwrap().to_owned();
            (id, (hit["_version"].as_u64().unwrap(), hit["_source"].clone()))
        })
        .collect()
    }

    pub(crate) async fn drop_index(&self) {
        self.call(Method::DELETE, &self.first_index(), None).await;
    }

    async fn set(&self, settings: Value) {
        let path = format!("{}/_settings", self.first_index());
        let (status, answer) = self.call(Method::PUT, &path, Some(settings)).await;
        assert_eq!(status, 200, "{answer}");
    }
}

fn filled_from() -> [Source; 1] {
    [Topic::first().source(&partition().topic)]
}

#[tokio::test]
async fn the_search_sink_keeps_the_contract_of_sinks() {
    contract::check(|| async { Live::new() }).await;
}

impl Subject for Live {
    type Sink = SearchSink;
    type Held = BTreeMap<String, (u64, Value)>;

    fn sink(&self) -> SearchSink {
        Live::sink(self)
    }

    fn topic(&self) -> TopicName {
        partition().topic
    }

    fn record(&self, offset: i64) -> SourceRecord {
        contract_record(offset)
    }

    fn poison(&self, offset: i64) -> Option<SourceRecord> {
        Some(contract_poison(offset))
    }

    async fn held(&self) -> BTreeMap<String, (u64, Value)> {
        let documents = self.documents().await;
        self.drop_index().await;
        documents
    }
}

#[tokio::test]
async fn many_workers_make_one_index_with_alias_and_declaration() {
    let live = Live::new();
    let client = live.client();
    let pipeline = pipeline();
    assert_eq!(index::inspect(&client, &pipeline, &live.spec).await.unwrap(), State::Absent);
    let all = (0..6).map(|_| index::ensure(&client, &pipeline, &live.spec));
    for made in futures::future::join_all(all).await {
        assert_eq!(made.unwrap().name, live.first_index());
    }
    let State::Ready(index) = index::inspect(&client, &pipeline, &live.spec).await.unwrap() else {
        panic!("it was made");
    };
    assert!(index.name == live.first_index() && index.uuid.len() > 10, "{index}");
    let health = format!("_cluster/health/{}?wait_for_status=green&timeout=20s", live.spec.alias);
    assert_eq!(live.call(Method::GET, &health, None).await.1["status"], "green");
    let settings =
        live.call(Method::GET, &format!("{}/_settings", live.first_index()), None).await.1;
    assert_eq!(settings[live.first_index()]["settings"]["index"]["gc_deletes"], "1h");
    live.drop_index().await;
}

#[tokio::test]
async fn what_is_not_ours_is_refused() {
    let live = Live::new();
    let client = live.client();
    live.call(Method::PUT, &live.spec.alias, Some(json!({}))).await;
    let error = index::ensure(&client, &pipeline(), &live.spec).await.unwrap_err().to_string();
    assert!(error.contains("is an index and the alias is missing"), "{error}");
    live.call(Method::DELETE, &live.spec.alias, None).await;

    let aliases = json!({"aliases": {live.spec.alias.clone(): {}}});
    live.call(Method::PUT, &live.first_index(), Some(aliases)).await;
    let error = index::ensure(&client, &pipeline(), &live.spec).await.unwrap_err().to_string();
    assert!(error.contains("not made by Tailwater"), "{error}");
    live.drop_index().await;

    index::ensure(&client, &pipeline(), &live.spec).await.unwrap();
    let mut changed = live.spec.clone();
    changed.mapping = json!({"mappings": {"dynamic": "false"}});
    let error = index::ensure(&client, &pipeline(), &changed).await.unwrap_err().to_string();
    assert!(error.contains("declared otherwise"), "{error}");
    live.drop_index().await;

    let mut broken = live.spec.clone();
    broken.mapping = json!({"mappings": {"properties": {"a": {"type": "no-such-type"}}}});
    let error = index::ensure(&client, &pipeline(), &broken).await.unwrap_err().to_string();
    assert!(error.contains("no-such-type"), "{error}");
}

#[tokio::test]
async fn rows_arrive_exactly_and_never_go_back() {
    let live = Live::new();
    let mut writer = open(&live.sink()).await;
    let exact = json!({"id": 1, "name": "Schlüssel\n\"☃\"", "price": "12.30", "big": i64::MAX});
    push_all(&mut writer, [row(10, 1, &exact), put(11, 2, "two"), put(12, 3, "three")]);
    writer.flush(13).await.unwrap();
    push_all(&mut writer, [delete(13, 2), put(14, 3, "drei"), delete(15, 99)]);
    writer.flush(16).await.unwrap();
    // The same again, and older ones, as a writer that slept would send them.
    push_all(&mut writer, [put(11, 2, "undead"), put(12, 3, "old"), put(9, 99, "undead")]);
    let flushed = writer.flush(16).await.unwrap();
    assert!(flushed.rejected.is_empty());
    let documents = live.documents().await;
    let expected = BTreeMap::from([
        ("1".to_owned(), (10, exact)),
        ("3".to_owned(), (14, json!({"id": 3, "name": "drei"}))),
    ]);
    assert_eq!(documents, expected);
    live.drop_index().await;
}

#[tokio::test]
async fn shuffled_repeats_in_any_batches_end_with_the_table() {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let live = Live::new();
    let sink = live.sink();
    let mut rows = BTreeMap::new();
    let mut history: Vec<(u64, i64, bool)> = Vec::new();
    for seq in 1..600 {
        let (id, is_delete) = (random.random_range(0..50), random.random_bool(0.3));
        if is_delete {
            rows.remove(&id.to_string());
        } else {
            let document = json!({"id": id, "name": format!("n{seq}")});
            rows.insert(id.to_string(), (seq, document));
        }
        history.push((seq, id, is_delete));
    }
    for pass in 0..3 {
        let mut writer = open(&sink).await;
        if pass > 0 {
            history.shuffle(&mut random);
        }
        for (seq, id, is_delete) in &history {
            let record =
                if *is_delete { delete(*seq, *id) } else { put(*seq, *id, &format!("n{seq}")) };
            writer.push(record).unwrap();
            if random.random_bool(0.03) {
                writer.flush(0).await.unwrap();
            }
        }
        writer.flush(0).await.unwrap();
    }
    assert_eq!(live.documents().await, rows, "seed {seed}");
    live.drop_index().await;
}

#[tokio::test]
async fn documents_that_do_not_fit_the_mapping_are_set_aside_alone() {
    let live = Live::new();
    let mut writer = open(&live.sink()).await;
    let wrong_type = row(2, 2, &json!({"id": 2, "big": "not a number"}));
    let unknown_field = row(3, 3, &json!({"id": 3, "colour": "red"}));
    push_all(&mut writer, [put(1, 1, "a"), wrong_type.clone(), unknown_field.clone()]);
    let rejected = writer.flush(4).await.unwrap().rejected;
    assert_eq!(rejected.len(), 2);
    assert_eq!(rejected[0].record, wrong_type);
    assert!(rejected[0].reason.contains("failed to parse field [big]"), "{}", rejected[0].reason);
    assert_eq!(rejected[1].record, unknown_field);
    assert!(rejected[1].reason.contains("strict_dynamic_mapping_exception"));
    assert_eq!(live.documents().await.len(), 1);
    live.drop_index().await;
}

#[tokio::test]
async fn a_blocked_index_is_waited_for() {
    let live = Live::new();
    let mut writer = open(&live.sink()).await;
    for block in ["index.blocks.read_only_allow_delete", "index.blocks.write"] {
        live.set(json!({block: true})).await;
        push_all(&mut writer, [put(1, 1, "a"), put(2, 2, "b")]);
        assert_transient(writer.flush(3).await, "is a disk full");
        live.set(json!({block: null})).await;
        assert!(writer.flush(3).await.unwrap().rejected.is_empty());
    }
    assert_eq!(live.documents().await.len(), 2);
    live.call(Method::POST, &format!("{}/_close", live.first_index()), None).await;
    push_all(&mut writer, [put(3, 1, "c")]);
    assert_transient(writer.flush(4).await, "or the index closed");
    live.call(Method::POST, &format!("{}/_open", live.first_index()), None).await;
    writer.flush(4).await.unwrap();
    live.drop_index().await;
}

#[tokio::test]
async fn a_missing_index_is_never_made_by_writing_to_it() {
    let live = Live::new();
    let sink = live.sink();
    let mut writer = open(&sink).await;
    live.drop_index().await;
    push_all(&mut writer, [put(1, 1, "a"), delete(2, 2)]);
    assert_definite(writer.flush(3).await, "no index to write to");
    let mut writer = open(&sink).await;
    push_all(&mut writer, [delete(2, 2)]);
    assert_definite(writer.flush(3).await, "the alias is missing");
    let opened =
        live.sink().open(&partition(), Some(&committed(""))).await.map(|(_, offset)| offset);
    assert_definite(opened, "it is gone");
    for name in [&live.spec.alias, &live.first_index()] {
        assert_eq!(live.call(Method::GET, name, None).await.0, 404, "{name}");
    }
}

#[tokio::test]
async fn awkward_ids_are_taken_as_they_are() {
    let live = Live::new();
    let mut writer = open(&live.sink()).await;
    let long = "é".repeat(256);
    let ids = ["\u{0}\n\"}{", "_id", "a/b?c#d", " ", "☃", long.as_str()];
    for (seq, id) in (1..).zip(ids) {
        let mut record = put(seq, 1, "x");
        record.key = Some(json!({"id": id}).to_string().into());
        writer.push(record).unwrap();
    }
    let mut composite = put(90, 1, "x");
    composite.key = Some("{\"a\":1,\"b\":\"x\"}".into());
    writer.push(composite).unwrap();
    assert!(writer.flush(99).await.unwrap().rejected.is_empty());
    let documents = live.documents().await;
    assert_eq!(documents.len(), ids.len() + 1);
    assert!(ids.iter().all(|id| documents.contains_key(*id)));
    assert!(documents.contains_key("{\"a\":1,\"b\":\"x\"}"));
    live.drop_index().await;
}

#[tokio::test]
async fn an_index_filled_beside_takes_the_place_of_the_old_one_and_is_believed_up_to_its_mark() {
    succeed(Live::new()).await;
}

/// An index is made, filled, succeeded, scanned, and put back.
pub(crate) async fn succeed(world: Live) {
    let sink = world.sink();
    let mut writer = open(&sink).await;
    push_all(&mut writer, (1..=5).map(|seq| put(seq, seq.cast_signed(), "old")));
    let old = writer.flush(6).await.unwrap().metadata;
    let alias = world.spec.alias.clone();
    let client = world.client();
    let State::Ready(current) = index::inspect(&client, &pipeline(), &world.spec).await.unwrap()
    else {
        panic!("it is there")
    };

    let begun = succession::begin(&client, &pipeline(), &world.spec, &current, &filled_from())
        .await
        .unwrap();
    assert_eq!(begun.index.name, format!("{alias}-v2"));
    let mut beside = sink.writer_beside(&partition(), &begun);
    push_all(&mut beside, (1..=3).map(|seq| put(seq, seq.cast_signed(), "new")));
    beside.flush(4).await.unwrap();
    let filled = [(partition(), 4)].into();
    succession::note(&client, &begun.index.name, &filled).await.unwrap();
    let resumed = succession::begin(&client, &pipeline(), &world.spec, &current, &filled_from())
        .await
        .unwrap();
    assert_eq!((&resumed.index.name, resumed.filled()), (&begun.index.name, &filled), "goes on");
    assert_eq!(world.documents().await.len(), 5, "readers see the old one");

    // Put in place too early, it is not believed.
    let left = [(partition(), 6)].into();
    succession::swap(&client, &alias, &current, &resumed, &filled, &left).await.unwrap();
    let at = |offset| Committed { offset, metadata: old.clone() };
    let opened = world.sink().open(&partition(), Some(&at(6))).await.map(|(_, next)| next);
    assert_definite(opened, "and now there is");
    // Filled up to where the group stands, it is.
    let previous = succession::beside(&client, &succession::previous_alias(&alias)).await.unwrap();
    let previous = previous.unwrap();
    assert_eq!((&previous.index.name, previous.filled()), (&current.name, &left));
    let again = Beside { alias: alias.clone(), ..resumed };
    let mut late = sink.writer_beside(&partition(), &again);
    push_all(&mut late, (4..=5).map(|seq| put(seq, seq.cast_signed(), "new")));
    late.flush(6).await.unwrap();
    succession::note(&client, &again.index.name, &[(partition(), 6)].into()).await.unwrap();
    let (mut writer, next) = world.sink().open(&partition(), Some(&at(6))).await.unwrap();
    assert_eq!(next, 6);
    push_all(&mut writer, [put(6, 6, "new")]);
    let remembered = writer.flush(7).await.unwrap().metadata;
    assert_eq!(remembered, again.index.to_string());

    let mut found = Vec::new();
    succession::refresh(&client, &again.index.name).await.unwrap();
    scan::documents(&client, &alias, |document| found.push(document.id)).await.unwrap();
    found.sort();
    assert_eq!(found, ["1", "2", "3", "4", "5", "6"]);

    // And back: the old one is filled on, and replaces what replaced it.
    let State::Ready(current) = index::inspect(&client, &pipeline(), &world.spec).await.unwrap()
    else {
        panic!("it is there")
    };
    let mut back = sink.writer_beside(&partition(), &previous);
    push_all(&mut back, [put(6, 6, "new")]);
    back.flush(7).await.unwrap();
    let filled = [(partition(), 7)].into();
    succession::swap(&client, &alias, &current, &previous, &filled, &filled).await.unwrap();
    let at = Committed { offset: 7, metadata: remembered };
    assert_eq!(world.sink().open(&partition(), Some(&at)).await.unwrap().1, 7);
    assert_eq!(world.documents().await.len(), 6);
}

#[tokio::test]
async fn documents_of_a_declared_shape_are_found_by_their_updates_and_deletions() {
    let mut live = Live::new();
    live.spec = shaped(&live.spec.alias);
    let mut writer = open(&live.sink()).await;
    // On two lines, as somebody may write JSON into a text.
    let attributes = |value: &str| format!("[{{\"name\":\"size\",\n \"value\":{}}}]", json!(value));
    let tenants = ["a", "b", "c:d", "e,f", "\\"];
    let mut seq = 0;
    let mut next = || {
        seq += 1;
        seq
    };
    for round in 0..2 {
        for tenant in tenants {
            for id in 0..5 {
                let text = attributes(&format!("{tenant}{id}{round}"));
                push_all(&mut writer, [stock(next(), tenant, id, &text)]);
            }
        }
        assert!(writer.flush(next().cast_signed()).await.unwrap().rejected.is_empty());
    }
    for tenant in tenants {
        push_all(&mut writer, (0..3).map(|id| delete_stock(next(), tenant, id)));
    }
    // What nobody wrote is deleted as well.
    push_all(&mut writer, [delete_stock(next(), "nobody", 1)]);
    assert!(writer.flush(next().cast_signed()).await.unwrap().rejected.is_empty());
    let documents = live.documents().await;
    let ids: Vec<&str> = documents.keys().map(String::as_str).collect();
    let expected =
        ["3:\\\\", "3:a", "3:b", "3:c\\:d", "3:e,f", "4:\\\\", "4:a", "4:b", "4:c\\:d", "4:e,f"];
    assert_eq!(ids, expected);
    let document = &documents["3:a"].1;
    assert!(document.get("cost").is_none() && document.get("name").is_none(), "{document}");
    assert!(document["title"].as_str().unwrap().starts_with('n'));
    assert_eq!(document["attributes"], json!([{"name": "size", "value": "a31"}]));
    // The nested document is one, and lies on the shard of its tenant.
    let path = format!("{}/_search?routing=b", live.spec.alias);
    let is_b =
        json!({"nested": {"path": "attributes", "query": {"term": {"attributes.value": "b41"}}}});
    let (_, found) = live.call(Method::POST, &path, Some(json!({ "query": is_b }))).await;
    let hits = found["hits"]["hits"].as_array().unwrap();
    assert_eq!(
        (hits.len(), &hits[0]["_id"], &hits[0]["_routing"]),
        (1, &json!("4:b"), &json!("b"))
    );
    live.drop_index().await;
}

#[tokio::test]
async fn an_index_remembers_the_topic_that_fills_it_and_refuses_another_of_its_name() {
    let live = Live::new();
    let sink = |topic: Topic| live.sink_of(topic);
    let mut writer = open(&sink(Topic::first())).await;
    push_all(&mut writer, [put(1, 1, "a")]);
    let remembered = writer.flush(2).await.unwrap().metadata;
    let State::Ready(index) =
        index::inspect(&live.client(), &pipeline(), &live.spec).await.unwrap()
    else {
        panic!("it is there")
    };
    assert_eq!(index.sources(), filled_from());
    let made_again = Topic { id: Some("second-of-its-name----"), ..Topic::first() };
    let next_generation = Topic { generation: Topic::first().generation.next(), ..Topic::first() };
    for (other, word) in [(made_again, "deleted and made again"), (next_generation, "generation 2")]
    {
        for at in [None, Some(Committed { offset: 2, metadata: remembered.clone() })] {
            let opened = sink(other.clone()).open(&partition(), at.as_ref()).await;
            assert_definite(opened.map(|(_, offset)| offset), word);
        }
    }
    let at = Committed { offset: 2, metadata: remembered };
    assert_eq!(sink(Topic::first()).open(&partition(), Some(&at)).await.unwrap().1, 2);
    assert_eq!(live.documents().await.len(), 1, "nothing was written or taken away");
    live.drop_index().await;
}

#[tokio::test]
async fn an_index_that_was_begun_is_abandoned_and_leaves_nothing() {
    abandon(Live::new()).await;
}

/// An index is made, another is begun and deleted.
pub(crate) async fn abandon(world: Live) {
    open(&world.sink()).await;
    let (client, alias) = (world.client(), world.spec.alias.clone());
    let State::Ready(current) = index::inspect(&client, &pipeline(), &world.spec).await.unwrap()
    else {
        panic!("it is there")
    };
    let begun = succession::begin(&client, &pipeline(), &world.spec, &current, &filled_from())
        .await
        .unwrap();
    let other_topic = Topic { id: Some("second-of-its-name----"), ..Topic::first() };
    let from_other = [other_topic.source(&partition().topic)];
    let begun_from_other =
        succession::begin(&client, &pipeline(), &world.spec, &current, &from_other).await;
    let said = begun_from_other.unwrap_err().to_string();
    assert!(said.contains("was filled from another topic"), "{said}");
    let mut other = world.spec.clone();
    other.mapping = json!({"mappings": {"dynamic": true}});
    let begun_otherwise =
        succession::begin(&client, &pipeline(), &other, &current, &filled_from()).await;
    assert!(begun_otherwise.unwrap_err().to_string().contains("declared otherwise"));
    let gone = succession::abandon(&client, &alias).await.unwrap();
    assert_eq!(gone.map(|index| index.name), Some(begun.index.name));
    assert_eq!(succession::abandon(&client, &alias).await.unwrap(), None);
}
