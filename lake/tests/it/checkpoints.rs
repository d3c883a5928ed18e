//! Manifests rolled up: fewer requests, and the same answers whatever has become of manifests or checkpoints.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tailwater_lake::manifests::Rolled;
use tailwater_sinks_archive::manifest::Manifest;
use tailwater_sinks_archive::{layout, repair};
use tailwater_sinks_worker::SourceRecord;
use tailwater_topics_contract::{Guarantee, TopicName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::archived::{Archived, Stored, changes, variable};

const ASKED: &str = "SELECT op_code, count(*) AS n, sum(tw_seq) AS s, max(id) AS id, count(DISTINCT price) AS p FROM shop_item GROUP BY 1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_checkpoint_only_manifests_that_were_added_since_are_fetched() {
    let shop = Shop::new(12).await;
    let (without, fetched) = shop.asked();
    assert_eq!(fetched, 12);

    let said = shop.archived.ok(&["checkpoint"]);
    assert_eq!(shop.checkpoints().await, [shop.checkpoint(1)]);
    let expected =
        format!("shop.item: 12 manifests, 12 of them new, in `{}`, ", shop.checkpoint(1));
    assert!(said.starts_with(&expected), "{said}");
    assert_eq!(shop.asked(), (without, 0));

    shop.write(15).await;
    let (with, fetched) = shop.asked();
    assert_eq!(fetched, 3);
    shop.archived.ok(&["checkpoint", "shop_item"]);
    assert_eq!(shop.asked(), (with.clone(), 0));

    // Everything that is known of objects is the same without any checkpoint.
    let listed = shop.archived.ok(&["ls", "shop.item", "-o", "json"]);
    for key in shop.checkpoints().await {
        shop.archived.remove(&key).await;
    }
    assert_eq!(shop.archived.ok(&["ls", "shop.item", "-o", "json"]), listed);
    assert_eq!(shop.asked(), (with, 15));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_nothing_was_added_no_checkpoint_is_written() {
    let shop = Shop::new(3).await;
    let topic = shop.topic.clone();
    let rolled = shop.archived.archive.checkpoint(&topic).await.expect("written");
    assert!(matches!(rolled, Rolled::Up { manifests: 3, added: 3, .. }), "{rolled:?}");
    let key = shop.checkpoint(1);
    let before = shop.archived.object(&key).await;
    let rolled = shop.archived.archive.checkpoint(&topic).await.expect("looks");
    assert_eq!(rolled, Rolled::Before { key: key.clone(), manifests: 3 });
    let said = shop.archived.ok(&["checkpoint", "shop.item"]);
    assert_eq!(said, format!("shop.item: nothing was added since `{key}`, 3 manifests\n"));
    assert_eq!(shop.checkpoints().await, [shop.checkpoint(1)]);
    assert_eq!(shop.archived.object(&key).await, before);

    shop.write(5).await;
    let rolled = shop.archived.archive.checkpoint(&topic).await.expect("written");
    assert!(matches!(rolled, Rolled::Up { manifests: 5, added: 2, .. }), "{rolled:?}");
    assert_eq!(shop.checkpoints().await, [shop.checkpoint(1), shop.checkpoint(2)]);
    assert_eq!(shop.archived.object(&key).await, before, "nothing is ever replaced");

    let other: TopicName = "shop.other".parse().expect("a name");
    let rolled = shop.archived.archive.checkpoint(&other).await.expect("looks");
    assert_eq!(rolled, Rolled::Nothing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_was_replaced_is_not_believed_from_a_checkpoint() {
    let shop = Shop::new(6).await;
    let sound = shop.asked().0;
    let count = || shop.archived.ok(&["query", "SELECT count(*) AS n FROM shop_item"]);
    let sound_count = count();
    // A manifest that lies is rolled up, and then made again from its object.
    let key = shop.archived.keys("meta/shop.item/manifest/").await.remove(2);
    let lie = |stored: &Stored| {
        let mut manifest: Manifest = serde_json::from_slice(&stored.body).expect("a manifest");
        manifest.extent.records += 7;
        Stored { body: serde_json::to_vec(&manifest).expect("JSON"), ..stored.clone() }
    };
    let honest = shop.archived.object(&key).await;
    shop.archived.put(&key, &lie(&honest)).await;
    shop.archived.ok(&["checkpoint"]);
    assert_ne!(count(), sound_count, "the lie is rolled up");
    let scope = repair::Scope { content: true, dry_run: false };
    let (store, prefix) = (&shop.archived.archive.store, &shop.archived.archive.prefix);
    let repaired = repair::repair(store, prefix, &[], scope, &mut |_| {}).await.expect("mends");
    assert_eq!((repaired.replaced, repaired.beyond), (vec![key.clone()], vec![]));
    assert_eq!(count(), sound_count);
    assert_eq!(shop.asked(), (sound.clone(), 1));

    // Rolled up once more it is believed, and a lie that comes later is not hidden by it.
    let said = shop.archived.ok(&["checkpoint"]);
    assert!(said.starts_with("shop.item: 6 manifests, 1 of them new"), "{said}");
    assert_eq!(shop.asked(), (sound, 0));
    shop.archived.put(&key, &lie(&honest)).await;
    assert_ne!(count(), sound_count);
    assert!(shop.verified(4).contains(&key));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_checkpoint_is_named_and_passed_over() {
    let shop = Shop::new(4).await;
    shop.archived.ok(&["checkpoint"]);
    shop.write(6).await;
    shop.archived.ok(&["checkpoint"]);
    let sound = shop.asked();
    let newest = shop.checkpoint(2);
    let whole = shop.archived.object(&newest).await;
    let mut flipped = whole.clone();
    let manifest = memchr::memmem::find(&flipped.body, br#""sha256""#).expect("stands there");
    flipped.body[manifest + 12] ^= 1;
    let half = Stored { body: whole.body[..whole.body.len() / 2].to_vec(), ..whole.clone() };
    let foreign = Stored { body: b"not Parquet".to_vec(), ..whole.clone() };
    for damaged in [flipped, half, foreign] {
        shop.archived.put(&newest, &damaged).await;
        let output = shop.archived.run(&["query", ASKED]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.contains(&newest), "{said}");
        assert!(said.contains("is passed over"), "{said}");
        assert_eq!(shop.asked(), (sound.0.clone(), 2), "the one before it is believed");
    }
    // The next one takes its place, under a number of its own.
    let said = shop.archived.ok(&["checkpoint"]);
    assert!(said.contains(&shop.checkpoint(3)), "{said}");
    assert_eq!(shop.asked(), sound);
    let output = shop.archived.run(&["query", ASKED]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("passed over"));

    // One that cannot be read, though nothing was added: queries would name it again and again.
    let stray = Stored { body: vec![], metadata: HashMap::new() };
    shop.archived.put(&shop.checkpoint(7), &stray).await;
    let said = shop.archived.ok(&["checkpoint"]);
    assert!(said.contains(&shop.checkpoint(8)), "{said}");
    assert_eq!(shop.asked(), sound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_that_are_made_at_once_leave_one_that_can_be_read() {
    let shop = Shop::new(5).await;
    let sound = shop.asked().0;
    let (archive, topic) = (&shop.archived.archive, &shop.topic);
    let all = (0..6).map(|_| archive.checkpoint(topic));
    let all = futures::future::join_all(all).await;
    let ours = |rolled: &&Result<Rolled, _>| matches!(rolled, Ok(Rolled::Up { .. }));
    assert_eq!(all.iter().filter(ours).count(), 1, "{all:?}");
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(shop.checkpoints().await, [shop.checkpoint(1)]);
    assert_eq!(shop.asked(), (sound, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_at_least_once_is_rolled_up_without_conditions() {
    for (guarantee, conditions) in [(Guarantee::ExactlyOnce, 1), (Guarantee::AtLeastOnce, 0)] {
        let shop = Shop::under(guarantee, 5).await;
        let sound = shop.asked().0;
        let said = shop.through(&["checkpoint"]);
        assert!(said.starts_with("shop.item: 5 manifests, 5 of them new"), "{said}");
        assert_eq!(shop.counts.conditions.load(Ordering::SeqCst), conditions, "{guarantee}");
        assert_eq!(shop.asked(), (sound, 0), "{guarantee}");
        shop.verified(0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_belongs_beside_an_archive_and_other_files_in_its_folder_do_not() {
    let shop = Shop::new(3).await;
    shop.archived.ok(&["checkpoint"]);
    shop.verified(0);
    let scope = repair::Scope { content: true, dry_run: false };
    let (store, prefix) = (&shop.archived.archive.store, &shop.archived.archive.prefix);
    let repaired = repair::repair(store, prefix, &[], scope, &mut |_| {}).await.expect("looks");
    assert_eq!((repaired.made, repaired.replaced, repaired.beyond), (vec![], vec![], vec![]));

    let stray = "tw/meta/shop.item/checkpoint/notes.txt";
    shop.archived.put(stray, &Stored { body: vec![], metadata: HashMap::new() }).await;
    assert!(shop.verified(4).contains(stray));
    assert_eq!(shop.asked().1, 0, "and it disturbs nobody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duckdb_chooses_objects_by_a_checkpoint_as_the_guide_shows() {
    let guide = include_str!("../../../docs/lake.md");
    let shown = guide.split("```sql\n").skip(1).filter_map(|block| block.split("```").next());
    let shown = shown.filter(|block| block.starts_with("SET VARIABLE newest")).collect::<Vec<_>>();
    let [shown] = shown[..] else { panic!("{} examples", shown.len()) };

    // An hour of commits an object; all that comes after the checkpoint must be looked at.
    let archived = Archived::new("chosen").await;
    let topic: TopicName = "shop.stock".parse().expect("a name");
    archived.write(&topic, 0, hours(1_000), 100, 0).await;
    archived.ok(&["checkpoint"]);
    archived.write(&topic, 0, hours(1_200), 100, 0).await;
    let place = archived.download_all().await;
    let script = "import duckdb, json, sys
database = duckdb.connect()
for statement in sys.argv[1].split(';'):
    if statement.strip():
        rows = database.execute(statement).fetchall()
objects = database.execute(\"SELECT list_sort(getvariable('objects'))\").fetchone()[0]
json.dump([rows, objects], sys.stdout)";
    let sql = shown.replace("s3://events/", &place);
    let output = Command::new("python3")
        .args(["-c", script, &sql])
        .env("PYTHONPATH", variable("TAILWATER_TEST_DUCKDB"))
        .output()
        .expect("Python starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{sql}");
    let (rows, objects): (Vec<(String, u64)>, Vec<String>) =
        serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(rows, [("c".to_owned(), 100)], "{sql}");
    let starts: Vec<i64> =
        objects.iter().map(|object| layout::parse(object).expect("an object").1.start).collect();
    // Of the first, which only turns the day and is empty, there is no manifest.
    assert_eq!(starts, [0, 300, 1_000, 1_100], "one that can match, and what nothing is known of");
}

/// Changes that commit an hour apart after every hundred, from midnight on.
fn hours(count: i64) -> Vec<SourceRecord> {
    let at = |record: SourceRecord| {
        let hour = 1_767_312_000_000 + record.offset / 100 * 3_600_000;
        let value = record.value.as_deref().map(|value| {
            let text = String::from_utf8_lossy(value);
            text.replace("\"ts_ms\":1767225600000", &format!("\"ts_ms\":{hour}")).into()
        });
        SourceRecord { timestamp_ms: hour, value, ..record }
    };
    changes(0, count).into_iter().map(at).collect()
}

/// An archive of one topic, ten records an object, and what the program asks of its store.
struct Shop {
    archived: Archived,
    guarantee: Guarantee,
    topic: TopicName,
    counting: String,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Requests for manifests.
    manifests: AtomicUsize,
    /// Requests to create something only where nothing stands.
    conditions: AtomicUsize,
}

impl Shop {
    async fn new(objects: i64) -> Self {
        Self::under(Guarantee::ExactlyOnce, objects).await
    }

    async fn under(guarantee: Guarantee, objects: i64) -> Self {
        let archived = Archived::new("rolled").await;
        let topic = "shop.item".parse().expect("a name");
        let counts = Arc::new(Counts::default());
        let counting = counting(&variable("TAILWATER_TEST_S3"), counts.clone()).await;
        let shop = Self { archived, guarantee, topic, counting, counts };
        shop.write(objects).await;
        shop
    }

    /// Until there are so many objects.
    async fn write(&self, objects: i64) {
        let records = changes(0, objects * 10);
        self.archived.write_under(self.guarantee, &self.topic, 0, records, 10, 0).await;
    }

    /// What the program prints, while its requests are counted anew.
    fn through(&self, arguments: &[&str]) -> String {
        self.archived.configure("tailwater-secret", &self.counting);
        self.counts.manifests.store(0, Ordering::SeqCst);
        self.counts.conditions.store(0, Ordering::SeqCst);
        let said = self.archived.ok(arguments);
        self.archived.configure("tailwater-secret", &variable("TAILWATER_TEST_S3"));
        said
    }

    /// The answer to a query, and how many manifests were fetched for it.
    fn asked(&self) -> (String, usize) {
        let answer = self.through(&["query", ASKED]);
        (answer, self.counts.manifests.load(Ordering::SeqCst))
    }

    /// What `verify` prints as JSON; it must end with this code.
    fn verified(&self, code: i32) -> String {
        let output = self.archived.run(&["verify", "-o", "json"]);
        let report = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(code), "{report}");
        report
    }

    async fn checkpoints(&self) -> Vec<String> {
        self.archived.keys("meta/shop.item/checkpoint/").await
    }

    fn checkpoint(&self, number: u64) -> String {
        layout::checkpoint(&self.archived.archive.prefix, &self.topic, number)
    }
}

/// A way to a server on which requests are counted.
async fn counting(server: &str, counts: Arc<Counts>) -> String {
    let server = server.strip_prefix("http://").expect("no TLS").trim_end_matches('/').to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&server).await.expect("the server listens");
            tokio::spawn(pass_on(client, server, counts.clone()));
        }
    });
    endpoint
}

async fn pass_on(client: TcpStream, server: TcpStream, counts: Arc<Counts>) {
    let (mut asks, mut hears) = client.into_split();
    let (mut answers, mut takes) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut answers, &mut hears).await });
    let (mut buffer, mut line) = (vec![0; 1 << 16], Vec::new());
    while let Ok(read) = asks.read(&mut buffer).await {
        for byte in &buffer[..read] {
            line.push(*byte);
            if *byte == b'\n' {
                let line = String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned();
                if line.starts_with("GET ") && line.contains("/manifest/p") {
                    counts.manifests.fetch_add(1, Ordering::SeqCst);
                }
                if line.to_ascii_lowercase().starts_with("if-none-match:") {
                    counts.conditions.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
        if read == 0 || takes.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
}
