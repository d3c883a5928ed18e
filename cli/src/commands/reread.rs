//! `tailwater cdc snapshot`: tables are read once more.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use tailwater_cdc::copies::Existing as Copied;
use tailwater_cdc::progress;
use tailwater_runtime::clock;
use tailwater_topics_contract::{From, Registrations, TableName};
use tailwater_topics_registry::{registrations, reread};

use crate::Context;
use crate::commands::apply;
use crate::commands::repair::reason;
use crate::commands::status::told;
use crate::config::{Config, Existing};

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_secs(2);

/// Which tables.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Captured tables, as `schema.table`
    #[arg(required = true, value_name = "TABLE")]
    tables: Vec<TableName>,
    /// Why, for whoever looks at the topic's registration later
    #[arg(long, default_value = "asked for on the command line", value_parser = reason)]
    reason: String,
    /// Wait until it is done, and show how far it is
    #[arg(long)]
    wait: bool,
    /// With `--wait`, for how many seconds at most
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400)]
    timeout: u64,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let asked = apply::alter(cx, |_, world| {
        reread::tables(&args.tables, &args.reason, clock::now_ms(), &world.registrations)
    })
    .await?;
    if !args.wait {
        eprintln!("a running reader begins in seconds; `tailwater cdc status` shows how far it is");
        return Ok(asked);
    }
    let config = cx.config()?;
    let registered = registrations::load(&config.kafka_client(), &config.pipeline).await?;
    wait(&config, &args, &registered).await
}

async fn wait(
    config: &Config,
    args: &Args,
    registered: &Registrations,
) -> anyhow::Result<ExitCode> {
    let reader = config.reader(Existing::default());
    let limit = Instant::now() + Duration::from_secs(args.timeout);
    loop {
        let record = progress::read(&reader).await?;
        let left: Vec<&TableName> = args
            .tables
            .iter()
            .filter(|table| !is_done(table, record.as_ref(), registered))
            .collect();
        if left.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        if Instant::now() > limit {
            let left: Vec<String> = left.into_iter().map(ToString::to_string).collect();
            bail!("not done within {} s: {}; the request stays", args.timeout, left.join(", "));
        }
        match record.as_ref().and_then(|record| record.copying.as_ref()) {
            Some(copying) => eprintln!("copying: {}", told(copying, clock::now_ms())),
            None => eprintln!("waiting for the reader"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether progress answers the table's request, or a later one.
fn is_done(
    table: &TableName,
    record: Option<&progress::Record>,
    registered: &Registrations,
) -> bool {
    let topics = registered.written();
    let topic = topics.into_iter().find(|t| matches!(&t.spec.from, From::Table(t) if t == table));
    let asked = topic.and_then(|topic| topic.reread.as_ref()).map(|reread| reread.asked_ms);
    let joining = record.and_then(|record| record.joining.as_ref());
    if joining.is_some_and(|joining| joining.tables.contains(table)) {
        return false;
    }
    match (asked, record.and_then(|record| record.tables.get(table))) {
        (Some(asked), Some(Copied::Copied { asked_ms, .. })) => *asked_ms >= asked,
        _ => false,
    }
}
