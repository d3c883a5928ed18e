//! The text of a Postgres value as JSON, nothing lost.
//!
//! The session pins what these texts look like: ISO dates, UTC, hexadecimal bytea, shortest exact floats. Which form
//! each type has stands in `docs/reference/types.md`, written by the test that compares all of them with Postgres.

/// Arrays, element by element (pure).
pub(crate) mod array;
/// Values in Debezium's encodings (pure).
pub(crate) mod debezium;
/// Dates and times in Debezium's encodings (pure).
mod debezium_time;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// How the values of a column are written; chosen once per column from its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Digits as they are.
    Number,
    /// Digits as they are, but NaN and infinities as text.
    Float,
    /// `t` and `f`.
    Bool,
    /// The document itself, on one line.
    Json,
    /// Base64.
    Bytea,
    /// ISO 8601 without zone.
    Timestamp,
    /// ISO 8601 in UTC.
    TimestampTz,
    /// A JSON string of the text, which is also right for every type we do not know.
    Text,
    /// A JSON array of values in this form; of a kind of array that JSON does not have, a string of its text.
    Array(&'static Form),
}

impl Form {
    /// The form of a type by its oid (`pg_type.dat`; oids of built-in types never change).
    pub fn of_type(oid: u32) -> Self {
        match oid {
            16 => Self::Bool,
            17 => Self::Bytea,
            20 | 21 | 23 | 26 => Self::Number,
            114 | 3802 => Self::Json,
            700 | 701 => Self::Float,
            1114 => Self::Timestamp,
            1184 => Self::TimestampTz,
            1000 => Self::Array(&Self::Bool),
            1001 => Self::Array(&Self::Bytea),
            1005 | 1007 | 1016 | 1028 => Self::Array(&Self::Number),
            199 | 3807 => Self::Array(&Self::Json),
            1021 | 1022 => Self::Array(&Self::Float),
            1115 => Self::Array(&Self::Timestamp),
            1185 => Self::Array(&Self::TimestampTz),
            oid if TEXT_ARRAYS.contains(&oid) => Self::Array(&Self::Text),
            _ => Self::Text,
        }
    }
}

/// Arrays of types whose form is [`Form::Text`]. Not those of `box`, whose elements are parted by semicolons.
const TEXT_ARRAYS: [u32; 48] = [
    143, 271, 629, 651, 719, 775, 791, 1002, 1003, 1009, 1010, 1011, 1012, 1014, 1015, 1017, 1018,
    1019, 1027, 1040, 1041, 1182, 1183, 1187, 1231, 1270, 1561, 1563, 2201, 2949, 2951, 3221, 3643,
    3645, 3905, 3907, 3909, 3911, 3913, 3927, 4073, 5039, 6150, 6151, 6152, 6153, 6155, 6157,
];

/// A text that is not what its type prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadText {
    /// Not UTF-8: the database has no encoding of its own (`SQL_ASCII`) and holds other bytes.
    NotUtf8,
    /// Not what the type prints under the session's settings.
    NotItsType,
}

/// Appends a value as JSON.
pub fn write(form: Form, text: &[u8], out: &mut Vec<u8>) -> Result<(), BadText> {
    match form {
        Form::Number => digits(text, out),
        Form::Float => match text {
            b"NaN" | b"Infinity" | b"-Infinity" => {
                quoted(text, out);
                Ok(())
            }
            _ => digits(text, out),
        },
        Form::Bool => {
            let word: &[u8] = match text {
                b"t" => b"true",
                b"f" => b"false",
                _ => return Err(BadText::NotItsType),
            };
            out.extend_from_slice(word);
            Ok(())
        }
        Form::Json => json(text, out),
        Form::Bytea => bytea(text, out),
        Form::Timestamp => {
            check_time(text)?;
            out.push(b'"');
            timestamp(text, b"", out);
            out.push(b'"');
            Ok(())
        }
        Form::TimestampTz => {
            check_time(text)?;
            out.push(b'"');
            timestamptz(text, out);
            out.push(b'"');
            Ok(())
        }
        Form::Text => string(text, out),
        Form::Array(element) => {
            if array::is_plain(text) {
                array::write(text, out, |text, out| write(*element, text, out))
            } else {
                string(text, out)
            }
        }
    }
}

/// Appends a JSON string.
pub fn string(text: &[u8], out: &mut Vec<u8>) -> Result<(), BadText> {
    check_utf8(text)?;
    quoted(text, out);
    Ok(())
}

/// Appends a `timestamptz` printed in UTC as ISO 8601, without quotes. What has no such form, `infinity` or a year
/// before Christ, keeps its text.
pub fn timestamptz(text: &[u8], out: &mut Vec<u8>) {
    match text.strip_suffix(b"+00") {
        Some(local) => timestamp(local, b"Z", out),
        None => out.extend_from_slice(text),
    }
}

/// Appends bytes as a JSON string of base64.
pub(crate) fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    quoted(BASE64.encode(bytes).as_bytes(), out);
}

/// Appends a whole number.
pub fn number(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Numbers go out as they came, after a look that they are numbers to JSON too.
fn digits(text: &[u8], out: &mut Vec<u8>) -> Result<(), BadText> {
    let unsigned = text.strip_prefix(b"-").unwrap_or(text);
    let has_zeros = matches!(unsigned, [b'0', b'0'..=b'9', ..]);
    let mut rest = after_digits(unsigned)?;
    if let [b'.', fraction @ ..] = rest {
        rest = after_digits(fraction)?;
    }
    if let [b'e', b'+' | b'-', exponent @ ..] | [b'e', exponent @ ..] = rest {
        rest = after_digits(exponent)?;
    }
    if has_zeros || !rest.is_empty() {
        return Err(BadText::NotItsType);
    }
    out.extend_from_slice(text);
    Ok(())
}

/// What follows one digit or more.
fn after_digits(text: &[u8]) -> Result<&[u8], BadText> {
    match text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len()) {
        0 => Err(BadText::NotItsType),
        end => Ok(&text[end..]),
    }
}

/// Nothing that would have to be escaped.
fn check_time(text: &[u8]) -> Result<(), BadText> {
    let is_time = |byte: &u8| byte.is_ascii_alphanumeric() || b" -:.+".contains(byte);
    if text.iter().all(is_time) { Ok(()) } else { Err(BadText::NotItsType) }
}

fn timestamp(text: &[u8], zone: &[u8], out: &mut Vec<u8>) {
    match text.iter().position(|byte| *byte == b' ') {
        Some(space) if text.last().is_some_and(u8::is_ascii_digit) => {
            out.extend_from_slice(&text[..space]);
            out.push(b'T');
            out.extend_from_slice(&text[space + 1..]);
            out.extend_from_slice(zone);
        }
        // `infinity`, or `0044-03-15 12:00:00 BC`.
        _ => out.extend_from_slice(text),
    }
}

/// A `json` value may be spread over lines. In valid JSON a raw line break is white space, never part of a string,
/// so a blank in its place changes nothing.
fn json(text: &[u8], out: &mut Vec<u8>) -> Result<(), BadText> {
    check_utf8(text)?;
    let start = out.len();
    out.extend_from_slice(text);
    for byte in &mut out[start..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    Ok(())
}

fn bytea(text: &[u8], out: &mut Vec<u8>) -> Result<(), BadText> {
    let hex = text.strip_prefix(b"\\x").ok_or(BadText::NotItsType)?;
    let (pairs, []) = hex.as_chunks::<2>() else { return Err(BadText::NotItsType) };
    out.push(b'"');
    // Three bytes make four letters of base64, so pieces of a multiple of three join without padding between.
    const PIECE: usize = 3 * 256;
    let mut bytes = [0; PIECE];
    let mut letters = [0; PIECE / 3 * 4];
    for piece in pairs.chunks(PIECE) {
        for (byte, [high, low]) in bytes.iter_mut().zip(piece) {
            *byte = nibble(*high)? << 4 | nibble(*low)?;
        }
        let count = BASE64
            .encode_slice(&bytes[..piece.len()], &mut letters)
            .map_err(|_| BadText::NotItsType)?;
        out.extend_from_slice(&letters[..count]);
    }
    out.push(b'"');
    Ok(())
}

fn nibble(letter: u8) -> Result<u8, BadText> {
    match letter {
        b'0'..=b'9' => Ok(letter - b'0'),
        b'a'..=b'f' => Ok(letter - b'a' + 10),
        _ => Err(BadText::NotItsType),
    }
}

fn check_utf8(text: &[u8]) -> Result<(), BadText> {
    match std::str::from_utf8(text) {
        Ok(_) => Ok(()),
        Err(_) => Err(BadText::NotUtf8),
    }
}

/// What stands behind the backslash for each byte; 0 for bytes that stand for themselves, `u` for six letters.
const ESCAPE: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = b'u';
        byte += 1;
    }
    table[0x08] = b'b';
    table[0x09] = b't';
    table[0x0A] = b'n';
    table[0x0C] = b'f';
    table[0x0D] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

fn quoted(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    if is_plain(text) {
        out.extend_from_slice(text);
    } else {
        escaped(text, out);
    }
    out.push(b'"');
}

/// Whether no byte stands behind a backslash in JSON. Nearly always so, and found in blocks that fill a register.
#[expect(clippy::needless_bitwise_bool, reason = "without branches a block is compared at once")]
fn is_plain(text: &[u8]) -> bool {
    let plain = |byte: &u8| (*byte >= 0x20) & (*byte != b'"') & (*byte != b'\\');
    let (blocks, rest) = text.as_chunks::<16>();
    blocks.iter().all(|block| block.iter().fold(true, |all, byte| all & plain(byte)))
        && rest.iter().all(plain)
}

fn escaped(text: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut start = 0;
    for (at, byte) in text.iter().enumerate() {
        let escape = ESCAPE[usize::from(*byte)];
        if escape == 0 {
            continue;
        }
        out.extend_from_slice(&text[start..at]);
        start = at + 1;
        if escape == b'u' {
            let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
        } else {
            out.extend_from_slice(&[b'\\', escape]);
        }
    }
    out.extend_from_slice(&text[start..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(form: Form, text: &str) -> Option<String> {
        let mut out = Vec::new();
        write(form, text.as_bytes(), &mut out).ok()?;
        Some(String::from_utf8(out).expect("JSON is UTF-8"))
    }

    #[test]
    fn every_form_is_written_as_the_contract_says() {
        let table = [
            (Form::Number, "-42", Some("-42")),
            (Form::Number, "4x", None),
            (Form::Number, "", None),
            (Form::Number, "1-2", None),
            (Form::Number, "-", None),
            (Form::Number, "007", None),
            (Form::Float, "1.5e-07", Some("1.5e-07")),
            (Form::Float, "1.", None),
            (Form::Float, "e5", None),
            (Form::Timestamp, "2024-01-01\" 00:00", None),
            (Form::Float, "1e+20", Some("1e+20")),
            (Form::Float, "NaN", Some(r#""NaN""#)),
            (Form::Float, "-Infinity", Some(r#""-Infinity""#)),
            (Form::Bool, "t", Some("true")),
            (Form::Bool, "f", Some("false")),
            (Form::Bool, "true", None),
            (Form::Json, "{\"a\":\n 1}", Some("{\"a\":  1}")),
            (Form::Bytea, "\\x", Some(r#""""#)),
            (Form::Bytea, "\\x0001ff", Some(r#""AAH/""#)),
            (Form::Bytea, "\\x0", None),
            (Form::Bytea, "abc", None),
            (Form::Timestamp, "2026-01-02 03:04:05.12", Some(r#""2026-01-02T03:04:05.12""#)),
            (Form::Timestamp, "infinity", Some(r#""infinity""#)),
            (Form::TimestampTz, "2026-01-02 03:04:05+00", Some(r#""2026-01-02T03:04:05Z""#)),
            (
                Form::TimestampTz,
                "0044-03-15 12:00:00+00 BC",
                Some(r#""0044-03-15 12:00:00+00 BC""#),
            ),
            (Form::TimestampTz, "-infinity", Some(r#""-infinity""#)),
            (Form::Text, "a\"\\\n\u{1}ä", Some("\"a\\\"\\\\\\n\\u0001ä\"")),
            (Form::Array(&Form::Number), "{}", Some("[]")),
            (Form::Array(&Form::Number), "{1,NULL,3}", Some("[1,null,3]")),
            (Form::Array(&Form::Number), "{{1,2},{3,4}}", Some("[[1,2],[3,4]]")),
            (Form::Array(&Form::Number), "[0:1]={1,2}", Some(r#""[0:1]={1,2}""#)),
            (Form::Array(&Form::Number), "{1", None),
            (Form::Array(&Form::Number), "{1}}", None),
            (Form::Array(&Form::Number), "{1,}", None),
            (Form::Array(&Form::Number), "{x}", None),
            (
                Form::Array(&Form::Text),
                r#"{a,"","NULL","b\\\"c"}"#,
                Some(r#"["a","","NULL","b\\\"c"]"#),
            ),
            (Form::Array(&Form::Json), r#"{"{\"a\": [1, 2]}"}"#, Some(r#"[{"a": [1, 2]}]"#)),
            (Form::Array(&Form::Bytea), r#"{"\\x00ff"}"#, Some(r#"["AP8="]"#)),
        ];
        for (form, text, expected) in table {
            assert_eq!(written(form, text).as_deref(), expected, "{form:?} {text}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_refused() {
        assert_eq!(write(Form::Text, b"\xff", &mut Vec::new()), Err(BadText::NotUtf8));
        assert_eq!(write(Form::Json, b"\"\xff\"", &mut Vec::new()), Err(BadText::NotUtf8));
    }

    proptest! {
        #[test]
        fn any_text_reads_back(text in "\\PC*|[\\x00-\\x7f]*") {
            let json = written(Form::Text, &text).expect("text is always written");
            prop_assert_eq!(serde_json::from_str::<String>(&json).expect("valid JSON"), text);
        }

        #[test]
        fn any_bytes_read_back(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let json = written(Form::Bytea, &format!("\\x{hex}")).expect("hex is always written");
            let text: String = serde_json::from_str(&json).expect("valid JSON");
            prop_assert_eq!(BASE64.decode(text).expect("valid base64"), bytes);
        }

        #[test]
        fn any_number_is_written_in_decimal(n: u64) {
            let mut out = Vec::new();
            number(n, &mut out);
            prop_assert_eq!(String::from_utf8(out).expect("digits"), n.to_string());
        }
    }
}
