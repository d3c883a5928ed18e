//! An event of an outbox as a CloudEvent in Kafka's binary binding.
//!
//! ```text
//!  INSERT INTO orders.outbox …                      ──▶ cells of the row     ─┐
//!                                                                             ├─▶ topic of its aggregate type, event
//!  pg_logical_emit_message(true, 'orders.outbox', …) ──▶ cells of the message ─┘
//! ```
//!
//! * Both ways into an outbox end in the same record; only the way its cells are found differs.
//! * A table's own checks refuse a row that no event can be made of. Nothing checks a message before it is in the WAL,
//!   where nobody can mend it any more: one that is no event is set aside.

mod emitted;

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use tailwater_topics_contract::{PipelineName, Position, Seq, TableName, TopicName, header};

use crate::batch::Batch;
use crate::encode::RowError;
use crate::pgoutput::{Cell, RelationMessage, Tuple};
use crate::value::{self, Form};

pub use emitted::Emitted;

/// Columns of an outbox table that we read, in the order of [`Place`]. An older table may lack the last.
const COLUMNS: [&str; 12] = [
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
    "event_version",
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
    EventVersion,
}

/// Begins the name of a header of the row's own that would otherwise pass for one of ours.
const OWN: &str = "own-";

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
    /// A value that cannot be written.
    #[error(transparent)]
    Row(#[from] RowError),
}

/// The cells of [`COLUMNS`] of one event; null is `None`.
pub(crate) type Cells<'a> = [Option<&'a [u8]>; COLUMNS.len()];

/// Where the events of one outbox go.
#[derive(Clone, Debug)]
pub struct Outbox {
    table: TableName,
    /// `/<pipeline>/`, before the aggregate type.
    source: String,
    /// By aggregate type; `None`: the topic was removed, and its events are given up.
    pub(crate) topics: BTreeMap<String, Option<TopicName>>,
}

/// How the rows of an outbox table are read.
#[derive(Debug)]
pub struct OutboxTable {
    /// Where they go.
    pub outbox: Outbox,
    /// Where each of [`COLUMNS`] stands in the row.
    columns: [Option<usize>; COLUMNS.len()],
    column_count: usize,
}

impl OutboxTable {
    /// Prepares a relation.
    pub fn compile(relation: &RelationMessage, outbox: Outbox) -> Result<Self, OutboxError> {
        let mut columns = [None; COLUMNS.len()];
        for (place, column) in columns.iter_mut().zip(COLUMNS) {
            *place = relation.columns.iter().position(|c| c.name == column);
            if place.is_none() && column != COLUMNS[Place::EventVersion as usize] {
                return Err(OutboxError::NoColumn { table: outbox.table, column });
            }
        }
        Ok(Self { outbox, columns, column_count: relation.columns.len() })
    }

    /// The cells of a row.
    pub(crate) fn cells<'a>(&self, row: &Tuple<'a>) -> Result<Cells<'a>, RowError> {
        if row.column_count() != self.column_count {
            return Err(RowError::ColumnCount {
                table: self.outbox.table.clone(),
                found: row.column_count(),
                announced: self.column_count,
            });
        }
        let mut cells = [None; COLUMNS.len()];
        for (at, cell) in row.cells().enumerate() {
            if let Some(place) = self.columns.iter().position(|column| *column == Some(at))
                && let Cell::Text(text) = cell
            {
                cells[place] = Some(text);
            }
        }
        Ok(cells)
    }
}

impl Outbox {
    /// An outbox that no topic takes anything of yet.
    pub fn new(table: TableName, pipeline: &PipelineName) -> Self {
        Self { table, source: format!("/{pipeline}/"), topics: BTreeMap::new() }
    }

    /// The prefix of messages that are events of this outbox.
    pub fn prefix(&self) -> String {
        self.table.to_string()
    }

    /// Where an event goes; `None` when its topic was removed.
    pub(crate) fn topic(&self, cells: &Cells<'_>) -> Result<Option<&TopicName>, OutboxError> {
        let aggregate = self.aggregate(cells)?;
        let topic = self.topics.get(aggregate).ok_or_else(|| OutboxError::NoTopic {
            table: self.table.clone(),
            aggregate: aggregate.to_owned(),
        })?;
        Ok(topic.as_ref())
    }

    /// Adds an event.
    pub(crate) fn event(
        &self,
        topic: &TopicName,
        cells: &Cells<'_>,
        position: Position,
        seq: Seq,
        batch: &mut Batch,
    ) -> Result<(), OutboxError> {
        let get = |place: Place| cells[place as usize];
        let need = |place: Place| self.need(cells, place);
        let aggregate = self.aggregate(cells)?;
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
        if let Some(created_at) = get(Place::CreatedAt) {
            let start = batch.bytes();
            value::timestamptz(created_at, batch.arena());
            batch.header(header::CE_TIME, start);
        }
        put(batch, header::CE_SUBJECT, subject);
        put(batch, header::CONTENT_TYPE, b"application/json");
        let optional = [
            (header::TRACEPARENT, Place::Traceparent),
            (header::CORRELATION_ID, Place::CorrelationId),
            (header::CAUSATION_ID, Place::CausationId),
            (header::CE_EVENT_VERSION, Place::EventVersion),
        ];
        for (name, place) in optional {
            if let Some(text) = get(place) {
                put(batch, name, text);
            }
        }
        place_headers(position, seq, batch);
        if let Some(headers) = get(Place::Headers) {
            own_headers(headers, batch);
        }
        batch.push(topic, None, Some(key), Some(value));
        Ok(())
    }

    fn checked<'a>(&self, text: &'a [u8], place: Place) -> Result<&'a str, RowError> {
        std::str::from_utf8(text).map_err(|_| RowError::NotUtf8 {
            table: self.table.clone(),
            column: COLUMNS[place as usize].to_owned(),
        })
    }

    fn aggregate<'a>(&self, cells: &Cells<'a>) -> Result<&'a str, OutboxError> {
        Ok(self.checked(self.need(cells, Place::AggregateType)?, Place::AggregateType)?)
    }

    fn need<'a>(&self, cells: &Cells<'a>, place: Place) -> Result<&'a [u8], OutboxError> {
        let column = COLUMNS[place as usize];
        cells[place as usize].ok_or_else(|| OutboxError::Null { table: self.table.clone(), column })
    }
}

/// The row's own headers: texts as they are, anything else as its JSON.
///
/// A row in the log cannot be mended any more, so nothing here is an error. A name that is one of ours is carried
/// behind [`OWN`], and what is no object at all is carried whole under one name.
fn own_headers(headers: &[u8], batch: &mut Batch) {
    // A JSON null, as some libraries write for "none", is none.
    let read: Result<Option<BTreeMap<String, &RawValue>>, _> = serde_json::from_slice(headers);
    let Ok(read) = read else {
        let start = batch.bytes();
        batch.arena().extend_from_slice(headers);
        return batch.own_header(&format!("{OWN}headers"), start);
    };
    for (name, value) in read.into_iter().flatten() {
        let start = batch.bytes();
        match serde_json::from_str::<String>(value.get()) {
            Ok(text) => batch.arena().extend_from_slice(text.as_bytes()),
            Err(_) => batch.arena().extend_from_slice(value.get().as_bytes()),
        }
        if header::is_ours(&name) {
            batch.own_header(&format!("{OWN}{name}"), start);
        } else {
            batch.own_header(&name, start);
        }
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
