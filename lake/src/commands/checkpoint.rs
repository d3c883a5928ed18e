//! `tailwater lake checkpoint`: the manifests of topics, rolled up.

use std::process::ExitCode;

use tailwater_lake::manifests::Rolled;
use tailwater_lake::output::{bytes, counted, grouped};
use tailwater_topics_contract::TopicName;

use super::Context;

#[derive(clap::Args)]
#[command(after_help = "\
Nothing is replaced or removed; where nothing was added, nothing is written.

Examples:
  tailwater lake checkpoint
  tailwater lake checkpoint inventory.cdc")]
pub(crate) struct Args {
    /// Only these topics, or their tables
    topics: Vec<String>,
}

pub(crate) async fn run(cx: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let archive = cx.archive().await?;
    let topics = archive.topics().await?;
    let mut asked: Vec<TopicName> = topics.iter().cloned().collect();
    if !args.topics.is_empty() {
        let named = args.topics.iter().map(|name| super::named(topics.iter(), name));
        asked = named.collect::<anyhow::Result<_>>()?;
    }
    for topic in asked {
        let rolled = archive.checkpoint(&topic).await?;
        println!("{topic}: {}", said(&rolled));
    }
    Ok(ExitCode::SUCCESS)
}

fn said(rolled: &Rolled) -> String {
    let count = |manifests: usize| counted(manifests as u64, "manifest");
    match rolled {
        Rolled::Up { key, manifests, added, bytes: size } => {
            let (all, added, size) =
                (count(*manifests), grouped(*added as u64), bytes(*size as u64));
            format!("{all}, {added} of them new, in `{key}`, {size}")
        }
        Rolled::Before { key, manifests } => {
            format!("nothing was added since `{key}`, {}", count(*manifests))
        }
        Rolled::Elsewhere { key } => format!("`{key}` was just written by somebody else"),
        Rolled::Nothing => "there is no manifest yet".to_owned(),
        Rolled::Unrecognisable => {
            "nothing is written: the store tells no ETags by which it could be believed".to_owned()
        }
    }
}
