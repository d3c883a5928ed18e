//! ```text
//!  key {"product_id":7}          ──▶ _id "7"           one column: its value; more: the key as it is
//!  value {"op":"u","after":{…},  ──▶ the document      the bytes between the braces, not parsed again
//!         "source":{"seq":42}}   ──▶ version 42
//! ```
//! * What `_id` and document look like is declared: [`crate::shape`].
//! * The document stays the text Postgres printed: numbers beyond a double keep every digit.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tailwater_topics_contract::Seq;

use crate::shape::{Address, Shape};

/// One write to the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// `_id`, 1 to 512 bytes.
    pub id: String,
    /// What the shard is chosen by, when that is not `_id`.
    pub routing: Option<String>,
    /// External version: the sequence of the change.
    pub version: u64,
    /// The document, a JSON object; nothing deletes.
    pub document: Option<Bytes>,
}

/// What a record asks of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A write.
    Write(Operation),
    /// Nothing: a tombstone, whose deletion the record before it carried.
    Nothing,
    /// Everything goes: the table was truncated.
    Truncate,
}

/// Why a record can never be a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The value is not a row change.
    #[error("not a row change: {0}")]
    NotAChange(String),
    /// The key names no document.
    #[error("the key cannot be a document id: {0}")]
    Key(String),
    /// The id is empty or too long.
    #[error("the document id has {0} bytes; OpenSearch takes 1 to 512")]
    IdLength(usize),
    /// The server did not send some columns.
    #[error(
        "columns {columns} of `{table}` are missing: they are stored out of line and did not change; \
         run `ALTER TABLE {table} REPLICA IDENTITY FULL` and update the row"
    )]
    UnchangedColumns {
        /// `"schema"."table"`, as SQL takes it.
        table: String,
        /// Names in backticks, with commas.
        columns: String,
    },
    /// The sink's `document` names columns that the row does not have.
    #[error(
        "the row has no column {0}, which the sink's `document` names; take it out there, or add the column and replay"
    )]
    MissingColumns(String),
    /// Two columns would be one field.
    #[error("two columns would be the field `{0}`; rename one of them in the sink's `document`")]
    SameField(String),
    /// A column that is declared to hold documents holds something else.
    #[error(
        "column `{column}` is declared as nested, and its value is no JSON object or array: {problem}"
    )]
    NotNested {
        /// The column.
        column: String,
        /// What it is instead.
        problem: String,
    },
}

impl Unusable {
    /// A word for the dead letter's class.
    pub fn class(&self) -> &'static str {
        match self {
            Self::NotAChange(_) => "not-a-change",
            Self::Key(_) | Self::IdLength(_) => "bad-id",
            Self::UnchangedColumns { .. } => "unchanged-columns",
            Self::MissingColumns(_) => "missing-columns",
            Self::SameField(_) => "same-field",
            Self::NotNested { .. } => "not-nested",
        }
    }
}

/// The parts of a change value we need; the rest is skipped unread.
#[derive(Deserialize)]
struct Change<'a> {
    #[serde(borrow)]
    op: Cow<'a, str>,
    #[serde(borrow, default)]
    after: Option<&'a RawValue>,
    #[serde(borrow)]
    source: Source<'a>,
    #[serde(borrow, default)]
    unchanged: Vec<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Source<'a> {
    #[serde(borrow, default)]
    schema: Cow<'a, str>,
    #[serde(borrow, default)]
    table: Cow<'a, str>,
    seq: u64,
}

/// Reads one record. A document of the default shape shares the value's memory.
pub fn read(shape: &Shape, key: Option<&Bytes>, value: Option<&Bytes>) -> Result<Wish, Unusable> {
    let Some(value) = value else { return Ok(Wish::Nothing) };
    let mut change: Change<'_> =
        serde_json::from_slice(value).map_err(|error| Unusable::NotAChange(error.to_string()))?;
    let version = Seq::from_stored(change.source.seq)
        .ok_or_else(|| Unusable::NotAChange(format!("`seq` {} is too large", change.source.seq)))?
        .get();
    let document = match change.op.as_ref() {
        "c" | "u" | "r" => {
            let after = change.after.map(RawValue::get).unwrap_or_default();
            if !after.starts_with('{') {
                return Err(Unusable::NotAChange("`after` is not a row".to_owned()));
            }
            change.unchanged.retain(|column| shape.takes(column));
            if !change.unchanged.is_empty() {
                return Err(unchanged_columns(&change));
            }
            Some(shape.document(after, value)?)
        }
        "d" => None,
        "t" => return Ok(Wish::Truncate),
        other => {
            let short: String = other.chars().take(20).collect();
            return Err(Unusable::NotAChange(format!("`op` is `{short}`")));
        }
    };
    let Address { id, routing } = shape.address(key)?;
    Ok(Wish::Write(Operation { id, routing, version, document }))
}

fn unchanged_columns(change: &Change<'_>) -> Unusable {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let columns: Vec<String> =
        change.unchanged.iter().map(|column| format!("`{column}`")).collect();
    Unusable::UnchangedColumns {
        table: format!("{}.{}", quoted(&change.source.schema), quoted(&change.source.table)),
        columns: columns.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain() -> Shape {
        Shape::new(tailwater_topics_contract::DocumentSpec::default())
    }

    fn bytes(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn change(op: &str, after: &str, more: &str) -> String {
        format!(
            r#"{{"before":null,"after":{after},"source":{{"version":"0.1.0","connector":"tailwater","name":"market","ts_ms":1,"snapshot":"false","db":"d","schema":"catalog","table":"product_documents","txId":1,"lsn":1,"commit_lsn":1,"ordinal":0,"seq":42}},"op":"{op}","ts_ms":2{more}}}"#
        )
    }

    fn read_text(key: &str, value: &str) -> Result<Wish, Unusable> {
        read(&plain(), Some(&bytes(key)), Some(&bytes(value)))
    }

    fn write(key: &str, value: &str) -> Operation {
        match read_text(key, value) {
            Ok(Wish::Write(operation)) => operation,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_change_becomes_a_document_with_its_sequence_as_version() {
        for op in ["c", "u", "r"] {
            let operation = write(r#"{"id":"a-1"}"#, &change(op, r#"{"id":"a-1","n":1.50}"#, ""));
            assert_eq!((operation.id.as_str(), operation.version), ("a-1", 42));
            assert_eq!(operation.document.unwrap(), &br#"{"id":"a-1","n":1.50}"#[..]);
        }
    }

    #[test]
    fn a_delete_has_no_document_and_a_tombstone_asks_for_nothing() {
        let operation = write(r#"{"id":7}"#, &change("d", "null", r#","unchanged":["body"]"#));
        assert_eq!((operation.id.as_str(), operation.document), ("7", None));
        assert_eq!(read(&plain(), Some(&bytes("{}")), None), Ok(Wish::Nothing));
    }

    #[test]
    fn ids_are_the_only_column_or_the_whole_key() {
        let value = change("c", "{}", "");
        for (key, id) in [
            (r#"{"id":"x"}"#, "x"),
            (r#"{"id":"a\"b\n"}"#, "a\"b\n"),
            (r#"{"id":12345678901234567890}"#, "12345678901234567890"),
            (r#"{"id":true}"#, "true"),
            (r#"{"a":1,"b":"x"}"#, r#"{"a":1,"b":"x"}"#),
        ] {
            assert_eq!(write(key, &value).id, id);
        }
    }

    #[test]
    fn keys_that_name_no_document_are_refused() {
        let value = change("c", "{}", "");
        let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(513));
        for key in ["{}", r#"{"id":null}"#, r#"{"id":""}"#, "plain", "", "[1]", long.as_str()] {
            assert_eq!(read_text(key, &value).unwrap_err().class(), "bad-id", "{key}");
        }
        assert_eq!(read(&plain(), None, Some(&bytes(&value))).unwrap_err().class(), "bad-id");
        let longest = format!(r#"{{"id":"{}"}}"#, "x".repeat(512));
        assert_eq!(write(&longest, &value).id.len(), 512);
    }

    #[test]
    fn missing_columns_are_named_with_the_remedy() {
        let value = change("u", r#"{"id":1}"#, r#","unchanged":["body","notes"]"#);
        let error = read_text(r#"{"id":1}"#, &value).unwrap_err();
        assert_eq!(error.class(), "unchanged-columns");
        let reason = error.to_string();
        assert!(reason.contains("`body`, `notes`"), "{reason}");
        assert!(
            reason.contains(r#"ALTER TABLE "catalog"."product_documents" REPLICA IDENTITY FULL"#),
            "{reason}"
        );
    }

    #[test]
    fn a_large_value_that_no_document_has_may_be_left_out() {
        let spec = r#"{"columns":{"exclude":["body"]}}"#;
        let shape = Shape::new(serde_json::from_str(spec).unwrap());
        let read_shaped = |unchanged: &str| {
            let value = change("u", r#"{"id":1,"n":2}"#, &format!(r#","unchanged":{unchanged}"#));
            read(&shape, Some(&bytes(r#"{"id":1}"#)), Some(&bytes(&value)))
        };
        let Ok(Wish::Write(operation)) = read_shaped(r#"["body"]"#) else { panic!("a document") };
        assert_eq!(operation.document.unwrap(), &br#"{"id":1,"n":2}"#[..]);
        let reason = read_shaped(r#"["body","notes"]"#).unwrap_err().to_string();
        assert!(reason.contains("columns `notes` of"), "{reason}");
    }

    #[test]
    fn a_truncate_is_told_apart_from_a_bad_record() {
        assert_eq!(read_text("{}", &change("t", "null", "")), Ok(Wish::Truncate));
    }

    #[test]
    fn other_values_are_no_changes() {
        let too_new = change("c", "{}", "").replace("\"seq\":42", "\"seq\":9007199254740992");
        let event = r#"{"order_id":1}"#;
        for value in [
            event,
            "",
            "null",
            "[]",
            "{",
            too_new.as_str(),
            &change("m", "null", ""),
            &change("c", "null", ""),
            &change("c", "[1]", ""),
            &change("c", "\"{\"", ""),
        ] {
            let error = read_text(r#"{"id":1}"#, value).unwrap_err();
            assert_eq!(error.class(), "not-a-change", "{value}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..64)),
            value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..256)),
        ) {
            let _ = read(&plain(), key.map(Bytes::from).as_ref(), value.map(Bytes::from).as_ref());
        }

        #[test]
        fn damaged_changes_never_panic(at in 0_usize..400, byte in any::<u8>(), cut in 0_usize..400) {
            let mut value = change("u", r#"{"id":1,"t":"\u00e9\n"}"#, r#","unchanged":[]"#).into_bytes();
            let length = value.len();
            value[at % length] = byte;
            value.truncate(length - cut % length);
            let _ = read(&plain(), Some(&bytes(r#"{"id":1}"#)), Some(&Bytes::from(value)));
        }
    }
}
