use super::{Dialect, Kind, back_quoted, lines, text};
use crate::columns::{RowColumn, Type};

pub(super) struct ClickHouse;

impl Dialect for ClickHouse {
    fn kind(&self, kind: Kind) -> &'static str {
        match kind {
            Kind::Int => "Nullable(Int64)",
            Kind::Text | Kind::Json => "Nullable(String)",
            Kind::Texts => "Array(String)",
        }
    }

    fn name(&self, name: &str) -> String {
        back_quoted(name)
    }

    fn table(&self, table: &str, columns: &[(String, &'static str)], folder: &str) -> String {
        let files = text(&format!("{folder}dt=*/p*.jsonl.gz"));
        let columns = lines(columns, |name, kind| format!("{} {kind}", back_quoted(name)));
        format!(
            "CREATE TABLE {table} (\n{columns}\n) ENGINE = S3({files}, 'JSONEachRow', 'gzip')\nSETTINGS input_format_json_read_objects_as_strings = 1, input_format_json_read_arrays_as_strings = 1, input_format_skip_unknown_fields = 1;\n"
        )
    }

    fn field(&self, row: &RowColumn) -> String {
        let field = text(&row.field);
        let typed =
            |kind| format!("JSONExtract(assumeNotNull(after), {field}, 'Nullable({kind})')");
        match row.kind {
            Type::Int => typed("Int64"),
            Type::Float => typed("Float64"),
            Type::Bool => typed("Bool"),
            Type::Text => typed("String"),
            Type::Json => format!("JSONExtractRaw(assumeNotNull(after), {field})"),
        }
    }

    fn newest(&self, value: &str, field: &str) -> String {
        // A tuple, because NULL is a value here and the function would pass over it.
        format!(
            "argMaxIf(tuple({value}), tw_seq, op_code <> 'd' AND NOT has(unchanged, {field})).1"
        )
    }

    fn pick(&self) -> &'static str {
        "argMax"
    }
}
