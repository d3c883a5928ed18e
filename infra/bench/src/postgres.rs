//! The way to Postgres for everything that is not measured.

use std::path::PathBuf;

use anyhow::Context;
use tokio_postgres::{Client, NoTls};

/// Connects, and serves the connection in the background.
pub(crate) async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .with_context(|| format!("connecting to {url}"))?;
    tokio::spawn(connection);
    Ok(client)
}

/// A client of Postgres' own: beside the server where the distribution keeps it, else on the path.
pub(crate) fn client_path(name: &str) -> PathBuf {
    let versions = (14..=18).rev().map(|v| format!("/usr/lib/postgresql/{v}/bin/{name}"));
    versions.map(PathBuf::from).find(|path| path.exists()).unwrap_or(name.into())
}
