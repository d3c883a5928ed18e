//! What stands in Postgres.

use anyhow::Context;
use tokio_postgres::Client;

use crate::row::{Column, Digest, Form, Row, canonical};

/// A table by its schema and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
}

impl Table {
    /// `schema.name`, both plain.
    pub fn new(schema: &str, name: &str) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }

    fn quoted(&self) -> String {
        format!("\"{}\".\"{}\"", self.schema, self.name)
    }
}

/// One outbox row as the judge sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `id` of the row.
    pub id: String,
    /// What the record's key must be.
    pub key: String,
    /// Event type.
    pub kind: String,
    /// Payload, canonical.
    pub payload: String,
}

impl Event {
    /// Adds the event to a digest.
    pub fn digest(&self, digest: &mut Digest) {
        let parts = [&self.id, &self.key, &self.kind, &self.payload];
        digest.add(parts.map(|part| Some(part.as_bytes())));
    }
}

/// The columns of a table, in its order.
pub async fn columns(client: &Client, table: &Table) -> anyhow::Result<Vec<Column>> {
    let rows = client
        .query(
            "select a.attname::text, t.typname::text
             from pg_attribute a join pg_type t on t.oid = a.atttypid
             where a.attrelid = $1::text::regclass and a.attnum > 0 and not a.attisdropped
             order by a.attnum",
            &[&table.quoted()],
        )
        .await
        .with_context(|| format!("reading the columns of {}", table.quoted()))?;
    let column = |row: &tokio_postgres::Row| Column {
        name: row.get(0),
        form: match row.get(1) {
            "json" | "jsonb" => Form::Json,
            "timestamp" | "timestamptz" => Form::Time,
            _ => Form::Text,
        },
    };
    Ok(rows.iter().map(column).collect())
}

/// How many rows a table holds.
pub async fn count(client: &Client, table: &Table) -> anyhow::Result<u64> {
    let row = client.query_one(&format!("select count(*) from {}", table.quoted()), &[]).await?;
    Ok(row.get::<_, i64>(0).try_into()?)
}

/// A digest of every row of a table.
pub async fn table(client: &Client, table: &Table) -> anyhow::Result<Digest> {
    let columns = columns(client, table).await?;
    let texts: Vec<String> = columns.iter().map(as_text).collect();
    let select = format!("select {} from {} t", texts.join(", "), table.quoted());
    let mut digest = Digest::default();
    for row in client.query(&select, &[]).await.with_context(|| select.clone())? {
        let value = |(place, column): (usize, &Column)| {
            let text: Option<String> = row.get(place);
            text.map(|text| canonical(column.form, &text)).transpose()
        };
        let row: Row = columns.iter().enumerate().map(value).collect::<anyhow::Result<_>>()?;
        digest.add_row(&row);
    }
    Ok(digest)
}

/// Every event of one aggregate type in an outbox table.
pub async fn events(client: &Client, table: &Table, aggregate: &str) -> anyhow::Result<Vec<Event>> {
    let select = format!(
        "select id::text, coalesce(partition_key, aggregate_id), event_type, payload::text
         from {} where aggregate_type = $1",
        table.quoted()
    );
    let rows = client.query(&select, &[&aggregate]).await.with_context(|| select.clone())?;
    let event = |row: &tokio_postgres::Row| {
        Ok(Event {
            id: row.get(0),
            key: row.get(1),
            kind: row.get(2),
            payload: canonical(Form::Json, row.get(3))?,
        })
    };
    rows.iter().map(event).collect()
}

/// SQL that prints a column as the wire should hold it.
fn as_text(column: &Column) -> String {
    let name = format!("t.\"{}\"", column.name.replace('"', "\"\""));
    match column.form {
        // A cast drops the blanks that pad `char(n)`; they are part of the value.
        Form::Text => format!(
            "case when pg_typeof({name}) = 'bpchar'::regtype and {name} is not null \
             then format('%s', {name}) else ({name})::text end"
        ),
        Form::Json => format!("({name})::text"),
        // One spelling for both kinds of timestamp: the offset is 0 because the session's zone is UTC.
        Form::Time => format!(
            "to_char({name}, 'YYYY-MM-DD\"T\"HH24:MI:SS.US') || \
             case when pg_typeof({name}) = 'timestamptz'::regtype then 'Z' else '' end"
        ),
    }
}
