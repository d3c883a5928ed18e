//! What long-running commands share: signals, the admin port, and waiting for servers that are not up yet.
//!
//! ```text
//!  SIGTERM, SIGINT ──▶ token ──▶ work drains ──▶ admin port closes ──▶ exit
//! ```

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rdkafka::ClientConfig;
use tailwater_runtime::{Backoff, Health, Shutdown, Telemetry, install_metrics, serve_admin};
use tailwater_topics_contract::{PipelineName, Registrations};
use tailwater_topics_registry::{broker, registrations};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Runs `work` beside the admin port until it ends. A signal cancels the token it is given; a failing admin
/// port does too, and is then the error.
pub(crate) async fn run<F, W>(address: SocketAddr, work: F) -> anyhow::Result<()>
where
    F: FnOnce(CancellationToken, Health) -> W,
    W: Future<Output = anyhow::Result<()>>,
{
    let shutdown = Shutdown::install()?;
    let token = shutdown.token();
    tokio::spawn(shutdown.listen());
    let metrics = install_metrics().context("metrics cannot be collected")?;
    let telemetry = Telemetry { health: Health::default(), metrics };
    let health = telemetry.health.clone();
    let closing = CancellationToken::new();
    let mut admin = tokio::spawn(serve_admin(address, telemetry, closing.clone()));
    let mut work = std::pin::pin!(work(token.clone(), health));
    tokio::select! {
        done = &mut work => {
            closing.cancel();
            // Its own end is of no interest once the work is done.
            let _ = admin.await;
            done
        }
        ended = &mut admin => {
            token.cancel();
            let done = work.await;
            ended.context("the admin port panicked")??;
            done
        }
    }
}

/// Follows registrations, waiting for Kafka as long as it does not answer. `None` when told to stop meanwhile.
pub(crate) async fn follow(
    kafka: &ClientConfig,
    pipeline: &PipelineName,
    stop: &CancellationToken,
    health: &Health,
) -> Result<Option<watch::Receiver<Registrations>>, registrations::Error> {
    let is_silence = |error: &registrations::Error| {
        matches!(
            error,
            registrations::Error::Broker(broker::Error::Unreachable { .. })
                | registrations::Error::Slow { .. }
        )
    };
    patiently("registrations", stop, health, is_silence, || registrations::follow(kafka, pipeline))
        .await
}

/// Asks until it is answered, waiting longer and longer while the error is one that `passes`. Readiness says
/// meanwhile what is waited for. `None` when told to stop.
pub(crate) async fn patiently<T, E, F>(
    part: &str,
    stop: &CancellationToken,
    health: &Health,
    passes: impl Fn(&E) -> bool,
    ask: impl Fn() -> F,
) -> Result<Option<T>, E>
where
    E: std::error::Error,
    F: Future<Output = Result<T, E>>,
{
    let jitter = StdRng::from_os_rng();
    let mut waits = Backoff::new(Duration::from_millis(500), Duration::from_secs(15), jitter);
    loop {
        let answer = tokio::select! {
            answer = ask() => answer,
            () = stop.cancelled() => return Ok(None),
        };
        let error = match answer {
            Ok(answer) => {
                health.ready(part);
                return Ok(Some(answer));
            }
            Err(error) if passes(&error) => error,
            Err(error) => return Err(error),
        };
        let wait = waits.next().unwrap_or_default();
        tracing::warn!(%error, wait_ms = wait.as_millis() as u64, "waiting for {part}");
        health.not_ready(part, error.to_string());
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return Ok(None),
        }
    }
}
