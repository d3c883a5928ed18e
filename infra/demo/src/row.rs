//! Rows in one form, whichever store they come from.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

/// How the texts of a column are made comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Equal texts are equal values.
    Text,
    /// Equal after parsing, whatever the white space and key order.
    Json,
    /// ISO 8601 with zeros at the end of the fraction taken off.
    Time,
}

/// A column and its form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name as Postgres stores it.
    pub name: String,
    /// How it is compared.
    pub form: Form,
}

/// The values of one row in column order; `None` is SQL's null.
pub type Row = Vec<Option<String>>;

/// Brings one value into its form.
pub fn canonical(form: Form, text: &str) -> anyhow::Result<String> {
    Ok(match form {
        Form::Text => text.to_owned(),
        Form::Json => {
            let value: serde_json::Value = serde_json::from_str(text)
                .with_context(|| format!("a JSON column holds `{text}`"))?;
            value.to_string()
        }
        Form::Time => {
            let (digits, zone) = match text.strip_suffix('Z') {
                Some(digits) => (digits, "Z"),
                None => (text, ""),
            };
            let digits = if digits.contains('.') {
                digits.trim_end_matches('0').trim_end_matches('.')
            } else {
                digits
            };
            format!("{digits}{zone}")
        }
    })
}

/// Reads a row from the JSON object of a change or a document. Columns in `unchanged` are taken from `before`,
/// the row as it stood.
pub fn from_json(
    columns: &[Column],
    object: &RawValue,
    unchanged: &[String],
    before: Option<&Row>,
) -> anyhow::Result<Row> {
    let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(object.get())?;
    let mut row = Row::with_capacity(columns.len());
    for (place, column) in columns.iter().enumerate() {
        if unchanged.contains(&column.name) {
            let kept = before.context("a column is unchanged in a row never seen before")?;
            row.push(kept[place].clone());
            continue;
        }
        let Some(raw) = fields.get(&column.name) else {
            bail!("column `{}` is missing from {}", column.name, object.get());
        };
        row.push(match raw.get() {
            "null" => None,
            text if column.form == Form::Json => Some(canonical(Form::Json, text)?),
            text if text.starts_with('"') => {
                let text: String = serde_json::from_str(text)?;
                Some(canonical(column.form, &text)?)
            }
            text => Some(text.to_owned()),
        });
    }
    if let Some(extra) = fields.keys().find(|name| !columns.iter().any(|c| c.name == **name)) {
        bail!("column `{extra}` is not in the table");
    }
    Ok(row)
}

/// What a change says, read only as far as the judge needs.
#[derive(Debug, Deserialize)]
pub struct Change<'a> {
    /// `c`, `u`, `d`, `r` or `t`.
    pub op: String,
    /// The row afterwards.
    #[serde(borrow)]
    pub after: Option<&'a RawValue>,
    /// Its origin.
    pub source: ChangeSource,
    /// Columns the server did not send.
    #[serde(default)]
    pub unchanged: Vec<String>,
}

/// The origin of a change.
#[derive(Debug, Deserialize)]
pub struct ChangeSource {
    /// Commit time in milliseconds.
    pub ts_ms: i64,
    /// Commit LSN.
    pub commit_lsn: u64,
    /// Place in the transaction.
    pub ordinal: u64,
    /// Dense number.
    pub seq: u64,
}

/// A digest of many things that does not depend on their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digest(Vec<[u8; 32]>);

impl Digest {
    /// Adds one thing, given as its parts; the borders between parts count.
    pub fn add<'p>(&mut self, parts: impl IntoIterator<Item = Option<&'p [u8]>>) {
        let mut hash = Sha256::new();
        for part in parts {
            match part {
                None => hash.update([0]),
                Some(bytes) => {
                    hash.update([1]);
                    hash.update((bytes.len() as u64).to_be_bytes());
                    hash.update(bytes);
                }
            }
        }
        self.0.push(hash.finalize().into());
    }

    /// Adds a row.
    pub fn add_row(&mut self, row: &Row) {
        self.add(row.iter().map(|value| value.as_deref().map(str::as_bytes)));
    }

    /// How many things were added.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Twelve hexadecimal digits that stand for everything added.
    pub fn short(&self) -> String {
        let mut all = self.0.clone();
        all.sort_unstable();
        let mut hash = Sha256::new();
        all.iter().for_each(|one| hash.update(one));
        hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Vec<Column> {
        [("id", Form::Text), ("doc", Form::Json), ("at", Form::Time)]
            .map(|(name, form)| Column { name: name.into(), form })
            .to_vec()
    }

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect("JSON")
    }

    #[test]
    fn rows_compare_whatever_store_they_come_from() {
        let json = raw(r#"{"id":7,"doc":{"b":1,"a":[1, 2]},"at":"2026-01-02T03:04:05.120Z"}"#);
        let row = from_json(&columns(), &json, &[], None).expect("reads");
        let expected = ["7", r#"{"a":[1,2],"b":1}"#, "2026-01-02T03:04:05.12Z"];
        assert_eq!(row, expected.map(|text| Some(text.to_owned())).to_vec());
    }

    #[test]
    fn an_unchanged_column_keeps_what_stood_there() {
        let before = vec![Some("7".to_owned()), Some("{}".to_owned()), None];
        let json = raw(r#"{"id":7,"at":null}"#);
        let row = from_json(&columns(), &json, &["doc".to_owned()], Some(&before)).expect("reads");
        assert_eq!(row, before);
        assert!(from_json(&columns(), &json, &["doc".to_owned()], None).is_err());
        assert!(from_json(&columns(), &json, &[], None).is_err(), "a hole must show");
    }

    #[test]
    fn a_digest_sees_every_damage_but_not_the_order() {
        let digest = |things: &[&[&str]]| {
            let mut digest = Digest::default();
            for thing in things {
                digest.add(thing.iter().map(|part| Some(part.as_bytes())));
            }
            digest.short()
        };
        let whole = digest(&[&["a", "1"], &["b", "2"]]);
        assert_eq!(whole, digest(&[&["b", "2"], &["a", "1"]]));
        assert_ne!(whole, digest(&[&["a", "1"]]), "a loss");
        assert_ne!(whole, digest(&[&["a", "1"], &["b", "2"], &["b", "2"]]), "a repeat");
        assert_ne!(whole, digest(&[&["a", "1"], &["b2", ""]]), "a moved border");
    }
}
