//! What was measured, against what was aimed at.

use std::path::Path;

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;

use crate::postgres::connect;
use crate::stage::Servers;

/// All lines, and where they were measured.
#[derive(Serialize)]
pub(crate) struct Report {
    servers: String,
    tailwater: String,
    cores: usize,
    rounds: usize,
    sizes: serde_json::Value,
    /// Processes that wanted a core in the last minute, at the beginning and at the end.
    load: (f64, f64),
    lines: Vec<Line>,
    #[serde(skip)]
    suite: String,
}

#[derive(Serialize)]
struct Line {
    suite: String,
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
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Report {
    /// `servers` are those that take part besides, as a reader of the report wants them named.
    pub(crate) async fn new(
        at: &Servers,
        servers: &str,
        rounds: usize,
        sizes: impl Serialize,
    ) -> anyhow::Result<Self> {
        let client = connect(&at.postgres).await?;
        let version = std::process::Command::new(&at.tailwater).arg("--version").output();
        let version = version.with_context(|| {
            format!(
                "`{}` is not built; run `cargo build --release -p tailwater`",
                at.tailwater.display()
            )
        })?;
        let postgres: String = client.query_one("show server_version", &[]).await?.get(0);
        Ok(Self {
            servers: format!("PostgreSQL {postgres}{servers}"),
            tailwater: String::from_utf8_lossy(&version.stdout).trim().to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            rounds,
            sizes: serde_json::to_value(sizes)?,
            load: (load(), 0.0),
            lines: Vec::new(),
            suite: String::new(),
        })
    }

    /// Lines that follow belong to this suite.
    pub(crate) fn begin<S: ValueEnum + PartialEq>(&mut self, suite: &S) {
        let value = suite.to_possible_value();
        self.suite = value.map(|value| value.get_name().to_owned()).unwrap_or_default();
        let place = S::value_variants().iter().position(|other| other == suite);
        let count = S::value_variants().len();
        eprintln!("{} ({} of {count})", self.suite, place.unwrap_or_default() + 1);
    }

    /// A figure of each round. Nothing is added without one.
    pub(crate) fn add(
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
            suite: self.suite.clone(),
            what: what.into(),
            unit,
            median,
            rounds,
            target,
            met,
        });
    }

    /// The table.
    pub(crate) fn print(&mut self) {
        self.load.1 = load();
        println!(
            "{} on {}, {} cores, {} rounds, load {:.1} at the beginning and {:.1} at the end",
            self.tailwater, self.servers, self.cores, self.rounds, self.load.0, self.load.1
        );
        println!();
        println!("| | | median | least | most | target | |");
        println!("| --- | --- | --- | --- | --- | --- | --- |");
        for line in &self.lines {
            println!("{line}");
        }
    }

    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
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
pub(crate) fn median(values: &[f64]) -> f64 {
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
