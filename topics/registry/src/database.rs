//! Tables and publications in Postgres.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::{Duration, Instant};

use tailwater_config::PostgresConfig;
use tailwater_postgres::Client;
use tailwater_runtime::Backoff;
use tailwater_topics_contract::{PipelineName, TableName};
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;

use crate::table::{Column, Identity, Leaf, TableKind, TableState};
use crate::world::PublicationState;

/// How long a server that does not answer is tried again. Covers a restart.
const CONNECT_MAX: Duration = Duration::from_secs(15);

/// How these sessions call themselves in `pg_stat_activity`.
const APPLICATION: &str = "tailwater registry";

/// What a database holds that could be captured.
#[derive(Clone, Debug)]
pub struct Discovered {
    /// Every table that is no partition of another.
    pub tables: BTreeMap<TableName, TableState>,
    /// Aggregate types found in tables that are outboxes.
    pub aggregates: BTreeMap<TableName, BTreeSet<String>>,
    /// `wal_level` of the server; capturing needs `logical`.
    pub wal_level: String,
}

/// Looks through a whole database.
pub async fn discover(config: &PostgresConfig) -> Result<Discovered, Error> {
    let database = Database::connect(config).await?;
    let rows = database.client.query(NAMES, &[]).await.map_err(query("tables"))?;
    let name = |row: &tokio_postgres::Row| TableName { schema: row.get(0), table: row.get(1) };
    let names: BTreeSet<TableName> = rows.iter().map(name).collect();
    let tables = database.tables(&names).await?;
    let mut aggregates = BTreeMap::new();
    for (name, table) in &tables {
        if table.outbox_obstacles(name).is_empty() {
            aggregates.insert(name.clone(), database.aggregates(name).await?);
        }
    }
    let row = database.client.query_one("SHOW wal_level", &[]).await;
    let wal_level = row.map_err(query("`wal_level`"))?.get(0);
    Ok(Discovered { tables, aggregates, wal_level })
}

const NAMES: &str = "
SELECT n.nspname, c.relname
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'";

/// A connection to the database.
pub(crate) struct Database {
    client: Client,
}

/// Postgres did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answered, or only servers that take no writes.
    #[error("Postgres at {address} did not answer: tried {attempts} times in {} s", waited.as_secs())]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// How often.
        attempts: u32,
        /// For how long.
        waited: Duration,
        /// How the last attempt ended.
        #[source]
        source: tailwater_postgres::Error,
    },
    /// It answered, and would not have us or not in a way that can be trusted.
    #[error(transparent)]
    Refused(tailwater_postgres::Error),
    /// A statement failed.
    #[error("Postgres refused `{sql}`")]
    Statement {
        /// The statement.
        sql: String,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A query of the system catalogs failed.
    #[error("could not read {what} from Postgres")]
    Query {
        /// What was wanted.
        what: &'static str,
        /// Why not.
        #[source]
        source: tokio_postgres::Error,
    },
}

impl Database {
    /// Connects, trying again while the server does not answer or is still starting.
    pub(crate) async fn connect(config: &PostgresConfig) -> Result<Self, Error> {
        let begun = Instant::now();
        let waits = Backoff::new(Duration::from_millis(100), Duration::from_secs(3), rand::rng());
        for (attempts, wait) in (1..).zip(waits) {
            let source = match tailwater_postgres::client(config, APPLICATION).await {
                Ok(client) => return Ok(Self { client }),
                Err(error) => error,
            };
            if source.is_definite() {
                return Err(Error::Refused(source));
            }
            let address = config.address();
            if begun.elapsed() + wait > CONNECT_MAX {
                return Err(Error::Unreachable {
                    address,
                    attempts,
                    waited: begun.elapsed(),
                    source,
                });
            }
            if attempts == 1 {
                tracing::warn!(address, error = %source, "waiting for Postgres");
            }
            tokio::time::sleep(wait).await;
        }
        unreachable!("back-off never ends")
    }

    /// Waits until nobody else applies to this pipeline; lasts as long as the connection.
    pub(crate) async fn lock(&self, pipeline: &PipelineName) -> Result<(), Error> {
        let key = format!("tailwater.apply.{pipeline}");
        let sql = "SELECT pg_advisory_lock(hashtextextended($1, 0))";
        self.client.execute(sql, &[&key]).await.map(|_| ()).map_err(query("the apply lock"))
    }

    /// Those of the tables that exist.
    pub(crate) async fn tables(
        &self,
        names: &BTreeSet<TableName>,
    ) -> Result<BTreeMap<TableName, TableState>, Error> {
        let schemas: Vec<&str> = names.iter().map(|name| name.schema.as_str()).collect();
        let tables: Vec<&str> = names.iter().map(|name| name.table.as_str()).collect();
        let rows =
            self.client.query(TABLES, &[&schemas, &tables]).await.map_err(query("tables"))?;
        let mut found = BTreeMap::new();
        for row in rows {
            let oid: u32 = row.get("oid");
            let name = TableName { schema: row.get("schema"), table: row.get("name") };
            let root: Option<String> = row.get("root_table");
            let kind = match (row.get::<_, i8>("kind") as u8, root) {
                (_, Some(table)) => TableKind::Partition {
                    root: TableName { schema: row.get("root_schema"), table },
                },
                (b'r', None) => TableKind::Plain,
                (b'p', None) => TableKind::Partitioned,
                (b'v', None) => TableKind::Other("a view"),
                (b'm', None) => TableKind::Other("a materialized view"),
                (b'f', None) => TableKind::Other("a foreign table"),
                (b'S', None) => TableKind::Other("a sequence"),
                _ => TableKind::Other("not a table"),
            };
            let primary_key: Vec<String> = row.get("primary_key");
            let identity = identity(row.get("identity"), row.get("identity_index"));
            let leaves =
                if kind == TableKind::Partitioned { self.leaves(oid).await? } else { Vec::new() };
            let has_toast =
                row.get::<_, bool>("has_toast") || leaves.iter().any(|(_, toast)| *toast);
            let state = TableState {
                kind,
                is_logged: row.get("is_logged"),
                columns: self.columns(oid).await?,
                primary_key,
                identity,
                has_toast,
                leaves: leaves.into_iter().map(|(leaf, _)| leaf).collect(),
            };
            found.insert(name, state);
        }
        Ok(found)
    }

    async fn columns(&self, oid: u32) -> Result<Vec<Column>, Error> {
        let rows = self.client.query(COLUMNS, &[&oid]).await.map_err(query("columns"))?;
        let column = |row: &tokio_postgres::Row| Column {
            name: row.get("name"),
            data_type: row.get("data_type"),
            is_toastable: row.get("is_toastable"),
            is_generated: row.get("is_generated"),
            is_nullable: row.get("is_nullable"),
            base_type: row.get("base_type"),
            is_enum: row.get("is_enum"),
        };
        Ok(rows.iter().map(column).collect())
    }

    async fn leaves(&self, oid: u32) -> Result<Vec<(Leaf, bool)>, Error> {
        let rows = self.client.query(LEAVES, &[&oid]).await.map_err(query("partitions"))?;
        let leaf = |row: &tokio_postgres::Row| {
            let primary_key: Vec<String> = row.get("primary_key");
            let leaf = Leaf {
                name: TableName { schema: row.get("schema"), table: row.get("name") },
                identity: identity(row.get("identity"), row.get("identity_index")),
                primary_key,
            };
            (leaf, row.get("has_toast"))
        };
        Ok(rows.iter().map(leaf).collect())
    }

    /// Aggregate types of the events in an outbox. A table too large to be looked through in some seconds has none:
    /// that is less than could be known, and nothing wrong.
    pub(crate) async fn aggregates(&self, outbox: &TableName) -> Result<BTreeSet<String>, Error> {
        let sql = format!(
            "SET statement_timeout = '5s'; SELECT DISTINCT aggregate_type FROM {} LIMIT 100; RESET statement_timeout",
            outbox.quoted()
        );
        let answer = self.client.simple_query(&sql).await;
        if let Err(error) = &answer
            && error.code() == Some(&SqlState::QUERY_CANCELED)
        {
            self.run("RESET statement_timeout".to_owned()).await?;
            return Ok(BTreeSet::new());
        }
        let rows = answer.map_err(query("aggregate types"))?;
        let aggregate = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        };
        Ok(rows.iter().filter_map(aggregate).collect())
    }

    /// Those of the publications that exist.
    pub(crate) async fn publications(
        &self,
        names: &[String],
    ) -> Result<BTreeMap<String, PublicationState>, Error> {
        let rows = self.client.query(PUBLICATIONS, &[&names]).await;
        let mut found = BTreeMap::new();
        for row in rows.map_err(query("publications"))? {
            let operations = ["insert", "update", "delete", "truncate"];
            let publish: Vec<&str> =
                operations.into_iter().filter(|operation| row.get(*operation)).collect();
            let state = PublicationState {
                tables: BTreeSet::new(),
                takes_all: row.get("takes_all"),
                via_root: row.get("via_root"),
                publish: publish.join(", "),
            };
            found.insert(row.get("name"), state);
        }
        let rows = self.client.query(PUBLISHED, &[&names]).await;
        for row in rows.map_err(query("published tables"))? {
            let table = TableName { schema: row.get("schema"), table: row.get("name") };
            if let Some(state) = found.get_mut(&row.get::<_, String>("publication")) {
                state.tables.insert(table);
            }
        }
        Ok(found)
    }

    /// Creates a publication.
    pub(crate) async fn create_publication(
        &self,
        name: &str,
        publish: &str,
        tables: &[TableName],
    ) -> Result<(), Error> {
        let mut sql = format!("CREATE PUBLICATION {}", quoted(name));
        if !tables.is_empty() {
            let _ = write!(sql, " FOR TABLE {}", listed(tables));
        }
        let _ = write!(sql, " WITH ({})", publication_options(publish));
        self.run(sql).await
    }

    /// Sets what a publication publishes.
    pub(crate) async fn set_publication(&self, name: &str, publish: &str) -> Result<(), Error> {
        let options = publication_options(publish);
        self.run(format!("ALTER PUBLICATION {} SET ({options})", quoted(name))).await
    }

    /// Adds tables to a publication.
    pub(crate) async fn publish(&self, name: &str, tables: &[TableName]) -> Result<(), Error> {
        self.run(format!("ALTER PUBLICATION {} ADD TABLE {}", quoted(name), listed(tables))).await
    }

    /// Takes tables out of a publication.
    pub(crate) async fn unpublish(&self, name: &str, tables: &[TableName]) -> Result<(), Error> {
        self.run(format!("ALTER PUBLICATION {} DROP TABLE {}", quoted(name), listed(tables))).await
    }

    async fn run(&self, sql: String) -> Result<(), Error> {
        self.client.batch_execute(&sql).await.map_err(|source| Error::Statement { sql, source })
    }
}

fn query(what: &'static str) -> impl Fn(tokio_postgres::Error) -> Error {
    move |source| Error::Query { what, source }
}

fn identity(letter: i8, index: Vec<String>) -> Identity {
    match letter as u8 {
        b'f' => Identity::Full,
        b'n' => Identity::Nothing,
        // The index was dropped since: Postgres then takes the table for one without identity.
        b'i' if index.is_empty() => Identity::Nothing,
        b'i' => Identity::Index(index),
        _ => Identity::Default,
    }
}

fn publication_options(publish: &str) -> String {
    format!("publish = '{publish}', publish_via_partition_root = true")
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

fn listed(tables: &[TableName]) -> String {
    tables.iter().map(TableName::quoted).collect::<Vec<_>>().join(", ")
}

const TABLES: &str = "
SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind AS kind,
       c.relpersistence = 'p' AS is_logged, c.relreplident AS identity, c.reltoastrelid <> 0 AS has_toast,
       root.nspname AS root_schema, root.relname AS root_table,
       ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid
             AND a.attnum = ANY ((i.indkey::int2[])[0 : i.indnkeyatts - 1]) WHERE i.indrelid = c.oid AND i.indisprimary
             ORDER BY a.attnum) AS primary_key,
       ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid
             AND a.attnum = ANY ((i.indkey::int2[])[0 : i.indnkeyatts - 1]) WHERE i.indrelid = c.oid AND i.indisreplident
             ORDER BY a.attnum) AS identity_index
FROM unnest($1::text[], $2::text[]) AS wanted (nspname, relname)
JOIN pg_namespace n ON n.nspname = wanted.nspname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.relname
     AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
LEFT JOIN LATERAL (
    SELECT rn.nspname::text, rc.relname::text FROM pg_class rc JOIN pg_namespace rn ON rn.oid = rc.relnamespace
    WHERE c.relispartition AND rc.oid = pg_partition_root(c.oid)
) AS root ON true";

/// Only values that Postgres would rather move out of the row (`x`, `e`) count. A `numeric` is moved as a last
/// resort, which no sensible one ever meets.
const COLUMNS: &str = "
SELECT attname::text AS name, format_type(atttypid, NULL) AS data_type,
       attlen = -1 AND attstorage IN ('x', 'e') AS is_toastable, attgenerated <> '' AS is_generated,
       NOT attnotnull AS is_nullable, format_type(base.oid, NULL) AS base_type, base.typtype = 'e' AS is_enum
FROM pg_attribute
CROSS JOIN LATERAL (
    -- A domain may stand on domains.
    WITH RECURSIVE beneath AS (
        SELECT oid, typtype, typbasetype FROM pg_type WHERE oid = atttypid
        UNION ALL SELECT t.oid, t.typtype, t.typbasetype FROM pg_type t JOIN beneath b ON t.oid = b.typbasetype
    ) SELECT oid, typtype FROM beneath WHERE typbasetype = 0
) AS base
WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum";

const LEAVES: &str = "
SELECT n.nspname::text AS schema, c.relname::text AS name, c.relreplident AS identity,
       c.reltoastrelid <> 0 AS has_toast,
       ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid
             AND a.attnum = ANY ((i.indkey::int2[])[0 : i.indnkeyatts - 1]) WHERE i.indrelid = c.oid AND i.indisprimary) AS primary_key,
       ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid
             AND a.attnum = ANY ((i.indkey::int2[])[0 : i.indnkeyatts - 1]) WHERE i.indrelid = c.oid AND i.indisreplident) AS identity_index
FROM pg_partition_tree($1::oid::regclass) AS tree
JOIN pg_class c ON c.oid = tree.relid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE tree.isleaf AND c.relkind <> 'p' ORDER BY 1, 2";

const PUBLICATIONS: &str = "
SELECT pubname::text AS name, puballtables AS takes_all, pubviaroot AS via_root,
       pubinsert AS insert, pubupdate AS update, pubdelete AS delete, pubtruncate AS truncate
FROM pg_publication WHERE pubname = ANY ($1::text[])";

const PUBLISHED: &str = "
SELECT pubname::text AS publication, schemaname::text AS schema, tablename::text AS name
FROM pg_publication_tables WHERE pubname = ANY ($1::text[])";
