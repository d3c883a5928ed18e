use super::{Dialect, Kind, back_quoted, double_quoted, lines, text};
use crate::columns::{RowColumn, Type};

/// Both are Trino's SQL; the table is declared in Hive's for Athena.
pub(super) enum Hive {
    Trino,
    Athena,
}

impl Dialect for Hive {
    fn kind(&self, kind: Kind) -> &'static str {
        match (self, kind) {
            (_, Kind::Int) => "bigint",
            (Self::Athena, Kind::Text | Kind::Json) => "string",
            (Self::Trino, Kind::Text | Kind::Json) => "varchar",
            (Self::Athena, Kind::Texts) => "array<string>",
            (Self::Trino, Kind::Texts) => "array(varchar)",
        }
    }

    fn name(&self, name: &str) -> String {
        double_quoted(name)
    }

    fn table(&self, table: &str, columns: &[(String, &'static str)], folder: &str) -> String {
        let location = text(folder);
        match self {
            Self::Athena => {
                let columns = lines(columns, |name, kind| format!("{} {kind}", back_quoted(name)));
                let template = text(&format!("{folder}dt=${{dt}}/"));
                format!(
                    "CREATE EXTERNAL TABLE {table} (\n{columns}\n)\nPARTITIONED BY (dt string)\nROW FORMAT SERDE 'org.openx.data.jsonserde.JsonSerDe'\nLOCATION {location}\nTBLPROPERTIES ('projection.enabled' = 'true', 'projection.dt.type' = 'date', 'projection.dt.format' = 'yyyy-MM-dd', 'projection.dt.range' = '2020-01-01,NOW', 'storage.location.template' = {template});\n"
                )
            }
            Self::Trino => {
                let columns =
                    lines(columns, |name, kind| format!("{} {kind}", double_quoted(name)));
                let name = text(table);
                format!(
                    "CREATE TABLE {table} (\n{columns},\n    dt varchar\n) WITH (format = 'OPENX_JSON', external_location = {location}, partitioned_by = ARRAY['dt']);\nCALL system.sync_partition_metadata(schema_name => 'default', table_name => {name}, mode => 'FULL');\n"
                )
            }
        }
    }

    fn field(&self, row: &RowColumn) -> String {
        let path = text(&format!("$[\"{}\"]", row.field.replace('"', "\\\"")));
        let value = format!("json_extract_scalar(after, {path})");
        match row.kind {
            Type::Int => format!("TRY_CAST({value} AS bigint)"),
            Type::Float => format!("TRY_CAST({value} AS double)"),
            Type::Bool => format!("TRY_CAST({value} AS boolean)"),
            Type::Text => value,
            Type::Json => format!("json_format(json_extract(after, {path}))"),
        }
    }

    fn newest(&self, value: &str, field: &str) -> String {
        format!(
            "max_by({value}, tw_seq) FILTER (WHERE op_code <> 'd' AND NOT contains(coalesce(unchanged, ARRAY[]), {field}))"
        )
    }

    fn pick(&self) -> &'static str {
        "max_by"
    }
}
