//! The head of an archived line, read as far as it is wanted.
//!
//! ```text
//!  {"kafka_offset":7,"kafka_partition":0,…,"tw_seq":41,"kafka_key":{…},"kafka_headers":null,"before":…
//!   ───────────── numbers: up to the next comma ─────── ──── values ────────────────────── the rest
//! ```
//!
//! The order is the archive's promise, so a name is compared where it must stand and nothing is searched for. A line
//! that does not keep it was not written by the archive.

use crate::json;

/// How far a head is read; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Depth {
    Offset,
    Partition,
    Timestamp,
    Op,
    CommitLsn,
    CommitTime,
    TxId,
    TxSeq,
    TwSeq,
    Key,
    Headers,
    Body,
}

/// What a head says, as far as it was read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Head<'a> {
    pub(crate) offset: i64,
    pub(crate) partition: i32,
    pub(crate) timestamp_ms: i64,
    pub(crate) op: Option<u8>,
    pub(crate) commit_lsn: Option<i64>,
    pub(crate) commit_ts_us: Option<i64>,
    pub(crate) tx_id: Option<i64>,
    pub(crate) tx_seq: Option<i64>,
    pub(crate) tw_seq: Option<i64>,
    pub(crate) key: Key<'a>,
    /// The headers as they stand, `null` among them.
    pub(crate) headers: &'a [u8],
    /// What follows the head, up to the closing brace: the value without its opening brace, or `value_b64`.
    pub(crate) body: &'a [u8],
}

/// The key of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    #[default]
    None,
    /// An object, or a text with its quotes.
    Json(&'a [u8]),
    /// Base64 with its quotes.
    Base64(&'a [u8]),
}

/// The name that does not stand where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` does not stand where it belongs")]
pub struct NotOurs(pub(crate) &'static str);

/// Reads the head of a line, without its line break.
#[inline]
pub(crate) fn read(line: &[u8], depth: Depth) -> Result<Head<'_>, NotOurs> {
    let mut head = Head::default();
    let mut at = 0;
    head.offset =
        number(line, &mut at, b"{\"kafka_offset\":").flatten().ok_or(NotOurs("kafka_offset"))?;
    if depth == Depth::Offset {
        return Ok(head);
    }
    head.partition = number(line, &mut at, b",\"kafka_partition\":")
        .flatten()
        .and_then(|partition| i32::try_from(partition).ok())
        .ok_or(NotOurs("kafka_partition"))?;
    if depth == Depth::Partition {
        return Ok(head);
    }
    head.timestamp_ms =
        number(line, &mut at, b",\"kafka_ts_ms\":").flatten().ok_or(NotOurs("kafka_ts_ms"))?;
    if depth == Depth::Timestamp {
        return Ok(head);
    }
    head.op = op(line, &mut at).ok_or(NotOurs("op_code"))?;
    if depth == Depth::Op {
        return Ok(head);
    }
    head.commit_lsn = number(line, &mut at, b",\"commit_lsn\":").ok_or(NotOurs("commit_lsn"))?;
    if depth == Depth::CommitLsn {
        return Ok(head);
    }
    head.commit_ts_us =
        number(line, &mut at, b",\"commit_ts_us\":").ok_or(NotOurs("commit_ts_us"))?;
    if depth == Depth::CommitTime {
        return Ok(head);
    }
    head.tx_id = number(line, &mut at, b",\"tx_id\":").ok_or(NotOurs("tx_id"))?;
    if depth == Depth::TxId {
        return Ok(head);
    }
    head.tx_seq = number(line, &mut at, b",\"tx_seq\":").ok_or(NotOurs("tx_seq"))?;
    if depth == Depth::TxSeq {
        return Ok(head);
    }
    head.tw_seq = number(line, &mut at, b",\"tw_seq\":").ok_or(NotOurs("tw_seq"))?;
    if depth == Depth::TwSeq {
        return Ok(head);
    }
    head.key = key(line, &mut at).ok_or(NotOurs("kafka_key"))?;
    if depth == Depth::Key {
        return Ok(head);
    }
    head.headers = value(line, &mut at, b",\"kafka_headers\":").ok_or(NotOurs("kafka_headers"))?;
    if depth == Depth::Headers {
        return Ok(head);
    }
    head.body = line.get(at..).filter(|rest| rest.ends_with(b"}")).ok_or(NotOurs("value"))?;
    head.body = head.body.strip_prefix(b",").unwrap_or(head.body);
    Ok(head)
}

fn named(line: &[u8], at: &mut usize, name: &[u8]) -> Option<()> {
    let rest = line.get(*at..)?;
    rest.starts_with(name).then(|| *at += name.len())
}

/// A number, or `null`.
#[inline]
#[expect(clippy::option_option, reason = "absent, and wrong, are two things")]
fn number(line: &[u8], at: &mut usize, name: &[u8]) -> Option<Option<i64>> {
    named(line, at, name)?;
    let rest = &line[*at..];
    let (negative, digits) = match rest.first()? {
        b'-' => (true, &rest[1..]),
        b'n' => {
            *at += 4;
            return rest.starts_with(b"null").then_some(None);
        }
        _ => (false, rest),
    };
    let mut value = 0_i64;
    let mut count = 0;
    for byte in digits {
        if !byte.is_ascii_digit() {
            break;
        }
        value = value.checked_mul(10)?.checked_add(i64::from(byte - b'0'))?;
        count += 1;
    }
    *at += count + usize::from(negative);
    (count > 0).then_some(Some(if negative { -value } else { value }))
}

#[expect(clippy::option_option, reason = "absent, and wrong, are two things")]
fn op(line: &[u8], at: &mut usize) -> Option<Option<u8>> {
    named(line, at, b",\"op_code\":")?;
    match line.get(*at..)? {
        [b'"', op, b'"', ..] => {
            *at += 3;
            Some(Some(*op))
        }
        rest => {
            *at += 4;
            rest.starts_with(b"null").then_some(None)
        }
    }
}

fn key<'a>(line: &'a [u8], at: &mut usize) -> Option<Key<'a>> {
    if let Some(key) = value(line, at, b",\"kafka_key\":") {
        return Some(if key == b"null" { Key::None } else { Key::Json(key) });
    }
    value(line, at, b",\"kafka_key_b64\":").map(Key::Base64)
}

fn value<'a>(line: &'a [u8], at: &mut usize, name: &[u8]) -> Option<&'a [u8]> {
    named(line, at, name)?;
    let start = *at;
    *at = json::end_of(line, start)?;
    Some(&line[start..*at])
}

impl Head<'_> {
    /// The value of the record as a JSON object behind its brace; `None` for a tombstone and for what is no object.
    pub(crate) fn object(&self) -> Option<&[u8]> {
        let has_none = self.op == Some(b'x') || self.body.starts_with(b"\"value_b64\":");
        (!has_none).then_some(self.body)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tailwater_sinks_archive::line;
    use tailwater_sinks_worker::SourceRecord;

    use super::*;

    const CHANGE: &str = r#"{"before":null,"after":{"id":1},"source":{"version":"0.1.0","connector":"tailwater","name":"m","ts_ms":1700000000123,"snapshot":"false","db":"d","schema":"s","table":"t","txId":77,"lsn":5,"commit_lsn":6,"ordinal":2,"seq":41},"op":"u","ts_ms":1700000000200}"#;

    fn written(key: Option<&'static [u8]>, value: Option<&'static [u8]>) -> Vec<u8> {
        let record = SourceRecord {
            offset: 7,
            timestamp_ms: -1,
            key: key.map(Bytes::from_static),
            value: value.map(Bytes::from_static),
            headers: vec![],
        };
        let mut out = Vec::new();
        line::write(3, &record, &mut out);
        out.pop();
        out
    }

    #[test]
    fn what_the_archive_writes_is_read_to_any_depth() {
        let line = written(Some(br#"{"id":1}"#), Some(CHANGE.as_bytes()));
        let head = read(&line, Depth::Body).expect("ours");
        assert_eq!((head.offset, head.partition, head.timestamp_ms), (7, 3, -1));
        assert_eq!((head.op, head.commit_lsn, head.tx_id), (Some(b'u'), Some(6), Some(77)));
        assert_eq!((head.tx_seq, head.tw_seq), (Some(2), Some(41)));
        assert_eq!(head.commit_ts_us, Some(1_700_000_000_123_000));
        assert_eq!(head.key, Key::Json(br#"{"id":1}"#));
        assert_eq!(head.object(), Some(&CHANGE.as_bytes()[1..]));
        let shallow = read(&line, Depth::CommitLsn).expect("ours");
        assert_eq!((shallow.commit_lsn, shallow.tw_seq), (Some(6), None));
    }

    #[test]
    fn tombstones_binary_values_and_keys_are_told_apart() {
        let line = written(None, None);
        let head = read(&line, Depth::Body).expect("ours");
        assert_eq!((head.key, head.object(), head.op), (Key::None, None, Some(b'x')));
        let line = written(Some(b"\xff"), Some(b"\xfe"));
        let head = read(&line, Depth::Body).expect("ours");
        assert_eq!((head.key, head.object()), (Key::Base64(b"\"/w==\""), None));
        let line = written(Some(b"a"), Some(b"{}"));
        let head = read(&line, Depth::Body).expect("ours");
        assert_eq!((head.key, head.object()), (Key::Json(b"\"a\""), Some(&b"}"[..])));
    }

    #[test]
    fn a_line_of_somebody_else_is_refused_at_the_name_that_is_missing() {
        let wrong = read(br#"{"a":1}"#, Depth::Offset).expect_err("not ours");
        assert_eq!(wrong.to_string(), "`kafka_offset` does not stand where it belongs");
        let line = written(None, None);
        for cut in 0..line.len() {
            assert!(read(&line[..cut], Depth::Body).is_err(), "cut at {cut}");
        }
    }
}
