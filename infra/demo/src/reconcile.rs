//! Compares the four stores, by count and by content.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use anyhow::{Context, bail};

use crate::archive::{ArchiveReader, Store};
use crate::records::{Record, TopicReader};
use crate::row::{Change, Column, Digest, Form, Row, canonical, from_json};
use crate::source::{Event, Table};
use crate::{index, source};

/// Where the stores are.
#[derive(Clone, Debug)]
pub struct Stores {
    /// Postgres, as a URL.
    pub database_url: String,
    /// Kafka brokers.
    pub brokers: String,
    /// The object store.
    pub store: Store,
    /// The archive's bucket.
    pub bucket: String,
    /// OpenSearch, with scheme.
    pub opensearch: String,
}

/// What one topic must hold.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// The topic.
    pub topic: String,
    /// Where its records come from.
    pub origin: Origin,
    /// The alias that must show the table, if one does.
    pub alias: Option<String>,
}

/// Where a topic's records come from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Every change of a table.
    Table(Table),
    /// The events of one aggregate type.
    Outbox(Table, String),
}

/// What was found for one topic.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The topic.
    pub topic: String,
    /// Rows in Postgres.
    pub rows: usize,
    /// Records in Kafka.
    pub records: usize,
    /// Rows that the records fold to.
    pub folded: usize,
    /// Lines in the archive.
    pub lines: usize,
    /// Documents in the index, where there is one.
    pub documents: Option<usize>,
    /// Content hash of the rows in Postgres and of the rows folded from Kafka.
    pub row_hashes: (String, String),
    /// Content hash of the records in Kafka and of the lines in the archive.
    pub record_hashes: (String, String),
    /// Content hash of the index.
    pub document_hash: Option<String>,
    /// What does not agree, in plain words; empty when everything does.
    pub disagreements: Vec<String>,
}

/// All findings together.
#[derive(Clone, Debug)]
pub struct Report {
    /// One per topic.
    pub findings: Vec<Finding>,
    /// Disagreements that concern the pipeline as a whole.
    pub disagreements: Vec<String>,
    /// Milliseconds from commit to the record's timestamp, sorted.
    pub lags_ms: Vec<i64>,
}

impl Report {
    /// Whether everything agrees.
    pub fn agrees(&self) -> bool {
        self.disagreements.is_empty()
            && self.findings.iter().all(|finding| finding.disagreements.is_empty())
    }

    /// The lag below which this share of records lies, in milliseconds.
    pub fn lag_ms(&self, share: f64) -> Option<i64> {
        let at = ((self.lags_ms.len() as f64) * share) as usize;
        self.lags_ms.get(at.min(self.lags_ms.len().checked_sub(1)?)).copied()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
        table.set_header([
            "topic",
            "Postgres rows",
            "Kafka records",
            "fold to rows",
            "archive lines",
            "documents",
            "rows = fold",
            "records = lines",
            "= documents",
            "verdict",
        ]);
        for finding in &self.findings {
            let both = |(a, b): &(String, String)| {
                if a == b { a.clone() } else { format!("{a} ≠ {b}") }
            };
            let verdict = if finding.disagreements.is_empty() { "equal" } else { "DIFFERENT" };
            table.add_row([
                finding.topic.clone(),
                finding.rows.to_string(),
                finding.records.to_string(),
                finding.folded.to_string(),
                finding.lines.to_string(),
                finding.documents.map_or("–".to_owned(), |count| count.to_string()),
                both(&finding.row_hashes),
                both(&finding.record_hashes),
                finding.document_hash.clone().unwrap_or("–".to_owned()),
                verdict.to_owned(),
            ]);
        }
        writeln!(f, "{table}")?;
        let of_topics = self.findings.iter().flat_map(|finding| {
            finding.disagreements.iter().map(move |what| format!("{}: {what}", finding.topic))
        });
        for what in of_topics.chain(self.disagreements.iter().cloned()) {
            writeln!(f, "  ✗ {what}")?;
        }
        Ok(())
    }
}

/// Reads the stores again and again, keeping what it has read.
pub struct Judge {
    stores: Stores,
    topics: Vec<Watched>,
    http: reqwest::Client,
}

struct Watched {
    expectation: Expectation,
    records: TopicReader,
    archive: ArchiveReader,
}

/// Numbers that agree once everything has drained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Per topic: rows, rows folded, records, lines, documents.
    pub topics: Vec<(String, [u64; 5])>,
}

impl Tally {
    /// Whether the counts of every topic agree.
    pub fn agrees(&self) -> bool {
        self.topics.iter().all(|(_, [rows, folded, records, lines, documents])| {
            rows == folded && records == lines && (*documents == u64::MAX || documents == rows)
        })
    }
}

impl Judge {
    /// Prepares to judge these topics.
    pub fn new(stores: Stores, expectations: Vec<Expectation>) -> Self {
        let watch = |expectation: Expectation| Watched {
            records: TopicReader::new(&stores.brokers, &expectation.topic),
            archive: ArchiveReader::new(&stores.store, &stores.bucket, &expectation.topic),
            expectation,
        };
        let topics = expectations.into_iter().map(watch).collect();
        Self { stores, topics, http: reqwest::Client::new() }
    }

    /// Counts what stands in every store now.
    pub async fn tally(&mut self) -> anyhow::Result<Tally> {
        let client = connect(&self.stores.database_url).await?;
        let mut topics = Vec::new();
        for watched in &mut self.topics {
            tokio::task::block_in_place(|| watched.records.catch_up())?;
            watched.archive.catch_up().await?;
            let expectation = &watched.expectation;
            let (rows, folded) = match &expectation.origin {
                Origin::Table(table) => {
                    let columns = source::columns(&client, table).await?;
                    let (rows, _) = fold(&columns, watched.records.records())?;
                    (source::count(&client, table).await?, rows.len() as u64)
                }
                Origin::Outbox(table, aggregate) => {
                    let events = source::events(&client, table, aggregate).await?;
                    (events.len() as u64, watched.records.records().len() as u64)
                }
            };
            let documents = match &expectation.alias {
                Some(alias) => index::count(&self.http, &self.stores.opensearch, alias).await?,
                None => u64::MAX,
            };
            let records = watched.records.records().len() as u64;
            let lines = watched.archive.lines().len() as u64;
            topics.push((expectation.topic.clone(), [rows, folded, records, lines, documents]));
        }
        Ok(Tally { topics })
    }

    /// Compares everything, by content.
    pub async fn report(&mut self) -> anyhow::Result<Report> {
        self.tally().await?;
        let client = connect(&self.stores.database_url).await?;
        let mut report = Report { findings: vec![], disagreements: vec![], lags_ms: vec![] };
        let mut seqs = BTreeSet::new();
        for watched in &self.topics {
            let finding = self.finding(&client, watched, &mut seqs, &mut report).await;
            let finding = finding.with_context(|| watched.expectation.topic.clone())?;
            report.findings.push(finding);
        }
        report.disagreements.extend(holes(&seqs));
        report.lags_ms.sort_unstable();
        Ok(report)
    }

    async fn finding(
        &self,
        client: &tokio_postgres::Client,
        watched: &Watched,
        seqs: &mut BTreeSet<u64>,
        report: &mut Report,
    ) -> anyhow::Result<Finding> {
        let records = watched.records.records();
        let mut finding = Finding {
            topic: watched.expectation.topic.clone(),
            rows: 0,
            records: records.len(),
            folded: 0,
            lines: watched.archive.lines().len(),
            documents: None,
            row_hashes: Default::default(),
            record_hashes: Default::default(),
            document_hash: None,
            disagreements: Vec::new(),
        };
        match &watched.expectation.origin {
            Origin::Table(table) => {
                let columns = source::columns(client, table).await?;
                let rows = source::table(client, table).await?;
                let (folded, wrong) = fold(&columns, records)?;
                finding.disagreements.extend(wrong);
                let mut digest = Digest::default();
                folded.values().for_each(|row| digest.add_row(row));
                finding.rows = rows.len();
                finding.folded = digest.len();
                finding.row_hashes = (rows.short(), digest.short());
                if let Some(alias) = &watched.expectation.alias {
                    let url = &self.stores.opensearch;
                    let documents = index::documents(&self.http, url, alias, &columns).await?;
                    if documents.short() != rows.short() {
                        finding.disagreements.push(format!(
                            "the index shows {} documents that are not the {} rows",
                            documents.len(),
                            rows.len()
                        ));
                    }
                    finding.documents = Some(documents.len());
                    finding.document_hash = Some(documents.short());
                }
            }
            Origin::Outbox(table, aggregate) => {
                let events = source::events(client, table, aggregate).await?;
                let (found, wrong) = published(records)?;
                finding.disagreements.extend(wrong);
                let (mut rows, mut digest) = (Digest::default(), Digest::default());
                events.iter().for_each(|event| event.digest(&mut rows));
                found.iter().for_each(|event| event.digest(&mut digest));
                finding.rows = rows.len();
                finding.folded = digest.len();
                finding.row_hashes = (rows.short(), digest.short());
            }
        }
        if finding.row_hashes.0 != finding.row_hashes.1 {
            finding.disagreements.push("Kafka does not say what Postgres holds".to_owned());
        }
        compare_archive(watched, &mut finding);
        for record in records {
            let (seq, commit_ms) = place_of(record)?;
            if !seqs.insert(seq) {
                finding.disagreements.push(format!(
                    "seq {seq} comes a second time at partition {} offset {}",
                    record.partition, record.offset
                ));
            }
            report.lags_ms.extend(commit_ms.map(|commit| record.timestamp_ms - commit));
        }
        Ok(finding)
    }
}

fn compare_archive(watched: &Watched, finding: &mut Finding) {
    let (mut records, mut lines) = (Digest::default(), Digest::default());
    for record in watched.records.records() {
        let place = [i64::from(record.partition), record.offset, record.timestamp_ms];
        add(&mut records, place, record.key.as_deref(), record.value.as_deref());
    }
    for line in watched.archive.lines() {
        let place = [i64::from(line.partition), line.offset, line.timestamp_ms];
        add(&mut lines, place, line.key.as_deref(), line.value.as_deref());
    }
    finding.record_hashes = (records.short(), lines.short());
    if finding.record_hashes.0 != finding.record_hashes.1 {
        finding.disagreements.push("the archive's lines are not Kafka's records".to_owned());
    }
    if let Err(error) = watched.archive.check_chain() {
        finding.disagreements.push(format!("the chain is broken: {error}"));
    }
}

fn add(digest: &mut Digest, place: [i64; 3], key: Option<&[u8]>, value: Option<&[u8]>) {
    let place: Vec<u8> = place.iter().flat_map(|number| number.to_be_bytes()).collect();
    digest.add([Some(&place[..]), key, value]);
}

async fn connect(url: &str) -> anyhow::Result<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls)
        .await
        .context("connecting to Postgres")?;
    tokio::spawn(connection);
    client.batch_execute("set timezone = 'UTC'; set extra_float_digits = 1").await?;
    Ok(client)
}

type Rows = HashMap<(i32, Vec<u8>), Row>;

/// Plays the changes of a topic, in the order of each partition, and answers the rows that remain and what is
/// wrong with the order.
fn fold(columns: &[Column], records: &[Record]) -> anyhow::Result<(Rows, Vec<String>)> {
    let mut rows = Rows::new();
    let mut last: BTreeMap<i32, u64> = BTreeMap::new();
    let mut wrong = Vec::new();
    for record in records {
        let Some(value) = &record.value else { continue };
        let at = || format!("partition {} offset {}", record.partition, record.offset);
        let change: Change<'_> = serde_json::from_slice(value).with_context(at)?;
        if last.insert(record.partition, change.source.seq).is_some_and(|l| l >= change.source.seq)
        {
            wrong.push(format!("{} goes back in seq", at()));
        }
        let key = (record.partition, record.key.clone().with_context(at)?);
        match (change.op.as_str(), change.after) {
            ("c" | "u" | "r", Some(after)) => {
                let row = from_json(columns, after, &change.unchanged, rows.get(&key));
                rows.insert(key, row.with_context(at)?);
            }
            ("d", None) => {
                if rows.remove(&key).is_none() {
                    wrong.push(format!("{} deletes a row that was not there", at()));
                }
            }
            ("t", None) => rows.retain(|(partition, _), _| *partition != record.partition),
            (op, _) => bail!("{}: op `{op}` with the wrong parts", at()),
        }
    }
    Ok((rows, wrong))
}

/// The events of a topic and what is wrong with them.
fn published(records: &[Record]) -> anyhow::Result<(Vec<Event>, Vec<String>)> {
    let mut seen = BTreeSet::new();
    let mut last: BTreeMap<i32, u64> = BTreeMap::new();
    let mut events = Vec::new();
    let mut wrong = Vec::new();
    for record in records {
        let at = || format!("partition {} offset {}", record.partition, record.offset);
        let header = |name: &str| record.headers.get(name).cloned().with_context(at);
        let id = header("ce_id")?;
        if !seen.insert(id.clone()) {
            wrong.push(format!("event {id} comes a second time at {}", at()));
        }
        let seq: u64 = header("tw-seq")?.parse().with_context(at)?;
        if last.insert(record.partition, seq).is_some_and(|last| last >= seq) {
            wrong.push(format!("{} goes back in seq", at()));
        }
        let value = record.value.as_deref().with_context(at)?;
        events.push(Event {
            id,
            key: String::from_utf8(record.key.clone().with_context(at)?)?,
            kind: header("ce_type")?,
            payload: canonical(Form::Json, std::str::from_utf8(value)?)?,
        });
    }
    Ok((events, wrong))
}

/// The dense number of a record, and its commit time in milliseconds where the record says it.
fn place_of(record: &Record) -> anyhow::Result<(u64, Option<i64>)> {
    if let Some(seq) = record.headers.get("tw-seq") {
        return Ok((seq.parse()?, None));
    }
    let value = record.value.as_deref().context("a tombstone without `tw-seq`")?;
    let change: Change<'_> = serde_json::from_slice(value)?;
    Ok((change.source.seq, Some(change.source.ts_ms)))
}

/// Where the numbers of an epoch are not dense.
fn holes(seqs: &BTreeSet<u64>) -> Vec<String> {
    const EPOCH: u64 = 1 << 44;
    let mut wrong = Vec::new();
    let mut before: Option<u64> = None;
    for &seq in seqs {
        let expected = match before {
            Some(before) if before / EPOCH == seq / EPOCH => before + 1,
            _ => seq / EPOCH * EPOCH + 1,
        };
        if seq != expected {
            wrong.push(format!("seq {expected} to {} are nowhere", seq - 1));
        }
        before = Some(seq);
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Vec<Column> {
        ["id", "v"].map(|name| Column { name: name.into(), form: Form::Text }).to_vec()
    }

    fn change(offset: i64, seq: u64, op: &str, id: u32, v: &str) -> Record {
        let after =
            if op == "d" { "null".to_owned() } else { format!(r#"{{"id":{id},"v":"{v}"}}"#) };
        let value = format!(
            r#"{{"before":null,"after":{after},"source":{{"ts_ms":1,"commit_lsn":1,"ordinal":0,"seq":{seq}}},"op":"{op}"}}"#
        );
        Record {
            partition: 0,
            offset,
            timestamp_ms: 2,
            key: Some(format!(r#"{{"id":{id}}}"#).into_bytes()),
            value: Some(value.into_bytes()),
            headers: BTreeMap::new(),
        }
    }

    #[test]
    fn records_fold_to_the_rows_that_remain() {
        let records = [
            change(0, 1, "c", 1, "a"),
            change(1, 2, "c", 2, "b"),
            change(2, 3, "u", 1, "c"),
            change(3, 4, "d", 2, ""),
        ];
        let (rows, wrong) = fold(&columns(), &records).expect("folds");
        assert_eq!(
            rows.values().cloned().collect::<Vec<_>>(),
            [["1", "c"].map(|t| Some(t.to_owned())).to_vec()]
        );
        assert!(wrong.is_empty());
    }

    #[test]
    fn a_repeat_and_a_step_back_are_seen() {
        let records = [change(0, 2, "c", 1, "a"), change(1, 1, "u", 1, "b")];
        assert_eq!(fold(&columns(), &records).expect("folds").1.len(), 1);
        let deleted_twice =
            [change(0, 1, "c", 1, "a"), change(1, 2, "d", 1, ""), change(2, 3, "d", 1, "")];
        assert_eq!(fold(&columns(), &deleted_twice).expect("folds").1.len(), 1);
    }

    #[test]
    fn an_event_that_comes_twice_or_out_of_order_is_seen() {
        let event = |offset: i64, id: &str, seq: u64| Record {
            partition: 0,
            offset,
            timestamp_ms: 2,
            key: Some(b"o1".to_vec()),
            value: Some(b"{}".to_vec()),
            headers: [("ce_id", id), ("ce_type", "T"), ("tw-seq", &seq.to_string())]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        };
        let wrong = |records: &[Record]| published(records).expect("reads").1.len();
        assert_eq!(wrong(&[event(0, "a", 1), event(1, "b", 2)]), 0);
        assert_eq!(wrong(&[event(0, "a", 1), event(1, "a", 2)]), 1);
        assert_eq!(wrong(&[event(0, "a", 2), event(1, "b", 1)]), 1);
    }

    #[test]
    fn a_hole_in_the_sequence_is_seen() {
        let epoch = 1_u64 << 44;
        assert!(holes(&BTreeSet::from([1, 2, 3])).is_empty());
        assert!(holes(&BTreeSet::from([epoch + 1, epoch + 2])).is_empty());
        assert_eq!(holes(&BTreeSet::from([1, 2, 5])), ["seq 3 to 4 are nowhere"]);
        assert_eq!(holes(&BTreeSet::from([2])), ["seq 1 to 1 are nowhere"]);
    }
}
