//! `pg_logical_emit_message` on a real server.

use serde_json::{Value as Json, json};
use tailwater_topics_contract::{From as Origin, Standing};

use crate::source::{Seen, Source, ops};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_prefix_come_once_in_their_place_and_others_are_nobodys_loss() {
    let mut source = Source::new().await;
    source.sql("CREATE TABLE item (id int PRIMARY KEY)").await;
    source.capture("public.item", &["id"]).await;
    register(&mut source, "audit", "audit.messages");
    let mut stream = source.stream().await;
    source
        .sql(
            "BEGIN; INSERT INTO item VALUES (1);
             SELECT pg_logical_emit_message(true, 'other', 'not ours');
             SELECT pg_logical_emit_message(true, 'audit', E'a \"text\"\\n');
             SAVEPOINT s; SELECT pg_logical_emit_message(true, 'audit', 'rolled back'); ROLLBACK TO s;
             INSERT INTO item VALUES (2); COMMIT",
        )
        .await;
    source.sql("SELECT pg_logical_emit_message(false, 'audit', '\\x00ff'::bytea)").await;
    source
        .sql(
            "BEGIN; SELECT pg_logical_emit_message(false, 'audit', 'stays');
             SELECT pg_logical_emit_message(true, 'audit', 'goes'); ROLLBACK",
        )
        .await;
    source.sql("SELECT pg_logical_emit_message(true, 'audit', '')").await;
    let seen = source.changes(&mut stream).await;
    assert_eq!(ops(&seen), "cmcmmm");
    let messages: Vec<Json> =
        seen.iter().filter(|s| s.op() == "m").map(|s| s.json()["message"].clone()).collect();
    assert_eq!(
        messages,
        [
            json!({"prefix": "audit", "content": "a \"text\"\n"}),
            json!({"prefix": "audit", "content_base64": "AP8="}),
            json!({"prefix": "audit", "content": "stays"}),
            json!({"prefix": "audit", "content": ""}),
        ]
    );
    assert!(seen.iter().filter(|s| s.op() == "m").all(|s| s.key == r#"{"prefix":"audit"}"#));
    let place = |s: &Seen| s.json()["source"]["ordinal"].as_u64().expect("a number");
    assert_eq!(
        seen[..3].iter().map(place).collect::<Vec<_>>(),
        [0, 2, 3],
        "each message is a change"
    );
    assert_eq!(seen[1].json()["source"]["commit_lsn"], seen[0].json()["source"]["commit_lsn"]);
    assert_eq!(seen[3].json()["source"]["txId"], Json::Null, "it belongs to no transaction");
    let commits: Vec<u64> =
        seen.iter().map(|s| s.json()["source"]["commit_lsn"].as_u64().expect("an LSN")).collect();
    assert!(commits.is_sorted(), "{commits:?}");
    assert_eq!(stream.given_up(), 0);
    source.drop([stream]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_removed_topic_are_given_up_and_counted() {
    let mut source = Source::new().await;
    register(&mut source, "audit", "audit.messages");
    for topic in source.registrations.topics.values_mut() {
        if topic.spec.name.as_str() == "audit.messages" {
            topic.standing = Standing::Removed;
        }
    }
    let mut stream = source.stream().await;
    source.sql("SELECT pg_logical_emit_message(true, 'audit', 'x')").await;
    source.sql("SELECT pg_logical_emit_message(false, 'audit', 'x')").await;
    assert_eq!(source.changes(&mut stream).await, []);
    assert_eq!(stream.given_up(), 2);
    source.drop([stream]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_without_a_row_is_the_record_that_one_with_a_row_is() {
    let source = outbox().await;
    let mut stream = source.stream().await;
    let arguments = r#"'shop', 'o-1', 'Placed', '{"a": null, "b": [1.50, "\u00e4"]}', 'key', '{"own": "x", "ce_id": 1}',
        '11111111-1111-1111-1111-111111111111', NULL, '00-01', 3::smallint"#;
    for function in ["append", "emit"] {
        source.sql(&format!("BEGIN; SELECT shop.outbox_{function}({arguments}); COMMIT")).await;
        source.sql(&format!("BEGIN; SELECT shop.outbox_{function}({arguments}); ROLLBACK")).await;
    }
    source.sql("SELECT shop.outbox_emit('shop', 'o-2', 'Placed', '{}')").await;
    let seen = source.changes(&mut stream).await;
    let [row, message, bare] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((&row.topic, &row.key, &row.value), (&message.topic, &message.key, &message.value));
    let names = |seen: &Seen| seen.headers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(row), names(message));
    // What is told apart is when and where it was written, and its id.
    let differ = ["ce_id", "ce_time", "tw-seq", "tw-position"];
    for (row, message) in row.headers.iter().zip(&message.headers) {
        assert_eq!(row == message, !differ.contains(&row.0.as_str()), "{row:?} {message:?}");
    }
    assert_eq!(bare.key, "o-2");
    assert_eq!(bare.value.as_deref(), Some("{}"));
    source.drop([stream]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_no_event_is_set_aside_with_its_bytes_and_one_without_a_topic_stops() {
    let source = outbox().await;
    let mut stream = source.stream().await;
    source
        .sql(
            "BEGIN; SELECT shop.outbox_emit('shop', 'o-1', 'Placed', '{}');
             SELECT pg_logical_emit_message(true, 'shop.outbox', 'no \"event\"');
             SELECT pg_logical_emit_message(true, 'shop.outbox', '{\"id\": \"7\", \"aggregate_type\": \"shop\"}');
             SELECT shop.outbox_emit('shop', 'o-2', 'Placed', '{}'); COMMIT",
        )
        .await;
    let seen = source.changes(&mut stream).await;
    let topics: Vec<&str> = seen.iter().map(|seen| seen.topic.as_str()).collect();
    let letters = "tailwater.market.dlq";
    assert_eq!(topics, ["shop.events", letters, letters, "shop.events"]);
    assert_eq!(seen[1].value.as_deref(), Some(r#"no "event""#));
    let header = |seen: &Seen, name: &str| {
        seen.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone())
    };
    assert_eq!(header(&seen[1], "tw-dlq-class").as_deref(), Some("no-event"));
    let why = header(&seen[2], "tw-dlq-reason").expect("a reason");
    assert!(why.contains("`shop.outbox` is no event: it has no `aggregate_id`"), "{why}");
    let seqs: Vec<u64> = seen
        .iter()
        .map(|seen| header(seen, "tw-seq").expect("a number").parse().expect("a number"))
        .collect();
    assert!(seqs.windows(2).all(|pair| pair[1] == pair[0] + 1), "{seqs:?}");
    source.sql("SELECT shop.outbox_emit('nobody', 'o-1', 'Placed', '{}')").await;
    let error = source.try_changes(&mut stream).await.expect_err("it has no place to go");
    assert!(error.to_string().contains("aggregate type `nobody`, which no topic takes"), "{error}");
    source.drop([stream]).await;
}

/// An outbox as services have it, whose events go to `shop.events`.
async fn outbox() -> Source {
    const SQL: &str = include_str!("../../../services/outbox/sql/outbox.sql");
    let mut source = Source::new().await;
    source.sql(&format!("CREATE SCHEMA shop; {}", SQL.replace("$schema", "shop"))).await;
    source.sql("ALTER PUBLICATION \"all\" ADD TABLE shop.outbox").await;
    let table = "shop.outbox".parse().expect("a table");
    let from = Origin::Outbox { aggregate: "shop".to_owned(), table };
    source.register_as("shop.events", from, &[], |spec| spec.config.clear());
    source
}

fn register(source: &mut Source, prefix: &str, topic: &str) {
    source.register_as(topic, Origin::Message(prefix.to_owned()), &[], |spec| spec.config.clear());
}
