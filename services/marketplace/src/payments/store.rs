//! The payments service's SQL. State and event are written in one transaction.

use serde_json::json;
use tailwater_outbox::{Event, Outbox};
use tokio_postgres::{Client, GenericClient};
use uuid::Uuid;

use super::model::{Authorize, Payment};
use crate::problem::Problem;

const AGGREGATE: &str = "payments";

pub(super) async fn authorize(
    client: &mut Client,
    request: &Authorize,
) -> Result<Payment, Problem> {
    let Authorize { order_id, amount_minor, currency } = request;
    // There is no bank behind this yet; every twentieth cent is declined, so that both answers occur.
    let declined = amount_minor % 20 == 0;
    let (status, failure_code) =
        if declined { ("declined", Some("insufficient_funds")) } else { ("authorized", None) };
    let id = Uuid::now_v7();
    let transaction = client.transaction().await?;
    let insert = "INSERT INTO payments.payments
                  (id, order_id, status, amount_minor, currency, failure_code)
                  VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (order_id) DO NOTHING";
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
        [&id, order_id, &status, amount_minor, currency, &failure_code];
    if transaction.execute(insert, &values).await? == 1 {
        let payload = json!({
            "payment_id": id,
            "order_id": order_id,
            "amount_minor": amount_minor,
            "currency": currency,
            "failure_code": failure_code,
        });
        let kind = if declined { "PaymentDeclined" } else { "PaymentAuthorized" };
        // Keyed by the order, so that whoever follows orders sees its payments in order.
        let event = Event::new(AGGREGATE, id, kind, payload)?.keyed_by(order_id)?;
        let outbox = Outbox::of(AGGREGATE).map_err(|error| Problem::Conflict(error.to_string()))?;
        outbox.append(&transaction, &event).await?;
    }
    let payment = find(&transaction, *order_id).await?;
    transaction.commit().await?;
    Ok(payment)
}

pub(super) async fn find(client: &impl GenericClient, order: Uuid) -> Result<Payment, Problem> {
    let select = "SELECT id, order_id, status, amount_minor
                  FROM payments.payments WHERE order_id = $1";
    match client.query_opt(select, &[&order]).await? {
        Some(row) => Ok(Payment {
            id: row.get(0),
            order_id: row.get(1),
            status: row.get(2),
            amount_minor: row.get(3),
        }),
        None => Err(Problem::NotFound { what: "payment of order", id: order.to_string() }),
    }
}
