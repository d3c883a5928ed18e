//! ```text
//!  {"index":{"_id":"7","version":42,"version_type":"external_gte"}}⏎
//!  {"id":7,"name":"…"}⏎
//!  {"delete":{"_id":"8","version":43,"version_type":"external_gte"}}⏎
//! ```
//! * A line feed separates actions, so a document with one inside would be read as two lines. In valid
//!   JSON a raw line feed is only white space; it goes out as a blank.
//! * The same error type can mean different things by its status and the other way round; both decide.

use serde::Deserialize;

use crate::document::Operation;

/// Upper bound of what an action line needs beside its id.
const ACTION_BYTES: usize = 96;
/// What is kept of a reason, in bytes. OpenSearch quotes field values, and long ones at that.
const REASON_BYTES_MAX: usize = 1024;

/// What became of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The index now holds this version.
    Stored,
    /// The index holds a newer one.
    Stale,
    /// Not now: the same item may be sent again.
    Busy(String),
    /// Nothing can be written until somebody or something frees the index.
    Blocked(String),
    /// The index is not there, or not writable under this name.
    NoIndex(String),
    /// We are not allowed to.
    Denied(String),
    /// Never: this document does not fit the index.
    Refused(String),
}

/// A reply that does not answer what was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadReply {
    /// Not the JSON of a bulk reply.
    #[error("the bulk reply cannot be read: {0}")]
    Unreadable(String),
    /// Another number of items, or others.
    #[error("the bulk reply answers {answered} items where {sent} were sent, or answers others")]
    OtherItems {
        /// Items in the request.
        sent: usize,
        /// Items in the reply.
        answered: usize,
    },
}

/// About how many bytes an operation takes in a body; never less than it does for ids that need no
/// escaping.
pub fn encoded_bytes(operation: &Operation) -> usize {
    let routing = operation.routing.as_ref().map_or(0, |routing| routing.len() + 13);
    ACTION_BYTES
        + operation.id.len()
        + routing
        + operation.document.as_ref().map_or(0, bytes::Bytes::len)
}

/// A document as it is sent.
pub fn on_one_line(document: &[u8]) -> impl Iterator<Item = u8> {
    document.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte })
}

/// The body of a bulk request.
pub fn encode<'a>(operations: impl Iterator<Item = &'a Operation>) -> Vec<u8> {
    let mut body = Vec::new();
    for operation in operations {
        let action: &[u8] = match operation.document {
            Some(_) => b"{\"index\":{\"_id\":",
            None => b"{\"delete\":{\"_id\":",
        };
        body.extend_from_slice(action);
        serde_json::to_writer(&mut body, &operation.id).expect("a string always has a JSON form");
        if let Some(routing) = &operation.routing {
            body.extend_from_slice(b",\"routing\":");
            serde_json::to_writer(&mut body, routing).expect("a string always has a JSON form");
        }
        body.extend_from_slice(b",\"version\":");
        body.extend_from_slice(operation.version.to_string().as_bytes());
        body.extend_from_slice(b",\"version_type\":\"external_gte\"}}\n");
        if let Some(document) = &operation.document {
            body.extend(on_one_line(document));
            body.push(b'\n');
        }
    }
    body
}

/// What we ask the server to send of its reply: nothing that repeats the request.
pub const REPLY_FILTER: &str = "errors,items.*.status,items.*.error";

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Item {
    Index(Answer),
    Delete(Answer),
}

#[derive(Deserialize)]
struct Answer {
    status: u16,
    error: Option<Cause>,
}

/// An error as OpenSearch describes it.
#[derive(Deserialize)]
pub(crate) struct Cause {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    reason: Option<String>,
    caused_by: Option<Box<Cause>>,
}

impl Cause {
    /// `type: reason` down the chain, cut to a bearable length.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let mut cause = Some(self);
        while let Some(Self { kind, reason, caused_by }) = cause {
            if !text.is_empty() {
                text.push_str("; caused by ");
            }
            text.push_str(kind);
            if let Some(reason) = reason {
                text.push_str(": ");
                text.push_str(reason);
            }
            cause = caused_by.as_deref();
        }
        shorten(text)
    }

    /// Whether a block on the index or cluster is the reason.
    pub(crate) fn is_block(&self) -> bool {
        matches!(self.kind.as_str(), "cluster_block_exception" | "index_create_block_exception")
    }
}

/// Cuts at a character border.
pub(crate) fn shorten(mut text: String) -> String {
    if text.len() > REASON_BYTES_MAX {
        text.truncate(text.floor_char_boundary(REASON_BYTES_MAX));
        text.push('…');
    }
    text
}

/// Reads the reply to `sent`, one outcome per operation in the same order.
pub fn decode<'a>(
    reply: &[u8],
    sent: impl ExactSizeIterator<Item = &'a Operation>,
) -> Result<Vec<Outcome>, BadReply> {
    let Reply { items } =
        serde_json::from_slice(reply).map_err(|error| BadReply::Unreadable(error.to_string()))?;
    let other = BadReply::OtherItems { sent: sent.len(), answered: items.len() };
    if items.len() != sent.len() {
        return Err(other);
    }
    items
        .into_iter()
        .zip(sent)
        .map(|(item, operation)| match (item, &operation.document) {
            (Item::Index(answer), Some(_)) => Ok(outcome(&answer, false)),
            (Item::Delete(answer), None) => Ok(outcome(&answer, true)),
            _ => Err(other.clone()),
        })
        .collect()
}

fn outcome(answer: &Answer, is_delete: bool) -> Outcome {
    let Some(cause) = &answer.error else {
        return match answer.status {
            200..=299 => Outcome::Stored,
            // Nothing was there, but its version was remembered.
            404 if is_delete => Outcome::Stored,
            409 => Outcome::Stale,
            status => Outcome::Busy(format!("status {status} without a reason")),
        };
    };
    let text = cause.text();
    match (answer.status, cause.kind.as_str()) {
        (409, _) => Outcome::Stale,
        _ if cause.is_block() => Outcome::Blocked(text),
        (429 | 500..=599, _) => Outcome::Busy(text),
        (400, "index_closed_exception") => Outcome::Blocked(text),
        (404, _) => Outcome::NoIndex(text),
        (400, "illegal_argument_exception") if text.contains("no write index is defined") => {
            Outcome::NoIndex(text)
        }
        (401 | 403, _) => Outcome::Denied(text),
        (400..=499, _) => Outcome::Refused(text),
        (status, _) => Outcome::Busy(format!("status {status}: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn index(id: &str, document: &str) -> Operation {
        let document = Some(Bytes::copy_from_slice(document.as_bytes()));
        Operation { id: id.to_owned(), routing: None, version: 5, document }
    }

    fn delete(id: &str) -> Operation {
        Operation { id: id.to_owned(), routing: None, version: 6, document: None }
    }

    #[test]
    fn a_body_is_actions_and_documents_on_their_lines() {
        let body = encode([index("a", r#"{"n":1}"#), delete("b")].iter());
        let expected = concat!(
            "{\"index\":{\"_id\":\"a\",\"version\":5,\"version_type\":\"external_gte\"}}\n",
            "{\"n\":1}\n",
            "{\"delete\":{\"_id\":\"b\",\"version\":6,\"version_type\":\"external_gte\"}}\n",
        );
        assert_eq!(String::from_utf8(body).unwrap(), expected);
    }

    #[test]
    fn a_document_over_several_lines_goes_out_on_one() {
        let body = encode([index("a\nb", "{\n\"n\":\r\n1}")].iter());
        let text = String::from_utf8(body).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.ends_with("{ \"n\":  1}\n"), "{text}");
    }

    fn one(status: u16, error: &str, is_delete: bool) -> Outcome {
        let (action, operation) =
            if is_delete { ("delete", delete("a")) } else { ("index", index("a", "{}")) };
        let error = if error.is_empty() { String::new() } else { format!(",\"error\":{error}") };
        let reply = format!(
            "{{\"errors\":true,\"items\":[{{\"{action}\":{{\"status\":{status}{error}}}}}]}}"
        );
        decode(reply.as_bytes(), [operation].iter()).unwrap().remove(0)
    }

    #[test]
    fn every_status_means_what_it_says() {
        use std::mem::discriminant;
        let kind = |outcome: &Outcome| discriminant(outcome);
        let of = |name: &str| format!(r#"{{"type":"{name}","reason":"r"}}"#);
        let text = String::new;
        for (status, error, is_delete, expected) in [
            (200, text(), false, Outcome::Stored),
            (201, text(), false, Outcome::Stored),
            (200, text(), true, Outcome::Stored),
            (404, text(), true, Outcome::Stored),
            (409, of("version_conflict_engine_exception"), false, Outcome::Stale),
            (409, of("version_conflict_engine_exception"), true, Outcome::Stale),
            (429, of("rejected_execution_exception"), false, Outcome::Busy(text())),
            (503, of("unavailable_shards_exception"), false, Outcome::Busy(text())),
            (429, of("cluster_block_exception"), false, Outcome::Blocked(text())),
            (403, of("cluster_block_exception"), true, Outcome::Blocked(text())),
            (400, of("index_closed_exception"), false, Outcome::Blocked(text())),
            (404, of("index_not_found_exception"), false, Outcome::NoIndex(text())),
            (404, of("index_not_found_exception"), true, Outcome::NoIndex(text())),
            (403, of("security_exception"), false, Outcome::Denied(text())),
            (400, of("mapper_parsing_exception"), false, Outcome::Refused(text())),
            (400, of("strict_dynamic_mapping_exception"), false, Outcome::Refused(text())),
        ] {
            let outcome = one(status, &error, is_delete);
            assert_eq!(kind(&outcome), kind(&expected), "{status} {error}: {outcome:?}");
        }
    }

    #[test]
    fn a_reason_names_the_whole_chain_and_stays_short() {
        let error = r#"{"type":"a","reason":"b","caused_by":{"type":"c","reason":"d"}}"#;
        assert_eq!(one(400, error, false), Outcome::Refused("a: b; caused by c: d".into()));
        let error = format!(r#"{{"type":"a","reason":"{}"}}"#, "é".repeat(5000));
        let Outcome::Refused(reason) = one(400, &error, false) else { panic!() };
        assert!(reason.len() < 1100);
    }

    #[test]
    fn a_reply_to_something_else_is_not_believed() {
        let sent = [index("a", "{}"), delete("b")];
        for reply in [
            "",
            "[]",
            "{}",
            r#"{"items":[{"index":{"status":200}}]}"#,
            r#"{"items":[{"delete":{"status":200}},{"index":{"status":200}}]}"#,
            r#"{"items":[{"index":{}},{"delete":{"status":200}}]}"#,
            r#"{"items":[{"update":{"status":200}},{"delete":{"status":200}}]}"#,
        ] {
            assert!(decode(reply.as_bytes(), sent.iter()).is_err(), "{reply}");
        }
    }

    proptest! {
        #[test]
        fn no_id_and_no_document_can_add_a_line(
            id in "\\PC{1,20}|[\\x00-\\x7f]{1,20}",
            text in "\\PC{0,20}|[\\x00-\\x7f]{0,20}",
            space in "[ \\n\\r\\t]{0,5}",
        ) {
            let document = format!("{{{space}\"t\":{space}{}}}", serde_json::to_string(&text).unwrap());
            let body = encode([index(&id, &document), delete(&id)].iter());
            let lines: Vec<&[u8]> = body.split(|byte| *byte == b'\n').collect();
            prop_assert_eq!(lines.len(), 4);
            prop_assert!(lines[3].is_empty());
            let action: serde_json::Value = serde_json::from_slice(lines[0]).unwrap();
            prop_assert_eq!(action["index"]["_id"].as_str(), Some(id.as_str()));
            let document: serde_json::Value = serde_json::from_slice(lines[1]).unwrap();
            prop_assert_eq!(document["t"].as_str(), Some(text.as_str()));
            let action: serde_json::Value = serde_json::from_slice(lines[2]).unwrap();
            prop_assert_eq!(action["delete"]["_id"].as_str(), Some(id.as_str()));
        }

        #[test]
        fn arbitrary_replies_never_panic(reply in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&reply, [delete("a")].iter());
        }
    }
}
