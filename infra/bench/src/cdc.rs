//! The reader against its targets.
//!
//! ```text
//!  round 1…n:  load ─▶ bare loop that drops ─▶ reader ─▶ bare loop that sends       ratios within the round
//!  all rounds ─▶ median ─▶ target ─▶ verdict                                         table and JSON
//! ```
//!
//! * All loops of a round read the same backlog within seconds of one another, so what else the machine does falls on
//!   all of them alike. Nothing is compared across rounds but ratios.
//! * What the reader does before its first byte of WAL is measured by its own suite, `tables`, and is no part of the
//!   others.

mod copy;
mod drain;
mod latency;
mod tables;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use self::drain::Load;
use crate::report::Report;
use crate::stage::Servers;

/// Drains backlogs beside bare loops, and measures latency, memory, copies and starts.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    servers: Servers,
    /// What to measure; without it everything.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Suite>,
    /// Rounds of each suite but `transaction`, which has one.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// `rows`: rows of about 200 bytes in the backlog of a round.
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// `rows`: rows a transaction inserts.
    #[arg(long, default_value_t = 100)]
    rows_per_transaction: u64,
    /// `pgbench`: transactions of four changes in the backlog of a round.
    #[arg(long, default_value_t = 100_000)]
    pgbench_transactions: u64,
    /// `transaction`: rows of about 200 bytes that one transaction inserts. Ten million take 20 GB of disk for a while.
    #[arg(long, default_value_t = 10_000_000)]
    transaction_rows: u64,
    /// `latency`: rows a second, in transactions of four.
    #[arg(long, default_value_t = 2_000)]
    steady_rows: u64,
    /// `latency`: seconds of a round.
    #[arg(long, default_value_t = 10)]
    steady_seconds: u64,
    /// `copy`: rows of about 120 bytes that are there before the first start.
    #[arg(long, default_value_t = 2_000_000)]
    existing_rows: u64,
    /// `tables`: how many, each with 20 columns and a topic.
    #[arg(long, default_value_t = 1_000)]
    tables: usize,
    /// Where the results go as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// A backlog of small inserts.
    Rows,
    /// A backlog of pgbench's TPC-B transactions.
    Pgbench,
    /// One large transaction.
    Transaction,
    /// Commit to read-committed consumer at a steady rate.
    Latency,
    /// Rows that are there before the first start.
    Copy,
    /// Many tables: how long a start takes.
    Tables,
}

/// Measures, prints each line as soon as it is known, and all of them at the end.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let sizes = Sizes {
        rows: options.rows,
        rows_per_transaction: options.rows_per_transaction,
        pgbench_transactions: options.pgbench_transactions,
        transaction_rows: options.transaction_rows,
        steady_rows: options.steady_rows,
        existing_rows: options.existing_rows,
        tables: options.tables,
    };
    let mut report = Report::new(&options.servers, "", options.rounds, sizes).await?;
    let outcome = measure(options, &mut report).await;
    // What was measured before a failure is worth keeping.
    report.print();
    if let Some(path) = &options.json {
        report.write(path)?;
    }
    outcome
}

async fn measure(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    for suite in Suite::value_variants() {
        if !options.only.is_empty() && !options.only.contains(suite) {
            continue;
        }
        report.begin(suite);
        match suite {
            Suite::Rows => {
                let load = Load::Rows { rows: options.rows, each: options.rows_per_transaction };
                drain::measure(options, load, report).await?;
            }
            Suite::Pgbench => {
                let load = Load::Pgbench { transactions: options.pgbench_transactions };
                drain::measure(options, load, report).await?;
            }
            Suite::Transaction => {
                let load = Load::Transaction { rows: options.transaction_rows };
                drain::measure(options, load, report).await?;
            }
            Suite::Latency => latency::measure(options, report).await?,
            Suite::Copy => copy::measure(options, report).await?,
            Suite::Tables => tables::measure(options, report).await?,
        }
    }
    Ok(())
}
