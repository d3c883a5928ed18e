//! `tailwater lake query`: rows of one or more statements.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use futures::StreamExt as _;
use tailwater_lake::Lake;
use tailwater_lake::output::{self, Format, Rows};

use super::{AsOf, Context};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tailwater lake query 'SELECT op_code, count(*) FROM inventory_cdc GROUP BY 1'
  tailwater lake query -e 'SELECT * FROM inventory_cdc_current' -o csv
  tailwater lake query --asof '2026-01-02 03:04:05Z' -f report.sql
  tailwater lake query --explain 'SELECT * FROM orders_events WHERE tw_seq < 1000'")]
pub(crate) struct Args {
    /// The statement
    #[arg(required_unless_present_any = ["execute", "file"])]
    sql: Option<String>,
    /// The statement, as an option
    #[arg(short, long, value_name = "SQL", conflicts_with = "sql")]
    execute: Option<String>,
    /// A file with the statement
    #[arg(short, long, conflicts_with_all = ["sql", "execute"])]
    file: Option<PathBuf>,
    /// Form of the rows: a table on a terminal, CSV in a pipe unless given
    #[arg(short, long)]
    output: Option<Format>,
    /// Show how it would be answered, and answer nothing
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    asof: AsOf,
}

pub(crate) async fn run(cx: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let text = match (&args.sql, &args.execute, &args.file) {
        (Some(sql), ..) | (_, Some(sql), _) => sql.clone(),
        (_, _, Some(file)) => std::fs::read_to_string(file)
            .with_context(|| format!("cannot read `{}`", file.display()))?,
        _ => unreachable!("one of them is required"),
    };
    let sql = text.trim().trim_end_matches(';');
    let sql = if args.explain { format!("EXPLAIN {sql}") } else { sql.to_owned() };
    let lake = cx.lake(&args.asof).await?;
    answer(&lake, &sql, Format::chosen(args.output), output::stdout()).await?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the rows of a statement, and the last line to standard error.
pub(crate) async fn answer(
    lake: &Lake,
    sql: &str,
    format: Format,
    out: impl Write + Send,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut answer = lake.query(sql).await?;
    let mut rows = Rows::new(format, answer.rows.schema(), out)?;
    while let Some(batch) = answer.rows.next().await {
        rows.write(&batch.map_err(|error| lake.problem(sql, error))?)?;
    }
    let (count, hidden) = rows.finish()?;
    let footer = output::footer(lake.stats(), count, hidden, began.elapsed(), &answer.completeness);
    eprintln!("{footer}");
    Ok(())
}
