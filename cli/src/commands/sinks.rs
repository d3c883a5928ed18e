//! `tailwater sinks`: where records go.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde::Serialize;
use tailwater_runtime::{Classify, ErrorClass, Health};
use tailwater_sinks_archive::{ArchiveSink, Store, StoreError};
use tailwater_sinks_search::{Client, SearchSink};
use tailwater_sinks_worker::{self as worker, WorkerConfig};
use tailwater_topics_contract::{SinkKind, SinkName, SinkRegistration, TopicName};
use tailwater_topics_registry::destinations::S3Config;
use tailwater_topics_registry::registrations;
use tokio_util::sync::CancellationToken;

use crate::commands::apply::{self, CatalogArgs, Scope};
use crate::config::Config;
use crate::{Context, serve};

/// Declare, list and run sinks
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Make buckets and indices and register sinks as the catalog declares; leave topics alone
    #[command(after_help = "\
Example:
  tailwater sinks apply -f topics/catalog/market")]
    Apply(CatalogArgs),
    /// List the registered sinks
    #[command(after_help = "\
Example:
  tailwater sinks list")]
    List,
    /// Run a worker of one sink until it is told to stop
    ///
    /// Workers of the same sink share its partitions; start as many as there are partitions at most. SIGTERM
    /// drains: open batches are finished and their offsets committed.
    #[command(after_help = "\
Examples:
  tailwater sinks run lake
  tailwater sinks run product-search --admin 127.0.0.1:18092")]
    Run(RunArgs),
}

#[derive(clap::Args)]
pub(crate) struct RunArgs {
    /// A registered sink
    sink: SinkName,
    /// Address of /live, /ready and /metrics instead of `sinks.admin`
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// A name that stays the same when this worker restarts, so that it takes up its partitions at once.
    /// Two running workers must not share one
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
}

#[derive(Serialize)]
struct Sink {
    name: SinkName,
    r#type: &'static str,
    destination: String,
    topics: Vec<TopicName>,
}

pub(crate) async fn run(cx: &Context, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Apply(args) => apply::apply(cx, &args, Scope::Sinks).await,
        Command::List => list(cx).await,
        Command::Run(args) => work(cx, args).await,
    }
}

async fn list(cx: &Context) -> anyhow::Result<ExitCode> {
    let config = cx.config()?;
    let registered = registrations::load(&config.kafka_client(), &config.pipeline).await?;
    let sinks: Vec<Sink> = registered.sinks.into_values().map(sink).collect();
    cx.format.list(&["SINK", "TYPE", "DESTINATION", "TOPICS"], &sinks, |s| {
        let topics: Vec<&str> = s.topics.iter().map(TopicName::as_str).collect();
        vec![s.name.to_string(), s.r#type.to_owned(), s.destination.clone(), topics.join(",")]
    })?;
    Ok(ExitCode::SUCCESS)
}

fn sink(SinkRegistration { spec, .. }: SinkRegistration) -> Sink {
    let (r#type, destination) = match &spec.kind {
        SinkKind::Archive(archive) => {
            ("archive", format!("s3://{}/{}", archive.bucket, archive.prefix))
        }
        SinkKind::Search(search) => ("search", search.alias.clone()),
    };
    Sink { name: spec.name, r#type, destination, topics: spec.topics }
}

async fn work(cx: &Context, args: RunArgs) -> anyhow::Result<ExitCode> {
    let config = cx.config()?;
    let admin = args.admin.unwrap_or(config.sinks.admin);
    serve::run(admin, |stop, health| async move {
        let kafka = config.kafka_client();
        let followed = serve::follow(&kafka, &config.pipeline, &stop, &health).await?;
        let Some(mut registrations) = followed else { return Ok(()) };
        let mut current = registered(&registrations.borrow_and_update(), &args.sink)?;
        while !stop.is_cancelled() {
            let session = stop.child_token();
            let instance = args.instance.clone();
            let worker =
                work_once(&config, current.clone(), instance, session.clone(), health.clone());
            let mut worker = std::pin::pin!(worker);
            let changed = registrations.wait_for(|all| {
                all.sinks.get(&args.sink).is_some_and(|registration| *registration != current)
            });
            let next = tokio::select! {
                done = &mut worker => return done,
                next = changed => next.ok().and_then(|all| all.sinks.get(&args.sink).cloned()),
            };
            // Topics or limits changed: what is open is finished under the old registration.
            tracing::info!(sink = %args.sink, "the registration changed; starting over with it");
            session.cancel();
            worker.await?;
            current = next.context("registrations are no longer followed")?;
        }
        Ok(())
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a worker for one form of the registration.
async fn work_once(
    config: &Config,
    registration: SinkRegistration,
    instance: Option<String>,
    stop: CancellationToken,
    health: Health,
) -> anyhow::Result<()> {
    let brokers = config.kafka.brokers.clone();
    let SinkRegistration { spec, origins } = registration.clone();
    let mut worker = WorkerConfig::new(config.pipeline.clone(), registration, brokers);
    worker.properties = config.kafka.properties.clone().into_iter().collect();
    worker.budget_bytes = config.sinks.memory as usize;
    worker.instance_id = instance;
    match spec.kind {
        SinkKind::Archive(spec) => {
            let store = store(config, &spec.bucket)?;
            let is_silence = |error: &StoreError| error.class() == ErrorClass::Transient;
            let probe = async || store.probe().await;
            let probed = serve::patiently("store", &stop, &health, is_silence, probe).await;
            if probed.context("this S3 store cannot hold an archive")?.is_none() {
                return Ok(());
            }
            let sink = ArchiveSink::new(store, spec, origins);
            worker::run(worker, sink, stop, health).await?;
        }
        SinkKind::Search(spec) => {
            let opensearch = config.opensearch.clone();
            let opensearch =
                opensearch.context("there is no `opensearch` section in the configuration")?;
            let client = Client::new(opensearch)?;
            let sink = SearchSink::new(client, config.pipeline.clone(), spec);
            worker::run(worker, sink, stop, health).await?;
        }
    }
    Ok(())
}

fn registered(
    registrations: &tailwater_topics_contract::Registrations,
    sink: &SinkName,
) -> anyhow::Result<SinkRegistration> {
    if let Some(registration) = registrations.sinks.get(sink) {
        return Ok(registration.clone());
    }
    let known: Vec<String> = registrations.sinks.keys().map(|name| format!("`{name}`")).collect();
    let known = if known.is_empty() { "none is".to_owned() } else { known.join(", ") };
    bail!(
        "sink `{sink}` is not registered ({known}); declare it and run `tailwater sinks apply -f DIR`"
    )
}

/// The store of a bucket.
pub(crate) fn store(config: &Config, bucket: &str) -> anyhow::Result<Store> {
    let s3 = config.s3.clone().context("there is no `s3` section in the configuration")?;
    Ok(Store::connect(S3Config { bucket: bucket.to_owned(), ..s3 }))
}
