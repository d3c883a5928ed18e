//! `tailwater apply`, `topics apply` and `sinks apply`: the plan, then its changes.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use tailwater_topics_contract::Catalog;
pub(crate) use tailwater_topics_registry::Scope;
use tailwater_topics_registry::{Plan, Refusal, Registry, plan};

use crate::output::Format;
use crate::{Context, declared, output};

/// Make Kafka, Postgres, S3 and OpenSearch as the catalog declares
///
/// Prints every change, then carries them out in that order. Nothing is ever deleted or shrunk. Ending it in
/// the middle does no harm: run it again. A second run at the same time waits for the first.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tailwater apply -f topics/catalog/market --dry-run
  tailwater apply -f topics/catalog/market")]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) catalog: CatalogArgs,
}

/// What is applied, and whether it is only shown.
#[derive(clap::Args)]
pub(crate) struct CatalogArgs {
    /// Folder with the catalog's YAML files, or one file
    #[arg(short, long = "file", value_name = "DIR")]
    pub(crate) file: PathBuf,
    /// Print the plan and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// The catalog cannot work as it stands.
#[derive(Debug)]
struct Refused(Vec<Refusal>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this catalog cannot work; nothing was changed:")?;
        self.0.iter().try_for_each(|refusal| write!(f, "\n  {refusal}"))
    }
}

impl std::error::Error for Refused {}

pub(crate) async fn run(cx: &Context, args: &Args, scope: Scope) -> anyhow::Result<ExitCode> {
    apply(cx, &args.catalog, scope).await
}

pub(crate) async fn apply(
    cx: &Context,
    args: &CatalogArgs,
    scope: Scope,
) -> anyhow::Result<ExitCode> {
    // Both are read before either is complained about, so that all mistakes come at once.
    let (config, catalog) = match (cx.config(), declared::load(&args.file)) {
        (Ok(config), Ok(catalog)) => (config, catalog),
        (config, catalog) => return Err(all_mistakes(config.err(), catalog.err()).into()),
    };
    eprintln!(
        "comparing {} and {} with Postgres at {} and Kafka at {}",
        output::counted(catalog.topics.len(), "topic"),
        output::counted(catalog.sinks.len(), "sink"),
        config.postgres.address(),
        config.kafka.brokers
    );
    let pipeline = config.pipeline.clone();
    let registry = Registry::connect(pipeline.clone(), config.servers()).await?;
    if !args.dry_run {
        registry.lock().await?;
    }
    let catalog = of_scope(catalog, scope);
    let world = registry.observe(&catalog).await?;
    let plan = plan(&pipeline, &catalog, scope, &world).map_err(Refused)?;
    show(cx.format, &plan, args.dry_run)?;
    if args.dry_run || plan.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let count = plan.changes.len();
    for (number, change) in plan.changes.iter().enumerate() {
        eprintln!("[{}/{count}] {change}", number + 1);
        registry.carry_out(change).await?;
    }
    eprintln!("applied {}", output::counted(count, "change"));
    Ok(ExitCode::SUCCESS)
}

fn all_mistakes(
    config: Option<crate::config::Error>,
    catalog: Option<crate::config::Error>,
) -> crate::config::Error {
    use crate::config::Error::Mistakes;
    match (config, catalog) {
        (Some(Mistakes(mut all)), Some(Mistakes(more))) => {
            all.extend(more);
            Mistakes(all)
        }
        (Some(error), _) | (None, Some(error)) => error,
        (None, None) => Mistakes(Vec::new()),
    }
}

/// Sinks are of no concern when only topics are applied: a bucket that is away must not be in the way.
fn of_scope(mut catalog: Catalog, scope: Scope) -> Catalog {
    if scope == Scope::Topics {
        catalog.sinks.clear();
    }
    catalog
}

#[derive(Serialize)]
struct Shown {
    dry_run: bool,
    changes: Vec<String>,
}

fn show(format: Format, plan: &Plan, dry_run: bool) -> std::io::Result<()> {
    let changes: Vec<String> = plan.changes.iter().map(ToString::to_string).collect();
    if format == Format::Json {
        return output::json(&Shown { dry_run, changes });
    }
    if plan.is_empty() {
        eprintln!("everything is as declared; no change");
    }
    output::plain(changes.into_iter().map(|change| vec![change]))
}
