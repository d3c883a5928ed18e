use super::{Dialect, Kind, back_quoted, lines, text};
use crate::columns::{RowColumn, Type};

pub(super) struct Spark;

impl Dialect for Spark {
    fn kind(&self, kind: Kind) -> &'static str {
        match kind {
            Kind::Int => "BIGINT",
            Kind::Text | Kind::Json => "STRING",
            Kind::Texts => "ARRAY<STRING>",
        }
    }

    fn name(&self, name: &str) -> String {
        back_quoted(name)
    }

    fn table(&self, table: &str, columns: &[(String, &'static str)], folder: &str) -> String {
        let columns = lines(columns, |name, kind| format!("{} {kind}", back_quoted(name)));
        // Hadoop's own client is called `s3a`.
        let location = text(&folder.replacen("s3://", "s3a://", 1));
        format!(
            "CREATE TABLE {table} (\n{columns},\n    `dt` STRING\n) USING json PARTITIONED BY (dt) LOCATION {location};\nMSCK REPAIR TABLE {table};\n"
        )
    }

    fn field(&self, row: &RowColumn) -> String {
        let path = text(&format!("$['{}']", row.field)).replace("''", "\\'");
        let value = format!("get_json_object(after, {path})");
        match row.kind {
            Type::Int => format!("TRY_CAST({value} AS BIGINT)"),
            Type::Float => format!("TRY_CAST({value} AS DOUBLE)"),
            Type::Bool => format!("TRY_CAST({value} AS BOOLEAN)"),
            Type::Text | Type::Json => value,
        }
    }

    fn newest(&self, value: &str, field: &str) -> String {
        format!(
            "max_by({value}, tw_seq) FILTER (WHERE op_code <> 'd' AND NOT array_contains(coalesce(unchanged, array()), {field}))"
        )
    }

    fn pick(&self) -> &'static str {
        "max_by"
    }
}
