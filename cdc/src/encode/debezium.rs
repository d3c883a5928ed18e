//! A change in Debezium's envelope: its fields, in its order.

use std::ops::Range;

use tailwater_topics_contract::TableName;

use super::{Images, Origin, Plan, RowError, STREAMED, say_copied, signed, text};
use crate::batch::Batch;
use crate::pgoutput::Old;
use crate::value;

/// Header of what goes with an old key: the new one.
pub(crate) const NEW_KEY: &str = "__debezium.newkey";

/// Header of what comes with a new key: the old one.
pub(crate) const OLD_KEY: &str = "__debezium.oldkey";

/// Of a row whose key has changed, the header that tells the other key.
pub(crate) type OtherKey<'a> = Option<(&'static str, &'a [u8])>;

/// Adds the headers of a record, in Debezium's order.
pub(crate) fn headers(pipeline: &str, other_key: OtherKey<'_>, out: &mut Batch) {
    let context = [
        ("__debezium.context.connectorLogicalName", pipeline.as_bytes()),
        ("__debezium.context.taskId", b"0"),
        ("__debezium.context.connectorName", b"postgresql"),
    ];
    for (name, value) in other_key.into_iter().chain(context) {
        let start = out.bytes();
        out.arena().extend_from_slice(value);
        out.header(name, start);
    }
}

/// What is the same in the source block of each change.
#[derive(Debug)]
pub(super) struct Source {
    /// From `"source":{` to the commit time.
    head: Vec<u8>,
    /// From the commit time to the sequence.
    database: Vec<u8>,
    /// From the commit time in nanoseconds to the transaction id.
    table: Vec<u8>,
}

impl Source {
    pub(super) fn new(pipeline: &str, database: &str, table: &TableName) -> Self {
        let mut head = b",\"source\":{\"version\":".to_vec();
        text(env!("CARGO_PKG_VERSION"), &mut head);
        head.extend_from_slice(b",\"connector\":\"postgresql\",\"name\":");
        text(pipeline, &mut head);
        head.extend_from_slice(b",\"ts_ms\":");
        let mut db = STREAMED.to_vec();
        db.extend_from_slice(b",\"db\":");
        text(database, &mut db);
        db.extend_from_slice(b",\"sequence\":\"[");
        let mut names = b",\"schema\":".to_vec();
        text(&table.schema, &mut names);
        names.extend_from_slice(b",\"table\":");
        text(&table.table, &mut names);
        names.extend_from_slice(b",\"txId\":");
        Self { head, database: db, table: names }
    }

    /// The same for rows that were copied and not streamed.
    pub(super) fn copied(&mut self) {
        say_copied(&mut self.database);
    }

    fn write(&self, origin: Origin, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        signed(origin.commit_us.div_euclid(1_000), out);
        out.extend_from_slice(&self.database);
        // Texts within a text: the end of the last commit before, and the change.
        if origin.last_commit == 0 {
            out.extend_from_slice(b"null");
        } else {
            out.extend_from_slice(b"\\\"");
            value::number(origin.last_commit, out);
            out.extend_from_slice(b"\\\"");
        }
        out.extend_from_slice(b",\\\"");
        value::number(origin.lsn, out);
        out.extend_from_slice(b"\\\"]\",\"ts_us\":");
        signed(origin.commit_us, out);
        out.extend_from_slice(b",\"ts_ns\":");
        signed(origin.commit_us.saturating_mul(1_000), out);
        out.extend_from_slice(&self.table);
        match origin.xid {
            0 => out.extend_from_slice(b"null"),
            xid => value::number(u64::from(xid), out),
        }
        out.extend_from_slice(b",\"lsn\":");
        value::number(origin.lsn, out);
        out.extend_from_slice(b",\"xmin\":null,\"origin\":null,\"origin_lsn\":null}");
    }
}

impl Plan {
    /// Writes a change as Debezium does.
    pub(super) fn debezium(
        &self,
        source: &Source,
        images: Images<'_, '_>,
        origin: Origin,
        unchanged: &mut Vec<usize>,
        out: &mut Vec<u8>,
    ) -> Result<Range<usize>, RowError> {
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
        source.write(origin, out);
        out.extend_from_slice(b",\"transaction\":null,\"op\":\"");
        out.push(images.op);
        out.extend_from_slice(b"\",\"ts_ms\":");
        signed(origin.now_ms, out);
        out.extend_from_slice(b",\"ts_us\":");
        signed(origin.now_ms.saturating_mul(1_000), out);
        out.extend_from_slice(b",\"ts_ns\":");
        signed(origin.now_ms.saturating_mul(1_000_000), out);
        out.push(b'}');
        Ok(start..out.len())
    }
}
