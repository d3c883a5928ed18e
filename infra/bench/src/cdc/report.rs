//! What was measured, against what was aimed at.

use std::path::Path;

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;

use super::{Options, Suite};
use crate::postgres::connect;

/// All lines, and where they were measured.
#[derive(Serialize)]
pub(super) struct Report {
    postgres: String,
    tailwater: String,
    cores: usize,
    rounds: usize,
    sizes: Sizes,
    /// Processes that wanted a core in the last minute, at the beginning and at the end.
    load: (f64, f64),
    lines: Vec<Line>,
    #[serde(skip)]
    suite: &'static str,
}

#[derive(Serialize)]
struct Sizes {
    rows: u64,
    rows_per_transaction: u64,
    pgbench_transactions: u64,
    transaction_rows: u64,
    steady_rows: u64,
    existing_rows: u64,
    tables: usize,
}

#[derive(Serialize)]
struct Line {
    suite: &'static str,
    what: String,
    unit: &'static str,
    median: f64,
    rounds: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Target>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
}

/// What a median should be.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Report {
    pub(super) async fn new(options: &Options) -> anyhow::Result<Self> {
        let client = connect(&options.postgres).await?;
        let version = std::process::Command::new(&options.tailwater).arg("--version").output();
        let version = version.with_context(|| {
            format!(
                "`{}` is not built; run `cargo build --release -p tailwater`",
                options.tailwater.display()
            )
        })?;
        Ok(Self {
            postgres: client.query_one("show server_version", &[]).await?.get(0),
            tailwater: String::from_utf8_lossy(&version.stdout).trim().to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            rounds: options.rounds,
            sizes: Sizes {
                rows: options.rows,
                rows_per_transaction: options.rows_per_transaction,
                pgbench_transactions: options.pgbench_transactions,
                transaction_rows: options.transaction_rows,
                steady_rows: options.steady_rows,
                existing_rows: options.existing_rows,
                tables: options.tables,
            },
            load: (load(), 0.0),
            lines: Vec::new(),
            suite: "",
        })
    }

    /// Lines that follow belong to this suite.
    pub(super) fn begin(&mut self, suite: Suite) {
        self.suite = match suite {
            Suite::Rows => "rows",
            Suite::Pgbench => "pgbench",
            Suite::Transaction => "transaction",
            Suite::Latency => "latency",
            Suite::Copy => "copy",
            Suite::Tables => "tables",
        };
        let place = Suite::value_variants().iter().position(|other| *other == suite);
        let count = Suite::value_variants().len();
        eprintln!("{} ({} of {count})", self.suite, place.unwrap_or_default() + 1);
    }

    /// A figure of each round. Nothing is added without one.
    pub(super) fn add(
        &mut self,
        what: impl Into<String>,
        unit: &'static str,
        rounds: Vec<f64>,
        target: Option<Target>,
    ) {
        if rounds.is_empty() {
            return;
        }
        let median = median(&rounds);
        let met = target.map(|target| match target {
            Target::AtLeast(bound) => median >= bound,
            Target::AtMost(bound) => median <= bound,
        });
        self.lines.push(Line {
            suite: self.suite,
            what: what.into(),
            unit,
            median,
            rounds,
            target,
            met,
        });
    }

    /// The table.
    pub(super) fn print(&mut self) {
        self.load.1 = load();
        println!(
            "{} on PostgreSQL {}, {} cores, {} rounds, load {:.1} at the beginning and {:.1} at the end",
            self.tailwater, self.postgres, self.cores, self.rounds, self.load.0, self.load.1
        );
        println!();
        println!("| | | median | least | most | target | |");
        println!("| --- | --- | --- | --- | --- | --- | --- |");
        for line in &self.lines {
            println!("{line}");
        }
    }

    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let json = serde_json::to_string_pretty(self)?;
        std::fs::write(path, json + "\n").with_context(|| format!("writing {}", path.display()))
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let least = self.rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let target = match self.target {
            None => String::new(),
            Some(Target::AtLeast(bound)) => format!("≥ {bound}"),
            Some(Target::AtMost(bound)) => format!("≤ {bound}"),
        };
        let verdict = match self.met {
            None => "",
            Some(true) => "met",
            Some(false) => "**missed**",
        };
        write!(
            out,
            "| {} | {}{}{} | {} | {} | {} | {target} | {verdict} |",
            self.suite,
            self.what,
            if self.unit.is_empty() { "" } else { ", " },
            self.unit,
            figure(self.median),
            figure(least),
            figure(most),
        )
    }
}

/// Three figures that say something.
fn figure(value: f64) -> String {
    match value.abs() {
        1000.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The middle one, or the mean of the two in the middle.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    } else {
        sorted[middle]
    }
}

fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }
}
