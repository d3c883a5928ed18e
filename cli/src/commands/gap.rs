//! `tailwater sinks gap`: records that a topic lost before they were archived are given up, on the record.

use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use tailwater_sinks_archive::ArchiveSink;
use tailwater_sinks_worker::TopicPartition;
use tailwater_topics_contract::{SinkKind, SinkName, TopicName};
use tailwater_topics_registry::{registrations, removal};

use crate::commands::apply::Refused;
use crate::{Context, offsets, workers};

/// Which records are given up.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A registered archive
    sink: SinkName,
    /// The topic
    topic: TopicName,
    /// Its partition
    partition: i32,
    /// Why, for whoever reads the archive later; it is stored with the gap
    #[arg(long, value_parser = reason)]
    reason: String,
    /// The first offset that is not given up; without it, the first that the topic still holds
    #[arg(long, value_name = "OFFSET")]
    to: Option<i64>,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let config = cx.config()?;
    let registered = registrations::load(&config.kafka_client(), &config.pipeline).await?;
    let sink = removal::registered_sink(&args.sink, &registered).map_err(Refused::from)?;
    let SinkKind::Archive(spec) = &sink.spec.kind else {
        bail!(
            "`{}` is no archive; only an archive has a chain that a gap could be part of",
            args.sink
        );
    };
    let (kafka, topic) = (config.kafka_client(), args.topic.clone());
    let ranges = offsets::blocking(move || offsets::ranges(&kafka, &topic)).await?;
    let ranges = ranges.with_context(|| format!("topic `{}` does not exist", args.topic))?;
    let at = usize::try_from(args.partition).ok().and_then(|partition| ranges.get(partition));
    let at =
        at.with_context(|| format!("`{}` has {} partitions, from 0", args.topic, ranges.len()))?;
    let to = args.to.unwrap_or(at.first);
    ensure!(
        to <= at.first,
        "the topic still holds records from {} on, which can be archived; give up at most what is before them",
        at.first
    );
    let store = workers::store(&config, spec)?;
    let archive = ArchiveSink::new(store, spec.clone(), sink.origins.clone());
    let partition = TopicPartition { topic: args.topic, partition: args.partition };
    match archive.record_gap(&partition, to, &args.reason).await? {
        Some(from) => {
            println!("{partition}: offsets {from} to {} are given up", to - 1);
            eprintln!(
                "a partition that stopped there goes on when its sink starts anew: `tailwater sinks pause {0}`, then `tailwater sinks resume {0}`",
                args.sink
            );
        }
        None => println!("{partition}: the archive has reached {to}; nothing is missing before it"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Object metadata takes printable ASCII.
fn reason(text: &str) -> Result<String, String> {
    let is_plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if is_plain && (1..=200).contains(&text.trim().len()) {
        Ok(text.trim().to_owned())
    } else {
        Err("expected 1 to 200 printable ASCII characters".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_what_metadata_takes() {
        assert_eq!(reason(" retention was 1 h "), Ok("retention was 1 h".to_owned()));
        for text in ["", "   ", "tab\t", "größer", &"x".repeat(201)] {
            assert!(reason(text).is_err(), "{text}");
        }
    }
}
