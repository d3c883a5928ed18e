//! `tailwater topics`: what the reader writes.

use std::process::ExitCode;

use serde::Serialize;
use tailwater_topics_contract::{From, TopicName, TopicRegistration};
use tailwater_topics_registry::registrations;

use crate::Context;
use crate::commands::apply::{self, CatalogArgs, Scope};

/// Declare and list topics
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Make topics and publications as the catalog declares; leave sinks alone
    #[command(after_help = "\
Example:
  tailwater topics apply -f topics/catalog/market")]
    Apply(CatalogArgs),
    /// List the registered topics
    #[command(after_help = "\
Example:
  tailwater topics list -o json")]
    List,
}

#[derive(Serialize)]
struct Topic {
    name: TopicName,
    source: String,
    key: Vec<String>,
    partitions: u32,
    compacted: bool,
}

pub(crate) async fn run(cx: &Context, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Apply(args) => apply::apply(cx, &args, Scope::Topics).await,
        Command::List => list(cx).await,
    }
}

async fn list(cx: &Context) -> anyhow::Result<ExitCode> {
    let config = cx.config()?;
    let registered = registrations::load(&config.kafka_client(), &config.pipeline).await?;
    let topics: Vec<Topic> = registered.topics.into_values().map(topic).collect();
    let header = ["TOPIC", "SOURCE", "KEY", "PARTITIONS", "COMPACTED"];
    cx.format.list(&header, &topics, |t| {
        let compacted = if t.compacted { "yes" } else { "no" };
        vec![
            t.name.to_string(),
            t.source.clone(),
            t.key.join(","),
            t.partitions.to_string(),
            compacted.to_owned(),
        ]
    })?;
    Ok(ExitCode::SUCCESS)
}

fn topic(TopicRegistration { spec, key_columns }: TopicRegistration) -> Topic {
    let source = match &spec.from {
        From::Table(table) => format!("table {table}"),
        From::Outbox { aggregate, table } => format!("outbox {table}, aggregate {aggregate}"),
    };
    let compacted = spec.is_compacted();
    Topic { name: spec.name, source, key: key_columns, partitions: spec.partitions, compacted }
}
