//! Catalogs that cannot work: each is refused at its line with a text that helps, before any server is asked.

use std::fs;
use std::path::PathBuf;

use crate::command::run;

const CANARY: &str = "hunter2-canary";

/// Servers that do not exist: whoever asks one gets another error than the expected.
const CONFIG: &str = "\
pipeline: market
postgres: { host: 127.0.0.1, port: 1, user: u, password: hunter2-canary, database: d }
kafka: { brokers: \"127.0.0.1:1\" }
s3: { endpoint: \"http://127.0.0.1:1\", access_key: a, secret_key: hunter2-canary }
opensearch: { url: \"http://127.0.0.1:1\" }
";

/// A topic of which one line is replaced; `@` marks where the mistake is expected and is taken out.
fn topic(from: &str, to: &str) -> String {
    replaced(
        "apiVersion: tailwater/v1\nkind: Topic\nname: stock.cdc\nfrom: { table: shop.stock }\npartitions: 3\nconfig: { cleanup.policy: compact }\n",
        from,
        to,
    )
}

/// A topic that works, then an archive of which one line is replaced.
fn archive(from: &str, to: &str) -> String {
    topic("", "")
        + &replaced(
            "---\napiVersion: tailwater/v1\nkind: Sink\nname: lake\ntype: archive\ntopics: [stock.cdc]\narchive: { bucket: events, segment: { age: 60s } }\n",
            from,
            to,
        )
}

/// A topic that works, then a search sink of which one line is replaced.
fn search(from: &str, to: &str) -> String {
    topic("", "")
        + &replaced(
            "---\napiVersion: tailwater/v1\nkind: Sink\nname: find\ntype: search\ntopics: [stock.cdc]\nsearch: { alias: stock, mapping: good.json }\n",
            from,
            to,
        )
}

fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from}");
    if from.is_empty() { text.to_owned() } else { text.replacen(from, to, 1) }
}

/// What is declared, with `@` where the mistake is, and what is said about it.
fn corpus() -> Vec<(String, &'static str)> {
    let outbox = |more: &str| {
        format!(
            "apiVersion: tailwater/v1\nkind: Topic\nname: orders.events\nfrom: {{ outbox: orders }}\n{more}"
        )
    };
    let second = |head: &str, from: &str| {
        topic("", "") + &format!("---\napiVersion: tailwater/v1\nkind: Topic\n{head}\n{from}\n")
    };
    vec![
        // The document itself.
        (topic("kind: Topic", "kind: @Topic\n\tname: x"), "tab"),
        (topic("from: { table: shop.stock }", "from: { table: shop.stock\n@partitions2: 1"), ""),
        (topic("name: stock.cdc", "name: &a stock.cdc\n@x: *a"), ""),
        (topic("partitions: 3", "partitions: 3\n@partitions: 4"), "twice"),
        ("@- a\n- b\n".to_owned(), "expected a mapping"),
        ("@just text\n".to_owned(), "expected a mapping"),
        // Version and kind.
        (topic("tailwater/v1", "@tailwater/v2"), "expected `tailwater/v1`"),
        (topic("apiVersion: tailwater/v1\n", "@"), "`apiVersion`: missing"),
        (topic("kind: Topic", "kind: @Topik"), "expected `Topic` or `Sink`"),
        (topic("kind: Topic\n", ""), "`kind`: missing"),
        (topic("kind: Topic", "kind: @[Topic]"), "expected a single value, found a list"),
        // A topic's name.
        (topic("name: stock.cdc\n", ""), "`name`: missing"),
        (topic("stock.cdc", "@Stock.CDC"), "expected a topic name"),
        (topic("stock.cdc", "@'stock cdc'"), "expected a topic name"),
        (topic("stock.cdc", "@.."), "expected a topic name"),
        (topic("stock.cdc", "@''"), "expected a topic name"),
        (topic("stock.cdc", "@{ a: b }"), "expected a single value, found a mapping"),
        (topic("name: stock.cdc", "@name: tailwater.market.progress"), "are our own topics"),
        (topic("name: ", "@nmae: "), "did you mean `name`?"),
        // Where its records come from.
        (topic("from: { table: shop.stock }\n", ""), "`from`: missing"),
        (topic("shop.stock", "@stock"), "schema.table"),
        (topic("shop.stock", "@shop."), "schema.table"),
        (topic("{ table: shop.stock }", "@shop.stock"), "expected a mapping"),
        (topic("table: shop.stock", "@tabel: shop.stock"), "did you mean `table`?"),
        (topic("table: shop.stock", "table: shop.stock, @topic: a"), "unknown key"),
        (
            topic("table: shop.stock", "message: prices")
                .replace("name: stock.cdc", "@name: stock.cdc"),
            "compaction would keep the last alone",
        ),
        (topic("table: shop.stock", "outbox: @'no good'"), "add `table: schema.table`"),
        // Its key.
        (topic("partitions", "key: @id\npartitions"), "expected a list"),
        (topic("partitions", "@key: []\npartitions"), "at least one column"),
        (topic("partitions", "key: [@{ a: b }]\npartitions"), "expected a single value"),
        (topic("name: stock.cdc", "@name: stock.cdc\nkey: [card_number]"), "looks like card data"),
        (outbox("key: [id]\n").replace("name: orders", "@name: orders"), "remove `key`"),
        // Its settings.
        (topic("partitions: 3", "@partitions: 0"), "from 1 to 10000"),
        (topic("partitions: 3", "@partitions: 10001"), "from 1 to 10000"),
        (topic("partitions: 3", "partitions: @-1"), "whole number"),
        (topic("partitions: 3", "partitions: @three"), "whole number"),
        (topic("partitions: 3", "partitions: @1.5"), "whole number"),
        (topic("partitions: 3", "@partition: 3"), "did you mean `partitions`?"),
        (topic("partitions: 3", "replication: @many"), "whole number"),
        (topic("partitions: 3", "replication: @70000"), "whole number"),
        (topic("{ cleanup.policy: compact }", "@[compact]"), "expected a mapping"),
        (topic("cleanup.policy: compact", "cleanup.policy: @[compact]"), "single value"),
        (topic("partitions: 3", "@mask: { email: dropp }"), "expected `drop`, `hmac` or"),
        (topic("partitions: 3", "@values: debesium"), "expected `readable` or `debezium`"),
        (topic("partitions: 3", "expose: @pan"), "expected a list"),
        // Topics against each other.
        (second("@name: stock.cdc", "from: { table: shop.other }"), "declared twice, first at"),
        (second("@name: again.cdc", "from: { table: shop.stock }"), "already takes these rows"),
        (
            second("@name: stock.events", "from: { outbox: stock, table: shop.stock }"),
            "an outbox in one topic and a table in another",
        ),
        (
            outbox("") + "---\n" + &outbox("").replace("name: orders.events", "@name: more.events"),
            "already takes these rows",
        ),
        // A sink.
        (archive("name: lake\n", ""), "`name`: missing"),
        (archive("name: lake", "name: @Lake"), "expected a sink name"),
        (archive("name: lake", "name: @my_lake"), "expected a sink name"),
        (archive("type: archive\n", ""), "`type`: missing"),
        (archive("type: archive", "type: @parquet"), "expected `archive` or `search`"),
        (archive("topics: [stock.cdc]\n", ""), "expected at least one topic"),
        (archive("[stock.cdc]", "@stock.cdc"), "expected a list"),
        (archive("topics: [stock.cdc]", "@topics: []"), "expected at least one topic"),
        (
            archive(
                "name: lake\ntype: archive\ntopics: [stock.cdc]",
                "@name: lake\ntype: archive\ntopics: [stok.cdc]",
            ),
            "nobody writes `stok.cdc`",
        ),
        (
            archive(
                "name: lake\ntype: archive\ntopics: [stock.cdc]",
                "@name: lake\ntype: archive\ntopics: [stock.cdc, stock.cdc]",
            ),
            "listed twice",
        ),
        (archive("bucket: events, ", "@"), "`archive.bucket`: missing"),
        (archive("bucket: events", "@bucket: My_Events"), "expected a bucket name"),
        (archive("bucket: events", "@bucket: ev"), "expected a bucket name"),
        (archive("bucket: events", "bucket: events, @prefix: market"), "ends with `/`"),
        (archive("bucket: events", "bucket: events, @prefix: /market/"), "does not begin with it"),
        (archive("bucket: events", "bucket: events, @region: eu"), "unknown key"),
        (archive("age: 60s", "age: @60"), "60"),
        (archive("age: 60s", "age: @soon"), "soon"),
        (archive("age: 60s", "@age: 0s"), "more than nothing"),
        (archive("age: 60s", "bytes: @64 megs"), "64 megs"),
        (archive("age: 60s", "@records: 0"), "more than nothing"),
        (archive("age: 60s", "@ages: 60s"), "did you mean `age`?"),
        (archive("archive: { bucket", "@search: { bucket"), "unknown key"),
        // A search sink.
        (search("alias: stock, ", "@"), "`search.alias`: missing"),
        (search("alias: stock", "@alias: Stock"), "expected an index name"),
        (search("alias: stock", "@alias: _stock"), "expected an index name"),
        (search(", mapping: good.json", ""), "`search.mapping`: missing"),
        (search("mapping: good.json", "@mapping: none.json"), "cannot be read"),
        (search("mapping: good.json", "@mapping: bad.json"), "is not JSON"),
        (search("mapping: good.json", "@mapping: list.json"), "no `mappings` object"),
        (
            search("mapping: good.json", "mapping: good.json, bulk: { @bytes: 0 }"),
            "more than nothing",
        ),
        (search("mapping: good.json", "mapping: good.json, bulk: { age: @1 }"), "1"),
        (
            search("mapping: good.json", "mapping: good.json, document: { id: [a], @routing: b }"),
            "not in `id`",
        ),
        (
            search(
                "mapping: good.json",
                "mapping: good.json, document: { include: [a], @nested: [b] }",
            ),
            "left out of the document",
        ),
        (
            search("mapping: good.json", "mapping: good.json, document: { @rename: { a: _id } }"),
            "OpenSearch keeps that name for itself",
        ),
        (
            search("mapping: good.json", "mapping: good.json, @bluk: { bytes: 1MiB }"),
            "did you mean `bulk`?",
        ),
        (
            outbox("")
                + "---\napiVersion: tailwater/v1\nkind: Sink\n@name: find\ntype: search\ntopics: [orders.events]\nsearch: { alias: o, mapping: good.json }\n",
            "needs the rows of a table",
        ),
        (
            search("", "")
                + "---\napiVersion: tailwater/v1\nkind: Sink\n@name: also\ntype: search\ntopics: [stock.cdc]\nsearch: { alias: stock, mapping: good.json }\n",
            "already writes `stock`",
        ),
        (
            archive("", "")
                + "---\napiVersion: tailwater/v1\nkind: Sink\n@name: lake\ntype: archive\ntopics: [stock.cdc]\narchive: { bucket: other }\n",
            "declared twice",
        ),
    ]
}

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("tailwater-broken-{}", std::process::id()));
        fs::create_dir_all(folder.join("catalog")).expect("a folder");
        fs::write(folder.join("tailwater.yaml"), CONFIG).expect("written");
        for (name, text) in
            [("good.json", r#"{"mappings":{}}"#), ("bad.json", "{"), ("list.json", "[]")]
        {
            fs::write(folder.join("catalog").join(name), text).expect("written");
        }
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn every_broken_catalog_is_refused_at_its_line_and_no_server_is_asked() {
    let folder = Folder::new();
    let corpus = corpus();
    assert!(corpus.len() >= 60, "{}", corpus.len());
    let mut wrong = Vec::new();
    for (marked, expected) in &corpus {
        let text = marked.replacen('@', "", 1);
        fs::write(folder.0.join("catalog/a.yaml"), &text).expect("written");
        let ran = run(&folder.0, &["plan", "-f", "catalog"]);
        let place = match marked.find('@') {
            Some(at) => {
                format!("catalog/a.yaml:{}:", marked[..at].matches('\n').count() + 1)
            }
            // A key that is missing has no line of its own.
            None => "catalog/a.yaml:".to_owned(),
        };
        let said = ran.stderr.lines().any(|line| line.contains(&place) && line.contains(expected));
        let is_right = ran.code == Some(2)
            && ran.stdout.is_empty()
            && said
            && !ran.stderr.contains(CANARY)
            && !ran.stderr.contains("127.0.0.1");
        if !is_right {
            wrong.push(format!("{marked}\n  expected {place} … {expected}\n  got {ran:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), corpus.len(), wrong.join("\n"));
    println!("{} broken catalogs", corpus.len());
}

#[test]
fn the_line_is_shown_with_a_mark_and_a_line_of_the_configuration_never_is() {
    let folder = Folder::new();
    fs::write(folder.0.join("catalog/a.yaml"), topic("partitions: 3", "partitions: none"))
        .expect("written");
    let broken = CONFIG.replace("port: 1,", "port: none,");
    fs::write(folder.0.join("tailwater.yaml"), broken).expect("written");
    let ran = run(&folder.0, &["plan", "-f", "catalog"]);
    assert!(
        ran.stderr.contains("\n      5 | partitions: none\n        |             ^"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("tailwater.yaml:2:36"), "{}", ran.stderr);
    assert!(!ran.stderr.contains(CANARY), "{}", ran.stderr);
}
