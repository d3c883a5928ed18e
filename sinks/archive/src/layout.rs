//! Object keys.
//!
//! ```text
//!  <prefix>data/<topic>/dt=2026-09-21/p00003-00000000000000750000.jsonl.gz        and nothing else under data/
//!  <prefix>data/<topic>/dt=2026-09-21/p00003-00000000000000750000-9f86d081884c7d65.jsonl.gz     at least once
//!  <prefix>meta/<topic>/topic.json
//!  <prefix>meta/<topic>/manifest/p00003/00000000000000750000-2026-09-21.json
//!  <prefix>meta/<topic>/keys/p00003/00000000000000750000-2026-09-21.filter
//!  <prefix>meta/<topic>/checkpoint/00000000000000000007.parquet                       of many manifests
//! ```
//!
//! A folder's day is that of the first record of each of its objects. Days never go back within a partition, so an
//! object may hold records of earlier days; the first of a later day closes it and is its last. How far its records reach
//! stands in its metadata and its manifest.
//!
//! Where a store cannot tell who was first, an object's key ends in a word by chance, and so do those of its manifest and
//! its key filters: several may begin at one place, and none ever takes the place of another.
//!
//! Numbers are padded so that names order as numbers do. Only `dt=` is a `key=value` part of the path: engines turn
//! every such part into a column.

use std::fmt;
use std::str::FromStr;

use tailwater_topics_contract::TopicName;
use uuid::Uuid;

/// Letters of a day.
const DAY_LETTERS: usize = 10;

/// A day in UTC, as in `dt=2026-09-21`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(jiff::civil::Date);

impl Day {
    /// The day of a timestamp in milliseconds since 1970. What lies outside the calendar is the first day there is.
    pub fn of_ms(timestamp_ms: i64) -> Self {
        let timestamp = jiff::Timestamp::from_millisecond(timestamp_ms).unwrap_or_default();
        Self(timestamp.to_zoned(jiff::tz::TimeZone::UTC).date())
    }

    /// The millisecond at which the next day begins; none behind the end of the calendar.
    pub fn end_ms(self) -> i64 {
        let next = self.0.tomorrow().and_then(|day| day.to_zoned(jiff::tz::TimeZone::UTC));
        next.map_or(i64::MAX, |next| next.timestamp().as_millisecond())
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that is no day.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a day such as `2026-09-21`")]
pub struct NotADay(String);

impl FromStr for Day {
    type Err = NotADay;

    fn from_str(text: &str) -> Result<Self, NotADay> {
        let date: jiff::civil::Date = text.parse().map_err(|_| NotADay(text.to_owned()))?;
        // Other spellings of the same day would be other keys.
        if date.to_string() == text { Ok(Self(date)) } else { Err(NotADay(text.to_owned())) }
    }
}

/// The place of one link of a chain: wholly determined by its predecessor. In an archive that is at least once, the place
/// of one object among several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// First position of the link.
    pub start: i64,
    /// Its folder.
    pub dt: Day,
    /// Which of several objects it is; a link of a chain is the only one.
    pub twin: Option<Twin>,
}

/// Tells objects apart that begin at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Twin(u64);

impl Twin {
    /// One that nobody else has, out of a random id.
    pub fn of(id: Uuid) -> Self {
        Self(id.as_u64_pair().0)
    }

    /// Reads what `Display` prints.
    fn parse(text: &str) -> Option<Self> {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_printed = text.len() == 16 && text.bytes().all(is_hex);
        is_printed.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self)
    }
}

impl fmt::Display for Twin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// As in the commit metadata of a consumer group: `2026-09-21/750000`. Which of several it is does not show.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.dt, self.start)
    }
}

impl Place {
    /// Reads what `Display` prints.
    pub fn parse(text: &str) -> Option<Self> {
        let (dt, start) = text.split_once('/')?;
        Some(Self::new(start.parse().ok()?, dt.parse().ok()?))
    }

    /// A link's.
    pub fn new(start: i64, dt: Day) -> Self {
        Self { start, dt, twin: None }
    }

    /// What follows the number in a key.
    fn suffix(&self) -> String {
        self.twin.map(|twin| format!("-{twin}")).unwrap_or_default()
    }
}

/// Where the objects of one partition stand.
#[derive(Clone, Debug)]
pub struct Layout {
    prefix: String,
    topic: TopicName,
    partition: i32,
}

impl Layout {
    /// `prefix` is empty or ends with `/`.
    pub fn new(prefix: &str, topic: TopicName, partition: i32) -> Self {
        Self { prefix: prefix.to_owned(), topic, partition }
    }

    /// The key of a link.
    pub fn object(&self, place: Place) -> String {
        let Place { start, dt, .. } = place;
        format!(
            "{}dt={dt}/p{:05}-{start:020}{}.jsonl.gz",
            data(&self.prefix, &self.topic),
            self.partition,
            place.suffix()
        )
    }

    /// The key of a link's manifest.
    pub fn manifest(&self, place: Place) -> String {
        format!("{}manifest/{}.json", meta(&self.prefix, &self.topic), self.beside(place))
    }

    /// The key of a link's key filters.
    pub fn filter(&self, place: Place) -> String {
        format!("{}keys/{}.filter", meta(&self.prefix, &self.topic), self.beside(place))
    }

    /// What the keys of everything that stands beside a link have in common.
    fn beside(&self, place: Place) -> String {
        let Place { start, dt, .. } = place;
        format!("p{:05}/{start:020}-{dt}{}", self.partition, place.suffix())
    }

    /// The topic.
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// The partition.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// Before the key of every object of the topic.
    pub fn data(&self) -> String {
        data(&self.prefix, &self.topic)
    }
}

/// Before the key of every object of a topic.
pub fn data(prefix: &str, topic: &TopicName) -> String {
    format!("{prefix}data/{topic}/")
}

/// Before the key of everything that stands beside a topic's objects.
pub fn meta(prefix: &str, topic: &TopicName) -> String {
    format!("{prefix}meta/{topic}/")
}

/// The key of what says which topic it is.
pub fn topic(prefix: &str, topic: &TopicName) -> String {
    format!("{}topic.json", meta(prefix, topic))
}

/// Before the key of every checkpoint of a topic's manifests.
pub fn checkpoints(prefix: &str, topic: &TopicName) -> String {
    format!("{}checkpoint/", meta(prefix, topic))
}

/// The key of a checkpoint. The newest has the highest number.
pub fn checkpoint(prefix: &str, topic: &TopicName, number: u64) -> String {
    format!("{}{number:020}.parquet", checkpoints(prefix, topic))
}

/// The number that a checkpoint's key says; `None` for keys that are not of a checkpoint of this topic.
pub fn parse_checkpoint(prefix: &str, topic: &TopicName, key: &str) -> Option<u64> {
    let number = key.strip_prefix(&checkpoints(prefix, topic))?.strip_suffix(".parquet")?;
    let is_padded = number.len() == 20 && number.bytes().all(|byte| byte.is_ascii_digit());
    if is_padded { number.parse().ok() } else { None }
}

/// The partition and place that an object's key says; `None` for keys that are not of this layout.
pub fn parse(key: &str) -> Option<(i32, Place)> {
    let (folder, file) = key.rsplit_once('/')?;
    let dt = folder.rsplit_once('/')?.1.strip_prefix("dt=")?.parse().ok()?;
    let (partition, start) = file.strip_suffix(".jsonl.gz")?.strip_prefix('p')?.split_once('-')?;
    let (start, twin) = match start.split_once('-') {
        Some((start, twin)) => (start, Some(Twin::parse(twin)?)),
        None => (start, None),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if partition.len() < 5 || start.len() != 20 || !digits(partition) || !digits(start) {
        return None;
    }
    Some((partition.parse().ok()?, Place { start: start.parse().ok()?, dt, twin }))
}

/// The partition and place that the key of a manifest or of key filters speaks of.
pub fn parse_beside(key: &str) -> Option<(i32, Place)> {
    let (folder, file) = key.rsplit_once('/')?;
    let partition = folder.rsplit_once("/p")?.1.parse().ok()?;
    let place = file.strip_suffix(".json").or_else(|| file.strip_suffix(".filter"))?;
    let (start, day) = place.split_once('-')?;
    let (dt, twin) = match day.split_at_checked(DAY_LETTERS)? {
        (dt, "") => (dt, None),
        (dt, twin) => (dt, Some(Twin::parse(twin.strip_prefix('-')?)?)),
    };
    Some((partition, Place { start: start.parse().ok()?, dt: dt.parse().ok()?, twin }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_as_documented() {
        let layout = Layout::new("tw/", "orders.events".parse().expect("valid"), 3);
        let place = Place::new(750_000, "2026-09-21".parse().expect("valid"));
        assert_eq!(
            layout.object(place),
            "tw/data/orders.events/dt=2026-09-21/p00003-00000000000000750000.jsonl.gz"
        );
        assert_eq!(
            layout.manifest(place),
            "tw/meta/orders.events/manifest/p00003/00000000000000750000-2026-09-21.json"
        );
        assert_eq!(
            layout.filter(place),
            "tw/meta/orders.events/keys/p00003/00000000000000750000-2026-09-21.filter"
        );
        let place = Place { twin: Some(Twin(0x9f86)), ..place };
        assert_eq!(
            layout.object(place),
            "tw/data/orders.events/dt=2026-09-21/p00003-00000000000000750000-0000000000009f86.jsonl.gz"
        );
        assert_eq!(
            layout.manifest(place),
            "tw/meta/orders.events/manifest/p00003/00000000000000750000-2026-09-21-0000000000009f86.json"
        );
        assert_eq!(
            checkpoint("tw/", layout.topic(), 7),
            "tw/meta/orders.events/checkpoint/00000000000000000007.parquet"
        );
    }

    #[test]
    fn a_checkpoint_has_a_number_of_twenty_digits_and_nothing_else_is_one() {
        let topic = "t".parse().expect("valid");
        for number in [0, 1, u64::MAX] {
            let key = checkpoint("tw/", &topic, number);
            assert_eq!(parse_checkpoint("tw/", &topic, &key), Some(number));
        }
        for key in [
            "tw/meta/t/checkpoint/7.parquet",
            "tw/meta/t/checkpoint/99999999999999999999.parquet",
            "tw/meta/t/checkpoint/+0000000000000000007.parquet",
            "tw/meta/t/checkpoint/00000000000000000007.parquet.tmp",
            "tw/meta/t/checkpoint/checkpoint/00000000000000000007.parquet",
            "tw/meta/t/keys/00000000000000000007.parquet",
            "tw/meta/u/checkpoint/00000000000000000007.parquet",
            "meta/t/checkpoint/00000000000000000007.parquet",
        ] {
            assert_eq!(parse_checkpoint("tw/", &topic, key), None, "{key}");
        }
    }

    #[test]
    fn days_have_one_spelling_and_are_utc() {
        assert_eq!(Day::of_ms(86_399_999).to_string(), "1970-01-01");
        assert_eq!(Day::of_ms(86_400_000).to_string(), "1970-01-02");
        assert_eq!(Day::of_ms(-1).to_string(), "1969-12-31");
        assert_eq!(Day::of_ms(-1).end_ms(), 0);
        assert_eq!(Day::of_ms(86_400_000).end_ms(), 2 * 86_400_000);
        for text in ["2026-9-1", "20260901", "2026-09-01T00:00:00", "x"] {
            assert!(text.parse::<Day>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_a_key_says_is_read_back(
            partition in 0..100_000_i32,
            start in 0..i64::MAX,
            ms in 0..4_000_000_000_000_i64,
            twin in any::<Option<u64>>(),
        ) {
            let layout = Layout::new("", "t".parse().expect("valid"), partition);
            let place = Place { start, dt: Day::of_ms(ms), twin: twin.map(Twin) };
            prop_assert_eq!(parse(&layout.object(place)), Some((partition, place)));
            for beside in [layout.manifest(place), layout.filter(place)] {
                prop_assert_eq!(parse_beside(&beside), Some((partition, place)));
            }
            let link = Place { twin: None, ..place };
            prop_assert_eq!(Place::parse(&place.to_string()), Some(link));
        }

        #[test]
        fn any_key_is_read_or_refused(key in "\\PC{0,80}") {
            let _ = parse(&key);
            let _ = parse_beside(&key);
        }
    }
}
