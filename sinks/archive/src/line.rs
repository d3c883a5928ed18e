//! One record as one line of JSON, and back, byte for byte.
//!
//! ```text
//!  {"kafka_offset":7,"kafka_partition":0,"kafka_ts_ms":…,"op_code":"c","commit_lsn":…,"commit_ts_us":…,"tx_id":…,
//!   "tx_seq":…,"tw_seq":…,"kafka_key":{…},"kafka_headers":null , "before":null,"after":{…},…}
//!   └──────────────── head: always these keys, in this order ──┘ └── the value without its opening brace ──┘
//! ```
//!
//! * A reader that knows the order gets the head without parsing the rest.
//! * What cannot stand in a line as it is, because it is no JSON object on one line or uses a name of the head, stands
//!   as base64 under `value_b64`. Any record can be archived.
//! * The key stands as JSON when it is an object, as a string when it is text, else under `kafka_key_b64`.

use std::fmt;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use memchr::memmem::{Finder, FinderRev};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use tailwater_sinks_worker::SourceRecord;
use tailwater_topics_contract::{Position, header};

/// Names of the head. A value that uses one of them would give a line with a key twice, which some engines refuse.
const NAMES: [&str; 13] = [
    "kafka_offset",
    "kafka_partition",
    "kafka_ts_ms",
    "op_code",
    "commit_lsn",
    "commit_ts_us",
    "tx_id",
    "tx_seq",
    "tw_seq",
    "kafka_key",
    "kafka_key_b64",
    "kafka_headers",
    "value_b64",
];

/// What the head tells of a record's origin; absent parts are `null`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// `c u d r t m` of a change, `o` of an event, `x` of a tombstone.
    pub op_code: Option<u8>,
    /// Commit LSN.
    pub commit_lsn: Option<u64>,
    /// Commit time in microseconds since 1970.
    pub commit_ts_us: Option<i64>,
    /// Transaction id.
    pub tx_id: Option<u64>,
    /// Ordinal within the transaction.
    pub tx_seq: Option<u64>,
    /// Dense number of the pipeline.
    pub tw_seq: Option<u64>,
}

/// Appends the line of a record, with its line break, and answers what its head tells.
pub fn write(partition: i32, record: &SourceRecord, out: &mut Vec<u8>) -> Origin {
    let origin = origin(record);
    out.extend_from_slice(b"{\"kafka_offset\":");
    json(out, record.offset);
    out.extend_from_slice(b",\"kafka_partition\":");
    json(out, partition);
    out.extend_from_slice(b",\"kafka_ts_ms\":");
    json(out, record.timestamp_ms);
    out.extend_from_slice(b",\"op_code\":");
    match origin.op_code {
        Some(op) => out.extend_from_slice(&[b'"', op, b'"']),
        None => out.extend_from_slice(b"null"),
    }
    optional(out, b",\"commit_lsn\":", origin.commit_lsn);
    optional(out, b",\"commit_ts_us\":", origin.commit_ts_us);
    optional(out, b",\"tx_id\":", origin.tx_id);
    optional(out, b",\"tx_seq\":", origin.tx_seq);
    optional(out, b",\"tw_seq\":", origin.tw_seq);
    key(out, record.key.as_deref());
    out.extend_from_slice(b",\"kafka_headers\":");
    headers(out, &record.headers);
    value(out, record.value.as_deref());
    out.push(b'\n');
    origin
}

/// A line that this module did not write.
#[derive(Debug, thiserror::Error)]
pub enum BadLine {
    /// A head key does not stand where it belongs, or has the wrong form.
    #[error("`{0}` does not stand where it belongs, or has the wrong form")]
    Field(&'static str),
}

/// Reads a line, without its line break, back into the record it was made from.
pub fn read(line: &[u8]) -> Result<(i32, SourceRecord), BadLine> {
    let text = std::str::from_utf8(line).map_err(|_| BadLine::Field("line"))?;
    let mut rest = text.strip_prefix('{').ok_or(BadLine::Field("line"))?;
    let offset = number(&mut rest, "kafka_offset")?;
    let partition = number(&mut rest, "kafka_partition")?;
    let timestamp_ms = number(&mut rest, "kafka_ts_ms")?;
    let op_code = field(&mut rest, "op_code")?;
    for name in ["commit_lsn", "commit_ts_us", "tx_id", "tx_seq", "tw_seq"] {
        field(&mut rest, name)?;
    }
    let key = match field(&mut rest, "kafka_key") {
        Ok(raw) => match raw.get().as_bytes() {
            b"null" => None,
            [b'"', ..] => Some(text_of(raw, "kafka_key")?.into_bytes()),
            object => Some(object.to_vec()),
        },
        Err(_) => Some(bytes_of(field(&mut rest, "kafka_key_b64")?, "kafka_key_b64")?),
    };
    let headers = read_headers(field(&mut rest, "kafka_headers")?)?;
    let value = if op_code.get() == "\"x\"" {
        end(rest)?;
        None
    } else if rest.starts_with(",\"value_b64\":") {
        let value = bytes_of(field(&mut rest, "value_b64")?, "value_b64")?;
        end(rest)?;
        Some(value)
    } else {
        Some([b"{", rest.strip_prefix(',').unwrap_or(rest).as_bytes()].concat())
    };
    let (key, value) = (key.map(Bytes::from), value.map(Bytes::from));
    Ok((partition, SourceRecord { offset, timestamp_ms, key, value, headers }))
}

/// Takes the next field of the head off the rest of a line; the first has no comma before it.
fn field<'a>(rest: &mut &'a str, name: &'static str) -> Result<&'a RawValue, BadLine> {
    let wrong = BadLine::Field(name);
    let named = rest.strip_prefix(',').unwrap_or(rest).strip_prefix('"');
    let Some(value) =
        named.and_then(|rest| rest.strip_prefix(name)).and_then(|rest| rest.strip_prefix("\":"))
    else {
        return Err(wrong);
    };
    let mut values = serde_json::Deserializer::from_str(value).into_iter::<&RawValue>();
    let Some(Ok(raw)) = values.next() else { return Err(wrong) };
    *rest = &value[values.byte_offset()..];
    Ok(raw)
}

fn number<T: std::str::FromStr>(rest: &mut &str, name: &'static str) -> Result<T, BadLine> {
    field(rest, name)?.get().parse().map_err(|_| BadLine::Field(name))
}

fn text_of(raw: &RawValue, name: &'static str) -> Result<String, BadLine> {
    serde_json::from_str(raw.get()).map_err(|_| BadLine::Field(name))
}

fn bytes_of(raw: &RawValue, name: &'static str) -> Result<Vec<u8>, BadLine> {
    BASE64.decode(text_of(raw, name)?).map_err(|_| BadLine::Field(name))
}

fn end(rest: &str) -> Result<(), BadLine> {
    if rest == "}" { Ok(()) } else { Err(BadLine::Field("value")) }
}

/// What the head of a record's line tells.
pub fn origin(record: &SourceRecord) -> Origin {
    let header = |name: &str| {
        let value = record.headers.iter().find(|(header, _)| header == name)?.1.as_ref()?;
        std::str::from_utf8(value).ok()
    };
    let position = || header(header::POSITION)?.parse::<Position>().ok();
    let from_headers = |op_code| {
        let position = position();
        Origin {
            op_code: Some(op_code),
            commit_lsn: position.map(|position| position.commit_lsn.0),
            tx_seq: position.map(|position| position.ordinal),
            tw_seq: header(header::SEQ).and_then(|seq| seq.parse().ok()),
            ..Origin::default()
        }
    };
    match &record.value {
        None => from_headers(b'x'),
        Some(_) if header(header::CE_ID).is_some() => from_headers(b'o'),
        Some(value) => change(value).unwrap_or_else(|| match debezium(value) {
            Some(op) if header(header::SEQ).is_some() => from_headers(op),
            _ => Origin::default(),
        }),
    }
}

/// The `op` of a change in Debezium's form, whose place in the pipeline is in its headers.
fn debezium(value: &[u8]) -> Option<u8> {
    if !value.starts_with(b"{\"before\":") {
        return None;
    }
    const OP: &[u8] = b",\"transaction\":null,\"op\":\"";
    static FIND: LazyLock<FinderRev<'_>> = LazyLock::new(|| FinderRev::new(OP));
    value.get(FIND.rfind(value)? + OP.len()).copied()
}

/// Reads the source block of a change as our reader writes it.
///
/// It is looked for from the end, and what stands behind it must be what our reader writes there and close the value.
/// So a document within a row that looks like a change is not taken for one.
fn change(value: &[u8]) -> Option<Origin> {
    if !value.starts_with(b"{\"before\":") {
        return None;
    }
    // Made once: making them takes longer than they do.
    static BEGIN: LazyLock<FinderRev<'_>> =
        LazyLock::new(|| FinderRev::new(b",\"source\":{\"version\":"));
    static END: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"},\"op\":\""));
    let block = &value[BEGIN.rfind(value)?..];
    let (block, behind) = block.split_at(END.find(block)?);
    let (op, behind) = match behind.get(8..)? {
        [op @ (b'c' | b'u' | b'd' | b'r' | b't' | b'm'), b'"', behind @ ..] => (*op, behind),
        _ => return None,
    };
    let behind = behind.strip_prefix(b",\"ts_ms\":")?;
    let digits = behind.iter().take_while(|byte| byte.is_ascii_digit()).count();
    match &behind[digits..] {
        b"}" => {}
        [unchanged @ .., b'}'] => {
            let columns = unchanged.strip_prefix(b",\"unchanged\":")?;
            serde_json::from_slice::<Vec<IgnoredAny>>(columns).ok()?;
        }
        _ => return None,
    }
    let [commit_lsn, ts_ms, tx_id, ordinal, seq] = numbers(
        block,
        [b",\"commit_lsn\":", b",\"ts_ms\":", b",\"txId\":", b",\"ordinal\":", b",\"seq\":"],
    );
    let commit_ts_ms = ts_ms.and_then(|ms| i64::try_from(ms).ok());
    Some(Origin {
        op_code: Some(op),
        commit_lsn,
        commit_ts_us: commit_ts_ms.and_then(|ms| ms.checked_mul(1000)),
        tx_id,
        tx_seq: ordinal,
        tw_seq: seq,
    })
}

/// The numbers behind the last of each of these in a block. Each begins with a comma.
fn numbers<const N: usize>(block: &[u8], names: [&[u8]; N]) -> [Option<u64>; N] {
    let mut found = [None; N];
    for at in memchr::memchr_iter(b',', block) {
        let rest = &block[at..];
        if let Some(which) = names.iter().position(|name| rest.starts_with(name)) {
            found[which] = Some(&rest[names[which].len()..]);
        }
    }
    found.map(|digits| {
        let digits = digits?;
        let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
        std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
    })
}

fn key(out: &mut Vec<u8>, key: Option<&[u8]>) {
    match key {
        None => out.extend_from_slice(b",\"kafka_key\":null"),
        Some(key) if object_on_one_line(key).is_some() => {
            out.extend_from_slice(b",\"kafka_key\":");
            out.extend_from_slice(key);
        }
        Some(key) => match std::str::from_utf8(key) {
            Ok(text) => {
                out.extend_from_slice(b",\"kafka_key\":");
                json(out, text);
            }
            Err(_) => {
                out.extend_from_slice(b",\"kafka_key_b64\":");
                base64(out, key);
            }
        },
    }
}

fn value(out: &mut Vec<u8>, value: Option<&[u8]>) {
    let Some(value) = value else {
        out.push(b'}');
        return;
    };
    if object_on_one_line(value).is_some_and(|object| !object.uses_our_names) {
        let rest = &value[1..];
        if !rest.trim_ascii_start().starts_with(b"}") {
            out.push(b',');
        }
        out.extend_from_slice(rest);
    } else {
        out.extend_from_slice(b",\"value_b64\":");
        base64(out, value);
        out.push(b'}');
    }
}

/// An object that can stand in a line of JSON as it is.
struct Object {
    /// Whether one of its own fields, not of those further in, has a name of the head.
    uses_our_names: bool,
}

/// Looks at bytes once. An object that begins `{,` is none, so the comma that a reader takes off is always ours.
fn object_on_one_line(bytes: &[u8]) -> Option<Object> {
    let braces = bytes.first() == Some(&b'{') && bytes.last() == Some(&b'}');
    if !braces || memchr::memchr2(b'\n', b'\r', bytes).is_some() {
        return None;
    }
    let text = std::str::from_utf8(bytes).ok()?;
    let object = serde_json::from_str(text).ok()?;
    // Half a surrogate pair passes where strings are only skipped, and then fails whoever reads the string: with most
    // engines the whole file.
    let surrogates = memchr::memchr_iter(b'\\', bytes)
        .any(|at| matches!(bytes.get(at + 1..at + 3), Some([b'u', b'd' | b'D'])));
    (!surrogates || serde_json::from_str::<serde_json::Value>(text).is_ok()).then_some(object)
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Object, A::Error> {
                let mut object = Object { uses_our_names: false };
                while let Some(Name { is_ours }) = fields.next_key()? {
                    object.uses_our_names |= is_ours;
                    fields.next_value::<IgnoredAny>()?;
                }
                Ok(object)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// The name of a field, looked at in passing.
struct Name {
    is_ours: bool,
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name { is_ours: NAMES.contains(&name) })
            }
        }

        deserializer.deserialize_str(Text)
    }
}

fn headers(out: &mut Vec<u8>, headers: &[(String, Option<Bytes>)]) {
    if headers.is_empty() {
        out.extend_from_slice(b"null");
        return;
    }
    for (at, (name, value)) in headers.iter().enumerate() {
        out.extend_from_slice(if at == 0 { b"[[" } else { b",[" });
        json(out, name);
        out.push(b',');
        match value.as_deref().map(|value| (std::str::from_utf8(value), value)) {
            None => out.extend_from_slice(b"null"),
            Some((Ok(text), _)) => json(out, text),
            Some((Err(_), bytes)) => {
                out.extend_from_slice(b"{\"b64\":");
                base64(out, bytes);
                out.push(b'}');
            }
        }
        out.push(b']');
    }
    out.push(b']');
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum HeaderValue {
    Text(String),
    Binary { b64: String },
}

fn read_headers(raw: &RawValue) -> Result<Vec<(String, Option<Bytes>)>, BadLine> {
    let headers: Option<Vec<(String, Option<HeaderValue>)>> =
        serde_json::from_str(raw.get()).map_err(|_| BadLine::Field("kafka_headers"))?;
    let value = |value| match value {
        HeaderValue::Text(text) => Ok(Bytes::from(text)),
        HeaderValue::Binary { b64 } => {
            BASE64.decode(b64).map(Bytes::from).map_err(|_| BadLine::Field("kafka_headers"))
        }
    };
    let header =
        |(name, found): (String, Option<HeaderValue>)| Ok((name, found.map(value).transpose()?));
    headers.into_iter().flatten().map(header).collect()
}

fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(BASE64.encode(bytes).as_bytes());
    out.push(b'"');
}

fn json(out: &mut Vec<u8>, value: impl serde::Serialize) {
    // Writing a text or a number to memory does not fail.
    let _ = serde_json::to_writer(out, &value);
}

fn optional(out: &mut Vec<u8>, name: &[u8], value: Option<impl serde::Serialize>) {
    out.extend_from_slice(name);
    json(out, value);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHANGE: &str = r#"{"before":null,"after":{"doc":{"a":1,"source":{"version":"x","seq":9},"op":"z"}},"source":{"version":"0.1.0","connector":"tailwater","name":"m","ts_ms":1700000000123,"snapshot":"false","db":"d","schema":"s","table":"t","txId":77,"lsn":5,"commit_lsn":6,"ordinal":2,"seq":41},"op":"u","ts_ms":1700000000200,"unchanged":["a,\"b"]}"#;

    fn record(key: Option<&[u8]>, value: Option<&[u8]>) -> SourceRecord {
        SourceRecord {
            offset: 7,
            timestamp_ms: 1_700_000_000_200,
            key: key.map(Bytes::copy_from_slice),
            value: value.map(Bytes::copy_from_slice),
            headers: vec![],
        }
    }

    fn line(record: &SourceRecord) -> String {
        let mut out = Vec::new();
        write(3, record, &mut out);
        String::from_utf8(out).expect("a line is UTF-8")
    }

    #[test]
    fn a_change_stands_in_the_line_with_its_place_in_the_head() {
        let text = line(&record(Some(br#"{"id":1}"#), Some(CHANGE.as_bytes())));
        let head = r#"{"kafka_offset":7,"kafka_partition":3,"kafka_ts_ms":1700000000200,"op_code":"u","commit_lsn":6,"commit_ts_us":1700000000123000,"tx_id":77,"tx_seq":2,"tw_seq":41,"kafka_key":{"id":1},"kafka_headers":null,"before":null"#;
        assert!(text.starts_with(head), "{text}");
        assert!(text.ends_with("}\n"));
    }

    #[test]
    fn a_change_in_debeziums_form_takes_its_place_from_headers() {
        let value = r#"{"before":null,"after":{"id":1},"source":{"version":"1","connector":"postgresql","ts_ms":1},"transaction":null,"op":"c","ts_ms":2,"ts_us":3,"ts_ns":4}"#;
        let mut change = record(Some(b"k"), Some(value.as_bytes()));
        let header = |name: &str, value: &'static str| (name.to_owned(), Some(Bytes::from(value)));
        change.headers = vec![header("tw-seq", "42"), header("tw-position", "6:3")];
        assert!(line(&change).contains(r#""op_code":"c","commit_lsn":6,"commit_ts_us":null,"tx_id":null,"tx_seq":3,"tw_seq":42,"kafka_key":"k""#));
        change.headers.clear();
        assert!(line(&change).contains(r#""op_code":null"#), "somebody else's record");
    }

    #[test]
    fn a_tombstone_and_an_event_take_their_place_from_headers() {
        let mut tombstone = record(Some(b"k"), None);
        let header = |name: &str, value: &'static str| (name.to_owned(), Some(Bytes::from(value)));
        tombstone.headers = vec![header("tw-seq", "42"), header("tw-position", "6:3")];
        assert!(line(&tombstone).contains(r#""op_code":"x","commit_lsn":6,"commit_ts_us":null,"tx_id":null,"tx_seq":3,"tw_seq":42,"kafka_key":"k""#));
        let mut event = record(Some(b"o1"), Some(br#"{"a": 1}"#));
        event.headers = vec![header("ce_id", "e"), header("tw-seq", "43")];
        let text = line(&event);
        assert!(text.contains(r#""op_code":"o""#) && text.ends_with(",\"a\": 1}\n"), "{text}");
    }

    #[test]
    fn a_value_that_uses_a_name_of_the_head_stands_as_base64() {
        let text = line(&record(None, Some(br#"{"tx_id":5}"#)));
        assert!(text.contains("value_b64") && !text.contains(r#""tx_id":5"#), "{text}");
    }

    #[test]
    fn only_the_own_fields_of_a_value_can_use_a_name_of_the_head() {
        let text = line(&record(None, Some(br#"{"a":{"tx_id":5},"b":"tx_id"}"#)));
        assert!(text.ends_with(",\"a\":{\"tx_id\":5},\"b\":\"tx_id\"}\n"), "{text}");
        let text = line(&record(None, Some(br#"{"tx_\u0069d":5}"#)));
        assert!(text.contains("value_b64"), "another spelling of the same name: {text}");
        let change = CHANGE.replacen("\"after\":", "\"kafka_key\":1,\"after\":", 1);
        let text = line(&record(None, Some(change.as_bytes())));
        assert!(text.contains("value_b64"), "even in what looks like our own: {text}");
    }

    #[test]
    fn half_a_surrogate_pair_would_break_the_file_for_others_and_is_encoded() {
        for (value, stands) in [
            (&br#"{"a":"\ud83d\ude00"}"#[..], true),
            (br#"{"a":"\uD83D"}"#, false),
            (br#"{"a":{"b":["\ude00"]}}"#, false),
        ] {
            let record = record(None, Some(value));
            let text = line(&record);
            assert_eq!(!text.contains("value_b64"), stands, "{text}");
            serde_json::from_str::<serde_json::Value>(&text).expect("every reader takes it");
            assert_eq!(read(text.trim_end().as_bytes()).expect("reads").1, record);
        }
    }

    #[test]
    fn what_only_looks_like_a_change_gives_no_origin() {
        let inner = r#""source":{"version":"1","ts_ms":1,"seq":9},"op":"c","ts_ms":1"#;
        for value in [
            format!(r#"{{"before":null,"after":{{"a":1,{inner}}}}}"#),
            format!(r#"{{"before":null,"after":{{"a":1,{inner},"unchanged":[]}}}}"#),
            format!(r#"{{"before":null,"a":1,{inner},"more":1}}"#),
            CHANGE.replace(r#""op":"u""#, r#""op":"x""#),
            CHANGE.replace(r#""op":"u""#, r#""op":"uu""#),
        ] {
            let record = record(None, Some(value.as_bytes()));
            assert_eq!(origin(&record), Origin::default(), "{value}");
            let text = line(&record);
            assert_eq!(read(text.trim_end().as_bytes()).expect("reads").1, record, "{value}");
        }
    }

    #[test]
    fn numbers_beyond_every_range_are_left_out_of_the_head() {
        for digits in ["18446744073709551615", "9223372036854775807", "99999999999999999999999"] {
            let value = CHANGE.replace("1700000000123", digits).replace("\"seq\":41", digits);
            let record = record(None, Some(value.as_bytes()));
            assert_eq!(origin(&record).commit_ts_us, None);
            let text = line(&record);
            assert_eq!(read(text.trim_end().as_bytes()).expect("reads").1, record);
        }
    }

    #[test]
    fn awkward_values_come_back_byte_for_byte() {
        let values: [&[u8]; 12] = [
            b"",
            b"{}",
            b"{ }",
            b"{ \"a\":1}",
            b"null",
            b"[1]",
            b"{\"a\":\n1}",
            b"{\"a\":1",
            b"\xff",
            b"{\"a\":1}}",
            b"{\"before\":1}",
            b" {}",
        ];
        for value in values {
            for key in [
                None,
                Some(&b""[..]),
                Some(&b"\"x\""[..]),
                Some(&b"null"[..]),
                Some(&b"\xfe"[..]),
                Some(&b"{\"a\":1}"[..]),
            ] {
                let record = record(key, Some(value));
                let text = line(&record);
                assert_eq!(text.matches('\n').count(), 1, "{text}");
                let json: serde_json::Value = serde_json::from_str(&text).expect("a line is JSON");
                assert_eq!(json["kafka_offset"], 7);
                assert_eq!(
                    read(text.trim_end_matches('\n').as_bytes()).expect("reads"),
                    (3, record)
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn any_record_comes_back_byte_for_byte(
            offset in 0..i64::MAX,
            timestamp_ms in any::<i64>(),
            key in proptest::option::of(bytes()),
            value in proptest::option::of(bytes()),
            headers in proptest::collection::vec(("\\PC{0,8}", proptest::option::of(bytes())), 0..4),
        ) {
            let record = SourceRecord { offset, timestamp_ms, key, value, headers };
            let text = line(&record);
            prop_assert_eq!(text.matches('\n').count(), 1);
            prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
            let (partition, back) = read(text.trim_end_matches('\n').as_bytes()).expect("reads");
            prop_assert_eq!((partition, back), (3, record));
        }

        #[test]
        fn a_line_that_was_damaged_is_read_or_refused(
            key in proptest::option::of(bytes()),
            value in proptest::option::of(bytes()),
            at in any::<proptest::sample::Index>(),
            other in "\\PC{0,3}",
        ) {
            let whole = line(&record(key.as_deref(), value.as_deref()));
            let starts: Vec<usize> = whole.char_indices().map(|(at, _)| at).collect();
            let mut damaged = whole.clone();
            damaged.insert_str(starts[at.index(starts.len())], &other);
            let _ = read(damaged.trim_end_matches('\n').as_bytes());
            let _ = read(&whole.as_bytes()[..at.index(whole.len())]);
        }

        #[test]
        fn any_bytes_are_read_or_refused(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&line);
        }
    }

    fn bytes() -> impl Strategy<Value = Bytes> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from),
            "\\{\"[a-z_]{1,8}\":[0-9]{1,5}\\}".prop_map(Bytes::from),
            "[{}\\[\\]\",:a-z0-9 \n]{0,20}".prop_map(Bytes::from),
            Just(Bytes::from_static(CHANGE.as_bytes())),
            "[a-z]{1,3}"
                .prop_map(|op| CHANGE.replace("\"op\":\"u\"", &format!("\"op\":\"{op}\"")).into()),
            "[0-9]{0,24}".prop_map(|digits| CHANGE.replace("1700000000123", &digits).into()),
            proptest::sample::select(&NAMES[..])
                .prop_map(|name| format!("{{\"{name}\":1}}").into()),
        ]
    }
}
