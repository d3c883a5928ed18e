//! `tailwater cdc`: the reader.

use std::process::ExitCode;

use crate::commands::{reader_status, repair, reread};
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
    /// Show where the reader stands: slot, positions, lag, rates, copy, and how long the WAL will last
    ///
    /// Looks twice, some seconds apart, because rates and the forecast need two looks. Exits with 1 when a server did not
    /// answer; what the others said is shown all the same.
    #[command(after_help = "\
Examples:
  tailwater cdc status
  tailwater cdc status --over 30
  tailwater cdc status -o json | jq .wal.left_seconds")]
    Status(reader_status::Args),
    /// Read tables once more, and delete from their topics what they do not hold any more
    ///
    /// A running reader takes the request in seconds, a stopped one at its next start. The stream stands still while rows
    /// are read, as for a table that was added, and each row comes at its point in the table's history. Afterwards every
    /// consumer has the table, whatever it had before. Only for a reader that is in its place: `cdc resync` is for one
    /// that has lost it.
    #[command(after_help = "\
Examples:
  tailwater cdc snapshot inventory.stock --reason 'somebody wrote to the topic'
  tailwater cdc snapshot inventory.stock catalog.products --wait")]
    Snapshot(reread::Args),
    /// Go on after a stop, at the server's slot, and take what is between as lost or repeated
    ///
    /// For a stopped reader whose history and the server's disagree, where going on loses nothing or you take the loss.
    /// Says first what would be lost or repeated, and asks. Where it would leave Kafka wrong for good it refuses. Reason,
    /// time, old and new position stay in the pipeline's progress.
    #[command(after_help = "\
Examples:
  tailwater cdc adopt --reason 'progress topic deleted by mistake, writes were stopped'
  tailwater cdc adopt --new-slot --reason 'pg_upgrade from 15 to 17 with writes stopped' --yes")]
    Adopt(repair::AdoptArgs),
    /// Read every table anew, for a reader that has lost its place, and delete from the topics what has gone
    ///
    /// Says first what it means, and asks. What it writes is a promise: the next `cdc run` makes a new slot, copies every
    /// captured table in its snapshot under numbers of a new epoch, and ends each copy with deleting the keys that the
    /// topic holds and the table does not. Interrupted, it begins again for tables that were not finished. Events and
    /// messages of the time between are not read anew.
    #[command(after_help = "\
Examples:
  tailwater cdc resync --reason 'slot lost in the outage of 3 May'
  tailwater cdc resync --reason 'restored from the backup of last night' --yes")]
    Resync(repair::ResyncArgs),
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
    match command {
        Command::Run(args) => Box::pin(read(cx, &args)).await,
        Command::Status(args) => reader_status::run(cx, &args).await,
        Command::Snapshot(args) => reread::run(cx, args).await,
        Command::Adopt(args) => repair::adopt(cx, args).await,
        Command::Resync(args) => repair::resync(cx, args).await,
    }
}

async fn read(cx: &Context, args: &RunArgs) -> anyhow::Result<ExitCode> {
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
