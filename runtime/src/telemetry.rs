//! Logs, metrics and the admin port.

use std::io::IsTerminal;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{Health, Metric};

/// Seconds; from one millisecond, the least a commit takes, to five minutes, which an archive may take that closes its
/// objects every minute.
const SECONDS: [f64; 13] =
    [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0];

/// Whether the process is ready; the same answer as `/ready` gives, for alerts.
const READY: &str = "tailwater_ready";

/// What every process with an admin port measures.
pub const METRICS: &[Metric] = &[Metric::gauge(READY, &[], "1 while `/ready` answers 200")];

/// What a process shows of itself.
#[derive(Clone)]
pub struct Telemetry {
    /// Whether it is ready, and why not.
    pub health: Health,
    /// Its metrics.
    pub metrics: PrometheusHandle,
}

/// The admin port could not be opened or failed later.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Another process has the port, or the address is not ours.
    #[error(
        "cannot listen on {address} for health and metrics; choose another address in the configuration"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The listener failed while serving.
    #[error("the admin port failed")]
    Serve(#[source] std::io::Error),
}

/// Sends logs to standard error: lines for people on a terminal, JSON otherwise. `filter` is an `EnvFilter`
/// directive such as `info` or `tailwater_cdc=debug`; a bad one reads as `info`.
pub fn init_logging(filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call, as tests make, keeps the first subscriber.
    let _ = if std::io::stderr().is_terminal() {
        builder.compact().try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
}

/// Makes this process collect metrics. Histograms are in seconds.
///
/// Returns `None` when another recorder is installed, which only happens when it is called twice.
pub fn install_metrics() -> Option<PrometheusHandle> {
    let handle = PrometheusBuilder::new().set_buckets(&SECONDS).ok()?.install_recorder().ok()?;
    crate::describe(METRICS);
    Some(handle)
}

/// Serves `/live`, `/ready` and `/metrics` until the token is cancelled.
///
/// `/live` answers 200 while the process runs; `/ready` answers 503 with one reason a line when it cannot work.
pub async fn serve_admin(
    address: SocketAddr,
    telemetry: Telemetry,
    stop: CancellationToken,
) -> Result<(), AdminError> {
    let listener =
        TcpListener::bind(address).await.map_err(|source| AdminError::Bind { address, source })?;
    tracing::info!(%address, "health and metrics");
    axum::serve(listener, routes(telemetry))
        .with_graceful_shutdown(async move { stop.cancelled().await })
        .await
        .map_err(AdminError::Serve)
}

fn routes(telemetry: Telemetry) -> Router {
    Router::new()
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(measured))
        .with_state(telemetry)
}

async fn measured(State(telemetry): State<Telemetry>) -> String {
    let is_ready = telemetry.health.check().is_ok();
    metrics::gauge!(READY).set(f64::from(u8::from(is_ready)));
    telemetry.metrics.render()
}

async fn ready(State(telemetry): State<Telemetry>) -> (StatusCode, String) {
    match telemetry.health.check() {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(reasons) => (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
    }
}
