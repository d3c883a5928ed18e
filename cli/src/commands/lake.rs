//! `tailwater lake`: what is in the archive.
//!
//! `ls` and `cat` are here. Everything else is the work of a program of its own, `tailwater-lake`, so that what
//! runs beside a database does not carry a query engine.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{self, ExitCode};

use anyhow::{Context as _, bail};
use serde::Serialize;
use tailwater_sinks_archive::read;
use tailwater_topics_contract::{Registrations, SinkName, TopicName};
use tailwater_topics_registry::registrations;

use crate::Context;
use crate::commands::archive::{Archive, archive};
use crate::config::Config;
use crate::output::bytes;

/// Look into the archive, query it, prove it, replay it
///
/// `query`, `repl`, `schema`, `get`, `head`, `tail`, `verify`, `replay` and `ddl` are done by the program `tailwater-lake`,
/// which must stand beside this one or on PATH; `tailwater lake query --help` asks it.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// List topics, or the segments of one: where they are, which offsets they hold, how large they are
    #[command(after_help = "\
Examples:
  tailwater lake ls
  tailwater lake ls orders.events -o json")]
    Ls(LsArgs),
    /// Print archived records, one JSON line each, in offset order
    #[command(after_help = "\
Examples:
  tailwater lake cat orders.events --limit 10
  tailwater lake cat orders.events --partition 2 | jq .after
  tailwater lake cat data/orders.events/dt=2026-01-02/p00000-00000000000000000000.jsonl.gz")]
    Cat(CatArgs),
    /// Everything else is handed to `tailwater-lake`.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

#[derive(clap::Args)]
pub(crate) struct LsArgs {
    /// A topic, to list its segments
    topic: Option<TopicName>,
    /// The archive sink to look at, when there are several
    #[arg(long)]
    sink: Option<SinkName>,
}

#[derive(clap::Args)]
pub(crate) struct CatArgs {
    /// A segment's key as `ls` prints it, or a topic
    source: String,
    /// Only this partition of the topic
    #[arg(long)]
    partition: Option<i32>,
    /// Most lines that are printed
    #[arg(long)]
    limit: Option<u64>,
    /// The archive sink to look at, when there are several
    #[arg(long)]
    sink: Option<SinkName>,
}

#[derive(Serialize)]
struct Summary {
    topic: TopicName,
    partitions: usize,
    segments: usize,
    records: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Segment {
    key: String,
    topic: TopicName,
    partition: i32,
    /// Its first offset.
    first: i64,
    /// The offset after its last.
    next: i64,
    records: u64,
    bytes: u64,
}

pub(crate) async fn run(cx: &Context, command: &Command) -> anyhow::Result<ExitCode> {
    if let Command::Other(arguments) = command {
        return hand_over(cx, arguments);
    }
    let config = cx.config()?;
    let registered = registrations::load(&config.kafka_client(), &config.pipeline).await?;
    match command {
        Command::Ls(args) => ls(cx, &config, &registered, args).await?,
        Command::Cat(args) => cat(&config, &registered, args).await?,
        Command::Other(_) => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Becomes `tailwater-lake`: its output, its signals and its exit code are its own.
fn hand_over(cx: &Context, arguments: &[OsString]) -> anyhow::Result<ExitCode> {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name("tailwater-lake"));
    let program = beside.filter(|path| path.exists()).unwrap_or_else(|| "tailwater-lake".into());
    let error =
        process::Command::new(program).args(arguments).arg("--config").arg(&cx.config).exec();
    if error.kind() == io::ErrorKind::NotFound {
        bail!(
            "this needs `tailwater-lake`, which is neither beside this program nor on PATH; it is built by `cargo build --release -p tailwater-lake`"
        );
    }
    Err(error).context("`tailwater-lake` cannot be started")
}

async fn ls(
    cx: &Context,
    config: &Config,
    registered: &Registrations,
    args: &LsArgs,
) -> anyhow::Result<()> {
    let archive = archive(config, registered, args.sink.as_ref())?;
    let Some(topic) = &args.topic else {
        let mut topics = Vec::new();
        for topic in &archive.topics {
            topics.push(Summary::new(topic, &segments(&archive, topic).await?));
        }
        let header = ["TOPIC", "PARTITIONS", "SEGMENTS", "RECORDS", "SIZE"];
        return cx.format.list(&header, &topics, |t| {
            vec![
                t.topic.to_string(),
                t.partitions.to_string(),
                t.segments.to_string(),
                t.records.to_string(),
                bytes(t.bytes),
            ]
        });
    };
    let segments = segments(&archive, topic).await?;
    let header = ["KEY", "PARTITION", "FIRST", "NEXT", "RECORDS", "SIZE"];
    cx.format.list(&header, &segments, |s| {
        vec![
            s.key.clone(),
            s.partition.to_string(),
            s.first.to_string(),
            s.next.to_string(),
            s.records.to_string(),
            bytes(s.bytes),
        ]
    })
}

impl Summary {
    fn new(topic: &TopicName, segments: &[Segment]) -> Self {
        let partitions: BTreeSet<i32> = segments.iter().map(|segment| segment.partition).collect();
        Self {
            topic: topic.clone(),
            partitions: partitions.len(),
            segments: segments.len(),
            records: segments.iter().map(|segment| segment.records).sum(),
            bytes: segments.iter().map(|segment| segment.bytes).sum(),
        }
    }
}

async fn cat(config: &Config, registered: &Registrations, args: &CatArgs) -> anyhow::Result<()> {
    let archive = archive(config, registered, args.sink.as_ref())?;
    let keys = if args.source.contains('/') {
        vec![args.source.clone()]
    } else {
        let topic: TopicName = args.source.parse()?;
        let segments = segments(&archive, &topic).await?;
        let wanted = |s: &Segment| args.partition.is_none_or(|partition| s.partition == partition);
        segments.into_iter().filter(wanted).map(|segment| segment.key).collect()
    };
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut out = io::BufWriter::new(io::stdout().lock());
    for key in keys {
        if left == 0 {
            break;
        }
        let lines = read::lines(&archive.store, &key).await;
        for line in lines.with_context(|| format!("segment `{key}` cannot be read"))? {
            if left == 0 {
                break;
            }
            out.write_all(&line)?;
            out.write_all(b"\n")?;
            left -= 1;
        }
    }
    Ok(out.flush()?)
}

async fn segments(archive: &Archive, topic: &TopicName) -> anyhow::Result<Vec<Segment>> {
    let listed = read::list(&archive.store, &archive.spec.prefix, topic).await;
    let listed = listed.with_context(|| format!("the segments of `{topic}` cannot be listed"))?;
    Ok(listed
        .into_iter()
        .map(|object| Segment {
            key: object.key,
            topic: topic.clone(),
            partition: object.partition,
            first: object.first,
            next: object.next,
            records: object.records,
            bytes: object.bytes,
        })
        .collect())
}
