//! `tailwater sinks explain`: when an archive closes its segments, how many requests that makes, and their price.
//!
//! ```text
//!  topic: records of the time before now ─────▶ records a second ┐
//!  archive: bytes and offsets of its newest ──▶ bytes a record   ┴─▶ segments a day ─▶ requests ─▶ price
//!                                                                     for this age, and for others
//! ```
//!
//! A segment is open from its first record on. Where records come at random, one a time `w` apart in the mean, a segment
//! that is closed by age takes `age + w` from its beginning to that of the next.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;
use tailwater_document::{FromScalar, Scalar, Span};
use tailwater_runtime::clock;
use tailwater_sinks_archive::layout::{self, Day};
use tailwater_sinks_archive::{Objects, Store, requests};
use tailwater_topics_contract::{ArchiveSpec, SegmentSpec, SinkKind, SinkName, TopicName};
use tailwater_topics_registry::{registrations, removal};

use crate::commands::apply::Refused;
use crate::output::{bytes, counted};
use crate::{Context, offsets, output, workers};

const DAY: Duration = Duration::from_hours(24);
/// Days of the month that prices are told for.
const MONTH_DAYS: f64 = 30.0;
/// Ages that are compared with the declared one.
const AGES_S: [u64; 4] = [60, 300, 900, 3600];

/// Tell when an archive closes its segments, how many requests it makes, and what they cost
///
/// Reckoned from the records of the last hours and from the size of what is archived; nothing is written. Prices are those of
/// S3 Standard in us-east-1, unless others are given.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tailwater sinks explain lake
  tailwater sinks explain lake --over 1h --request-price 4.5 -o json")]
pub(crate) struct Args {
    /// A registered archive
    sink: SinkName,
    /// The time before now whose records are counted, such as 30m or 24h
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = span)]
    over: Duration,
    /// Dollars for a million requests that write
    #[arg(long, value_name = "DOLLARS", default_value_t = 5.0)]
    request_price: f64,
    /// Dollars for a GB that is kept for a month
    #[arg(long, value_name = "DOLLARS", default_value_t = 0.023)]
    storage_price: f64,
}

fn span(text: &str) -> Result<Duration, String> {
    match Span::from_scalar(Scalar { text })? {
        Span(Duration::ZERO) => Err("expected more than nothing".to_owned()),
        Span(span) => Ok(span),
    }
}

/// What is reckoned.
#[derive(Serialize)]
struct Estimate {
    sink: SinkName,
    over_seconds: u64,
    topics: Vec<Topic>,
    declared: Cost,
    /// The same records with other ages.
    others: Vec<Cost>,
}

/// A topic as it was in the time that is looked at.
#[derive(Serialize)]
struct Topic {
    #[serde(rename = "topic")]
    name: TopicName,
    partitions: usize,
    records_per_second: f64,
    /// Compressed; nothing while nothing of the last days is archived.
    bytes_per_record: Option<f64>,
    segments_per_day: f64,
    /// What closes most of them.
    closed_by: Border,
    #[serde(skip)]
    rates: Vec<Rate>,
}

/// What a segment age costs.
#[derive(Serialize)]
struct Cost {
    age_seconds: f64,
    segments_per_day: f64,
    requests_per_day: f64,
    bytes_per_day: f64,
    dollars_per_month_for_requests: f64,
    /// By so much the price of what is kept grows with every month.
    dollars_per_month_more_for_storage: f64,
}

/// What comes into a partition in a second.
#[derive(Clone, Copy, Debug)]
struct Rate {
    records: f64,
    bytes: f64,
}

/// What closes a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Border {
    Age,
    Bytes,
    Records,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let config = cx.config()?;
    let registered = registrations::load(&config.kafka_client(), &config.pipeline).await?;
    let sink = removal::registered_sink(&args.sink, &registered).map_err(Refused::from)?;
    let SinkKind::Archive(spec) = &sink.spec.kind else {
        bail!("`{}` is no archive; only stores charge by request", args.sink);
    };
    let (kafka, names) = (config.kafka_client(), sink.spec.topics.iter().cloned().collect());
    let now_ms = clock::now_ms();
    let since_ms = now_ms - i64::try_from(args.over.as_millis()).context("`--over` is too long")?;
    let counts = offsets::blocking(move || offsets::since(&kafka, &names, since_ms)).await?;
    let store = workers::store(&config, spec)?;
    let mut topics = Vec::new();
    for (topic, counts) in counts {
        let bytes_per_record = newest(&store, spec, &topic, now_ms).await?;
        let rate = |count: &i64| {
            let records = *count as f64 / args.over.as_secs_f64();
            Rate { records, bytes: records * bytes_per_record.unwrap_or(0.0) }
        };
        topics.push(Topic::new(topic, bytes_per_record, counts.iter().map(rate), &spec.segment));
    }
    let with_age = |age_ms| Cost::of(&topics, &SegmentSpec { age_ms, ..spec.segment }, &args);
    let others = AGES_S.iter().map(|seconds| seconds * 1_000);
    let others = others.filter(|age| *age != spec.segment.age_ms).map(with_age).collect();
    let declared = with_age(spec.segment.age_ms);
    let over_seconds = args.over.as_secs();
    let estimate = Estimate { sink: args.sink, over_seconds, topics, declared, others };
    if cx.format.is_structured() {
        cx.format.value(&estimate)?;
    } else {
        print(&estimate, &spec.segment)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Bytes of a record in what was archived today and yesterday: those of all objects but each partition's newest, over the
/// offsets from the first to the newest.
async fn newest(
    store: &Store,
    spec: &ArchiveSpec,
    topic: &TopicName,
    now_ms: i64,
) -> anyhow::Result<Option<f64>> {
    let day_ms = i64::try_from(DAY.as_millis())?;
    let mut objects = Vec::new();
    for day in [now_ms - day_ms, now_ms].map(Day::of_ms) {
        let folder = format!("{}dt={day}/", layout::data(&spec.prefix, topic));
        for listed in store.list(&folder).await? {
            if let Some((partition, place)) = layout::parse(&listed.key) {
                objects.push((partition, place.start, listed.bytes));
            }
        }
    }
    objects.sort_unstable();
    let (mut records, mut bytes) = (0, 0);
    for pair in objects.windows(2) {
        let [(partition, start, size), (next_partition, next, _)] = pair else { continue };
        if partition == next_partition {
            records += next - start;
            bytes += size;
        }
    }
    Ok((records > 0).then(|| bytes as f64 / records as f64))
}

impl Topic {
    fn new(
        name: TopicName,
        bytes_per_record: Option<f64>,
        rates: impl Iterator<Item = Rate>,
        limits: &SegmentSpec,
    ) -> Self {
        let rates: Vec<Rate> = rates.collect();
        let closed: Vec<(f64, Border)> = rates.iter().map(|rate| segments(*rate, limits)).collect();
        let by = |border| closed.iter().filter(|(_, by)| *by == border).count();
        let borders = [Border::Age, Border::Bytes, Border::Records];
        let closed_by = borders.into_iter().max_by_key(|border| by(*border));
        Self {
            name,
            partitions: rates.len(),
            records_per_second: rates.iter().map(|rate| rate.records).sum(),
            bytes_per_record,
            segments_per_day: closed.iter().map(|(segments, _)| segments).sum(),
            closed_by: closed_by.unwrap_or(Border::Age),
            rates,
        }
    }
}

impl Cost {
    fn of(topics: &[Topic], limits: &SegmentSpec, args: &Args) -> Self {
        let (mut a_day, mut made, mut stored) = (0.0, 0.0, 0.0);
        for rate in topics.iter().flat_map(|topic| &topic.rates) {
            let (segments, _) = segments(*rate, limits);
            let bytes = rate.bytes * DAY.as_secs_f64();
            a_day += segments;
            stored += bytes;
            if segments > 0.0 {
                made += segments * requests((bytes / segments) as u64) as f64;
            }
        }
        Self {
            age_seconds: limits.age_ms as f64 / 1e3,
            segments_per_day: a_day,
            requests_per_day: made,
            bytes_per_day: stored,
            dollars_per_month_for_requests: made * MONTH_DAYS / 1e6 * args.request_price,
            dollars_per_month_more_for_storage: stored * MONTH_DAYS / 1e9 * args.storage_price,
        }
    }
}

/// How many segments of a partition are closed in a day, and by what.
fn segments(rate: Rate, limits: &SegmentSpec) -> (f64, Border) {
    if rate.records <= 0.0 {
        return (0.0, Border::Age);
    }
    let apart_s = [
        (limits.age_ms as f64 / 1e3 + 1.0 / rate.records, Border::Age),
        (limits.bytes as f64 / rate.bytes, Border::Bytes),
        (limits.records as f64 / rate.records, Border::Records),
    ];
    let (apart_s, border) =
        apart_s.into_iter().fold((f64::INFINITY, Border::Age), |first, other| {
            if other.0 < first.0 { other } else { first }
        });
    (DAY.as_secs_f64() / apart_s, border)
}

fn print(estimate: &Estimate, limits: &SegmentSpec) -> std::io::Result<()> {
    println!(
        "{} closes a segment at {}, {} or {}",
        estimate.sink,
        bytes(limits.bytes),
        counted(usize::try_from(limits.records).unwrap_or(usize::MAX), "record"),
        age(limits.age_ms as f64 / 1e3)
    );
    println!("\nTopics, from their records of the last {}:\n", age(estimate.over_seconds as f64));
    let header = ["TOPIC", "PARTITIONS", "RECORDS/S", "BYTES/RECORD", "SEGMENTS/DAY", "CLOSED BY"];
    output::table(
        &header,
        estimate.topics.iter().map(|topic| {
            vec![
                topic.name.to_string(),
                topic.partitions.to_string(),
                format!("{:.2}", topic.records_per_second),
                topic.bytes_per_record.map_or("unknown".to_owned(), |bytes| format!("{bytes:.0}")),
                format!("{:.0}", topic.segments_per_day),
                format!("{:?}", topic.closed_by).to_lowercase(),
            ]
        }),
    )?;
    println!("\nWhat an age costs; the declared one first:\n");
    let header = [
        "AGE",
        "SEGMENTS/DAY",
        "REQUESTS/DAY",
        "STORED/DAY",
        "REQUESTS $/MONTH",
        "STORAGE +$/MONTH",
    ];
    output::table(
        &header,
        std::iter::once(&estimate.declared).chain(&estimate.others).map(|cost| {
            vec![
                age(cost.age_seconds),
                format!("{:.0}", cost.segments_per_day),
                format!("{:.0}", cost.requests_per_day),
                bytes(cost.bytes_per_day as u64),
                format!("{:.2}", cost.dollars_per_month_for_requests),
                format!("{:.2}", cost.dollars_per_month_more_for_storage),
            ]
        }),
    )
}

/// A time as a catalog has it.
fn age(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        _ if seconds < 1.0 || seconds.fract() > 0.0 => format!("{:.0}ms", seconds * 1e3),
        _ if whole.is_multiple_of(3_600) => format!("{}h", whole / 3_600),
        _ if whole.is_multiple_of(60) => format!("{}m", whole / 60),
        _ => format!("{whole}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: SegmentSpec =
        SegmentSpec { bytes: 1_000_000, records: 10_000, age_ms: 60_000, idle_ms: None };

    fn closed(records: f64, bytes_per_record: f64) -> (u64, Border) {
        let rate = Rate { records, bytes: records * bytes_per_record };
        let (segments, border) = segments(rate, &LIMITS);
        (segments.round() as u64, border)
    }

    #[test]
    fn a_segment_is_closed_by_what_comes_first_and_a_silent_partition_has_none() {
        assert_eq!(closed(0.0, 100.0), (0, Border::Age));
        assert_eq!(closed(1.0 / 3_540.0, 100.0), (24, Border::Age), "every record alone");
        assert_eq!(closed(100.0, 100.0), (1_440, Border::Age), "one a minute");
        assert_eq!(closed(1_000.0, 50.0), (8_640, Border::Records));
        assert_eq!(closed(1_000.0, 1_000.0), (86_400, Border::Bytes));
        assert_eq!(closed(1_000.0, 0.0), (8_640, Border::Records), "sizes are not known yet");
    }

    #[test]
    fn a_time_is_printed_as_it_is_written() {
        for text in ["500ms", "60s", "90s", "5m", "24h"] {
            let read = span(text).expect("a time");
            assert_eq!(span(&age(read.as_secs_f64())).expect("a time"), read, "{text}");
        }
        assert!(span("0s").is_err() && span("soon").is_err());
    }
}
