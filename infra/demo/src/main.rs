//! `tailwater-demo`: traffic over a running world, then the proof that nothing is missing.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use tailwater_infra_demo::archive::Store;
use tailwater_infra_demo::drain::drain;
use tailwater_infra_demo::reconcile::{Expectation, Judge, Origin, Report, Stores, Tally};
use tailwater_infra_demo::source::Table;
use tailwater_infra_demo::traffic::{self, Services};

/// Drives traffic through a running world and compares what stands in Postgres, Kafka, the archive and the index.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Place orders over HTTP, wait until everything has drained, and reconcile.
    Market {
        #[command(flatten)]
        world: World,
        #[command(flatten)]
        services: ServiceUrls,
        /// How long the traffic runs, in seconds.
        #[arg(long, default_value_t = 15, env = "TAILWATER_DEMO_SECONDS")]
        seconds: u64,
        /// How many clients place orders at the same time.
        #[arg(long, default_value_t = 8, env = "TAILWATER_DEMO_CLIENTS")]
        clients: usize,
    },
    /// Reconcile the four pgbench tables after `pgbench` has run.
    Pgbench {
        #[command(flatten)]
        world: World,
    },
}

/// Where the world is.
#[derive(Args)]
struct World {
    /// Postgres.
    #[arg(long, env = "TAILWATER_DEMO_POSTGRES")]
    database_url: String,
    /// Kafka.
    #[arg(long, env = "TAILWATER_DEMO_KAFKA")]
    brokers: String,
    /// The object store, with scheme.
    #[arg(long, env = "TAILWATER_DEMO_S3")]
    s3: String,
    /// Access key of the object store.
    #[arg(long, env = "TAILWATER_DEMO_S3_ACCESS_KEY", default_value = "tailwater")]
    s3_access_key: String,
    /// Secret key of the object store.
    #[arg(
        long,
        env = "TAILWATER_DEMO_S3_SECRET_KEY",
        default_value = "tailwater-secret",
        hide_env_values = true
    )]
    s3_secret_key: String,
    /// The archive's bucket.
    #[arg(long, env = "TAILWATER_DEMO_BUCKET", default_value = "events")]
    bucket: String,
    /// OpenSearch, with scheme.
    #[arg(long, env = "TAILWATER_DEMO_OPENSEARCH")]
    opensearch: String,
}

impl World {
    fn stores(&self) -> Stores {
        Stores {
            database_url: self.database_url.clone(),
            brokers: self.brokers.clone(),
            store: Store {
                endpoint: self.s3.clone(),
                access_key: self.s3_access_key.clone(),
                secret_key: self.s3_secret_key.clone(),
            },
            bucket: self.bucket.clone(),
            opensearch: self.opensearch.clone(),
        }
    }
}

#[derive(Args)]
struct ServiceUrls {
    /// The catalog service, with scheme.
    #[arg(long, env = "TAILWATER_DEMO_CATALOG", default_value = "http://127.0.0.1:18081")]
    catalog: String,
    /// The inventory service, with scheme.
    #[arg(long, env = "TAILWATER_DEMO_INVENTORY", default_value = "http://127.0.0.1:18082")]
    inventory: String,
    /// The orders service, with scheme.
    #[arg(long, env = "TAILWATER_DEMO_ORDERS", default_value = "http://127.0.0.1:18083")]
    orders: String,
    /// The payments service, with scheme.
    #[arg(long, env = "TAILWATER_DEMO_PAYMENTS", default_value = "http://127.0.0.1:18084")]
    payments: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse().command).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tailwater-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Answers whether everything agrees.
async fn run(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Market { world, services, seconds, clients } => {
            let services = Services {
                catalog: services.catalog,
                inventory: services.inventory,
                orders: services.orders,
                payments: services.payments,
            };
            load(services, Duration::from_secs(seconds), clients).await?;
            judge(&world, market()).await
        }
        Command::Pgbench { world } => judge(&world, pgbench()).await,
    }
}

async fn load(services: Services, length: Duration, clients: usize) -> anyhow::Result<()> {
    let bar = ProgressBar::new(length.as_millis() as u64)
        .with_style(style("{msg:>10} {wide_bar} {prefix} · {elapsed}")?);
    bar.set_message("traffic");
    let start = Instant::now();
    let traffic = traffic::run(services, length, clients, |done| {
        bar.set_position((start.elapsed().as_millis() as u64).min(bar.length().unwrap_or(0)));
        bar.set_prefix(format!("{done}"));
    });
    let done = traffic.await.context("driving traffic")?;
    bar.finish_and_clear();
    let rate = done.requests as f64 / start.elapsed().as_secs_f64();
    println!("traffic: {done} in {:.1} s ({rate:.0} requests/s)", start.elapsed().as_secs_f64());
    Ok(())
}

async fn judge(world: &World, expectations: Vec<Expectation>) -> anyhow::Result<bool> {
    let mut judge = Judge::new(world.stores(), expectations);
    let spinner = ProgressBar::new_spinner().with_style(style("{spinner} draining · {msg}")?);
    spinner.enable_steady_tick(Duration::from_millis(100));
    let drained = drain(&mut judge, |tally| spinner.set_message(line(tally))).await?;
    spinner.finish_and_clear();
    let outcome = if drained.agreed { "everything arrived" } else { "still not equal" };
    println!("drain: {outcome} after {:.1} s", drained.took.as_secs_f64());
    let report = judge.report().await?;
    print!("{report}");
    print_lag(&report);
    Ok(report.agrees())
}

fn print_lag(report: &Report) {
    if let (Some(p50), Some(p99)) = (report.lag_ms(0.5), report.lag_ms(0.99)) {
        println!(
            "lag from commit in Postgres to the record's timestamp, over {} changes: p50 {p50} ms, p99 {p99} ms",
            report.lags_ms.len()
        );
    }
}

fn line(tally: &Tally) -> String {
    let open = tally.topics.iter().map(|(topic, [rows, folded, records, lines, documents])| {
        let documents =
            if *documents == u64::MAX { String::new() } else { format!(" {documents} docs") };
        format!("{topic} {rows}/{folded} rows {records}/{lines} lines{documents}")
    });
    open.collect::<Vec<_>>().join(" · ")
}

fn style(template: &str) -> anyhow::Result<ProgressStyle> {
    Ok(ProgressStyle::with_template(template)?)
}

fn market() -> Vec<Expectation> {
    let events = |aggregate: &str| Expectation {
        topic: format!("{aggregate}.events"),
        origin: Origin::Outbox(Table::new(aggregate, "outbox"), aggregate.to_owned()),
        alias: None,
    };
    let table = |topic: &str, schema: &str, name: &str, alias: Option<&str>| Expectation {
        topic: topic.to_owned(),
        origin: Origin::Table(Table::new(schema, name)),
        alias: alias.map(str::to_owned),
    };
    vec![
        events("orders"),
        events("payments"),
        table("inventory.cdc", "inventory", "stock", None),
        table("product_documents.cdc", "catalog", "product_documents", Some("products")),
    ]
}

fn pgbench() -> Vec<Expectation> {
    ["accounts", "branches", "tellers", "history"]
        .map(|name| Expectation {
            topic: format!("pgbench.{name}"),
            origin: Origin::Table(Table::new("public", &format!("pgbench_{name}"))),
            alias: None,
        })
        .into()
}
