//! Single values: how a text becomes a number, a size or a name.

use std::fmt;
use std::time::Duration;

/// A single value as written, before it has a type.
#[derive(Clone, Copy, Debug)]
pub struct Scalar<'a> {
    /// The text, substituted and without quotes.
    pub text: &'a str,
}

/// A value that can be read from a single YAML value.
pub trait FromScalar: Sized {
    /// Reads the value, or says what was expected, such as `a port from 1 to 65535`. The answer must not repeat
    /// the text: the caller does so where that gives no secret away.
    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, String>;
}

impl FromScalar for String {
    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, String> {
        if scalar.text.is_empty() {
            Err("expected a text that is not empty".to_owned())
        } else {
            Ok(scalar.text.to_owned())
        }
    }
}

impl FromScalar for bool {
    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, String> {
        match scalar.text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("expected `true` or `false`".to_owned()),
        }
    }
}

macro_rules! whole_numbers {
    ($($number:ty),*) => {$(
        impl FromScalar for $number {
            fn from_scalar(scalar: Scalar<'_>) -> Result<Self, String> {
                scalar.text.replace('_', "").parse().map_err(|_| {
                    format!("expected a whole number from {} to {}", <$number>::MIN, <$number>::MAX)
                })
            }
        }
    )*};
}
whole_numbers!(u16, u32, u64, i64);

/// A number of bytes, written as `64MiB`, `8 MB` or `1000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromScalar for ByteSize {
    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, String> {
        const UNITS: [(&str, u64); 8] = [
            ("", 1),
            ("B", 1),
            ("KiB", 1 << 10),
            ("MiB", 1 << 20),
            ("GiB", 1 << 30),
            ("kB", 1_000),
            ("MB", 1_000_000),
            ("GB", 1_000_000_000),
        ];
        quantity(scalar.text, &UNITS)
            .map(ByteSize)
            .ok_or_else(|| "expected a size such as `64MiB`, `8MB` or `1048576`".to_owned())
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, size) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 >= size && self.0.is_multiple_of(size) {
                return write!(f, "{}{unit}", self.0 / size);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// A length of time, written as `500ms`, `60s`, `5m` or `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl FromScalar for Span {
    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, String> {
        const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
        quantity(scalar.text, &UNITS).map(|ms| Span(Duration::from_millis(ms))).ok_or_else(|| {
            "expected a time with its unit, such as `500ms`, `60s` or `5m`".to_owned()
        })
    }
}

fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: FromScalar>(text: &str) -> Option<T> {
        T::from_scalar(Scalar { text }).ok()
    }

    #[test]
    fn sizes_and_times_need_a_known_unit() {
        assert_eq!(read("64MiB"), Some(ByteSize(64 << 20)));
        assert_eq!(read("8 MB"), Some(ByteSize(8_000_000)));
        assert_eq!(read("17"), Some(ByteSize(17)));
        assert_eq!(read::<ByteSize>("64 megs"), None);
        assert_eq!(read::<ByteSize>("99999999999GiB"), None);
        assert_eq!(read("60s"), Some(Span(Duration::from_secs(60))));
        assert_eq!(read::<Span>("60"), None);
    }

    #[test]
    fn a_size_prints_as_it_is_written() {
        for text in ["64MiB", "1GiB", "17B", "3KiB"] {
            assert_eq!(read::<ByteSize>(text).map(|s| s.to_string()).as_deref(), Some(text));
        }
    }

    #[test]
    fn numbers_outside_their_range_are_refused() {
        assert_eq!(read("65535"), Some(65535_u16));
        assert_eq!(read::<u16>("65536"), None);
        assert_eq!(read("1_000"), Some(1000_u32));
    }
}
