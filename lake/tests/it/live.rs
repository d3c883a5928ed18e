//! The lake beside real servers: what it answers is what the database answers.

use std::collections::{BTreeMap, HashMap};
use std::process::Command;

use tailwater_sinks_archive::line;
use tailwater_sinks_worker::SourceRecord;
use tailwater_topics_contract::TopicName;

use crate::archived::{Archived, unique, variable};
use crate::history::{self, Moment};
use crate::questions::{HISTORY, Question, STATE};
use crate::world::{self, World};

type Rows = Vec<Vec<Option<String>>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_about_state_and_history_are_answered_as_postgres_answers_them() {
    let seed = rand::random();
    println!("seed {seed}");
    let (world, moments) = history::live(seed).await;
    let mut asked = 0;
    for question in STATE {
        let expected = postgres(&world, question, "public").await;
        let found = lake(&world, question, "_current", &[]);
        assert_eq!(found, expected, "{}", question.sql);
        asked += 1;
    }
    for question in HISTORY {
        let expected = postgres(&world, question, "public").await;
        assert_eq!(lake(&world, question, "", &[]), expected, "{}", question.sql);
        asked += 1;
    }
    // At each moment that was kept, by its LSN and by its time: all topics are cut at one commit.
    for Moment { schema, lsn, time } in &moments {
        for (number, question) in STATE.iter().enumerate() {
            let expected = postgres(&world, question, schema).await;
            let cut = if number % 2 == 0 { lsn } else { time };
            let found = lake(&world, question, "_current", &["--asof", cut]);
            assert_eq!(found, expected, "as of {cut}: {}", question.sql);
            asked += 1;
        }
    }
    println!("{asked} questions");
    elsewhere(&world).await;
    a_prompt_answers(&world);
    documented_commands_work(&world, &moments[0]).await;
    world.end().await;
}

async fn postgres(world: &World, question: &Question, schema: &str) -> Rows {
    let sql = question.postgres.unwrap_or(question.sql);
    let mut sql = sql.replace("{events}", "shop.outbox");
    for table in ["product", "stock", "account", "ledger", "note"] {
        sql = sql.replace(&format!("{{{table}}}"), &format!("{schema}.{table}"));
    }
    sorted(world.rows(&sql).await)
}

fn named(world: &World, sql: &str, suffix: &str) -> String {
    let mut sql = sql.to_owned();
    for table in ["product", "stock", "account", "ledger", "note", "events"] {
        sql = sql.replace(&format!("{{{table}}}"), &format!("{}{suffix}", world.table(table)));
    }
    sql
}

fn lake(world: &World, question: &Question, suffix: &str, options: &[&str]) -> Rows {
    let sql = named(world, question.sql, suffix);
    let mut arguments = vec!["query", sql.as_str(), "-o", "csv"];
    arguments.extend(options);
    let output = world.archived.run(&arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{sql}: {said}");
    assert!(said.contains("row") && said.contains("chunks") && said.contains("drifted"), "{said}");
    assert!(!said.contains("unchanged value"), "everything was filled: {said}");
    if options.is_empty() {
        assert!(said.contains("newest commit LSN"), "{said}");
    } else {
        assert!(said.contains("complete through LSN"), "{said}");
    }
    // No value here is an empty text, so what is empty is NULL.
    let text = String::from_utf8(output.stdout).expect("text");
    let row = |line| {
        let cells = cells(line).into_iter();
        cells.map(|cell| Some(cell).filter(|cell| !cell.is_empty())).collect()
    };
    sorted(text.lines().skip(1).map(row).collect())
}

/// The cells of one line of CSV.
fn cells(line: &str) -> Vec<String> {
    let mut cells = Vec::new();
    let (mut cell, mut quoted) = (String::new(), false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                cell.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(std::mem::take(&mut cell)),
            c => cell.push(c),
        }
    }
    cells.push(cell);
    cells
}

/// Without regard to order, and decimals without the zeros at their end: engines differ in how many they print.
fn sorted(mut rows: Rows) -> Rows {
    for cell in rows.iter_mut().flatten().flatten() {
        if cell.contains('.') && cell.parse::<f64>().is_ok() {
            let short = cell.trim_end_matches('0').trim_end_matches('.').to_owned();
            *cell = short;
        }
    }
    rows.sort();
    rows
}

/// The same objects, read by DuckDB through the statements that are made for it.
async fn elsewhere(world: &World) {
    let Ok(modules) = std::env::var("TAILWATER_TEST_DUCKDB") else {
        panic!("`TAILWATER_TEST_DUCKDB` is not set; run the tests with `make test`");
    };
    let place = world.archived.download().await;
    let ddl = world.archived.ok(&["ddl", "duckdb", "--at", &place]);
    let questions: Vec<&Question> = STATE.iter().filter(|question| question.elsewhere).collect();
    let texts: Vec<String> =
        questions.iter().map(|question| named(world, question.sql, "_current")).collect();
    let script = "import duckdb, json, sys
task = json.load(sys.stdin)
database = duckdb.connect()
database.execute(task['ddl'])
rows = [database.execute(sql).fetchall() for sql in task['questions']]
json.dump([[[None if c is None else str(c) for c in row] for row in one] for one in rows], sys.stdout)";
    let task = serde_json::json!({"ddl": ddl, "questions": texts}).to_string();
    let input = world.archived.folder().join("task.json");
    std::fs::write(&input, task).expect("written");
    let output = Command::new("python3")
        .args(["-c", script])
        .env("PYTHONPATH", modules)
        .stdin(std::fs::File::open(&input).expect("there"))
        .output()
        .expect("Python starts");
    assert!(output.status.success(), "{}\n{ddl}", String::from_utf8_lossy(&output.stderr));
    let answers: Vec<Rows> = serde_json::from_slice(&output.stdout).expect("JSON");
    for (question, answer) in questions.iter().zip(answers) {
        let expected = postgres(world, question, "public").await;
        assert_eq!(sorted(answer), expected, "DuckDB: {}", question.sql);
    }
    println!("{} questions to DuckDB", questions.len());
}

fn a_prompt_answers(world: &World) {
    use std::io::Write as _;
    use std::process::Stdio;
    let place = format!("s3://{}/tw/", world.archived.archive.store.bucket());
    let mut child = Command::new(env!("CARGO_BIN_EXE_tailwater-lake"))
        .arg("repl")
        .current_dir(world.archived.folder())
        .env("TAILWATER_ARCHIVE", place)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let typed = format!(
        "\\d\n\\o csv\nSELECT count(*) AS notes\nFROM {}_current;\nSELECT nonsense;\nSELECT 7 AS seven;\n\\q\n",
        world.table("note")
    );
    child.stdin.take().expect("piped").write_all(typed.as_bytes()).expect("read");
    let output = child.wait_with_output().expect("ends");
    let (out, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{error}");
    assert!(out.contains("_note_changes") && out.contains("notes\n600\n"), "{out}");
    assert!(error.contains("there is no column `nonsense`"), "{error}");
    assert!(out.contains("seven\n7\n"), "one mistake is not the end: {out}");
}

/// Every command of the guide, with the names of this world in place of the guide's.
async fn documented_commands_work(world: &World, moment: &Moment) {
    let guide = include_str!("../../../docs/lake.md");
    world::create_topics(&[(&format!("{}.copy", world.name), 3)]).await;
    let report = format!("SELECT count(*) FROM {};\n", world.table("events"));
    std::fs::write(world.archived.folder().join("report.sql"), report).expect("written");
    let mut ran = 0;
    for line in guide.lines().filter_map(|line| line.strip_prefix("$ tailwater lake ")) {
        let line = line
            .replace("shop_", &format!("{}_", world.name))
            .replace("shop.", &format!("{}.", world.name))
            .replace("16/B374D848", &moment.lsn)
            .replace("2026-01-02 03:04:05Z", &moment.time);
        let words = words(&line);
        // The shell's part of a line is not ours.
        let words = words.iter().map(String::as_str).take_while(|word| *word != ">");
        let words: Vec<&str> = words.collect();
        if words[0] == "repl" {
            continue;
        }
        let output = world.archived.run(&words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {error}");
        ran += 1;
    }
    assert!(ran >= 30, "only {ran} commands are shown");
}

/// Words as a shell takes them: by blanks, quotes kept together.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\'' | '"', None) => quote = Some(c),
            (' ', None) => words.push(String::new()),
            (c, _) => words.last_mut().expect("one").push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_that_is_not_vouched_for_is_refused_or_named() {
    let world = World::new(
        "CREATE TABLE one (id int PRIMARY KEY); CREATE TABLE two (id int PRIMARY KEY);",
        &[("one", &["id"], 2), ("two", &["id"], 1)],
    )
    .await;
    world.sql("BEGIN; INSERT INTO one VALUES (1); INSERT INTO two VALUES (1); COMMIT").await;
    let early = world.text("SELECT pg_current_wal_insert_lsn()").await;
    world.sql("BEGIN; INSERT INTO one VALUES (2); INSERT INTO two VALUES (2); COMMIT").await;
    world.archive(100).await;
    let count = |table: &str| {
        format!(
            "SELECT (SELECT count(*) FROM {}_current) AS a, (SELECT count(*) FROM {}_current) AS b",
            world.table(table),
            world.table("two")
        )
    };
    // Everything is archived and numbers without a hole prove it, without asking Kafka.
    let output = world.archived.run(&["query", &count("one"), "--asof", &early]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("complete through LSN") && said.contains("every number"), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("1,1\n"));

    // Beyond the end nobody can vouch.
    let (code, said) = world.archived.refused(&["query", &count("one"), "--asof", "F/0"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("not known to be complete up to LSN F/0"), "{said}");
    assert!(said.contains("partition 0 of"), "{said}");
    let output =
        world.archived.run(&["query", &count("one"), "--asof", "F/0", "--allow-incomplete"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("NOT known to be complete"), "{said}");

    // More is written and only one of the topics archived: a transaction would be seen in halves.
    world.sql("BEGIN; INSERT INTO one VALUES (3); INSERT INTO two VALUES (3); COMMIT").await;
    let late = world.text("SELECT pg_current_wal_insert_lsn()").await;
    world.sql("INSERT INTO one VALUES (4), (5), (6), (7), (8), (9)").await;
    let begun = std::time::Instant::now();
    let records = loop {
        let records = world::read(&world.topics);
        let ones = records.iter().filter(|(topic, ..)| *topic == world.topic("one")).count();
        if ones == 9 {
            break records;
        }
        assert!(begun.elapsed().as_secs() < 60, "the reader does not come that far");
    };
    for partition in 0..2 {
        let ours = records.iter().filter(|(t, p, _)| *t == world.topic("one") && *p == partition);
        let ours = ours.map(|(_, _, record)| record.clone()).collect();
        world.archived.write(&world.topic("one"), partition, ours, 100, 0).await;
    }
    let (code, said) = world.archived.refused(&["query", &count("one"), "--asof", &late]);
    assert_eq!(code, 3, "{said}");
    let two = world.topic("two");
    assert!(said.contains(&format!("partition 0 of `{two}`")), "{said}");
    assert!(!said.contains(&format!("of `{}`", world.topic("one"))), "{said}");
    // Asked of the other topic alone, its later records vouch for it.
    let alone = format!("SELECT count(*) AS n FROM {}_current", world.table("one"));
    assert_eq!(world.archived.ok(&["query", &alone, "--asof", &late]), "n\n3\n");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_replayed_and_archived_again_is_byte_for_byte_the_same() {
    let name = format!("replay_{}", unique());
    let first = Archived::new(&name).await;
    let topic: TopicName = format!("{name}.all").parse().expect("a name");
    for partition in 0..3 {
        first.write(&topic, partition, awkward(partition), 17, 0).await;
    }
    let copy = format!("{name}.copy");
    world::create_topics(&[(&copy, 3), (&format!("{name}.small"), 1)]).await;
    let said = first.ok(&["replay", topic.as_str(), "--to", &copy]);
    assert!(said.starts_with("120 records"), "{said}");
    let copied: TopicName = copy.parse().expect("a name");
    let records = world::read(&BTreeMap::from([(copied, 3)]));

    // Archived again under the name it had, in a bucket of its own: the very same lines.
    let second = Archived::new(&name).await;
    for partition in 0..3 {
        let ours = records.iter().filter(|(_, p, _)| *p == partition);
        let ours: Vec<SourceRecord> = ours.map(|(_, _, record)| record.clone()).collect();
        assert_eq!(ours, awkward(partition));
        second.write(&topic, partition, ours, 17, 0).await;
    }
    let objects = first.keys("data/").await;
    assert_eq!(objects, second.keys("data/").await);
    for key in objects {
        assert_eq!(first.object(&key).await.body, second.object(&key).await.body, "{key}");
    }
    assert_eq!(second.ok(&["verify"]).lines().count(), 1, "nothing but the sum");

    let (_, said) = first.refused(&["replay", topic.as_str(), "--to", &format!("{name}.small")]);
    assert!(
        said.contains("has 1 partitions, and the archive has records of partition 2"),
        "{said}"
    );
    let (_, said) = first.refused(&["replay", topic.as_str(), "--to", &format!("{name}.none")]);
    assert!(said.contains("does not exist"), "{said}");
    let said = first.ok(&[
        "replay",
        topic.as_str(),
        "--to",
        &copy,
        "--partition",
        "1",
        "--from",
        "10",
        "--until",
        "15",
    ]);
    assert!(said.starts_with("5 records"), "{said}");
}

/// Forty records with everything a record can have.
fn awkward(partition: i32) -> Vec<SourceRecord> {
    let record = |offset: i64| SourceRecord {
        offset,
        timestamp_ms: 1_767_225_600_000 + offset,
        key: match offset % 4 {
            0 => None,
            1 => Some(bytes::Bytes::from(format!("{{\"id\":{offset}}}"))),
            2 => Some(bytes::Bytes::from(format!("text \"{offset}\""))),
            _ => Some(bytes::Bytes::from_static(b"\xff\x00\xfe")),
        },
        value: match offset % 5 {
            0 => None,
            1 => Some(bytes::Bytes::from_static(b"{\"a\":1,\"b\":[1,{\"c\":\"\\u00e4\"}]}")),
            2 => Some(bytes::Bytes::from_static(b"not JSON\nbut two lines")),
            3 => Some(bytes::Bytes::from_static(b"\x00\x01\xff")),
            _ => Some(bytes::Bytes::from(format!(
                "{{\"partition\":{partition},\"kafka_offset\":1}}"
            ))),
        },
        headers: match offset % 3 {
            0 => Vec::new(),
            1 => vec![
                ("a".to_owned(), Some(bytes::Bytes::from_static(b"1"))),
                ("a".to_owned(), None),
            ],
            _ => vec![("bin".to_owned(), Some(bytes::Bytes::from_static(b"\xff")))],
        },
    };
    (0..40).map(record).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_said_and_named() {
    let archived = Archived::new("said").await;
    let (_, said) = archived.refused(&["ls"]);
    assert!(said.contains("there is no archive under `s3://"), "{said}");
    let topic: TopicName = "shop.item".parse().expect("a name");
    archived.write(&topic, 0, crate::archived::changes(0, 600), 200, 0).await;

    let cases: [(&[&str], i32, &[&str]); 10] = [
        (
            &["query", "SELECT * FROM shop_items"],
            2,
            &[
                "line 1, column 15",
                "there is no table `shop_items`",
                "did you mean `shop_item`?",
                "^",
            ],
        ),
        (
            &["query", "SELECT * FROM shop.item"],
            2,
            &["there is no table `shop.item`", "did you mean `shop_item`?"],
        ),
        (&["query", "SELECT\n  FROM shop_item WHERE"], 2, &["line ", "column "]),
        (
            &["query", "SELECT prise FROM shop_item"],
            2,
            &["line 1, column 8", "there is no column `prise`", "did you mean `price`?"],
        ),
        (
            &["query", "SELECT sum(price) FROM shop_item"],
            2,
            &["`sum(text)` is not possible", "CAST"],
        ),
        (&["query", "CREATE TABLE x (a int)"], 1, &["only read"]),
        (&["query", "SELECT lsn('zzz') FROM shop_item"], 2, &["`zzz` is not an LSN"]),
        (&["query", "SELECT 1", "--asof", "yesterday"], 2, &["neither an LSN such as"]),
        (
            &["query", "SELECT count(*) FROM shop_item_current", "--asof", "0/FFFFFFFF"],
            3,
            &["not known to be complete"],
        ),
        (&["schema", "shop.itm"], 1, &["there is no table", "did you mean `shop.item`?"]),
    ];
    for (arguments, code, parts) in cases {
        let (found, said) = archived.refused(arguments);
        for part in parts {
            assert!(said.contains(part), "{arguments:?} lacks {part}: {said}");
        }
        if arguments[0] == "query" {
            assert_eq!(found, code, "{arguments:?}: {said}");
        }
    }

    // More memory than allowed.
    let hungry = "SELECT array_agg(a.pad || b.pad) FROM shop_item a, shop_item b";
    let (_, said) = archived.refused(&["query", hungry, "--memory", "1MiB"]);
    assert!(
        said.contains("needs more memory than the 1.0 MiB") && said.contains("--memory"),
        "{said}"
    );

    // Somebody else's objects: named, and left out where that is safe.
    let foreign = "tw/data/shop.item/dt=2026-01-01/_SUCCESS";
    archived
        .put(foreign, &crate::archived::Stored { body: vec![], metadata: HashMap::new() })
        .await;
    let output = archived.run(&["query", "SELECT count(*) AS n FROM shop_item"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "n\n600\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains(foreign));
    archived.remove(foreign).await;

    // A damaged object: named.
    let key = archived.keys("data/").await.remove(1);
    let whole = archived.object(&key).await;
    let mut damaged = whole.clone();
    damaged.body[200] ^= 0xFF;
    archived.put(&key, &damaged).await;
    let (_, said) = archived.refused(&["query", "SELECT sum(tw_seq) FROM shop_item"]);
    assert!(said.contains(&format!("object `{key}` is damaged")), "{said}");
    // And one that is gone.
    archived.remove(&key).await;
    let (_, said) = archived.refused(&["query", "SELECT sum(tw_seq) FROM shop_item"]);
    assert!(said.contains(&format!("object `{key}` is missing")), "{said}");
    archived.put(&key, &whole).await;

    archived.configure("wrong-canary", &variable("TAILWATER_TEST_S3"));
    let (_, said) = archived.refused(&["ls"]);
    assert!(said.contains("refused") && !said.contains("canary"), "{said}");
    archived.configure("tailwater-secret", "http://127.0.0.1:9");
    let (_, said) = archived.refused(&["ls"]);
    assert!(said.contains("http://127.0.0.1:9 did not answer"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_match_is_not_fetched() {
    let archived = Archived::new("pruned").await;
    let topic: TopicName = "shop.item".parse().expect("a name");
    archived.write(&topic, 0, crate::archived::changes(0, 2_000), 100, 0).await;
    let asked = |sql: &str| {
        let output = archived.run(&["query", sql]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{sql}: {said}");
        (String::from_utf8_lossy(&output.stdout).into_owned(), said)
    };
    let (rows, said) = asked("SELECT count(*) AS n FROM shop_item");
    assert!(rows.ends_with("n\n2000\n") && said.contains("objects 0 of 20"), "{rows}{said}");
    let (_, said) = asked("SELECT count(*) FROM shop_item WHERE kafka_offset BETWEEN 150 AND 250");
    assert!(said.contains("objects 2 of 20") && said.contains("pruned by offset"), "{said}");
    let (_, said) = asked("SELECT count(*) FROM shop_item WHERE commit_lsn < lsn('0/10')");
    assert!(said.contains("objects 1 of 20") && said.contains("pruned by commit_lsn"), "{said}");
    for sql in [
        "SELECT count(*) AS n FROM shop_item WHERE kafka_key = '{\"id\":77}'",
        "SELECT count(*) AS n FROM shop_item WHERE id = 77",
    ] {
        let (rows, said) = asked(sql);
        assert!(rows.ends_with("n\n1\n"), "{rows}");
        assert!(said.contains("objects 1 of 20") && said.contains("pruned by key"), "{said}");
    }
    let (rows, said) = asked("SELECT count(*) AS n FROM shop_item_current WHERE id = 77");
    assert!(rows.ends_with("n\n1\n") && said.contains("pruned by key"), "{rows}{said}");
    let (rows, said) = asked("SELECT count(*) AS n FROM shop_item WHERE id = 99999999");
    assert!(rows.ends_with("n\n0\n") && said.contains("objects 0 of 20"), "{rows}{said}");
    let got = archived.ok(&["get", "shop.item", "--key", "77"]);
    let (partition, record) = line::read(got.trim().as_bytes()).expect("a line");
    assert_eq!((partition, record.offset), (0, 77));
    assert_eq!(archived.ok(&["head", "shop_item", "-n", "3"]).lines().count(), 3);
    let tail = archived.ok(&["tail", "shop.item", "-n", "2"]);
    assert!(
        tail.lines().last().is_some_and(|line| line.contains("\"kafka_offset\":1999")),
        "{tail}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_registered_archive_is_found_and_its_beginnings_are_compared() {
    let name = format!("registered_{}", unique());
    let archived = Archived::new(&name).await;
    let topic: TopicName = "shop.item".parse().expect("a name");
    archived.write(&topic, 0, crate::archived::changes(0, 20), 10, 0).await;
    let said = |arguments: &[&str]| {
        let output = archived.run_unaided(arguments);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    world::create_topics(&[(&format!("tailwater.{name}.registrations"), 1)]).await;
    let (code, text) = said(&["ls"]);
    assert!(code == Some(1) && text.contains("no archive sink is registered"), "{text}");
    world::register(&name, &archived.archive, &topic, 0);
    let (code, text) = said(&["ls"]);
    assert!(code == Some(0) && text.starts_with("shop.item\t1\t2\t20"), "{text}");
    assert_eq!(said(&["verify", "--origins"]).0, Some(0));
    // As if the chain had lost its first objects and all that speaks of them.
    world::register(&name, &archived.archive, &topic, -10);
    let (code, text) = said(&["verify", "--origins"]);
    assert!(code == Some(4) && text.contains("registered to begin at 2026-01-01/-10"), "{text}");
}
