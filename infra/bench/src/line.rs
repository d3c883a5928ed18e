//! The whole line on a backlog it makes itself, once.
//!
//! ```text
//!  existing rows ─▶ read twice:                    COPY to /dev/null             the ceiling
//!                                                  tailwater cdc run             the first copy
//!  fill a table ──▶ the same backlog, read twice:  pg_recvlogical to /dev/null   the ceiling
//!                                                  tailwater cdc run             the reader
//!               ──▶ the records the reader wrote:  tailwater sinks run           archive, search
//! ```

mod backlog;
mod stage;

use clap::Args;

use self::backlog::Backlog;

/// Measures the first copy against COPY and the reader against `pg_recvlogical`, then the archive and search sinks, on a backlog it makes itself.
#[derive(Args)]
pub(crate) struct Options {
    /// Postgres; the benchmark creates and drops a database of its own.
    #[arg(long, env = "TAILWATER_TEST_POSTGRES")]
    pub(crate) postgres: String,
    /// Kafka.
    #[arg(long, env = "TAILWATER_TEST_KAFKA")]
    pub(crate) brokers: String,
    /// The object store, with scheme.
    #[arg(long, env = "TAILWATER_TEST_S3")]
    pub(crate) s3: String,
    /// OpenSearch, with scheme.
    #[arg(long, env = "TAILWATER_TEST_OPENSEARCH")]
    pub(crate) opensearch: String,
    /// The `tailwater` binary to measure.
    #[arg(long, default_value = "target/release/tailwater")]
    pub(crate) tailwater: std::path::PathBuf,
    /// Rows of about 200 bytes in the backlog.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) rows: u64,
    /// Rows of about 120 bytes that are there before the reader's first start.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) existing_rows: u64,
    /// Rows a transaction inserts.
    #[arg(long, default_value_t = 100)]
    pub(crate) rows_per_transaction: u64,
    /// Rows of the backlog that the search sink indexes: OpenSearch itself is the limit there.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) search_rows: u64,
}

/// Measures and prints.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let backlog = Backlog::prepare(options).await?;
    let outcome = measure(options, &backlog).await;
    backlog.remove().await?;
    outcome
}

async fn measure(options: &Options, backlog: &Backlog) -> anyhow::Result<()> {
    let bare = stage::bare_copy(backlog).await?;
    println!("bare COPY       {}", bare.line(options.existing_rows));
    let (copy, rows) = stage::first_copy(backlog, options.existing_rows).await?;
    println!("first copy      {}", copy.line(rows));
    let pace = rows as f64 / copy.seconds;
    println!("ratio           {:.2} of COPY", pace * bare.seconds / options.existing_rows as f64);
    backlog.fill(options.rows, options.rows_per_transaction).await?;
    let ceiling = stage::recvlogical(backlog).await?;
    println!("pg_recvlogical  {}", ceiling.line(options.rows));
    let reader = stage::reader(backlog).await?;
    println!("tailwater cdc   {}", reader.line(options.rows));
    println!("ratio           {:.2} of pg_recvlogical", ceiling.seconds / reader.seconds);
    let archive = stage::sink(backlog, "lake", "bench.rows", options.rows).await?;
    println!("archive sink    {}", archive.line(options.rows));
    backlog.fill_documents(options.search_rows).await?;
    let search = stage::sink(backlog, "search", "bench.documents", options.search_rows).await?;
    println!("search sink     {}", search.line(options.search_rows));
    Ok(())
}
