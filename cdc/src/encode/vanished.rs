//! The delete of a row of which only the key is known, as it stands in the topic.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::value::RawValue;

use super::{Images, Origin, Plan, RowError};

/// How a change begins that has no row before.
const NOTHING_BEFORE: &[u8] = b"{\"before\":null";

impl Plan {
    /// Writes the value of a delete. The old row has the columns of the key, and in Debezium's form nulls for all others,
    /// as a delete under default identity has. A key that is no JSON object is somebody else's and tells no column.
    pub fn vanished(
        &self,
        key: &[u8],
        origin: Origin,
        unchanged: &mut Vec<usize>,
        out: &mut Vec<u8>,
    ) -> Result<Range<usize>, RowError> {
        let images = Images { op: b'd', before: None, after: None, fill: None };
        let value = self.change(images, origin, unchanged, out)?;
        debug_assert!(out[value.clone()].starts_with(NOTHING_BEFORE));
        let end = value.start + NOTHING_BEFORE.len();
        let null = end - b"null".len()..end;
        if let Ok(columns) = serde_json::from_slice(key) {
            out.splice(null, self.known(key, &columns));
        }
        Ok(value.start..out.len())
    }

    fn known(&self, key: &[u8], columns: &BTreeMap<String, &RawValue>) -> Vec<u8> {
        if !self.is_debezium() {
            return key.to_vec();
        }
        let mut row = Vec::new();
        for (at, column) in self.columns.iter().enumerate() {
            row.push(if at == 0 { b'{' } else { b',' });
            row.extend_from_slice(&column.prefix);
            let value = columns.get(self.name(at).as_str()).map_or("null", |value| value.get());
            row.extend_from_slice(value.as_bytes());
        }
        row.push(b'}');
        row
    }
}
