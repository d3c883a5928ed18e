//! `tailwater-lake`: look into an archive, ask it, prove it, replay it.
//!
//! `tailwater lake …` runs this program. Only this file looks at the environment.
#![forbid(unsafe_code)]

mod commands;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use tailwater_lake::problem::Problem;

use crate::commands::{Command, Context, Global};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed; standard error says why
  2  mistakes in the arguments, the configuration or the SQL
  3  the archive is not known to be complete up to the cut that was asked for
  4  `verify` found damage

Environment:
  TAILWATER_CONFIG, TAILWATER_ARCHIVE and TAILWATER_LOG stand in for --config, --archive and --log.
  In the configuration, ${NAME} and ${NAME:-default} are replaced by environment variables.";

/// SQL, proof and replay over the S3 archive.
#[derive(Parser)]
#[command(name = "tailwater-lake", bin_name = "tailwater lake", version, after_help = EXIT_CODES, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    let usual = "warn,librdkafka=off,rdkafka=off,datafusion=error";
    tailwater_runtime::init_logging(global.log.as_deref().unwrap_or(usual));
    let context = Context { global, environment: |name| std::env::var(name).ok() };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start")),
    };
    let done = runtime.block_on(commands::run(&context, command));
    // A blocked call into a client library must not keep a finished command from ending.
    runtime.shutdown_background();
    done.unwrap_or_else(|error| fail(&error))
}

/// Prints the chain of an error once and answers the exit code it stands for.
fn fail(error: &anyhow::Error) -> ExitCode {
    let is_closed_pipe = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(is_closed_pipe) {
        return ExitCode::SUCCESS;
    }
    let mut said: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if !said.last().is_some_and(|last| last.contains(&cause)) {
            eprintln!("{}: {cause}", if said.is_empty() { "error" } else { "  because" });
            said.push(cause);
        }
    }
    match error.downcast_ref::<Problem>() {
        Some(Problem::Sql { .. }) => ExitCode::from(2),
        Some(Problem::Incomplete { .. }) => ExitCode::from(3),
        _ if error.is::<tailwater_lake::config::Error>() => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_says_what_it_does_and_shows_an_example() {
        let mut cli = Cli::command();
        cli.build();
        for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "`{name}` says nothing");
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("tailwater lake {name}")), "`{name}` shows no example");
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "`{name}` {argument} says nothing");
            }
        }
        Cli::command().debug_assert();
    }
}
