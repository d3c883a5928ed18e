//! The sinks against their targets.
//!
//! ```text
//!  rows ─▶ reader ─▶ topic, once ─┬─▶ bare loop ─┐
//!                                 └─▶ sink      ─┴─▶ ratio within the round      again in each round
//!  all rounds ─▶ median ─▶ target ─▶ verdict                                     table and JSON
//! ```
//!
//! * The records are the reader's own, in its own transactions, and every loop reads all of them from the beginning.
//! * A sink's clock begins with the first record it takes, a bare loop's when it begins to fetch. What a start costs
//!   before that is a line of its own.
//! * When all is taken, the sink is told to drain: nobody wants to know how long a segment may wait for its age. The
//!   clock ends when the group has committed everything.

mod archive;
pub(crate) mod bare;
mod catch_up;
mod partitions;
mod run;
mod scene;
mod search;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::report::Report;
use crate::stage::Servers;

/// Archives and indexes topics beside bare loops, and measures memory and a long catch-up.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    servers: Servers,
    /// The object store, with scheme; buckets are made and removed.
    #[arg(long, env = "TAILWATER_TEST_S3")]
    s3: String,
    /// OpenSearch, with scheme; indices are made and removed.
    #[arg(long, env = "TAILWATER_TEST_OPENSEARCH")]
    opensearch: String,
    /// What to measure; without it everything.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Suite>,
    /// Rounds of `archive` and `search`; the others have one.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// `archive`: records in the topic.
    #[arg(long, default_value_t = 2_000_000)]
    records: u64,
    /// `partitions`: how many.
    #[arg(long, default_value_t = 1_000)]
    partitions: i32,
    /// `partitions`: records in all of them together.
    #[arg(long, default_value_t = 2_000_000)]
    spread_records: u64,
    /// `partitions`: most that open batches may hold, in MiB; `sinks.memory`.
    #[arg(long, default_value_t = 256)]
    memory_mib: u64,
    /// `search`: records in the topic, each a document of its own.
    #[arg(long, default_value_t = 200_000)]
    documents: u64,
    /// `catch-up`: records in the topic. Five million take 10 GB of disk.
    #[arg(long, default_value_t = 5_000_000)]
    backlog: u64,
    /// Where the results go as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// An archive of a few partitions, beside a bare loop that fetches, compresses and puts.
    Archive,
    /// An archive of many partitions: its memory.
    Partitions,
    /// An index, beside a bare loop that sends ready-made bulk requests.
    Search,
    /// Both sinks in one process, behind by a long topic.
    CatchUp,
}

#[derive(Serialize)]
struct Sizes {
    records: u64,
    partitions: i32,
    spread_records: u64,
    memory_mib: u64,
    documents: u64,
    backlog: u64,
}

/// Measures, prints each line as soon as it is known, and all of them at the end.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let sizes = Sizes {
        records: options.records,
        partitions: options.partitions,
        spread_records: options.spread_records,
        memory_mib: options.memory_mib,
        documents: options.documents,
        backlog: options.backlog,
    };
    let also = format!(" and OpenSearch {}", search::version(&options.opensearch).await?);
    let mut report = Report::new(&options.servers, &also, options.rounds, sizes).await?;
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
            Suite::Archive => archive::measure(options, report).await?,
            Suite::Partitions => partitions::measure(options, report).await?,
            Suite::Search => search::measure(options, report).await?,
            Suite::CatchUp => catch_up::measure(options, report).await?,
        }
    }
    Ok(())
}
