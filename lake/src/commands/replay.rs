//! `tailwater lake replay`: archived records back into Kafka.

use std::process::ExitCode;

use tailwater_lake::output::counted;
use tailwater_lake::replay::{self, Selection};
use tailwater_lake::{Cut, complete};

use super::Context;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tailwater lake replay orders.events --to orders.events.replayed
  tailwater lake replay inventory.cdc --to inventory.copy --partition 0 --from 1000 --until 2000
  tailwater lake replay inventory.cdc --to inventory.copy --asof 16/B374D848")]
pub(crate) struct Args {
    /// A topic, or its table
    topic: String,
    /// The topic of Kafka to write to; it must exist, with as many partitions
    #[arg(long, value_name = "TOPIC")]
    to: String,
    /// Only this partition
    #[arg(long)]
    partition: Option<i32>,
    /// Only from this offset on
    #[arg(long, default_value_t = 0)]
    from: i64,
    /// Only below this offset
    #[arg(long, default_value_t = i64::MAX)]
    until: i64,
    /// Only records of commits up to an LSN, or a time
    #[arg(long, value_name = "LSN|TIME")]
    asof: Option<Cut>,
}

pub(crate) async fn run(cx: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let archive = cx.archive().await?;
    let topic = cx.topic(&archive, &args.topic).await?;
    let cut = match args.asof {
        None => None,
        Some(Cut::Lsn(lsn)) => Some(lsn),
        Some(Cut::Time(time)) => {
            let at = complete::commit_at(&archive, &[&topic], time).await?;
            Some(at.ok_or_else(|| anyhow::anyhow!("no commit so early is archived"))?.0)
        }
    };
    let selection = Selection {
        partition: args.partition,
        offsets: args.from..args.until,
        cut: cut.map(|lsn| lsn.0.cast_signed()),
    };
    let kafka = cx.config()?.kafka_client();
    let mut on_records = |count| tracing::info!("{count} records");
    let count =
        replay::replay(&archive, &topic, &selection, &kafka, &args.to, &mut on_records).await?;
    println!("{} of `{}` to `{}`", counted(count, "record"), topic.name, args.to);
    Ok(ExitCode::SUCCESS)
}
