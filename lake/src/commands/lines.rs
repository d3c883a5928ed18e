//! `tailwater lake head`, `tail` and `get`: records as they are archived, one JSON line each.

use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use tailwater_lake::output::{self, bytes};
use tailwater_lake::records::{self, End};

use super::{AsOf, Context};

#[derive(clap::Args)]
pub(crate) struct EndArgs {
    /// A topic, or its table
    topic: String,
    /// How many of each partition
    #[arg(short = 'n', long, default_value_t = 10)]
    lines: usize,
    /// Only this partition
    #[arg(long)]
    partition: Option<i32>,
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tailwater lake get catalog.product_documents --key 42
  tailwater lake get inventory.cdc --key product_id=018f…,warehouse_id=1
  tailwater lake get inventory.cdc --key '{\"product_id\":\"018f…\",\"warehouse_id\":1}' --last")]
pub(crate) struct GetArgs {
    /// A topic, or its table
    topic: String,
    /// The key: as Kafka has it, or the value of its only field, or name=value of each field
    #[arg(short, long)]
    key: String,
    /// Only the newest record
    #[arg(long)]
    last: bool,
}

pub(crate) async fn ends(cx: &Context, args: &EndArgs, end: End) -> anyhow::Result<ExitCode> {
    let archive = cx.archive().await?;
    let topic = cx.topic(&archive, &args.topic).await?;
    let lines = records::ends(&archive, &topic, args.partition, args.lines, end).await?;
    print(&lines)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn get(cx: &Context, args: &GetArgs) -> anyhow::Result<ExitCode> {
    let lake = cx.lake(&AsOf::default()).await?;
    let name = lake.topic_of(&args.topic)?;
    let fields = lake.key_fields(&name).await?;
    let archive = cx.archive().await?;
    let topic = archive.topic(&name).await?;
    let keys = records::spellings(&args.key, fields.as_deref());
    let (lines, stats) = records::with_keys(&archive, &topic, &keys).await?;
    let shown = if args.last { lines.len().saturating_sub(1) } else { 0 };
    print(&lines[shown..])?;
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    eprintln!(
        "{} · chunks {} of {} · fetched {} of {}",
        output::counted(lines.len() as u64, "record"),
        read(&stats.chunks_read),
        read(&stats.chunks),
        bytes(read(&stats.bytes_fetched)),
        bytes(read(&stats.bytes)),
    );
    super::advise(topic.fetched);
    Ok(if lines.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(lines: &[Vec<u8>]) -> anyhow::Result<()> {
    let mut out = output::stdout();
    for line in lines {
        out.write_all(line)?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}
