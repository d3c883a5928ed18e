//! `tailwater completions`: what a shell needs to complete our commands.

use std::io;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

/// Print a completion script for a shell
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tailwater completions bash > /etc/bash_completion.d/tailwater
  tailwater completions zsh > \"${fpath[1]}/_tailwater\"")]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> ExitCode {
    let mut command = crate::Cli::command();
    clap_complete::generate(args.shell, &mut command, "tailwater", &mut io::stdout().lock());
    ExitCode::SUCCESS
}
