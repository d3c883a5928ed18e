//! The same objects for other engines: statements that make a topic's tables there.
//!
//! Each gets the records as a table with the archive's own columns, `before` and `after` as JSON text, and a view
//! `…_current`. What the views cannot say in plain SQL, the lake's own tables do: a moved key's unchanged values, and
//! rows of a first copy that are older than a change, count there and not here.

use clap::ValueEnum;
use tailwater_topics_contract::TopicName;

use crate::columns::{RowColumn, Type};
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

/// The statements for a topic whose archive begins at `at`, such as `s3://events/` or a folder.
pub fn statements(engine: Engine, subject: &Subject, at: &str) -> String {
    let table = plain_name(subject.topic.as_str());
    let folder = format!("{at}data/{}/", subject.topic);
    match engine {
        Engine::Duckdb => duckdb(subject, &table, &folder),
        Engine::Clickhouse => clickhouse(subject, &table, &folder),
        Engine::Trino | Engine::Athena => hive(engine, subject, &table, &folder),
        Engine::Spark => spark(subject, &table, &folder),
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Columns and their types in an engine's words; a topic of events has its fields among them.
fn columns(subject: &Subject, word: impl Fn(&Kind) -> &'static str) -> Vec<(String, &'static str)> {
    let mut columns: Vec<_> =
        HEAD.iter().map(|(name, kind)| ((*name).to_owned(), word(kind))).collect();
    if subject.has_events {
        for row in &subject.rows {
            columns.push((row.field.clone(), word(&Kind::Json)));
        }
    } else {
        columns.extend(ENVELOPE.iter().map(|(name, kind)| ((*name).to_owned(), word(kind))));
    }
    columns
}

fn duckdb(subject: &Subject, table: &str, folder: &str) -> String {
    let word = |kind: &Kind| match kind {
        Kind::Int => "BIGINT",
        Kind::Text => "VARCHAR",
        Kind::Json => "JSON",
        Kind::Texts => "VARCHAR[]",
    };
    let columns: Vec<String> = columns(subject, word)
        .into_iter()
        .map(|(name, kind)| format!("    {}: '{kind}'", text(&name)))
        .collect();
    let files = text(&format!("{folder}dt=*/p*.jsonl.gz"));
    let mut out = format!(
        "CREATE OR REPLACE VIEW {table} AS\nSELECT * FROM read_json({files}, format = 'newline_delimited', compression = 'gzip', hive_partitioning = false, columns = {{\n{}\n}});\n",
        columns.join(",\n")
    );
    if subject.has_events {
        return out;
    }
    let cast = |row: &RowColumn| {
        let path = text(&format!("$.\"{}\"", row.field.replace('"', "\\\"")));
        let value = format!("json_extract_string(after, {path})");
        match row.kind {
            Type::Int => format!("TRY_CAST({value} AS BIGINT)"),
            Type::Float => format!("TRY_CAST({value} AS DOUBLE)"),
            Type::Bool => format!("TRY_CAST({value} AS BOOLEAN)"),
            Type::Text => value,
            Type::Json => format!("json_extract(after, {path})"),
        }
    };
    let picked: Vec<String> = subject
        .rows
        .iter()
        .map(|row| {
            format!(
                "        arg_max_null({}, tw_seq) FILTER (WHERE op_code <> 'd' AND NOT list_contains(coalesce(unchanged, []), {})) AS {}",
                cast(row),
                text(&row.field),
                quoted(&row.name)
            )
        })
        .collect();
    out.push_str(&current(
        table,
        &picked,
        "CAST(kafka_key AS VARCHAR)",
        "arg_max",
        subject,
        &quoted,
    ));
    out
}

/// The view of the current rows: all engines here have a function that picks one column by the highest of another.
fn current(
    table: &str,
    picked: &[String],
    key: &str,
    pick: &str,
    subject: &Subject,
    name: &dyn Fn(&str) -> String,
) -> String {
    let names: Vec<String> = subject.rows.iter().map(|row| name(&row.name)).collect();
    format!(
        "CREATE OR REPLACE VIEW {table}_current AS\nSELECT {names}, the_key AS kafka_key, the_seq AS tw_seq FROM (\n    SELECT\n        {key} AS the_key,\n        {pick}(op_code, tw_seq) AS the_op,\n        max(tw_seq) AS the_seq,\n{picked}\n    FROM {table}\n    WHERE op_code IN ('c', 'u', 'd', 'r')\n        AND tw_seq > (SELECT coalesce(max(tw_seq), 0) FROM {table} WHERE op_code = 't')\n    GROUP BY {key}\n) AS states\nWHERE the_op <> 'd';\n",
        names = names.join(", "),
        picked = picked.join(",\n"),
    )
}

fn clickhouse(subject: &Subject, table: &str, folder: &str) -> String {
    let word = |kind: &Kind| match kind {
        Kind::Int => "Nullable(Int64)",
        Kind::Text | Kind::Json => "Nullable(String)",
        Kind::Texts => "Array(String)",
    };
    let columns: Vec<String> = columns(subject, word)
        .into_iter()
        .map(|(name, kind)| format!("    `{name}` {kind}"))
        .collect();
    let files = text(&format!("{folder}dt=*/p*.jsonl.gz"));
    let mut out = format!(
        "CREATE TABLE {table} (\n{}\n) ENGINE = S3({files}, 'JSONEachRow', 'gzip')\nSETTINGS input_format_json_read_objects_as_strings = 1, input_format_json_read_arrays_as_strings = 1, input_format_skip_unknown_fields = 1;\n",
        columns.join(",\n")
    );
    if subject.has_events {
        return out;
    }
    let picked: Vec<String> = subject
        .rows
        .iter()
        .map(|row| {
            let field = text(&row.field);
            let value = match row.kind {
                Type::Int => format!("JSONExtract(assumeNotNull(after), {field}, 'Nullable(Int64)')"),
                Type::Float => format!("JSONExtract(assumeNotNull(after), {field}, 'Nullable(Float64)')"),
                Type::Bool => format!("JSONExtract(assumeNotNull(after), {field}, 'Nullable(Bool)')"),
                Type::Text => format!("JSONExtract(assumeNotNull(after), {field}, 'Nullable(String)')"),
                Type::Json => format!("JSONExtractRaw(assumeNotNull(after), {field})"),
            };
            format!(
                "        argMaxIf(tuple({value}), tw_seq, op_code <> 'd' AND NOT has(unchanged, {field})).1 AS `{}`",
                row.name
            )
        })
        .collect();
    let name = |name: &str| format!("`{name}`");
    out.push_str(&current(table, &picked, "kafka_key", "argMax", subject, &name));
    out
}

fn hive(engine: Engine, subject: &Subject, table: &str, folder: &str) -> String {
    let is_athena = engine == Engine::Athena;
    let word = |kind: &Kind| match (kind, is_athena) {
        (Kind::Int, _) => "bigint",
        (Kind::Text | Kind::Json, true) => "string",
        (Kind::Text | Kind::Json, false) => "varchar",
        (Kind::Texts, true) => "array<string>",
        (Kind::Texts, false) => "array(varchar)",
    };
    let mut lines: Vec<String> = columns(subject, word)
        .into_iter()
        .map(|(name, kind)| {
            format!("    {} {kind}", if is_athena { format!("`{name}`") } else { quoted(&name) })
        })
        .collect();
    let mut out = if is_athena {
        format!(
            "CREATE EXTERNAL TABLE {table} (\n{}\n)\nPARTITIONED BY (dt string)\nROW FORMAT SERDE 'org.openx.data.jsonserde.JsonSerDe'\nLOCATION {}\nTBLPROPERTIES ('projection.enabled' = 'true', 'projection.dt.type' = 'date', 'projection.dt.format' = 'yyyy-MM-dd', 'projection.dt.range' = '2020-01-01,NOW', 'storage.location.template' = {});\n",
            lines.join(",\n"),
            text(folder),
            text(&format!("{folder}dt=${{dt}}/"))
        )
    } else {
        lines.push("    dt varchar".to_owned());
        format!(
            "CREATE TABLE {table} (\n{}\n) WITH (format = 'OPENX_JSON', external_location = {}, partitioned_by = ARRAY['dt']);\nCALL system.sync_partition_metadata(schema_name => 'default', table_name => {}, mode => 'FULL');\n",
            lines.join(",\n"),
            text(folder),
            text(table)
        )
    };
    if subject.has_events {
        return out;
    }
    let picked: Vec<String> = subject
        .rows
        .iter()
        .map(|row| {
            let path = text(&format!("$[\"{}\"]", row.field.replace('"', "\\\"")));
            let value = format!("json_extract_scalar(after, {path})");
            let value = match row.kind {
                Type::Int => format!("TRY_CAST({value} AS bigint)"),
                Type::Float => format!("TRY_CAST({value} AS double)"),
                Type::Bool => format!("TRY_CAST({value} AS boolean)"),
                Type::Text => value,
                Type::Json => format!("json_format(json_extract(after, {path}))"),
            };
            format!(
                "        max_by({value}, tw_seq) FILTER (WHERE op_code <> 'd' AND NOT contains(coalesce(unchanged, ARRAY[]), {})) AS {}",
                text(&row.field),
                quoted(&row.name)
            )
        })
        .collect();
    out.push_str(&current(table, &picked, "kafka_key", "max_by", subject, &quoted));
    out
}

fn spark(subject: &Subject, table: &str, folder: &str) -> String {
    let word = |kind: &Kind| match kind {
        Kind::Int => "BIGINT",
        Kind::Text | Kind::Json => "STRING",
        Kind::Texts => "ARRAY<STRING>",
    };
    let columns: Vec<String> = columns(subject, word)
        .into_iter()
        .map(|(name, kind)| format!("    `{name}` {kind}"))
        .collect();
    let folder = folder.replacen("s3://", "s3a://", 1);
    let mut out = format!(
        "CREATE TABLE {table} (\n{},\n    `dt` STRING\n) USING json PARTITIONED BY (dt) LOCATION {};\nMSCK REPAIR TABLE {table};\n",
        columns.join(",\n"),
        text(&folder)
    );
    if subject.has_events {
        return out;
    }
    let picked: Vec<String> = subject
        .rows
        .iter()
        .map(|row| {
            let value = format!("get_json_object(after, {})", text(&format!("$['{}']", row.field)).replace("''", "\\'"));
            let value = match row.kind {
                Type::Int => format!("TRY_CAST({value} AS BIGINT)"),
                Type::Float => format!("TRY_CAST({value} AS DOUBLE)"),
                Type::Bool => format!("TRY_CAST({value} AS BOOLEAN)"),
                Type::Text | Type::Json => value,
            };
            format!(
                "        max_by({value}, tw_seq) FILTER (WHERE op_code <> 'd' AND NOT array_contains(coalesce(unchanged, array()), {})) AS `{}`",
                text(&row.field),
                row.name
            )
        })
        .collect();
    let name = |name: &str| format!("`{name}`");
    out.push_str(&current(table, &picked, "kafka_key", "max_by", subject, &name));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

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
