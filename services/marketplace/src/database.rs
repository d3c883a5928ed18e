//! The pool, and the schema's migrations.

use std::time::Duration;

use anyhow::Context;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tailwater_outbox::Outbox;
use tokio_postgres::{Config, NoTls};

/// Connections one service may hold; four of them stay well below the hundred that Postgres allows by default.
const CONNECTIONS_MAX: usize = 16;

/// How long a request waits for a connection; whoever asked has given up by then.
const CONNECTION_WAIT: Duration = Duration::from_secs(5);

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// A pool of connections; nothing is opened yet.
pub fn pool(url: &str) -> anyhow::Result<Pool> {
    let config: Config = url.parse().context("the database URL cannot be read")?;
    let manager_config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_config(config, NoTls, manager_config);
    let pool = Pool::builder(manager)
        .max_size(CONNECTIONS_MAX)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(CONNECTION_WAIT))
        .create_timeout(Some(CONNECTION_WAIT));
    Ok(pool.build()?)
}

/// Brings the schema up to date. May be run again at any time.
pub async fn migrate(url: &str) -> anyhow::Result<()> {
    let (mut client, connection) =
        tokio_postgres::connect(url, NoTls).await.context("connecting to Postgres")?;
    let connection = tokio::spawn(connection);
    // Of two migrations at once the second waits, and finds nothing left to do. Ends with the connection.
    let lock = "SELECT pg_advisory_lock(hashtextextended('tailwater.marketplace.migrate', 0))";
    client.execute(lock, &[]).await.context("waiting for another migration")?;
    embedded::migrations::runner().run_async(&mut client).await.context("migrating")?;
    for schema in ["orders", "payments"] {
        Outbox::of(schema)?.install(&client).await?;
    }
    drop(client);
    connection.await?.context("the connection failed")
}
