//! `tailwater lake repl`: a prompt.

use std::process::ExitCode;

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use tailwater_lake::output::{self, Format};

use super::{AsOf, Context, query};

const HELP: &str = "\
  SELECT …;          a statement, over as many lines as it takes, up to its semicolon
  \\d                 tables
  \\d TABLE           columns of a topic's rows
  \\o FORMAT          table, csv, json or jsonl
  \\asof LSN|TIME     cut there; \\asof alone takes the cut away
  \\q                 end";

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tailwater lake repl
  tailwater lake repl --asof '2026-01-02 03:04:05Z'
  echo 'SELECT count(*) FROM orders_events;' | tailwater lake repl")]
pub(crate) struct Args {
    #[command(flatten)]
    asof: AsOf,
}

pub(crate) async fn run(cx: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let mut asof = args.asof.clone();
    let mut lake = cx.lake(&asof).await?;
    let mut editor = DefaultEditor::new()?;
    let mut format = Format::Table;
    let mut statement = String::new();
    eprintln!("{} topics; \\? for help", lake.topics().count());
    loop {
        let prompt = if statement.is_empty() { "lake> " } else { "   -> " };
        let line = match editor.readline(prompt) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                statement.clear();
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(ExitCode::SUCCESS),
            Err(error) => return Err(error.into()),
        };
        let trimmed = line.trim();
        if statement.is_empty() && trimmed.starts_with('\\') {
            let (command, rest) = trimmed.split_once(' ').unwrap_or((trimmed, ""));
            let rest = rest.trim();
            match (command, rest) {
                ("\\q", _) => return Ok(ExitCode::SUCCESS),
                ("\\d", "") => {
                    for (topic, table) in lake.topics() {
                        println!("{table}  {table}_changes  {table}_current    (topic {topic})");
                    }
                }
                ("\\d", table) => match lake.topic_of(table) {
                    Ok(topic) => {
                        for column in lake.row_columns(&topic).await? {
                            println!("{}  {}", column.name, column.kind.name());
                        }
                    }
                    Err(problem) => eprintln!("error: {problem}"),
                },
                ("\\o", wanted) => match clap::ValueEnum::from_str(wanted, true) {
                    Ok(Format::Parquet) | Err(_) => {
                        eprintln!("error: one of table, csv, json, jsonl");
                    }
                    Ok(wanted) => format = wanted,
                },
                ("\\asof", wanted) => {
                    let cut = if wanted.is_empty() { Ok(None) } else { wanted.parse().map(Some) };
                    match cut {
                        Ok(cut) => {
                            asof.asof = cut;
                            lake = cx.lake(&asof).await?;
                        }
                        Err(error) => eprintln!("error: {error}"),
                    }
                }
                _ => eprintln!("{HELP}"),
            }
            continue;
        }
        if trimmed.is_empty() {
            continue;
        }
        statement.push_str(&line);
        statement.push('\n');
        if trimmed.ends_with(';') {
            let _ = editor.add_history_entry(statement.trim());
            let sql = statement.trim().trim_end_matches(';').to_owned();
            statement.clear();
            // What is wrong with one statement is no reason to end.
            if let Err(error) = query::answer(&lake, &sql, format, output::stdout()).await {
                eprintln!("error: {error}");
            }
        }
    }
}
