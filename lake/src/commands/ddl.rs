//! `tailwater lake ddl`: the same objects for other engines.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use tailwater_lake::ddl::{self, Engine};
use tailwater_lake::output;

use super::{AsOf, Context};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tailwater lake ddl duckdb inventory.cdc > inventory.sql
  tailwater lake ddl trino
  tailwater lake ddl duckdb --at /mnt/events/")]
pub(crate) struct Args {
    /// For which engine
    engine: Engine,
    /// Only these topics, or their tables
    topics: Vec<String>,
    /// Where that engine finds the archive; its own bucket and prefix unless given
    #[arg(long, value_name = "PLACE")]
    at: Option<String>,
}

pub(crate) async fn run(cx: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let lake = cx.lake(&AsOf::default()).await?;
    let place = cx.archive().await?.place();
    let at = args.at.clone().unwrap_or(place);
    let at = if at.ends_with('/') { at } else { format!("{at}/") };
    let every: Vec<_> = lake.topics().map(|(topic, _)| topic.clone()).collect();
    let mut out = output::stdout();
    for topic in every {
        let wanted = args.topics.is_empty()
            || args.topics.iter().any(|name| tailwater_lake::records::is_called(&topic, name));
        if wanted {
            let subject = lake.subject(&topic).await?;
            let statements = ddl::statements(args.engine, &subject, &at);
            writeln!(out, "-- {topic}\n{statements}")?;
        }
    }
    out.flush()?;
    super::advise(lake.stats().manifests_fetched.load(Ordering::Relaxed));
    for name in &args.topics {
        lake.topic_of(name)?;
    }
    Ok(ExitCode::SUCCESS)
}
