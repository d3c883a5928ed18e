//! A pipeline that lost its place, brought back from the command line, up to its index.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::command::run;
use crate::live::{Running, eventually, json};
use crate::place::Place;

/// How many documents the index has, over a bare connection: this crate has no HTTP client.
fn documents(place: &Place) -> Option<u64> {
    let url = std::env::var("TAILWATER_TEST_OPENSEARCH").expect("set by `make test`");
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let ask = |path: &str| {
        let mut stream = TcpStream::connect(address).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    };
    ask(&format!("/stock-{}/_refresh", place.id))?;
    let answer = ask(&format!("/stock-{}/_count", place.id))?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    serde_json::from_str::<serde_json::Value>(body).ok()?["count"].as_u64()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_lost_its_slot_is_resynced_and_its_index_equals_the_table()
-> anyhow::Result<()> {
    let place = Place::new().await?;
    let tailwater = |arguments: &[&str]| run(&place.folder, arguments);
    tailwater(&["apply", "-f", "catalog"]).done();
    place
        .sql
        .batch_execute("INSERT INTO shop.stock SELECT n FROM generate_series(1, 50) n")
        .await?;
    let find = Running::start(&place, &["sinks", "run", "find"])?;
    let reader = Running::start(&place, &["cdc", "run"])?;
    eventually("the rows are indexed", || documents(&place) == Some(50)).await?;
    let status = || json(tailwater(&["cdc", "status", "--over", "1", "-o", "json"]));
    let seen = status();
    assert_eq!(seen["tables"][0]["state"], "copied", "{seen:#}");
    assert_eq!((&seen["epoch"], &seen["tables"][0]["rows"]), (&1.into(), &50.into()));
    assert!(seen["positions"]["sent"].is_string() && seen["rates"]["records"].is_number());

    // While a reader runs there is nothing to repair, but a table can be read once more.
    let running = tailwater(&["cdc", "adopt", "--reason", "why", "--yes"]);
    assert_eq!(running.code, Some(1));
    assert!(running.stderr.contains("stop the reader first"), "{running:#?}");
    let wrong = tailwater(&["cdc", "snapshot", "shop.nothing"]);
    assert!(wrong.stderr.contains("shop.stock have"), "{wrong:#?}");
    let again = tailwater(&["cdc", "snapshot", "shop.stock", "--wait", "--timeout", "60"]);
    assert_eq!(again.code, Some(0), "{again:#?}");
    assert!(again.stdout.contains("read table `shop.stock` once more"), "{again:#?}");
    assert_eq!(reader.drain()?, Some(0));

    let slot = format!("SELECT pg_drop_replication_slot('tailwater_cli_{}')", place.id);
    place.sql.batch_execute(&slot).await?;
    place
        .sql
        .batch_execute("DELETE FROM shop.stock WHERE id <= 20; INSERT INTO shop.stock VALUES (99)")
        .await?;
    let stopped = tailwater(&["cdc", "run"]);
    assert_eq!(stopped.code, Some(12), "{stopped:#?}");
    assert!(stopped.stderr.contains("tailwater cdc resync"), "{stopped:#?}");
    let refused = tailwater(&["cdc", "adopt", "--reason", "why", "--yes"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("--new-slot"), "{refused:#?}");
    let unasked = tailwater(&["cdc", "resync", "--reason", "why"]);
    assert_eq!(unasked.code, Some(1));
    assert!(unasked.stdout.contains("lost\tno row; events and messages"), "{unasked:#?}");
    assert!(unasked.stderr.contains("`--yes` agrees"), "{unasked:#?}");
    assert_eq!(status()["epoch"], 1, "nothing was written");
    tailwater(&["cdc", "resync", "--reason", "slot dropped", "--yes"]).done();

    let reader = Running::start(&place, &["cdc", "run"])?;
    eventually("the index has what the table has", || documents(&place) == Some(31)).await?;
    let seen = status();
    assert_eq!(seen["repairs"][0]["reason"], "slot dropped", "{seen:#}");
    assert_eq!((&seen["repairs"][0]["code"], &seen["epoch"]), (&"TW012".into(), &2.into()));
    let told = tailwater(&["cdc", "status", "--over", "1"]).done();
    assert!(told.contains("resync after TW012") && told.contains("wal budget\t"), "{told}");
    assert_eq!(reader.drain()?, Some(0));
    assert_eq!(find.drain()?, Some(0));
    place.leave().await
}
