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

    /// Looks a table up, within a snapshot; `None` when the publication does not have it. `at` is its place in the
    /// order.
    pub(crate) async fn find(
        connection: &mut Connection,
        publication: &str,
        due: &Due,
        at: usize,
    ) -> Result<Option<Self>, Error> {
        let name = &due.table;
        let failed = |source| Error::Read { table: name.clone(), source };
        let rows = connection.query(&columns_sql(publication, name)).await.map_err(failed)?;
        let Some(first) = rows.first() else { return Ok(None) };
        let oid = number(connection, first, 0).map_err(failed)?;
        let identity = match first.get(1) {
            Some("n") => ReplicaIdentity::Nothing,
            Some("f") => ReplicaIdentity::Full,
            Some("i") => ReplicaIdentity::Index,
            _ => ReplicaIdentity::Default,
        };
        let filter = first.get(2).map(str::to_owned);
        let mut columns = Vec::new();
        for row in &rows {
            // As the stream announces types that are not built in, domains with the type beneath.
            let type_name = row.get(8).map(str::to_owned);
            let built_in = (row.get(7) == Some("pg_catalog"))
                .then(|| type_name.as_deref().and_then(oid_of))
                .flatten();
            columns.push(RelationColumn {
                name: row.get(3).unwrap_or_default().to_owned(),
                type_oid: match built_in {
                    Some(oid) => oid,
                    None => number(connection, row, 4).map_err(failed)?,
                },
                type_modifier: number(connection, row, 6).map_err(failed)?,
                type_name,
                is_identity: row.get(5) == Some("t"),
            });
        }
        let (schema, table) = (name.schema.clone(), name.table.clone());
        let relation = RelationMessage { oid, schema, name: table, identity, columns };
        let mut leaves = Vec::new();
        for row in connection.query(&leaves_sql(oid)).await.map_err(failed)? {
            if row.get(6) != Some("t") {
                return Err(Error::Changed { table: name.clone() });
            }
            leaves.push(Leaf {
                table: at,
                oid: number(connection, &row, 0).map_err(failed)?,
                quoted: row.get(1).unwrap_or_default().to_owned(),
                filenode: number(connection, &row, 2).map_err(failed)?,
                pages: number(connection, &row, 3).map_err(failed)?,
                bytes: number(connection, &row, 4).map_err(failed)?,
                is_heap: row.get(5) == Some("t"),
            });
        }
        Ok(Some(Self { relation, due: due.clone(), filter, leaves }))
    }
}

/// Where oids begin that are not the same in every database; `FirstGenbkiObjectId` in `access/transam.h`.
const FIRST_OWN_OID: u32 = 10_000;

/// The columns that the stream would send. Column lists and filters are there from 15 on; generated columns are sent
/// from 18 on, and only where the publication says so.
fn columns_sql(publication: &str, name: &TableName) -> String {
    format!(
        "WITH published AS (
             SELECT to_jsonb(p) AS p FROM pg_catalog.pg_publication_tables p
             WHERE pubname = {} AND schemaname = {} AND tablename = {})
         SELECT c.oid, c.relreplident, p->>'rowfilter', a.attname, a.atttypid,
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
         ORDER BY a.attnum",
        quote_literal(publication),
        quote_literal(&name.schema),
        quote_literal(&name.table)
    )
}

/// The table, or the partitions at the bottom of it. Foreign and unlogged ones are not in the WAL either. A partition
/// that is not there in our snapshot holds nothing but rows that will be streamed.
fn leaves_sql(oid: u32) -> String {
    format!(
        "SELECT l.oid, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(l.relname), l.relfilenode,
                pg_catalog.pg_relation_size(l.oid, 'main') / current_setting('block_size')::bigint,
                pg_catalog.pg_table_size(l.oid), coalesce(m.amname = 'heap', false),
                l.relfilenode = pg_catalog.pg_relation_filenode(l.oid)
         FROM pg_catalog.pg_class r
         CROSS JOIN LATERAL (
             SELECT relid::oid AS oid FROM pg_catalog.pg_partition_tree(r.oid) WHERE isleaf
             UNION SELECT r.oid) t
         JOIN pg_catalog.pg_class l ON l.oid = t.oid
         JOIN pg_catalog.pg_namespace n ON n.oid = l.relnamespace
         LEFT JOIN pg_catalog.pg_am m ON m.oid = l.relam
         WHERE r.oid = {oid} AND l.relkind = 'r' AND l.relpersistence = 'p'
         ORDER BY l.oid"
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
