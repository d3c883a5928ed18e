//! The orders service's SQL. State and event are written in one transaction.

use serde_json::json;
use tailwater_outbox::{Event, Outbox};
use tokio_postgres::types::Json;
use tokio_postgres::{Client, GenericClient, Transaction};
use uuid::Uuid;

use super::model::{NewOrder, Order};
use crate::problem::Problem;

const AGGREGATE: &str = "orders";

pub(super) async fn place(
    client: &mut Client,
    new: &NewOrder,
    key: Option<&str>,
) -> Result<Order, Problem> {
    let id = Uuid::now_v7();
    let total_minor =
        new.total_minor().ok_or_else(|| Problem::invalid("items", "the total is too large"))?;
    let transaction = client.transaction().await?;
    if let Some(key) = key {
        // Of two requests with one key the second waits here until the first has committed.
        let lock = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";
        transaction.execute(lock, &[&key]).await?;
        let select = "SELECT order_id, request IS NULL OR request = $2
                      FROM orders.http_idempotency WHERE key = $1";
        if let Some(row) = transaction.query_opt(select, &[&key, &Json(new)]).await? {
            if !row.get::<_, bool>(1) {
                let problem = "this `Idempotency-Key` was used for another order";
                return Err(Problem::Conflict(problem.to_owned()));
            }
            return find(&transaction, row.get(0)).await;
        }
    }
    let insert = "INSERT INTO orders.orders (id, customer_id, status, currency, total_minor)
                  VALUES ($1, $2, 'pending', $3, $4)";
    transaction.execute(insert, &[&id, &new.customer_id, &new.currency, &total_minor]).await?;
    insert_items(&transaction, id, new).await?;
    if let Some(key) = key {
        let insert = "INSERT INTO orders.http_idempotency (key, order_id, request)
                      VALUES ($1, $2, $3)";
        transaction.execute(insert, &[&key, &id, &Json(new)]).await?;
    }
    let order = find(&transaction, id).await?;
    let payload = json!({
        "order_id": id,
        "order_no": order.order_no,
        "customer_id": new.customer_id,
        "currency": new.currency,
        "total_minor": total_minor,
        "lines": new.items,
    });
    append(&transaction, &Event::new(AGGREGATE, id, "OrderPlaced", payload)?).await?;
    transaction.commit().await?;
    Ok(order)
}

pub(super) async fn cancel(client: &mut Client, id: Uuid) -> Result<Order, Problem> {
    let transaction = client.transaction().await?;
    let update = "UPDATE orders.orders
                  SET status = 'cancelled', cancel_reason = 'customer', cancelled_at = now(),
                      version = version + 1
                  WHERE id = $1 AND status = 'pending'";
    let cancelled = transaction.execute(update, &[&id]).await? == 1;
    let order = find(&transaction, id).await?;
    if cancelled {
        let payload = json!({ "order_id": id, "reason": "customer" });
        append(&transaction, &Event::new(AGGREGATE, id, "OrderCancelled", payload)?).await?;
    }
    transaction.commit().await?;
    Ok(order)
}

pub(super) async fn find(client: &impl GenericClient, id: Uuid) -> Result<Order, Problem> {
    let select = "SELECT id, order_no, status, total_minor, currency::text
                  FROM orders.orders WHERE id = $1";
    match client.query_opt(select, &[&id]).await? {
        Some(row) => Ok(Order {
            id: row.get(0),
            order_no: row.get(1),
            status: row.get(2),
            total_minor: row.get(3),
            currency: row.get(4),
        }),
        None => Err(Problem::NotFound { what: "order", id: id.to_string() }),
    }
}

async fn insert_items(
    transaction: &Transaction<'_>,
    id: Uuid,
    new: &NewOrder,
) -> Result<(), Problem> {
    let insert = transaction
        .prepare(
            "INSERT INTO orders.order_items
             (order_id, line_no, product_id, sku, title, quantity, unit_price_minor)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .await?;
    for (line_no, item) in (1_i16..).zip(&new.items) {
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 7] = [
            &id,
            &line_no,
            &item.product_id,
            &item.sku,
            &item.title,
            &item.quantity,
            &item.unit_price_minor,
        ];
        transaction.execute(&insert, &values).await?;
    }
    Ok(())
}

async fn append(transaction: &Transaction<'_>, event: &Event) -> Result<(), Problem> {
    let outbox = Outbox::of(AGGREGATE).map_err(|error| Problem::Conflict(error.to_string()))?;
    Ok(outbox.append(transaction, event).await?)
}
