use super::{Dialect, Kind, double_quoted, lines, text};
use crate::columns::{RowColumn, Type};

pub(super) struct DuckDb;

impl Dialect for DuckDb {
    fn kind(&self, kind: Kind) -> &'static str {
        match kind {
            Kind::Int => "BIGINT",
            Kind::Text => "VARCHAR",
            Kind::Json => "JSON",
            Kind::Texts => "VARCHAR[]",
        }
    }

    fn name(&self, name: &str) -> String {
        double_quoted(name)
    }

    fn table(&self, table: &str, columns: &[(String, &'static str)], folder: &str) -> String {
        let files = text(&format!("{folder}dt=*/p*.jsonl.gz"));
        let columns = lines(columns, |name, kind| format!("{}: '{kind}'", text(name)));
        format!(
            "CREATE OR REPLACE VIEW {table} AS\nSELECT * FROM read_json({files}, format = 'newline_delimited', compression = 'gzip', hive_partitioning = false, columns = {{\n{columns}\n}});\n"
        )
    }

    fn field(&self, row: &RowColumn) -> String {
        let path = text(&format!("$.\"{}\"", row.field.replace('"', "\\\"")));
        let value = format!("json_extract_string(after, {path})");
        match row.kind {
            Type::Int => format!("TRY_CAST({value} AS BIGINT)"),
            Type::Float => format!("TRY_CAST({value} AS DOUBLE)"),
            Type::Bool => format!("TRY_CAST({value} AS BOOLEAN)"),
            Type::Text => value,
            Type::Json => format!("json_extract(after, {path})"),
        }
    }

    fn newest(&self, value: &str, field: &str) -> String {
        format!(
            "arg_max_null({value}, tw_seq) FILTER (WHERE op_code <> 'd' AND NOT list_contains(coalesce(unchanged, []), {field}))"
        )
    }

    fn pick(&self) -> &'static str {
        "arg_max"
    }

    fn key(&self) -> &'static str {
        "CAST(kafka_key AS VARCHAR)"
    }
}
