//! Keys become ids, rows become documents, as declared.
//!
//! * What was not declared costs nothing: the document is the row's own bytes, uncopied.
//! * Values are moved as texts and never parsed into numbers: digits beyond a double stay.
//! * Ids are checked here because one bad id makes OpenSearch refuse a whole bulk request.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use serde::Deserializer as _;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use tailwater_topics_contract::{Columns, DocumentSpec};

use crate::document::Unusable;

/// Longest `_id` OpenSearch takes, in bytes.
pub const ID_BYTES_MAX: usize = 512;

/// Where a document is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `_id`, 1 to [`ID_BYTES_MAX`] bytes.
    pub id: String,
    /// What its shard is chosen by, when that is not `_id`. Documents of one `_id` have one routing: the declaration
    /// makes sure of it.
    pub routing: Option<String>,
}

/// A declared shape of documents.
#[derive(Clone, Debug)]
pub struct Shape {
    spec: DocumentSpec,
}

impl Shape {
    /// As declared.
    pub fn new(spec: DocumentSpec) -> Self {
        Self { spec }
    }

    /// Whether a column becomes a field.
    pub fn takes(&self, column: &str) -> bool {
        self.spec.columns.takes(column)
    }

    /// Where the document of a record key is.
    ///
    /// # Errors
    /// The key names no document.
    pub fn address(&self, key: Option<&Bytes>) -> Result<Address, Unusable> {
        let key = key.ok_or_else(|| Unusable::Key("there is none".to_owned()))?;
        let columns: BTreeMap<Cow<'_, str>, &RawValue> =
            serde_json::from_slice(key).map_err(|error| Unusable::Key(error.to_string()))?;
        let text = |column: &str| match columns.get(column) {
            Some(value) => text_of(column, value),
            None => Err(Unusable::Key(format!("it has no column `{column}`"))),
        };
        let id = match (self.spec.id.as_slice(), columns.iter().next()) {
            (_, None) => return Err(Unusable::Key("it has no columns".to_owned())),
            ([], Some((column, only))) if columns.len() == 1 => text_of(column, only)?,
            // Reading it as JSON has shown that it is UTF-8.
            ([], Some(_)) => String::from_utf8_lossy(key).into_owned(),
            ([only], _) => text(only)?,
            (several, _) => {
                let parts = several.iter().map(|column| text(column).map(|part| escaped(&part)));
                parts.collect::<Result<Vec<_>, _>>()?.join(":")
            }
        };
        if !(1..=ID_BYTES_MAX).contains(&id.len()) {
            return Err(Unusable::IdLength(id.len()));
        }
        let routing = self.spec.routing.as_deref().map(text).transpose()?;
        Ok(Address { id, routing })
    }

    /// The document of a row, which is a JSON object within `value`.
    ///
    /// # Errors
    /// The row has not the columns that were declared, or not such values.
    pub fn document(&self, row: &str, value: &Bytes) -> Result<Bytes, Unusable> {
        let DocumentSpec { columns, rename, nested, .. } = &self.spec;
        if *columns == Columns::All && rename.is_empty() && nested.is_empty() {
            return Ok(value.slice_ref(row.as_bytes()));
        }
        let fields = fields(row).map_err(|error| Unusable::NotAChange(error.to_string()))?;
        let mut missing = self.spec.required();
        let mut named = BTreeSet::new();
        let mut document = Vec::with_capacity(row.len());
        for (column, value) in &fields {
            missing.remove(column.as_str());
            if !columns.takes(column) {
                continue;
            }
            let field = rename.get(column).unwrap_or(column);
            if !named.insert(field) {
                return Err(Unusable::SameField(field.clone()));
            }
            document.push(if document.is_empty() { b'{' } else { b',' });
            serde_json::to_writer(&mut document, field).expect("a string always has a JSON form");
            document.push(b':');
            if nested.contains(column) {
                document.extend_from_slice(nested_in(column, value)?.as_bytes());
            } else {
                document.extend_from_slice(value.get().as_bytes());
            }
        }
        if !missing.is_empty() {
            let missing: Vec<String> = missing.iter().map(|column| format!("`{column}`")).collect();
            return Err(Unusable::MissingColumns(missing.join(", ")));
        }
        if document.is_empty() {
            document.push(b'{');
        }
        document.push(b'}');
        Ok(document.into())
    }
}

/// A string's contents; of any other value its JSON text.
fn text_of(column: &str, value: &RawValue) -> Result<String, Unusable> {
    match value.get() {
        "null" => Err(Unusable::Key(format!("its column `{column}` is null"))),
        text if text.starts_with('"') => {
            serde_json::from_str(text).map_err(|error| Unusable::Key(error.to_string()))
        }
        text => Ok(text.to_owned()),
    }
}

/// So that joined parts cannot be cut elsewhere: `a:b` and `c` are not `a` and `b:c`.
fn escaped(part: &str) -> String {
    part.replace('\\', "\\\\").replace(':', "\\:")
}

/// The JSON document that a value is, or that the text in it is.
fn nested_in<'a>(column: &str, value: &'a RawValue) -> Result<Cow<'a, str>, Unusable> {
    let other = |problem: &str| Unusable::NotNested {
        column: column.to_owned(),
        problem: problem.to_owned(),
    };
    let is_document = |text: &str| text.starts_with(['{', '[']) || text == "null";
    match value.get() {
        text if is_document(text) => Ok(Cow::Borrowed(text)),
        text if text.starts_with('"') => {
            let text: String =
                serde_json::from_str(text).map_err(|error| other(&error.to_string()))?;
            let inner: &RawValue =
                serde_json::from_str(&text).map_err(|error| other(&error.to_string()))?;
            if is_document(inner.get()) {
                Ok(Cow::Owned(inner.get().to_owned()))
            } else {
                Err(other("it is a single value"))
            }
        }
        _ => Err(other("it is a single value")),
    }
}

/// The fields of an object in their order.
fn fields(object: &str) -> Result<Vec<(String, &RawValue)>, serde_json::Error> {
    struct Fields;
    impl<'de> Visitor<'de> for Fields {
        type Value = Vec<(String, &'de RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a row")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut fields = Vec::new();
            while let Some(field) = map.next_entry()? {
                fields.push(field);
            }
            Ok(fields)
        }
    }
    serde_json::Deserializer::from_str(object).deserialize_map(Fields)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shape(spec: &str) -> Shape {
        Shape::new(serde_json::from_str(spec).unwrap())
    }

    fn address(spec: &str, key: &str) -> Result<Address, Unusable> {
        shape(spec).address(Some(&Bytes::copy_from_slice(key.as_bytes())))
    }

    fn document(spec: &str, row: &str) -> Result<String, Unusable> {
        let value = Bytes::copy_from_slice(row.as_bytes());
        let row = std::str::from_utf8(&value).unwrap();
        let document = shape(spec).document(row, &value)?;
        Ok(String::from_utf8(document.to_vec()).unwrap())
    }

    #[test]
    fn ids_and_routing_are_made_of_the_key() {
        let key = r#"{"tenant":"a:b\\","id":7,"day":"x"}"#;
        for (spec, id, routing) in [
            ("{}", key, None),
            (r#"{"id":["id"]}"#, "7", None),
            (r#"{"id":["id","tenant"],"routing":"tenant"}"#, r"7:a\:b\\", Some(r"a:b\")),
            (r#"{"routing":"id"}"#, key, Some("7")),
        ] {
            let routing = routing.map(str::to_owned);
            assert_eq!(address(spec, key), Ok(Address { id: id.to_owned(), routing }), "{spec}");
        }
        for (spec, key) in [
            (r#"{"id":["id"]}"#, r#"{"other":7}"#),
            (r#"{"routing":"tenant"}"#, r#"{"id":7}"#),
            (r#"{"id":["id","tenant"]}"#, r#"{"id":7,"tenant":null}"#),
            (r#"{"id":["id"]}"#, r#"{"id":""}"#),
        ] {
            assert_eq!(address(spec, key).unwrap_err().class(), "bad-id", "{spec} {key}");
        }
    }

    #[test]
    fn columns_are_chosen_renamed_and_nested_in_their_order_with_every_digit() {
        let row = r#"{"id":7,"n": 12345678901234567890.10,"doc":{"a": [1]},"text":"{\"b\": 2.50}","none":null}"#;
        for (spec, expected) in [
            ("{}", row),
            (r#"{"columns":{"include":["n","id"]}}"#, r#"{"id":7,"n":12345678901234567890.10}"#),
            (r#"{"columns":{"exclude":["doc","n","text","x"]}}"#, r#"{"id":7,"none":null}"#),
            (r#"{"columns":{"include":["id"]},"rename":{"id":"a.\"b"}}"#, r#"{"a.\"b":7}"#),
            (
                r#"{"columns":{"include":["doc","text","none"]},"nested":["doc","text","none"]}"#,
                r#"{"doc":{"a": [1]},"text":{"b": 2.50},"none":null}"#,
            ),
            (
                r#"{"columns":{"include":["id","n"]},"rename":{"id":"n","n":"id"}}"#,
                r#"{"n":7,"id":12345678901234567890.10}"#,
            ),
        ] {
            assert_eq!(document(spec, row).as_deref(), Ok(expected), "{spec}");
        }
        assert_eq!(document(r#"{"columns":{"exclude":["a"]}}"#, r#"{"a":1}"#).as_deref(), Ok("{}"));
    }

    #[test]
    fn rows_that_are_not_as_declared_are_named_with_their_columns() {
        for (spec, row, class, word) in [
            (r#"{"columns":{"include":["a","b"]}}"#, r#"{"a":1}"#, "missing-columns", "`b`"),
            (r#"{"rename":{"b":"c"}}"#, r#"{"a":1}"#, "missing-columns", "`b`"),
            (r#"{"nested":["b"]}"#, r#"{"a":1}"#, "missing-columns", "`b`"),
            (r#"{"rename":{"a":"b"}}"#, r#"{"a":1,"b":2}"#, "same-field", "`b`"),
            (r#"{"nested":["a"]}"#, r#"{"a":1}"#, "not-nested", "single value"),
            (r#"{"nested":["a"]}"#, r#"{"a":"1"}"#, "not-nested", "single value"),
            (r#"{"nested":["a"]}"#, r#"{"a":"{"}"#, "not-nested", "`a`"),
            (r#"{"nested":["a"]}"#, r#"{"a":""}"#, "not-nested", "`a`"),
        ] {
            let error = document(spec, row).unwrap_err();
            assert_eq!(error.class(), class, "{spec}");
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    proptest! {
        #[test]
        fn joined_ids_are_the_same_only_for_the_same_keys(
            one in ("[a:\\\\]{0,4}", "[a:\\\\]{0,4}"),
            other in ("[a:\\\\]{0,4}", "[a:\\\\]{0,4}"),
        ) {
            let id = |(a, b): &(String, String)| {
                let key = serde_json::json!({"a": a, "b": b}).to_string();
                address(r#"{"id":["a","b"]}"#, &key).unwrap().id
            };
            prop_assert_eq!(id(&one) == id(&other), one == other);
        }

        #[test]
        fn arbitrary_rows_never_panic_and_what_comes_out_is_json(row in "[{}\\[\\]\",:a1n \\\\]{0,24}") {
            for spec in [r#"{"columns":{"exclude":["1"]},"nested":["a"]}"#, r#"{"rename":{"a":"b"}}"#] {
                if let Ok(document) = document(spec, &row) {
                    prop_assert!(serde_json::from_str::<&RawValue>(&document).is_ok(), "{}", document);
                }
            }
        }
    }
}
