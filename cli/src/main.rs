//! `tailwater`: one binary, one subcommand per job.
//!
//! ```text
//!  arguments ──▶ config (tailwater.yaml) ──▶ command ──▶ standard output: its result
//!                                               └──────▶ standard error: what it is doing, and errors
//! ```
//!
//! Only this file looks at the environment.
#![forbid(unsafe_code)]

mod config; // tailwater.yaml
mod shape; // the same, described
mod declared; // catalog files
mod output; // tables, plain lines, JSON
mod offsets; // what Kafka knows of topics and consumer groups
mod serve; // what long-running commands share
mod sources; // which topics there are now
mod workers; // the sinks of a process, as registered
mod watermark; // up to where each of them is complete
mod commands; // one file each

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::commands::apply::Scope;
use crate::commands::{
    apply, archive, cdc, check, completions, dlq, explain, init, lake, reference, sinks, status,
    topics, wait,
};
use crate::config::Config;
use crate::output::Format;

const EXIT_CODES: &str = "\
Exit codes:
  0      done
  1      failed, refused, `check` found errors, or `diff` found differences; standard error says more
  2      mistakes in the arguments, the configuration or the catalog; all of them are listed
  3      `sinks run` was told to stop and could not finish or commit everything; it is read again
  4      `archive verify` or `archive repair` found damage
  10-63  the reader ended for a definite reason; `tailwater explain TW0nn` has the page for code nn

Environment:
  TAILWATER_CONFIG and TAILWATER_LOG stand in for --config and --log.
  In the configuration, ${NAME} and ${NAME:-default} are replaced by environment variables.";

/// Committed Postgres changes to Kafka, and on to an S3 archive and a search index.
#[derive(Parser)]
#[command(name = "tailwater", version, after_help = EXIT_CODES, max_term_width = 110)]
struct Cli {
    /// Configuration file
    #[arg(long, global = true, env = "TAILWATER_CONFIG", default_value = "tailwater.yaml")]
    config: PathBuf,
    /// What is logged to standard error, such as `warn`, `info` or `tailwater_cdc=debug`
    #[arg(long, global = true, env = "TAILWATER_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// Form of lists: a table on a terminal, tab-separated lines in a pipe unless given
    #[arg(short, long, global = true, value_name = "FORMAT")]
    output: Option<Format>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Apply(apply::ApplyArgs),
    #[command(subcommand)]
    Archive(archive::Command),
    #[command(subcommand)]
    Cdc(cdc::Command),
    Check(check::Args),
    Completions(completions::Args),
    #[command(subcommand)]
    Config(reference::Command),
    Diff(apply::DiffArgs),
    #[command(subcommand)]
    Dlq(dlq::Command),
    Explain(explain::Args),
    Init(init::Args),
    #[command(subcommand)]
    Lake(lake::Command),
    Plan(apply::PlanArgs),
    #[command(subcommand)]
    Sinks(sinks::Command),
    Status(status::Args),
    #[command(subcommand)]
    Topics(topics::Command),
    Wait(wait::Args),
}

impl Command {
    /// Long-running commands tell their story; the others speak when something is wrong.
    fn usual_log(&self) -> &'static str {
        match self {
            Self::Cdc(cdc::Command::Run(_)) | Self::Sinks(sinks::Command::Run(_)) => "info",
            _ => "warn,librdkafka=off,rdkafka=off",
        }
    }
}

/// What every command may use.
struct Context {
    config: PathBuf,
    format: Format,
    /// Whether standard output is a terminal that may show colours; `NO_COLOR` says no.
    coloured: bool,
}

impl Context {
    /// Reads the configuration; commands that need none do not call this.
    fn config(&self) -> Result<Config, config::Error> {
        config::load(&self.config, &|name| std::env::var(name).ok())
    }
}

fn main() -> ExitCode {
    tailwater_runtime::settle_memory();
    let Cli { config, log, output, command } = Cli::parse();
    tailwater_runtime::init_logging(log.as_deref().unwrap_or(command.usual_log()));
    let coloured = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let context = Context { config, format: Format::chosen(output), coloured };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start")),
    };
    let done = runtime.block_on(run(command, &context));
    // A blocked call into a client library must not keep a finished command from ending.
    runtime.shutdown_background();
    done.unwrap_or_else(|error| fail(&error))
}

async fn run(command: Command, context: &Context) -> anyhow::Result<ExitCode> {
    match command {
        Command::Apply(args) => apply::apply(context, &args.catalog, Scope::All).await,
        Command::Archive(command) => archive::run(context, &command).await,
        Command::Cdc(command) => Box::pin(cdc::run(context, command)).await,
        Command::Check(args) => check::run(context, &args).await,
        Command::Completions(args) => Ok(completions::run(&args)),
        Command::Config(command) => reference::run(&command),
        Command::Diff(args) => apply::diff(context, &args.catalog, Scope::All).await,
        Command::Dlq(command) => dlq::run(context, &command).await,
        Command::Explain(args) => explain::run(context, &args),
        Command::Init(args) => init::run(&args).await,
        Command::Lake(command) => lake::run(context, &command).await,
        Command::Plan(args) => apply::plan_only(context, &args.catalog, Scope::All).await,
        Command::Sinks(command) => sinks::run(context, command).await,
        Command::Status(args) => status::run(context, &args).await,
        Command::Topics(command) => topics::run(context, command).await,
        Command::Wait(args) => wait::run(context, &args).await,
    }
}

/// Prints the chain of an error once and answers the exit code it stands for.
fn fail(error: &anyhow::Error) -> ExitCode {
    let is_closed_pipe = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(is_closed_pipe) {
        // Whoever read our output has seen enough.
        return ExitCode::SUCCESS;
    }
    for (number, cause) in output::causes(error).iter().enumerate() {
        eprintln!("{}: {cause}", if number == 0 { "error" } else { "  because" });
    }
    if let Some(reader) = error.downcast_ref::<tailwater_cdc::Error>() {
        eprintln!("code {0}; `tailwater explain {0}` says what to do", reader.code());
        return ExitCode::from(reader.exit_code());
    }
    if error.is::<workers::Unfinished>() {
        return ExitCode::from(3);
    }
    if error.is::<config::Error>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_says_what_it_does_and_shows_an_example() {
        let mut cli = Cli::command();
        cli.build();
        let mut names = Vec::new();
        visit(&cli, "", &mut names);
        names.sort();
        assert_eq!(
            names,
            [
                "apply",
                "archive",
                "archive repair",
                "archive verify",
                "cdc",
                "cdc adopt",
                "cdc resync",
                "cdc run",
                "cdc snapshot",
                "cdc status",
                "check",
                "completions",
                "config",
                "config metrics",
                "config reference",
                "config schema",
                "diff",
                "dlq",
                "dlq discard",
                "dlq list",
                "dlq replay",
                "dlq show",
                "explain",
                "init",
                "lake",
                "lake cat",
                "lake ls",
                "plan",
                "sinks",
                "sinks apply",
                "sinks describe",
                "sinks diff",
                "sinks explain",
                "sinks gap",
                "sinks list",
                "sinks pause",
                "sinks plan",
                "sinks rebuild",
                "sinks remove",
                "sinks resume",
                "sinks run",
                "status",
                "topics",
                "topics apply",
                "topics describe",
                "topics diff",
                "topics list",
                "topics pause",
                "topics plan",
                "topics remove",
                "topics resume",
                "wait",
            ]
        );
    }

    fn visit(command: &clap::Command, path: &str, names: &mut Vec<String>) {
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let name = format!("{path} {}", sub.get_name()).trim().to_owned();
            assert!(sub.get_about().is_some(), "`{name}` says nothing");
            if sub.has_subcommands() {
                visit(sub, &name, names);
            } else {
                let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Example"), "`{name}` shows no example");
                assert!(
                    help.contains(&format!("tailwater {name}")),
                    "`{name}` is not in its example"
                );
            }
            for argument in sub.get_arguments() {
                assert!(argument.get_help().is_some(), "`{name}` {argument} says nothing");
            }
            names.push(name);
        }
    }

    /// The words of the commands in a page's blocks of shell, from `tailwater` to whatever ends a command.
    fn commands(text: &str) -> Vec<Vec<String>> {
        let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
        let lines = blocks.flat_map(|block| {
            block.replace("\\\n", " ").lines().map(str::to_owned).collect::<Vec<_>>()
        });
        let command = |line: String| {
            let at = line.find("tailwater ")?;
            // Elsewhere it is a name, as in `kubectl --namespace tailwater`.
            let before = line[..at].trim_end();
            if !["", "until", "&&"].contains(&before) && !before.ends_with(['(', '/']) {
                return None;
            }
            let mut words = vec![String::new()];
            let mut quote = None;
            for letter in line[at..].chars() {
                match (quote, letter) {
                    (Some(open), letter) if open == letter => quote = None,
                    (None, '"' | '\'') => quote = Some(letter),
                    (None, '|' | '&' | '>' | '<' | '#' | ';' | ')') => break,
                    (None, ' ') => words.push(String::new()),
                    (_, letter) => words.last_mut()?.push(letter),
                }
            }
            // `2>` leaves its number behind.
            words.retain(|word| !word.is_empty() && word != "2");
            Some(words)
        };
        lines.filter_map(command).collect()
    }

    #[test]
    fn every_command_in_the_pages_can_be_parsed() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let pages = ["README.md", "docs/tutorial.md", "docs/operations.md", "services/README.md"];
        let mut parsed = 0;
        for page in pages {
            let text = std::fs::read_to_string(root.join(page)).expect("a page");
            for words in commands(&text) {
                // A log says `tailwater cdc run` too; what is a command of ours begins with one of our words.
                if let Err(error) = Cli::try_parse_from(&words) {
                    panic!("{page}: `{}`: {error}", words.join(" "));
                }
                parsed += 1;
            }
        }
        assert!(parsed > 20, "{parsed}");
    }

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
