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
        let append = format!("SELECT orders.outbox_append({arguments})");
        assert!(client.execute(&append, &[]).await.is_err(), "{arguments}");
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
