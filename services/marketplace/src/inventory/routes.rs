//! Every endpoint of the inventory.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use deadpool_postgres::Pool;

use super::model::{Adjustment, Receipt, Stock};
use super::store;
use crate::problem::Problem;
use crate::request::{Body, id};

/// The inventory's routes.
pub fn router(pool: Pool) -> Router {
    Router::new()
        .route("/stock/{product_id}", get(find))
        .route("/stock/receipts", post(receive))
        .route("/stock/adjustments", post(adjust))
        .with_state(pool)
}

async fn find(
    State(pool): State<Pool>,
    Path(product): Path<String>,
) -> Result<Json<Vec<Stock>>, Problem> {
    Ok(Json(store::find(&*pool.get().await?, id(&product)?).await?))
}

async fn receive(
    State(pool): State<Pool>,
    Body(receipt): Body<Receipt>,
) -> Result<StatusCode, Problem> {
    store::receive(&*pool.get().await?, &receipt).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn adjust(
    State(pool): State<Pool>,
    Body(adjustment): Body<Adjustment>,
) -> Result<StatusCode, Problem> {
    store::adjust(&*pool.get().await?, &adjustment).await?;
    Ok(StatusCode::NO_CONTENT)
}
