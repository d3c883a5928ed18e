//! `tailwater-bench`: what the pipeline costs, as ratios to a bare loop of the same work in the same run.
//!
//! ```text
//!  line ─▶ first copy, reader, archive and search sink, once each
//!  cdc ──▶ the reader alone, against its targets: rounds, medians, a verdict for each line
//!  sinks ▶ the archive and search sinks alone, in the same way
//! ```
//!
//! CPU-seconds and peak memory are read from the kernel for the measured process alone. The machine's other
//! work moves the absolute figures; the ratios are what to compare.
#![forbid(unsafe_code)]

mod bare;
mod cdc;
mod line;
mod postgres;
mod process;
mod report;
mod sinks;
mod stage;

use clap::Parser;

/// Measures Tailwater on servers that are there already.
#[derive(Parser)]
#[command(version)]
enum Cli {
    /// The first copy against COPY and the reader against `pg_recvlogical`, then the archive and search sinks.
    Line(line::Options),
    /// The reader against bare loops and against its targets, in rounds.
    Cdc(cdc::Options),
    /// The archive and search sinks against bare loops and against their targets, in rounds.
    Sinks(sinks::Options),
    /// One bare loop; `cdc` starts these in processes of their own.
    #[command(hide = true)]
    Bare(bare::Options),
    /// One bare loop; `sinks` starts these in processes of their own.
    #[command(hide = true)]
    BareSink(sinks::bare::Options),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Cli::parse() {
        Cli::Line(options) => line::run(&options).await,
        Cli::Cdc(options) => cdc::run(&options).await,
        Cli::Sinks(options) => sinks::run(&options).await,
        Cli::Bare(options) => bare::run(&options).await,
        Cli::BareSink(options) => sinks::bare::run(&options).await,
    }
}
