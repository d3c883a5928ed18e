//! Everything that can happen to a table while it is captured, on a real server.

use serde_json::{Value as Json, json};

use tailwater_config::PostgresConfig;
use tailwater_config::postgres::Hosts;

use crate::live::connect;
use crate::own_postgres::OwnPostgres;
use crate::source::{Seen, Source, ops};

// ---- rows ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_primary_key_is_a_delete_and_a_create_even_when_two_rows_swap_theirs() {
    let mut source = Source::new().await;
    source
        .sql(
            "CREATE TABLE pair (a int, b text, v text, PRIMARY KEY (b, a) DEFERRABLE);
             CREATE UNIQUE INDEX pair_key ON pair (a, b); ALTER TABLE pair ALTER a SET NOT NULL, ALTER b SET NOT NULL;
             ALTER TABLE pair REPLICA IDENTITY USING INDEX pair_key",
        )
        .await;
    source.capture("public.pair", &["a", "b"]).await;
    let mut stream = source.stream().await;
    source.sql("INSERT INTO pair VALUES (1, 'x', 'first'), (2, 'x', 'second')").await;
    source.sql("UPDATE pair SET v = v || '!'").await;
    source.sql("BEGIN; UPDATE pair SET a = 9 WHERE a = 1; UPDATE pair SET a = 1 WHERE a = 2; UPDATE pair SET a = 2 WHERE a = 9; COMMIT").await;
    let seen = source.changes(&mut stream).await;
    assert_eq!(ops(&seen), "ccuud-cd-cd-c");
    let keys: Vec<&str> = seen[4..].iter().map(|seen| seen.key.as_str()).collect();
    let (one, two, nine) = (r#"{"a":1,"b":"x"}"#, r#"{"a":2,"b":"x"}"#, r#"{"a":9,"b":"x"}"#);
    assert_eq!(keys, [one, one, nine, two, two, one, nine, nine, two]);
    assert_eq!(after(&seen[6]), json!({"a": 9, "b": "x", "v": "first!"}));
    // The three records of one change share its place, and nothing else does.
    let places: Vec<Json> =
        seen[4..].iter().filter(|seen| seen.value.is_some()).map(ordinal).collect();
    assert_eq!(places, [0, 0, 1, 1, 2, 2]);
    source.drop([stream]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_come_whichever_statement_wrote_them() {
    let mut source = Source::new().await;
    source.sql("CREATE TABLE item (id int PRIMARY KEY, v text)").await;
    source.capture("public.item", &["id"]).await;
    let mut stream = source.stream().await;
    source.sql("INSERT INTO item SELECT g, 'x' FROM generate_series(1, 3) g").await;
    source.sql("INSERT INTO item VALUES (3, 'y'), (4, 'y') ON CONFLICT (id) DO UPDATE SET v = 'conflict'").await;
    source.sql("INSERT INTO item VALUES (3, 'z') ON CONFLICT DO NOTHING").await;
    if source.version().await >= 150_000 {
        source.sql("MERGE INTO item USING (VALUES (4), (5)) AS s (id) ON item.id = s.id WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'merged')").await;
    } else {
        source.sql("DELETE FROM item WHERE id = 4; INSERT INTO item VALUES (5, 'merged')").await;
    }
    source.sql("WITH gone AS (DELETE FROM item WHERE id = 1 RETURNING id) INSERT INTO item SELECT id + 10, 'moved' FROM gone").await;
    source.sql("UPDATE item SET v = v WHERE id = 2").await;
    source.sql("SET session_replication_role = replica; INSERT INTO item VALUES (6, 'replica'); RESET session_replication_role").await;
    source.sql("VACUUM FULL item").await;
    source.sql("REINDEX TABLE item").await;
    let seen = source.changes(&mut stream).await;
    // Within one statement Postgres may write its rows in any order it likes.
    let mut merged: Vec<&str> = vec![&seen[5].key, &seen[6].key, &seen[7].key];
    merged.sort_unstable();
    assert_eq!(merged, [r#"{"id":4}"#, r#"{"id":4}"#, r#"{"id":5}"#]);
    assert_eq!(ops(&seen[..5]), "cccuc");
    let mut rest: Vec<char> = ops(&seen[5..]).chars().collect();
    rest.sort_unstable();
    assert_eq!(String::from_iter(rest), "--cccddu");
    source.drop([stream]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_rolled_back_never_comes_and_what_stays_is_numbered_without_holes() {
    let mut source = Source::new().await;
    source.sql("CREATE TABLE item (id int PRIMARY KEY)").await;
    source.capture("public.item", &["id"]).await;
    let mut stream = source.stream().await;
    source
        .sql(
            "BEGIN; INSERT INTO item VALUES (1);
             SAVEPOINT a; INSERT INTO item VALUES (2); SAVEPOINT b; INSERT INTO item VALUES (3);
             ROLLBACK TO a; INSERT INTO item VALUES (4); RELEASE a;
             SAVEPOINT c; DELETE FROM item; TRUNCATE item; ROLLBACK TO c;
             DO $$ BEGIN INSERT INTO item VALUES (5); INSERT INTO item VALUES (5);
                   EXCEPTION WHEN unique_violation THEN INSERT INTO item VALUES (6); END $$;
             COMMIT",
        )
        .await;
    source.sql("BEGIN; INSERT INTO item VALUES (7); ROLLBACK").await;
    source.sql("INSERT INTO item VALUES (8)").await;
    let seen = source.changes(&mut stream).await;
    assert_eq!(ids(&seen), [1, 4, 6, 8]);
    assert_eq!(seen.iter().map(ordinal).collect::<Vec<_>>(), [0, 1, 2, 0]);
    source.drop([stream]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interleaved_transactions_come_one_after_the_other_in_the_order_of_their_commits() {
    let mut source = Source::new().await;
    source.sql("CREATE TABLE item (id int PRIMARY KEY)").await;
    source.capture("public.item", &["id"]).await;
    let mut stream = source.stream().await;
    let others = [
        connect(&source.postgres, &source.name).await,
        connect(&source.postgres, &source.name).await,
        connect(&source.postgres, &source.name).await,
    ];
    for other in &others {
        other.batch_execute("BEGIN").await.expect("begins");
    }
    for round in 0..5 {
        for (at, other) in others.iter().enumerate() {
            let sql = format!("INSERT INTO item VALUES ({})", at * 100 + round);
            other.batch_execute(&sql).await.expect("inserts");
        }
    }
    for at in [2, 0, 1] {
        others[at].batch_execute("COMMIT").await.expect("commits");
    }
    let seen = source.changes(&mut stream).await;
    let expected = [200, 0, 100].into_iter().flat_map(|first| first..first + 5);
    assert_eq!(ids(&seen), expected.collect::<Vec<i64>>());
    let commits: Vec<u64> = seen
        .iter()
        .map(|seen| seen.json()["source"]["commit_lsn"].as_u64().expect("an LSN"))
        .collect();
    assert!(commits.is_sorted() && commits[4] < commits[5] && commits[9] < commits[10]);
    source.drop([stream]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_transaction_comes_when_it_is_committed() {
    // Servers have no room for such transactions unless told.
    let mut server = OwnPostgres::new();
    server.set("max_prepared_transactions = 4");
    server.start();
    let hosts = Hosts::parse(&server.socket(), server.port).expect("a folder");
    let mut source = Source::on(PostgresConfig::new(hosts, "postgres", "postgres")).await;
    source.sql("CREATE TABLE item (id int PRIMARY KEY)").await;
    source.capture("public.item", &["id"]).await;
    let mut stream = source.stream().await;
    source.sql("BEGIN; INSERT INTO item VALUES (1), (2); PREPARE TRANSACTION 'kept'").await;
    source.sql("BEGIN; INSERT INTO item VALUES (3); PREPARE TRANSACTION 'dropped'").await;
    source.sql("INSERT INTO item VALUES (4)").await;
    assert_eq!(ids(&source.changes(&mut stream).await), [4]);
    source.sql("ROLLBACK PREPARED 'dropped'").await;
    source.sql("INSERT INTO item VALUES (5)").await;
    source.sql("COMMIT PREPARED 'kept'").await;
    let seen = source.changes(&mut stream).await;
    assert_eq!(ids(&seen), [5, 1, 2]);
    let commit = |seen: &Seen| seen.json()["source"]["commit_lsn"].as_u64().expect("an LSN");
    assert!(commit(&seen[0]) < commit(&seen[1]), "it stands at its commit");
    source.drop([stream]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_value_that_did_not_change_is_named_or_filled_in() {
    let mut source = Source::new().await;
    let big = "(SELECT string_agg(md5(g::text), '') FROM generate_series(1, 500) g)";
    for (table, identity) in [("by_key", "DEFAULT"), ("whole", "FULL")] {
        source
            .sql(&format!(
                "CREATE TABLE {table} (id int PRIMARY KEY, n int, big text, doc jsonb, small text);
                 ALTER TABLE {table} REPLICA IDENTITY {identity}"
            ))
            .await;
        source.capture(&format!("public.{table}"), &["id"]).await;
    }
    let mut stream = source.stream().await;
    for table in ["by_key", "whole"] {
        source
            .sql(&format!("INSERT INTO {table} SELECT 1, 0, {big}, jsonb_build_array({big}), 's'"))
            .await;
        source.sql(&format!("UPDATE {table} SET n = 1")).await;
        source.sql(&format!("UPDATE {table} SET big = NULL")).await;
        source.sql(&format!("UPDATE {table} SET id = 2")).await;
        source.sql(&format!("DELETE FROM {table}")).await;
    }
    let seen = source.changes(&mut stream).await;
    assert_eq!(ops(&seen), "cuud-cd-".repeat(2));
    let (by_key, whole) = seen.split_at(8);
    let stored = after(&by_key[0]);
    assert_eq!(stored["big"].as_str().expect("sent").len(), 500 * 32);
    assert_eq!(by_key[1].json()["unchanged"], json!(["big", "doc"]));
    assert_eq!(after(&by_key[1]), json!({"id": 1, "n": 1, "small": "s"}));
    assert_eq!(by_key[2].json()["unchanged"], json!(["doc"]));
    assert_eq!(
        by_key[5].json()["unchanged"],
        json!(["doc"]),
        "under a new key it is still not sent"
    );
    for (record, n) in [(&whole[1], 1), (&whole[2], 1)] {
        assert_eq!(record.json().get("unchanged"), None);
        assert_eq!((&after(record)["doc"], &after(record)["n"]), (&stored["doc"], &json!(n)));
    }
    assert_eq!(after(&whole[1])["big"], stored["big"]);
    assert_eq!(after(&whole[2])["big"], Json::Null);
    assert_eq!(whole[6].json()["before"]["doc"], stored["doc"]);
    source.drop([stream]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_widths_at_the_borders_of_what_postgres_allows_arrive_whole() {
    let mut source = Source::new().await;
    let odd = r#""Quoted_"" . Schema"."Quoted_"" . Table""#;
    source
        .sql(&format!(
            r#"CREATE SCHEMA "Quoted_"" . Schema";
               CREATE TABLE {odd} ("id" int PRIMARY KEY, "ID" int, "a ""q"" \ b" text, "漢字" text, "new
line" text);
               CREATE TABLE wide (id int PRIMARY KEY, {});"#,
            (1..1600).map(|n| format!("c{n} int")).collect::<Vec<_>>().join(", ")
        ))
        .await;
    source.sql(&format!("ALTER PUBLICATION \"all\" ADD TABLE {odd}, wide")).await;
    let from =
        |table: &str| tailwater_topics_contract::From::Table(table.parse().expect("a table"));
    source.register_as("odd", from(odd), &["id"], |_| {});
    source.register_as("wide", from("public.wide"), &["id"], |_| {});
    let mut stream = source.stream().await;
    source.sql(&format!("INSERT INTO {odd} VALUES (1, 2, 'three', 'four', 'five')")).await;
    source.sql("INSERT INTO wide (id, c1599) VALUES (1, 7)").await;
    let seen = source.changes(&mut stream).await;
    let row =
        json!({"id": 1, "ID": 2, "a \"q\" \\ b": "three", "漢字": "four", "new\nline": "five"});
    assert_eq!(after(&seen[0]), row);
    assert_eq!(seen[0].json()["source"]["schema"], "Quoted_\" . Schema");
    assert_eq!(after(&seen[1]).as_object().map(serde_json::Map::len), Some(1600));
    assert_eq!(after(&seen[1])["c1599"], 7);
    assert!(!seen[0].value.as_deref().expect("a value").contains('\n'), "one line");
    source.drop([stream]).await;
}

// ---- TRUNCATE ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncate_comes_once_for_each_table_and_partition_of_a_topic() {
    let mut source = Source::new().await;
    source
        .sql(
            "CREATE TABLE parent (id int PRIMARY KEY);
             CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);
             CREATE TABLE outside (id int PRIMARY KEY, parent int REFERENCES parent);
             CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
             CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20);",
        )
        .await;
    for table in ["public.parent", "public.child", "public.part"] {
        source.capture(table, &["id"]).await;
    }
    let mut stream = source.stream().await;
    source.sql("INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2, 1); INSERT INTO part VALUES (1), (11)").await;
    source.sql("TRUNCATE parent RESTART IDENTITY CASCADE").await;
    source.sql("TRUNCATE part").await;
    let seen = source.changes(&mut stream).await;
    let truncates: Vec<(&str, Option<i32>)> = seen
        .iter()
        .filter(|seen| seen.op() == "t")
        .map(|seen| (seen.topic.as_str(), seen.partition))
        .collect();
    let each = |topic| (0..3).map(move |partition| (topic, Some(partition)));
    let expected = ["public.parent", "public.child", "public.part"].into_iter().flat_map(each);
    assert_eq!(
        truncates,
        expected.collect::<Vec<_>>(),
        "each table once, in each partition of its topic"
    );
    // Postgres itself says nothing of a partition that is emptied or taken away alone: a documented limit.
    source.sql("INSERT INTO part VALUES (2), (12)").await;
    source.sql("TRUNCATE part_1").await;
    source.sql("ALTER TABLE part DETACH PARTITION part_2").await;
    assert_eq!(ops(&source.changes(&mut stream).await), "cc");
    source.drop([stream]).await;
}

// ---- partitions ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_come_as_their_root_however_they_are_built_attached_and_moved_between() {
    let mut source = Source::new().await;
    source
        .sql(
            "CREATE TABLE part (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
             CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
             CREATE TABLE part_2 PARTITION OF part FOR VALUES IN (2) PARTITION BY RANGE (id);
             CREATE TABLE part_2_low PARTITION OF part_2 FOR VALUES FROM (0) TO (100);
             CREATE TABLE late (dropped text, v text, k int NOT NULL, id int NOT NULL, PRIMARY KEY (id, k));
             ALTER TABLE late DROP COLUMN dropped;",
        )
        .await;
    source.capture("public.part", &["id", "k"]).await;
    let mut stream = source.stream().await;
    source.sql("INSERT INTO part VALUES (1, 1, 'a'), (2, 2, 'b')").await;
    source.sql("INSERT INTO late VALUES ('before it was a partition', 3, 3)").await;
    repartition(&source, "ALTER TABLE part ATTACH PARTITION late FOR VALUES IN (3)").await;
    source.sql("INSERT INTO part VALUES (4, 3, 'd'); UPDATE part SET v = 'D' WHERE id = 4").await;
    source.sql("UPDATE part SET k = 3 WHERE id = 1").await;
    source.sql("DELETE FROM part WHERE id = 2").await;
    source.sql("INSERT INTO late VALUES ('into the leaf', 3, 5)").await;
    repartition(&source, "ALTER TABLE part DETACH PARTITION late").await;
    source.sql("INSERT INTO late VALUES ('no partition any more', 3, 6)").await;
    let seen = source.changes(&mut stream).await;
    assert_eq!(ops(&seen), "cccud-cd-c");
    assert!(seen.iter().all(|seen| seen.topic == "public.part"));
    let named = |seen: &Seen| seen.json()["source"]["table"] == "part";
    assert!(seen.iter().filter(|seen| seen.value.is_some()).all(named));
    assert_eq!(after(&seen[3]), json!({"id": 4, "k": 3, "v": "D"}), "in the order of the root");
    assert_eq!(seen[4].key, r#"{"id":1,"k":1}"#);
    assert_eq!(
        after(&seen[6]),
        json!({"id": 1, "k": 3, "v": "a"}),
        "moved by a delete and an insert"
    );
    source.drop([stream]).await;
}

/// As the reader's preflight says it must be done on this version.
async fn repartition(source: &Source, sql: &str) {
    let is_followed = source.version().await >= 150_000;
    let nudge = "ALTER PUBLICATION \"all\" SET (publish_via_partition_root = true)";
    source.sql(&if is_followed { sql.to_owned() } else { format!("{sql}; {nudge}") }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_published_under_their_own_names_stop_the_reader_or_have_topics_of_their_own() {
    let mut source = Source::new().await;
    source
        .sql(
            "CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
             CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20);
             ALTER PUBLICATION \"all\" SET (publish_via_partition_root = false)",
        )
        .await;
    source.capture("public.part", &["id"]).await;
    let mut stream = source.stream().await;
    source.sql("INSERT INTO part VALUES (1)").await;
    let error = source.try_changes(&mut stream).await.expect_err("nobody takes a partition");
    assert!(error.to_string().contains("public.part_1"), "{error}");
    for leaf in ["public.part_1", "public.part_2"] {
        source.register(leaf, &["id"]);
    }
    let mut own = source.stream().await;
    source.sql("INSERT INTO part VALUES (2), (12); TRUNCATE part_1").await;
    let seen = source.changes(&mut own).await;
    let topics: Vec<&str> = seen.iter().map(|seen| seen.topic.as_str()).collect();
    let [one, two] = ["public.part_1", "public.part_2"];
    assert_eq!((ops(&seen), topics), ("ccttt".to_owned(), vec![one, two, one, one, one]));
    source.drop([stream, own]).await;
}

// ---- DDL ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_added_dropped_renamed_and_retyped_show_from_the_next_row_on() {
    let mut source = Source::new().await;
    source.sql("CREATE TABLE item (id int PRIMARY KEY, a text, b int)").await;
    source.capture("public.item", &["id"]).await;
    let mut stream = source.stream().await;
    source
        .sql(
            "INSERT INTO item VALUES (1, 'x', 1);
             ALTER TABLE item ADD COLUMN c jsonb DEFAULT '{}';
             INSERT INTO item VALUES (2, 'x', 1);
             ALTER TABLE item DROP COLUMN a;
             INSERT INTO item VALUES (3, 1);
             ALTER TABLE item RENAME COLUMN b TO \"B b\";
             INSERT INTO item VALUES (4, 1);
             ALTER TABLE item ALTER COLUMN \"B b\" TYPE boolean USING true;
             INSERT INTO item VALUES (5, false);
             ALTER TABLE item ADD COLUMN a int;
             INSERT INTO item VALUES (6, true, 'null', 9)",
        )
        .await;
    source.sql("UPDATE item SET a = 1 WHERE id = 1").await;
    let seen = source.changes(&mut stream).await;
    let rows: Vec<Json> = seen.iter().map(after).collect();
    let expected = [
        json!({"id": 1, "a": "x", "b": 1}),
        json!({"id": 2, "a": "x", "b": 1, "c": {}}),
        json!({"id": 3, "b": 1, "c": {}}),
        json!({"id": 4, "B b": 1, "c": {}}),
        json!({"id": 5, "B b": false, "c": {}}),
        json!({"id": 6, "B b": true, "c": null, "a": 9}),
        json!({"id": 1, "B b": true, "c": {}, "a": 1}),
    ];
    assert_eq!(rows, expected, "nothing comes for rows that a statement only rewrote");
    source.drop([stream]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_column_that_was_renamed_or_dropped_stops_the_reader() {
    for (change, row) in [
        ("RENAME COLUMN id TO number", "INSERT INTO item VALUES (1, 'x')"),
        ("DROP COLUMN id", "INSERT INTO item VALUES ('x')"),
    ] {
        let mut source = Source::new().await;
        source.sql("CREATE TABLE item (id int PRIMARY KEY, v text)").await;
        source.capture("public.item", &["id"]).await;
        let mut stream = source.stream().await;
        source.sql(&format!("ALTER TABLE item {change}")).await;
        source.sql(row).await;
        let error = source.try_changes(&mut stream).await.expect_err("there is no key");
        assert!(error.to_string().contains("no published column `id`"), "{error}");
        source.drop([stream]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_replica_identity_holds_from_its_own_place_in_the_stream() {
    let mut source = Source::new().await;
    source.sql("CREATE TABLE item (id int PRIMARY KEY, u int NOT NULL UNIQUE, v text)").await;
    source.capture("public.item", &["id"]).await;
    let mut stream = source.stream().await;
    source.sql("INSERT INTO item VALUES (1, 10, 'a'), (2, 20, 'b')").await;
    source.sql("UPDATE item SET v = 'A' WHERE id = 1").await;
    source
        .sql("ALTER TABLE item REPLICA IDENTITY FULL; UPDATE item SET v = 'B' WHERE id = 1")
        .await;
    source.sql("ALTER TABLE item REPLICA IDENTITY DEFAULT; DELETE FROM item WHERE id = 1").await;
    let seen = source.changes(&mut stream).await;
    assert_eq!(ops(&seen), "ccuud-");
    assert_eq!(seen[2].json()["before"], Json::Null);
    assert_eq!(seen[3].json()["before"], json!({"id": 1, "u": 10, "v": "A"}));
    assert_eq!(seen[4].json()["before"], json!({"id": 1}));
    // An identity that does not hold the key: inserts go on, and what cannot be named stops the reader.
    source.sql("ALTER TABLE item REPLICA IDENTITY USING INDEX item_u_key").await;
    source.sql("INSERT INTO item VALUES (3, 30, 'c')").await;
    assert_eq!(ops(&source.changes(&mut stream).await), "c");
    source.sql("UPDATE item SET v = 'x' WHERE id = 3").await;
    let error = source.try_changes(&mut stream).await.expect_err("the key is not told");
    assert!(
        error.to_string().contains(r#"ALTER TABLE "public"."item" REPLICA IDENTITY FULL"#),
        "{error}"
    );
    source.drop([stream]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_made_anew_goes_on_and_one_that_was_renamed_or_moved_stops_the_reader() {
    let mut source = Source::new().await;
    source.sql("CREATE TABLE item (id int PRIMARY KEY, v text)").await;
    source.capture("public.item", &["id"]).await;
    let mut stream = source.stream().await;
    source.sql("INSERT INTO item VALUES (1, 'old')").await;
    source
        .sql(
            "DROP TABLE item; CREATE TABLE item (v bytea, id bigint PRIMARY KEY);
             ALTER PUBLICATION \"all\" ADD TABLE item; INSERT INTO item VALUES ('\\x01', 2)",
        )
        .await;
    // Two names that change places within one transaction, as a table is swapped for a rebuilt one.
    source
        .sql(
            "CREATE TABLE fresh (id bigint PRIMARY KEY, w int); ALTER PUBLICATION \"all\" ADD TABLE fresh;
             BEGIN; ALTER TABLE item RENAME TO stale; ALTER TABLE fresh RENAME TO item;
             INSERT INTO item VALUES (3, 4); COMMIT",
        )
        .await;
    let seen = source.changes(&mut stream).await;
    let rows: Vec<Json> = seen.iter().map(after).collect();
    assert_eq!(
        rows,
        [json!({"id": 1, "v": "old"}), json!({"v": "AQ==", "id": 2}), json!({"id": 3, "w": 4})]
    );
    for (change, named) in [
        ("ALTER TABLE item RENAME TO thing; INSERT INTO thing VALUES (5, 5)", "public.thing"),
        (
            "ALTER TABLE thing RENAME TO item; CREATE SCHEMA other; ALTER TABLE item SET SCHEMA other; INSERT INTO other.item VALUES (6, 6)",
            "other.item",
        ),
    ] {
        let mut stream = source.stream().await;
        source.sql(change).await;
        let error = source.try_changes(&mut stream).await.expect_err("nobody takes that name");
        assert!(error.to_string().contains(named), "{error}");
        drop(stream);
    }
    source.drop([stream]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_by_inheritance_is_a_table_of_its_own() {
    let mut source = Source::new().await;
    source.sql("CREATE TABLE base (id int PRIMARY KEY); CREATE TABLE child (PRIMARY KEY (id)) INHERITS (base)").await;
    source.capture("public.base", &["id"]).await;
    let mut stream = source.stream().await;
    source.sql("INSERT INTO base VALUES (1)").await;
    assert_eq!(ops(&source.changes(&mut stream).await), "c");
    source.sql("INSERT INTO child VALUES (2)").await;
    let error = source.try_changes(&mut stream).await.expect_err("nobody takes the child");
    assert!(error.to_string().contains("public.child"), "{error}");
    source.drop([stream]).await;
}

// ---- what a publication leaves out ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_columns_are_left_out() {
    let mut source = Source::new().await;
    source
        .sql("CREATE TABLE made (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED, z text)")
        .await;
    source.capture("public.made", &["id"]).await;
    let mut stream = source.stream().await;
    source.sql("INSERT INTO made VALUES (1, 2, DEFAULT, 'z'); UPDATE made SET a = 3").await;
    let seen = source.changes(&mut stream).await;
    assert_eq!(ops(&seen), "cu");
    assert_eq!(after(&seen[0]), json!({"id": 1, "a": 2, "z": "z"}));
    source.drop([stream]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn column_lists_and_row_filters_leave_out_what_they_say_from_postgres_15_on() {
    let mut source = Source::new().await;
    source
        .sql(
            "CREATE TABLE partly (id int PRIMARY KEY, secret text, v int);
             CREATE TABLE live (id int PRIMARY KEY, state text); ALTER TABLE live REPLICA IDENTITY FULL;
             ALTER PUBLICATION \"all\" ADD TABLE partly (id, v), live WHERE (state <> 'draft')",
        )
        .await;
    source.register("public.partly", &["id"]);
    source.register("public.live", &["id"]);
    let mut stream = source.stream().await;
    source
        .sql("INSERT INTO partly VALUES (1, 'never', 2); UPDATE partly SET secret = 'still never'")
        .await;
    source.sql("INSERT INTO live VALUES (1, 'draft'), (2, 'out')").await;
    source.sql("UPDATE live SET state = 'out' WHERE id = 1").await;
    source.sql("UPDATE live SET state = 'gone' WHERE id = 1").await;
    source.sql("UPDATE live SET state = 'draft' WHERE id = 1").await;
    source.sql("DELETE FROM live WHERE id = 1").await;
    let seen = source.changes(&mut stream).await;
    assert_eq!(
        ops(&seen),
        "cuccud-",
        "a row comes when it enters the filter and goes when it leaves"
    );
    assert_eq!(after(&seen[1]), json!({"id": 1, "v": 2}));
    assert_eq!(after(&seen[3]), json!({"id": 1, "state": "out"}));
    assert_eq!(seen[5].json()["before"], json!({"id": 1, "state": "gone"}));
    source.drop([stream]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_without_a_primary_key_is_keyed_by_the_columns_declared() {
    let mut source = Source::new().await;
    source
        .sql("CREATE TABLE log (at int, what text, n int); ALTER TABLE log REPLICA IDENTITY FULL")
        .await;
    source.capture("public.log", &["at", "what"]).await;
    let mut stream = source.stream().await;
    source.sql("INSERT INTO log VALUES (1, 'a', 1), (1, 'a', 1)").await;
    source.sql("UPDATE log SET n = 2 WHERE ctid = '(0,1)'").await;
    source.sql("UPDATE log SET what = 'b' WHERE ctid = '(0,2)'").await;
    source.sql("DELETE FROM log").await;
    let seen = source.changes(&mut stream).await;
    assert_eq!(ops(&seen), "ccud-cd-d-");
    assert_eq!(seen[5].key, r#"{"at":1,"what":"b"}"#);
    source.drop([stream]).await;
}

fn after(seen: &Seen) -> Json {
    seen.json()["after"].clone()
}

fn ordinal(seen: &Seen) -> Json {
    seen.json()["source"]["ordinal"].clone()
}

fn ids(seen: &[Seen]) -> Vec<i64> {
    seen.iter().map(|seen| after(seen)["id"].as_i64().expect("an id")).collect()
}
