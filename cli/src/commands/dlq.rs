//! `tailwater dlq`: records that a sink set aside.

use std::process::ExitCode;

use rdkafka::message::{BorrowedMessage, Headers, Message};
use serde::Serialize;
use tailwater_topics_contract::{PipelineName, SinkName, TopicName, header};
use tailwater_topics_registry::registrations;

use crate::{Context, offsets};

/// Look at records that a sink could not take
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// List dead letters: where each record stood, and why it was set aside
    ///
    /// The dead-letter topic `tailwater.<pipeline>.<sink>.dlq` keeps key, value and headers untouched.
    #[command(after_help = "\
Examples:
  tailwater dlq list
  tailwater dlq list product-search -o json")]
    List(ListArgs),
}

#[derive(clap::Args)]
pub(crate) struct ListArgs {
    /// Only those of this sink
    sink: Option<SinkName>,
    /// Most that are listed, oldest first
    #[arg(long, default_value_t = 1000)]
    limit: usize,
}

/// One record set aside.
#[derive(Serialize)]
struct DeadLetter {
    sink: SinkName,
    /// Its offset in the dead-letter topic.
    offset: i64,
    /// Where it stood.
    from: Coordinates,
    class: String,
    reason: String,
    attempts: Option<u32>,
    /// Key and value together, in bytes.
    size: usize,
    /// When it was set aside, in milliseconds since 1970.
    at_ms: Option<i64>,
}

#[derive(Serialize)]
struct Coordinates {
    topic: Option<String>,
    partition: Option<i32>,
    offset: Option<i64>,
}

pub(crate) async fn run(cx: &Context, command: &Command) -> anyhow::Result<ExitCode> {
    let Command::List(args) = command;
    let config = cx.config()?;
    let kafka = config.kafka_client();
    let registered = registrations::load(&kafka, &config.pipeline).await?;
    let sinks: Vec<SinkName> = match &args.sink {
        Some(sink) if !registered.sinks.contains_key(sink) => {
            let known: Vec<&str> = registered.sinks.keys().map(SinkName::as_str).collect();
            anyhow::bail!("sink `{sink}` is not registered; registered are: {}", known.join(", "));
        }
        Some(sink) => vec![sink.clone()],
        None => registered.sinks.into_keys().collect(),
    };
    let (pipeline, limit) = (config.pipeline.clone(), args.limit);
    let letters = offsets::blocking(move || read(&kafka, &pipeline, sinks, limit)).await?;
    let header = ["SINK", "OFFSET", "RECORD", "CLASS", "SIZE", "SET ASIDE", "REASON"];
    cx.format.list(&header, &letters, |letter| {
        vec![
            letter.sink.to_string(),
            letter.offset.to_string(),
            letter.from.to_string(),
            letter.class.clone(),
            letter.size.to_string(),
            letter.at_ms.map(time).unwrap_or_default(),
            letter.reason.clone(),
        ]
    })?;
    if letters.len() == limit {
        eprintln!("stopped at {limit}; give --limit for more");
    }
    Ok(ExitCode::SUCCESS)
}

fn read(
    kafka: &rdkafka::ClientConfig,
    pipeline: &PipelineName,
    sinks: Vec<SinkName>,
    limit: usize,
) -> anyhow::Result<Vec<DeadLetter>> {
    let mut letters = Vec::new();
    for sink in sinks {
        let topic: TopicName = pipeline.dead_letter_topic(&sink);
        offsets::records(kafka, &topic, |record| {
            if letters.len() < limit {
                letters.push(letter(&sink, record));
            }
            letters.len() < limit
        })?;
    }
    Ok(letters)
}

/// A header that is missing or odd leaves its field empty: the record is listed all the same.
fn letter(sink: &SinkName, record: &BorrowedMessage<'_>) -> DeadLetter {
    let text = |name: &str| {
        let found = record.headers()?.iter().find(|header| header.key == name)?;
        Some(String::from_utf8_lossy(found.value?).into_owned())
    };
    let number = |name: &str| text(name)?.parse::<i64>().ok();
    DeadLetter {
        sink: sink.clone(),
        offset: record.offset(),
        from: Coordinates {
            topic: text(header::DLQ_TOPIC),
            partition: number(header::DLQ_PARTITION).and_then(|n| n.try_into().ok()),
            offset: number(header::DLQ_OFFSET),
        },
        class: text(header::DLQ_CLASS).unwrap_or_default(),
        reason: text(header::DLQ_REASON).unwrap_or_default(),
        attempts: number(header::DLQ_ATTEMPTS).and_then(|n| n.try_into().ok()),
        size: record.key_len() + record.payload_len(),
        at_ms: number(header::DLQ_AT),
    }
}

impl std::fmt::Display for Coordinates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let topic = self.topic.as_deref().unwrap_or("?");
        let or_unknown = |n: Option<i64>| n.map_or_else(|| "?".to_owned(), |n| n.to_string());
        let partition = or_unknown(self.partition.map(i64::from));
        write!(f, "{topic}[{partition}]@{}", or_unknown(self.offset))
    }
}

fn time(ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
