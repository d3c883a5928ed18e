//! Logical messages as records.
//!
//! ```text
//!  pg_logical_emit_message(…, 'audit', 'text') ──▶ {"before":null,"after":null,"message":{…},"source":{…},"op":"m",…}
//! ```
//!
//! * A transactional message is a change of its transaction. Any other stands alone, and is there even if the
//!   transaction that wrote it is rolled back.
//! * All messages of a prefix have one key, so they keep their order.

use std::ops::Range;

use tailwater_topics_contract::{TableName, TopicName};

use crate::encode::{Origin, SourceBlock, signed};
use crate::value;

/// Where the messages of one prefix go, and how they are written.
#[derive(Clone, Debug)]
pub struct MessageRoute {
    /// The topic.
    pub topic: TopicName,
    /// `{"prefix":"…"}`
    key: Vec<u8>,
    source: SourceBlock,
}

impl MessageRoute {
    /// Prepares a prefix.
    pub fn new(topic: TopicName, prefix: &str, pipeline: &str, database: &str) -> Self {
        let mut key = b"{\"prefix\":".to_vec();
        // A `str` is UTF-8, the one thing that could be refused.
        let _ = value::string(prefix.as_bytes(), &mut key);
        key.push(b'}');
        // A message belongs to no table.
        let none = TableName { schema: String::new(), table: String::new() };
        Self { topic, key, source: SourceBlock::new(pipeline, database, &none) }
    }

    /// Writes key and value of a message.
    pub fn write(
        &self,
        content: &[u8],
        origin: Origin,
        out: &mut Vec<u8>,
    ) -> (Range<usize>, Range<usize>) {
        let start = out.len();
        out.extend_from_slice(&self.key);
        let key = start..out.len();
        out.extend_from_slice(b"{\"before\":null,\"after\":null,\"message\":");
        out.extend_from_slice(&self.key[..self.key.len() - 1]);
        out.extend_from_slice(b",\"content\":");
        let text_at = out.len();
        if value::string(content, out).is_err() {
            out.truncate(text_at - b",\"content\":".len());
            out.extend_from_slice(b",\"content_base64\":");
            value::base64(content, out);
        }
        out.push(b'}');
        self.source.write(origin, out);
        out.extend_from_slice(b",\"op\":\"m\",\"ts_ms\":");
        signed(origin.now_ms, out);
        out.push(b'}');
        (key.clone(), key.end..out.len())
    }
}
