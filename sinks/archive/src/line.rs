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

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use memchr::memmem;
use serde::de::IgnoredAny;
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
    /// `c u d r t` of a change, `o` of an event, `x` of a tombstone.
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
    number(out, record.offset);
    out.extend_from_slice(b",\"kafka_partition\":");
    number(out, partition);
    out.extend_from_slice(b",\"kafka_ts_ms\":");
    number(out, record.timestamp_ms);
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
    value(out, record.value.as_deref(), origin.op_code);
    out.push(b'\n');
    origin
}

/// A line that this module did not write.
#[derive(Debug, thiserror::Error)]
pub enum BadLine {
    /// Not JSON, or not with the head's keys.
    #[error("not a line of the archive")]
    Json(#[from] serde_json::Error),
    /// A head key is missing or has the wrong form.
    #[error("`{0}` is missing or has the wrong form")]
    Field(&'static str),
}

/// Reads a line, without its line break, back into the record it was made from.
pub fn read(line: &[u8]) -> Result<(i32, SourceRecord), BadLine> {
    let text = std::str::from_utf8(line).map_err(|_| BadLine::Field("line"))?;
    let head = Head::read(text)?;
    let number = |name| {
        head.get(name).and_then(|raw| raw.get().parse::<i64>().ok()).ok_or(BadLine::Field(name))
    };
    let decoded = |raw: &RawValue, name| {
        let text: String = serde_json::from_str(raw.get())?;
        BASE64.decode(text).map_err(|_| BadLine::Field(name))
    };
    let key = match (head.get("kafka_key"), head.get("kafka_key_b64")) {
        (_, Some(raw)) => Some(decoded(raw, "kafka_key_b64")?),
        (Some(raw), None) => match raw.get().as_bytes() {
            b"null" => None,
            [b'"', ..] => Some(serde_json::from_str::<String>(raw.get())?.into_bytes()),
            object => Some(object.to_vec()),
        },
        (None, None) => return Err(BadLine::Field("kafka_key")),
    };
    let value = match (head.get("op_code").map(RawValue::get), head.get("value_b64")) {
        (None, _) => return Err(BadLine::Field("op_code")),
        (Some("\"x\""), _) => None,
        (_, Some(raw)) => Some(decoded(raw, "value_b64")?),
        _ => {
            let rest = &text[head.end..];
            Some([b"{", rest.strip_prefix(',').unwrap_or(rest).as_bytes()].concat())
        }
    };
    let partition = number("kafka_partition")?;
    let record = SourceRecord {
        offset: number("kafka_offset")?,
        timestamp_ms: number("kafka_ts_ms")?,
        key: key.map(Bytes::from),
        value: value.map(Bytes::from),
        headers: read_headers(head.get("kafka_headers").ok_or(BadLine::Field("kafka_headers"))?)?,
    };
    let partition = i32::try_from(partition).map_err(|_| BadLine::Field("kafka_partition"))?;
    Ok((partition, record))
}

/// The fields of the head and where they end.
struct Head<'a> {
    fields: Vec<(&'a str, &'a RawValue)>,
    /// Behind the last field of the head.
    end: usize,
}

impl<'a> Head<'a> {
    fn read(line: &'a str) -> Result<Self, BadLine> {
        if !line.starts_with('{') {
            return Err(BadLine::Field("line"));
        }
        let mut fields = Vec::with_capacity(NAMES.len());
        let mut end = 1;
        while let Some(name) = NAMES.iter().find(|name| {
            line[end..].trim_start_matches(',').strip_prefix('"').is_some_and(|rest| {
                rest.strip_prefix(**name).is_some_and(|rest| rest.starts_with("\":"))
            })
        }) {
            let start = line.len() - line[end..].trim_start_matches(',').len() + name.len() + 3;
            let mut values =
                serde_json::Deserializer::from_str(&line[start..]).into_iter::<&RawValue>();
            let raw = values.next().ok_or(BadLine::Field("line"))??;
            end = start + raw.get().len();
            fields.push((*name, raw));
            // After the headers the value begins, which may use any other name.
            if *name == "kafka_headers" && !line[end..].starts_with(",\"value_b64\":") {
                break;
            }
        }
        Ok(Self { fields, end })
    }

    fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.fields.iter().find(|(field, _)| *field == name).map(|(_, raw)| *raw)
    }
}

fn origin(record: &SourceRecord) -> Origin {
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
        Some(value) => change(value).unwrap_or_default(),
    }
}

/// Reads the source block of a change as our reader writes it.
///
/// It is looked for from the end: behind it stand only `op`, `ts_ms` and column names, whereas a row before it may
/// hold anything, even a document that looks like one.
fn change(value: &[u8]) -> Option<Origin> {
    if !value.starts_with(b"{\"before\":") {
        return None;
    }
    let block = &value[memmem::rfind(value, b",\"source\":{\"version\":")?..];
    let op_at = memmem::find(block, b"},\"op\":\"")?;
    let op = *block.get(op_at + 8)?;
    let block = &block[..op_at];
    let field = |name: &[u8]| {
        let digits = &block[memmem::rfind(block, name)? + name.len()..];
        let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
        std::str::from_utf8(&digits[..end]).ok()?.parse::<u64>().ok()
    };
    Some(Origin {
        op_code: op.is_ascii_lowercase().then_some(op),
        commit_lsn: field(b",\"commit_lsn\":"),
        commit_ts_us: field(b",\"ts_ms\":").and_then(|ms| i64::try_from(ms * 1000).ok()),
        tx_id: field(b",\"txId\":"),
        tx_seq: field(b",\"ordinal\":"),
        tw_seq: field(b",\"seq\":"),
    })
}

fn key(out: &mut Vec<u8>, key: Option<&[u8]>) {
    match key {
        None => out.extend_from_slice(b",\"kafka_key\":null"),
        Some(key) if is_object_on_one_line(key) => {
            out.extend_from_slice(b",\"kafka_key\":");
            out.extend_from_slice(key);
        }
        Some(key) => match std::str::from_utf8(key) {
            Ok(text) => {
                out.extend_from_slice(b",\"kafka_key\":");
                string(out, text);
            }
            Err(_) => {
                out.extend_from_slice(b",\"kafka_key_b64\":");
                base64(out, key);
            }
        },
    }
}

fn value(out: &mut Vec<u8>, value: Option<&[u8]>, op_code: Option<u8>) {
    let Some(value) = value else {
        out.push(b'}');
        return;
    };
    let clashes = || {
        // Our reader's own envelope has fixed names, none of them ours.
        !matches!(op_code, Some(b'c' | b'u' | b'd' | b'r' | b't'))
            && NAMES.iter().any(|name| memmem::find(value, name.as_bytes()).is_some())
    };
    if is_object_on_one_line(value) && op_code != Some(b'x') && !clashes() {
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

/// Whether bytes can stand in a line of JSON as they are. An object that begins `{,` is none, so the comma that a
/// reader takes off is always ours.
fn is_object_on_one_line(bytes: &[u8]) -> bool {
    bytes.first() == Some(&b'{')
        && bytes.last() == Some(&b'}')
        && memchr::memchr2(b'\n', b'\r', bytes).is_none()
        && std::str::from_utf8(bytes)
            .is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

fn headers(out: &mut Vec<u8>, headers: &[(String, Option<Bytes>)]) {
    if headers.is_empty() {
        out.extend_from_slice(b"null");
        return;
    }
    for (at, (name, value)) in headers.iter().enumerate() {
        out.extend_from_slice(if at == 0 { b"[[" } else { b",[" });
        string(out, name);
        out.push(b',');
        match value.as_deref().map(|value| (std::str::from_utf8(value), value)) {
            None => out.extend_from_slice(b"null"),
            Some((Ok(text), _)) => string(out, text),
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
    let headers: Option<Vec<(String, Option<HeaderValue>)>> = serde_json::from_str(raw.get())?;
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

fn string(out: &mut Vec<u8>, text: &str) {
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(out, text);
}

fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(BASE64.encode(bytes).as_bytes());
    out.push(b'"');
}

fn number(out: &mut Vec<u8>, number: impl serde::Serialize) {
    let _ = serde_json::to_writer(out, &number);
}

fn optional(out: &mut Vec<u8>, name: &[u8], value: Option<impl serde::Serialize>) {
    out.extend_from_slice(name);
    number(out, value);
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
        ]
    }
}
