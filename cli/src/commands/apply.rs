//! `tailwater plan`, `apply` and `diff`, and the same for topics or sinks alone.
//!
//! ```text
//!  catalog ──▶ mistakes, with their lines
//!     └─ observe ──▶ refusals, with their lines
//!          └─ plan ──▶ printed ──▶ carried out, one change after the other
//! ```

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use tailwater_topics_contract::{Catalog, Registrations};
pub(crate) use tailwater_topics_registry::Scope;
use tailwater_topics_registry::{Change, Plan, Refusal, Registry, World, plan, removal, steps};

use crate::config::Config;
use crate::declared::{self, Sources};
use crate::{Context, output};

/// Which catalog is meant.
#[derive(clap::Args)]
pub(crate) struct CatalogArgs {
    /// Folder with the catalog's YAML files, or one file
    #[arg(short, long = "file", value_name = "DIR")]
    pub(crate) file: PathBuf,
    /// Also remove topics and sinks that are registered and not in the catalog; their data stays
    #[arg(long)]
    pub(crate) prune: bool,
}

/// Show every change that `apply` would make, and make none
///
/// Exits with 0 when the catalog can be applied, whether or not there is something to do.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tailwater plan -f topics/catalog/market
  tailwater plan -f topics/catalog/market --prune -o json")]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) catalog: CatalogArgs,
}

/// Make Kafka, Postgres, S3 and OpenSearch as the catalog declares
///
/// Prints every change, then carries them out in that order. No data is ever deleted or shrunk. Ending it in
/// the middle does no harm: run it again. A second run at the same time waits for the first.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tailwater plan  -f topics/catalog/market
  tailwater apply -f topics/catalog/market")]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    pub(crate) catalog: CatalogArgs,
}

/// Tell whether everything is as the catalog declares
///
/// Prints what differs, as `plan` does. Exits with 0 when nothing differs and with 1 when something does.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tailwater diff -f topics/catalog/market
  tailwater diff -f topics/catalog/market --prune || echo drifted")]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    pub(crate) catalog: CatalogArgs,
}

/// What was asked for cannot work.
#[derive(Debug)]
pub(crate) struct Refused {
    refusals: Vec<Refusal>,
    sources: Sources,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        vec![refusal].into()
    }
}

impl From<Vec<Refusal>> for Refused {
    fn from(refusals: Vec<Refusal>) -> Self {
        Self { refusals, sources: Sources::default() }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this cannot work; nothing was changed:")?;
        for refusal in &self.refusals {
            write!(f, "\n  {refusal}")?;
            if let Some(place) = &refusal.place {
                f.write_str(&self.sources.snippet(place))?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

pub(crate) async fn plan_only(
    cx: &Context,
    args: &CatalogArgs,
    scope: Scope,
) -> anyhow::Result<ExitCode> {
    let (_, changes) = planned(cx, args, scope, Locking::No).await?;
    show(cx, &changes)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn diff(
    cx: &Context,
    args: &CatalogArgs,
    scope: Scope,
) -> anyhow::Result<ExitCode> {
    let (_, changes) = planned(cx, args, scope, Locking::No).await?;
    show(cx, &changes)?;
    Ok(if changes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(crate) async fn apply(
    cx: &Context,
    args: &CatalogArgs,
    scope: Scope,
) -> anyhow::Result<ExitCode> {
    let (registry, changes) = planned(cx, args, scope, Locking::Yes).await?;
    show(cx, &changes)?;
    carry_out(&registry, &changes).await?;
    Ok(ExitCode::SUCCESS)
}

/// Changes what is registered, without a catalog: `change` says how, from the world as it is.
pub(crate) async fn alter<E>(
    cx: &Context,
    change: impl FnOnce(&Config, &World) -> Result<Vec<Change>, E>,
) -> anyhow::Result<ExitCode>
where
    Refused: From<E>,
{
    let config = cx.config()?;
    let registry = Registry::connect(config.pipeline.clone(), config.servers()).await?;
    registry.lock().await?;
    let world = registry.observe(&Catalog::default()).await?;
    let changes = change(&config, &world).map_err(Refused::from)?;
    show(cx, &changes)?;
    carry_out(&registry, &changes).await?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Locking {
    Yes,
    No,
}

/// Everything up to the first change.
async fn planned(
    cx: &Context,
    args: &CatalogArgs,
    scope: Scope,
    locking: Locking,
) -> anyhow::Result<(Registry, Vec<Change>)> {
    // Both are read before either is complained about, so that all mistakes come at once.
    let (config, (catalog, sources)) = match (cx.config(), declared::load(&args.file)) {
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
    if locking == Locking::Yes {
        registry.lock().await?;
    }
    let catalog = of_scope(catalog, scope);
    let world = registry.observe(&catalog).await?;
    let planned = plan(&pipeline, &catalog, scope, &world);
    let pruned = if args.prune {
        removal::undeclared(&pipeline, &catalog, scope, &world)
    } else {
        leave_alone(&world.registrations, &catalog, scope);
        Ok(Vec::new())
    };
    match (planned, pruned) {
        (Ok(Plan { changes: mut all }), Ok(pruned)) => {
            all.extend(pruned);
            Ok((registry, all))
        }
        (planned, pruned) => {
            let refusals = [planned.err(), pruned.err()].into_iter().flatten().flatten().collect();
            Err(Refused { refusals, sources }.into())
        }
    }
}

/// Says what is registered and not declared, so that nobody takes it for gone.
fn leave_alone(registered: &Registrations, catalog: &Catalog, scope: Scope) {
    let topics = registered.written().map(|topic| &topic.spec.name);
    let topics: Vec<String> = topics
        .filter(|name| scope != Scope::Sinks && catalog.topic(name).is_none())
        .map(|name| format!("topic `{name}`"))
        .collect();
    let sinks = registered.standing_sinks().map(|sink| &sink.spec.name);
    let sinks: Vec<String> = sinks
        .filter(|name| scope != Scope::Topics && !catalog.sinks.iter().any(|s| s.name == **name))
        .map(|name| format!("sink `{name}`"))
        .collect();
    let undeclared = [topics, sinks].concat();
    if !undeclared.is_empty() {
        eprintln!(
            "registered and not declared here, left alone without --prune: {}",
            undeclared.join(", ")
        );
    }
}

async fn carry_out(registry: &Registry, changes: &[Change]) -> anyhow::Result<()> {
    let count = changes.len();
    let mut number = 0;
    for step in steps(changes) {
        for change in step {
            number += 1;
            eprintln!("[{number}/{count}] {change}");
        }
        registry.carry_out(step).await?;
    }
    if count > 0 {
        eprintln!("applied {}", output::counted(count, "change"));
    }
    Ok(())
}

fn all_mistakes(
    config: Option<crate::config::Error>,
    catalog: Option<crate::config::Error>,
) -> crate::config::Error {
    use crate::config::Error::Mistakes;
    match (config, catalog) {
        (Some(Mistakes(mut all, _)), Some(Mistakes(more, sources))) => {
            all.extend(more);
            Mistakes(all, sources)
        }
        (Some(error), _) | (None, Some(error)) => error,
        (None, None) => Mistakes(Vec::new(), Sources::default()),
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
    changes: Vec<String>,
}

fn show(cx: &Context, changes: &[Change]) -> anyhow::Result<()> {
    let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
    if changes.is_empty() {
        eprintln!("everything is as declared; no change");
    }
    if cx.format.is_structured() {
        return cx.format.value(&Shown { changes });
    }
    Ok(output::changes(&changes, cx.coloured)?)
}
