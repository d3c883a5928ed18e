//! The columns of a table, and lines turned into them.
//!
//! ```text
//!  line ──▶ head, as deep as the deepest column wants ──▶ head columns
//!             └─▶ body ──▶ `after` (of a delete `before`, of an event the value) ──▶ row columns, lazily
//! ```
//!
//! * A value that has not its column's type becomes NULL, is counted, and stands as it is in `drift`.
//! * Columns nobody asked for are not looked at; behind the last one wanted a line is not read on.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use datafusion::arrow::array::{
    ArrayRef, BooleanBuilder, Float64Builder, Int32Builder, Int64Builder, StringViewBuilder,
    TimestampMicrosecondBuilder,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::head::{Depth, Head, Key};
use crate::json::{self, Kind, Members};

/// The type of a row column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Whole numbers of 64 bits.
    Int,
    /// Numbers, `NaN` and infinities.
    Float,
    /// True and false.
    Bool,
    /// Text.
    Text,
    /// Objects, arrays, or several kinds: JSON as it stands.
    Json,
}

impl Type {
    /// As in a table of columns.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int => "bigint",
            Self::Float => "double",
            Self::Bool => "boolean",
            Self::Text => "text",
            Self::Json => "json",
        }
    }

    fn arrow(self) -> DataType {
        match self {
            Self::Int => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Bool => DataType::Boolean,
            Self::Text | Self::Json => DataType::Utf8View,
        }
    }
}

/// A field of the topic's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowColumn {
    /// The field.
    pub field: String,
    /// The column: the field's name, behind `row_` where a column of ours has that name.
    pub name: String,
    /// Its type.
    pub kind: Type,
}

/// What a column is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Col {
    Offset,
    Partition,
    TimestampMs,
    Op,
    CommitLsn,
    CommitTsUs,
    CommitTs,
    TxId,
    TxSeq,
    TwSeq,
    Key,
    Headers,
    /// A header by its name, as text.
    Header(&'static str),
    /// `before` or `after` or another part of the value, as it stands.
    Part(&'static str),
    /// The whole value.
    Value,
    /// The row of a current state, as it stands.
    Row,
    /// What of a row has not its column's type.
    Drift,
    /// A field of the row.
    Field(usize),
}

/// Columns of ours and the type in which each is given.
pub(crate) const OURS: [(&str, Col); 17] = [
    ("kafka_offset", Col::Offset),
    ("kafka_partition", Col::Partition),
    ("kafka_ts_ms", Col::TimestampMs),
    ("op_code", Col::Op),
    ("commit_lsn", Col::CommitLsn),
    ("commit_ts_us", Col::CommitTsUs),
    ("commit_ts", Col::CommitTs),
    ("tx_id", Col::TxId),
    ("tx_seq", Col::TxSeq),
    ("tw_seq", Col::TwSeq),
    ("kafka_key", Col::Key),
    ("kafka_headers", Col::Headers),
    ("before", Col::Part("before")),
    ("after", Col::Part("after")),
    ("unchanged", Col::Part("unchanged")),
    ("kafka_value", Col::Value),
    ("drift", Col::Drift),
];

/// Columns that a topic of events has besides.
pub(crate) const EVENT: [(&str, Col); 7] = [
    ("ce_id", Col::Header("ce_id")),
    ("ce_type", Col::Header("ce_type")),
    ("ce_time", Col::Header("ce_time")),
    ("ce_subject", Col::Header("ce_subject")),
    ("correlation_id", Col::Header("correlation-id")),
    ("causation_id", Col::Header("causation-id")),
    ("traceparent", Col::Header("traceparent")),
];

/// Columns of a current state, besides its rows'.
pub(crate) const CURRENT: [(&str, Col); 10] = [
    ("kafka_key", Col::Key),
    ("kafka_partition", Col::Partition),
    ("kafka_offset", Col::Offset),
    ("op_code", Col::Op),
    ("commit_lsn", Col::CommitLsn),
    ("commit_ts", Col::CommitTs),
    ("tx_seq", Col::TxSeq),
    ("tw_seq", Col::TwSeq),
    ("row", Col::Row),
    ("drift", Col::Drift),
];

impl Col {
    /// How deep a line must be read for it.
    pub(crate) fn depth(self) -> Depth {
        match self {
            Self::Offset => Depth::Offset,
            Self::Partition => Depth::Partition,
            Self::TimestampMs => Depth::Timestamp,
            Self::Op => Depth::Op,
            Self::CommitLsn => Depth::CommitLsn,
            Self::CommitTsUs | Self::CommitTs => Depth::CommitTime,
            Self::TxId => Depth::TxId,
            Self::TxSeq => Depth::TxSeq,
            Self::TwSeq => Depth::TwSeq,
            Self::Key => Depth::Key,
            Self::Headers | Self::Header(_) => Depth::Headers,
            Self::Part(_) | Self::Value | Self::Row | Self::Drift | Self::Field(_) => Depth::Body,
        }
    }

    fn arrow(self, rows: &[RowColumn]) -> DataType {
        match self {
            Self::Offset | Self::TimestampMs | Self::CommitLsn | Self::CommitTsUs => {
                DataType::Int64
            }
            Self::TxId | Self::TxSeq | Self::TwSeq => DataType::Int64,
            Self::Partition => DataType::Int32,
            Self::CommitTs => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Field(at) => rows[at].kind.arrow(),
            _ => DataType::Utf8View,
        }
    }
}

/// The columns of one table.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    pub(crate) cols: Vec<Col>,
    pub(crate) rows: Arc<Vec<RowColumn>>,
    pub(crate) schema: SchemaRef,
}

impl Columns {
    /// Ours, and the rows' before or behind them.
    pub(crate) fn new(ours: &[(&str, Col)], rows: Arc<Vec<RowColumn>>, rows_first: bool) -> Self {
        let ours = ours.iter().map(|(name, col)| ((*name).to_owned(), *col));
        let fields = rows.iter().enumerate().map(|(at, row)| (row.name.clone(), Col::Field(at)));
        let named: Vec<(String, Col)> =
            if rows_first { fields.chain(ours).collect() } else { ours.chain(fields).collect() };
        let field = |(name, col): &(String, Col)| Field::new(name, col.arrow(&rows), true);
        let schema = Arc::new(Schema::new(named.iter().map(field).collect::<Vec<_>>()));
        Self { cols: named.into_iter().map(|(_, col)| col).collect(), rows, schema }
    }

    pub(crate) fn project(&self, projection: Option<&Vec<usize>>) -> Self {
        let Some(places) = projection else { return self.clone() };
        let fields: Vec<Field> = places.iter().map(|at| self.schema.field(*at).clone()).collect();
        Self {
            cols: places.iter().map(|at| self.cols[*at]).collect(),
            rows: self.rows.clone(),
            schema: Arc::new(Schema::new(fields)),
        }
    }

    /// How deep lines must be read.
    pub(crate) fn depth(&self) -> Depth {
        self.cols.iter().map(|col| col.depth()).max().unwrap_or(Depth::Offset)
    }
}

/// Builds the columns of one batch.
pub(crate) struct Batch {
    builders: Vec<(Col, Builder)>,
    fields: Option<Fields>,
    rows: usize,
}

enum Builder {
    Int64(Int64Builder),
    Int32(Int32Builder),
    Time(TimestampMicrosecondBuilder),
    Text(StringViewBuilder),
    /// The fields' builder has it.
    Field(usize),
}

impl Batch {
    pub(crate) fn new(columns: &Columns) -> Self {
        let mut wanted = Vec::new();
        let wants_drift = columns.cols.contains(&Col::Drift);
        let builder = |col: &Col| {
            let builder = match col {
                Col::Offset
                | Col::TimestampMs
                | Col::CommitLsn
                | Col::CommitTsUs
                | Col::TxId
                | Col::TxSeq
                | Col::TwSeq => Builder::Int64(Int64Builder::new()),
                Col::Partition => Builder::Int32(Int32Builder::new()),
                Col::CommitTs => Builder::Time(TimestampMicrosecondBuilder::new()),
                Col::Field(at) => {
                    wanted.push(*at);
                    Builder::Field(wanted.len() - 1)
                }
                _ => Builder::Text(StringViewBuilder::new()),
            };
            (*col, builder)
        };
        let builders = columns.cols.iter().map(builder).collect();
        // For drift every field is looked at.
        let hidden = if wants_drift { columns.rows.len() } else { 0 };
        for at in 0..hidden {
            if !wanted.contains(&at) {
                wanted.push(at);
            }
        }
        let fields = (!wanted.is_empty())
            .then(|| Fields::new(wanted.iter().map(|at| &columns.rows[*at]), wants_drift));
        Self { builders, fields, rows: 0 }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Takes a record of which only the number matters.
    pub(crate) fn count(&mut self, rows: usize) {
        self.rows += rows;
    }

    /// Takes a record. `row` is what stands for its row in place of what the head's value says.
    pub(crate) fn push(&mut self, head: &Head<'_>, row: Option<&[u8]>) {
        self.rows += 1;
        let mut drift = None;
        if let Some(fields) = &mut self.fields {
            fields.push(row.or_else(|| row_of(head)));
            drift = fields.drift.take();
        }
        for (col, builder) in &mut self.builders {
            match builder {
                Builder::Int64(builder) => builder.append_option(match col {
                    Col::Offset => Some(head.offset),
                    Col::TimestampMs => Some(head.timestamp_ms),
                    Col::CommitLsn => head.commit_lsn,
                    Col::CommitTsUs => head.commit_ts_us,
                    Col::TxId => head.tx_id,
                    Col::TxSeq => head.tx_seq,
                    _ => head.tw_seq,
                }),
                Builder::Int32(builder) => builder.append_value(head.partition),
                Builder::Time(builder) => builder.append_option(head.commit_ts_us),
                Builder::Field(_) => {}
                Builder::Text(builder) => match col {
                    Col::Op => match head.op {
                        Some(op) => builder.append_value(char::from(op).encode_utf8(&mut [0; 4])),
                        None => builder.append_null(),
                    },
                    Col::Key => append(builder, key_text(head.key).as_deref()),
                    Col::Headers => append(builder, plain(head.headers)),
                    Col::Header(name) => append(builder, header(head.headers, name).as_deref()),
                    Col::Part(name) => {
                        let part = head.object().and_then(|object| json::member(object, name));
                        append(builder, part.and_then(plain));
                    }
                    Col::Value => append(builder, value_text(head).as_deref()),
                    Col::Row => append(builder, row.and_then(plain)),
                    _ => append(builder, drift.as_deref()),
                },
            }
        }
    }

    /// The columns, and how many values had not their column's type.
    pub(crate) fn finish(self) -> (Vec<ArrayRef>, usize, u64) {
        let (mut fields, drifted) = match self.fields {
            Some(fields) => {
                let drifted = fields.drifted;
                (fields.finish(), drifted)
            }
            None => (Vec::new(), 0),
        };
        let arrays = self.builders.into_iter().map(|(_, builder)| match builder {
            Builder::Int64(mut builder) => Arc::new(builder.finish()) as ArrayRef,
            Builder::Int32(mut builder) => Arc::new(builder.finish()),
            Builder::Time(mut builder) => Arc::new(builder.finish()),
            Builder::Text(mut builder) => Arc::new(builder.finish()),
            Builder::Field(at) => std::mem::replace(
                &mut fields[at],
                Arc::new(datafusion::arrow::array::NullArray::new(0)),
            ),
        });
        (arrays.collect(), self.rows, drifted)
    }
}

fn append(builder: &mut StringViewBuilder, text: Option<&str>) {
    match text {
        Some(text) => builder.append_value(text),
        None => builder.append_null(),
    }
}

/// JSON as it stands; `null` is nothing.
fn plain(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().filter(|text| *text != "null" && !text.is_empty())
}

/// The text of a key; none when there is no key, or one that is no text.
pub(crate) fn key_text(key: Key<'_>) -> Option<String> {
    match key {
        Key::None | Key::Base64(_) => None,
        Key::Json(json) => match Kind::of(json) {
            Some(Kind::Text) => json::text_of(json),
            _ => std::str::from_utf8(json).ok().map(str::to_owned),
        },
    }
}

fn header(headers: &[u8], name: &str) -> Option<String> {
    json::elements(headers).find_map(|pair| {
        let mut pair = json::elements(pair);
        (json::text_of(pair.next()?)? == name).then(|| json::text_of(pair.next()?))?
    })
}

fn value_text(head: &Head<'_>) -> Option<String> {
    if let Some(object) = head.object() {
        return std::str::from_utf8(object).ok().map(|rest| format!("{{{rest}"));
    }
    let base64 = json::text_of(json::member(head.body, "value_b64")?)?;
    String::from_utf8(BASE64.decode(base64).ok()?).ok()
}

/// The row a record is about: `after`, of a delete `before`, of an event the value itself.
pub(crate) fn row_of<'a>(head: &'a Head<'_>) -> Option<&'a [u8]> {
    let object = head.object()?;
    let part = match head.op {
        Some(b'c' | b'u' | b'r') => "after",
        Some(b'd') => "before",
        Some(b't' | b'm' | b'x') => return None,
        _ => return Some(object),
    };
    json::member(object, part).filter(|row| Kind::of(row) == Some(Kind::Object))
}

/// The row columns of one batch.
struct Fields {
    builders: Vec<(Box<[u8]>, Box<str>, FieldBuilder)>,
    /// By name as it stands in rows.
    places: HashMap<Box<[u8]>, usize>,
    /// The members of the last row in order: rows are alike.
    order: Vec<(Box<[u8]>, Option<usize>)>,
    filled: Vec<bool>,
    wants_drift: bool,
    drift: Option<String>,
    drifted: u64,
}

enum FieldBuilder {
    Int(Int64Builder),
    Float(Float64Builder),
    Bool(BooleanBuilder),
    Text(StringViewBuilder),
    Json(StringViewBuilder),
}

impl Fields {
    fn new<'r>(rows: impl Iterator<Item = &'r RowColumn>, wants_drift: bool) -> Self {
        let builder = |row: &RowColumn| {
            let quoted = json::quoted(&row.field);
            let raw = quoted.as_bytes()[1..quoted.len() - 1].into();
            let builder = match row.kind {
                Type::Int => FieldBuilder::Int(Int64Builder::new()),
                Type::Float => FieldBuilder::Float(Float64Builder::new()),
                Type::Bool => FieldBuilder::Bool(BooleanBuilder::new()),
                Type::Text => FieldBuilder::Text(StringViewBuilder::new()),
                Type::Json => FieldBuilder::Json(StringViewBuilder::new()),
            };
            (raw, row.field.as_str().into(), builder)
        };
        let builders: Vec<(Box<[u8]>, Box<str>, FieldBuilder)> = rows.map(builder).collect();
        let places = builders.iter().enumerate().map(|(at, (raw, _, _))| (raw.clone(), at));
        Self {
            places: places.collect(),
            order: Vec::new(),
            filled: vec![false; builders.len()],
            builders,
            wants_drift,
            drift: None,
            drifted: 0,
        }
    }

    fn place(&mut self, member: usize, name: &[u8]) -> Option<usize> {
        if let Some((known, place)) = self.order.get(member)
            && **known == *name
        {
            return *place;
        }
        let mut place = self.places.get(name).copied();
        if place.is_none() && name.contains(&b'\\') {
            let name = json::unescape_name(name);
            place = self.builders.iter().position(|(_, field, _)| **field == *name);
        }
        if member < self.order.len() {
            self.order[member] = (name.into(), place);
        } else if member == self.order.len() {
            self.order.push((name.into(), place));
        }
        place
    }

    fn push(&mut self, row: Option<&[u8]>) {
        self.filled.fill(false);
        let mut missing = self.builders.len();
        for (member, (name, value)) in Members::of(row.unwrap_or_default()).enumerate() {
            let Some(place) = self.place(member, name) else { continue };
            if std::mem::replace(&mut self.filled[place], true) {
                continue;
            }
            let (_, field, builder) = &mut self.builders[place];
            if !builder.append(value) {
                self.drifted += 1;
                if self.wants_drift {
                    let drift = self.drift.get_or_insert_default();
                    drift.push_str(if drift.is_empty() { "{" } else { "," });
                    drift.push_str(&json::quoted(field));
                    drift.push(':');
                    drift.push_str(&String::from_utf8_lossy(value));
                }
            }
            missing -= 1;
            if missing == 0 {
                break;
            }
        }
        if let Some(drift) = &mut self.drift {
            drift.push('}');
        }
        if missing > 0 {
            for ((_, _, builder), filled) in self.builders.iter_mut().zip(&self.filled) {
                if !filled {
                    builder.append_null();
                }
            }
        }
    }

    fn finish(self) -> Vec<ArrayRef> {
        self.builders.into_iter().map(|(_, _, builder)| builder.finish()).collect()
    }
}

impl FieldBuilder {
    /// Answers whether the value has the column's type; else NULL stands for it.
    fn append(&mut self, value: &[u8]) -> bool {
        let kind = Kind::of(value);
        if kind == Some(Kind::Null) {
            self.append_null();
            return true;
        }
        let text = || std::str::from_utf8(value).ok();
        let fits = match (&mut *self, kind) {
            (Self::Int(builder), Some(Kind::Number)) => {
                let number = text().and_then(|text| text.parse().ok());
                number.map(|number: i64| builder.append_value(number))
            }
            (Self::Float(builder), Some(Kind::Number)) => {
                let number = text().and_then(|text| text.parse().ok());
                number.map(|number: f64| builder.append_value(number))
            }
            (Self::Float(builder), Some(Kind::Text)) => {
                special_float(value).map(|number| builder.append_value(number))
            }
            (Self::Bool(builder), Some(Kind::Bool)) => {
                builder.append_value(value == b"true");
                Some(())
            }
            (Self::Text(builder), Some(Kind::Text)) => {
                let inside = &value[1..value.len().max(2) - 1];
                if inside.contains(&b'\\') {
                    json::text_of(value).map(|text| builder.append_value(text))
                } else {
                    std::str::from_utf8(inside).ok().map(|text| builder.append_value(text))
                }
            }
            (Self::Json(builder), Some(_)) => text().map(|text| builder.append_value(text)),
            _ => None,
        };
        if fits.is_none() {
            self.append_null();
        }
        fits.is_some()
    }

    fn append_null(&mut self) {
        match self {
            Self::Int(builder) => builder.append_null(),
            Self::Float(builder) => builder.append_null(),
            Self::Bool(builder) => builder.append_null(),
            Self::Text(builder) | Self::Json(builder) => builder.append_null(),
        }
    }

    fn finish(self) -> ArrayRef {
        match self {
            Self::Int(mut builder) => Arc::new(builder.finish()),
            Self::Float(mut builder) => Arc::new(builder.finish()),
            Self::Bool(mut builder) => Arc::new(builder.finish()),
            Self::Text(mut builder) | Self::Json(mut builder) => Arc::new(builder.finish()),
        }
    }
}

/// The numbers that JSON cannot write, as the reader writes them.
pub(crate) fn special_float(value: &[u8]) -> Option<f64> {
    match value {
        b"\"NaN\"" => Some(f64::NAN),
        b"\"Infinity\"" => Some(f64::INFINITY),
        b"\"-Infinity\"" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}
