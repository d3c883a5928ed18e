//! The binary against real Postgres, Kafka, S3 and OpenSearch.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;
use tailwater_sinks_archive::{Objects, Put};
use tailwater_topics_contract::Lsn;

use crate::command::{Ran, ran, run, tailwater};
use crate::place::Place;

pub(crate) fn json(ran: Ran) -> Value {
    serde_json::from_str(&ran.done()).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_is_shown_applied_and_listed() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let tailwater = |arguments: &[&str]| run(&place.folder, arguments);
    let id = &place.id;

    let early = tailwater(&["topics", "list"]);
    assert_eq!(early.code, Some(1));
    assert!(early.stderr.contains("run `tailwater apply` first"), "{early:#?}");
    let check = tailwater(&["check", "-f", "catalog"]);
    assert_eq!(check.code, Some(0), "what apply will make is no finding: {check:#?}");

    let differs = tailwater(&["diff", "-f", "catalog"]);
    let shown = tailwater(&["plan", "-f", "catalog"]).done();
    assert_eq!((differs.code, &differs.stdout), (Some(1), &shown));
    assert!(shown.contains(&format!("+ topic stock.{id}: create with 2 partitions")), "{shown}");
    let applied = tailwater(&["apply", "-f", "catalog"]).done();
    assert_eq!(shown, applied, "the plan is what is done");
    let again = tailwater(&["apply", "-f", "catalog", "-o", "json"]);
    assert_eq!(json(again)["changes"], Value::Array(vec![]));

    assert_eq!(tailwater(&["diff", "-f", "catalog"]).done(), "");
    let topics = tailwater(&["topics", "list"]).done();
    assert_eq!(topics, format!("stock.{id}\ttable shop.stock\tid\t2\tyes\tactive\n"));
    let stock = tailwater(&["topics", "describe", &format!("stock.{id}")]).done();
    assert!(
        stock.contains("sinks\tfind, lake\n") && stock.contains("partition 1: 0 to 0"),
        "{stock}"
    );
    let lake = tailwater(&["sinks", "describe", "lake", "-o", "yaml"]).done();
    assert!(lake.contains(&format!("bucket: cli-{id}")) && lake.contains("group: "), "{lake}");
    let sinks = json(tailwater(&["sinks", "list", "-o", "json"]));
    assert_eq!(sinks[1]["destination"], format!("s3://cli-{id}/"));
    let none = tailwater(&["sinks", "describe", "none"]);
    assert_eq!(none.code, Some(1));
    assert!(none.stderr.contains("is not registered; registered are find, lake"), "{none:#?}");
    let check = tailwater(&["check"]);
    assert_eq!(check.code, Some(0), "{check:#?}");
    place.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_that_is_killed_is_finished_by_the_next() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut kills = 0;
    // Each attempt lives a little longer, so kills fall all over the way.
    for attempt in 0..20 {
        let mut apply = tailwater(&place.folder, &["apply", "-f", "catalog"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        tokio::time::sleep(Duration::from_millis(100 + attempt * 150 + seed * 7919 % 100)).await;
        if apply.try_wait()?.is_some_and(|status| status.success()) {
            break;
        }
        apply.kill()?;
        apply.wait()?;
        kills += 1;
    }
    assert!(kills > 0, "the first attempt had 200 ms at most");
    run(&place.folder, &["apply", "-f", "catalog"]).done();
    let again = run(&place.folder, &["plan", "-f", "catalog"]).done();
    assert_eq!(again, "");
    let sinks = json(run(&place.folder, &["sinks", "list", "-o", "json"]));
    assert_eq!(sinks.as_array().map(Vec::len), Some(2));
    place.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_name_the_file_and_the_sql_that_mends_them() -> anyhow::Result<()> {
    let place = Place::new().await?;
    place.sql.batch_execute("ALTER TABLE shop.stock REPLICA IDENTITY NOTHING").await?;
    let refused = run(&place.folder, &["apply", "-f", "catalog"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    let expected = "catalog/topics.yaml:3:1: topic `stock";
    assert!(refused.stderr.contains(expected), "{refused:#?}");
    let sql = r#"mend it with: ALTER TABLE "shop"."stock" REPLICA IDENTITY DEFAULT;"#;
    assert!(refused.stderr.contains(sql), "{refused:#?}");
    let check = run(&place.folder, &["check", "-f", "catalog"]);
    assert_eq!(check.code, Some(1));
    assert!(check.stdout.contains("REPLICA IDENTITY DEFAULT"), "{check:#?}");
    place.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_shown_and_discarded() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let tailwater = |arguments: &[&str]| run(&place.folder, arguments);
    tailwater(&["apply", "-f", "catalog"]).done();
    assert_eq!(tailwater(&["dlq", "list"]).done(), "");
    let producer: BaseProducer = place.kafka.create()?;
    let mut headers = OwnedHeaders::new().insert(Header { key: "tenant", value: Some("t1") });
    for (key, value) in [
        ("tw-dlq-sink", "find"),
        ("tw-dlq-topic", "stock"),
        ("tw-dlq-partition", "1"),
        ("tw-dlq-offset", "42"),
        ("tw-dlq-timestamp", "1767225600000"),
        ("tw-dlq-class", "mapping"),
        ("tw-dlq-reason", "field [price]\tis no \u{1b}[31mnumber"),
        ("tw-dlq-attempts", "1"),
        ("tw-dlq-at", "1767312000000"),
    ] {
        headers = headers.insert(Header { key, value: Some(value) });
    }
    let topic = format!("tailwater.cli_{}.find.dlq", place.id);
    let record = BaseRecord::to(&topic).key("k").payload("\u{0}not json").headers(headers);
    producer.send(record).map_err(|(error, _)| error)?;
    producer.flush(Duration::from_secs(10))?;

    let listed = tailwater(&["dlq", "list", "find"]).done();
    assert_eq!(
        listed,
        "find\t0/0\tstock[1]@42\tmapping\t10\t2026-01-02T00:00:00Z\t-\tfield [price] is no  [31mnumber\n"
    );
    let letters = json(tailwater(&["dlq", "list", "-o", "json"]));
    assert_eq!(letters[0]["from"]["offset"], 42);
    assert_eq!(tailwater(&["dlq", "list", "lake"]).done(), "");
    assert_eq!(tailwater(&["dlq", "list", "other"]).code, Some(1));
    let shown = tailwater(&["dlq", "show", "find", "0/0"]).done();
    assert!(shown.contains("header\ttenant: t1\nkey\tk\nvalue\t not json\n"), "{shown:?}");
    assert_eq!(tailwater(&["dlq", "show", "find", "0/0", "--value"]).done(), "\u{0}not json");
    assert_eq!(tailwater(&["dlq", "show", "find", "0/7"]).code, Some(1));
    let status = json(tailwater(&["status", "--json"]));
    assert_eq!(status["sinks"][0]["dead_letters"], 1, "{status:#}");

    assert_eq!(tailwater(&["dlq", "discard", "find"]).code, Some(2), "which ones must be said");
    tailwater(&["dlq", "discard", "find", "0/0"]).done();
    assert_eq!(tailwater(&["dlq", "list", "find"]).done(), "");
    let settled = tailwater(&["dlq", "list", "find", "--settled"]).done();
    assert!(settled.contains("\tdiscarded\t"), "{settled}");
    place.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_given_to_its_sink_again_when_the_cause_is_mended() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let tailwater = |arguments: &[&str]| run(&place.folder, arguments);
    // A mapping that takes only numbers where the table has a name.
    let mapping =
        |kind: &str| format!(r#"{{"mappings":{{"properties":{{"name":{{"type":"{kind}"}}}}}}}}"#);
    std::fs::write(place.folder.join("catalog/stock.mapping.json"), mapping("integer"))?;
    tailwater(&["apply", "-f", "catalog"]).done();
    let reader = Running::start(&place, &["cdc", "run"])?;
    let sinks = Running::start(&place, &["sinks", "run", "find"])?;
    let status = || json(tailwater(&["status", "--json"]));
    eventually("the slot is read", || status()["slot"]["active"] == true).await?;
    place
        .sql
        .batch_execute("INSERT INTO shop.stock VALUES (1, '7'), (2, 'seven'), (3, 'x')")
        .await?;
    eventually("two are set aside", || tailwater(&["dlq", "list"]).done().lines().count() == 2)
        .await?;
    // One of the rows is corrected, so its letter is of no use any more.
    place.sql.batch_execute("UPDATE shop.stock SET name = '8' WHERE id = 3").await?;
    eventually("the correction arrived", || status()["sinks"][0]["topics"][0]["lag"] == 0).await?;

    let outcomes = |ran: &Ran| -> Vec<String> {
        let mut outcomes: Vec<String> = ran
            .stdout
            .lines()
            .filter_map(|line| line.split('\t').nth(1))
            .map(str::to_owned)
            .collect();
        outcomes.sort();
        outcomes
    };
    let refused = tailwater(&["dlq", "replay", "find"]);
    assert_eq!(refused.code, Some(1), "{refused:#?}");
    assert_eq!(outcomes(&refused), ["refused", "superseded"], "{refused:#?}");
    let left = tailwater(&["dlq", "list"]).done();
    assert_eq!(left.lines().count(), 1, "{left}");

    std::fs::write(place.folder.join("catalog/stock.mapping.json"), mapping("keyword"))?;
    let rebuilt = tailwater(&["sinks", "rebuild", "find", "-f", "catalog"]);
    assert_eq!(rebuilt.code, Some(0), "{rebuilt:#?}");
    assert!(rebuilt.stdout.contains("0 differ"), "{rebuilt:#?}");
    let given = tailwater(&["dlq", "replay", "find"]);
    assert_eq!((given.code, outcomes(&given)), (Some(0), vec!["applied".to_owned()]), "{given:#?}");
    assert_eq!(tailwater(&["dlq", "list"]).done(), "");
    assert_eq!(reader.drain()?, Some(0));
    assert_eq!(sinks.drain()?, Some(0));
    place.leave().await
}

/// What the index shows is compared as the reader writes it, and each row has its own document.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_masked_rows_under_keys_of_two_columns_is_rebuilt_and_the_one_before_is_fed()
-> anyhow::Result<()> {
    let place = Place::new().await?;
    let tailwater = |arguments: &[&str]| run(&place.folder, arguments);
    place.mask_parts().await?;
    tailwater(&["apply", "-f", "catalog"]).done();
    let reader = Running::start(&place, &["cdc", "run"])?;
    let sinks = Running::start(&place, &["sinks", "run", "seek"])?;
    let insert = "INSERT INTO shop.part SELECT n % 3, n, 'bolt ' || n, 'secret', 'né-' || n,
                  CASE WHEN n % 4 > 0 THEN n || '@example.org' END FROM generate_series";
    place.sql.batch_execute(&format!("{insert}(1, 40) n")).await?;
    place.sql.batch_execute("DELETE FROM shop.part WHERE number = 7").await?;
    tailwater(&["wait", "seek"]).done();

    let keyless = tailwater(&["--config", "keyless.yaml", "sinks", "rebuild", "seek"]);
    assert_eq!(keyless.code, Some(1), "{keyless:#?}");
    assert!(keyless.stderr.contains("column `email` is masked by `hmac`"), "{keyless:#?}");

    let arguments = ["sinks", "rebuild", "seek", "--feed-previous", "60"];
    let log = place.folder.join("rebuild.log");
    let rebuild = Running::logging(crate::command::tailwater(&place.folder, &arguments), &log)?;
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("the other index is in place", || said().contains("minutes; ended sooner")).await?;
    assert!(said().contains("compared 39 rows"), "{}", said());
    assert!(said().contains("0 differ; 0 that changed"), "{}", said());
    place.sql.batch_execute(&format!("{insert}(41, 42) n")).await?;
    let alias = format!("part-{}", place.id);
    for alias in [&alias, &format!("{alias}-previous")] {
        eventually(alias, || Place::documents(alias).len() == 41).await?;
        let documents = Place::documents(alias);
        let part = documents.iter().find(|part| part["number"] == 41).expect("it is there");
        assert!(part.get("secret").is_none() && part["note"] == "né-", "{part}");
        assert_eq!(part["email"].as_str().map(str::len), Some(64), "{part}");
    }
    drop(rebuild);
    assert_eq!(reader.drain()?, Some(0));
    assert_eq!(sinks.drain()?, Some(0));
    place.leave().await
}

/// A child that is ended when the test ends, however it ends.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(place: &Place, arguments: &[&str]) -> anyhow::Result<Self> {
        let log = format!("{}.log", arguments.join("-"));
        Self::logging(tailwater(&place.folder, arguments), &place.folder.join(log))
    }

    pub(crate) fn logging(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let log = std::fs::File::create(log)?;
        Ok(Self(command.stdout(log.try_clone()?).stderr(log).spawn()?))
    }

    /// SIGTERM by the recorded process id, then the exit code.
    pub(crate) fn drain(mut self) -> anyhow::Result<Option<i32>> {
        let id = nix::unistd::Pid::from_raw(self.0.id().try_into()?);
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM)?;
        Ok(self.0.wait()?.code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) async fn eventually(what: &str, mut is: impl FnMut() -> bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !is() {
        anyhow::ensure!(begun.elapsed() < Duration::from_secs(60), "not within 60 s: {what}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_and_sinks_run_drain_and_show_their_state() -> anyhow::Result<()> {
    let place = Place::new().await?;
    run(&place.folder, &["apply", "-f", "catalog"]).done();
    let reader = Running::start(&place, &["cdc", "run"])?;
    let lake = Running::start(&place, &["sinks", "run", "lake"])?;
    let find = Running::start(&place, &["sinks", "run", "find", "--admin", "127.0.0.1:0"])?;
    let status = || json(run(&place.folder, &["status", "--json"]));
    eventually("the slot is read", || status()["slot"]["active"] == true).await?;
    place
        .sql
        .batch_execute(
            "INSERT INTO shop.stock SELECT n, 'item ' || n FROM generate_series(1, 100) n",
        )
        .await?;
    let taken = |status: &Value, sink: usize| {
        let partitions = status["sinks"][sink]["topics"][0]["partitions"].as_array();
        let partitions = partitions.map(Vec::as_slice).unwrap_or_default();
        let committed = partitions.iter().filter_map(|p| p["committed"].as_i64()).sum::<i64>();
        committed >= 100 && status["sinks"][sink]["topics"][0]["lag"] == 0
    };
    eventually("both sinks took everything", || {
        let status = status();
        taken(&status, 0) && taken(&status, 1)
    })
    .await?;

    let topic = format!("stock.{}", place.id);
    let segments = json(run(&place.folder, &["lake", "ls", &topic, "-o", "json"]));
    let records = segments.as_array().expect("a list").iter();
    assert_eq!(records.filter_map(|s| s["records"].as_u64()).sum::<u64>(), 100, "{segments:#}");
    let lines = run(&place.folder, &["lake", "cat", &topic]).done();
    assert_eq!(
        lines.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok()).count(),
        100
    );
    let few = run(&place.folder, &["lake", "cat", &topic, "--limit", "3"]).done();
    assert_eq!(few.lines().count(), 3);
    let screen = run(&place.folder, &["status"]).done();
    assert!(screen.contains("reader lag") && screen.contains(&topic), "{screen}");

    assert_eq!(reader.drain()?, Some(0));
    assert_eq!(lake.drain()?, Some(0));
    assert_eq!(find.drain()?, Some(0));
    eventually("the slot is free", || status()["slot"]["active"] == false).await?;
    keys_of_the_store_are_taken_from_the_environment(&place).await?;
    what_an_archive_costs_is_reckoned(&place, &topic);
    the_archive_is_proved_and_mended(&place, &topic).await;
    place.leave().await
}

fn what_an_archive_costs_is_reckoned(place: &Place, topic: &str) {
    let explain = |more: &[&str]| run(&place.folder, &[&["sinks", "explain"], more].concat());
    let told = json(explain(&["lake", "--over", "1h", "-o", "json"]));
    let topics = told["topics"].as_array().expect("a list");
    let stock = topics.iter().find(|found| found["topic"] == topic).expect("the topic");
    // A hundred records within the hour, and the markers of their transactions.
    let records = stock["records_per_second"].as_f64().expect("a number") * 3_600.0;
    assert!((100.0..150.0).contains(&records), "{told:#}");
    let segments = told["declared"]["segments_per_day"].as_f64().expect("a number");
    let requests = told["declared"]["requests_per_day"].as_f64().expect("a number");
    assert!(segments > 0.0 && (requests - 3.0 * segments).abs() < 1e-6, "{told:#}");
    let screen = explain(&["lake"]).done();
    assert!(screen.contains("REQUESTS/DAY") && screen.contains(topic), "{screen}");
    let search = explain(&["find"]);
    assert_eq!(search.code, Some(1));
    assert!(search.stderr.contains("`find` is no archive"), "{}", search.stderr);
}

async fn keys_of_the_store_are_taken_from_the_environment(place: &Place) -> anyhow::Result<()> {
    let arguments = ["archive", "verify", "--level", "0", "--config", place.without_keys()?];
    let with = |variables: &[(&str, &str)]| {
        let mut command = tailwater(&place.folder, &arguments);
        let apart = [("AWS_EC2_METADATA_DISABLED", "true"), ("HOME", "/nonexistent")];
        command.envs(apart).envs(variables.iter().copied());
        ran(command.output().expect("the binary starts"))
    };
    let none = with(&[]);
    assert_eq!(none.code, Some(1), "{none:#?}");
    assert!(none.stderr.contains("there are no keys for it"), "{}", none.stderr);
    with(&[("AWS_ACCESS_KEY_ID", "tailwater"), ("AWS_SECRET_ACCESS_KEY", "tailwater-secret")])
        .done();

    // As a pod with a service account has it: a token in a file, and a role to be assumed with it.
    let token = place.folder.join("token");
    std::fs::write(&token, "a token of the cluster")?;
    let service = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", service.local_addr()?);
    tokio::spawn(assume(service));
    let role = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().expect("text")),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/archive"),
        ("AWS_ENDPOINT_URL_STS", &address),
    ];
    tokio::task::block_in_place(|| with(&role)).done();
    Ok(())
}

/// Gives the keys of the tests for the token of the cluster, and only for that.
async fn assume(service: tokio::net::TcpListener) -> anyhow::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    loop {
        let (mut client, _) = service.accept().await?;
        let mut request = vec![0; 16 << 10];
        let mut length = 0;
        while !String::from_utf8_lossy(&request[..length]).contains("WebIdentityToken=") {
            let count = client.read(&mut request[length..]).await?;
            anyhow::ensure!(count > 0, "it asked for something else");
            length += count;
        }
        let asked = String::from_utf8_lossy(&request[..length]);
        anyhow::ensure!(
            asked.contains("WebIdentityToken=a+token+of+the+cluster")
                || asked.contains("WebIdentityToken=a%20token%20of%20the%20cluster"),
            "{asked}"
        );
        let body = "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
            <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>tailwater</AccessKeyId>\
            <SecretAccessKey>tailwater-secret</SecretAccessKey><SessionToken>for an hour</SessionToken>\
            <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
            </AssumeRoleWithWebIdentityResponse>";
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/xml\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        client.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await?;
    }
}

/// As it was left by a sink that drained; then with something in it that is not ours.
async fn the_archive_is_proved_and_mended(place: &Place, topic: &str) {
    let archive = |arguments: &[&str]| run(&place.folder, &[&["archive"], arguments].concat());
    let proof = archive(&["verify", "--whole"]).done();
    assert!(proof.contains("100 records") && proof.contains("nothing wrong at level 2"), "{proof}");
    let mended = archive(&["repair", "--content"]).done();
    assert!(mended.contains(" 0 made, 0 replaced, 0 beyond repair"), "{mended}");
    let unknown = archive(&["verify", "stock.nobody"]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("`stock.nobody` is not archived"), "{}", unknown.stderr);

    let key = format!("data/{topic}/stray.txt");
    let body = bytes::Bytes::from_static(b"not ours");
    let put = place.archive().create(&key, body, HashMap::new(), "text/plain").await;
    assert!(matches!(put, Ok(Put::Created)), "{put:?}");
    let verified = archive(&["verify", topic, "-o", "json"]);
    assert_eq!(verified.code, Some(4), "{verified:#?}");
    let report: Value = serde_json::from_str(&verified.stdout).expect("JSON");
    assert_eq!(report["findings"][0]["subject"], key, "{report:#}");
    let mended = archive(&["repair"]);
    assert_eq!(mended.code, Some(4), "{mended:#?}");
    assert!(mended.stdout.contains(&format!("beyond repair: {key}")), "{}", mended.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn up_to_where_each_sink_is_complete_is_written_for_others_to_read() -> anyhow::Result<()> {
    let place = Place::new().await?;
    run(&place.folder, &["apply", "-f", "catalog"]).done();
    let reader = Running::start(&place, &["cdc", "run"])?;
    let lake = Running::start(&place, &["sinks", "run", "lake"])?;
    let position = async || -> anyhow::Result<Lsn> {
        let row = place.sql.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?;
        Ok(row.get::<_, &str>(0).parse()?)
    };
    place.sql.batch_execute("INSERT INTO shop.stock SELECT generate_series(1, 100)").await?;
    let first = position().await?;
    // An idle reader writes its position later.
    place.sql.batch_execute("INSERT INTO shop.stock VALUES (101)").await?;
    let topic = format!("tailwater.cli_{}.watermarks", place.id);
    eventually("the lake is complete", || watermark(&place, &topic, "lake") >= Some(first)).await?;
    let lines = run(&place.folder, &["lake", "cat", &format!("stock.{}", place.id)]).done();
    assert!(lines.lines().count() >= 100, "what is called complete is there");
    assert_eq!(watermark(&place, &topic, "find"), None, "nobody fills the index");

    let find = Running::start(&place, &["sinks", "run", "find", "--admin", "127.0.0.1:0"])?;
    place.sql.batch_execute("UPDATE shop.stock SET name = 'x'").await?;
    let second = position().await?;
    place.sql.batch_execute("INSERT INTO shop.stock VALUES (102)").await?;
    let both = || ["lake", "find"].map(|sink| watermark(&place, &topic, sink));
    eventually("both are complete", || both().iter().all(|at| *at >= Some(second))).await?;
    drop((reader, lake, find));
    place.leave().await
}

/// The last that was written of a sink.
fn watermark(place: &Place, topic: &str, sink: &str) -> Option<Lsn> {
    let consumer: BaseConsumer = place.kafka.clone().set("group.id", "test").create().ok()?;
    let (_, end) = consumer.fetch_watermarks(topic, 0, Duration::from_secs(10)).ok()?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning).ok()?;
    consumer.assign(&list).ok()?;
    let mut last = None;
    let mut next = 0;
    while next < end {
        let record = consumer.poll(Duration::from_secs(10))?.ok()?;
        next = record.offset() + 1;
        if record.key() == Some(sink.as_bytes()) {
            let value: Value = serde_json::from_slice(record.payload()?).ok()?;
            last = value["complete_to"].as_str()?.parse().ok();
        }
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_added_to_a_running_pipeline_flows_without_a_restart() -> anyhow::Result<()> {
    let place = Place::new().await?;
    run(&place.folder, &["apply", "-f", "catalog"]).done();
    let reader = Running::start(&place, &["cdc", "run"])?;
    let lake = Running::start(&place, &["sinks", "run", "lake"])?;
    let status = || json(run(&place.folder, &["status", "--json"]));
    eventually("the slot is read", || status()["slot"]["active"] == true).await?;

    place.sql.batch_execute("CREATE TABLE shop.later (id int PRIMARY KEY)").await?;
    let (topics, sinks) = ("catalog/topics.yaml", "catalog/sinks.yml");
    let later = format!("later.{}", place.id);
    let more = format!(
        "{}---\napiVersion: tailwater/v1\nkind: Topic\nname: {later}\nfrom: {{ table: shop.later }}\n",
        std::fs::read_to_string(place.folder.join(topics))?
    );
    std::fs::write(place.folder.join(topics), more)?;
    let both = std::fs::read_to_string(place.folder.join(sinks))?.replacen(
        &format!("[stock.{}]", place.id),
        &format!("[stock.{}, {later}]", place.id),
        1,
    );
    std::fs::write(place.folder.join(sinks), both)?;
    let changes = run(&place.folder, &["apply", "-f", "catalog"]).done();
    assert!(
        changes.contains(&format!("~ sink lake: register for stock.{}, {later}", place.id)),
        "{changes}"
    );
    place.sql.batch_execute("INSERT INTO shop.later SELECT generate_series(1, 7)").await?;
    // Those before the point of the table's first copy are archived once more, as rows of the copy.
    let changes = || {
        let lines = run(&place.folder, &["lake", "cat", &later]).stdout;
        let is_one = |line: &str| {
            serde_json::from_str::<Value>(line).is_ok_and(|line| line["op_code"] == "c")
        };
        lines.lines().filter(|line| is_one(line)).count()
    };
    eventually("the changes of the new topic are archived", || changes() == 7).await?;
    drop((reader, lake));
    place.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn sinks_are_registered_paused_resumed_and_removed_without_a_restart() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let tailwater = |arguments: &[&str]| run(&place.folder, arguments);
    let topic = format!("stock.{}", place.id);
    tailwater(&["topics", "apply", "-f", "catalog"]).done();
    let reader = Running::start(&place, &["cdc", "run"])?;
    let sinks = Running::start(&place, &["sinks", "run"])?;
    let status = || json(tailwater(&["status", "--json"]));
    eventually("the slot is read", || status()["slot"]["active"] == true).await?;
    let insert = async |from: u32, to: u32| {
        let sql = format!("INSERT INTO shop.stock SELECT n FROM generate_series({from}, {to}) n");
        place.sql.batch_execute(&sql).await
    };
    let lag = |sink: &str| {
        let status = status();
        let sinks = status["sinks"].as_array().expect("a list");
        let found = sinks.iter().find(|s| s["name"] == sink).expect("is registered");
        found["topics"][0]["lag"].as_i64().expect("a number")
    };
    let archived = || {
        let segments = json(tailwater(&["lake", "ls", &topic, "-o", "json"]));
        let segments = segments.as_array().expect("a list").clone();
        segments.iter().filter_map(|s| s["records"].as_u64()).sum::<u64>()
    };

    insert(1, 10).await?;
    tailwater(&["sinks", "apply", "-f", "catalog"]).done();
    eventually("both sinks were started", || archived() == 10 && lag("find") == 0).await?;

    assert_eq!(tailwater(&["sinks", "pause", "find"]).done(), "~ sink find: pause\n");
    assert_eq!(tailwater(&["sinks", "pause", "find"]).done(), "", "it is paused already");
    tokio::time::sleep(Duration::from_secs(2)).await;
    insert(11, 20).await?;
    eventually("the other sink goes on", || archived() == 20).await?;
    assert!(lag("find") >= 10, "the paused one does not");
    let listed = tailwater(&["sinks", "list"]).done();
    assert!(listed.lines().next().is_some_and(|line| line.ends_with("\tpaused")), "{listed}");
    tailwater(&["apply", "-f", "catalog"]).done();
    assert!(lag("find") >= 10, "an apply does not resume it");
    tailwater(&["sinks", "resume", "find"]).done();
    eventually("it goes on where it was", || lag("find") == 0).await?;

    tailwater(&["topics", "pause", &topic]).done();
    tokio::time::sleep(Duration::from_secs(2)).await;
    insert(21, 30).await?;
    eventually("the reader goes on", || lag("lake") >= 10 && lag("find") >= 10).await?;
    tailwater(&["topics", "resume", &topic]).done();
    eventually("both go on", || archived() == 30 && lag("find") == 0).await?;

    let taken = tailwater(&["topics", "remove", &topic]);
    assert_eq!(taken.code, Some(1));
    assert!(taken.stderr.contains("while it is taken by `find`, `lake`"), "{taken:#?}");
    tailwater(&["sinks", "remove", "lake"]).done();
    tailwater(&["sinks", "remove", "find"]).done();
    let removed = tailwater(&["topics", "remove", &topic]).done();
    let publication =
        format!("~ publication tailwater_cli_{}_changes: take out shop.stock", place.id);
    assert_eq!(removed.lines().nth(1), Some(publication.as_str()), "{removed}");
    insert(31, 40).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(tailwater(&["topics", "list"]).done(), "");
    assert_eq!(reader.drain()?, Some(0), "rows that were given up do not stop the reader");
    assert_eq!(sinks.drain()?, Some(0));
    place.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_shows_what_it_removes_and_leaves_data_alone() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let tailwater = |arguments: &[&str]| run(&place.folder, arguments);
    tailwater(&["apply", "-f", "catalog"]).done();
    std::fs::remove_file(place.folder.join("catalog/sinks.yml"))?;
    let kept = tailwater(&["plan", "-f", "catalog"]);
    assert!(
        kept.stderr.contains("left alone without --prune: sink `find`, sink `lake`"),
        "{kept:#?}"
    );
    assert_eq!(kept.done(), "");
    let pruned = tailwater(&["apply", "-f", "catalog", "--prune"]).done();
    assert_eq!(pruned, "- sink find: remove\n- sink lake: remove\n");
    assert_eq!(tailwater(&["sinks", "list"]).done(), "");
    assert_eq!(tailwater(&["diff", "-f", "catalog", "--prune"]).done(), "");
    place.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_nobody_prepared_becomes_a_project_that_can_be_applied() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let outbox =
        include_str!("../../../services/outbox/sql/outbox.sql").replace("$schema", "orders");
    place
        .sql
        .batch_execute(&format!(
            "CREATE TABLE public.\"Odd Name\" (id int PRIMARY KEY, \"Wert\" text);
             CREATE TABLE shop.keyless (n int);
             CREATE TABLE shop.payment (id int PRIMARY KEY, card_number text);
             CREATE VIEW shop.some AS SELECT 1;
             CREATE SCHEMA orders; {outbox}
             SELECT orders.outbox_append('orders', 'o1', 'Placed', '{{}}');"
        ))
        .await?;
    let config = std::fs::read_to_string(place.folder.join("tailwater.yaml"))?;
    let value = |key: &str| place.value(&config, key);
    let url = place.url(&config);
    let (kafka, s3) = (value("brokers"), value("endpoint"));
    let arguments = ["init", "--postgres", &url, "--kafka", &kafka, "--s3", &s3, "--dir", "new"];
    let made = run(&place.folder, &arguments).done();
    assert_eq!(made, "new/tailwater.yaml\nnew/catalog/topics.yaml\nnew/catalog/sinks.yaml\n");
    let topics = std::fs::read_to_string(place.folder.join("new/catalog/topics.yaml"))?;
    for expected in [
        "name: shop.stock\nfrom: { table: shop.stock }",
        "name: orders.events\nfrom: { outbox: orders, table: orders.outbox }",
        ".odd-name\n",
        "# shop.keyless is left out:",
        "# shop.payment is left out:\n#   column `card_number` looks like card data",
    ] {
        assert!(topics.contains(expected), "{expected}\nis not in\n{topics}");
    }
    let again = run(&place.folder, &arguments);
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("`new/tailwater.yaml` exists"), "{again:#?}");
    let new = place.folder.join("new");
    let planned = run(&new, &["plan", "-f", "catalog"]).done();
    assert!(planned.contains("+ topic orders.events: create with 3 partitions"), "{planned}");
    place.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tutorial_runs_as_written() -> anyhow::Result<()> {
    let place = Place::new().await?;
    place.sql.batch_execute("DROP SCHEMA shop CASCADE").await?;
    let config = std::fs::read_to_string(place.folder.join("tailwater.yaml"))?;
    // The tests' servers are shared: names of its own, and no fixed ports.
    let own = |text: String| {
        let clinic = format!("clinic_{}", place.id);
        text.replace("--pipeline clinic", &format!("--pipeline {clinic}"))
            .replace("tailwater_clinic", &format!("tailwater_{clinic}"))
            .replace("clinic.patient", &format!("clinic_{}.patient", place.id))
            .replace("SCHEMA clinic;", &format!("SCHEMA {clinic};"))
            .replace("clinic.visit_log", &format!("{clinic}.visit_log"))
            .replace("clinic.account", &format!("{clinic}.account"))
    };
    let binary = place.folder.join("bin");
    std::fs::create_dir(&binary)?;
    let wrapper = format!(
        "#!/bin/sh\n[ \"$1\" = init ] || exec {0} \"$@\"\n{0} \"$@\" || exit $?\n{1} >> clinic/tailwater.yaml\n",
        env!("CARGO_BIN_EXE_tailwater"),
        r#"printf 'reader: { admin: "127.0.0.1:0" }\nsinks: { admin: "127.0.0.1:0" }\n'"#
    );
    let path = binary.join("tailwater");
    std::fs::write(&path, wrapper)?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let script = format!(
        "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{}",
        own(crate::docs::tutorial())
    );
    let value = |key: &str| place.value(&config, key);
    let output = std::process::Command::new("timeout")
        .args(["180", "bash", "-c", &script])
        .current_dir(&place.folder)
        .env("PATH", format!("{}:{}", binary.display(), std::env::var("PATH")?))
        .env("DATABASE", place.url(&config))
        .env("KAFKA", value("brokers"))
        .env("S3", value("endpoint"))
        .env_remove("TAILWATER_CONFIG")
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{error}");
    assert!(said.contains("account is left out:") && said.contains("~ sink lake: pause"), "{said}");
    place.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_and_servers_that_are_away_are_named_and_nothing_is_made()
-> anyhow::Result<()> {
    let place = Place::new().await?;
    let good = std::fs::read_to_string(place.folder.join("tailwater.yaml"))?;
    let canary = "hunter2-canary";
    let endpoint = place.value(&good, "endpoint");
    for (from, to, expected) in [
        (
            "${S3_KEY:-tailwater-secret}",
            canary.to_owned(),
            format!(
                "the S3 store at {endpoint} refused looking for the bucket: SignatureDoesNotMatch"
            ),
        ),
        (
            "user: postgres",
            "user: nobody_here".to_owned(),
            "refused, 28000: role \"nobody_here\" does not exist".to_owned(),
        ),
        (
            &place.value(&good, "brokers"),
            "127.0.0.1:1".to_owned(),
            "Kafka at 127.0.0.1:1 did not".to_owned(),
        ),
        (
            &place.value(&good, "url"),
            "http://127.0.0.1:1".to_owned(),
            "OpenSearch at http://127.0.0.1:1 did not answer".to_owned(),
        ),
    ] {
        assert!(good.contains(from), "{from}");
        std::fs::write(place.folder.join("tailwater.yaml"), good.replace(from, &to))?;
        let ran = run(&place.folder, &["apply", "-f", "catalog"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:#?}");
        assert!(ran.stderr.contains(&expected), "{expected}\nis not in\n{}", ran.stderr);
        assert!(!ran.stderr.contains(canary) && ran.stderr.len() < 2000, "{}", ran.stderr);
    }
    std::fs::write(place.folder.join("tailwater.yaml"), &good)?;
    let none = run(&place.folder, &["topics", "list"]);
    assert!(none.stderr.contains("nothing is registered"), "{none:#?}");
    place.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_admin_port_is_named_with_its_address() -> anyhow::Result<()> {
    let place = Place::new().await?;
    run(&place.folder, &["apply", "-f", "catalog"]).done();
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let ran = run(&place.folder, &["sinks", "run", "lake", "--admin", &address]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains(&format!("cannot listen on {address}")), "{ran:#?}");
    place.leave().await
}
