//! `tailwater-marketplace`: one binary, a subcommand per service.
#![forbid(unsafe_code)]

use std::net::SocketAddr;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tailwater_marketplace::{catalog, database, inventory, orders, payments, serve};
use tailwater_runtime::{Shutdown, init_logging, install_metrics};

/// The example marketplace. Each service owns one schema of the database and writes to nothing else.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What to log, as a filter such as `info` or `tailwater_marketplace=debug`
    #[arg(long, global = true, default_value = "info", env = "TAILWATER_LOG")]
    log: String,
}

#[derive(Subcommand)]
enum Command {
    /// Bring the database's schema up to date, then end
    Migrate(Database),
    /// Products, prices and search documents
    Catalog(Service),
    /// Stock in warehouses
    Inventory(Service),
    /// Orders and their events
    Orders(Service),
    /// Payments and their events
    Payments(Service),
}

#[derive(Args)]
struct Database {
    /// Postgres, such as postgres://user@127.0.0.1/market
    #[arg(long, env = "TAILWATER_MARKET_DATABASE_URL", hide_env_values = true)]
    database_url: String,
}

#[derive(Args)]
struct Service {
    #[command(flatten)]
    database: Database,
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    init_logging(&cli.log);
    let (service, router): (Service, fn(_) -> _) = match cli.command {
        Command::Migrate(database) => return database::migrate(&database.database_url).await,
        Command::Catalog(service) => (service, catalog::router),
        Command::Inventory(service) => (service, inventory::router),
        Command::Orders(service) => (service, orders::router),
        Command::Payments(service) => (service, payments::router),
    };
    let metrics = install_metrics().context("metrics could not be installed")?;
    let shutdown = Shutdown::install()?;
    let stop = shutdown.token();
    tokio::spawn(shutdown.listen());
    let pool = database::pool(&service.database.database_url)?;
    serve::serve(service.listen, router(pool.clone()), pool, metrics, stop).await
}
