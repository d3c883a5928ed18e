//! `tailwater cdc status`: where the reader stands, at each hop.
//!
//! ```text
//!  WAL end ─▶ sent by the server ─▶ durable in Kafka (progress) ─▶ confirmed ─▶ WAL kept (restart) ─▶ budget
//! ```

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Serialize;
use tailwater_cdc::copies::Existing as Known;
use tailwater_cdc::progress::{self, Record};
use tailwater_cdc::repair::Repair;
use tailwater_cdc::snapshot::Copying;
use tailwater_runtime::clock;
use tailwater_topics_contract::{Lsn, TableName};

use crate::Context;
use crate::commands::dlq::time;
use crate::commands::status::{self, Slot, told};
use crate::config::{Config, Existing};
use crate::output::{self, bytes};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seconds between the two looks that rates and forecast are taken from
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    over: u64,
}

/// What one look saw.
struct Look {
    at: Instant,
    slot: Option<Slot>,
    progress: Option<Record>,
    problems: Vec<String>,
}

#[derive(Serialize)]
struct Status {
    pipeline: String,
    at_ms: i64,
    slot: Option<Slot>,
    positions: Positions,
    lag: status::Reader,
    rates: Rates,
    wal: Wal,
    epoch: Option<u16>,
    seq: Option<u64>,
    in_flight: Option<progress::InFlight>,
    copying: Option<CopyState>,
    /// Tables that are joining the stream.
    joining: Option<JoinState>,
    tables: Vec<Table>,
    repairs: Vec<Repair>,
    /// What could not be found out, and why.
    problems: Vec<String>,
}

/// The same point in time at each hop, from the source on.
#[derive(Serialize)]
struct Positions {
    wal_end: Option<Lsn>,
    sent: Option<Lsn>,
    durable: Option<Lsn>,
    confirmed: Option<Lsn>,
    restart: Option<Lsn>,
}

/// Per second, between the two looks; absent where a look is missing.
#[derive(Serialize)]
struct Rates {
    over_seconds: f64,
    wal_bytes: Option<f64>,
    read_bytes: Option<f64>,
    records: Option<f64>,
}

/// How long the WAL that may be kept will last.
#[derive(Serialize)]
struct Wal {
    kept_bytes: Option<u64>,
    budget_bytes: Option<u64>,
    /// At the pace between the two looks; absent when the budget did not shrink or there is none.
    left_seconds: Option<u64>,
}

#[derive(Serialize)]
struct CopyState {
    #[serde(flatten)]
    copying: Copying,
    left_seconds: Option<i64>,
}

#[derive(Serialize)]
struct JoinState {
    #[serde(flatten)]
    joining: progress::Joining,
    lag_bytes: u64,
    #[serde(skip)]
    told: Option<String>,
}

#[derive(Serialize)]
struct Table {
    table: TableName,
    #[serde(flatten)]
    state: TableState,
}

#[derive(Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum TableState {
    Copied { at: Lsn, rows: u64 },
    LeftOut,
    WaitsToBeReadAgain,
}

pub(crate) async fn run(cx: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let config = cx.config()?;
    let first = look(&config).await;
    // Servers that do not answer will not do so in some seconds either.
    let second = if first.problems.is_empty() {
        tokio::time::sleep(Duration::from_secs(args.over)).await;
        look(&config).await
    } else {
        Look {
            at: first.at,
            slot: first.slot.clone(),
            progress: first.progress.clone(),
            problems: first.problems.clone(),
        }
    };
    let status = Status::of(&config, &first, second);
    if cx.format.is_structured() {
        cx.format.value(&status)?;
    } else {
        output::facts(cx.format, &status.facts())?;
        for problem in &status.problems {
            eprintln!("problem: {problem}");
        }
    }
    Ok(if status.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn look(config: &Config) -> Look {
    let mut problems = Vec::new();
    let mut note = |error: anyhow::Error| problems.push(output::causes(&error).join(": "));
    let reader = config.reader(Existing::default());
    let (slot, progress) = tokio::join!(status::slot(config), progress::read(&reader));
    let slot = slot.map_err(&mut note).unwrap_or_default();
    let progress = progress.map_err(|error| note(error.into())).unwrap_or_default();
    Look { at: Instant::now(), slot, progress, problems }
}

impl Status {
    fn of(config: &Config, first: &Look, look: Look) -> Self {
        let at_ms = clock::now_ms();
        let (slot, record) = (look.slot.as_ref(), look.progress.as_ref());
        let positions = Positions {
            wal_end: slot.map(|slot| slot.wal_end),
            sent: slot.and_then(|slot| slot.sent),
            durable: record.map(|record| record.position),
            confirmed: slot.and_then(|slot| slot.confirmed_flush),
            restart: slot.and_then(|slot| slot.restart_lsn),
        };
        let tables = record.into_iter().flat_map(|record| record.tables.iter()).map(table);
        Self {
            pipeline: config.pipeline.to_string(),
            at_ms,
            positions,
            lag: status::lag(slot, record, at_ms),
            rates: Rates::between(first, &look),
            wal: Wal::between(first, &look),
            epoch: record.map(|record| record.epoch),
            seq: record.map(|record| record.seq),
            in_flight: record.and_then(|record| record.in_flight),
            copying: record.and_then(|record| record.copying.clone()).map(|copying| CopyState {
                left_seconds: copying.left_ms(at_ms).map(|ms| ms / 1000),
                copying,
            }),
            joining: record.and_then(|record| {
                let joining = record.joining.clone()?;
                let lag_bytes = record.position.0.saturating_sub(joining.position.0);
                Some(JoinState { joining, lag_bytes, told: status::told_joining(record) })
            }),
            tables: tables.collect(),
            repairs: record.map(|record| record.repairs.clone()).unwrap_or_default(),
            slot: look.slot,
            problems: look.problems,
        }
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let unknown = || "unknown".to_owned();
        let mut facts = vec![("pipeline", self.pipeline.clone())];
        match &self.slot {
            None => facts.push(("slot", "does not exist, or could not be seen".to_owned())),
            Some(slot) => {
                let active =
                    if slot.active { "read now" } else { "not read: no reader is connected" };
                let wal = slot.wal_status.as_deref().unwrap_or("unknown");
                facts.push(("slot", format!("{} ({active}, WAL {wal})", slot.name)));
            }
        }
        let positions = &self.positions;
        for (hop, at) in [
            ("wal end", positions.wal_end),
            ("sent", positions.sent),
            ("durable", positions.durable),
            ("confirmed", positions.confirmed),
            ("wal kept from", positions.restart),
        ] {
            facts.push((hop, at.map_or_else(|| "-".to_owned(), |at| at.to_string())));
        }
        let lag_bytes = self.lag.lag_bytes.map_or_else(unknown, bytes);
        let lag_seconds = self.lag.lag_seconds.map_or_else(unknown, |s| format!("at most {s} s"));
        facts.push(("lag", format!("{lag_bytes}, {lag_seconds}")));
        let rate = |rate: Option<f64>| rate.map_or_else(unknown, |rate| bytes(rate as u64));
        let records = self.rates.records.map_or_else(unknown, |rate| format!("{rate:.0}"));
        facts.push((
            "per second",
            format!(
                "{} of WAL written, {} read, {records} records",
                rate(self.rates.wal_bytes),
                rate(self.rates.read_bytes)
            ),
        ));
        facts.push(("wal kept", self.wal.kept_bytes.map_or_else(unknown, bytes)));
        facts.push(("wal budget", self.wal.told()));
        if let (Some(seq), Some(epoch)) = (self.seq, self.epoch) {
            facts.push(("seq", format!("{seq} (epoch {epoch})")));
        }
        if let Some(in_flight) = &self.in_flight {
            let (at, next) = (in_flight.commit_lsn, in_flight.next_ordinal);
            facts.push(("in flight", format!("{next} changes of the transaction at {at}")));
        }
        if let Some(copy) = &self.copying {
            facts.push(("copying", told(&copy.copying, self.at_ms)));
        }
        let joining = self.joining.as_ref().and_then(|joining| joining.told.clone());
        facts.extend(joining.map(|joining| ("joining", joining)));
        for table in &self.tables {
            let state = match &table.state {
                TableState::Copied { at, rows } => format!("{rows} rows copied at {at}"),
                TableState::LeftOut => "rows from before were left out".to_owned(),
                TableState::WaitsToBeReadAgain => "waits to be read again".to_owned(),
            };
            facts.push(("table", format!("{}: {state}", table.table)));
        }
        for repair in &self.repairs {
            facts.push(("repair", told_repair(repair)));
        }
        facts
    }
}

fn table((table, known): (&TableName, &Known)) -> Table {
    let state = match known {
        Known::Copied { at, rows, .. } => TableState::Copied { at: *at, rows: *rows },
        Known::LeftOut => TableState::LeftOut,
        Known::Doubtful => TableState::WaitsToBeReadAgain,
    };
    Table { table: table.clone(), state }
}

fn told_repair(repair: &Repair) -> String {
    let kind = match repair.kind {
        tailwater_cdc::repair::Kind::Adopt => "adopt",
        tailwater_cdc::repair::Kind::Resync => "resync",
    };
    let after = repair.code.as_deref().map_or_else(String::new, |code| format!(" after {code}"));
    let before =
        repair.before.as_ref().map_or_else(|| "nowhere".to_owned(), |p| p.position.to_string());
    let at = time(repair.at_ms);
    format!(
        "{at} {kind}{after}, from {before} to {}, epoch {}: {}",
        repair.after.position, repair.after.epoch, repair.reason
    )
}

impl Rates {
    fn between(first: &Look, second: &Look) -> Self {
        let over_seconds = second.at.saturating_duration_since(first.at).as_secs_f64();
        let per_second = |before: Option<u64>, after: Option<u64>| {
            let moved = after?.checked_sub(before?)?;
            (over_seconds > 0.0).then(|| moved as f64 / over_seconds)
        };
        let wal = |look: &Look| look.slot.as_ref().map(|slot| slot.wal_end.0);
        let read = |look: &Look| look.progress.as_ref().map(|record| record.position.0);
        let seq = |look: &Look| look.progress.as_ref().map(|record| record.seq);
        Self {
            over_seconds,
            wal_bytes: per_second(wal(first), wal(second)),
            read_bytes: per_second(read(first), read(second)),
            records: per_second(seq(first), seq(second)),
        }
    }
}

impl Wal {
    fn between(first: &Look, second: &Look) -> Self {
        let left = |look: &Look| look.slot.as_ref().and_then(|slot| slot.budget_bytes);
        let (before, budget_bytes) = (left(first), left(second));
        let took = second.at.saturating_duration_since(first.at).as_secs_f64();
        let spent = before.zip(budget_bytes).and_then(|(before, now)| before.checked_sub(now));
        let left_seconds = spent
            .filter(|spent| *spent > 0 && took > 0.0)
            .zip(budget_bytes)
            .map(|(spent, left)| (left as f64 * took / spent as f64) as u64);
        let kept_bytes = second.slot.as_ref().and_then(|slot| slot.retained_bytes);
        Self { kept_bytes, budget_bytes, left_seconds }
    }

    fn told(&self) -> String {
        match (self.budget_bytes, self.left_seconds) {
            (None, _) => {
                "no limit: `max_slot_wal_keep_size` is not set, so only the disk ends it".to_owned()
            }
            (Some(left), None) => format!("{} left, and not shrinking", bytes(left)),
            (Some(left), Some(seconds)) => {
                format!("{} left, about {} min at this pace", bytes(left), seconds / 60)
            }
        }
    }
}
