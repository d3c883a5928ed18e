//! `tailwater lake schema`: the columns of a topic's tables.

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use serde::Serialize;

use super::{AsOf, Context, Listing};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tailwater lake schema inventory.cdc
  tailwater lake schema orders_events -o json")]
pub(crate) struct Args {
    /// A topic, or its table
    topic: String,
    /// Form of the list
    #[arg(short, long, default_value = "table")]
    output: Listing,
}

#[derive(Serialize)]
struct Column {
    #[serde(rename = "column")]
    name: String,
    field: String,
    #[serde(rename = "type")]
    kind: &'static str,
    is_key: bool,
}

pub(crate) async fn run(cx: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let lake = cx.lake(&AsOf::default()).await?;
    let topic = lake.topic_of(&args.topic)?;
    let key = lake.key_fields(&topic).await?.unwrap_or_default();
    let columns: Vec<Column> = lake
        .row_columns(&topic)
        .await?
        .into_iter()
        .map(|row| Column {
            is_key: key.contains(&row.field),
            name: row.name,
            field: row.field,
            kind: row.kind.name(),
        })
        .collect();
    super::advise(lake.stats().manifests_fetched.load(Ordering::Relaxed));
    args.output.list(&["COLUMN", "FIELD", "TYPE", "KEY"], &columns, |column| {
        let key = if column.is_key { "key" } else { "" };
        vec![column.name.clone(), column.field.clone(), column.kind.into(), key.into()]
    })?;
    Ok(ExitCode::SUCCESS)
}
