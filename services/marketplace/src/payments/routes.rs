//! Every endpoint of the payments service.

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use deadpool_postgres::Pool;

use super::model::{Authorize, Payment};
use super::store;
use crate::problem::Problem;
use crate::request::{Body, id};

/// The payments service's routes.
pub fn router(pool: Pool) -> Router {
    Router::new()
        .route("/payments/authorize", post(authorize))
        .route("/payments/{order_id}", get(find))
        .with_state(pool)
}

/// Authorizes or declines. Asked again for the same order, it answers what it answered before.
async fn authorize(
    State(pool): State<Pool>,
    Body(request): Body<Authorize>,
) -> Result<Json<Payment>, Problem> {
    Ok(Json(store::authorize(&mut *pool.get().await?, &request).await?))
}

async fn find(
    State(pool): State<Pool>,
    Path(order): Path<String>,
) -> Result<Json<Payment>, Problem> {
    Ok(Json(store::find(&**pool.get().await?, id(&order)?).await?))
}
