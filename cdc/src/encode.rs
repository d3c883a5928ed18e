//! A table's rows as JSON, by a plan compiled once per relation.
//!
//! ```text
//!  relation + key columns ──compile──▶ plan: `"id":`, `,"name":` … forms, source block ──▶ straight-line writes
//! ```
//!
//! Everything that is the same for each row of a relation is prepared as bytes, so writing a row is a walk over
//! its cells.

use std::collections::BTreeMap;
use std::ops::Range;

use tailwater_topics_contract::{Mask, TableName, Values};

use crate::mask::{self, MaskKey};
use crate::pgoutput::{Cell, Old, RelationColumn, RelationMessage, ReplicaIdentity, Tuple};
use crate::value::{self, BadText, Form};

/// The envelope of Debezium (pure).
pub(crate) mod debezium;
mod vanished;

/// What stands in a change beside its rows.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// Commit time of the transaction, in microseconds since 1970.
    pub commit_us: i64,
    /// Transaction id; 0 outside of one.
    pub xid: u32,
    /// Commit LSN of the transaction.
    pub commit_lsn: u64,
    /// LSN of the change, which others of the transaction may share.
    pub lsn: u64,
    /// Where the last transaction before ended; 0 before the first.
    pub last_commit: u64,
    /// Place of the change in the transaction.
    pub ordinal: u64,
    /// Dense number of the record.
    pub seq: u64,
    /// Now, in milliseconds since 1970.
    pub now_ms: i64,
}

/// What a change says of its row.
#[derive(Clone, Copy, Debug)]
pub struct Images<'i, 't> {
    /// `c`, `u`, `d`, `t`, or `r` for a row that was there before.
    pub op: u8,
    /// The row before, as far as the record tells it.
    pub before: Option<&'i Old<'t>>,
    /// The row afterwards.
    pub after: Option<&'i Tuple<'t>>,
    /// The old image, from which cells that the server did not send again are taken.
    pub fill: Option<&'i Old<'t>>,
}

/// A row that cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The row has another number of columns than its relation.
    #[error("a row of `{table}` has {found} columns, its relation has {announced}")]
    ColumnCount {
        /// The table.
        table: TableName,
        /// In the row.
        found: usize,
        /// In the relation.
        announced: usize,
    },
    /// Bytes in another encoding, as a database in `SQL_ASCII` may hold them.
    #[error(
        "column `{column}` of `{table}` holds bytes that are not UTF-8; correct the row, and if it came by the stream go on behind it with `tailwater cdc resync`"
    )]
    NotUtf8 {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
    },
    /// A text that the column's type does not print under our session's settings.
    #[error("column `{column}` of `{table}` came in a form that its type does not have")]
    Form {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
    },
    /// A key column was not sent.
    #[error(
        "key column `{column}` of `{table}` was not sent, because it is stored out of line and did not change; use REPLICA IDENTITY FULL or another key"
    )]
    KeyUnavailable {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
    },
    /// A key column that the replica identity does not cover, on an update or delete.
    #[error("`{table}` was updated or deleted from, but its replica identity does not cover key column `{column}`, so the old key is unknown; run `ALTER TABLE {} REPLICA IDENTITY FULL` or declare another key", table.quoted())]
    KeyNotIdentity {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
    },
}

/// A relation whose rows cannot be written as declared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A key column is not there.
    #[error(
        "`{table}` has no published column `{column}`, which is part of its topic's key; apply the catalog again with a key that exists"
    )]
    NoKeyColumn {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
    },
    /// A masked column is not there. It may have another name now, under which it would go out as it is.
    #[error(
        "`{table}` has no published column `{column}`, which its topic masks; if it was renamed, mask it under its new name, if it was dropped, take it out of `mask`, and apply the catalog again"
    )]
    NoMaskedColumn {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
    },
    /// A column of the key is masked.
    #[error(
        "column `{column}` of `{table}` is in its topic's key, which is never masked; declare another key, or take it out of `mask`, and apply the catalog again"
    )]
    MaskedKey {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
    },
    /// There is a mask that needs a key, and no key.
    #[error(
        "column `{column}` of `{table}` is masked by `hmac` and there is no key; set `reader.mask_key` or `reader.mask_key_file` in the configuration"
    )]
    NoMaskKey {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
    },
}

/// What decides how the rows of a relation are written, beside the relation itself.
#[derive(Clone, Copy, Debug)]
pub struct Style<'a> {
    /// The pipeline, for the source block.
    pub pipeline: &'a str,
    /// The database, for the source block.
    pub database: &'a str,
    /// Columns of the key.
    pub key_columns: &'a [String],
    /// In which form.
    pub values: Values,
    /// Columns that do not go out as they are.
    pub mask: &'a BTreeMap<String, Mask>,
    /// The key of `hmac` masks.
    pub mask_key: Option<&'a MaskKey>,
}

/// `source.snapshot` of a change, and of a row that was there before.
const STREAMED: &[u8] = b",\"snapshot\":\"false\"";
const COPIED: &[u8] = b",\"snapshot\":\"true\"";

/// How the rows of one relation are written.
#[derive(Debug)]
pub struct Plan {
    table: TableName,
    columns: Vec<Column>,
    /// Columns of the key, in table order, with the prefixes they have there.
    key: Vec<KeyColumn>,
    /// First key column that updates and deletes do not bring along.
    key_not_identity: Option<usize>,
    source: SourceBlock,
    /// In Debezium's form, its source block.
    debezium: Option<debezium::Source>,
}

#[derive(Debug)]
struct Column {
    /// `"name":`
    prefix: Vec<u8>,
    written: Written,
    is_identity: bool,
}

/// How the values of a column go out.
#[derive(Debug)]
enum Written {
    Readable(Form),
    Debezium(value::debezium::Form),
    Hmac(MaskKey),
    Truncated(u32),
    Omitted,
}

#[derive(Debug)]
struct KeyColumn {
    at: usize,
    /// `{"name":` or `,"name":`
    prefix: Vec<u8>,
}

impl Plan {
    /// Prepares a relation.
    pub fn compile(relation: &RelationMessage, style: Style<'_>) -> Result<Self, PlanError> {
        let table = TableName { schema: relation.schema.clone(), table: relation.name.clone() };
        let Style { pipeline, database, key_columns, .. } = style;
        let missing = |name: &&String| !relation.columns.iter().any(|c| c.name == **name);
        if let Some(column) = key_columns.iter().find(missing) {
            return Err(PlanError::NoKeyColumn { table, column: column.clone() });
        }
        if let Some(column) = style.mask.keys().find(missing) {
            return Err(PlanError::NoMaskedColumn { table, column: column.clone() });
        }
        if let Some(column) = key_columns.iter().find(|name| style.mask.contains_key(*name)) {
            return Err(PlanError::MaskedKey { table, column: column.clone() });
        }
        let mut columns = Vec::with_capacity(relation.columns.len());
        for column in &relation.columns {
            let written = Written::of(column, style).ok_or_else(|| PlanError::NoMaskKey {
                table: table.clone(),
                column: column.name.clone(),
            })?;
            let prefix = prefix(b"", &column.name);
            columns.push(Column { prefix, written, is_identity: column.is_identity });
        }
        let mut key: Vec<KeyColumn> = Vec::new();
        for (at, column) in relation.columns.iter().enumerate() {
            if key_columns.contains(&column.name) {
                let lead: &[u8] = if key.is_empty() { b"{" } else { b"," };
                key.push(KeyColumn { at, prefix: prefix(lead, &column.name) });
            }
        }
        let covered = |key: &KeyColumn| {
            relation.identity == ReplicaIdentity::Full || columns[key.at].is_identity
        };
        let key_not_identity = key.iter().find(|key| !covered(key)).map(|key| key.at);
        let source = SourceBlock::new(pipeline, database, &table);
        let debezium = (style.values == Values::Debezium)
            .then(|| debezium::Source::new(pipeline, database, &table));
        Ok(Self { table, columns, key, key_not_identity, source, debezium })
    }

    /// Whether values have Debezium's form.
    pub fn is_debezium(&self) -> bool {
        self.debezium.is_some()
    }

    /// The same for rows that were copied and not streamed: `source.snapshot` says so.
    pub fn copied(mut self) -> Self {
        self.source.copied();
        if let Some(source) = &mut self.debezium {
            source.copied();
        }
        self
    }

    /// The table.
    pub fn table(&self) -> &TableName {
        &self.table
    }

    /// Fails where an update or delete would leave the old key unknown.
    pub fn check_identity(&self) -> Result<(), RowError> {
        match self.key_not_identity {
            None => Ok(()),
            Some(at) => {
                Err(RowError::KeyNotIdentity { table: self.table.clone(), column: self.name(at) })
            }
        }
    }

    /// Writes the key of an old row, which must be whole: a partition whose replica identity is not that of its root
    /// sends nulls in place of what it does not send.
    pub fn old_key(&self, old: &Old<'_>, out: &mut Vec<u8>) -> Result<Range<usize>, RowError> {
        self.check_count(old.tuple())?;
        let mut wanted = self.key.iter().peekable();
        for (at, cell) in old.tuple().cells().enumerate() {
            if wanted.next_if(|key| key.at == at).is_some() && cell == Cell::Null {
                return Err(RowError::KeyNotIdentity {
                    table: self.table.clone(),
                    column: self.name(at),
                });
            }
        }
        self.key(old.tuple(), None, out)
    }

    /// Writes the key of a row. Cells the server did not send are taken from `old`.
    pub fn key(
        &self,
        row: &Tuple<'_>,
        old: Option<&Old<'_>>,
        out: &mut Vec<u8>,
    ) -> Result<Range<usize>, RowError> {
        self.check_count(row)?;
        let start = out.len();
        let mut wanted = self.key.iter().peekable();
        for (at, cell) in row.cells().enumerate() {
            let Some(key) = wanted.next_if(|key| key.at == at) else { continue };
            out.extend_from_slice(&key.prefix);
            let cell = match cell {
                Cell::Unchanged => {
                    old.and_then(|old| old.tuple().cells().nth(at)).unwrap_or(Cell::Unchanged)
                }
                cell => cell,
            };
            match cell {
                Cell::Null => out.extend_from_slice(b"null"),
                Cell::Text(text) => self.value(at, text, out)?,
                Cell::Unchanged => {
                    let column = self.name(at);
                    return Err(RowError::KeyUnavailable { table: self.table.clone(), column });
                }
            }
            if wanted.peek().is_none() {
                break;
            }
        }
        out.push(b'}');
        Ok(start..out.len())
    }

    /// Writes the value of a change. `unchanged` is memory to work in.
    pub fn change(
        &self,
        images: Images<'_, '_>,
        origin: Origin,
        unchanged: &mut Vec<usize>,
        out: &mut Vec<u8>,
    ) -> Result<Range<usize>, RowError> {
        unchanged.clear();
        if let Some(source) = &self.debezium {
            return self.debezium(source, images, origin, unchanged, out);
        }
        let start = out.len();
        out.extend_from_slice(b"{\"before\":");
        match images.before {
            None => out.extend_from_slice(b"null"),
            Some(Old::Key(row)) => self.row(row, None, true, unchanged, out)?,
            Some(Old::Full(row)) => self.row(row, None, false, unchanged, out)?,
        }
        out.extend_from_slice(b",\"after\":");
        match images.after {
            None => out.extend_from_slice(b"null"),
            Some(row) => self.row(row, images.full(), false, unchanged, out)?,
        }
        self.source.write(origin, out);
        out.extend_from_slice(b",\"op\":\"");
        out.push(images.op);
        out.extend_from_slice(b"\",\"ts_ms\":");
        signed(origin.now_ms, out);
        if !unchanged.is_empty() {
            out.extend_from_slice(b",\"unchanged\":[");
            for (place, at) in unchanged.iter().enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                let prefix = &self.columns[*at].prefix;
                out.extend_from_slice(&prefix[..prefix.len() - 1]);
            }
            out.push(b']');
        }
        out.push(b'}');
        Ok(start..out.len())
    }

    fn row(
        &self,
        row: &Tuple<'_>,
        full: Option<&Tuple<'_>>,
        identity_only: bool,
        unchanged: &mut Vec<usize>,
        out: &mut Vec<u8>,
    ) -> Result<(), RowError> {
        self.check_count(row)?;
        let mut lead = b'{';
        for (at, (cell, column)) in row.cells().zip(&self.columns).enumerate() {
            if matches!(column.written, Written::Omitted) {
                continue;
            }
            if identity_only && !column.is_identity {
                if self.is_debezium() {
                    out.push(lead);
                    lead = b',';
                    out.extend_from_slice(&column.prefix);
                    out.extend_from_slice(b"null");
                }
                continue;
            }
            // With full identity the old image holds what the new one leaves out. A null there is no value: what is
            // stored out of line is never null, and a partition with another identity than its root sends nulls.
            let cell = match (cell, full.and_then(|full| full.cells().nth(at))) {
                (Cell::Unchanged, Some(old @ Cell::Text(_))) => old,
                _ => cell,
            };
            if cell == Cell::Unchanged && !self.is_debezium() {
                unchanged.push(at);
                continue;
            }
            out.push(lead);
            lead = b',';
            out.extend_from_slice(&column.prefix);
            match (cell, &column.written) {
                (Cell::Text(text), _) => self.value(at, text, out)?,
                (Cell::Unchanged, Written::Debezium(form)) => {
                    value::debezium::write_unavailable(form, out);
                }
                (Cell::Unchanged, _) => {
                    value::debezium::write_unavailable(&value::debezium::Form::Text, out);
                }
                (Cell::Null, _) => out.extend_from_slice(b"null"),
            }
        }
        if lead == b'{' {
            out.push(b'{');
        }
        out.push(b'}');
        Ok(())
    }

    fn value(&self, at: usize, text: &[u8], out: &mut Vec<u8>) -> Result<(), RowError> {
        let written = match &self.columns[at].written {
            Written::Readable(form) => value::write(*form, text, out),
            Written::Debezium(form) => value::debezium::write(form, text, out),
            Written::Truncated(count) => mask::truncate(*count, text, out),
            Written::Hmac(key) => {
                key.write(text, out);
                Ok(())
            }
            Written::Omitted => Ok(()),
        };
        written.map_err(|bad| {
            let (table, column) = (self.table.clone(), self.name(at));
            match bad {
                BadText::NotUtf8 => RowError::NotUtf8 { table, column },
                BadText::NotItsType => RowError::Form { table, column },
            }
        })
    }

    fn check_count(&self, row: &Tuple<'_>) -> Result<(), RowError> {
        let (found, announced) = (row.column_count(), self.columns.len());
        if found == announced {
            Ok(())
        } else {
            Err(RowError::ColumnCount { table: self.table.clone(), found, announced })
        }
    }

    /// The name of a column, for messages.
    fn name(&self, at: usize) -> String {
        let prefix = &self.columns[at].prefix;
        serde_json::from_slice(&prefix[..prefix.len() - 1]).unwrap_or_default()
    }
}

/// Where a change came from, with all that is the same each time prepared as bytes.
#[derive(Clone, Debug)]
pub(crate) struct SourceBlock {
    /// From `"source":{` to the commit time.
    head: Vec<u8>,
    /// From the commit time to the transaction id.
    middle: Vec<u8>,
}

impl SourceBlock {
    pub(crate) fn new(pipeline: &str, database: &str, table: &TableName) -> Self {
        let mut head = b",\"source\":{\"version\":".to_vec();
        text(env!("CARGO_PKG_VERSION"), &mut head);
        head.extend_from_slice(b",\"connector\":\"tailwater\",\"name\":");
        text(pipeline, &mut head);
        head.extend_from_slice(b",\"ts_ms\":");
        let mut middle = STREAMED.to_vec();
        middle.extend_from_slice(b",\"db\":");
        text(database, &mut middle);
        middle.extend_from_slice(b",\"schema\":");
        text(&table.schema, &mut middle);
        middle.extend_from_slice(b",\"table\":");
        text(&table.table, &mut middle);
        middle.extend_from_slice(b",\"txId\":");
        Self { head, middle }
    }

    /// The same for rows that were copied and not streamed.
    fn copied(&mut self) {
        say_copied(&mut self.middle);
    }

    pub(crate) fn write(&self, origin: Origin, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        signed(origin.commit_us.div_euclid(1_000), out);
        out.extend_from_slice(&self.middle);
        match origin.xid {
            // No transaction has this number.
            0 => out.extend_from_slice(b"null"),
            xid => value::number(u64::from(xid), out),
        }
        // A change's own LSN is no identity, three rows of one COPY share one; `lsn` says the commit's, too.
        out.extend_from_slice(b",\"lsn\":");
        value::number(origin.commit_lsn, out);
        out.extend_from_slice(b",\"commit_lsn\":");
        value::number(origin.commit_lsn, out);
        out.extend_from_slice(b",\"ordinal\":");
        value::number(origin.ordinal, out);
        out.extend_from_slice(b",\"seq\":");
        value::number(origin.seq, out);
        out.push(b'}');
    }
}

fn say_copied(block: &mut Vec<u8>) {
    if block.starts_with(STREAMED) {
        block.splice(..STREAMED.len(), COPIED.iter().copied());
    }
}

impl Written {
    /// `None`: there is no key for the column's mask.
    fn of(column: &RelationColumn, style: Style<'_>) -> Option<Self> {
        Some(match style.mask.get(&column.name) {
            Some(Mask::Drop) => Self::Omitted,
            Some(Mask::Truncate(count)) => Self::Truncated(*count),
            Some(Mask::Hmac) => Self::Hmac(style.mask_key?.clone()),
            None => match style.values {
                Values::Readable => Self::Readable(Form::of_type(column.type_oid)),
                Values::Debezium => match value::debezium::Form::of(column) {
                    value::debezium::Form::Omitted => Self::Omitted,
                    form => Self::Debezium(form),
                },
            },
        })
    }
}

impl<'i, 't> Images<'i, 't> {
    /// The whole old row, if there is one.
    fn full(&self) -> Option<&'i Tuple<'t>> {
        match self.fill? {
            Old::Full(row) => Some(row),
            Old::Key(_) => None,
        }
    }
}

fn prefix(lead: &[u8], name: &str) -> Vec<u8> {
    let mut prefix = lead.to_vec();
    text(name, &mut prefix);
    prefix.push(b':');
    prefix
}

fn text(text: &str, out: &mut Vec<u8>) {
    // A `str` is UTF-8, the one thing that could be refused.
    let _ = value::string(text.as_bytes(), out);
}

pub(crate) fn signed(number: i64, out: &mut Vec<u8>) {
    if number < 0 {
        out.push(b'-');
    }
    value::number(number.unsigned_abs(), out);
}
