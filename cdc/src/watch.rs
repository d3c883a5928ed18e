//! A session beside the stream's, with a steady eye on the server.
//!
//! ```text
//!  every 10 s ──▶ what does our slot cost, and how long can that go on? ──▶ metrics, readiness
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

use tailwater_runtime::{Health, clock};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::budget::Budget;
use crate::config::Config;
use crate::stream::{Connection, Error, Mode};
use crate::{metrics as names, slot};

/// Between two looks at what the slot costs the server.
const LOOK: Duration = Duration::from_secs(10);

/// The name under which a slot that is about to be lost shows in readiness, and how soon that must be.
const WAL_PART: &str = "wal";
const SHORT: Duration = Duration::from_secs(15 * 60);

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
pub(crate) async fn run(
    config: &Config,
    going_down: &watch::Sender<bool>,
    health: &Health,
) -> Infallible {
    let mut budget = Budget::default();
    let application = format!("tailwater {} watch", config.pipeline);
    loop {
        let ended = match Connection::open(&config.postgres, &application, Mode::Sql).await {
            Ok(connection) => {
                going_down.send_replace(false);
                attend(connection, config, &mut budget, health).await
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
async fn attend(
    mut connection: Connection,
    config: &Config,
    budget: &mut Budget,
    health: &Health,
) -> Error {
    let slot = config.pipeline.slot();
    let period = config.limits.heartbeat;
    let mut beat_at = Instant::now() + period;
    loop {
        match slot::cost(&mut connection, &slot).await {
            Ok(Some(cost)) => tell(&slot, cost, budget, health),
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

fn tell(slot: &str, cost: slot::Cost, budget: &mut Budget, health: &Health) {
    metrics::gauge!(names::RETAINED_BYTES).set(cost.retained as f64);
    budget.on_look(clock::now_ms(), cost.budget);
    let Some(left) = cost.budget else { return health.forget(WAL_PART) };
    metrics::gauge!(names::BUDGET_BYTES).set(left as f64);
    let lasts = budget.left_ms().map(Duration::from_millis);
    metrics::gauge!(names::BUDGET_SECONDS).set(lasts.map_or(f64::INFINITY, |d| d.as_secs_f64()));
    match lasts.filter(|lasts| *lasts < SHORT) {
        None => health.ready(WAL_PART),
        Some(lasts) => {
            let (minutes, mib_left) = (lasts.as_secs() / 60, left >> 20);
            tracing::warn!(
                slot,
                minutes,
                mib_left,
                "the server will soon give the slot up, and changes will be lost; raise `max_slot_wal_keep_size` or mend what holds the reader up"
            );
            health.not_ready(WAL_PART, format!("at this pace Postgres gives slot `{slot}` up in {minutes} min ({mib_left} MiB of WAL); raise `max_slot_wal_keep_size`"));
        }
    }
}
