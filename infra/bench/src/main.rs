//! `tailwater-bench`: what the pipeline costs, as ratios to a bare loop of the same work in the same run.
//!
//! ```text
//!  existing rows ─▶ read twice:                    COPY to /dev/null             the ceiling
//!                                                  tailwater cdc run             the first copy
//!  fill a table ──▶ the same backlog, read twice:  pg_recvlogical to /dev/null   the ceiling
//!                                                  tailwater cdc run             the reader
//!               ──▶ the records the reader wrote:  tailwater sinks run           archive, search
//! ```
//!
//! CPU-seconds and peak memory are read from the kernel for the measured process alone. The machine's other
//! work moves the absolute figures; the ratios are what to compare.
#![forbid(unsafe_code)]

mod backlog;
mod process;
mod stage;

use clap::Parser;

use crate::backlog::Backlog;

/// Measures the first copy against COPY and the reader against `pg_recvlogical`, then the archive and search sinks, on a backlog it makes itself.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Postgres; the benchmark creates and drops a database of its own.
    #[arg(long, env = "TAILWATER_TEST_POSTGRES")]
    postgres: String,
    /// Kafka.
    #[arg(long, env = "TAILWATER_TEST_KAFKA")]
    brokers: String,
    /// The object store, with scheme.
    #[arg(long, env = "TAILWATER_TEST_S3")]
    s3: String,
    /// OpenSearch, with scheme.
    #[arg(long, env = "TAILWATER_TEST_OPENSEARCH")]
    opensearch: String,
    /// The `tailwater` binary to measure.
    #[arg(long, default_value = "target/release/tailwater")]
    tailwater: std::path::PathBuf,
    /// Rows of about 200 bytes in the backlog.
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// Rows of about 120 bytes that are there before the reader's first start.
    #[arg(long, default_value_t = 1_000_000)]
    existing_rows: u64,
    /// Rows a transaction inserts.
    #[arg(long, default_value_t = 100)]
    rows_per_transaction: u64,
    /// Rows of the backlog that the search sink indexes: OpenSearch itself is the limit there.
    #[arg(long, default_value_t = 100_000)]
    search_rows: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let backlog = Backlog::prepare(&cli).await?;
    let outcome = measure(&cli, &backlog).await;
    backlog.remove().await?;
    outcome
}

async fn measure(cli: &Cli, backlog: &Backlog) -> anyhow::Result<()> {
    let bare = stage::bare_copy(backlog).await?;
    println!("bare COPY       {}", bare.line(cli.existing_rows));
    let (copy, rows) = stage::first_copy(backlog, cli.existing_rows).await?;
    println!("first copy      {}", copy.line(rows));
    let pace = rows as f64 / copy.seconds;
    println!("ratio           {:.2} of COPY", pace * bare.seconds / cli.existing_rows as f64);
    backlog.fill(cli.rows, cli.rows_per_transaction).await?;
    let ceiling = stage::recvlogical(backlog).await?;
    println!("pg_recvlogical  {}", ceiling.line(cli.rows));
    let reader = stage::reader(backlog).await?;
    println!("tailwater cdc   {}", reader.line(cli.rows));
    println!("ratio           {:.2} of pg_recvlogical", ceiling.seconds / reader.seconds);
    let archive = stage::sink(backlog, "lake", "bench.rows", cli.rows).await?;
    println!("archive sink    {}", archive.line(cli.rows));
    backlog.fill_documents(cli.search_rows).await?;
    let search = stage::sink(backlog, "search", "bench.documents", cli.search_rows).await?;
    println!("search sink     {}", search.line(cli.search_rows));
    Ok(())
}
