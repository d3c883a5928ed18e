//! A router on a port, with health, metrics and drain.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use deadpool_postgres::Pool;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Requests answered. Labels: `method`, `path`, `status`.
pub const REQUESTS: &str = "tailwater_marketplace_requests_total";
/// How long an answer took. Labels: `method`, `path`.
pub const REQUEST_SECONDS: &str = "tailwater_marketplace_request_seconds";

/// Largest body. What is stored of it must fit into one Kafka record, twice: as the row before and after a change.
const BODY_MAX: usize = 256 << 10;

/// How long requests under way may take to finish.
const GRACE: Duration = Duration::from_secs(10);

/// Serves a router until told to stop; requests under way are finished.
pub async fn serve(
    listen: SocketAddr,
    router: Router,
    pool: Pool,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    tracing::info!(%listen, "serving");
    let stopping = stop.clone();
    let serving = axum::serve(listener, with_health(router, pool, metrics))
        .with_graceful_shutdown(async move { stopping.cancelled().await });
    let too_long = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = serving => {
            served?;
            tracing::info!("drained");
        }
        () = too_long => tracing::warn!("requests were still under way after {} s", GRACE.as_secs()),
    }
    Ok(())
}

/// A router with `/healthz`, `/readyz` and `/metrics`, and every request counted.
pub fn with_health(router: Router, pool: Pool, metrics: PrometheusHandle) -> Router {
    let health = Router::new()
        .route("/healthz", get(|| async { "healthy\n" }))
        .route("/readyz", get(ready))
        .with_state(pool)
        .route("/metrics", get(move || async move { metrics.render() }));
    limited(router).layer(middleware::from_fn(count)).merge(health)
}

/// A router that takes no larger bodies than can be streamed.
pub fn limited(router: Router) -> Router {
    router.layer(DefaultBodyLimit::max(BODY_MAX))
}

async fn ready(State(pool): State<Pool>) -> (StatusCode, String) {
    let asked = async {
        let client = pool.get().await.map_err(|error| error.to_string())?;
        client.execute("SELECT 1", &[]).await.map_err(|error| error.to_string())
    };
    match asked.await {
        Ok(_) => (StatusCode::OK, "ready\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("database: {why}\n")),
    }
}

async fn count(request: Request, next: Next) -> Response {
    let method = request.method().to_string();
    let path = request.extensions().get::<MatchedPath>();
    let path = path.map_or("unknown", MatchedPath::as_str).to_owned();
    let began = Instant::now();
    let response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    metrics::histogram!(REQUEST_SECONDS, "method" => method.clone(), "path" => path.clone())
        .record(began.elapsed().as_secs_f64());
    metrics::counter!(REQUESTS, "method" => method, "path" => path, "status" => status)
        .increment(1);
    response
}
