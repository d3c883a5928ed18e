//! `tailwater topics`: what the reader writes.

use std::process::ExitCode;

use serde::Serialize;
use tailwater_topics_contract::{
    From, Registrations, SinkName, Standing, TopicName, TopicRegistration,
};
use tailwater_topics_registry::{registrations, removal};

use crate::commands::apply::{self, ApplyArgs, DiffArgs, PlanArgs, Refused, Scope};
use crate::offsets::{self, Range};
use crate::{Context, output};

/// Declare, list, pause and remove topics
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Show what `topics apply` would do
    #[command(after_help = "\
Example:
  tailwater topics plan -f topics/catalog/market")]
    Plan(PlanArgs),
    /// Make topics and publications as the catalog declares; leave sinks alone
    #[command(after_help = "\
Example:
  tailwater topics apply -f topics/catalog/market")]
    Apply(ApplyArgs),
    /// Tell whether topics and publications are as declared; exits with 1 when not
    #[command(after_help = "\
Example:
  tailwater topics diff -f topics/catalog/market")]
    Diff(DiffArgs),
    /// List the registered topics
    #[command(after_help = "\
Example:
  tailwater topics list -o json")]
    List,
    /// Show everything about one topic
    #[command(after_help = "\
Example:
  tailwater topics describe orders.events")]
    Describe(Name),
    /// Stop delivering a topic to its sinks; the reader goes on writing it
    ///
    /// Takes effect in seconds. The sinks keep their place: what comes meanwhile is delivered after
    /// `topics resume`, if Kafka keeps it that long.
    #[command(after_help = "\
Example:
  tailwater topics pause orders.events")]
    Pause(Name),
    /// Deliver a paused topic again
    #[command(after_help = "\
Example:
  tailwater topics resume orders.events")]
    Resume(Name),
    /// Stop writing a topic
    ///
    /// Its table leaves the publication, and changes that were not read yet are given up. The topic keeps its
    /// records. Refused while a sink takes it.
    #[command(after_help = "\
Example:
  tailwater topics remove reviews.cdc")]
    Remove(Name),
}

#[derive(clap::Args)]
pub(crate) struct Name {
    /// A registered topic
    topic: TopicName,
}

pub(crate) async fn run(cx: &Context, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Plan(args) => apply::plan_only(cx, &args.catalog, Scope::Topics).await,
        Command::Apply(args) => apply::apply(cx, &args.catalog, Scope::Topics).await,
        Command::Diff(args) => apply::diff(cx, &args.catalog, Scope::Topics).await,
        Command::List => list(cx).await,
        Command::Describe(name) => describe(cx, &name.topic).await,
        Command::Pause(name) => stand(cx, &name.topic, Standing::Paused).await,
        Command::Resume(name) => stand(cx, &name.topic, Standing::Active).await,
        Command::Remove(name) => {
            apply::alter(cx, |config, world| removal::topic(&config.pipeline, &name.topic, world))
                .await
        }
    }
}

async fn stand(cx: &Context, topic: &TopicName, standing: Standing) -> anyhow::Result<ExitCode> {
    apply::alter(cx, |_, world| removal::pause_topic(topic, standing, world)).await
}

#[derive(Serialize)]
struct Topic {
    name: TopicName,
    source: String,
    key: Vec<String>,
    partitions: u32,
    compacted: bool,
    standing: Standing,
}

async fn list(cx: &Context) -> anyhow::Result<ExitCode> {
    let config = cx.config()?;
    let registered = registrations::load(&config.kafka_client(), &config.pipeline).await?;
    let topics: Vec<Topic> = registered.written().map(topic).collect();
    let header = ["TOPIC", "SOURCE", "KEY", "PARTITIONS", "COMPACTED", "STANDING"];
    cx.format.list(&header, &topics, |t| {
        let compacted = if t.compacted { "yes" } else { "no" };
        vec![
            t.name.to_string(),
            t.source.clone(),
            t.key.join(","),
            t.partitions.to_string(),
            compacted.to_owned(),
            t.standing.to_string(),
        ]
    })?;
    Ok(ExitCode::SUCCESS)
}

fn topic(TopicRegistration { spec, key_columns, standing, .. }: &TopicRegistration) -> Topic {
    let source = match &spec.from {
        From::Table(table) => format!("table {table}"),
        From::Outbox { aggregate, table } => format!("outbox {table}, aggregate {aggregate}"),
        From::Message(prefix) => format!("messages, prefix {prefix}"),
    };
    Topic {
        name: spec.name.clone(),
        source,
        key: key_columns.clone(),
        partitions: spec.partitions,
        compacted: spec.is_compacted(),
        standing: *standing,
    }
}

#[derive(Serialize)]
struct Described {
    #[serde(flatten)]
    registration: TopicRegistration,
    /// Sinks that take it.
    sinks: Vec<SinkName>,
    /// First and next offset of each partition in Kafka.
    offsets: Vec<Offsets>,
}

#[derive(Serialize)]
struct Offsets {
    partition: usize,
    first: i64,
    next: i64,
}

async fn describe(cx: &Context, name: &TopicName) -> anyhow::Result<ExitCode> {
    let config = cx.config()?;
    let kafka = config.kafka_client();
    let registered = registrations::load(&kafka, &config.pipeline).await?;
    let registration = find(&registered, name)?.clone();
    let asked = name.clone();
    let ranges = offsets::blocking(move || offsets::ranges(&kafka, &asked)).await?;
    let offsets = |(partition, Range { first, next })| Offsets { partition, first, next };
    let described = Described {
        sinks: registered
            .standing_sinks()
            .filter(|sink| sink.spec.topics.contains(name))
            .map(|sink| sink.spec.name.clone())
            .collect(),
        offsets: ranges.unwrap_or_default().into_iter().enumerate().map(offsets).collect(),
        registration,
    };
    if cx.format.is_structured() {
        cx.format.value(&described)?;
    } else {
        print(cx, &described)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn find<'r>(
    registered: &'r Registrations,
    name: &TopicName,
) -> Result<&'r TopicRegistration, Refused> {
    Ok(removal::registered_topic(name, registered)?)
}

fn print(cx: &Context, described: &Described) -> std::io::Result<()> {
    let shown = topic(&described.registration);
    let sinks: Vec<String> = described.sinks.iter().map(ToString::to_string).collect();
    let mut facts = vec![
        ("topic", shown.name.to_string()),
        ("standing", shown.standing.to_string()),
        ("source", shown.source),
        ("key", shown.key.join(", ")),
        ("partitions", shown.partitions.to_string()),
        ("sinks", sinks.join(", ")),
    ];
    for (key, value) in &described.registration.spec.config {
        facts.push(("setting", format!("{key}={value}")));
    }
    for Offsets { partition, first, next } in &described.offsets {
        facts.push(("offsets", format!("partition {partition}: {first} to {next}")));
    }
    output::facts(cx.format, &facts)
}
