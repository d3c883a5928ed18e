//! One file each.

mod ls; // what there is
mod schema; // columns
mod lines; // head, tail, get
mod query; // SQL
mod repl; // a prompt
mod verify; // proof
mod checkpoint; // manifests at once
mod replay; // back into Kafka
mod ddl; // other engines

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use serde::Serialize;
use tailwater_document::ByteSize;
use tailwater_document::{FromScalar, Scalar};
use tailwater_lake::archive::Topic;
use tailwater_lake::config::{self, Config};
use tailwater_lake::records::{self, End};
use tailwater_lake::{Archive, Cut, Lake, Options, output, pipeline};
use tailwater_sinks_archive::Store;
use tailwater_topics_contract::{Origin, SinkName, TopicName};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// List topics, or the objects of one
    Ls(ls::Args),
    /// Show the columns of a topic's tables
    Schema(schema::Args),
    /// Print the oldest records, one JSON line each
    #[command(after_help = "Example:\n  tailwater lake head orders.events -n 3")]
    Head(lines::EndArgs),
    /// Print the newest records, one JSON line each
    #[command(after_help = "Example:\n  tailwater lake tail inventory.cdc --partition 0")]
    Tail(lines::EndArgs),
    /// Print the history of one key, one JSON line a record
    Get(lines::GetArgs),
    /// Ask the archive in SQL
    Query(query::Args),
    /// Ask it at a prompt
    Repl(repl::Args),
    /// Prove that nothing is missing, damaged or foreign, or say what is
    Verify(verify::Args),
    /// Roll up the manifests of topics, so that later commands read them at once
    Checkpoint(checkpoint::Args),
    /// Write archived records back into Kafka, as they were
    Replay(replay::Args),
    /// Print statements by which another engine reads the same objects
    Ddl(ddl::Args),
}

/// What every command takes.
#[derive(clap::Args)]
pub(crate) struct Global {
    /// Configuration file
    #[arg(long, global = true, env = "TAILWATER_CONFIG", default_value = "tailwater.yaml")]
    config: PathBuf,
    /// The archive, as s3://bucket/prefix; unless given, the archive sink that is registered
    #[arg(long, global = true, env = "TAILWATER_ARCHIVE", value_name = "ADDRESS")]
    archive: Option<String>,
    /// The archive sink to look at, when several are registered
    #[arg(long, global = true)]
    sink: Option<SinkName>,
    /// Most memory of a query's intermediate results
    #[arg(long, global = true, value_name = "SIZE", default_value = "256MiB", value_parser = size)]
    memory: u64,
    /// How many chunks are worked on at once; as many as there are cores unless given
    #[arg(long, global = true)]
    threads: Option<usize>,
    /// What is logged to standard error, such as `warn` or `info`
    #[arg(long, global = true, env = "TAILWATER_LOG", value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

/// Where a query is cut.
#[derive(Clone, Default, clap::Args)]
pub(crate) struct AsOf {
    /// Cut at a commit: an LSN, or a time in UTC, which means the last commit until then
    #[arg(long, value_name = "LSN|TIME")]
    asof: Option<Cut>,
    /// Answer even when the archive is not known to be complete up to the cut
    #[arg(long, requires = "asof")]
    allow_incomplete: bool,
}

fn size(text: &str) -> Result<u64, String> {
    let ByteSize(size) = ByteSize::from_scalar(Scalar { text })?;
    if size < 1 << 20 { Err("expected at least 1MiB".to_owned()) } else { Ok(size) }
}

/// What every command may use.
pub(crate) struct Context {
    pub(crate) global: Global,
    pub(crate) environment: fn(&str) -> Option<String>,
}

impl Context {
    fn config(&self) -> Result<Config, config::Error> {
        config::load(&self.global.config, &self.environment)
    }

    async fn archive(&self) -> anyhow::Result<Archive> {
        let config = self.config()?;
        let (bucket, prefix) = match &self.global.archive {
            Some(address) => config::bucket_and_prefix(address)
                .ok_or_else(|| anyhow!("`{address}` is no archive; expected s3://bucket/prefix"))?,
            None => {
                let wanted = self.global.sink.as_ref();
                let spec =
                    pipeline::archive(&config.kafka_client(), &config.pipeline, wanted).await;
                let spec = spec.context("the archive cannot be found; name it with --archive")?;
                (spec.bucket, spec.prefix)
            }
        };
        let Some(s3) = config.s3 else {
            bail!("the configuration has no section `s3`");
        };
        let store = Store::connect(s3, &bucket);
        Ok(Archive { store, prefix })
    }

    async fn topic(&self, archive: &Archive, name: &str) -> anyhow::Result<Topic> {
        let topics = archive.topics().await?;
        let topic = archive.topic(&named(topics.iter(), name)?).await?;
        advise(topic.fetched);
        Ok(topic)
    }

    /// Where the chains of this archive were registered to begin.
    async fn origins(&self, archive: &Archive) -> anyhow::Result<Vec<Origin>> {
        let config = self.config()?;
        Ok(pipeline::origins(&config.kafka_client(), &config.pipeline, archive).await?)
    }

    async fn lake(&self, asof: &AsOf) -> anyhow::Result<Lake> {
        let archive = self.archive().await?;
        let mut options = Options {
            memory: self.global.memory,
            cut: asof.asof,
            allow_incomplete: asof.allow_incomplete,
            ..Options::default()
        };
        options.threads = self.global.threads.unwrap_or(options.threads).max(1);
        let known = if options.cut.is_some() { self.pipeline(&archive).await } else { None };
        Ok(Lake::open(archive, options, known).await?)
    }

    /// What Kafka knows; nothing when it cannot be asked.
    async fn pipeline(&self, archive: &Archive) -> Option<tailwater_lake::complete::Pipeline> {
        let config = self.config().ok()?;
        let topics: Vec<_> = archive.topics().await.ok()?.into_iter().collect();
        let (kafka, name) = (config.kafka_client(), config.pipeline);
        let looked =
            tokio::task::spawn_blocking(move || pipeline::look(&kafka, &name, &topics)).await;
        match looked.ok()? {
            Ok(known) => Some(known),
            Err(error) => {
                tracing::warn!("Kafka cannot be asked how far the pipeline is: {error}");
                None
            }
        }
    }
}

pub(crate) async fn run(cx: &Context, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Ls(args) => ls::run(cx, &args).await,
        Command::Schema(args) => schema::run(cx, &args).await,
        Command::Head(args) => lines::ends(cx, &args, End::First).await,
        Command::Tail(args) => lines::ends(cx, &args, End::Last).await,
        Command::Get(args) => lines::get(cx, &args).await,
        Command::Query(args) => query::run(cx, &args).await,
        Command::Repl(args) => repl::run(cx, &args).await,
        Command::Verify(args) => verify::run(cx, &args).await,
        Command::Checkpoint(args) => checkpoint::run(cx, &args).await,
        Command::Replay(args) => replay::run(cx, &args).await,
        Command::Ddl(args) => ddl::run(cx, &args).await,
    }
}

/// Says on standard error what makes the next command faster, if anything does.
fn advise(fetched: u64) {
    if let Some(advice) = output::advice(fetched) {
        eprintln!("{advice}");
    }
}

/// The topic that is called so, as a topic or as its table.
fn named<'t>(
    mut topics: impl Iterator<Item = &'t TopicName> + Clone,
    name: &str,
) -> anyhow::Result<TopicName> {
    let all = topics.clone();
    topics.find(|topic| records::is_called(topic, name)).cloned().ok_or_else(|| {
        let names: Vec<&str> = all.map(TopicName::as_str).collect();
        anyhow!("`{name}` is not archived; there are {}", names.join(", "))
    })
}

/// How lists are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Listing {
    /// Aligned columns on a terminal, tabs in a pipe.
    Table,
    /// One JSON value.
    Json,
}

impl Listing {
    fn list<T: Serialize>(
        self,
        header: &[&str],
        items: &[T],
        row: impl Fn(&T) -> Vec<String>,
    ) -> anyhow::Result<()> {
        let rows = items.iter().map(row);
        let rows: Vec<Vec<String>> =
            rows.map(|row| row.iter().map(|cell| output::printable(cell)).collect()).collect();
        let mut out = output::stdout();
        match self {
            Self::Json => return Self::json(&items),
            Self::Table if io::stdout().is_terminal() => {
                let width = |at: usize| {
                    let cells = rows.iter().map(|row| row[at].chars().count());
                    cells.chain([header[at].len()]).max().unwrap_or(0)
                };
                let header: Vec<String> = header.iter().map(|name| (*name).to_owned()).collect();
                for row in std::iter::once(&header).chain(&rows) {
                    let cells = row.iter().enumerate();
                    let line: Vec<String> = cells
                        .map(|(at, cell)| format!("{cell:<width$}", width = width(at)))
                        .collect();
                    writeln!(out, "{}", line.join("  ").trim_end())?;
                }
            }
            Self::Table => {
                for row in &rows {
                    writeln!(out, "{}", row.join("\t"))?;
                }
            }
        }
        Ok(out.flush()?)
    }

    fn json(value: &impl Serialize) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, value)?;
        Ok(writeln!(out)?)
    }
}
