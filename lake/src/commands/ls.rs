//! `tailwater lake ls`: what there is.

use std::process::ExitCode;

use serde::Serialize;
use tailwater_lake::archive::Topic;
use tailwater_lake::output::{bytes, grouped};
use tailwater_topics_contract::Lsn;

use super::{Context, Listing};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tailwater lake ls
  tailwater lake ls inventory.cdc -o json")]
pub(crate) struct Args {
    /// A topic, or its table, to list its objects
    topic: Option<String>,
    /// Form of the list
    #[arg(short, long, default_value = "table")]
    output: Listing,
}

#[derive(Serialize)]
struct Row {
    topic: String,
    partitions: usize,
    objects: usize,
    records: u64,
    bytes: u64,
    newest_commit_lsn: Option<String>,
    newest_commit: Option<String>,
    broken: usize,
}

#[derive(Serialize)]
struct Object {
    key: String,
    partition: i32,
    first: i64,
    next: i64,
    records: u64,
    bytes: u64,
    chunks: usize,
    commit_lsn: Option<(String, String)>,
}

pub(crate) async fn run(cx: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let archive = cx.archive().await?;
    if let Some(name) = &args.topic {
        let topic = cx.topic(&archive, name).await?;
        let objects: Vec<Object> = objects(&topic);
        let header = ["KEY", "PARTITION", "FIRST", "NEXT", "RECORDS", "SIZE", "CHUNKS", "COMMITS"];
        args.output.list(&header, &objects, |object| {
            let commits = object.commit_lsn.as_ref();
            vec![
                object.key.clone(),
                object.partition.to_string(),
                object.first.to_string(),
                object.next.to_string(),
                grouped(object.records),
                bytes(object.bytes),
                object.chunks.to_string(),
                commits.map_or_else(String::new, |(low, high)| format!("{low}–{high}")),
            ]
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = Vec::new();
    let mut fetched = 0;
    for name in archive.topics().await? {
        let topic = archive.topic(&name).await?;
        fetched += topic.fetched;
        let extent = topic.extent();
        rows.push(Row {
            topic: name.to_string(),
            partitions: topic.partitions().len(),
            objects: topic.segments.len(),
            records: extent.records,
            bytes: topic.segments.iter().map(|segment| segment.bytes).sum(),
            newest_commit_lsn: extent.commit_lsn.map(|(_, last)| Lsn(last).to_string()),
            newest_commit: extent
                .commit_ts_us
                .and_then(|(_, last)| jiff::Timestamp::from_microsecond(last).ok())
                .map(|at| at.to_string()),
            broken: topic.breaks().len(),
        });
    }
    let header = [
        "TOPIC",
        "PARTITIONS",
        "OBJECTS",
        "RECORDS",
        "SIZE",
        "NEWEST LSN",
        "NEWEST COMMIT",
        "BROKEN",
    ];
    args.output.list(&header, &rows, |row| {
        vec![
            row.topic.clone(),
            row.partitions.to_string(),
            row.objects.to_string(),
            grouped(row.records),
            bytes(row.bytes),
            row.newest_commit_lsn.clone().unwrap_or_default(),
            row.newest_commit.clone().unwrap_or_default(),
            row.broken.to_string(),
        ]
    })?;
    super::advise(fetched);
    Ok(ExitCode::SUCCESS)
}

fn objects(topic: &Topic) -> Vec<Object> {
    let object = |segment: &std::sync::Arc<tailwater_lake::archive::Segment>| Object {
        key: segment.key.clone(),
        partition: segment.partition,
        first: segment.place.start,
        next: segment.next.start,
        records: segment.extent.records,
        bytes: segment.bytes,
        chunks: segment.chunks.len(),
        commit_lsn: segment
            .extent
            .commit_lsn
            .map(|(low, high)| (Lsn(low).to_string(), Lsn(high).to_string())),
    };
    topic.segments.iter().map(object).collect()
}
