//! Debezium's form, held against values that its own tests assert.

use serde_json::{Value as Json, json};
use tailwater_topics_contract::{From as Origin, Values};

use crate::source::{Seen, Source, ops, raw};

/// Type, value, and the JSON that stands in a record.
const GOLDEN: &[(&str, &str, &str)] = &[
    ("decimal(3,2)", "1.1", r#""bg==""#),
    ("decimal(3,2)", "3.30", r#""AUo=""#),
    ("decimal(4)", "10.11", r#""Cg==""#),
    ("decimal", "10.1111", r#"{"scale":4,"value":"AYr3"}"#),
    ("decimal", "10", r#"{"scale":0,"value":"Cg=="}"#),
    ("numeric(6,4)", "22.22", r#""A2P4""#),
    ("numeric(6,4)", "22", r#""A1tg""#),
    ("numeric", "22.2222", r#"{"scale":4,"value":"A2QO"}"#),
    ("numeric", "22.22220", r#"{"scale":4,"value":"A2QO"}"#),
    ("numeric(10,2)[]", "{1.2,3.4,5.6}", r#"["eA==","AVQ=","AjA="]"#),
    (
        "numeric[]",
        "{1.1,2.22,3.333}",
        r#"[{"scale":1,"value":"Cw=="},{"scale":2,"value":"AN4="},{"scale":3,"value":"DQU="}]"#,
    ),
    ("money", "1234.11", r#""AeIT""#),
    ("money", "-1234.11", r#""/h3t""#),
    ("boolean", "t", "true"),
    ("smallint", "-1", "-1"),
    ("integer", "123456", "123456"),
    ("bigint", "9223372036854775807", "9223372036854775807"),
    ("oid", "4000000000", "4000000000"),
    ("oid[]", "{3,4000000000}", "[3,4000000000]"),
    ("real", "3.3", "3.3"),
    ("double precision", "4.44", "4.44"),
    ("double precision", "NaN", r#""NaN""#),
    ("real", "-Infinity", r#""-Infinity""#),
    ("bit", "1", "true"),
    ("bit(1)", "0", "false"),
    ("varbit(1)", "1", "true"),
    ("bit(2)", "11", r#""Aw==""#),
    ("bit(7)", "1000000", r#""QA==""#),
    ("varbit(2)", "00", r#""""#),
    ("varbit(24)", "000000110000001000000001", r#""AQID""#),
    (
        "varbit(64)",
        "1000000000000000000000000000000000000000000000000000000000000000",
        r#""AAAAAAAAAIA=""#,
    ),
    ("varbit", "101", r#""BQ==""#),
    ("varbit", "111011010001000110000001000000001", r#""AQIj2gE=""#),
    ("char(10)[]", "{cone}", r#"["cone      "]"#),
    ("character(10)", "cone", r#""cone      ""#),
    ("text", "a \"b\"", r#""a \"b\"""#),
    ("citext", "MiXed", r#""MiXed""#),
    ("jsonb", r#"{"bar": "baz"}"#, r#""{\"bar\": \"baz\"}""#),
    ("json", r#"{"a":1}"#, r#""{\"a\":1}""#),
    ("json[]", "{\"{\\\"a\\\":1}\"}", r#"["{\"a\":1}"]"#),
    ("xml", "<a/>", r#""<a/>""#),
    ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", r#""a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11""#),
    ("mood", "ok", r#""ok""#),
    ("inet", "192.168.2.0/12", r#""192.168.2.0/12""#),
    ("bytea", "\\x010203", r#""AQID""#),
    ("bytea[]", "{\"\\\\x000102\",\"\\\\x030405\"}", r#"["AAEC","AwQF"]"#),
    ("date", "2016-11-04", "17109"),
    ("date", "infinity", "-2147472692"),
    ("date", "-infinity", "-2147472691"),
    ("date[]", "{2016-11-04,NULL}", "[17109,null]"),
    ("time", "13:51:30", "49890000000"),
    ("time(3)", "13:51:30.123", "49890123"),
    ("time", "24:00:00", "86400000000"),
    ("timetz", "13:51:30.123789+02:00", r#""11:51:30.123789Z""#),
    ("timetz(3)", "13:51:30.123+02:00", r#""11:51:30.123Z""#),
    ("timestamp", "2016-11-04T13:51:30.123456", "1478267490123456"),
    ("timestamp(3)", "2016-11-04T13:51:30.123456", "1478267490123"),
    ("timestamp", "21016-11-04T13:51:30.123456", "601060312290123456"),
    ("timestamp", "294247-01-01T23:59:59.999999", "9223371331199999999"),
    ("timestamp", "1936-10-25T22:10:12.608", "-1047174587392000"),
    ("timestamp", "4713-12-31 23:59:59.999999 BC", "-210831897600000001"),
    ("timestamp", "infinity", "9223372036825200000"),
    ("timestamp", "-infinity", "-9223372036832400000"),
    ("timestamp(3)", "infinity", "9223372036825200"),
    ("timestamp(3)", "-infinity", "-9223372036832400"),
    ("timestamptz", "2016-11-04T13:51:30.123456+02:00", r#""2016-11-04T11:51:30.123456Z""#),
    ("timestamptz", "2016-11-04T13:51:30+02:00", r#""2016-11-04T11:51:30.000000Z""#),
    ("timestamptz(3)", "2016-11-04T13:51:30.12+02:00", r#""2016-11-04T11:51:30.120Z""#),
    ("timestamptz", "infinity", r#""infinity""#),
    ("timestamptz", "-infinity", r#""-infinity""#),
    ("timestamptz", "4714-12-31T23:59:59.999999Z BC", r#""-4713-12-31T23:59:59.999999Z""#),
    ("timestamptz", "21016-11-04T13:51:30.123456+07:00", r#""+21016-11-04T06:51:30.123456Z""#),
    ("timestamptz", "294247-01-01T23:59:59.999999+00", r#""+294247-01-01T23:59:59.999999Z""#),
    ("interval", "P1Y2M3DT4H5M6.78S", "37091106780000"),
    ("interval", "PT-0.000001S", "-1"),
    ("isbn", "978-0-393-04002-9", r#""0-393-04002-X""#),
    ("hstore", "\"key1\"=>\"val1\",\"key2\"=>NULL", r#""{\"key1\":\"val1\",\"key2\":null}""#),
    ("ltree", "Top.Science", r#""Top.Science""#),
    ("tsvector", "'cat':1", r#""'cat':1""#),
    ("tsrange", "[2019-03-31 15:30:00,infinity)", r#""[\"2019-03-31 15:30:00\",infinity)""#),
    ("int4range", "[1,5]", r#""[1,6)""#),
    ("point", "(1,1)", r#"{"x":1.0,"y":1.0,"wkb":"AQEAAAAAAAAAAADwPwAAAAAAAPA/","srid":null}"#),
    ("text[]", "{a,NULL,\"b c\"}", r#"["a",null,"b c"]"#),
];

/// Types that Debezium leaves out of its records.
const OMITTED: &[(&str, &str)] = &[
    ("tsquery", "fat <-> cat"),
    ("pg_lsn", "16/B374D848"),
    ("txid_snapshot", "10:20:10"),
    ("int4multirange", "{[1,3)}"),
    ("box", "(1,1),(0,0)"),
    ("circle", "<(0,0),1>"),
    ("money[]", "{1.00}"),
    ("interval[]", "{PT1S}"),
    ("xml[]", "{<a/>}"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_golden_vector_of_debezium_is_met() {
    let mut source = Source::new().await;
    source
        .sql(
            "CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE EXTENSION ltree; CREATE EXTENSION isn;
             CREATE TYPE mood AS ENUM ('ok', 'bad')",
        )
        .await;
    let all = || {
        let golden = GOLDEN.iter().map(|(name, value, _)| (*name, *value));
        golden.chain(OMITTED.iter().copied()).enumerate()
    };
    let columns: Vec<String> = all().map(|(at, (name, _))| format!("c{at} {name}")).collect();
    let values: Vec<String> =
        all().map(|(_, (_, value))| format!("'{}'", value.replace('\'', "''"))).collect();
    source.sql(&format!("CREATE TABLE golden (id int PRIMARY KEY, {})", columns.join(", "))).await;
    capture(&mut source, "golden").await;
    let mut stream = source.stream().await;
    source.sql(&format!("INSERT INTO golden VALUES (1, {})", values.join(", "))).await;
    let seen = source.changes(&mut stream).await;
    let mut wrong = Vec::new();
    for (at, (name, value, expected)) in GOLDEN.iter().enumerate() {
        let found = seen[0].raw("after", &format!("c{at}"));
        if found.as_deref() != Some(*expected) {
            wrong.push(format!("{name} '{value}': {found:?}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (at, (name, _)) in OMITTED.iter().enumerate() {
        let column = format!("c{}", GOLDEN.len() + at);
        assert_eq!(seen[0].raw("after", &column), None, "{name}");
    }
    source.drop([stream]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_envelope_has_debeziums_fields_in_their_order_and_its_headers() {
    let mut source = Source::new().await;
    source.sql("CREATE TABLE item (id int PRIMARY KEY, v text)").await;
    capture(&mut source, "item").await;
    let mut stream = source.stream().await;
    source.sql("INSERT INTO item VALUES (1, 'a')").await;
    source.sql("INSERT INTO item VALUES (2, 'b'), (3, 'c')").await;
    source.sql("UPDATE item SET v = 'x' WHERE id = 1").await;
    source.sql("UPDATE item SET id = 9 WHERE id = 1").await;
    source.sql("DELETE FROM item WHERE id = 9").await;
    source.sql("TRUNCATE item").await;
    let seen = source.changes(&mut stream).await;
    assert_eq!(ops(&seen), "cccud-cd-ttt", "a tombstone also where the topic is not compacted");

    let value = seen[2].json();
    let number = |field: &str| value["source"][field].as_i64().expect("a number");
    let (us, tx, lsn) = (number("ts_us"), number("txId"), number("lsn"));
    let sequence = value["source"]["sequence"].as_str().expect("a text");
    let expected = format!(
        concat!(
            r#"{{"before":null,"after":{{"id":3,"v":"c"}},"source":{{"version":"{}","connector":"postgresql","name":"market","#,
            r#""ts_ms":{},"snapshot":"false","db":"{}","sequence":{},"ts_us":{},"ts_ns":{},"schema":"public","table":"item","#,
            r#""txId":{},"lsn":{},"xmin":null,"origin":null,"origin_lsn":null}},"transaction":null,"op":"c","#,
            r#""ts_ms":1700000000000,"ts_us":1700000000000000,"ts_ns":1700000000000000000}}"#
        ),
        env!("CARGO_PKG_VERSION"),
        us / 1000,
        source.name,
        json!(sequence),
        us,
        us * 1000,
        tx,
        lsn,
    );
    assert_eq!(seen[2].value.as_deref(), Some(expected.as_str()));
    let sequence: Vec<Option<String>> = serde_json::from_str(sequence).expect("JSON within a text");
    let place = |at: usize| sequence[at].as_deref().and_then(|lsn| lsn.parse::<i64>().ok());
    assert_eq!(place(1), Some(lsn));
    assert!(place(0).is_some_and(|commit| commit <= lsn), "the commit before: {sequence:?}");

    let names = |seen: &Seen| seen.headers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let context = [
        "__debezium.context.connectorLogicalName",
        "__debezium.context.taskId",
        "__debezium.context.connectorName",
    ];
    assert_eq!(names(&seen[0])[..3], context);
    assert_eq!(names(&seen[0])[3..], ["tw-seq", "tw-position"]);
    let first = |seen: &Seen| seen.headers[0].clone();
    let pair = |name: &str, key: &str| (name.to_owned(), key.to_owned());
    let moved =
        [pair("__debezium.newkey", r#"{"id":9}"#), pair("__debezium.oldkey", r#"{"id":1}"#)];
    assert_eq!(first(&seen[4]), moved[0]);
    assert_eq!(first(&seen[5]), moved[0], "the tombstone has the headers of its delete");
    assert_eq!(first(&seen[6]), moved[1]);
    assert_eq!(
        seen[4].json()["before"],
        json!({"id": 1, "v": null}),
        "all columns, as far as known"
    );
    assert_eq!(seen[3].json()["before"], Json::Null);
    source.drop([stream]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_value_that_did_not_change_is_debeziums_placeholder() {
    let mut source = Source::new().await;
    let columns = [
        ("t", "text", "repeat('x', 3000)", r#""__debezium_unavailable_value""#.to_owned()),
        (
            "j",
            "jsonb",
            "jsonb_build_array(repeat('x', 3000))",
            r#""__debezium_unavailable_value""#.to_owned(),
        ),
        (
            "b",
            "bytea",
            "convert_to(repeat('x', 3000), 'UTF8')",
            r#""X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==""#.to_owned(),
        ),
        (
            "ta",
            "text[]",
            "ARRAY[repeat('x', 3000)]",
            r#"["__debezium_unavailable_value"]"#.to_owned(),
        ),
        (
            "ia",
            "int[]",
            "array_fill(7, ARRAY[1000])",
            json!("__debezium_unavailable_value".bytes().collect::<Vec<u8>>()).to_string(),
        ),
        (
            "ua",
            "uuid[]",
            "array_fill(gen_random_uuid(), ARRAY[300])",
            r#"["b68a35a7-17ad-35b3-af2a-ae46edb4545a"]"#.to_owned(),
        ),
    ];
    let list = |part: fn(&(&str, &str, &str, String)) -> String| {
        columns.iter().map(part).collect::<Vec<_>>().join(", ")
    };
    for (table, identity) in [("by_key", "DEFAULT"), ("whole", "FULL")] {
        source
            .sql(&format!(
                "CREATE TABLE {table} (id int PRIMARY KEY, n int, {});
                 ALTER TABLE {table} {}, REPLICA IDENTITY {identity};",
                list(|(name, kind, ..)| format!("{name} {kind}")),
                list(|(name, ..)| format!("ALTER {name} SET STORAGE EXTERNAL")),
            ))
            .await;
        capture(&mut source, table).await;
    }
    let mut stream = source.stream().await;
    for table in ["by_key", "whole"] {
        let values = list(|(_, _, value, _)| (*value).to_owned());
        source.sql(&format!("INSERT INTO {table} SELECT 1, 0, {values}")).await;
        source.sql(&format!("UPDATE {table} SET n = 1")).await;
    }
    let seen = source.changes(&mut stream).await;
    for (name, _, _, placeholder) in &columns {
        assert_eq!(seen[1].raw("after", name).as_ref(), Some(placeholder), "{name}");
        assert_eq!(
            seen[3].raw("after", name),
            seen[2].raw("after", name),
            "{name} with the old row"
        );
    }
    assert_eq!(seen[1].field("unchanged"), None);
    source.drop([stream]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_have_debeziums_encodings_too() {
    let mut source = Source::new().await;
    source.sql("CREATE TABLE item (d date, n numeric(5,2), PRIMARY KEY (d, n))").await;
    source.sql("ALTER PUBLICATION \"all\" ADD TABLE item").await;
    let from = Origin::Table("public.item".parse().expect("a table"));
    source.register_as("item", from, &["d", "n"], |spec| spec.values = Values::Debezium);
    let mut stream = source.stream().await;
    source.sql("INSERT INTO item VALUES ('2016-11-04', 1.1)").await;
    let seen = source.changes(&mut stream).await;
    assert_eq!(seen[0].key, r#"{"d":17109,"n":"bg=="}"#);
    assert_eq!(raw(&seen[0].key, "d").as_deref(), Some("17109"));
    source.drop([stream]).await;
}

async fn capture(source: &mut Source, table: &str) {
    source.sql(&format!("ALTER PUBLICATION \"all\" ADD TABLE {table}")).await;
    let from = Origin::Table(format!("public.{table}").parse().expect("a table"));
    source.register_as(table, from, &["id"], |spec| {
        spec.values = Values::Debezium;
        spec.config.clear();
    });
}
