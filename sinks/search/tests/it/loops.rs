use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tailwater_sinks_search::{Patience, SearchSink, SearchWriter};
use tailwater_sinks_worker::contract::{self, Disturbed, Subject, Trouble};
use tailwater_sinks_worker::source::{Source, Sources};
use tailwater_sinks_worker::{Committed, Resume, Sink, SinkError, SourceRecord, Writer};
use tailwater_topics_contract::{SearchSpec, TopicName};

use crate::fake::{Fake, Fault};
use crate::records::{
    REFUSED_NAME, Topic, assert_definite, assert_transient, client, committed, contract_poison,
    contract_record, delete, delete_stock, open, partition, pipeline, push_all, put, row, shaped,
    spec, stock, tombstone, truncate,
};

/// Long enough to see the waits, short enough not to wait for them.
const PATIENCE: Patience =
    Patience { first: Duration::from_millis(1), most: Duration::from_millis(5), rounds: 4 };

fn sink(fake: &Fake, spec: SearchSpec) -> SearchSink {
    sink_of(fake, spec, Topic::first())
}

fn sink_of(fake: &Fake, spec: SearchSpec, topic: Topic) -> SearchSink {
    SearchSink::new(client(&fake.url), pipeline(), spec, topic).with_patience(PATIENCE)
}

async fn start() -> (Fake, SearchWriter) {
    let fake = Fake::start().await;
    let writer = open(&sink(&fake, spec("products"))).await;
    (fake, writer)
}

fn names(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(id, name)| ((*id).to_owned(), (*name).to_owned())).collect()
}

#[tokio::test]
async fn the_search_sink_keeps_the_contract_of_sinks_before_a_server_that_fails_as_it_is_told() {
    contract::check(Fake::for_contract).await;
    contract::check_disturbed(Fake::for_contract).await;
}

#[tokio::test]
async fn a_refused_row_gives_its_place_back_to_the_one_before_it() {
    let (fake, mut writer) = start().await;
    fake.lock().refused_name = Some("bad".to_owned());
    push_all(
        &mut writer,
        [put(1, 1, "good"), put(2, 1, "better"), put(3, 1, "bad"), put(4, 2, "x")],
    );
    let rejected = writer.flush(5).await.unwrap().rejected;
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].record, put(3, 1, "bad"));
    assert_eq!(fake.names(), names(&[("1", "better"), ("2", "x")]));
    assert_eq!(writer.buffered_bytes(), 0);
}

impl Fake {
    async fn for_contract() -> Self {
        let fake = Self::start().await;
        fake.lock().refused_name = Some(REFUSED_NAME.to_owned());
        fake
    }
}

impl Subject for Fake {
    type Sink = SearchSink;
    type Held = BTreeMap<String, String>;

    fn sink(&self) -> SearchSink {
        sink(self, spec("products"))
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

    async fn held(&self) -> BTreeMap<String, String> {
        self.names()
    }
}

impl Disturbed for Fake {
    fn disturb(&self, trouble: Trouble) {
        self.lock().script.push_back(match trouble {
            Trouble::LostReply => Fault::LoseReply,
            Trouble::Fails => Fault::Status(503),
            Trouble::Slow => Fault::Slow,
        });
    }

    fn met(&self) -> usize {
        self.lock().met
    }
}

#[tokio::test]
async fn the_newest_row_of_each_key_reaches_the_index() {
    let (fake, mut writer) = start().await;
    let records = [put(1, 1, "a"), put(2, 2, "b"), put(3, 1, "c"), delete(4, 2), tombstone(5, 2)];
    push_all(&mut writer, records);
    let flushed = writer.flush(6).await.unwrap();
    assert_eq!((flushed.next, flushed.resume), (6, Resume::Continue));
    assert!(flushed.rejected.is_empty());
    assert_eq!(fake.lock().requests, [["1", "2"]]);
    assert_eq!(fake.names(), names(&[("1", "c")]));
    assert_eq!(writer.buffered_bytes(), 0);
}

#[tokio::test]
async fn an_empty_flush_sends_nothing() {
    let (fake, mut writer) = start().await;
    push_all(&mut writer, [tombstone(1, 1)]);
    assert_eq!(writer.flush(9).await.unwrap().next, 9);
    assert!(fake.lock().requests.is_empty());
}

#[tokio::test]
async fn repeats_and_late_writers_never_take_a_document_back() {
    let (fake, mut writer) = start().await;
    push_all(&mut writer, [put(5, 1, "new"), delete(6, 2)]);
    writer.flush(7).await.unwrap();
    push_all(&mut writer, [put(3, 1, "old"), put(4, 2, "undead")]);
    assert!(writer.flush(7).await.unwrap().rejected.is_empty());
    push_all(&mut writer, [put(5, 1, "new"), delete(6, 2)]);
    writer.flush(7).await.unwrap();
    assert_eq!(fake.names(), names(&[("1", "new")]));
}

#[tokio::test]
async fn only_busy_items_are_sent_again() {
    let (fake, mut writer) = start().await;
    fake.script([Fault::BusyItems(2), Fault::None]);
    push_all(&mut writer, (0..4).map(|n| put(n + 1, n.cast_signed(), "x")));
    writer.flush(5).await.unwrap();
    assert_eq!(fake.lock().requests, [vec!["0", "1", "2", "3"], vec!["0", "2"]]);
    assert_eq!(fake.names().len(), 4);
}

#[tokio::test]
async fn a_cluster_that_stays_busy_ends_the_flush_and_the_next_one_goes_on() {
    let (fake, mut writer) = start().await;
    fake.script(std::iter::repeat_n(Fault::Status(429), 4));
    push_all(&mut writer, [put(1, 1, "a")]);
    assert_transient(writer.flush(2).await, "too busy");
    assert_eq!(fake.lock().requests.len(), 4);
    assert!(writer.buffered_bytes() > 0);
    writer.flush(2).await.unwrap();
    assert_eq!(fake.names(), names(&[("1", "a")]));
}

#[tokio::test]
async fn requests_shrink_while_the_cluster_is_busy() {
    let (fake, mut writer) = start().await;
    fake.script([Fault::Status(503), Fault::Status(429)]);
    push_all(&mut writer, (0..2000).map(|n| put(n + 1, n.cast_signed(), "x")));
    assert!(writer.is_full());
    writer.flush(2001).await.unwrap();
    let lengths: Vec<usize> = fake.lock().requests.iter().map(Vec::len).collect();
    assert_eq!(lengths, [2000, 1000, 500, 500, 500, 500]);
}

#[tokio::test]
async fn the_flood_stage_is_waited_for_and_nothing_is_set_aside() {
    let (fake, mut writer) = start().await;
    fake.script([Fault::Flood]);
    push_all(&mut writer, [put(1, 1, "a"), delete(2, 2)]);
    assert_transient(writer.flush(3).await, "is a disk full");
    let flushed = writer.flush(3).await.unwrap();
    assert!(flushed.rejected.is_empty());
    assert_eq!(fake.names(), names(&[("1", "a")]));
}

#[tokio::test]
async fn a_request_too_large_is_halved_until_it_fits() {
    let (fake, mut writer) = start().await;
    fake.lock().operations_max = Some(3);
    push_all(&mut writer, (0..10).map(|n| put(n + 1, n.cast_signed(), "x")));
    assert!(writer.flush(11).await.unwrap().rejected.is_empty());
    assert_eq!(fake.names().len(), 10);
}

#[tokio::test]
async fn a_document_too_large_by_itself_is_set_aside() {
    let (fake, mut writer) = start().await;
    fake.script([Fault::Status(413)]);
    push_all(&mut writer, [put(1, 1, "a")]);
    let rejected = writer.flush(2).await.unwrap().rejected;
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].class, "too-large");
    assert_eq!(rejected[0].record, put(1, 1, "a"));
}

#[tokio::test]
async fn a_bulk_refused_as_a_whole_is_split_until_the_guilty_item_stands_alone() {
    let (fake, mut writer) = start().await;
    fake.lock().poisonous = Some("77".to_owned());
    push_all(&mut writer, (0..100).map(|n| put(n + 1, n.cast_signed(), "x")));
    let rejected = writer.flush(101).await.unwrap().rejected;
    assert_eq!(rejected.len(), 1);
    assert_eq!((rejected[0].record.offset, rejected[0].class), (78, "refused"));
    assert!(rejected[0].reason.contains("Validation Failed"));
    assert_eq!(fake.names().len(), 99);
    assert!(fake.lock().requests.len() < 20);
}

#[tokio::test]
async fn a_document_the_index_refuses_is_set_aside_with_its_record() {
    let (fake, mut writer) = start().await;
    fake.lock().refused_name = Some("bad".to_owned());
    push_all(&mut writer, [put(1, 1, "good"), put(2, 2, "bad"), put(3, 3, "good")]);
    let rejected = writer.flush(4).await.unwrap().rejected;
    assert_eq!(rejected.len(), 1);
    assert_eq!((rejected[0].record.offset, rejected[0].attempts), (2, 1));
    assert!(rejected[0].reason.contains("mapper_parsing_exception"));
    assert!(writer.flush(4).await.unwrap().rejected.is_empty());
    assert_eq!(fake.names().len(), 2);
}

#[tokio::test]
async fn a_refusal_survives_a_flush_that_failed_for_another_reason() {
    let (fake, mut writer) = start().await;
    fake.lock().refused_name = Some("bad".to_owned());
    fake.script([Fault::BusyItems(2), Fault::Flood]);
    push_all(&mut writer, [put(1, 1, "good"), put(2, 2, "bad")]);
    assert_transient(writer.flush(3).await, "is a disk full");
    let rejected = writer.flush(3).await.unwrap().rejected;
    assert_eq!(rejected.len(), 1);
}

#[tokio::test]
async fn a_storm_of_refusals_stops_and_sets_nothing_aside() {
    let (fake, mut writer) = start().await;
    fake.lock().refused_name = Some("bad".to_owned());
    push_all(&mut writer, (0..150).map(|n| put(n + 1, n.cast_signed(), "bad")));
    assert_definite(writer.flush(151).await, "the mapping does not fit");
}

#[tokio::test]
async fn a_lost_reply_is_sent_again_and_changes_nothing() {
    let (fake, mut writer) = start().await;
    push_all(&mut writer, [put(1, 1, "a"), put(2, 2, "b")]);
    writer.flush(3).await.unwrap();
    fake.script([Fault::LoseReply]);
    push_all(&mut writer, [put(3, 1, "c"), delete(4, 2)]);
    assert_transient(writer.flush(5).await, &fake.url);
    writer.flush(5).await.unwrap();
    assert_eq!(fake.names(), names(&[("1", "c")]));
}

#[tokio::test]
async fn an_answer_to_something_else_is_not_believed() {
    let (fake, mut writer) = start().await;
    fake.script([Fault::Garbage]);
    push_all(&mut writer, [put(1, 1, "a"), put(2, 2, "b")]);
    assert_transient(writer.flush(3).await, "answers 1 items where 2 were sent");
    writer.flush(3).await.unwrap();
}

#[tokio::test]
async fn no_answer_names_the_server() {
    let nobody = "http://127.0.0.1:9";
    let sink = SearchSink::new(client(nobody), pipeline(), spec("products"), Topic::first());
    let opened = sink.open(&partition(), None).await.map(|(_, offset)| offset);
    assert_transient(opened, "OpenSearch at http://127.0.0.1:9 did not answer");
}

#[tokio::test]
async fn a_wrong_password_stops_the_partition() {
    let (fake, mut writer) = start().await;
    fake.script([Fault::Status(401)]);
    push_all(&mut writer, [put(1, 1, "a")]);
    assert_definite(writer.flush(2).await, "check user, password");
}

#[tokio::test]
async fn a_truncate_stops_after_everything_before_it_was_written() {
    let (fake, mut writer) = start().await;
    push_all(&mut writer, [put(1, 1, "a"), truncate(2), put(3, 3, "c")]);
    assert!(writer.is_full());
    assert_definite(writer.flush(4).await, "truncated at offset 2");
    assert_definite(writer.flush(4).await, "commit offset 3");
    assert_eq!(fake.names(), names(&[("1", "a")]));
}

#[tokio::test]
async fn records_that_can_be_no_documents_come_back_at_once() {
    let (fake, mut writer) = start().await;
    let mut event = put(1, 1, "a");
    event.value = Some("{\"order\":1}".into());
    assert_eq!(writer.push(event.clone()).unwrap_err().record, event);
    let mut partial = row(2, 1, &json!({"id": 1}));
    let value = String::from_utf8(partial.value.unwrap().to_vec()).unwrap();
    partial.value = Some(value.replacen('{', "{\"unchanged\":[\"name\"],", 1).into());
    let rejected = writer.push(partial).unwrap_err();
    assert_eq!(rejected.class, "unchanged-columns");
    assert!(
        rejected.reason.contains("`name`") && rejected.reason.contains("REPLICA IDENTITY FULL")
    );
    writer.flush(3).await.unwrap();
    assert!(fake.lock().requests.is_empty());
}

#[tokio::test]
async fn an_index_that_vanished_is_not_made_again() {
    let (fake, mut writer) = start().await;
    fake.drop_index();
    push_all(&mut writer, [put(1, 1, "a")]);
    assert_definite(writer.flush(2).await, "no index to write to behind the alias `products`");
    let again = sink(&fake, spec("products"));
    let opened = again.open(&partition(), Some(&committed(""))).await.map(|(_, offset)| offset);
    assert_definite(opened, "it is gone");
}

#[tokio::test]
async fn an_index_made_anew_by_another_partition_does_not_pass_for_the_old_one() {
    let (fake, mut writer) = start().await;
    push_all(&mut writer, [put(1, 1, "a")]);
    let metadata = writer.flush(7).await.unwrap().metadata;
    fake.drop_index();
    let again = sink(&fake, spec("products"));
    open(&again).await;
    let opened = again.open(&partition(), Some(&committed(&metadata))).await;
    let opened = opened.map(|(_, offset)| offset);
    assert_definite(opened, "documents before offset 7 went to `products-v1/uuid-1`");
}

#[tokio::test]
async fn deletes_alone_are_not_sent_to_a_missing_alias() {
    let (fake, mut writer) = start().await;
    fake.drop_index();
    push_all(&mut writer, [delete(1, 1)]);
    assert_definite(writer.flush(2).await, "the alias is missing");
    assert!(fake.lock().requests.is_empty());
}

#[tokio::test]
async fn a_partition_continues_where_the_group_stood() {
    let fake = Fake::start().await;
    let sink = sink(&fake, spec("products"));
    assert_eq!(sink.open(&partition(), None).await.unwrap().1, 0);
    let (mut writer, _) = sink.open(&partition(), None).await.unwrap();
    let metadata = writer.flush(7).await.unwrap().metadata;
    assert_eq!(metadata, "products-v1/uuid-1");
    for metadata in [metadata.as_str(), ""] {
        assert_eq!(sink.open(&partition(), Some(&committed(metadata))).await.unwrap().1, 7);
    }
}

#[tokio::test]
async fn a_changed_declaration_or_another_pipeline_is_refused() {
    let fake = Fake::start().await;
    open(&sink(&fake, spec("products"))).await;
    let mut changed = spec("products");
    changed.mapping = json!({"mappings": {}});
    let opened = sink(&fake, changed).open(&partition(), None).await.map(|(_, offset)| offset);
    assert_definite(opened, "declared otherwise");
    let name = "other".parse().unwrap();
    let other = SearchSink::new(client(&fake.url), name, spec("products"), Topic::first());
    let opened = other.open(&partition(), None).await.map(|(_, offset)| offset);
    assert_definite(opened, "belongs to pipeline \"market\"");
}

#[tokio::test]
async fn an_index_goes_on_only_with_the_topic_that_filled_it() {
    let fake = Fake::start().await;
    let opened = async |topic: Topic, committed: Option<Committed>| {
        let sink = sink_of(&fake, spec("products"), topic);
        sink.open(&partition(), committed.as_ref()).await.map(|(_, offset)| offset)
    };
    let first = Topic::first();
    opened(first.clone(), None).await.unwrap();
    opened(first.clone(), Some(committed("products-v1/uuid-1"))).await.unwrap();
    let made_again = Topic { id: Some("second-of-its-name----"), ..first.clone() };
    // Kafka forgets what was committed of a deleted topic, and other brokers do not.
    for committed in [None, Some(committed("products-v1/uuid-1"))] {
        let opened = opened(made_again.clone(), committed).await;
        assert_definite(opened, "has id second-of-its-name----: it was deleted and made again");
    }
    let registered_again = Topic { id: None, generation: first.generation.next() };
    let refused = opened(registered_again, None).await;
    assert_definite(refused, "generation 2 is registered");
    assert_definite(opened(made_again, None).await, "`tailwater sinks rebuild NAME`");
    opened(Topic { id: None, ..first }, None).await.unwrap();
}

#[tokio::test]
async fn rows_without_the_declared_columns_are_set_aside_and_their_neighbours_and_deletions_go_on()
{
    let fake = Fake::start().await;
    let mut writer = open(&sink(&fake, shaped("products"))).await;
    push_all(&mut writer, [stock(1, "a", 1, "[]"), stock(2, "a:b", 2, "[]")]);
    for (record, class) in [
        (row(3, 3, &json!({"tenant": "a", "id": 3, "name": "x"})), "missing-columns"),
        (stock(3, "a", 3, "7"), "not-nested"),
        (row(3, 3, &json!({"name": "x", "title": "y", "attributes": []})), "same-field"),
        // A key without one of the columns of ids.
        (delete(3, 3), "bad-id"),
    ] {
        let rejected = writer.push(record.clone()).unwrap_err();
        assert_eq!((rejected.class, &rejected.record), (class, &record));
    }
    push_all(&mut writer, [stock(4, "a", 4, "{}"), delete_stock(5, "a", 1)]);
    assert!(writer.flush(6).await.unwrap().rejected.is_empty());
    assert_eq!(fake.lock().requests, [["1:a", r"2:a\:b", "4:a"]]);
    assert_eq!(writer.buffered_bytes(), 0);
}

#[tokio::test]
async fn another_shape_of_documents_asks_for_a_rebuild() {
    let fake = Fake::start().await;
    open(&sink(&fake, shaped("products"))).await;
    let mut changed = shaped("products");
    changed.document.nested.clear();
    let opened = sink(&fake, changed).open(&partition(), None).await.map(|(_, offset)| offset);
    assert_definite(opened, "the shape of its documents was declared otherwise");
}

#[tokio::test]
async fn an_index_of_before_remembers_its_topic_from_the_next_opening_on_and_forgets_nothing_else()
{
    let fake = Fake::start().await;
    open(&sink(&fake, spec("products"))).await;
    let tailwater = |fake: &Fake| fake.meta()["tailwater"].clone();
    let remembered = tailwater(&fake);
    fake.change_meta(|meta| drop(meta["tailwater"].as_object_mut().unwrap().remove("sources")));
    fake.change_meta(|meta| meta["mine"] = json!(1));
    let committed = committed("products-v1/uuid-1");
    sink(&fake, spec("products")).open(&partition(), Some(&committed)).await.unwrap();
    assert_eq!(tailwater(&fake), remembered);
    assert_eq!(fake.meta()["mine"], 1);
    let other = Topic { id: Some("second-of-its-name----"), ..Topic::first() };
    let opened = sink_of(&fake, spec("products"), other).open(&partition(), Some(&committed)).await;
    assert_definite(opened.map(|(_, offset)| offset), "deleted and made again");
    assert_eq!(tailwater(&fake), remembered, "what was remembered is never changed");
}

#[tokio::test]
async fn a_topic_that_nobody_can_tell_is_asked_for_again() {
    struct Silent;
    impl Sources for Silent {
        fn source(&self, _: &TopicName) -> BoxFuture<'_, Result<Source, SinkError>> {
            std::future::ready(Err(SinkError::transient("no broker answers"))).boxed()
        }
    }
    let fake = Fake::start().await;
    let sink = SearchSink::new(client(&fake.url), pipeline(), spec("products"), Silent);
    let opened = sink.open(&partition(), None).await.map(|(_, offset)| offset);
    assert_transient(opened, "no broker answers");
}

#[tokio::test]
async fn any_order_of_faults_and_repeats_ends_with_the_same_index() {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..30 {
        let fake = Fake::start().await;
        let mut spec = spec("products");
        spec.bulk.operations = random.random_range(1..40);
        let sink = sink(&fake, spec);
        let history: Vec<(u64, i64, bool)> = (1..200)
            .map(|seq| (seq, random.random_range(0..20), random.random_bool(0.3)))
            .collect();
        let mut expected = BTreeMap::new();
        for (seq, id, is_delete) in &history {
            if *is_delete {
                expected.remove(&id.to_string());
            } else {
                expected.insert(id.to_string(), format!("name {seq}"));
            }
        }
        // Twice through, as after a crash, each time with other batches and other faults.
        for _ in 0..2 {
            let mut writer = open(&sink).await;
            for (seq, id, is_delete) in &history {
                let record = if *is_delete {
                    delete(*seq, *id)
                } else {
                    put(*seq, *id, &format!("name {seq}"))
                };
                writer.push(record).unwrap();
                if writer.is_full() || random.random_bool(0.05) {
                    fake.lock().operations_max =
                        random.random_bool(0.3).then(|| random.random_range(1..10));
                    fake.script((0..random.random_range(0..4)).map(|_| {
                        match random.random_range(0..6) {
                            0 => Fault::BusyItems(random.random_range(1..4)),
                            1 => Fault::Flood,
                            2 => {
                                Fault::Status([429, 500, 502, 503, 504][random.random_range(0..5)])
                            }
                            3 => Fault::LoseReply,
                            4 => Fault::Garbage,
                            _ => Fault::None,
                        }
                    }));
                    let next = seq.cast_signed() + 1;
                    while let Err(error) = writer.flush(next).await {
                        assert!(
                            matches!(error, tailwater_sinks_worker::SinkError::Transient(_)),
                            "seed {seed}: {error:?}"
                        );
                    }
                }
            }
            fake.script([]);
            let flushed = writer.flush(200).await.unwrap();
            assert!(flushed.rejected.is_empty(), "seed {seed}");
        }
        assert_eq!(fake.names(), expected, "seed {seed}");
    }
}

#[tokio::test]
async fn a_third_busy_items_a_long_flood_and_one_in_a_hundred_poison_end_with_every_other_document()
{
    const RECORDS: u64 = 3_000;
    let fake = Fake::start().await;
    fake.lock().refused_name = Some("poison".to_owned());
    // As if the disk were full for a while in the middle: flushes fail, and the worker calls again.
    let flood = std::iter::repeat_n(Fault::Flood, 60);
    let busy = || std::iter::repeat_n(Fault::BusyItems(3), 40);
    fake.script(busy().chain(flood).chain(busy()));
    let mut spec = spec("products");
    spec.bulk.operations = 50;
    let mut writer = open(&sink(&fake, spec)).await;
    let is_poison = |seq: u64| seq.is_multiple_of(100);
    let (mut rejected, mut failures) = (Vec::new(), 0);
    for seq in 1..=RECORDS {
        let name = if is_poison(seq) { "poison".to_owned() } else { format!("name {seq}") };
        writer.push(put(seq, seq.cast_signed(), &name)).unwrap();
        if seq.is_multiple_of(250) {
            let flushed = loop {
                match writer.flush(seq.cast_signed() + 1).await {
                    Ok(flushed) => break flushed,
                    Err(error) => {
                        assert_transient::<()>(Err(error), "disk full");
                        failures += 1;
                    }
                }
            };
            rejected.extend(flushed.rejected);
        }
    }
    assert!(failures > 10 && fake.lock().script.is_empty(), "{failures} failures");
    let offsets: Vec<i64> = rejected.iter().map(|one| one.record.offset).collect();
    let poison: Vec<i64> =
        (1..=RECORDS).filter(|seq| is_poison(*seq)).map(u64::cast_signed).collect();
    assert_eq!(offsets, poison, "nothing but poison is set aside");
    assert_eq!(fake.names().len() as u64, RECORDS - RECORDS / 100);
}
