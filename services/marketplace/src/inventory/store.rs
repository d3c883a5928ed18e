//! The inventory's SQL. Each statement is one transaction and guards its own row.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::model::{Adjustment, Receipt, Stock};
use crate::problem::Problem;

pub(super) async fn find(client: &Client, product: Uuid) -> Result<Vec<Stock>, Problem> {
    let select = "SELECT warehouse_id, on_hand, reserved FROM inventory.stock
                  WHERE product_id = $1 ORDER BY warehouse_id";
    let rows = client.query(select, &[&product]).await?;
    let stock = |row: &tokio_postgres::Row| Stock {
        warehouse_id: row.get(0),
        on_hand: row.get(1),
        reserved: row.get(2),
    };
    Ok(rows.iter().map(stock).collect())
}

pub(super) async fn receive(client: &Client, receipt: &Receipt) -> Result<(), Problem> {
    let upsert = "INSERT INTO inventory.stock AS s (product_id, warehouse_id, on_hand)
                  VALUES ($1, $2, $3)
                  ON CONFLICT (product_id, warehouse_id) DO UPDATE
                  SET on_hand = s.on_hand + excluded.on_hand, version = s.version + 1,
                      updated_at = now()";
    let Receipt { product_id, warehouse_id, quantity } = receipt;
    match client.execute(upsert, &[product_id, warehouse_id, quantity]).await {
        Err(error) if error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION) => {
            Err(Problem::NotFound { what: "warehouse", id: warehouse_id.to_string() })
        }
        other => Ok(other.map(|_| ())?),
    }
}

pub(super) async fn adjust(client: &Client, adjustment: &Adjustment) -> Result<(), Problem> {
    let update = "UPDATE inventory.stock
                  SET on_hand = on_hand + $3, version = version + 1, updated_at = now()
                  WHERE product_id = $1 AND warehouse_id = $2";
    let Adjustment { product_id, warehouse_id, delta } = adjustment;
    match client.execute(update, &[product_id, warehouse_id, delta]).await {
        Ok(1) => Ok(()),
        Ok(_) => Err(Problem::NotFound { what: "stock of product", id: product_id.to_string() }),
        Err(error) if error.code() == Some(&SqlState::CHECK_VIOLATION) => {
            Err(Problem::Conflict("less would be left than is reserved".to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}
