use std::path::Path;

use tailwater_topics_contract::{Origin, Registration};

use super::*;
use crate::removal;
use crate::table::{Column, Identity, TableKind, TableState};

const CATALOG: &str = "\
apiVersion: tailwater/v1
kind: Topic
name: stock.cdc
from: { table: shop.stock }
partitions: 3
config: { cleanup.policy: compact }
---
apiVersion: tailwater/v1
kind: Topic
name: orders.events
from: { outbox: orders }
---
apiVersion: tailwater/v1
kind: Sink
name: lake
type: archive
topics: [stock.cdc, orders.events]
archive: { bucket: events }
---
apiVersion: tailwater/v1
kind: Sink
name: stock-search
type: search
topics: [stock.cdc]
search: { alias: stock, mapping: m.json }
";

fn catalog(text: &str) -> Catalog {
    let load = |_: &Path| Ok(r#"{"mappings":{}}"#.to_owned());
    Catalog::parse([("catalog.yaml", text)], &load).expect("a good catalog")
}

fn pipeline() -> PipelineName {
    "shop".parse().expect("valid")
}

fn topic(name: &str) -> TopicName {
    name.parse().expect("valid")
}

fn column(name: &str, data_type: &str) -> Column {
    Column {
        name: name.to_owned(),
        data_type: data_type.to_owned(),
        is_toastable: data_type == "text" || data_type == "jsonb",
        is_generated: false,
        is_nullable: false,
        base_type: data_type.to_owned(),
        is_enum: false,
    }
}

fn stock() -> TableState {
    TableState {
        kind: TableKind::Plain,
        is_logged: true,
        columns: vec![column("id", "uuid"), column("name", "text")],
        primary_key: vec!["id".into()],
        identity: Identity::Full,
        has_toast: true,
        leaves: vec![],
    }
}

fn outbox() -> TableState {
    let columns = [
        ("id", "uuid"),
        ("created_at", "timestamp with time zone"),
        ("aggregate_type", "text"),
        ("aggregate_id", "text"),
        ("event_type", "text"),
        ("event_version", "smallint"),
        ("partition_key", "text"),
        ("payload", "jsonb"),
        ("headers", "jsonb"),
        ("correlation_id", "uuid"),
        ("causation_id", "uuid"),
        ("traceparent", "text"),
    ];
    TableState {
        kind: TableKind::Partitioned,
        columns: columns.map(|(name, data_type)| column(name, data_type)).to_vec(),
        identity: Identity::Default,
        ..stock()
    }
}

/// Tables and servers, and nothing of the pipeline.
fn empty_world() -> World {
    let name = |text: &str| text.parse::<TableName>().expect("valid");
    World {
        tables: BTreeMap::from([(name("shop.stock"), stock()), (name("orders.outbox"), outbox())]),
        buckets: Some(BTreeSet::new()),
        indices: Some(BTreeMap::new()),
        ..World::default()
    }
}

/// What the servers do with a change.
fn carry_out(world: &mut World, change: &Change) {
    match change.clone() {
        Change::CreateTopic(new) => {
            let state =
                TopicState { partitions: new.partitions, config: new.config, has_records: false };
            world.topics.insert(new.name, state);
        }
        Change::GrowTopic { name, to, .. } => {
            world.topics.get_mut(&name).expect("exists").partitions = to;
        }
        Change::SetTopicConfig { name, settings } => {
            let config = &mut world.topics.get_mut(&name).expect("exists").config;
            config.extend(settings.into_iter().map(|setting| (setting.key, setting.to)));
        }
        Change::CreateBucket { bucket } => {
            world.buckets.get_or_insert_default().insert(bucket);
        }
        Change::CreateIndex { spec } => {
            world.indices.get_or_insert_default().insert(spec.alias, IndexState::Ready);
        }
        Change::RegisterTopic(registration) => {
            let name = registration.spec.name.clone();
            world.registrations.topics.insert(name, registration);
        }
        Change::CreatePublication { name, publish, tables } => {
            let state = PublicationState {
                tables: tables.into_iter().collect(),
                takes_all: false,
                via_root: true,
                publish: publish.to_owned(),
            };
            world.publications.insert(name, state);
        }
        Change::SetPublication { name, publish } => {
            let found = world.publications.get_mut(&name).expect("exists");
            (found.via_root, found.publish) = (true, publish.to_owned());
        }
        Change::PublishTables { name, tables } => {
            world.publications.get_mut(&name).expect("exists").tables.extend(tables);
        }
        Change::RegisterSink { spec, standing, mut origins, new } => {
            origins.extend(new.into_iter().map(|(topic, partition)| Origin {
                topic,
                partition,
                offset: 0,
                dt: "2026-01-01".into(),
            }));
            let name = spec.name.clone();
            world.registrations.sinks.insert(name, SinkRegistration { spec, origins, standing });
        }
        Change::SetStanding(Registration::Topic(topic)) | Change::RereadTable(topic) => {
            world.registrations.topics.insert(topic.spec.name.clone(), topic);
        }
        Change::SetStanding(Registration::Sink(sink)) => {
            world.registrations.sinks.insert(sink.spec.name.clone(), sink);
        }
        Change::UnpublishTables { name, tables } => {
            let held = &mut world.publications.get_mut(&name).expect("exists").tables;
            held.retain(|table| !tables.contains(table));
        }
    }
}

fn planned(text: &str, world: &World) -> Plan {
    plan(&pipeline(), &catalog(text), Scope::All, world).expect("can work")
}

fn applied(text: &str) -> World {
    let mut world = empty_world();
    for change in planned(text, &world).changes {
        carry_out(&mut world, &change);
    }
    world
}

fn refused(text: &str, world: &World) -> Vec<String> {
    let refusals = plan(&pipeline(), &catalog(text), Scope::All, world).expect_err("refused");
    refusals.iter().map(ToString::to_string).collect()
}

#[test]
fn a_first_plan_reads_as_one_line_a_change_in_the_order_of_doing() {
    let plan = planned(CATALOG, &empty_world());
    let lines: Vec<String> = plan.changes.iter().map(ToString::to_string).collect();
    let internal = "cleanup.policy=compact, min.cleanable.dirty.ratio=0.1, segment.bytes=16777216";
    let dead = "cleanup.policy=delete, max.message.bytes=67108864, retention.ms=-1";
    assert_eq!(
        lines,
        [
            &format!("+ topic tailwater.shop.registrations: create with 1 partition, {internal}"),
            &format!("+ topic tailwater.shop.progress: create with 1 partition, {internal}"),
            &format!("+ topic tailwater.shop.watermarks: create with 1 partition, {internal}"),
            "+ topic stock.cdc: create with 3 partitions, cleanup.policy=compact",
            "+ topic orders.events: create with 1 partition",
            &format!("+ topic tailwater.shop.lake.dlq: create with 1 partition, {dead}"),
            &format!("+ topic tailwater.shop.stock-search.dlq: create with 1 partition, {dead}"),
            "+ bucket events: create",
            "+ index stock: create with its mapping and alias",
            "+ topic stock.cdc: register for table `shop.stock`, key (id)",
            "+ topic orders.events: register for aggregate `orders` of outbox `orders.outbox`",
            "+ publication tailwater_shop_changes: create, publishing insert, update, delete, truncate of shop.stock",
            "+ publication tailwater_shop_outbox: create, publishing insert of orders.outbox",
            "+ sink lake: register for stock.cdc, orders.events, 4 partitions from their beginning",
            "+ sink stock-search: register for stock.cdc, 3 partitions from their beginning",
        ]
    );
}

#[test]
fn a_world_as_declared_needs_no_change_wherever_a_kill_came_between() {
    let changes = planned(CATALOG, &empty_world()).changes;
    for done in 0..=changes.len() {
        let mut world = empty_world();
        for change in &changes[..done] {
            carry_out(&mut world, change);
        }
        let rest = planned(CATALOG, &world).changes;
        assert_eq!(rest, changes[done..], "after {done} changes");
    }
}

#[test]
fn both_publications_are_there_before_the_first_table() {
    let text = CATALOG.split("---").nth(1).expect("the outbox topic");
    let plan = planned(text, &empty_world());
    let changes = plan.changes.iter().filter(|change| {
            matches!(change, Change::CreatePublication { name, .. } if name == "tailwater_shop_changes")
        });
    assert_eq!(changes.count(), 1);
}

fn registered(world: &mut World, plan: Vec<Change>) -> Vec<String> {
    for change in &plan {
        carry_out(world, change);
    }
    plan.iter().map(ToString::to_string).collect()
}

#[test]
fn pruning_removes_what_is_not_declared_sinks_first_and_tables_last() {
    let mut world = applied(CATALOG);
    let kept = CATALOG.split("---").next().expect("the first topic");
    let changes = removal::undeclared(&pipeline(), &catalog(kept), Scope::All, &world);
    assert_eq!(
        registered(&mut world, changes.expect("can be removed")),
        [
            "- sink lake: remove",
            "- sink stock-search: remove",
            "- topic orders.events: remove",
            "~ publication tailwater_shop_outbox: take out orders.outbox",
        ]
    );
    let again = removal::undeclared(&pipeline(), &catalog(kept), Scope::All, &world);
    assert_eq!(again, Ok(vec![]));
}

#[test]
fn a_topic_that_a_sink_takes_is_not_removed() {
    let world = applied(CATALOG);
    let name = topic("stock.cdc");
    let refusal = removal::topic(&pipeline(), &name, &world).expect_err("two sinks take it");
    assert!(refusal.to_string().contains("`lake`, `stock-search`"), "{refusal}");
    let unknown = removal::topic(&pipeline(), &topic("stok.cdc"), &world).expect_err("unknown");
    assert!(unknown.to_string().contains("orders.events, stock.cdc"), "{unknown}");
}

#[test]
fn a_removed_sink_comes_back_with_the_origins_it_had() {
    let mut world = applied(CATALOG);
    let name: SinkName = "lake".parse().expect("valid");
    let had = world.registrations.sinks[&name].origins.clone();
    let changes = removal::sink(&name, &world).expect("can be removed");
    registered(&mut world, changes);
    assert!(world.registrations.sink(&name).is_none());
    let lines = registered(&mut world.clone(), planned(CATALOG, &world).changes);
    assert_eq!(lines, ["~ sink lake: register for stock.cdc, orders.events"]);
    let Change::RegisterSink { origins, new, .. } = &planned(CATALOG, &world).changes[0] else {
        panic!("a registration")
    };
    assert_eq!((origins, new.as_slice()), (&had, &[][..]));
}

#[test]
fn a_removed_topic_with_records_is_not_taken_up_again() {
    let text = CATALOG.split("---").next().expect("the first topic");
    let mut world = applied(text);
    let name = topic("stock.cdc");
    let changes = removal::topic(&pipeline(), &name, &world).expect("no sink takes it");
    registered(&mut world, changes);
    world.topics.get_mut(&name).expect("exists").has_records = true;
    assert!(refused(text, &world)[0].contains("was removed and still holds its records"));
    world.topics.get_mut(&name).expect("exists").has_records = false;
    let before = world.registrations.generation(&name);
    let plan = planned(text, &world).changes;
    let lines = registered(&mut world, plan);
    assert_eq!(lines.len(), 2, "registered and published: {lines:?}");
    assert_eq!(world.registrations.generation(&name), before.next());
}

#[test]
fn a_topic_that_vanished_from_kafka_is_made_again_as_the_next_generation() {
    let mut world = applied(CATALOG);
    let name = topic("stock.cdc");
    world.topics.remove(&name);
    let before = world.registrations.generation(&name);
    assert_eq!(before, Generation::default());
    let plan = planned(CATALOG, &world).changes;
    assert!(plan.iter().any(|change| matches!(change, Change::RegisterTopic(_))), "{plan:?}");
    for change in plan {
        carry_out(&mut world, &change);
    }
    assert_eq!(world.registrations.generation(&name), before.next());
    assert!(planned(CATALOG, &world).is_empty(), "once");
}

#[test]
fn an_archive_keeps_its_place_and_what_it_promises() {
    let with = |archive: &str| CATALOG.replace("{ bucket: events }", archive);
    let world = applied(CATALOG);
    let segments = with("{ bucket: events, segment: { age: 5s, idle: 1s } }");
    assert_eq!(planned(&segments, &world).changes.len(), 1, "segments may change");
    for (archive, problem) in [
        ("{ bucket: other }", "is registered for bucket `events` and prefix ``"),
        ("{ bucket: events, prefix: a/ }", "is registered for bucket `events` and prefix ``"),
        ("{ bucket: events, guarantee: at-least-once }", "is registered as exactly-once"),
    ] {
        let refused = refused(&with(archive), &world);
        assert!(refused[0].contains(problem), "{archive}: {refused:?}");
        assert!(refused[0].contains("a sink of another name"), "{archive}: {refused:?}");
    }
}

#[test]
fn documents_that_name_what_is_not_there_are_refused() {
    let with = |document: &str| {
        CATALOG.replace(
            "mapping: m.json }",
            &format!("mapping: m.json, document: {{ {document} }} }}"),
        )
    };
    for (document, problem) in [
        ("include: [id, colour]", "column `colour`"),
        ("rename: { colour: farbe }", "column `colour`"),
        ("nested: [colour]", "column `colour`"),
        ("id: [name]", "`name` is not in the key (id)"),
        ("routing: name", "`name` is not in the key (id)"),
    ] {
        let refused = refused(&with(document), &empty_world());
        assert!(refused[0].contains(problem), "{document}: {refused:?}");
    }
    let shaped = with("id: [id], routing: id, exclude: [name]");
    let world = applied(&shaped);
    assert!(planned(&shaped, &world).is_empty());
    let refused = refused(CATALOG, &world);
    assert!(refused[0].contains("another `mapping` or `document`"), "{refused:?}");
    assert!(refused[0].contains("tailwater sinks rebuild stock-search"), "{refused:?}");
}

#[test]
fn an_apply_leaves_a_paused_sink_paused() {
    let mut world = applied(CATALOG);
    let name: SinkName = "lake".parse().expect("valid");
    let changes = removal::pause_sink(&name, Standing::Paused, &world).expect("is registered");
    assert_eq!(registered(&mut world, changes), ["~ sink lake: pause"]);
    let more = CATALOG.replace("{ bucket: events }", "{ bucket: events, segment: { age: 5s } }");
    registered(&mut world.clone(), planned(&more, &world).changes);
    assert!(planned(CATALOG, &world).is_empty());
    for change in planned(&more, &world).changes {
        carry_out(&mut world, &change);
    }
    assert_eq!(world.registrations.sinks[&name].standing, Standing::Paused);
    let again = removal::pause_sink(&name, Standing::Paused, &world).expect("is registered");
    assert_eq!(again, [], "it is paused already");
}

#[test]
fn rows_taken_by_a_topic_of_another_catalog_are_refused() {
    let world = applied(CATALOG);
    let text = CATALOG.split("---").next().expect("the first topic");
    let text = text.replace("name: stock.cdc", "name: stock.again");
    assert!(refused(&text, &world)[0].contains("`stock.cdc` is registered for the same rows"));
}

#[test]
fn events_without_a_route_are_refused_unless_their_topic_was_removed() {
    let table: TableName = "orders.outbox".parse().expect("valid");
    let found = |world: &mut World, aggregates: &[&str]| {
        let aggregates = aggregates.iter().map(ToString::to_string).collect();
        world.aggregates.insert(table.clone(), aggregates);
    };
    let text = CATALOG.split("---").nth(1).expect("the outbox topic");
    let mut world = empty_world();
    found(&mut world, &["orders", "refunds"]);
    let refusals = refused(text, &world);
    assert!(refusals[0].contains("aggregate type `refunds`, which no topic takes"), "{refusals:?}");
    let both = format!("{text}---{}", text.replace("orders.events", "refunds.events")).replacen(
        "refunds.events\nfrom: { outbox: orders }",
        "refunds.events\nfrom: { outbox: refunds, table: orders.outbox }",
        1,
    );
    for change in planned(&both, &world).changes {
        carry_out(&mut world, &change);
    }
    let name = topic("refunds.events");
    let changes = removal::topic(&pipeline(), &name, &world).expect("no sink takes it");
    registered(&mut world, changes);
    assert!(planned(text, &world).is_empty());
}

#[test]
fn a_column_named_like_card_data_is_refused_unless_exposed() {
    let mut world = empty_world();
    let table = world.tables.get_mut(&"shop.stock".parse().expect("valid")).expect("exists");
    table.columns.push(column("CardNumber", "text"));
    let text = CATALOG.split("---").next().expect("the first topic");
    let found = refused(text, &world);
    assert!(found[0].contains("column `CardNumber` of `shop.stock`"), "{found:?}");
    assert!(found[0].ends_with("mend it with: expose: [CardNumber]"), "{found:?}");
    let plan = planned(&format!("{text}expose: [CardNumber]\n"), &world);
    assert!(!plan.is_empty());
}

#[test]
fn what_is_registered_and_not_declared_is_left_alone() {
    let world = applied(CATALOG);
    let text = CATALOG.split("---").next().expect("the first topic");
    assert!(planned(text, &world).is_empty());
}

#[test]
fn origins_stay_and_new_partitions_are_added_to_them() {
    let mut world = applied(CATALOG);
    let mut text = CATALOG.replace("partitions: 3", "partitions: 4");
    let plan = planned(&text, &world);
    let Some(Change::RegisterSink { origins, new, .. }) = plan.changes.last() else {
        panic!("a sink is registered last: {plan:?}")
    };
    assert_eq!((origins.len(), new.as_slice()), (3, &[(topic("stock.cdc"), 3)][..]));
    let topics_only = plan_scoped(&text, Scope::Topics, &world).expect_err("sinks must know");
    assert!(topics_only[0].to_string().contains("`tailwater apply`"), "{topics_only:?}");

    world.topics.get_mut(&topic("stock.cdc")).expect("exists").has_records = true;
    assert!(refused(&text, &world)[0].contains("lose its order"));
    text = CATALOG.replace("partitions: 3", "partitions: 2");
    assert!(refused(&text, &world)[0].contains("declare `partitions: 3`"));
}

fn plan_scoped(text: &str, scope: Scope, world: &World) -> Result<Plan, Vec<Refusal>> {
    plan(&pipeline(), &catalog(text), scope, world)
}

#[test]
fn topics_and_sinks_can_be_planned_apart() {
    let mut world = empty_world();
    let early = plan_scoped(CATALOG, Scope::Sinks, &world).expect_err("no topic yet");
    assert!(early[0].to_string().contains("`tailwater topics apply`"), "{early:?}");
    let topics = plan_scoped(CATALOG, Scope::Topics, &world).expect("can work");
    for change in topics.changes {
        carry_out(&mut world, &change);
    }
    let sinks = plan_scoped(CATALOG, Scope::Sinks, &world).expect("can work");
    for change in sinks.changes {
        carry_out(&mut world, &change);
    }
    assert!(planned(CATALOG, &world).is_empty());
}

#[test]
fn settings_that_differ_are_set_and_unknown_ones_refused() {
    let mut world = applied(CATALOG);
    let state = world.topics.get_mut(&topic("stock.cdc")).expect("exists");
    state.config.insert("cleanup.policy".into(), "delete".into());
    let lines: Vec<String> =
        planned(CATALOG, &world).changes.iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["~ topic stock.cdc: set cleanup.policy=compact (was delete)"]);
    let text = CATALOG.replace("cleanup.policy: compact", "cleanup.polcy: compact");
    assert!(refused(&text, &world)[0].contains("`cleanup.polcy` is not a topic setting"));
}

#[test]
fn every_obstacle_is_refused_at_its_place_and_nothing_is_planned() {
    let mut world = empty_world();
    let table = world.tables.get_mut(&"shop.stock".parse().expect("valid")).expect("exists");
    (table.identity, table.primary_key) = (Identity::Default, vec![]);
    world.tables.remove(&"orders.outbox".parse().expect("valid"));
    world.buckets = None;
    let found = refused(CATALOG, &world);
    assert!(found[0].starts_with("catalog.yaml:3:1: topic `stock.cdc`"), "{found:#?}");
    assert!(found[0].contains("mend it with: ALTER TABLE"), "{found:#?}");
    assert!(found[1].contains("table `orders.outbox` does not exist"), "{found:#?}");
    assert!(found[2].contains("there is no `s3` section"), "{found:#?}");
    assert!(found[3].contains("would lose them"), "{found:#?}");
}

#[test]
fn a_search_sink_needs_every_column_of_a_changed_row() {
    let mut world = empty_world();
    let table = world.tables.get_mut(&"shop.stock".parse().expect("valid")).expect("exists");
    table.identity = Identity::Default;
    let found = refused(CATALOG, &world);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].contains("`name`") && found[0].contains("REPLICA IDENTITY FULL"));
}

#[test]
fn a_topic_with_records_of_somebody_else_is_not_taken_over() {
    let mut world = empty_world();
    let state = TopicState { partitions: 3, has_records: true, ..TopicState::default() };
    world.topics.insert(topic("stock.cdc"), state);
    assert!(refused(CATALOG, &world).iter().any(|r| r.contains("did not write")));
}

#[test]
fn a_registered_topic_or_sink_keeps_what_its_history_rests_on() {
    let mut world = applied(CATALOG);
    world.tables.insert("shop.other".parse().expect("valid"), stock());
    let moved = CATALOG.replace("shop.stock", "shop.other");
    assert!(refused(&moved, &world)[0].contains("is registered for table `shop.stock`"));
    let keyed = CATALOG.replace("partitions: 3", "partitions: 3\nkey: [name]");
    assert!(refused(&keyed, &world)[0].contains("its key was (id)"));
    let bucket = CATALOG.replace("bucket: events", "bucket: other");
    assert!(refused(&bucket, &world)[0].contains("is registered for bucket `events`"));
    let fewer = CATALOG.replace("[stock.cdc, orders.events]", "[stock.cdc]");
    assert!(refused(&fewer, &world)[0].contains("nothing is ever taken away"));
}

/// What stands in the way of a topic of rows with these further settings.
fn rows_refused(settings: &str, touch: impl FnOnce(&mut World)) -> Vec<String> {
    let text = format!(
        "apiVersion: tailwater/v1\nkind: Topic\nname: stock.cdc\nfrom: {{ table: shop.stock }}\n{settings}"
    );
    let mut world = empty_world();
    touch(&mut world);
    match plan(&pipeline(), &catalog(&text), Scope::All, &world) {
        Ok(_) => Vec::new(),
        Err(refusals) => refusals
            .iter()
            .map(|r| format!("{} [{}]", r.problem, r.remedy.as_deref().unwrap_or_default()))
            .collect(),
    }
}

#[test]
fn masks_that_would_hide_nothing_or_the_key_are_rows_refused() {
    let nothing = |_: &mut World| {};
    assert_eq!(rows_refused("mask: { name: truncate(3) }\n", nothing), [""; 0]);
    for (mask, problem) in [
        ("{ nam: drop }", "masked column `nam` does not exist in `shop.stock`, which has id, name"),
        ("{ id: hmac }", "in the key, which is never masked"),
    ] {
        let found = rows_refused(&format!("mask: {mask}\n"), nothing);
        assert!(found.len() == 1 && found[0].contains(problem), "{found:?}");
    }
    let numbers = |world: &mut World| {
        for table in world.tables.values_mut() {
            table.columns.push(column("n", "integer"));
        }
    };
    let found = rows_refused("mask: { n: truncate(3) }\n", numbers);
    assert!(found[0].contains("only texts can be truncated"), "{found:?}");
}

#[test]
fn columns_that_debezium_leaves_out_have_to_be_left_out_in_words() {
    let odd = |world: &mut World| {
        for table in world.tables.values_mut() {
            table.columns.push(column("place", "shop.address"));
            table.columns.push(Column { is_enum: true, ..column("mood", "shop.mood") });
            table.columns.push(Column { base_type: "jsonb".into(), ..column("d", "shop.doc") });
        }
    };
    let found = rows_refused("values: debezium\n", odd);
    assert!(found.len() == 1 && found[0].contains("[mask: { place: drop }]"), "{found:?}");
    assert_eq!(rows_refused("values: debezium\nmask: { place: drop }\n", odd), [""; 0]);
    assert_eq!(rows_refused("", odd), [""; 0]);
}

#[test]
fn a_declared_key_that_may_hold_null_is_rows_refused() {
    let nullable = |world: &mut World| {
        for table in world.tables.values_mut() {
            table.columns[1].is_nullable = true;
        }
    };
    let found = rows_refused("key: [name]\n", nullable);
    assert!(found[0].contains(r#"ALTER COLUMN "name" SET NOT NULL"#), "{found:?}");
    assert_eq!(rows_refused("key: [name]\n", |_| {}), [""; 0]);
}

#[test]
fn messages_need_no_table_and_are_registered_under_their_prefix() {
    let text = "apiVersion: tailwater/v1\nkind: Topic\nname: audit\nfrom: { message: audit }\n";
    let planned = plan(&pipeline(), &catalog(text), Scope::All, &empty_world()).expect("works");
    let lines: Vec<String> = planned.changes.iter().map(ToString::to_string).collect();
    let line = "+ topic audit: register for messages with prefix `audit`";
    assert!(lines.iter().any(|found| found == line), "{lines:?}");
}

#[test]
fn a_publication_made_by_hand_is_mended_or_refused() {
    let mut world = applied(CATALOG);
    let name = pipeline().changes_publication();
    let found = world.publications.get_mut(&name).expect("exists");
    found.via_root = false;
    found.tables.clear();
    let lines: Vec<String> =
        planned(CATALOG, &world).changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "~ publication tailwater_shop_changes: publish insert, update, delete, truncate, partitions as their root",
            "~ publication tailwater_shop_changes: add shop.stock",
        ]
    );
    let found = world.publications.get_mut(&name).expect("exists");
    found.tables.insert("orders.outbox".parse().expect("valid"));
    assert!(refused(CATALOG, &world)[0].contains("DROP TABLE \"orders\".\"outbox\";"));
    world.publications.get_mut(&name).expect("exists").takes_all = true;
    assert!(refused(CATALOG, &world)[0].contains("FOR ALL TABLES"));
}
