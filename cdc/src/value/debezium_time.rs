//! Dates and times as Debezium counts and prints them, from the texts of a session in UTC and ISO style.
//!
//! Years before Christ are counted as ISO 8601 does: `0001 … BC` is year 0.

/// What `infinity` and `-infinity` of a timestamp become, in microseconds.
const INFINITY: (i64, i64) = (9_223_372_036_825_200_000, -9_223_372_036_832_400_000);

/// The same of a date, in days.
const INFINITE_DAYS: (i64, i64) = (-2_147_472_692, -2_147_472_691);

const DAY: i64 = 86_400_000_000;

/// Days since 1970.
pub(super) fn days(text: &[u8]) -> Option<i128> {
    match text {
        b"infinity" => Some(INFINITE_DAYS.0.into()),
        b"-infinity" => Some(INFINITE_DAYS.1.into()),
        _ => {
            let (date, is_before_christ) = era(std::str::from_utf8(text).ok()?);
            Some(civil(date, is_before_christ)?.days().into())
        }
    }
}

/// Microseconds since midnight.
pub(super) fn of_day(text: &[u8]) -> Option<i128> {
    Some(clock(std::str::from_utf8(text).ok()?)?.into())
}

/// Microseconds since 1970, of a local time as if it were UTC.
pub(super) fn micros(text: &[u8]) -> Option<i128> {
    match text {
        b"infinity" => Some(INFINITY.0.into()),
        b"-infinity" => Some(INFINITY.1.into()),
        _ => {
            let (moment, is_before_christ) = era(std::str::from_utf8(text).ok()?);
            let (date, time) = moment.split_once(' ')?;
            let days = i128::from(civil(date, is_before_christ)?.days());
            Some(days * i128::from(DAY) + i128::from(clock(time)?))
        }
    }
}

/// Microseconds, a month being the twelfth part of 365.25 days; from ISO 8601.
pub(super) fn interval(text: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?.strip_prefix('P')?;
    let (date, time) = text.split_once('T').unwrap_or((text, ""));
    let (mut months, mut days, mut seconds, mut micros) = (0_f64, 0_f64, 0_f64, 0_f64);
    for (amount, unit) in parts(date) {
        let amount: f64 = amount.parse().ok()?;
        match unit {
            'Y' => months += amount * 12.0,
            'M' => months += amount,
            'W' => days += amount * 7.0,
            'D' => days += amount,
            _ => return None,
        }
    }
    for (amount, unit) in parts(time) {
        let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
        let value: f64 = whole.parse().ok()?;
        match unit {
            'H' => seconds += value * 3600.0,
            'M' => seconds += value * 60.0,
            'S' => {
                seconds += value;
                let digits: f64 = format!("{fraction:0<6}").parse().ok()?;
                micros = if amount.starts_with('-') { -digits } else { digits };
            }
            _ => return None,
        }
    }
    let total = ((months * (365.25 / 12.0) + days) * 86_400.0 + seconds) * 1e6 + micros;
    // Saturates, as a cast in Java does.
    Some((total as i64).into())
}

/// Amounts with their units, such as `-1` and `Y`.
fn parts(text: &str) -> impl Iterator<Item = (&str, char)> {
    text.split_inclusive(|letter: char| letter.is_ascii_alphabetic()).filter_map(|part| {
        let unit = part.chars().next_back()?;
        Some((&part[..part.len() - unit.len_utf8()], unit))
    })
}

/// Appends a time of day with zone, moved to UTC, as a JSON string.
pub(super) fn time_tz(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let text = std::str::from_utf8(text).ok()?;
    let at = text.find(['+', '-'])?;
    let (local, zone) = text.split_at(at);
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let utc = (clock(local)? - sign * clock(&zone[1..])?).rem_euclid(DAY);
    let seconds = utc / 1_000_000;
    let mut clock = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if utc % 1_000_000 != 0 {
        let fraction = format!("{:06}", utc % 1_000_000);
        clock += ".";
        clock += fraction.trim_end_matches('0');
    }
    out.extend_from_slice(format!("\"{clock}Z\"").as_bytes());
    Some(())
}

/// Appends a moment in UTC with so many digits of the second, as a JSON string.
pub(super) fn timestamp_tz(text: &[u8], digits: usize, out: &mut Vec<u8>) -> Option<()> {
    let text = std::str::from_utf8(text).ok()?;
    if let "infinity" | "-infinity" = text {
        out.extend_from_slice(format!("\"{text}\"").as_bytes());
        return Some(());
    }
    let (moment, is_before_christ) = era(text);
    let (date, time) = moment.strip_suffix("+00")?.split_once(' ')?;
    let date = civil(date, is_before_christ)?;
    clock(time)?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let year = match date.year {
        year @ 10_000.. => format!("+{year}"),
        year @ 0.. => format!("{year:04}"),
        year => format!("-{:04}", -year),
    };
    let fraction = match digits {
        0 => String::new(),
        digits => format!(".{fraction:0<digits$}"),
    };
    let printed = format!("\"{year}-{:02}-{:02}T{time}{fraction}Z\"", date.month, date.day);
    out.extend_from_slice(printed.as_bytes());
    Some(())
}

/// A day of the Gregorian calendar, also before there was one.
struct Civil {
    year: i64,
    month: i64,
    day: i64,
}

impl Civil {
    /// Days since 1970. The year is begun in March, so that the leap day is its last.
    fn days(&self) -> i64 {
        let year = if self.month <= 2 { self.year - 1 } else { self.year };
        let cycle = year.div_euclid(400);
        let of_cycle = year.rem_euclid(400);
        let of_year = (153 * ((self.month + 9) % 12) + 2) / 5 + self.day - 1;
        let in_cycle = of_cycle * 365 + of_cycle / 4 - of_cycle / 100 + of_year;
        cycle * 146_097 + in_cycle - 719_468
    }
}

fn era(text: &str) -> (&str, bool) {
    match text.strip_suffix(" BC") {
        Some(text) => (text, true),
        None => (text, false),
    }
}

fn civil(text: &str, is_before_christ: bool) -> Option<Civil> {
    let mut parts = text.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let is_date = (0..10_000_000).contains(&year) && (1..=12).contains(&month);
    let year = if is_before_christ { 1 - year } else { year };
    (is_date && (1..=31).contains(&day)).then_some(Civil { year, month, day })
}

/// Microseconds of `hh`, `hh:mm`, `hh:mm:ss` or `hh:mm:ss.ffffff`.
fn clock(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut seconds = 0;
    for (part, unit) in whole.split(':').zip([3600, 60, 1]) {
        // More than two digits are no part of a time.
        if part.len() > 2 {
            return None;
        }
        seconds += part.parse::<i64>().ok()? * unit;
    }
    if fraction.len() > 6 || !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let micros: i64 = format!("{fraction:0<6}").parse().ok()?;
    Some(seconds * 1_000_000 + micros)
}
