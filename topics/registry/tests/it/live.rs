//! Plans and changes on real Postgres, Kafka, S3 and OpenSearch.

use std::time::{Duration, Instant};

use tailwater_config::PostgresConfig;
use tailwater_config::postgres::Hosts;
use tailwater_topics_registry::{Error, Scope, broker, database, plan, registrations};

use crate::place::Place;

const CATALOG: &str = "\
apiVersion: tailwater/v1
kind: Topic
name: stock.ID
from: { table: shop.stock }
partitions: 3
config: { cleanup.policy: compact, max.message.bytes: 2000000 }
---
apiVersion: tailwater/v1
kind: Topic
name: orders.ID
from: { outbox: orders }
partitions: 2
---
apiVersion: tailwater/v1
kind: Topic
name: odd.ID
from: { table: 'shop.\"Odd \"\"name\"\".here\"' }
---
apiVersion: tailwater/v1
kind: Topic
name: split.ID
from: { table: shop.split }
---
apiVersion: tailwater/v1
kind: Sink
name: lake
type: archive
topics: [stock.ID, orders.ID]
archive: { bucket: registry-ID }
---
apiVersion: tailwater/v1
kind: Sink
name: find
type: search
topics: [stock.ID]
search: { alias: stock-ID, mapping: m.json }
";

fn topic(name: &str, from: &str) -> String {
    format!("---\napiVersion: tailwater/v1\nkind: Topic\nname: {name}.ID\nfrom: {from}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_apply_finds_nothing_to_change() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let changes = place.apply(CATALOG).await?;
    assert_eq!(changes.len(), 19, "{changes:#?}");
    assert_eq!(place.apply(CATALOG).await?, Vec::<String>::new());

    let id = &place.id;
    assert_eq!(
        place.topics()?,
        [
            (format!("odd.{id}"), 1),
            (format!("orders.{id}"), 2),
            (format!("split.{id}"), 1),
            (format!("stock.{id}"), 3),
            (format!("tailwater.reg_{id}.find.dlq"), 1),
            (format!("tailwater.reg_{id}.lake.dlq"), 1),
            (format!("tailwater.reg_{id}.progress"), 1),
            (format!("tailwater.reg_{id}.registrations"), 1),
            (format!("tailwater.reg_{id}.watermarks"), 1),
        ]
    );
    let registered = registrations::load(&place.servers.kafka, &place.pipeline).await?;
    let stock = &registered.topics[&format!("stock.{id}").parse()?];
    assert_eq!(stock.key_columns, ["warehouse", "id"], "in table order");
    let lake = &registered.sinks[&"lake".parse()?];
    assert_eq!(lake.origins.len(), 5);
    assert!(lake.origins.iter().all(|origin| origin.offset == 0 && origin.dt.len() == 10));

    // The application goes on as before, and outbox partitions may be dropped.
    place
        .sql
        .batch_execute(
            "INSERT INTO shop.stock VALUES (1, gen_random_uuid(), 'a', 2.5);
             UPDATE shop.stock SET name = 'b'; DELETE FROM shop.stock;
             INSERT INTO shop.split VALUES (1, '2026-01-02'), (2, '2027-01-01');
             UPDATE shop.split SET id = id + 1; DELETE FROM shop.split;
             DROP TABLE orders.outbox_default;",
        )
        .await?;
    place.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_killed_between_any_two_changes_is_finished_by_the_next() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let catalog = place.catalog(CATALOG)?;
    let mut left = place.plan(CATALOG).await?.expect("can work").changes;
    while !left.is_empty() {
        let registry = place.registry().await?;
        registry.lock().await?;
        let world = registry.observe(&catalog).await?;
        let again = plan(&place.pipeline, &catalog, Scope::All, &world).expect("can work");
        assert_eq!(again.changes, left);
        registry.carry_out(&[left.remove(0)]).await?;
    }
    assert!(place.plan(CATALOG).await?.expect("can work").is_empty());
    place.leave().await
}

/// The leaders of so many learn one after the other that they lead; a sink asks for its first offsets meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_a_thousand_partitions_and_its_sink_are_made_at_once() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let catalog = CATALOG.replace("partitions: 3", "partitions: 1000");
    place.apply(&catalog).await?;
    assert_eq!(place.apply(&catalog).await?, Vec::<String>::new());
    let registered = registrations::load(&place.servers.kafka, &place.pipeline).await?;
    let lake = &registered.sinks[&"lake".parse()?];
    assert_eq!(lake.origins.len(), 1_002);
    place.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_applies_at_once_do_everything_once() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let text = topic("plain", "{ table: shop.plain }");
    let (one, two) = tokio::join!(place.apply(&text), place.apply(&text));
    let mut counts = [one?.len(), two?.len()];
    counts.sort_unstable();
    assert_eq!(counts, [0, 7]);
    place.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_refused_and_nothing_is_made() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let cases = [
        (topic("a", "{ table: shop.none }"), "table `shop.none` does not exist"),
        (
            topic("a", "{ table: shop.unkeyed }"),
            r#"ALTER TABLE "shop"."unkeyed" REPLICA IDENTITY FULL;"#,
        ),
        (topic("a", "{ table: shop.seen }"), "is a view"),
        (topic("a", "{ table: shop.split_1 }"), "name the partitioned table `shop.split` instead"),
        (
            topic("a", "{ outbox: shop }"),
            "column `payload` of outbox table `shop.outbox` is json, not jsonb",
        ),
        (
            topic("a", "{ table: shop.plain }") + "key: [body]\n",
            "is not part of its replica identity",
        ),
        (
            topic("a", "{ table: shop.plain }") + "key: [boody]\n",
            "key column `boody` does not exist",
        ),
        (
            topic("a", "{ table: shop.plain }") + "config: { cleanup.plan: x, retention.ms: 5 }\n",
            "Kafka would not create it: it refuses `cleanup.plan: x`",
        ),
        (topic("a", "{ table: shop.plain }") + "replication: 9\n", "Kafka would not create it"),
        (
            topic("a", "{ table: shop.plain }")
                + "---\napiVersion: tailwater/v1\nkind: Sink\nname: find\ntype: search\ntopics: [a.ID]\n\
                   search: { alias: a-ID, mapping: m.json }\n",
            r#"`body`, and the document would lose them; mend it with: ALTER TABLE "shop"."plain" REPLICA IDENTITY FULL;"#,
        ),
    ];
    for (text, expected) in cases {
        let found = place.refusals(&text).await?;
        assert!(found.iter().any(|refusal| refusal.contains(expected)), "{expected}: {found:#?}");
    }
    assert_eq!(place.topics()?, []);
    place.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sql_of_a_refusal_mends_it() -> anyhow::Result<()> {
    let place = Place::new().await?;
    place.sql.batch_execute("ALTER TABLE shop.split_2 REPLICA IDENTITY NOTHING").await?;
    let text = topic("split", "{ table: shop.split }");
    let refusals = place.plan(&text).await?.expect_err("a partition has no identity");
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    place.sql.batch_execute(refusals[0].remedy.as_deref().expect("SQL")).await?;
    place.apply(&text).await?;
    place.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrow_table_feeds_a_search_sink_by_its_key_alone() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let text = topic("narrow", "{ table: shop.narrow }")
        + "---\napiVersion: tailwater/v1\nkind: Sink\nname: find\ntype: search\ntopics: [narrow.ID]\n\
           search: { alias: narrow-ID, mapping: m.json }\n";
    assert!(place.plan(&text).await?.is_ok(), "no row of it can be stored aside");
    place.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_grow_while_empty_and_settings_change_without_losing_others() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let text = topic("plain", "{ table: shop.plain }")
        + "partitions: 2\nconfig: { cleanup.policy: compact, retention.ms: 60000000 }\n\
           ---\napiVersion: tailwater/v1\nkind: Sink\nname: lake\ntype: archive\ntopics: [plain.ID]\n\
           archive: { bucket: registry-ID }\n";
    place.apply(&text).await?;
    let grown = text.replace("partitions: 2", "partitions: 4").replace("60000000", "70000000");
    let changes = place.apply(&grown).await?;
    assert_eq!(changes.len(), 4, "{changes:#?}");
    assert!(changes[1].contains("retention.ms=70000000 (was 60000000)"), "{changes:#?}");
    assert_eq!(place.apply(&grown).await?, Vec::<String>::new(), "compact is still set");
    let registered = registrations::load(&place.servers.kafka, &place.pipeline).await?;
    assert_eq!(registered.sinks[&"lake".parse()?].origins.len(), 4);

    place.produce(&format!("plain.{}", place.id))?;
    let shrunk = place.refusals(&text).await?;
    assert!(shrunk[0].contains("declare `partitions: 4`"), "{shrunk:#?}");
    let more = place.refusals(&grown.replace("partitions: 4", "partitions: 5")).await?;
    assert!(more[0].contains("lose its order"), "{more:#?}");
    place.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_learns_of_a_sink_that_is_registered_later() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let missing = registrations::follow(&place.servers.kafka, &place.pipeline).await;
    assert!(matches!(missing, Err(registrations::Error::Missing { .. })));
    let (topics, sinks) = CATALOG
        .split_at(CATALOG.find("---\napiVersion: tailwater/v1\nkind: Sink").expect("it is there"));
    place.apply(topics).await?;
    let mut known = registrations::follow(&place.servers.kafka, &place.pipeline).await?;
    assert_eq!((known.borrow().topics.len(), known.borrow().sinks.len()), (4, 0));
    assert!(!sinks.is_empty());
    place.apply(CATALOG).await?;
    let both = known.wait_for(|registered| registered.sinks.len() == 2);
    let known = tokio::time::timeout(Duration::from_secs(10), both).await??.clone();
    let loaded = registrations::load(&place.servers.kafka, &place.pipeline).await?;
    assert_eq!(known, loaded);
    place.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_do_not_answer_are_named_with_what_was_tried() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let mut deaf = place.servers.clone();
    deaf.kafka.set("bootstrap.servers", "127.0.0.1:1");
    let mut gone = place.servers.clone();
    gone.postgres = PostgresConfig::new(Hosts::one("127.0.0.1", 1), "reader", "shop");
    let mut stranger = place.servers.clone();
    stranger.postgres.database = "no_such_database".to_owned();

    let catalog = place.catalog(&topic("plain", "{ table: shop.plain }"))?;
    let begun = Instant::now();
    let observed = async {
        let registry =
            tailwater_topics_registry::Registry::connect(place.pipeline.clone(), deaf).await?;
        registry.observe(&catalog).await
    };
    let connect =
        |servers| tailwater_topics_registry::Registry::connect(place.pipeline.clone(), servers);
    let (observed, gone, stranger) = tokio::join!(observed, connect(gone), connect(stranger));
    assert!(begun.elapsed() < Duration::from_secs(40));

    let kafka = observed.expect_err("nobody listens").to_string();
    assert_eq!(kafka, "Kafka at 127.0.0.1:1 did not answer within 15 s");
    let gone = gone.err().expect("nobody listens");
    assert!(
        matches!(&gone, Error::Database(database::Error::Unreachable { attempts, .. }) if *attempts > 3)
    );
    assert!(
        gone.to_string().starts_with("Postgres at 127.0.0.1:1/shop did not answer: tried"),
        "{gone}"
    );
    let stranger = stranger.err().expect("no such database").to_string();
    assert!(
        stranger.ends_with(
            "refused, 3D000: database \"no_such_database\" does not exist; correct `postgres.database`"
        ),
        "{stranger}"
    );
    assert!(!matches!(gone, Error::Broker(broker::Error::Client(_))));
    place.leave().await
}
