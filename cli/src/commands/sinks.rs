//! `tailwater sinks`: where records go.

use std::net::SocketAddr;
use std::process::ExitCode;

use serde::Serialize;
use tailwater_topics_contract::{SinkKind, SinkName, SinkRegistration, Standing, TopicName};
use tailwater_topics_registry::{registrations, removal};

use crate::commands::apply::{self, ApplyArgs, DiffArgs, PlanArgs, Refused, Scope};
use crate::commands::{estimate, gap, rebuild};
use crate::workers::{Wanted, Workers};
use crate::{Context, output, serve, watermark};

/// Declare, list, pause, remove and run sinks
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Show what `sinks apply` would do
    #[command(after_help = "\
Example:
  tailwater sinks plan -f topics/catalog/market")]
    Plan(PlanArgs),
    /// Make buckets and indices and register sinks as the catalog declares; leave topics alone
    #[command(after_help = "\
Example:
  tailwater sinks apply -f topics/catalog/market")]
    Apply(ApplyArgs),
    /// Tell whether sinks are as declared; exits with 1 when not
    #[command(after_help = "\
Example:
  tailwater sinks diff -f topics/catalog/market")]
    Diff(DiffArgs),
    /// List the registered sinks
    #[command(after_help = "\
Example:
  tailwater sinks list")]
    List,
    /// Show everything about one sink
    #[command(after_help = "\
Example:
  tailwater sinks describe lake -o yaml")]
    Describe(Name),
    Explain(estimate::Args),
    /// Let the workers of a sink finish what is open and stand still
    ///
    /// Takes effect in seconds, without a restart. The sink keeps its place; `sinks resume` goes on from it.
    #[command(after_help = "\
Example:
  tailwater sinks pause product-search")]
    Pause(Name),
    /// Let a paused sink go on
    #[command(after_help = "\
Example:
  tailwater sinks resume product-search")]
    Resume(Name),
    /// Take a sink out of service; its bucket or index and its dead letters stay
    ///
    /// Declared and applied again under the same name, it goes on where it stopped.
    #[command(after_help = "\
Example:
  tailwater sinks remove product-search")]
    Remove(Name),
    /// Fill another index from everything that was ever written, and put it in place of the one in use
    ///
    /// For another mapping, or an index that cannot be trusted any more. Records come from the topic and, where that no
    /// longer holds them, from an archive that takes it. Before the new index is put in place it is compared with
    /// Postgres, at one LSN. Readers see the old index until one request swaps the alias; the sink stands still for some
    /// seconds around it. The old index is kept as `<alias>-previous`. Killed anywhere, run again it goes on.
    #[command(after_help = "\
Examples:
  tailwater sinks rebuild product-search
  tailwater sinks rebuild product-search -f catalog --feed-previous 60
  tailwater sinks rebuild product-search --rollback")]
    Rebuild(rebuild::Args),
    /// Give up records that a topic lost before they were archived, on the record
    ///
    /// A partition whose next records were deleted by retention stops, because an archive never passes over a hole in
    /// silence. This makes the hole a link of its chain, with its reason.
    #[command(after_help = "\
Example:
  tailwater sinks gap lake orders.events 2 --reason 'retention was one hour, the sink was paused for two'")]
    Gap(gap::Args),
    /// Run workers until told to stop
    ///
    /// Without a name, every sink that is registered, also those registered later. What is paused, resumed,
    /// changed or removed takes effect in seconds. Workers of the same sink, in as many processes as it has
    /// partitions at most, share its partitions. SIGTERM drains: open batches are finished and their offsets
    /// committed.
    #[command(after_help = "\
Examples:
  tailwater sinks run
  tailwater sinks run product-search --admin 127.0.0.1:18092")]
    Run(RunArgs),
}

#[derive(clap::Args)]
pub(crate) struct Name {
    /// A registered sink
    sink: SinkName,
}

#[derive(clap::Args)]
pub(crate) struct RunArgs {
    /// Sinks to run; without one, all
    #[arg(value_name = "SINK")]
    sinks: Vec<SinkName>,
    /// Address of /live, /ready and /metrics instead of `sinks.admin`
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// A name that stays the same when this worker restarts, so that it takes up its partitions at once.
    /// Two running workers must not share one
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
}

pub(crate) async fn run(cx: &Context, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Plan(args) => apply::plan_only(cx, &args.catalog, Scope::Sinks).await,
        Command::Apply(args) => apply::apply(cx, &args.catalog, Scope::Sinks).await,
        Command::Diff(args) => apply::diff(cx, &args.catalog, Scope::Sinks).await,
        Command::List => list(cx).await,
        Command::Describe(name) => describe(cx, &name.sink).await,
        Command::Explain(args) => estimate::run(cx, args).await,
        Command::Pause(name) => stand(cx, &name.sink, Standing::Paused).await,
        Command::Resume(name) => stand(cx, &name.sink, Standing::Active).await,
        Command::Remove(name) => {
            apply::alter(cx, |_, world| removal::sink(&name.sink, world)).await
        }
        Command::Rebuild(args) => rebuild::run(cx, args).await,
        Command::Gap(args) => gap::run(cx, args).await,
        Command::Run(args) => work(cx, args).await,
    }
}

async fn stand(cx: &Context, sink: &SinkName, standing: Standing) -> anyhow::Result<ExitCode> {
    apply::alter(cx, |_, world| removal::pause_sink(sink, standing, world)).await
}

#[derive(Serialize)]
struct Sink {
    name: SinkName,
    r#type: &'static str,
    destination: String,
    topics: Vec<TopicName>,
    standing: Standing,
}

async fn list(cx: &Context) -> anyhow::Result<ExitCode> {
    let config = cx.config()?;
    let registered = registrations::load(&config.kafka_client(), &config.pipeline).await?;
    let sinks: Vec<Sink> = registered.standing_sinks().map(sink).collect();
    let header = ["SINK", "TYPE", "DESTINATION", "TOPICS", "STANDING"];
    cx.format.list(&header, &sinks, |s| {
        let topics: Vec<&str> = s.topics.iter().map(TopicName::as_str).collect();
        vec![
            s.name.to_string(),
            s.r#type.to_owned(),
            s.destination.clone(),
            topics.join(","),
            s.standing.to_string(),
        ]
    })?;
    Ok(ExitCode::SUCCESS)
}

fn sink(SinkRegistration { spec, standing, .. }: &SinkRegistration) -> Sink {
    let (r#type, destination) = match &spec.kind {
        SinkKind::Archive(archive) => {
            ("archive", format!("s3://{}/{}", archive.bucket, archive.prefix))
        }
        SinkKind::Search(search) => ("search", search.alias.clone()),
    };
    let (name, topics) = (spec.name.clone(), spec.topics.clone());
    Sink { name, r#type, destination, topics, standing: *standing }
}

#[derive(Serialize)]
struct Described {
    #[serde(flatten)]
    registration: SinkRegistration,
    group: String,
    dead_letter_topic: TopicName,
}

async fn describe(cx: &Context, name: &SinkName) -> anyhow::Result<ExitCode> {
    let config = cx.config()?;
    let registered = registrations::load(&config.kafka_client(), &config.pipeline).await?;
    let registration = removal::registered_sink(name, &registered).map_err(Refused::from)?;
    let described = Described {
        registration: registration.clone(),
        group: config.pipeline.consumer_group(name),
        dead_letter_topic: config.pipeline.dead_letter_topic(name),
    };
    if cx.format.is_structured() {
        cx.format.value(&described)?;
    } else {
        print(cx, &described)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(cx: &Context, described: &Described) -> std::io::Result<()> {
    let shown = sink(&described.registration);
    let mut facts = vec![
        ("sink", shown.name.to_string()),
        ("standing", shown.standing.to_string()),
        ("type", shown.r#type.to_owned()),
        ("destination", shown.destination),
    ];
    match &described.registration.spec.kind {
        SinkKind::Archive(archive) => {
            let segment = &archive.segment;
            let size = output::bytes(segment.bytes);
            let idle = segment.idle_ms.map(|idle| format!(" or {idle} ms without a record"));
            let (records, age, idle) = (segment.records, segment.age_ms, idle.unwrap_or_default());
            facts.push(("guarantee", archive.guarantee.to_string()));
            facts.push(("segment", format!("{size}, {records} records or {age} ms{idle}")));
        }
        SinkKind::Search(search) => {
            let bulk = &search.bulk;
            let size = output::bytes(bulk.bytes);
            facts.push((
                "bulk",
                format!("{size}, {} operations or {} ms", bulk.operations, bulk.age_ms),
            ));
        }
    }
    facts.push(("group", described.group.clone()));
    facts.push(("dead letters", described.dead_letter_topic.to_string()));
    for origin in &described.registration.origins {
        let (topic, partition) = (&origin.topic, origin.partition);
        facts.push((
            "begins",
            format!("{topic}[{partition}] at {} on {}", origin.offset, origin.dt),
        ));
    }
    output::facts(cx.format, &facts)
}

async fn work(cx: &Context, args: RunArgs) -> anyhow::Result<ExitCode> {
    let config = cx.config()?;
    let admin = args.admin.unwrap_or(config.sinks.admin);
    let wanted =
        if args.sinks.is_empty() { Wanted::All } else { Wanted::Named(args.sinks.clone()) };
    serve::run(admin, |stop, health| async move {
        let kafka = config.kafka_client();
        let followed = serve::follow(&kafka, &config.pipeline, &stop, &health).await?;
        let Some(registrations) = followed else { return Ok(()) };
        let kept =
            watermark::keep(config.clone(), wanted.clone(), registrations.clone(), stop.clone());
        let workers = Workers::new(config, wanted, args.instance, stop, health);
        // It never ends by itself, and nothing hangs on it.
        let watermarks = tokio::spawn(kept);
        let ended = workers.run(registrations).await;
        watermarks.abort();
        ended
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}
