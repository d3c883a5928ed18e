//! Which columns a topic's rows have, from some of them.
//!
//! **The rule.** The first 200 lines of the first chunk of six segments, spread evenly from the first to the last, and
//! the last 200 lines of the last are looked at. A field is a column. Its type is that of all its values there that are
//! not null: whole numbers, numbers, true and false, or text. Values of several kinds, objects and arrays give a
//! column of JSON as it stands, which any later value fits. Text stays text: times and decimals compare and cast.
//!
//! What comes later and does not fit becomes NULL and stands in `drift`; a field that was never looked at can be taken
//! out of `after` with `->>`.

use std::collections::HashMap;

use crate::archive::{Archive, Error, Segment, Topic};
use crate::columns::{self, EVENT, OURS, RowColumn, Type};
use crate::fetch::{self, FetchError};
use crate::head::{self, Depth, Key};
use crate::json::{self, Kind, Members};

/// Segments that are looked into.
const SEGMENTS: usize = 6;
/// Lines of a chunk that are looked at.
const LINES: usize = 200;

/// What a topic's records look like.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shape {
    pub(crate) rows: Vec<RowColumn>,
    /// Fields of the key in their order, when keys are objects.
    pub(crate) key: Option<Vec<String>>,
    /// Whether there are events.
    pub(crate) has_events: bool,
    /// Whether every record is a change of a row, so that a row's key follows from its columns.
    pub(crate) only_changes: bool,
}

/// Looks at some of a topic's records.
pub(crate) async fn shape(archive: &Archive, topic: &Topic) -> Result<Shape, FetchError> {
    let full: Vec<&Segment> =
        topic.segments.iter().map(|segment| &**segment).filter(|s| !s.chunks.is_empty()).collect();
    let mut seen = Seen::default();
    let samples = SEGMENTS.min(full.len());
    let picked = (0..samples).map(|n| full[n * (full.len() - 1) / (samples - 1).max(1)]);
    let first = picked.map(|segment| (segment, 0, false));
    let last = full.last().map(|segment| (*segment, segment.chunks.len() - 1, true));
    let fetches = first.chain(last).map(|(segment, chunk, from_end)| async move {
        Ok::<_, FetchError>((fetch::one(archive, segment, chunk).await?, segment, from_end))
    });
    for (raw, segment, from_end) in futures::future::try_join_all(fetches).await? {
        let lines = raw.strip_suffix(b"\n").unwrap_or(&raw).split(|byte| *byte == b'\n');
        let lines: Vec<&[u8]> =
            if from_end { lines.rev().take(LINES).collect() } else { lines.take(LINES).collect() };
        for line in lines {
            seen.line(line)
                .map_err(|source| FetchError::Foreign { key: segment.key.clone(), source })?;
        }
    }
    let ops = topic.ops();
    let is_change = |op: &char| "cudrtmx".contains(*op);
    Ok(Shape {
        has_events: seen.events > 0 || ops.contains_key(&'o'),
        only_changes: !ops.is_empty()
            && ops.keys().all(is_change)
            && full.iter().all(|segment| !segment.ops.is_empty()),
        key: seen.key.clone(),
        rows: seen.columns(),
    })
}

#[derive(Default)]
struct Seen {
    order: Vec<String>,
    fields: HashMap<String, Kinds>,
    key: Option<Vec<String>>,
    events: u64,
}

#[derive(Default)]
struct Kinds {
    ints: u64,
    floats: u64,
    bools: u64,
    texts: u64,
    specials: u64,
    others: u64,
}

impl Seen {
    fn line(&mut self, line: &[u8]) -> Result<(), head::NotOurs> {
        let head = head::read(line, Depth::Body)?;
        self.events += u64::from(head.op == Some(b'o'));
        if let (None, Key::Json(key), Some(b'c' | b'u' | b'd' | b'r')) =
            (&self.key, head.key, head.op)
            && Kind::of(key) == Some(Kind::Object)
        {
            self.key = Some(Members::of(key).map(|(name, _)| json::unescape_name(name)).collect());
        }
        for (name, value) in Members::of(columns::row_of(&head).unwrap_or_default()) {
            let name = json::unescape_name(name);
            if !self.fields.contains_key(&name) {
                self.order.push(name.clone());
            }
            self.fields.entry(name).or_default().value(value);
        }
        Ok(())
    }

    fn columns(self) -> Vec<RowColumn> {
        let mut taken: Vec<String> =
            OURS.iter().chain(&EVENT).map(|(name, _)| (*name).to_owned()).collect();
        taken.push("row".to_owned());
        let mut columns = Vec::new();
        for field in self.order {
            let kind = self.fields.get(&field).map_or(Type::Json, Kinds::kind);
            let mut name = field.clone();
            while taken.contains(&name) {
                name = format!("row_{name}");
            }
            taken.push(name.clone());
            columns.push(RowColumn { field, name, kind });
        }
        columns
    }
}

impl Kinds {
    fn value(&mut self, value: &[u8]) {
        match Kind::of(value) {
            None | Some(Kind::Null) => {}
            Some(Kind::Bool) => self.bools += 1,
            Some(Kind::Number) => {
                let text = std::str::from_utf8(value).unwrap_or_default();
                if text.parse::<i64>().is_ok() {
                    self.ints += 1;
                } else if text.contains(['.', 'e', 'E']) {
                    self.floats += 1;
                } else {
                    // Too large for 64 bits, and not to be rounded.
                    self.others += 1;
                }
            }
            Some(Kind::Text) if columns::special_float(value).is_some() => self.specials += 1,
            Some(Kind::Text) => self.texts += 1,
            Some(Kind::Object | Kind::Array) => self.others += 1,
        }
    }

    fn kind(&self) -> Type {
        let numbers = self.ints + self.floats;
        let texts = self.texts + self.specials;
        match self {
            _ if self.others > 0 => Type::Json,
            _ if self.bools > 0 => {
                if numbers + texts == 0 {
                    Type::Bool
                } else {
                    Type::Json
                }
            }
            _ if numbers == 0 => Type::Text,
            _ if self.texts > 0 => Type::Json,
            _ if self.floats + self.specials > 0 => Type::Float,
            _ => Type::Int,
        }
    }
}

impl From<Error> for FetchError {
    fn from(error: Error) -> Self {
        Self::Archive(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(values: &[&str]) -> Type {
        let mut kinds = Kinds::default();
        values.iter().for_each(|value| kinds.value(value.as_bytes()));
        kinds.kind()
    }

    #[test]
    fn a_column_has_the_type_of_all_its_values_or_is_json() {
        assert_eq!(kind(&["1", "null", "-9223372036854775808"]), Type::Int);
        assert_eq!(kind(&["1", "1.5", "\"NaN\""]), Type::Float);
        assert_eq!(kind(&["true", "null"]), Type::Bool);
        assert_eq!(kind(&["\"a\"", "\"NaN\""]), Type::Text);
        assert_eq!(kind(&["null"]), Type::Text);
        for mixed in
            [&["1", "\"a\""][..], &["true", "1"], &["{}"], &["[]", "1"], &["9223372036854775808"]]
        {
            assert_eq!(kind(mixed), Type::Json, "{mixed:?}");
        }
    }
}
