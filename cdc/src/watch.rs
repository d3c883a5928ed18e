//! A session beside the stream's, with a steady eye on the server.
//!
//! ```text
//!  every 10 s ──▶ what does our slot cost? ──▶ metrics
//!  heartbeat  ──▶ a message in the WAL     ──▶ comes back through the stream, and moves the slot
//!  cut off, and refused when it comes back ──▶ the server is going down: the stream must let go of it
//! ```
//!
//! * While the stream is down the WAL piles up, so what it costs is asked here and not there.
//! * The position of a quiet stream follows keepalives without any help. Heartbeats are for the server's sake: the copy
//!   of a slot on a standby outlives a promotion only once the slot has moved after the copy was made.
//! * A server that shuts down cuts off ordinary sessions at once but waits, without any limit, until readers of its WAL
//!   have confirmed the last of it. When Kafka is away we cannot confirm, and an administrator would wait for us.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::config::Config;
use crate::stream::{Connection, Error, Mode};
use crate::{metrics as names, slot};

/// Between two looks at what the slot costs the server.
const LOOK: Duration = Duration::from_secs(10);

/// Between two attempts to connect.
const RETRY: Duration = Duration::from_secs(1);

/// How long a server that is going down may take to hand over the rest and hear of it.
const FAREWELL: Duration = Duration::from_secs(3);

/// Messages under this prefix are ours and go nowhere.
const HEARTBEAT: &str =
    "SELECT pg_catalog.pg_logical_emit_message(true, 'tailwater.heartbeat', '')";

/// Whether the server is going down.
pub(crate) type GoingDown = watch::Receiver<bool>;

/// Returns some seconds after the server began to go down; never while it is up.
pub(crate) async fn farewell(going_down: &mut GoingDown) {
    loop {
        if going_down.wait_for(|down| *down).await.is_err() {
            std::future::pending::<()>().await;
        }
        sleep(FAREWELL).await;
        if *going_down.borrow() {
            return;
        }
    }
}

/// Watches for as long as the reader runs.
pub(crate) async fn run(config: &Config, going_down: &watch::Sender<bool>) -> Infallible {
    let application = format!("tailwater {} watch", config.pipeline);
    loop {
        let ended = match Connection::open(&config.postgres, &application, Mode::Sql).await {
            Ok(connection) => {
                going_down.send_replace(false);
                attend(connection, config).await
            }
            Err(error) => {
                going_down.send_replace(error.is_going_down());
                sleep(RETRY).await;
                error
            }
        };
        tracing::debug!(error = %ended, "the session that watches the server ended");
    }
}

/// Until the session breaks.
async fn attend(mut connection: Connection, config: &Config) -> Error {
    let slot = config.pipeline.slot();
    let period = config.limits.heartbeat;
    let mut beat_at = Instant::now() + period;
    loop {
        match slot::cost(&mut connection, &slot).await {
            Ok(Some(cost)) => gauge(cost),
            Ok(None) => {}
            Err(error) => return error,
        }
        let look_at = Instant::now() + LOOK;
        loop {
            tokio::select! {
                error = connection.broken() => return error,
                () = sleep_until(look_at) => break,
                () = sleep_until(beat_at), if !period.is_zero() => {
                    beat_at = Instant::now() + period;
                    if let Err(error) = connection.query(HEARTBEAT).await {
                        tracing::warn!(%error, "no heartbeat could be written");
                        return error;
                    }
                }
            }
        }
    }
}

fn gauge(cost: slot::Cost) {
    metrics::gauge!(names::RETAINED_BYTES).set(cost.retained as f64);
    if let Some(budget) = cost.budget {
        metrics::gauge!(names::BUDGET_BYTES).set(budget as f64);
    }
}
