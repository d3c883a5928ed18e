//! An outbox row as a CloudEvent in Kafka's binary binding.

use std::collections::BTreeMap;

use tailwater_topics_contract::{PipelineName, Position, Seq, TableName, TopicName, header};

use crate::batch::Batch;
use crate::encode::RowError;
use crate::pgoutput::{Cell, RelationMessage, Tuple};
use crate::value::{self, Form};

/// Columns of an outbox table that we read, in the order of [`Place`].
const COLUMNS: [&str; 11] = [
    "id",
    "created_at",
    "aggregate_type",
    "aggregate_id",
    "event_type",
    "partition_key",
    "payload",
    "headers",
    "correlation_id",
    "causation_id",
    "traceparent",
];

#[derive(Clone, Copy)]
enum Place {
    Id,
    CreatedAt,
    AggregateType,
    AggregateId,
    EventType,
    PartitionKey,
    Payload,
    Headers,
    CorrelationId,
    CausationId,
    Traceparent,
}

/// An outbox row that cannot become an event.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The table lacks a column.
    #[error(
        "outbox table `{table}` has no column `{column}`; create outbox tables with the DDL of the outbox library"
    )]
    NoColumn {
        /// The table.
        table: TableName,
        /// The column.
        column: &'static str,
    },
    /// A value that must be there is null.
    #[error("an event in `{table}` has no `{column}`")]
    Null {
        /// The table.
        table: TableName,
        /// The column.
        column: &'static str,
    },
    /// Nobody said where such events go.
    #[error(
        "an event in `{table}` has aggregate type `{aggregate}`, which no topic takes; declare a topic with `from: {{ outbox: {aggregate} }}` and apply it"
    )]
    NoTopic {
        /// The table.
        table: TableName,
        /// The aggregate type.
        aggregate: String,
    },
    /// The row's own headers are no JSON object.
    #[error("an event in `{table}` has `headers` that are not a JSON object")]
    Headers {
        /// The table.
        table: TableName,
    },
    /// A value that cannot be written.
    #[error(transparent)]
    Row(#[from] RowError),
}

/// How the rows of one outbox table become events.
#[derive(Debug)]
pub struct Outbox {
    table: TableName,
    /// `/<pipeline>/`, before the aggregate type.
    source: String,
    /// Where each of [`COLUMNS`] stands in the row.
    columns: [usize; COLUMNS.len()],
    column_count: usize,
    topics: BTreeMap<String, TopicName>,
}

impl Outbox {
    /// Prepares a relation. `topics` are the topics of the table by aggregate type.
    pub fn compile(
        relation: &RelationMessage,
        topics: BTreeMap<String, TopicName>,
        pipeline: &PipelineName,
    ) -> Result<Self, OutboxError> {
        let table = TableName { schema: relation.schema.clone(), table: relation.name.clone() };
        let mut columns = [0; COLUMNS.len()];
        for (place, column) in columns.iter_mut().zip(COLUMNS) {
            let found = relation.columns.iter().position(|c| c.name == column);
            *place = found.ok_or_else(|| OutboxError::NoColumn { table: table.clone(), column })?;
        }
        let source = format!("/{pipeline}/");
        Ok(Self { table, source, columns, column_count: relation.columns.len(), topics })
    }

    /// The table.
    pub fn table(&self) -> &TableName {
        &self.table
    }

    /// Adds the event of a row.
    pub fn event(
        &self,
        row: &Tuple<'_>,
        position: Position,
        seq: Seq,
        batch: &mut Batch,
    ) -> Result<(), OutboxError> {
        let cells = self.cells(row)?;
        let get = |place: Place| cells[place as usize];
        let need = |place: Place| {
            let column = COLUMNS[place as usize];
            get(place).ok_or_else(|| OutboxError::Null { table: self.table.clone(), column })
        };
        let aggregate = need(Place::AggregateType)?;
        let aggregate = self.checked(aggregate, Place::AggregateType)?;
        let topic = self.topics.get(aggregate).ok_or_else(|| OutboxError::NoTopic {
            table: self.table.clone(),
            aggregate: aggregate.to_owned(),
        })?;
        let subject = need(Place::AggregateId)?;
        let payload = need(Place::Payload)?;

        let arena = batch.arena();
        let start = arena.len();
        arena.extend_from_slice(get(Place::PartitionKey).unwrap_or(subject));
        let key = start..arena.len();
        let start = arena.len();
        value::write(Form::Json, payload, arena).map_err(|_| RowError::NotUtf8 {
            table: self.table.clone(),
            column: COLUMNS[Place::Payload as usize].to_owned(),
        })?;
        let value = start..arena.len();

        put(batch, header::CE_SPECVERSION, b"1.0");
        put(batch, header::CE_ID, need(Place::Id)?);
        put(batch, header::CE_TYPE, need(Place::EventType)?);
        let start = batch.bytes();
        batch.arena().extend_from_slice(self.source.as_bytes());
        batch.arena().extend_from_slice(aggregate.as_bytes());
        batch.header(header::CE_SOURCE, start);
        let start = batch.bytes();
        value::timestamptz(need(Place::CreatedAt)?, batch.arena());
        batch.header(header::CE_TIME, start);
        put(batch, header::CE_SUBJECT, subject);
        put(batch, header::CONTENT_TYPE, b"application/json");
        let optional = [
            (header::TRACEPARENT, Place::Traceparent),
            (header::CORRELATION_ID, Place::CorrelationId),
            (header::CAUSATION_ID, Place::CausationId),
        ];
        for (name, place) in optional {
            if let Some(text) = get(place) {
                put(batch, name, text);
            }
        }
        place_headers(position, seq, batch);
        if let Some(headers) = get(Place::Headers) {
            self.own_headers(headers, batch)?;
        }
        batch.push(topic, None, Some(key), Some(value));
        Ok(())
    }

    /// The cells of [`COLUMNS`]; null is `None`.
    fn cells<'a>(&self, row: &Tuple<'a>) -> Result<[Option<&'a [u8]>; COLUMNS.len()], RowError> {
        if row.column_count() != self.column_count {
            return Err(RowError::ColumnCount {
                table: self.table.clone(),
                found: row.column_count(),
                announced: self.column_count,
            });
        }
        let mut cells = [None; COLUMNS.len()];
        for (at, cell) in row.cells().enumerate() {
            if let Some(place) = self.columns.iter().position(|column| *column == at)
                && let Cell::Text(text) = cell
            {
                cells[place] = Some(text);
            }
        }
        Ok(cells)
    }

    fn checked<'a>(&self, text: &'a [u8], place: Place) -> Result<&'a str, RowError> {
        std::str::from_utf8(text).map_err(|_| RowError::NotUtf8 {
            table: self.table.clone(),
            column: COLUMNS[place as usize].to_owned(),
        })
    }

    /// The row's own headers: texts as they are, anything else as its JSON.
    fn own_headers(&self, headers: &[u8], batch: &mut Batch) -> Result<(), OutboxError> {
        // A JSON null, as some libraries write for "none", is none.
        let headers: Option<BTreeMap<String, serde_json::Value>> = serde_json::from_slice(headers)
            .map_err(|_| OutboxError::Headers { table: self.table.clone() })?;
        for (name, value) in headers.into_iter().flatten() {
            let start = batch.bytes();
            match value {
                serde_json::Value::String(text) => batch.arena().extend_from_slice(text.as_bytes()),
                other => batch.arena().extend_from_slice(other.to_string().as_bytes()),
            }
            batch.own_header(&name, start);
        }
        Ok(())
    }
}

/// Adds the headers that say where a record stands in the pipeline.
pub(crate) fn place_headers(position: Position, seq: Seq, batch: &mut Batch) {
    let start = batch.bytes();
    value::number(seq.get(), batch.arena());
    batch.header(header::SEQ, start);
    let start = batch.bytes();
    value::number(position.commit_lsn.0, batch.arena());
    batch.arena().push(b':');
    value::number(position.ordinal, batch.arena());
    batch.header(header::POSITION, start);
}

fn put(batch: &mut Batch, name: &'static str, value: &[u8]) {
    let start = batch.bytes();
    batch.arena().extend_from_slice(value);
    batch.header(name, start);
}
