//! Which topic an index is filled from, remembered in the index itself.
//!
//! ```text
//!  _meta.tailwater.sources: [{"topic":"stock.cdc","id":"x4Sf…","generation":1}]
//!
//!  a partition is opened ──▶ which topic has the name now? ─┬─ the one remembered ──▶ go on
//!                                                           ├─ none remembered ─────▶ remember it, go on
//!                                                           └─ another ─────────────▶ the partition stops
//! ```
//!
//! * A topic that was deleted and made again holds no deletion of the rows that went in between, so an index filled
//!   from the one and gone on with from the other would show them for ever.
//! * An index of a version that remembered nothing, and one that was just made, get their entry when a partition of the
//!   topic is first opened. Two processes that do so at once for different topics may lose one of the entries; it is
//!   then written at the next opening. An entry is never changed.

use serde_json::{Value, json};
use tailwater_sinks_worker::source::Source;

/// Reads `_meta.tailwater.sources`. What cannot be read remembers nothing.
pub(crate) fn read(tailwater: &Value) -> Vec<Source> {
    serde_json::from_value(tailwater["sources"].clone()).unwrap_or_default()
}

pub(crate) fn write(sources: &[Source]) -> Value {
    json!(sources)
}

#[cfg(test)]
mod tests {
    use tailwater_sinks_worker::topic_id::TopicId;
    use tailwater_topics_contract::Generation;

    use super::*;

    #[test]
    fn what_was_written_is_read_back_and_what_is_none_remembers_nothing() {
        let source = |topic: &str, id: Option<&str>, generation| Source {
            topic: topic.parse().unwrap(),
            id: id.map(TopicId::new),
            generation,
        };
        let first = Generation::default();
        let sources = vec![source("a", Some("one"), first), source("b", None, first.next())];
        assert_eq!(read(&json!({ "sources": write(&sources) })), sources);
        for other in [Value::Null, json!({"sources": 7}), json!({"sources": [{"id": "x"}]})] {
            assert_eq!(read(&other), []);
        }
    }
}
