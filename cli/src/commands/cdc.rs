//! `tailwater cdc`: the reader.

use std::process::ExitCode;

use crate::config::Existing;
use crate::{Context, serve};

/// Read committed changes out of Postgres into Kafka
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Run the reader until it is told to stop
    ///
    /// One reader per pipeline: a second one fences the first. It goes on exactly where the last one ended, or
    /// stops with its own exit code when the database's history and its own disagree. SIGTERM drains, a second
    /// signal ends it at once. Serves /live, /ready and /metrics on `reader.admin`.
    ///
    /// Rows that a table holds when it is first captured are copied to its topic, ahead of its changes. A copy that was
    /// interrupted begins again for the tables that were not finished.
    #[command(after_help = "\
Examples:
  tailwater cdc run
  tailwater cdc run --from-now           # only what changes from now on
  tailwater cdc run --events-from-now    # first start beside events that somebody else has sent")]
    Run(RunArgs),
}

#[derive(clap::Args)]
pub(crate) struct RunArgs {
    /// Do not copy the rows that tables hold when they are first captured
    #[arg(long)]
    from_now: bool,
    /// On the very first start, leave out the events that outbox tables hold already; otherwise it is refused
    #[arg(long)]
    events_from_now: bool,
}

pub(crate) async fn run(cx: &Context, command: Command) -> anyhow::Result<ExitCode> {
    let Command::Run(args) = command;
    let config = cx.config()?;
    let existing = Existing { from_now: args.from_now, events_from_now: args.events_from_now };
    let reader = config.reader(existing);
    let kafka = config.kafka_client();
    serve::run(config.reader.admin, |stop, health| async move {
        let followed = serve::follow(&kafka, &reader.pipeline, &stop, &health).await?;
        let Some(registrations) = followed else { return Ok(()) };
        Ok(tailwater_cdc::run(reader, registrations, stop, health).await?)
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}
