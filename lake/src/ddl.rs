//! The same objects for other engines: statements that make a topic's tables there.
//!
//! Each gets the records as a table with the archive's own columns, `before` and `after` as JSON text, and a view
//! `…_current`. What the views cannot say in plain SQL, the lake's own tables do: a moved key's unchanged values, and
//! rows of a first copy that are older than a change, count there and not here.

mod clickhouse;
mod duckdb;
mod hive; // Trino, Athena
mod spark;

use clap::ValueEnum;
use tailwater_topics_contract::TopicName;

use crate::columns::RowColumn;
use crate::infer::Shape;
use crate::session::plain_name;

/// For which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// DuckDB.
    Duckdb,
    /// ClickHouse.
    Clickhouse,
    /// Trino, Hive connector.
    Trino,
    /// Amazon Athena.
    Athena,
    /// Spark SQL.
    Spark,
}

/// A topic, as statements are made for it.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The topic.
    pub topic: TopicName,
    /// The fields of its rows.
    pub rows: Vec<RowColumn>,
    /// Whether it holds events: then the fields stand in the line itself.
    pub has_events: bool,
}

impl Subject {
    pub(crate) fn new(topic: TopicName, shape: &Shape) -> Self {
        Self { topic, rows: shape.rows.clone(), has_events: shape.has_events }
    }
}

/// A column of the head or the envelope.
#[derive(Clone, Copy)]
enum Kind {
    Int,
    Text,
    Json,
    Texts,
}

const HEAD: [(&str, Kind); 11] = [
    ("kafka_offset", Kind::Int),
    ("kafka_partition", Kind::Int),
    ("kafka_ts_ms", Kind::Int),
    ("op_code", Kind::Text),
    ("commit_lsn", Kind::Int),
    ("commit_ts_us", Kind::Int),
    ("tx_id", Kind::Int),
    ("tx_seq", Kind::Int),
    ("tw_seq", Kind::Int),
    ("kafka_key", Kind::Json),
    ("kafka_headers", Kind::Json),
];

const ENVELOPE: [(&str, Kind); 3] =
    [("before", Kind::Json), ("after", Kind::Json), ("unchanged", Kind::Texts)];

/// What engines say each in their own way.
trait Dialect {
    /// The type of a column.
    fn kind(&self, kind: Kind) -> &'static str;

    /// A name, quoted.
    fn name(&self, name: &str) -> String;

    /// What makes the table of the records under `folder`.
    fn table(&self, table: &str, columns: &[(String, &'static str)], folder: &str) -> String;

    /// A field of `after` with its type.
    fn field(&self, row: &RowColumn) -> String;

    /// Of all records of a key, `value` in the newest that carries `field`, a text in quotes.
    fn newest(&self, value: &str, field: &str) -> String;

    /// The function that picks one column by the highest of another.
    fn pick(&self) -> &'static str;

    /// What records are grouped by.
    fn key(&self) -> &'static str {
        "kafka_key"
    }
}

impl Engine {
    fn dialect(self) -> &'static dyn Dialect {
        match self {
            Self::Duckdb => &duckdb::DuckDb,
            Self::Clickhouse => &clickhouse::ClickHouse,
            Self::Trino => &hive::Hive::Trino,
            Self::Athena => &hive::Hive::Athena,
            Self::Spark => &spark::Spark,
        }
    }
}

/// The statements for a topic whose archive begins at `at`, such as `s3://events/` or a folder.
pub fn statements(engine: Engine, subject: &Subject, at: &str) -> String {
    let dialect = engine.dialect();
    let table = plain_name(subject.topic.as_str());
    let records =
        dialect.table(&table, &columns(subject, dialect), &format!("{at}data/{}/", subject.topic));
    if subject.has_events { records } else { records + &current(subject, dialect, &table) }
}

/// Columns and their types; a topic of events has its fields among them.
fn columns(subject: &Subject, dialect: &dyn Dialect) -> Vec<(String, &'static str)> {
    let typed = |(name, kind): &(&str, Kind)| ((*name).to_owned(), dialect.kind(*kind));
    let mut columns: Vec<_> = HEAD.iter().map(typed).collect();
    if subject.has_events {
        let fields = subject.rows.iter().map(|row| row.field.clone());
        columns.extend(fields.map(|field| (field, dialect.kind(Kind::Json))));
    } else {
        columns.extend(ENVELOPE.iter().map(typed));
    }
    columns
}

/// The view of the current rows.
fn current(subject: &Subject, dialect: &dyn Dialect, table: &str) -> String {
    let names: Vec<String> = subject.rows.iter().map(|row| dialect.name(&row.name)).collect();
    let values: Vec<String> = subject
        .rows
        .iter()
        .zip(&names)
        .map(|(row, name)| {
            let newest = dialect.newest(&dialect.field(row), &text(&row.field));
            format!("        {newest} AS {name}")
        })
        .collect();
    format!(
        "CREATE OR REPLACE VIEW {table}_current AS\nSELECT {names}, the_key AS kafka_key, the_seq AS tw_seq FROM (\n    SELECT\n        {key} AS the_key,\n        {pick}(op_code, tw_seq) AS the_op,\n        max(tw_seq) AS the_seq,\n{values}\n    FROM {table}\n    WHERE op_code IN ('c', 'u', 'd', 'r')\n        AND tw_seq > (SELECT coalesce(max(tw_seq), 0) FROM {table} WHERE op_code = 't')\n    GROUP BY {key}\n) AS states\nWHERE the_op <> 'd';\n",
        names = names.join(", "),
        key = dialect.key(),
        pick = dialect.pick(),
        values = values.join(",\n"),
    )
}

/// The lines of a table's columns; `line` writes one.
fn lines(
    columns: &[(String, &'static str)],
    line: impl Fn(&str, &'static str) -> String,
) -> String {
    let lines: Vec<String> =
        columns.iter().map(|(name, kind)| format!("    {}", line(name, kind))).collect();
    lines.join(",\n")
}

fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn double_quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn back_quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::Type;

    fn subject(has_events: bool) -> Subject {
        let row =
            |name: &str, kind| RowColumn { field: name.to_owned(), name: name.to_owned(), kind };
        Subject {
            topic: "shop.item".parse().expect("valid"),
            rows: vec![row("id", Type::Int), row("it's", Type::Text), row("doc", Type::Json)],
            has_events,
        }
    }

    #[test]
    fn every_engine_gets_the_columns_and_the_state() {
        for engine in Engine::value_variants() {
            let ddl = statements(*engine, &subject(false), "s3://events/");
            for part in [
                "shop_item",
                "kafka_offset",
                "tw_seq",
                "unchanged",
                "shop_item_current",
                "data/shop.item/",
                "the_op <> 'd'",
            ] {
                assert!(ddl.contains(part), "{engine:?} lacks {part}:\n{ddl}");
            }
            let events = statements(*engine, &subject(true), "s3://events/");
            assert!(!events.contains("_current") && events.contains("doc"), "{engine:?}");
        }
    }

    #[test]
    fn names_are_quoted_as_each_engine_wants() {
        let ddl = statements(Engine::Duckdb, &subject(false), "/tmp/x/");
        assert!(ddl.contains(r#"'$."it''s"'"#), "{ddl}");
        assert!(ddl.contains("'/tmp/x/data/shop.item/dt=*/p*.jsonl.gz'"), "{ddl}");
    }
}
