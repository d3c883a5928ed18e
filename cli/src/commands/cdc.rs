//! `tailwater cdc`: the reader.

use std::process::ExitCode;

use crate::{Context, serve};

/// Read committed changes out of Postgres into Kafka
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Run the reader until it is told to stop
    ///
    /// One reader per pipeline: a second one fences the first. It goes on exactly where the last one ended, or
    /// stops with its own exit code when the database's history and its own disagree. SIGTERM drains, a second
    /// signal ends it at once. Serves /live, /ready and /metrics on `reader.admin`.
    #[command(after_help = "\
Examples:
  tailwater cdc run
  tailwater cdc run --from-now    # first start over tables that already hold rows")]
    Run(RunArgs),
}

#[derive(clap::Args)]
pub(crate) struct RunArgs {
    /// On the very first start, leave out the rows that captured tables already hold
    #[arg(long)]
    from_now: bool,
}

pub(crate) async fn run(cx: &Context, command: Command) -> anyhow::Result<ExitCode> {
    let Command::Run(args) = command;
    let config = cx.config()?;
    let reader = config.reader(args.from_now);
    let kafka = config.kafka_client();
    serve::run(config.reader.admin, |stop, health| async move {
        let followed = serve::follow(&kafka, &reader.pipeline, &stop, &health).await?;
        let Some(registrations) = followed else { return Ok(()) };
        Ok(tailwater_cdc::run(reader, registrations, stop, health).await?)
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}
