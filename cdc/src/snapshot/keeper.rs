//! The session that keeps the snapshot, and how it comes by one.

use std::collections::VecDeque;
use std::time::Duration;

use tailwater_topics_contract::{Lsn, TableName};

use super::ranges::{Range, split};
use super::{Error, Table};
use crate::config::Config;
use crate::copies::Due;
use crate::slot;
use crate::stream::{Connection, Mode, Row, quote_literal};

/// How long a statement that begins a transaction may take.
const BEGIN_WAIT: Duration = Duration::from_secs(30);

/// Limits in time are meant for a role's own queries, not for a copy of a large table.
const UNLIMITED: &str = "
SELECT set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name IN (
    'statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout',
    'transaction_timeout');
SET row_security = off";

/// A snapshot that can be imported as long as this lives.
#[derive(Debug)]
pub(crate) struct Keeper {
    connection: Connection,
    /// Its name.
    pub(crate) snapshot: String,
    /// When it was taken, in milliseconds since 1970 by the server's clock.
    pub(crate) taken_ms: i64,
}

/// A snapshot with everything that is to be read in it.
#[derive(Debug)]
pub(crate) struct Taken {
    /// The point of history.
    pub(crate) at: Lsn,
    /// Keeps it.
    pub(crate) keeper: Keeper,
    /// The tables.
    pub(crate) tables: Vec<Table>,
    /// Their pieces.
    pub(crate) ranges: VecDeque<Range>,
}

/// Opens a session for copying.
pub(super) async fn open(config: &Config) -> Result<Connection, crate::stream::Error> {
    let application = format!("tailwater {} copy", config.pipeline);
    let mut connection = Connection::open(&config.postgres, &application, Mode::Sql).await?;
    connection.query(UNLIMITED).await?;
    Ok(connection)
}

/// Begins a transaction in a snapshot.
pub(super) async fn enter(connection: &mut Connection, snapshot: &str) -> Result<(), Error> {
    let sql = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
        quote_literal(snapshot)
    );
    match connection.query_within(&sql, BEGIN_WAIT).await {
        Ok(_) => Ok(()),
        // Undefined object, or an identifier the server does not know: whoever exported it is gone.
        Err(error) if error.is("42704") || error.is("22023") => Err(Error::Gone),
        Err(error) => Err(Error::Snapshot(error)),
    }
}

impl Keeper {
    /// Imports a snapshot that somebody exported and keeps it. Afterwards the exporter is free.
    pub(crate) async fn import(config: &Config, exported: &str) -> Result<Self, Error> {
        let mut connection = open(config).await.map_err(Error::Snapshot)?;
        enter(&mut connection, exported).await?;
        let sql = "SELECT pg_catalog.pg_export_snapshot(), (extract(epoch FROM pg_catalog.now()) * 1000)::bigint";
        let rows = connection.query(sql).await.map_err(Error::Snapshot)?;
        let text = |column| rows.first().and_then(|row| row.get(column));
        let snapshot = text(0).unwrap_or_default().to_owned();
        let taken_ms = text(1).and_then(|ms| ms.parse().ok()).unwrap_or_default();
        Ok(Self { connection, snapshot, taken_ms })
    }

    /// A session in the snapshot.
    pub(crate) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

impl Taken {
    /// Looks up the tables in a snapshot that is kept; those that the publication does not have are left out.
    pub(crate) async fn of(
        config: &Config,
        at: Lsn,
        mut keeper: Keeper,
        due: &[Due],
    ) -> Result<Self, Error> {
        let publication = config.pipeline.changes_publication();
        let tables = Table::find_all(&mut keeper.connection, &publication, due).await?;
        let leaves = tables.iter().flat_map(|table| table.leaves.iter().cloned()).collect();
        let ranges = split(leaves, config.limits.copy_workers).into();
        Ok(Self { at, keeper, tables, ranges })
    }

    /// Takes a snapshot of tables ahead of where their changes stand, which wait meanwhile; `None` when the publication has
    /// none of them. Its slot is temporary and gone when this returns.
    pub(crate) async fn ahead(config: &Config, due: &[Due]) -> Result<Option<Self>, Error> {
        let names: Vec<TableName> = due.iter().map(|due| due.table.clone()).collect();
        if published(config, &names).await?.is_empty() {
            return Ok(None);
        }
        let application = format!("tailwater {} copy", config.pipeline);
        let opened = Connection::open(&config.postgres, &application, Mode::Replication).await;
        let mut connection = opened.map_err(Error::Snapshot)?;
        tracing::info!(
            tables = names.len(),
            "taking a snapshot; it waits for running transactions"
        );
        let created = slot::create_temporary(&mut connection).await;
        let (at, exported) = created.map_err(Error::Snapshot)?;
        let keeper = Keeper::import(config, &exported).await?;
        connection.close().await;
        Ok(Some(Self::of(config, at, keeper, due).await?))
    }
}

/// Those of the tables that the publication has. A topic is registered before its table is published, so that no change
/// comes without a route.
pub(crate) async fn published(
    config: &Config,
    names: &[TableName],
) -> Result<Vec<TableName>, Error> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let listed: Vec<String> = names
        .iter()
        .map(|name| format!("({}, {})", quote_literal(&name.schema), quote_literal(&name.table)))
        .collect();
    let sql = format!(
        "SELECT schemaname, tablename FROM pg_catalog.pg_publication_tables WHERE pubname = {} AND (schemaname, tablename) IN ({})",
        quote_literal(&config.pipeline.changes_publication()),
        listed.join(", ")
    );
    let mut connection = open(config).await.map_err(Error::Snapshot)?;
    let rows = connection.query(&sql).await.map_err(Error::Snapshot)?;
    connection.close().await;
    let name = |row: &Row| {
        let text = |column| row.get(column).unwrap_or_default().to_owned();
        TableName { schema: text(0), table: text(1) }
    };
    Ok(rows.iter().map(name).collect())
}
