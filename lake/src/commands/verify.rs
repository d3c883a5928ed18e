//! `tailwater lake verify`: proof, or what is wrong.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use tailwater_lake::archive::Error;
use tailwater_lake::output::{self, bytes, counted};
use tailwater_sinks_archive::verify::{self, Scope};
use tailwater_topics_contract::{Origin, TopicName};

use super::{Context, Listing};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tailwater lake verify
  tailwater lake verify inventory.cdc --level 1
  tailwater lake verify --whole -o json")]
pub(crate) struct Args {
    /// Only these topics
    topics: Vec<String>,
    /// 0: chains; 1: and that all objects are there with their metadata; 2: and what is in them
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=2))]
    level: u8,
    /// The archive holds every topic of its pipeline and is at rest: then no number may be missing
    #[arg(long)]
    whole: bool,
    /// Compare the beginning of each chain with its registration in Kafka
    #[arg(long)]
    origins: bool,
    /// Form of the report
    #[arg(short, long, default_value = "table")]
    output: Listing,
}

pub(crate) async fn run(cx: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let archive = cx.archive().await?;
    let mut topics: Vec<TopicName> = Vec::new();
    if !args.topics.is_empty() {
        let known = archive.topics().await?;
        for name in &args.topics {
            topics.push(super::named(known.iter(), name)?);
        }
    }
    let origins: Vec<Origin> = if args.origins {
        cx.origins(&archive).await.context("the origins are not known")?
    } else {
        Vec::new()
    };
    let scope = Scope { level: args.level, whole: args.whole, origins };
    let mut done = 0_u64;
    let mut on_object = |key: &str| {
        done += 1;
        tracing::info!("{done}: {key}");
    };
    let (store, prefix) = (&archive.store, &archive.prefix);
    let report = verify::verify(store, prefix, &topics, &scope, &mut on_object).await?;
    if report.topics == 0 {
        return Err(Error::Empty { place: archive.place() }.into());
    }
    match args.output {
        Listing::Json => Listing::json(&report)?,
        Listing::Table => {
            let mut out = output::stdout();
            write!(out, "{report}")?;
            writeln!(
                out,
                "{}, {}, {}, {}, {}: {}",
                counted(report.topics, "topic"),
                counted(report.partitions, "chain"),
                counted(report.objects, "object"),
                counted(report.records, "record"),
                bytes(report.bytes),
                if report.findings.is_empty() {
                    format!("nothing wrong at level {}", args.level)
                } else {
                    counted(report.findings.len() as u64, "finding")
                }
            )?;
            out.flush()?;
        }
    }
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(4) })
}
