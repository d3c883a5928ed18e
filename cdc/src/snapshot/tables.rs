//! What there is to copy: columns and filter as the publication has them, and where the rows are.

use tailwater_topics_contract::TableName;

use super::Error;
use super::ranges::Leaf;
use crate::copies::Due;
use crate::pgoutput::{RelationColumn, RelationMessage, ReplicaIdentity, oid_of};
use crate::stream::{self, Connection, Row, quote_identifier, quote_literal};

/// A table to be copied.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// As the stream would announce it.
    pub(crate) relation: RelationMessage,
    /// Why it is copied.
    pub(crate) due: Due,
    /// Row filter of the publication.
    pub(crate) filter: Option<String>,
    /// Where its rows are.
    pub(crate) leaves: Vec<Leaf>,
}

impl Table {
    /// The name.
    pub(crate) fn name(&self) -> TableName {
        TableName { schema: self.relation.schema.clone(), table: self.relation.name.clone() }
    }

    /// Its published columns as SQL takes them.
    pub(crate) fn columns(&self) -> String {
        let quoted = self.relation.columns.iter().map(|column| quote_identifier(&column.name));
        quoted.collect::<Vec<_>>().join(", ")
    }

    /// Looks tables up, within a snapshot, many with one query; those that the publication does not have are left out.
    pub(crate) async fn find_all(
        connection: &mut Connection,
        publication: &str,
        due: &[Due],
    ) -> Result<Vec<Self>, Error> {
        let mut tables: Vec<Self> = Vec::new();
        for due in due.chunks(AT_ONCE) {
            let first = tables.len();
            let rows = connection.query(&columns_sql(publication, due)).await;
            for rows in
                rows.map_err(Error::Snapshot)?.chunk_by(|one, next| one.get(0) == next.get(0))
            {
                let at: usize = number(connection, &rows[0], 0).map_err(Error::Snapshot)?;
                if let Some(due) = due.get(at) {
                    let described = Self::described(connection, due, rows);
                    tables.push(described.map_err(|source| read(&due.table, source))?);
                }
            }
            Self::find_leaves(connection, &mut tables, first).await?;
        }
        Ok(tables)
    }

    /// From a row for each column, of which there is one at least.
    fn described(connection: &Connection, due: &Due, rows: &[Row]) -> Result<Self, stream::Error> {
        let first = &rows[0];
        let identity = match first.get(2) {
            Some("n") => ReplicaIdentity::Nothing,
            Some("f") => ReplicaIdentity::Full,
            Some("i") => ReplicaIdentity::Index,
            _ => ReplicaIdentity::Default,
        };
        let mut columns = Vec::new();
        for row in rows {
            // As the stream announces types that are not built in, domains with the type beneath.
            let type_name = row.get(9).map(str::to_owned);
            let built_in = (row.get(8) == Some("pg_catalog"))
                .then(|| type_name.as_deref().and_then(oid_of))
                .flatten();
            columns.push(RelationColumn {
                name: row.get(4).unwrap_or_default().to_owned(),
                type_oid: match built_in {
                    Some(oid) => oid,
                    None => number(connection, row, 5)?,
                },
                type_modifier: number(connection, row, 7)?,
                type_name,
                is_identity: row.get(6) == Some("t"),
            });
        }
        let (schema, name) = (due.table.schema.clone(), due.table.table.clone());
        let oid = number(connection, first, 1)?;
        let relation = RelationMessage { oid, schema, name, identity, columns };
        let filter = first.get(3).map(str::to_owned);
        Ok(Self { relation, due: due.clone(), filter, leaves: Vec::new() })
    }

    /// Where the rows are, of the tables from `first` on.
    async fn find_leaves(
        connection: &mut Connection,
        tables: &mut [Self],
        first: usize,
    ) -> Result<(), Error> {
        let oids: Vec<u32> = tables[first..].iter().map(|table| table.relation.oid).collect();
        if oids.is_empty() {
            return Ok(());
        }
        for row in connection.query(&leaves_sql(&oids)).await.map_err(Error::Snapshot)? {
            let place: usize = number(connection, &row, 0).map_err(Error::Snapshot)?;
            let at = first + place;
            let Some(table) = tables.get_mut(at) else { continue };
            let name = table.name();
            if row.get(7) != Some("t") {
                return Err(Error::Changed { table: name });
            }
            let failed = |source| read(&name, source);
            table.leaves.push(Leaf {
                table: at,
                oid: number(connection, &row, 1).map_err(failed)?,
                quoted: row.get(2).unwrap_or_default().to_owned(),
                filenode: number(connection, &row, 3).map_err(failed)?,
                pages: number(connection, &row, 4).map_err(failed)?,
                bytes: number(connection, &row, 5).map_err(failed)?,
                is_heap: row.get(6) == Some("t"),
            });
        }
        Ok(())
    }
}

fn read(table: &TableName, source: stream::Error) -> Error {
    Error::Read { table: table.clone(), source }
}

/// How many tables a query looks up.
const AT_ONCE: usize = 250;

/// Where oids begin that are not the same in every database; `FirstGenbkiObjectId` in `access/transam.h`.
const FIRST_OWN_OID: u32 = 10_000;

/// The columns that the stream would send. Column lists and filters are there from 15 on; generated columns are sent
/// from 18 on, and only where the publication says so.
fn columns_sql(publication: &str, due: &[Due]) -> String {
    let wanted = |(at, due): (usize, &Due)| {
        let (schema, table) = (quote_literal(&due.table.schema), quote_literal(&due.table.table));
        format!("({at}, {schema}, {table})")
    };
    let wanted: Vec<String> = due.iter().enumerate().map(wanted).collect();
    format!(
        "WITH wanted (at, schemaname, tablename) AS (VALUES {}),
         published AS (
             SELECT at, to_jsonb(p) AS p FROM pg_catalog.pg_publication_tables p
             JOIN wanted USING (schemaname, tablename) WHERE pubname = {})
         SELECT at, c.oid, c.relreplident, p->>'rowfilter', a.attname, a.atttypid,
                c.relreplident = 'f' OR EXISTS (
                    SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid
                    AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
                    AND (CASE c.relreplident WHEN 'd' THEN i.indisprimary ELSE i.indisreplident END)),
                a.atttypmod, t.nspname, t.typname
         FROM published
         JOIN pg_catalog.pg_namespace n ON n.nspname = p->>'schemaname'
         JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = p->>'tablename'
         JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         LEFT JOIN LATERAL (
             WITH RECURSIVE beneath AS (
                 SELECT t.typtype, t.typbasetype, t.typname, t.typnamespace
                 FROM pg_catalog.pg_type t WHERE t.oid = a.atttypid
                 UNION ALL
                 SELECT t.typtype, t.typbasetype, t.typname, t.typnamespace
                 FROM beneath b JOIN pg_catalog.pg_type t ON b.typtype = 'd' AND t.oid = b.typbasetype)
             SELECT b.typname, s.nspname FROM beneath b
             JOIN pg_catalog.pg_namespace s ON s.oid = b.typnamespace WHERE b.typtype <> 'd') t
             ON a.atttypid >= {FIRST_OWN_OID}
         WHERE (NOT p ? 'attnames' OR p->'attnames' ? a.attname)
           AND (a.attgenerated = '' OR current_setting('server_version_num')::int >= 180000)
         ORDER BY at, a.attnum",
        wanted.join(", "),
        quote_literal(publication)
    )
}

/// Each table, or the partitions at the bottom of it. Foreign and unlogged ones are not in the WAL either. A partition
/// that is not there in our snapshot holds nothing but rows that will be streamed.
fn leaves_sql(oids: &[u32]) -> String {
    let wanted: Vec<String> =
        oids.iter().enumerate().map(|(at, oid)| format!("({at}, {oid}::oid)")).collect();
    format!(
        "SELECT wanted.at, l.oid, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(l.relname), l.relfilenode,
                pg_catalog.pg_relation_size(l.oid, 'main') / current_setting('block_size')::bigint,
                pg_catalog.pg_table_size(l.oid), coalesce(m.amname = 'heap', false),
                l.relfilenode = pg_catalog.pg_relation_filenode(l.oid)
         FROM (VALUES {}) AS wanted (at, oid)
         JOIN pg_catalog.pg_class r ON r.oid = wanted.oid
         CROSS JOIN LATERAL (
             SELECT relid::oid AS oid FROM pg_catalog.pg_partition_tree(r.oid) WHERE isleaf
             UNION SELECT r.oid) t
         JOIN pg_catalog.pg_class l ON l.oid = t.oid
         JOIN pg_catalog.pg_namespace n ON n.oid = l.relnamespace
         LEFT JOIN pg_catalog.pg_am m ON m.oid = l.relam
         WHERE l.relkind = 'r' AND l.relpersistence = 'p'
         ORDER BY wanted.at, l.oid",
        wanted.join(", ")
    )
}

fn number<T: std::str::FromStr>(
    connection: &Connection,
    row: &Row,
    column: usize,
) -> Result<T, stream::Error> {
    let value = row.get(column).and_then(|value| value.parse().ok());
    value.ok_or_else(|| stream::Error::Protocol {
        address: connection.address().to_owned(),
        problem: format!("no number in column {column} of a table's description"),
    })
}
