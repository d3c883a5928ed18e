//! Every type: what a record holds is what a `SELECT` says, in an insert, an update, a delete and a key, with default
//! and with full replica identity.

pub(crate) mod corpus;

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value as Json;

use crate::live::unique;
use crate::source::{Seen, Source, raw};
use corpus::{SETUP, TYPES, Type};

/// The values of one type as Postgres itself says their JSON, by the number of the literal.
type Expected = BTreeMap<i64, String>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_arrives_as_a_select_says_it() {
    let mut source = Source::new().await;
    tables(&mut source).await;
    let mut stream = source.stream().await;
    fill(&source).await;
    let mut wanted = Vec::new();
    for at in 0..TYPES.len() {
        wanted.push(expected(&source, at).await);
    }
    let literals: usize = wanted.iter().map(BTreeMap::len).sum();
    assert!(TYPES.len() >= 60 && literals >= 400, "{} types, {literals} literals", TYPES.len());
    let inserted = by_table(source.changes(&mut stream).await);
    change(&source).await;
    let changed = by_table(source.changes(&mut stream).await);
    empty(&source).await;
    let deleted = by_table(source.changes(&mut stream).await);

    let mut wrong = String::new();
    for (at, (kind, wanted)) in TYPES.iter().zip(&wanted).enumerate() {
        let mut check = Check { kind, wanted, wrong: &mut wrong };
        for identity in ["default", "full"] {
            let table = format!("public.{identity}_{at}");
            check.rows("insert", &inserted[&table], &["after"]);
            let both = if identity == "full" { vec!["before", "after"] } else { vec!["after"] };
            check.rows("update", &changed[&table], &both);
            let before = if identity == "full" { vec!["before"] } else { vec![] };
            check.rows("delete", &deleted[&table], &before);
        }
        let table = format!("public.key_{at}");
        check.keys("insert", &inserted[&table], "after");
        check.keys("update", &changed[&table], "before");
        check.keys("delete", &deleted[&table], "before");
    }
    assert!(wrong.is_empty(), "{wrong}");
    source.drop([stream]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_and_a_database_with_hostile_defaults_change_no_byte() {
    let mut source = Source::new().await;
    tables(&mut source).await;
    let plain = source.stream().await;
    let role = format!("hostile_{}", unique());
    source.sql(&format!("CREATE ROLE {role} LOGIN REPLICATION")).await;
    // Each of them changes what some type prints. A database's defaults yield to a role's, so both are hostile.
    let settings = [
        ("DateStyle", "'SQL, DMY'"),
        ("IntervalStyle", "'postgres_verbose'"),
        ("TimeZone", "'Asia/Kathmandu'"),
        ("bytea_output", "'escape'"),
        ("extra_float_digits", "-15"),
        ("client_encoding", "'LATIN1'"),
        ("search_path", "'public'"),
        ("xmloption", "'document'"),
        ("xmlbinary", "'hex'"),
        ("lc_monetary", "'POSIX'"),
        ("quote_all_identifiers", "on"),
        ("standard_conforming_strings", "off"),
        ("backslash_quote", "on"),
        ("array_nulls", "off"),
        ("timezone_abbreviations", "'India'"),
        ("default_transaction_isolation", "'serializable'"),
        ("statement_timeout", "'1ms'"),
        ("row_security", "off"),
    ];
    for (name, value) in settings {
        source.sql(&format!("ALTER ROLE {role} SET {name} = {value}")).await;
        if name != "statement_timeout" {
            source.sql(&format!("ALTER DATABASE {} SET {name} = {value}", source.name)).await;
        }
    }
    let by_role = source.stream_as(&role).await;
    let by_database = source.stream().await;
    fill(&source).await;
    change(&source).await;
    empty(&source).await;
    let mut streams = [plain, by_role, by_database];
    let plain = source.changes(&mut streams[0]).await;
    assert!(plain.len() > 4_000, "{} records", plain.len());
    for stream in &mut streams[1..] {
        let other = source.changes(stream).await;
        // The marks in between take numbers too, so the dense numbers differ by those.
        assert_eq!(other.len(), plain.len());
        for (other, plain) in other.iter().zip(&plain) {
            assert_eq!(without_numbers(other), without_numbers(plain));
        }
    }
    let role_gone = format!("DROP ROLE {role}");
    let [plain, by_role, by_database] = streams;
    drop(by_role);
    source.sql(&role_gone).await;
    source.drop([plain, by_database]).await;
}

/// The reference page, from what the reader wrote. `make reference-types` writes it anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reference_page_of_types_says_what_the_reader_writes() {
    let mut source = Source::new().await;
    tables(&mut source).await;
    let mut stream = source.stream().await;
    fill(&source).await;
    let inserted = by_table(source.changes(&mut stream).await);
    let mut page = PAGE.to_owned();
    for (at, kind) in TYPES.iter().enumerate() {
        let rows = &inserted[&format!("public.default_{at}")];
        let example = rows[0].raw("after", "v").expect("a value");
        let name = kind.name.trim_matches('"').replace("Odd type", "a composite type");
        let literal = kind.literals[0].replace('|', "\\|");
        let example = example.replace('|', "\\|");
        writeln!(
            page,
            "| `{name}` | {} | `{literal}` | `{example}` | {} |",
            kind.shape.words(),
            kind.note
        )
        .expect("a string takes it");
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/types.md");
    if std::env::var_os("TAILWATER_WRITE_REFERENCE").is_some() {
        std::fs::write(path, &page).expect("the page is written");
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    // What an old server writes of a type that it does not have is no reference.
    let version = source.version().await;
    let foreign = TYPES.iter().filter(|kind| kind.name_on(version) != kind.name);
    let foreign: Vec<String> = foreign.map(|kind| format!("| `{}` |", kind.name)).collect();
    let own = |page: &str| -> Vec<String> {
        let is_own = |line: &&str| !foreign.iter().any(|start| line.starts_with(start));
        page.lines().filter(is_own).map(str::to_owned).collect()
    };
    assert!(
        own(&found) == own(&page),
        "docs/reference/types.md is out of date; run `make reference-types`"
    );
    source.drop([stream]).await;
}

const PAGE: &str = "\
# Types

How each Postgres type stands in a record. Written by `make reference-types` from what the reader made of a real
server's stream; the test beside it compares all types, with many more values than are shown here, with what Postgres
itself says. NULL is always `null`. What is a string and not base64 can be cast back: `'…'::type`.

Sessions pin `client_encoding`, `DateStyle`, `IntervalStyle`, `TimeZone`, `bytea_output`, `extra_float_digits`,
`lc_monetary`, `search_path` and `quote_all_identifiers`, so neither a role's nor a database's defaults change a record.

| Type | In JSON | Written | In a record | Note |
| --- | --- | --- | --- | --- |
";

/// For each type a table with default identity, one with full identity, and one whose key is the value itself.
async fn tables(source: &mut Source) {
    source.sql(SETUP).await;
    let version = source.version().await;
    for (at, kind) in TYPES.iter().enumerate() {
        let name = kind.name_on(version);
        source
            .sql(&format!(
                "CREATE TABLE default_{at} (id bigint PRIMARY KEY, n int, v {name});
                 CREATE TABLE full_{at} (id bigint PRIMARY KEY, n int, v {name});
                 ALTER TABLE full_{at} REPLICA IDENTITY FULL;
                 CREATE TABLE key_{at} (id bigint, n int, v {name});
                 ALTER TABLE key_{at} REPLICA IDENTITY FULL;"
            ))
            .await;
        source.capture(&format!("public.default_{at}"), &["id"]).await;
        source.capture(&format!("public.full_{at}"), &["id"]).await;
        source.capture(&format!("public.key_{at}"), &["v"]).await;
    }
}

/// Each literal, and NULL in the tables where it is no key.
async fn fill(source: &Source) {
    for (at, kind) in TYPES.iter().enumerate() {
        let mut sql = String::new();
        for (id, literal) in kind.literals.iter().enumerate() {
            let value = match literal.strip_prefix('=') {
                Some(expression) => expression.to_owned(),
                None => format!("'{}'", literal.replace('\'', "''")),
            };
            for table in ["default", "full", "key"] {
                writeln!(sql, "INSERT INTO {table}_{at} VALUES ({id}, 0, {value});").expect("fits");
            }
        }
        for table in ["default", "full"] {
            writeln!(sql, "INSERT INTO {table}_{at} VALUES (99, 0, NULL);").expect("fits");
        }
        source.sql(&sql).await;
    }
}

/// What Postgres says that the records must hold.
async fn expected(source: &Source, at: usize) -> Expected {
    let expression = TYPES[at].shape.expected();
    // `IS NULL` would be true of a composite value of nulls.
    let sql = format!(
        "SELECT id, CASE WHEN num_nulls(v) = 1 THEN 'null' ELSE {expression} END FROM default_{at}"
    );
    // As the reader: names of relations are printed with their schema.
    source.sql("SET search_path = pg_catalog, pg_temp").await;
    let sql = sql.replace("FROM default_", "FROM public.default_");
    let rows = source.client.query(&sql, &[]).await;
    source.sql("SET search_path = public").await;
    let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn change(source: &Source) {
    for at in 0..TYPES.len() {
        let sql = format!(
            "UPDATE default_{at} SET n = 1; UPDATE full_{at} SET n = 1; UPDATE key_{at} SET n = 1;"
        );
        source.sql(&sql).await;
    }
}

async fn empty(source: &Source) {
    for at in 0..TYPES.len() {
        source
            .sql(&format!("DELETE FROM default_{at}; DELETE FROM full_{at}; DELETE FROM key_{at};"))
            .await;
    }
}

fn by_table(seen: Vec<Seen>) -> BTreeMap<String, Vec<Seen>> {
    let mut tables: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
    for seen in seen.into_iter().filter(|seen| seen.value.is_some()) {
        tables.entry(seen.topic.clone()).or_default().push(seen);
    }
    tables
}

/// Compares the records of one type and notes what differs.
struct Check<'a> {
    kind: &'a Type,
    wanted: &'a Expected,
    wrong: &'a mut String,
}

impl Check<'_> {
    fn rows(&mut self, what: &str, seen: &[Seen], images: &[&str]) {
        if seen.len() != self.wanted.len() {
            self.note(what, &format!("{} records, not {}", seen.len(), self.wanted.len()));
        }
        for record in seen {
            let key: Json = serde_json::from_str(&record.key).expect("JSON");
            let id = key["id"].as_i64().expect("an id");
            for image in images {
                let found = record.raw(image, "v");
                // An unchanged value that is stored out of line is not sent again, and named instead.
                let unchanged = record.field("unchanged").as_deref() == Some(r#"["v"]"#);
                if what == "update" && *image == "after" && images.len() == 1 && unchanged {
                    continue;
                }
                self.compare(what, id, found.as_deref());
            }
        }
    }

    fn keys(&mut self, what: &str, seen: &[Seen], image: &str) {
        if seen.len() + 1 != self.wanted.len() {
            self.note(what, &format!("{} keyed records of {}", seen.len(), self.wanted.len()));
        }
        for record in seen {
            let id = record.raw(image, "id").expect("an id").parse().expect("a number");
            self.compare(&format!("key of {what}"), id, raw(&record.key, "v").as_deref());
        }
    }

    fn compare(&mut self, what: &str, id: i64, found: Option<&str>) {
        let wanted = &self.wanted[&id];
        if !found.is_some_and(|found| is_same(found, wanted)) {
            self.note(what, &format!("literal {id}: {found:.200?}, not {wanted:.200}"));
        }
    }

    fn note(&mut self, what: &str, problem: &str) {
        writeln!(self.wrong, "{} in {what}: {problem}", self.kind.name).expect("a string takes it");
    }
}

/// Numbers and documents to the byte; strings, also within arrays, by what they mean.
fn is_same(found: &str, wanted: &str) -> bool {
    let meaning = |text: &str| match text.as_bytes().first() {
        Some(b'"' | b'[') => serde_json::from_str::<Json>(text).ok(),
        _ => None,
    };
    found == wanted || meaning(found).is_some_and(|found| Some(found) == meaning(wanted))
}

fn without_numbers(seen: &Seen) -> (String, String, Option<String>) {
    let value = seen.value.as_deref().map(|value| {
        let at = value.rfind(",\"seq\":").expect("a source block");
        let end = at + value[at..].find('}').expect("its end");
        format!("{}{}", &value[..at], &value[end..])
    });
    (seen.topic.clone(), seen.key.clone(), value)
}
