//! `tailwater dlq`: records that a sink set aside.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use tailwater_sinks_search::{Client, SearchSink};
use tailwater_sinks_worker::dead_letter::{self, DeadLetter, Filter, Outcome, Position, Replayed};
use tailwater_topics_contract::{SinkKind, SinkName, SinkRegistration, TopicName};
use tailwater_topics_registry::{registrations, removal};

use crate::commands::apply::Refused;
use crate::config::Config;
use crate::sources::{self, TopicsNow};
use crate::{Context, offsets, output};

/// Look at records that a sink could not take, give them to it again, or give them up
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// List dead letters: where each record stood, and why it was set aside
    ///
    /// The dead-letter topic `tailwater.<pipeline>.<sink>.dlq` keeps key, value and headers untouched. Letters that
    /// were settled, by a replay or by discarding, are left out unless asked for.
    #[command(after_help = "\
Examples:
  tailwater dlq list
  tailwater dlq list product-search --class mapping -o json")]
    List(ListArgs),
    /// Show one dead letter whole: reason, headers, key and value
    #[command(after_help = "\
Examples:
  tailwater dlq show product-search 0/12
  tailwater dlq show product-search 0/12 --value | jq .after")]
    Show(ShowArgs),
    /// Give dead letters to their sink again
    ///
    /// To be used when the cause is mended. Only the sink gets them, no other consumer of the topic. A record is
    /// applied only if it is still the newest of its key; one that was superseded meanwhile is settled as such.
    /// Safe beside running workers, and safe to repeat.
    #[command(after_help = "\
Examples:
  tailwater dlq replay product-search
  tailwater dlq replay product-search --class mapping
  tailwater dlq replay product-search 0/12 0/13")]
    Replay(ReplayArgs),
    /// Settle dead letters that nobody needs any more; their records stay in the dead-letter topic
    #[command(after_help = "\
Examples:
  tailwater dlq discard product-search 0/12
  tailwater dlq discard product-search --all")]
    Discard(DiscardArgs),
}

#[derive(clap::Args)]
pub(crate) struct ListArgs {
    /// Only those of this sink
    sink: Option<SinkName>,
    #[command(flatten)]
    which: Which,
    /// Settled ones too
    #[arg(long)]
    settled: bool,
    /// Most that are listed, oldest first
    #[arg(long, default_value_t = 1000)]
    limit: usize,
}

#[derive(clap::Args)]
pub(crate) struct ShowArgs {
    /// The sink
    sink: SinkName,
    /// The letter, as `list` names it
    letter: Position,
    /// Print the value alone, byte for byte
    #[arg(long)]
    value: bool,
}

#[derive(clap::Args)]
pub(crate) struct ReplayArgs {
    /// The sink
    sink: SinkName,
    /// Only these letters, as `list` names them
    letters: Vec<Position>,
    #[command(flatten)]
    which: Which,
    /// Also those whose record the topic no longer holds: right only when their rows have not changed since
    #[arg(long)]
    even_if_gone: bool,
}

#[derive(clap::Args)]
pub(crate) struct DiscardArgs {
    /// The sink
    sink: SinkName,
    /// The letters, as `list` names them
    #[arg(required_unless_present_any = ["all", "topic", "class"])]
    letters: Vec<Position>,
    #[command(flatten)]
    which: Which,
    /// Every letter of the sink
    #[arg(long)]
    all: bool,
}

/// Which letters are meant.
#[derive(clap::Args, Clone)]
struct Which {
    /// Only those of this topic
    #[arg(long)]
    topic: Option<TopicName>,
    /// Only those of this class of failure
    #[arg(long)]
    class: Option<String>,
}

impl Which {
    fn filter(&self, letters: &[Position], with_settled: bool) -> Filter {
        Filter {
            with_settled,
            topic: self.topic.clone(),
            class: self.class.clone(),
            positions: letters.iter().copied().collect::<BTreeSet<_>>(),
        }
    }
}

pub(crate) async fn run(cx: &Context, command: &Command) -> anyhow::Result<ExitCode> {
    let config = cx.config()?;
    match command {
        Command::List(args) => list(cx, &config, args).await,
        Command::Show(args) => show(cx, &config, args).await,
        Command::Replay(args) => replay(cx, &config, args).await,
        Command::Discard(args) => discard(&config, args).await,
    }
}

/// A letter, as programs get it.
#[derive(Serialize)]
struct Letter {
    sink: SinkName,
    /// Where it stands in the dead-letter topic.
    position: String,
    /// Where the record stood.
    from: Coordinates,
    class: String,
    reason: String,
    attempts: u32,
    /// Key and value together, in bytes.
    size: usize,
    /// When it was set aside, in milliseconds since 1970.
    at_ms: i64,
    /// How it was settled.
    settled: Option<&'static str>,
}

#[derive(Serialize)]
struct Coordinates {
    topic: TopicName,
    partition: i32,
    offset: i64,
}

impl std::fmt::Display for Coordinates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}]@{}", self.topic, self.partition, self.offset)
    }
}

impl Letter {
    fn of(sink: &SinkName, letter: &DeadLetter) -> Self {
        let length = |part: Option<&bytes::Bytes>| part.map_or(0, bytes::Bytes::len);
        Self {
            sink: sink.clone(),
            position: letter.position.to_string(),
            from: Coordinates {
                topic: letter.from.topic.clone(),
                partition: letter.from.partition,
                offset: letter.record.offset,
            },
            class: letter.class.clone(),
            reason: letter.reason.clone(),
            attempts: letter.attempts,
            size: length(letter.record.key.as_ref()) + length(letter.record.value.as_ref()),
            at_ms: letter.at_ms,
            settled: letter.settled.map(|settled| settled.how.as_str()),
        }
    }
}

async fn list(cx: &Context, config: &Config, args: &ListArgs) -> anyhow::Result<ExitCode> {
    let sinks: Vec<SinkName> = match &args.sink {
        Some(sink) => vec![registered(config, sink).await?.spec.name],
        None => {
            let all = registrations::load(&config.kafka_client(), &config.pipeline).await?;
            // Those of removed sinks are letters all the same.
            all.sinks.into_keys().collect()
        }
    };
    let mut listed = Vec::new();
    for sink in sinks {
        let filter = args.which.filter(&[], args.settled);
        let found = letters(config, &sink, filter, args.limit - listed.len()).await?;
        listed.extend(found.iter().map(|letter| Letter::of(&sink, letter)));
    }
    let header = ["SINK", "LETTER", "RECORD", "CLASS", "SIZE", "SET ASIDE", "SETTLED", "REASON"];
    cx.format.list(&header, &listed, |letter| {
        vec![
            letter.sink.to_string(),
            letter.position.clone(),
            letter.from.to_string(),
            letter.class.clone(),
            letter.size.to_string(),
            time(letter.at_ms),
            letter.settled.unwrap_or("-").to_owned(),
            letter.reason.clone(),
        ]
    })?;
    if listed.len() == args.limit {
        eprintln!("stopped at {}; give --limit for more", args.limit);
    }
    Ok(ExitCode::SUCCESS)
}

/// A letter with everything in it. Bytes that are no text are base64.
#[derive(Serialize)]
struct Whole {
    #[serde(flatten)]
    letter: Letter,
    timestamp_ms: i64,
    headers: Vec<(String, Option<String>)>,
    key: Option<String>,
    value: Option<String>,
}

async fn show(cx: &Context, config: &Config, args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let sink = registered(config, &args.sink).await?.spec.name;
    let which = Which { topic: None, class: None };
    let found = letters(config, &sink, which.filter(&[args.letter], true), 1).await?;
    let Some(letter) = found.first() else {
        bail!(
            "sink `{sink}` has no dead letter at {}; `tailwater dlq list {sink} --settled` lists all",
            args.letter
        );
    };
    if args.value {
        io::stdout().lock().write_all(letter.record.value.as_deref().unwrap_or_default())?;
        return Ok(ExitCode::SUCCESS);
    }
    let whole = Whole {
        timestamp_ms: letter.record.timestamp_ms,
        headers: letter
            .record
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), value.as_deref().map(text)))
            .collect(),
        key: letter.record.key.as_deref().map(text),
        value: letter.record.value.as_deref().map(text),
        letter: Letter::of(&sink, letter),
    };
    if cx.format.is_structured() {
        cx.format.value(&whole)?;
    } else {
        print(cx, &whole)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(cx: &Context, whole: &Whole) -> io::Result<()> {
    let none = || "none".to_owned();
    let mut facts = vec![
        ("letter", whole.letter.position.clone()),
        ("record", whole.letter.from.to_string()),
        ("written", time(whole.timestamp_ms)),
        ("set aside", time(whole.letter.at_ms)),
        ("class", whole.letter.class.clone()),
        ("reason", whole.letter.reason.clone()),
        ("attempts", whole.letter.attempts.to_string()),
        ("settled", whole.letter.settled.unwrap_or("no").to_owned()),
    ];
    for (name, value) in &whole.headers {
        facts.push(("header", format!("{name}: {}", value.as_deref().unwrap_or("null"))));
    }
    facts.push(("key", whole.key.clone().unwrap_or_else(none)));
    facts.push(("value", whole.value.clone().unwrap_or_else(none)));
    output::facts(cx.format, &facts)
}

async fn replay(cx: &Context, config: &Config, args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let sink = registered(config, &args.sink).await?;
    let SinkKind::Search(spec) = sink.spec.kind.clone() else {
        bail!(
            "`{}` is an archive, which takes any record; what it set aside was no record that it could have kept",
            args.sink
        );
    };
    let filter = args.which.filter(&args.letters, false);
    let found = letters(config, &args.sink, filter, usize::MAX).await?;
    eprintln!("{} to be given to `{}`", output::counted(found.len(), "letter"), args.sink);
    let opensearch = config.opensearch.clone();
    let opensearch = opensearch.context("there is no `opensearch` section in the configuration")?;
    let client = Client::new(opensearch)?;
    let kafka = config.kafka_client();
    let registrations = registrations::load(&kafka, &config.pipeline).await?;
    let topics = TopicsNow::new(config, sources::generations(&sink.spec, &registrations))?;
    let search = Arc::new(SearchSink::new(client, config.pipeline.clone(), spec, topics));
    let replayed = dead_letter::replay(
        &kafka,
        &config.pipeline,
        &args.sink,
        &search,
        found,
        args.even_if_gone,
    )
    .await?;
    let rows: Vec<Row> = replayed.iter().map(row).collect();
    cx.format.list(&["LETTER", "OUTCOME", "MORE"], &rows, |row| {
        vec![row.letter.clone(), row.outcome.to_owned(), row.more.clone()]
    })?;
    let is_open = |row: &Row| matches!(row.outcome, "gone" | "refused");
    Ok(if rows.iter().any(is_open) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What became of a letter, as it is listed.
#[derive(Serialize)]
struct Row {
    letter: String,
    outcome: &'static str,
    more: String,
}

fn row(Replayed { position, outcome }: &Replayed) -> Row {
    let (outcome, more) = match outcome {
        Outcome::Applied => ("applied", String::new()),
        Outcome::Superseded { by } => ("superseded", format!("by the record at {by}")),
        Outcome::Gone => (
            "gone",
            "the topic no longer holds the record; --even-if-gone applies it all the same"
                .to_owned(),
        ),
        Outcome::Refused { reason } => ("refused", reason.clone()),
    };
    Row { letter: position.to_string(), outcome, more }
}

async fn discard(config: &Config, args: &DiscardArgs) -> anyhow::Result<ExitCode> {
    let sink = registered(config, &args.sink).await?.spec.name;
    let filter = args.which.filter(&args.letters, false);
    let found = letters(config, &sink, filter, usize::MAX).await?;
    let count = output::counted(found.len(), "letter");
    dead_letter::discard(&config.kafka_client(), &config.pipeline, &sink, found).await?;
    eprintln!("{count} discarded");
    Ok(ExitCode::SUCCESS)
}

async fn registered(config: &Config, sink: &SinkName) -> anyhow::Result<SinkRegistration> {
    let all = registrations::load(&config.kafka_client(), &config.pipeline).await?;
    // A removed sink keeps its letters.
    if let Some(sink) = all.sinks.get(sink) {
        return Ok(sink.clone());
    }
    Ok(removal::registered_sink(sink, &all).map_err(Refused::from)?.clone())
}

async fn letters(
    config: &Config,
    sink: &SinkName,
    filter: Filter,
    limit: usize,
) -> anyhow::Result<Vec<DeadLetter>> {
    let (kafka, pipeline, sink) = (config.kafka_client(), config.pipeline.clone(), sink.clone());
    offsets::blocking(move || {
        let found = dead_letter::read(&kafka, &pipeline, &sink, filter)?;
        Ok(found.take(limit).collect::<Result<_, _>>()?)
    })
    .await
}

fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("base64:{}", BASE64.encode(bytes)),
    }
}

pub(crate) fn time(ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
