//! Every endpoint of the catalog.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use deadpool_postgres::Pool;

use super::model::{Created, NewProduct, Price, ProductChange};
use super::store;
use crate::problem::Problem;
use crate::request::{Body, id};

/// The catalog's routes.
pub fn router(pool: Pool) -> Router {
    Router::new()
        .route("/products", post(create))
        .route("/products/{id}", get(find).patch(change).delete(remove))
        .route("/products/{id}/price", put(reprice))
        .with_state(pool)
}

async fn create(
    State(pool): State<Pool>,
    Body(product): Body<NewProduct>,
) -> Result<(StatusCode, Json<Created>), Problem> {
    let id = store::create(&mut *pool.get().await?, &product).await?;
    Ok((StatusCode::CREATED, Json(Created { id })))
}

async fn find(
    State(pool): State<Pool>,
    Path(product): Path<String>,
) -> Result<Json<serde_json::Value>, Problem> {
    Ok(Json(store::document(&*pool.get().await?, id(&product)?).await?))
}

async fn change(
    State(pool): State<Pool>,
    Path(product): Path<String>,
    Body(change): Body<ProductChange>,
) -> Result<StatusCode, Problem> {
    store::change(&mut *pool.get().await?, id(&product)?, &change).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn reprice(
    State(pool): State<Pool>,
    Path(product): Path<String>,
    Body(price): Body<Price>,
) -> Result<StatusCode, Problem> {
    store::reprice(&mut *pool.get().await?, id(&product)?, &price).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn remove(
    State(pool): State<Pool>,
    Path(product): Path<String>,
) -> Result<StatusCode, Problem> {
    store::remove(&mut *pool.get().await?, id(&product)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
