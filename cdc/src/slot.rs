//! The server's side of the story: which cluster it is and what it keeps for us.

use std::time::Duration;

use tailwater_topics_contract::Lsn;

use crate::stream::{Connection, Error, Row, quote_identifier, quote_literal};

/// Creating a slot waits for every transaction that is already running.
const CREATE_WAIT: Duration = Duration::from_secs(600);

/// What a server says of itself and of one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `system_identifier` of the cluster.
    pub system_id: String,
    /// Its current timeline.
    pub timeline: u32,
    /// How far its WAL is written.
    pub wal_end: Lsn,
    /// Milliseconds after which it drops a reader that does not answer; 0 is never.
    pub wal_sender_timeout_ms: u64,
    /// The slot, if it exists.
    pub slot: Option<Slot>,
}

/// A row of `pg_replication_slots`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Output plugin; empty for a physical slot.
    pub plugin: String,
    /// The database it decodes; empty for a physical slot.
    pub database: String,
    /// The server process that reads it now.
    pub active_pid: Option<u32>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: String,
    /// Oldest WAL it keeps.
    pub restart_lsn: Option<Lsn>,
    /// What it was told to forget.
    pub confirmed_flush: Option<Lsn>,
}

/// Where the timelines before the current one ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History(Vec<(u32, Lsn)>);

impl History {
    /// Reads a timeline history file: `parent timeline, switch point, reason` on each line.
    pub fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let mut fields = line.split_whitespace();
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// Where a timeline ended; `None` when it is not an ancestor.
    pub fn end_of(&self, timeline: u32) -> Option<Lsn> {
        self.0.iter().find(|(parent, _)| *parent == timeline).map(|(_, end)| *end)
    }
}

/// Asks the server who it is and what it holds under the slot's name.
pub async fn inspect(connection: &mut Connection, slot: &str) -> Result<Server, Error> {
    let system = one(connection, "IDENTIFY_SYSTEM").await?;
    let timeout = one(
        connection,
        "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'",
    )
    .await?;
    let server = Server {
        system_id: text(connection, &system, 0)?,
        timeline: number(connection, &system, 1)?,
        wal_end: number(connection, &system, 2)?,
        wal_sender_timeout_ms: number(connection, &timeout, 0)?,
        slot: None,
    };
    Ok(Server { slot: find(connection, slot).await?, ..server })
}

/// The row of a slot, if it exists.
pub async fn find(connection: &mut Connection, slot: &str) -> Result<Option<Slot>, Error> {
    let sql = format!(
        "SELECT plugin, database, active_pid, wal_status, restart_lsn, confirmed_flush_lsn \
         FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
        quote_literal(slot)
    );
    let rows = connection.query(&sql).await?;
    Ok(rows.first().map(|row| {
        let text = |column| row.get(column).unwrap_or_default().to_owned();
        let lsn = |column| row.get(column).and_then(|lsn| lsn.parse().ok());
        Slot {
            plugin: text(0),
            database: text(1),
            active_pid: row.get(2).and_then(|pid| pid.parse().ok()),
            wal_status: text(3),
            restart_lsn: lsn(4),
            confirmed_flush: lsn(5),
        }
    }))
}

/// What the slot costs the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of WAL kept because the slot needs them.
    pub retained: u64,
    /// Bytes of WAL until the server gives the slot up; `None` when it never does.
    pub budget: Option<u64>,
}

/// Asks what the slot costs; `None` when there is none. Not `greatest(0, safe_wal_size)`, which passes over nulls: without a
/// limit it says 0.
pub async fn cost(connection: &mut Connection, slot: &str) -> Result<Option<Cost>, Error> {
    let sql = format!(
        "SELECT greatest(0, pg_catalog.pg_wal_lsn_diff(CASE WHEN pg_catalog.pg_is_in_recovery() \
         THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END, restart_lsn))::bigint, \
         CASE WHEN safe_wal_size < 0 THEN 0 ELSE safe_wal_size END \
         FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
        quote_literal(slot)
    );
    let rows = connection.query(&sql).await?;
    Ok(rows.first().map(|row| {
        let bytes = |column| row.get(column).and_then(|bytes| bytes.parse().ok());
        Cost { retained: bytes(0).unwrap_or_default(), budget: bytes(1) }
    }))
}

/// The timelines that led to this one.
pub async fn history(connection: &mut Connection, timeline: u32) -> Result<History, Error> {
    let row = one(connection, &format!("TIMELINE_HISTORY {timeline}")).await?;
    Ok(History::parse(row.get(1).unwrap_or_default()))
}

/// Creates the slot. Answers the position at which it begins and the name of the snapshot that sees exactly what
/// committed before; it can be imported until the next command on this connection.
///
/// Servers from 17 on are asked to keep the slot on their standbys too. That costs nothing where there are none.
pub async fn create(connection: &mut Connection, slot: &str) -> Result<(Lsn, String), Error> {
    let options = if has_failover_slots(connection).await? {
        "(SNAPSHOT 'export', FAILOVER)"
    } else {
        "EXPORT_SNAPSHOT"
    };
    let name = quote_identifier(slot);
    make(connection, &format!("CREATE_REPLICATION_SLOT {name} LOGICAL pgoutput {options}")).await
}

/// A standby refuses to make a slot that its own standbys keep.
async fn has_failover_slots(connection: &mut Connection) -> Result<bool, Error> {
    let sql = "SELECT pg_catalog.current_setting('server_version_num')::int >= 170000 \
               AND NOT pg_catalog.pg_is_in_recovery()";
    Ok(one(connection, sql).await?.get(0) == Some("t"))
}

/// Creates a slot that ends with the connection, for its point and its snapshot.
pub async fn create_temporary(connection: &mut Connection) -> Result<(Lsn, String), Error> {
    let pid = one(connection, "SELECT pg_catalog.pg_backend_pid()").await?;
    let name = quote_identifier(&format!("tailwater_copy_{}", text(connection, &pid, 0)?));
    let sql = format!("CREATE_REPLICATION_SLOT {name} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT");
    make(connection, &sql).await
}

/// Makes another slot, which ends with the connection and stands where the slot does. It waits for nobody.
pub async fn copy_temporary(connection: &mut Connection, slot: &str) -> Result<String, Error> {
    let pid = one(connection, "SELECT pg_catalog.pg_backend_pid()").await?;
    let name = format!("tailwater_join_{}", text(connection, &pid, 0)?);
    let sql = format!(
        "SELECT pg_catalog.pg_copy_logical_replication_slot({}, {}, true)",
        quote_literal(slot),
        quote_literal(&name)
    );
    one(connection, &sql).await?;
    Ok(name)
}

async fn make(connection: &mut Connection, sql: &str) -> Result<(Lsn, String), Error> {
    let created = connection.query_within(sql, CREATE_WAIT).await?;
    let row = created.into_iter().next().ok_or_else(|| missing(connection, sql))?;
    Ok((number(connection, &row, 1)?, text(connection, &row, 2)?))
}

/// The first of these quoted tables that holds a row.
pub async fn first_filled(
    connection: &mut Connection,
    tables: &[String],
) -> Result<Option<String>, Error> {
    for table in tables {
        let row = one(connection, &format!("SELECT EXISTS (SELECT FROM {table})")).await?;
        if row.get(0) == Some("t") {
            return Ok(Some(table.clone()));
        }
    }
    Ok(None)
}

/// Drops a slot that nobody reads.
pub async fn drop(connection: &mut Connection, slot: &str) -> Result<(), Error> {
    let sql = format!("DROP_REPLICATION_SLOT {}", quote_identifier(slot));
    connection.query(&sql).await.map(|_| ())
}

async fn one(connection: &mut Connection, sql: &str) -> Result<Row, Error> {
    let rows = connection.query(sql).await?;
    rows.into_iter().next().ok_or_else(|| missing(connection, sql))
}

fn missing(connection: &Connection, sql: &str) -> Error {
    protocol(connection, format!("no row for `{sql}`"))
}

fn text(connection: &Connection, row: &Row, column: usize) -> Result<String, Error> {
    let value = row.get(column).map(str::to_owned);
    value.ok_or_else(|| protocol(connection, format!("nothing in column {column}")))
}

fn number<T: std::str::FromStr>(
    connection: &Connection,
    row: &Row,
    column: usize,
) -> Result<T, Error> {
    let value = text(connection, row, column)?;
    value.parse().map_err(|_| protocol(connection, format!("`{value}` where a number was due")))
}

fn protocol(connection: &Connection, problem: String) -> Error {
    Error::Protocol { address: connection.address().to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_tells_where_each_timeline_ended() {
        let history = History::parse("1\t0/5000098\tno recovery target\n\n2\t1/A0\tbefore x\n");
        assert_eq!(history.end_of(1), Some(Lsn(0x500_0098)));
        assert_eq!(history.end_of(2), Some(Lsn(0x1_0000_00A0)));
        assert_eq!(history.end_of(3), None);
    }
}
