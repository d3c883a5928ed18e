//! The text of a Postgres value as Debezium's connector writes it under its default settings, as JSON without schemas.
//!
//! ```text
//!  relation: type, modifier ──▶ form ──▶ numeric(3,2) 1.10 ──▶ "bg=="       timestamp ──▶ microseconds
//! ```
//!
//! * The same SQL kind has another unit by its precision: `timestamp(3)` is milliseconds, `timestamp` microseconds.
//! * Types that Debezium leaves out are left out here.
//! * `NaN` and infinities of `numeric`, at which Debezium fails, are their text. Nothing stops the reader that Postgres
//!   can hold.

use num_bigint::BigInt;

use super::debezium_time as time;
use super::{BadText, array, base64, bytea, number, quoted, string};
use crate::pgoutput::RelationColumn;

/// What stands for a large value that the server did not send again.
const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// The same for a uuid: its name-based uuid.
const UNAVAILABLE_UUID: &str = "b68a35a7-17ad-35b3-af2a-ae46edb4545a";

/// How the values of a column are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Bool,
    /// Also for dates and times that are counted.
    Number(Counted),
    Float,
    /// Unscaled integer as bytes; the scale is known to whoever knows the table.
    Decimal {
        scale: i32,
    },
    /// Scale and unscaled integer.
    AnyDecimal,
    Money,
    /// One bit.
    Bit,
    /// Bits as bytes, the lowest first; so many bytes, or as few as hold them.
    Bits(Option<usize>),
    Text,
    Uuid,
    Bytea,
    TimeTz,
    /// In UTC with this many digits of the second.
    TimestampTz(usize),
    Hstore,
    Point,
    Array(Box<Form>),
    /// Not written.
    Omitted,
}

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    Itself,
    Days,
    /// Since midnight.
    TimeMillis,
    TimeMicros,
    /// Since 1970.
    Millis,
    Micros,
    Interval,
}

impl Form {
    /// The form of a column by its type and what the type was declared with.
    pub(crate) fn of(column: &RelationColumn) -> Self {
        let (oid, modifier) = (column.type_oid, column.type_modifier);
        match oid {
            // Not built in. Enums cannot be told from what Debezium does not know; the plan refuses those.
            16_384.. => match column.type_name.as_deref() {
                Some("hstore") => Self::Hstore,
                _ => Self::Text,
            },
            _ => match element(oid) {
                Some(element) => Self::Array(Box::new(Self::of_built_in(element, modifier))),
                None => Self::of_built_in(oid, modifier),
            },
        }
    }

    fn of_built_in(oid: u32, modifier: i32) -> Self {
        match oid {
            16 => Self::Bool,
            17 => Self::Bytea,
            20 | 21 | 23 | 26 => Self::Number(Counted::Itself),
            700 | 701 => Self::Float,
            790 => Self::Money,
            1082 => Self::Number(Counted::Days),
            1083 if (0..=3).contains(&modifier) => Self::Number(Counted::TimeMillis),
            1083 => Self::Number(Counted::TimeMicros),
            1114 if (0..=3).contains(&modifier) => Self::Number(Counted::Millis),
            1114 => Self::Number(Counted::Micros),
            1184 => Self::TimestampTz(usize::try_from(modifier).unwrap_or(6).min(6)),
            1186 => Self::Number(Counted::Interval),
            1266 => Self::TimeTz,
            1560 | 1562 if modifier == 1 => Self::Bit,
            1560 => Self::Bits(usize::try_from(modifier).ok().map(|bits| bits.div_ceil(8))),
            1562 => Self::Bits(None),
            1700 if modifier < 4 => Self::AnyDecimal,
            // Eleven bits with a sign.
            1700 => Self::Decimal { scale: (((modifier - 4) & 0x7ff) ^ 1024) - 1024 },
            600 => Self::Point,
            2950 => Self::Uuid,
            // Texts of all kinds, JSON, XML, addresses, ranges, search vectors.
            18 | 19 | 25 | 114 | 142 | 650 | 774 | 829 | 869 | 1042 | 1043 | 3614 | 3802 | 3904
            | 3906 | 3908 | 3910 | 3912 | 3926 => Self::Text,
            _ => Self::Omitted,
        }
    }
}

/// The type of an array's elements, for those arrays that Debezium writes.
fn element(array: u32) -> Option<u32> {
    Some(match array {
        1000 => 16,
        1001 => 17,
        1005 => 21,
        1007 => 23,
        1016 => 20,
        1028 => 26,
        1021 => 700,
        1022 => 701,
        1182 => 1082,
        1183 => 1083,
        1115 => 1114,
        1185 => 1184,
        1270 => 1266,
        1231 => 1700,
        2951 => 2950,
        199 | 651 | 775 | 1002 | 1009 | 1014 | 1015 | 1040 | 1041 | 3807 | 3905 | 3907 | 3909
        | 3911 | 3913 | 3927 => 25,
        _ => return None,
    })
}

/// Appends a value.
pub(crate) fn write(form: &Form, text: &[u8], out: &mut Vec<u8>) -> Result<(), BadText> {
    match form {
        Form::Bool => super::write(super::Form::Bool, text, out),
        Form::Bit => {
            out.extend_from_slice(if text == b"1" { b"true" } else { b"false" });
            Ok(())
        }
        Form::Number(counted) => count(*counted, text, out),
        Form::Float => super::write(super::Form::Float, text, out),
        Form::Decimal { scale } => decimal(*scale, text, out),
        Form::AnyDecimal => any_decimal(text, out),
        Form::Money => {
            let digits: Vec<u8> =
                text.iter().copied().filter(|byte| !matches!(byte, b'$' | b',')).collect();
            decimal(2, &digits, out)
        }
        Form::Bits(bytes) => bits(*bytes, text, out),
        Form::Text | Form::Uuid => string(text, out),
        Form::Bytea => bytea(text, out),
        Form::TimeTz => time::time_tz(text, out).ok_or(BadText::NotItsType),
        Form::TimestampTz(digits) => {
            time::timestamp_tz(text, *digits, out).ok_or(BadText::NotItsType)
        }
        Form::Hstore => hstore(text, out),
        Form::Point => point(text, out),
        Form::Array(element) => {
            // Bounds other than 1 have no place in Debezium's form.
            let start = text.iter().position(|byte| *byte == b'{').unwrap_or(0);
            array::write(&text[start..], out, |text, out| write(element, text, out))
        }
        Form::Omitted => Ok(()),
    }
}

/// Appends what stands for a value that was not sent.
pub(crate) fn write_unavailable(form: &Form, out: &mut Vec<u8>) {
    match form {
        Form::Bytea => base64(UNAVAILABLE.as_bytes(), out),
        Form::Uuid => quoted(UNAVAILABLE_UUID.as_bytes(), out),
        Form::Array(element) => {
            out.push(b'[');
            match &**element {
                Form::Number(_) => {
                    for (place, byte) in UNAVAILABLE.bytes().enumerate() {
                        if place > 0 {
                            out.push(b',');
                        }
                        number(u64::from(byte), out);
                    }
                }
                element => write_unavailable(element, out),
            }
            out.push(b']');
        }
        _ => quoted(UNAVAILABLE.as_bytes(), out),
    }
}

fn count(counted: Counted, text: &[u8], out: &mut Vec<u8>) -> Result<(), BadText> {
    let count = match counted {
        Counted::Itself => return super::write(super::Form::Number, text, out),
        Counted::Days => time::days(text),
        Counted::TimeMillis => time::of_day(text).map(|micros| micros.div_euclid(1_000)),
        Counted::TimeMicros => time::of_day(text),
        Counted::Millis => time::micros(text).map(|micros| micros.div_euclid(1_000)),
        Counted::Micros => time::micros(text),
        Counted::Interval => time::interval(text),
    };
    out.extend_from_slice(count.ok_or(BadText::NotItsType)?.to_string().as_bytes());
    Ok(())
}

/// Big-endian two's complement, as `BigInteger.toByteArray` has it.
fn unscaled(digits: &[u8], out: &mut Vec<u8>) -> Result<(), BadText> {
    let unscaled = BigInt::parse_bytes(digits, 10).ok_or(BadText::NotItsType)?;
    base64(&unscaled.to_signed_bytes_be(), out);
    Ok(())
}

fn is_finite(text: &[u8]) -> bool {
    text.last().is_some_and(u8::is_ascii_digit)
}

fn decimal(scale: i32, text: &[u8], out: &mut Vec<u8>) -> Result<(), BadText> {
    if !is_finite(text) {
        return string(text, out);
    }
    let (mut digits, fraction) = split(text);
    digits.extend_from_slice(fraction);
    let have = fraction.len() as i32;
    let padding = usize::try_from(scale - have).unwrap_or(0);
    digits.resize(digits.len() + padding, b'0');
    // A column of negative scale holds whole hundreds, say, and their zeros are not in the integer.
    let cut = usize::try_from(have - scale).unwrap_or(0).min(digits.len() - 1);
    digits.truncate(digits.len() - cut);
    unscaled(&digits, out)
}

fn any_decimal(text: &[u8], out: &mut Vec<u8>) -> Result<(), BadText> {
    if !is_finite(text) {
        return string(text, out);
    }
    let (mut digits, fraction) = split(text);
    let zeros = fraction.iter().rev().take_while(|digit| **digit == b'0').count();
    let fraction = &fraction[..fraction.len() - zeros];
    digits.extend_from_slice(fraction);
    out.extend_from_slice(b"{\"scale\":");
    number(fraction.len() as u64, out);
    out.extend_from_slice(b",\"value\":");
    unscaled(&digits, out)?;
    out.push(b'}');
    Ok(())
}

/// Sign and digits before the point, digits behind it.
fn split(text: &[u8]) -> (Vec<u8>, &[u8]) {
    match text.iter().position(|byte| *byte == b'.') {
        Some(point) => (text[..point].to_vec(), &text[point + 1..]),
        None => (text.to_vec(), b""),
    }
}

fn bits(bytes: Option<usize>, text: &[u8], out: &mut Vec<u8>) -> Result<(), BadText> {
    let mut packed = vec![0_u8; text.len().div_ceil(8)];
    for (place, bit) in text.iter().rev().enumerate() {
        match bit {
            b'0' => {}
            b'1' => packed[place / 8] |= 1 << (place % 8),
            _ => return Err(BadText::NotItsType),
        }
    }
    match bytes {
        Some(bytes) => packed.resize(bytes, 0),
        None => {
            let used = packed.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            packed.truncate(used);
        }
    }
    base64(&packed, out);
    Ok(())
}

fn point(text: &[u8], out: &mut Vec<u8>) -> Result<(), BadText> {
    let text = std::str::from_utf8(text).map_err(|_| BadText::NotUtf8)?;
    let inner = text.strip_prefix('(').and_then(|text| text.strip_suffix(')'));
    let (x, y) = inner.and_then(|inner| inner.split_once(',')).ok_or(BadText::NotItsType)?;
    let read = |text: &str| text.parse::<f64>().map_err(|_| BadText::NotItsType);
    let (x, y) = (read(x)?, read(y)?);
    let coordinate = |value: f64, out: &mut Vec<u8>| {
        let text = if value.is_nan() {
            "\"NaN\"".to_owned()
        } else if value.is_infinite() {
            format!("\"{}Infinity\"", if value < 0.0 { "-" } else { "" })
        } else {
            format!("{value:?}")
        };
        out.extend_from_slice(text.as_bytes());
    };
    out.extend_from_slice(b"{\"x\":");
    coordinate(x, out);
    out.extend_from_slice(b",\"y\":");
    coordinate(y, out);
    out.extend_from_slice(b",\"wkb\":");
    // Little-endian, kind 1.
    let mut wkb = vec![1, 1, 0, 0, 0];
    wkb.extend(x.to_le_bytes());
    wkb.extend(y.to_le_bytes());
    base64(&wkb, out);
    out.extend_from_slice(b",\"srid\":null}");
    Ok(())
}

/// `"key"=>"value", "other"=>NULL` as the text of a JSON object, within a JSON string.
fn hstore(text: &[u8], out: &mut Vec<u8>) -> Result<(), BadText> {
    let mut object = vec![b'{'];
    let mut rest = text;
    while !rest.is_empty() {
        let (key, after) = hstore_text(rest)?;
        string(&key, &mut object)?;
        object.push(b':');
        rest = after.strip_prefix(b"=>").ok_or(BadText::NotItsType)?;
        if let Some(after) = rest.strip_prefix(b"NULL") {
            object.extend_from_slice(b"null");
            rest = after;
        } else {
            let (value, after) = hstore_text(rest)?;
            string(&value, &mut object)?;
            rest = after;
        }
        if let Some(after) = rest.strip_prefix(b", ") {
            object.push(b',');
            rest = after;
        }
    }
    object.push(b'}');
    quoted(&object, out);
    Ok(())
}

fn hstore_text(text: &[u8]) -> Result<(Vec<u8>, &[u8]), BadText> {
    let mut rest = text.strip_prefix(b"\"").ok_or(BadText::NotItsType)?;
    let mut plain = Vec::new();
    loop {
        match rest {
            [b'"', after @ ..] => return Ok((plain, after)),
            [b'\\', byte, after @ ..] | [byte, after @ ..] => {
                plain.push(*byte);
                rest = after;
            }
            [] => return Err(BadText::NotItsType),
        }
    }
}
