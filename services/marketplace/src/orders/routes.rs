//! Every endpoint of the orders service.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use deadpool_postgres::Pool;

use super::model::{NewOrder, Order};
use super::store;
use crate::problem::Problem;
use crate::request::{Body, id, text};

/// The orders service's routes.
pub fn router(pool: Pool) -> Router {
    Router::new()
        .route("/orders", post(place))
        .route("/orders/{id}", get(find).delete(cancel))
        .with_state(pool)
}

/// Accepts an order. The same `Idempotency-Key` answers the same order and places no other.
async fn place(
    State(pool): State<Pool>,
    headers: HeaderMap,
    Body(order): Body<NewOrder>,
) -> Result<(StatusCode, Json<Order>), Problem> {
    let key = match headers.get("idempotency-key") {
        None => None,
        Some(value) => {
            let value = value.to_str();
            let value = value.map_err(|_| Problem::invalid("Idempotency-Key", "must be text"))?;
            text("Idempotency-Key", value, 200)?;
            Some(value)
        }
    };
    let order = store::place(&mut *pool.get().await?, &order, key).await?;
    Ok((StatusCode::ACCEPTED, Json(order)))
}

async fn find(State(pool): State<Pool>, Path(order): Path<String>) -> Result<Json<Order>, Problem> {
    Ok(Json(store::find(&**pool.get().await?, id(&order)?).await?))
}

async fn cancel(
    State(pool): State<Pool>,
    Path(order): Path<String>,
) -> Result<Json<Order>, Problem> {
    Ok(Json(store::cancel(&mut *pool.get().await?, id(&order)?).await?))
}
