//! The catalog's SQL. Whatever changes a product writes its document in the same transaction.

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Transaction};
use uuid::Uuid;

use super::model::{NewProduct, Price, ProductChange};
use crate::problem::Problem;

pub(super) async fn create(client: &mut Client, product: &NewProduct) -> Result<Uuid, Problem> {
    let id = Uuid::now_v7();
    let transaction = client.transaction().await?;
    let insert =
        "INSERT INTO catalog.products (id, sku, title, description, brand, tags, attributes)
                  VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let NewProduct { sku, title, description, brand, tags, attributes, price } = product;
    let inserted =
        transaction.execute(insert, &[&id, sku, title, description, brand, tags, attributes]).await;
    match inserted {
        Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
            return Err(Problem::Conflict(format!("there is a product with sku `{sku}` already")));
        }
        other => other?,
    };
    set_price(&transaction, id, price).await?;
    write_document(&transaction, id).await?;
    transaction.commit().await?;
    Ok(id)
}

pub(super) async fn change(
    client: &mut Client,
    id: Uuid,
    change: &ProductChange,
) -> Result<(), Problem> {
    let transaction = client.transaction().await?;
    let update = "UPDATE catalog.products
                  SET title = coalesce($2, title), description = coalesce($3, description),
                      version = version + 1, updated_at = now()
                  WHERE id = $1";
    found(id, transaction.execute(update, &[&id, &change.title, &change.description]).await?)?;
    write_document(&transaction, id).await?;
    Ok(transaction.commit().await?)
}

pub(super) async fn reprice(client: &mut Client, id: Uuid, price: &Price) -> Result<(), Problem> {
    let transaction = client.transaction().await?;
    let touch =
        "UPDATE catalog.products SET version = version + 1, updated_at = now() WHERE id = $1";
    found(id, transaction.execute(touch, &[&id]).await?)?;
    set_price(&transaction, id, price).await?;
    write_document(&transaction, id).await?;
    Ok(transaction.commit().await?)
}

pub(super) async fn remove(client: &mut Client, id: Uuid) -> Result<(), Problem> {
    let transaction = client.transaction().await?;
    let delete = "DELETE FROM catalog.products WHERE id = $1";
    found(id, transaction.execute(delete, &[&id]).await?)?;
    let delete = "DELETE FROM catalog.product_documents WHERE product_id = $1";
    transaction.execute(delete, &[&id]).await?;
    Ok(transaction.commit().await?)
}

pub(super) async fn document(client: &Client, id: Uuid) -> Result<serde_json::Value, Problem> {
    let select = "SELECT doc FROM catalog.product_documents WHERE product_id = $1";
    match client.query_opt(select, &[&id]).await? {
        Some(row) => Ok(row.get(0)),
        None => Err(missing(id)),
    }
}

async fn set_price(transaction: &Transaction<'_>, id: Uuid, price: &Price) -> Result<(), Problem> {
    let upsert = "INSERT INTO catalog.prices (product_id, currency, amount_minor)
                  VALUES ($1, $2, $3)
                  ON CONFLICT (product_id) DO UPDATE
                  SET currency = excluded.currency, amount_minor = excluded.amount_minor,
                      updated_at = now()";
    transaction.execute(upsert, &[&id, &price.currency, &price.amount_minor]).await?;
    Ok(())
}

async fn write_document(transaction: &Transaction<'_>, id: Uuid) -> Result<(), Problem> {
    let upsert = "INSERT INTO catalog.product_documents (product_id, doc, source_version)
                  SELECT p.id, jsonb_build_object(
                           'id', p.id, 'sku', p.sku, 'title', p.title,
                           'description', p.description, 'brand', p.brand, 'tags', p.tags,
                           'attributes', p.attributes,
                           'price', jsonb_build_object(
                             'amount_minor', r.amount_minor, 'currency', r.currency)),
                         p.version
                  FROM catalog.products p JOIN catalog.prices r ON r.product_id = p.id
                  WHERE p.id = $1
                  ON CONFLICT (product_id) DO UPDATE
                  SET doc = excluded.doc, source_version = excluded.source_version,
                      updated_at = now()";
    transaction.execute(upsert, &[&id]).await?;
    Ok(())
}

fn found(id: Uuid, rows: u64) -> Result<(), Problem> {
    if rows == 1 { Ok(()) } else { Err(missing(id)) }
}

fn missing(id: Uuid) -> Problem {
    Problem::NotFound { what: "product", id: id.to_string() }
}
