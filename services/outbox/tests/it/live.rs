//! What commits together.

use anyhow::Context;
use serde_json::json;
use tailwater_outbox::{Event, Outbox};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

#[tokio::test]
async fn an_event_is_there_exactly_when_its_transaction_committed() -> anyhow::Result<()> {
    let mut client = database().await?;
    let outbox = Outbox::of("orders")?;
    outbox.install(&client).await?;
    outbox.install(&client).await.context("installing again")?;
    for (order, commits) in [("o1", true), ("o2", false)] {
        let transaction = client.transaction().await?;
        let event = Event::new("orders", order, "OrderPlaced", json!({ "order": order }))?
            .keyed_by("customer-1")?
            .correlated(Uuid::now_v7());
        outbox.append(&transaction, &event).await?;
        if commits {
            transaction.commit().await?;
        } else {
            transaction.rollback().await?;
        }
    }
    let rows = client
        .query("SELECT aggregate_id, partition_key, payload->>'order', event_version FROM orders.outbox", &[])
        .await?;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].get::<_, &str>(0), "o1");
    assert_eq!(rows[0].get::<_, &str>(1), "customer-1");
    assert_eq!(rows[0].get::<_, &str>(2), "o1");
    assert_eq!(rows[0].get::<_, i16>(3), 1);
    Ok(())
}

#[tokio::test]
async fn the_sql_function_writes_the_same_and_days_are_partitions() -> anyhow::Result<()> {
    let client = database().await?;
    Outbox::of("orders")?.install(&client).await?;
    let append = "SELECT orders.outbox_append('orders', 'o9', 'OrderPlaced', '{\"a\": 1}')";
    client.execute(append, &[]).await?;
    let row = client.query_one("SELECT tableoid::regclass::text FROM orders.outbox", &[]).await?;
    let partition: &str = row.get(0);
    assert!(partition.starts_with("orders.outbox_2"), "{partition}");
    let made = client.query_one("SELECT orders.outbox_partitions(7)", &[]).await?;
    assert_eq!(made.get::<_, i32>(0), 0, "the week was there already");
    Ok(())
}

#[tokio::test]
async fn an_event_without_a_row_is_in_the_log_exactly_when_its_transaction_committed()
-> anyhow::Result<()> {
    let mut client = database().await?;
    let outbox = Outbox::of("orders")?;
    outbox.install(&client).await?;
    slot(&client).await?;
    for (order, commits) in [("o1", true), ("o2", false)] {
        let transaction = client.transaction().await?;
        let event = Event::new("orders", order, "OrderPlaced", json!({ "gone": null }))?
            .keyed_by("customer-1")?
            .traced("00-01");
        outbox.emit(&transaction, &event).await?;
        if commits {
            transaction.commit().await?;
        } else {
            transaction.rollback().await?;
        }
    }
    let count = client.query_one("SELECT count(*) FROM orders.outbox", &[]).await?;
    assert_eq!(count.get::<_, i64>(0), 0);
    let messages = "SELECT convert_from(substr(data, 16 + length('orders.outbox')), 'UTF8')::json
        FROM pg_logical_slot_peek_binary_changes('keeper', NULL, NULL, 'proto_version', '1', 'publication_names', 'none', 'messages', 'true')
        WHERE get_byte(data, 0) = ascii('M')";
    client.batch_execute("CREATE PUBLICATION none").await?;
    let found = client.query(messages, &[]).await?;
    assert_eq!(found.len(), 1);
    let event: serde_json::Value = found[0].get(0);
    assert_eq!(event["aggregate_id"], "o1");
    assert_eq!(event["partition_key"], "customer-1");
    assert_eq!(event["payload"], json!({ "gone": null }));
    assert_eq!(event["traceparent"], "00-01");
    client.batch_execute("SELECT pg_drop_replication_slot('keeper')").await?;
    Ok(())
}

#[tokio::test]
async fn days_go_when_they_are_over_and_every_reader_has_confirmed_them() -> anyhow::Result<()> {
    let client = database().await?;
    let outbox = Outbox::of("orders")?;
    outbox.install(&client).await?;
    client
        .batch_execute(
            "CREATE TABLE orders.outbox_20200101 PARTITION OF orders.outbox FOR VALUES FROM ('2020-01-01') TO ('2020-01-02');
             INSERT INTO orders.outbox (id, created_at, aggregate_type, aggregate_id, event_type, payload)
                 VALUES (gen_random_uuid(), '2020-01-01 12:00Z', 'orders', 'o1', 'OrderPlaced', '{}');
             CREATE TABLE orders.outbox_archive (id int)",
        )
        .await?;
    let left = "SELECT to_regclass('orders.outbox_20200101') IS NOT NULL";
    let is_left = async || anyhow::Ok(client.query_one(left, &[]).await?.get::<_, bool>(0));
    assert_eq!((outbox.keep(&client, 7).await?, outbox.keep(&client, 7).await?), (0, 0));
    assert!(is_left().await?, "nobody has read it");
    slot(&client).await?;
    // It begins behind the note, so it has all that was before.
    assert_eq!(outbox.keep(&client, 7).await?, 1);
    assert!(!is_left().await?);

    // A reader that has not confirmed the day yet keeps it.
    client
        .batch_execute("CREATE TABLE orders.outbox_20200102 PARTITION OF orders.outbox FOR VALUES FROM ('2020-01-02') TO ('2020-01-03')")
        .await?;
    assert_eq!((outbox.keep(&client, 7).await?, outbox.keep(&client, 7).await?), (0, 0));
    client
        .batch_execute("SELECT pg_replication_slot_advance('keeper', pg_current_wal_lsn())")
        .await?;
    assert_eq!(outbox.keep(&client, 7).await?, 1);
    let today = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'orders.outbox'::regclass";
    let days = client.query_one(today, &[]).await?;
    assert_eq!(days.get::<_, i64>(0), 9, "a week, today and the default");
    let wrong = client.execute("SELECT orders.outbox_retire(7, 'nobody')", &[]).await;
    assert!(wrong.is_err(), "a name that is not there is a mistake");
    client.batch_execute("SELECT pg_drop_replication_slot('keeper')").await?;
    Ok(())
}

#[tokio::test]
async fn a_row_that_no_event_can_be_made_of_fails_in_the_writers_transaction() -> anyhow::Result<()>
{
    let client = database().await?;
    Outbox::of("orders")?.install(&client).await?;
    for arguments in [
        "'', 'o1', 'Placed', '{}'",
        "'orders', '', 'Placed', '{}'",
        "'orders', 'o1', '', '{}'",
        "'orders', 'o1', 'Placed', '{}', ''",
        "'orders', 'o1', 'Placed', '{}', NULL, '[1]'",
        "'orders', 'o1', 'Placed', jsonb_build_object('a', repeat('x', 900000))",
        "'orders', 'o1', 'Placed', NULL",
    ] {
        for function in ["outbox_append", "outbox_emit"] {
            let write = format!("SELECT orders.{function}({arguments})");
            assert!(client.execute(&write, &[]).await.is_err(), "{write}");
        }
    }
    let large = "SELECT orders.outbox_append('orders', 'o1', 'Placed', jsonb_build_object('a', repeat('x', 800000)))";
    client.execute(large, &[]).await?;
    Ok(())
}

#[tokio::test]
async fn days_are_those_of_utc_in_every_session() -> anyhow::Result<()> {
    let client = database().await?;
    client.batch_execute("SET timezone = 'Pacific/Kiritimati'").await?;
    Outbox::of("orders")?.install(&client).await?;
    let bound = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class
                 WHERE relname = 'outbox_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')";
    client.batch_execute("SET timezone = 'UTC'").await?;
    let row = client.query_one(bound, &[]).await?;
    assert!(row.get::<_, &str>(0).contains("00:00:00+00') TO ("), "{}", row.get::<_, &str>(0));
    Ok(())
}

/// A reader's place, in front of everything that follows.
async fn slot(client: &Client) -> anyhow::Result<()> {
    let make = "SELECT pg_create_logical_replication_slot('keeper', 'pgoutput', false)";
    client.batch_execute(make).await?;
    Ok(())
}

async fn database() -> anyhow::Result<Client> {
    let server = std::env::var("TAILWATER_TEST_POSTGRES")
        .context("`TAILWATER_TEST_POSTGRES` is not set; run the tests with `make test`")?;
    let name = format!("outbox_{}", Uuid::new_v4().simple());
    connect(&server).await?.batch_execute(&format!("CREATE DATABASE {name}")).await?;
    let client = connect(&format!("{server}/{name}")).await?;
    client.batch_execute("CREATE SCHEMA orders").await?;
    Ok(client)
}

async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
