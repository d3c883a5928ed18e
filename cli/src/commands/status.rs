//! `tailwater status`: where everything stands, on one screen.
//!
//! ```text
//!  WAL end ── lag ──▶ progress (durable in Kafka) ──▶ slot confirmed     topics ── lag ──▶ each sink's commits
//! ```

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use rdkafka::ClientConfig;
use serde::Serialize;
use tailwater_cdc::progress;
use tailwater_cdc::snapshot::Copying;
use tailwater_runtime::clock;
use tailwater_sinks_worker::dead_letter::{self, Filter};
use tailwater_topics_contract::{Lsn, Registrations, SinkName, Standing, TopicName};
use tailwater_topics_registry::registrations;

use crate::Context;
use crate::config::{Config, Existing};
use crate::offsets::{self, Range};
use crate::output::{self, Format, bytes};

/// Show where the reader and every sink stand
///
/// Exits with 1 when a server did not answer; what the others said is shown all the same. A sink's lag is counted
/// in offsets, of which transaction markers take some; it is 0 only when no record is left.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tailwater status
  tailwater status --watch
  tailwater status --json | jq .reader.lag_bytes")]
pub(crate) struct Args {
    /// Show it again every so many seconds, until interrupted
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..))]
    watch: Option<u64>,
    /// The same as `--output json`
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Status {
    pipeline: String,
    at_ms: i64,
    slot: Option<Slot>,
    progress: Option<progress::Record>,
    reader: Reader,
    topics: Vec<Topic>,
    sinks: Vec<Sink>,
    /// What could not be found out, and why.
    problems: Vec<String>,
}

#[derive(Clone, Serialize)]
pub(crate) struct Slot {
    pub(crate) name: String,
    pub(crate) active: bool,
    pub(crate) wal_status: Option<String>,
    pub(crate) confirmed_flush: Option<Lsn>,
    pub(crate) restart_lsn: Option<Lsn>,
    pub(crate) wal_end: Lsn,
    /// How far the server has sent changes; absent while no reader is connected.
    pub(crate) sent: Option<Lsn>,
    /// WAL that Postgres keeps for the slot.
    pub(crate) retained_bytes: Option<u64>,
    /// WAL that may still be written before Postgres gives the slot up; absent without `max_slot_wal_keep_size`.
    pub(crate) budget_bytes: Option<u64>,
}

/// How far the reader is behind.
#[derive(Serialize)]
pub(crate) struct Reader {
    /// WAL after progress.
    pub(crate) lag_bytes: Option<u64>,
    /// Age of the last progress while there is WAL after it; changes of other tables count as WAL too.
    pub(crate) lag_seconds: Option<u64>,
}

#[derive(Serialize)]
struct Topic {
    name: TopicName,
    standing: Standing,
    partitions: usize,
    /// Sum of the next offsets of all partitions.
    end: i64,
}

#[derive(Serialize)]
struct Sink {
    name: SinkName,
    standing: Standing,
    /// Those that are not settled.
    dead_letters: u64,
    /// Everything that committed in Postgres before this is in the sink, or set aside. Known only while it has taken
    /// all there is; `tailwater wait` waits for a position of one's choice.
    complete_to: Option<Lsn>,
    topics: Vec<Taken>,
}

impl Sink {
    /// Whether it has taken everything there is, and retention took nothing before it could.
    fn has_all(&self) -> bool {
        let all = |p: &TakenPartition| p.lag == 0 && !p.is_overtaken;
        self.topics
            .iter()
            .all(|taken| !taken.partitions.is_empty() && taken.partitions.iter().all(all))
    }
}

/// What a sink took of a topic.
#[derive(Serialize)]
struct Taken {
    topic: TopicName,
    lag: i64,
    partitions: Vec<TakenPartition>,
}

#[derive(Serialize)]
struct TakenPartition {
    partition: i32,
    /// `None`: it has not committed yet and begins at its origin.
    committed: Option<i64>,
    end: i64,
    /// Offsets after the commit; 0 when no record is among them.
    lag: i64,
    /// The topic begins behind where the sink stands.
    #[serde(skip)]
    is_overtaken: bool,
}

pub(crate) async fn run(cx: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let config = cx.config()?;
    let format = if args.json { Format::Json } else { cx.format };
    loop {
        let status = look(&config).await;
        if args.watch.is_some() && format == Format::Table {
            // To the first line of an empty screen.
            write!(io::stdout().lock(), "\u{1b}[H\u{1b}[2J")?;
        }
        if format.is_structured() {
            format.value(&status)?;
        } else {
            print(&status, format)?;
        }
        let Some(seconds) = args.watch else {
            let healthy = status.problems.is_empty();
            return Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        };
        io::stdout().lock().flush()?;
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
}

async fn look(config: &Config) -> Status {
    let mut problems = Vec::new();
    let mut note = |error: anyhow::Error| problems.push(output::causes(&error).join(": "));
    let kafka = config.kafka_client();
    let reader = config.reader(Existing::default());
    let (slot, progress, registered) = tokio::join!(
        slot(config),
        progress::read(&reader),
        registrations::load(&kafka, &config.pipeline)
    );
    let slot = slot.map_err(&mut note).unwrap_or_default();
    let progress = progress.map_err(|error| note(error.into())).unwrap_or_default();
    let registered = registered.map_err(|error| note(error.into())).unwrap_or_default();
    let pipeline = config.pipeline.clone();
    let known = registered.clone();
    let streams = offsets::blocking(move || streams(&kafka, &pipeline, &known)).await;
    let (topics, mut sinks) = streams.map_err(&mut note).unwrap_or_default();
    // Progress was read before the ends of the topics, so its records stand below what each sink was seen to have.
    // While a table is copied, rows from before are still to come.
    for sink in sinks.iter_mut().filter(|sink| sink.has_all()) {
        let spec = registered.sink(&sink.name).map(|sink| &sink.spec);
        let tables = spec.into_iter().flat_map(|spec| registered.tables_of(spec));
        sink.complete_to = progress.as_ref().and_then(|progress| progress.complete_to(tables));
    }
    let at_ms = clock::now_ms();
    Status {
        pipeline: config.pipeline.to_string(),
        at_ms,
        reader: lag(slot.as_ref(), progress.as_ref(), at_ms),
        slot,
        progress,
        topics,
        sinks,
        problems,
    }
}

pub(crate) fn lag(slot: Option<&Slot>, progress: Option<&progress::Record>, now_ms: i64) -> Reader {
    let (Some(slot), Some(progress)) = (slot, progress) else {
        return Reader { lag_bytes: None, lag_seconds: None };
    };
    let lag_bytes = slot.wal_end.0.saturating_sub(progress.position.0);
    let age = u64::try_from(now_ms - progress.at_ms).unwrap_or_default() / 1000;
    Reader { lag_bytes: Some(lag_bytes), lag_seconds: Some(if lag_bytes == 0 { 0 } else { age }) }
}

/// The pipeline's slot as the server shows it; `None` when there is none.
pub(crate) async fn slot(config: &Config) -> anyhow::Result<Option<Slot>> {
    let address = config.postgres.address();
    let application = format!("tailwater {} status", config.pipeline);
    let client = tailwater_postgres::client(&config.postgres, &application).await?;
    let name = config.pipeline.slot();
    let row = client
        .query_opt(SLOT, &[&name])
        .await
        .with_context(|| format!("Postgres at {address} did not show slot `{name}`"))?;
    let Some(row) = row else { return Ok(None) };
    let lsn =
        |column: &str| row.get::<_, Option<String>>(column).and_then(|text| text.parse().ok());
    let wal_end = lsn("wal_end").context("Postgres did not say where its WAL ends")?;
    let restart_lsn: Option<Lsn> = lsn("restart_lsn");
    Ok(Some(Slot {
        sent: lsn("sent"),
        budget_bytes: row.get::<_, Option<i64>>("budget").map(|bytes| bytes.max(0).cast_unsigned()),
        active: row.get("active"),
        wal_status: row.get("wal_status"),
        confirmed_flush: lsn("confirmed_flush"),
        restart_lsn,
        wal_end,
        retained_bytes: restart_lsn.map(|restart| wal_end.0.saturating_sub(restart.0)),
        name,
    }))
}

/// A standby has no insert position; what it replayed is where its WAL ends for a slot.
const SLOT: &str = "
SELECT active, wal_status, confirmed_flush_lsn::text AS confirmed_flush, restart_lsn::text AS restart_lsn,
       safe_wal_size AS budget,
       (SELECT sent_lsn::text FROM pg_stat_replication WHERE pid = active_pid) AS sent,
       (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text AS wal_end
FROM pg_replication_slots WHERE slot_name = $1::text";

fn streams(
    kafka: &ClientConfig,
    pipeline: &tailwater_topics_contract::PipelineName,
    registered: &Registrations,
) -> anyhow::Result<(Vec<Topic>, Vec<Sink>)> {
    let mut ends: BTreeMap<&TopicName, Vec<Range>> = BTreeMap::new();
    let mut topics = Vec::new();
    for topic in registered.written() {
        let (name, standing) = (&topic.spec.name, topic.standing);
        let ranges = offsets::ranges(kafka, name)?.unwrap_or_default();
        let end = ranges.iter().map(|range| range.next).sum();
        topics.push(Topic { name: name.clone(), standing, partitions: ranges.len(), end });
        ends.insert(name, ranges);
    }
    let mut sinks = Vec::new();
    for sink in registered.standing_sinks() {
        let name = &sink.spec.name;
        let mut dead_letters = 0;
        for letter in dead_letter::read(kafka, pipeline, name, Filter::default())? {
            letter?;
            dead_letters += 1;
        }
        let mut taken = Vec::new();
        for topic in &sink.spec.topics {
            let ranges = ends.get(topic).map(Vec::as_slice).unwrap_or_default();
            let group = pipeline.consumer_group(name);
            let committed = match ranges.len() {
                0 => Vec::new(),
                count => offsets::committed(kafka, &group, topic, count)?,
            };
            let partition = |(partition, (range, committed)): (usize, (&Range, Option<i64>))| {
                let partition = partition as i32;
                let origin = sink.origin(topic, partition).map_or(range.first, |o| o.offset);
                let stands = committed.unwrap_or(origin);
                let lag = (range.next - stands.max(range.first)).max(0);
                let is_overtaken = stands < range.first;
                TakenPartition { partition, committed, end: range.next, lag, is_overtaken }
            };
            let mut partitions: Vec<_> =
                ranges.iter().zip(committed).enumerate().map(partition).collect();
            let behind = partitions.iter().filter(|partition| partition.lag > 0);
            let behind: Vec<_> = behind.map(|p| (p.partition, p.end - p.lag)).collect();
            let pending = offsets::pending(kafka, topic, &behind)?;
            for partition in partitions.iter_mut().filter(|p| !pending.contains(&p.partition)) {
                partition.lag = 0;
            }
            let lag = partitions.iter().map(|partition| partition.lag).sum();
            taken.push(Taken { topic: topic.clone(), lag, partitions });
        }
        let (name, standing) = (name.clone(), sink.standing);
        sinks.push(Sink { name, standing, dead_letters, complete_to: None, topics: taken });
    }
    Ok((topics, sinks))
}

fn print(status: &Status, format: Format) -> io::Result<()> {
    let facts = facts(status);
    if format == Format::Plain {
        output::plain(facts.into_iter().map(|(name, value)| vec![name.to_owned(), value]))?;
        output::plain(sink_rows(status).into_iter().map(|mut row| {
            row.insert(0, "sink".to_owned());
            row
        }))?;
    } else {
        let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut out = io::stdout().lock();
        for (name, value) in &facts {
            writeln!(out, "{name:width$}  {value}")?;
        }
        writeln!(out)?;
        drop(out);
        let header =
            ["SINK", "TOPIC", "COMMITTED", "END", "LAG", "DEAD LETTERS", "STANDING", "COMPLETE TO"];
        output::table(&header, sink_rows(status).into_iter())?;
    }
    for problem in &status.problems {
        eprintln!("problem: {problem}");
    }
    Ok(())
}

fn facts(status: &Status) -> Vec<(&'static str, String)> {
    let unknown = || "unknown".to_owned();
    let mut facts = vec![("pipeline", status.pipeline.clone())];
    match &status.slot {
        None => facts.push(("slot", "does not exist yet, or could not be seen".to_owned())),
        Some(slot) => {
            let state = if slot.active { "active" } else { "not active: no reader is connected" };
            let wal = slot.wal_status.as_deref().unwrap_or("unknown");
            facts.push(("slot", format!("{} ({state}, WAL {wal})", slot.name)));
            let confirmed = slot.confirmed_flush.map_or_else(unknown, |lsn| lsn.to_string());
            facts.push(("confirmed", confirmed));
            facts.push(("wal end", slot.wal_end.to_string()));
            facts.push(("wal kept", slot.retained_bytes.map_or_else(unknown, bytes)));
            facts.extend(
                slot.budget_bytes.map(|left| ("wal budget", format!("{} left", bytes(left)))),
            );
        }
    }
    match &status.progress {
        None => facts.push(("progress", "none yet".to_owned())),
        Some(progress) => {
            let age = (status.at_ms - progress.at_ms).max(0) / 1000;
            facts.push(("progress", format!("{} (written {age} s ago)", progress.position)));
            facts.push(("seq", format!("{} (epoch {})", progress.seq, progress.epoch)));
            facts.extend(
                progress.copying.as_ref().map(|copying| ("copying", told(copying, status.at_ms))),
            );
            facts.extend(told_joining(progress).map(|joining| ("joining", joining)));
        }
    }
    let lag_bytes = status.reader.lag_bytes.map_or_else(unknown, bytes);
    let lag_seconds = status.reader.lag_seconds.map_or_else(unknown, |s| format!("at most {s} s"));
    facts.push(("reader lag", format!("{lag_bytes}, {lag_seconds}")));
    for topic in &status.topics {
        facts.push((
            "topic",
            format!(
                "{} ends at {} over {} partitions{}",
                topic.name,
                topic.end,
                topic.partitions,
                if topic.standing == Standing::Paused { ", paused for its sinks" } else { "" }
            ),
        ));
    }
    facts
}

/// How far a copy is.
pub(crate) fn told(copying: &Copying, now_ms: i64) -> String {
    let left = copying
        .left_ms(now_ms)
        .map_or_else(|| "no estimate yet".to_owned(), |ms| format!("about {} s left", ms / 1000));
    format!(
        "{} rows, {} of {}, {} tables left, {left}",
        copying.rows,
        bytes(copying.bytes_done),
        bytes(copying.bytes),
        copying.tables_left
    )
}

/// Tables that are joining the stream, and how far they are behind it.
pub(crate) fn told_joining(progress: &progress::Record) -> Option<String> {
    let joining = progress.joining.as_ref()?;
    let tables: Vec<String> = joining.tables.iter().map(ToString::to_string).collect();
    let lag = bytes(progress.position.0.saturating_sub(joining.position.0));
    Some(format!("{}, {lag} of WAL behind the stream, which goes on", tables.join(", ")))
}

fn sink_rows(status: &Status) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for sink in &status.sinks {
        let dead = sink.dead_letters.to_string();
        for taken in &sink.topics {
            let committed: Vec<String> = taken
                .partitions
                .iter()
                .map(|p| p.committed.map_or_else(|| "-".to_owned(), |offset| offset.to_string()))
                .collect();
            let ends: Vec<String> = taken.partitions.iter().map(|p| p.end.to_string()).collect();
            rows.push(vec![
                sink.name.to_string(),
                taken.topic.to_string(),
                committed.join(","),
                ends.join(","),
                taken.lag.to_string(),
                dead.clone(),
                sink.standing.to_string(),
                sink.complete_to.map_or_else(|| "-".to_owned(), |lsn| lsn.to_string()),
            ]);
        }
    }
    rows
}
