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

fn register(source: &mut Source, prefix: &str, topic: &str) {
    source.register_as(topic, Origin::Message(prefix.to_owned()), &[], |spec| spec.config.clear());
}
