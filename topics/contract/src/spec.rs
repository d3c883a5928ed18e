//! One declared topic or sink.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tailwater_document::{ByteSize, Mistakes, Node, Place, Section, Span};

use crate::{DocumentSpec, Mask, SinkName, TableName, TopicName, shape, shaping};

/// Reads a file that a spec names, such as a mapping, by its path relative to the declaring file.
pub(crate) type Load<'a> = &'a dyn Fn(&Path) -> std::io::Result<String>;

/// A topic the reader writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicSpec {
    /// The topic in Kafka.
    pub name: TopicName,
    /// Where its records come from.
    pub from: From,
    /// Columns that make the record key; absent: the table's replica identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Vec<String>>,
    /// Number of partitions, from 1. Never shrunk; growing it moves keys, so it is refused on a topic with data.
    pub partitions: u32,
    /// Replication factor; absent: the broker's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<u16>,
    /// Kafka's own topic settings, verbatim.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// Columns that are published although their names look like card data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<String>,
    /// In which form values are written.
    #[serde(default, skip_serializing_if = "Values::is_default")]
    pub values: Values,
    /// Columns that do not go out as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mask: BTreeMap<String, Mask>,
    /// Where it was declared, for messages; not stored.
    #[serde(skip)]
    pub declared_at: Option<Place>,
}

impl TopicSpec {
    /// Whether Kafka keeps the latest record of each key, so that deletes need a tombstone.
    pub fn is_compacted(&self) -> bool {
        let policy = self.config.get("cleanup.policy");
        policy.is_some_and(|policy| policy.split(',').any(|part| part.trim() == "compact"))
    }

    /// Of these columns, the one whose name looks like card data and that nobody chose to expose or to mask. What a
    /// log keeps for ever must not hold such data by accident.
    pub fn card_like<'c>(&self, columns: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
        let is_decided = |column: &str| {
            self.mask.contains_key(column) || self.expose.iter().any(|exposed| exposed == column)
        };
        columns.into_iter().find(|column| looks_like_card_data(column) && !is_decided(column))
    }

    /// The table its records come from; messages come from none.
    pub fn table(&self) -> Option<&TableName> {
        match &self.from {
            From::Table(table) | From::Outbox { table, .. } => Some(table),
            From::Message(_) => None,
        }
    }

    /// Whether messages with this prefix are events of its outbox.
    pub(crate) fn takes_prefix(&self, prefix: &str) -> bool {
        matches!(&self.from, From::Outbox { table, .. } if table.to_string() == prefix)
    }
}

/// Whole words of names that mean card data, and runs of letters that mean it wherever they stand.
const CARD_WORDS: [&str; 3] = ["pan", "cvv", "cvc"];
const CARD_RUNS: [&str; 4] = ["cardnumber", "cardno", "cardnum", "securitycode"];

/// Whether the name of a column says that card data is in it.
pub fn looks_like_card_data(column: &str) -> bool {
    let lower = column.to_lowercase();
    let mut words = lower.split(|letter: char| !letter.is_alphanumeric());
    let run: String = lower.chars().filter(|letter| letter.is_alphanumeric()).collect();
    words.any(|word| CARD_WORDS.contains(&word)) || CARD_RUNS.iter().any(|part| run.contains(part))
}

/// Where the records of a topic come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// Every change of a table.
    Table(TableName),
    /// The events of one aggregate type in an outbox table.
    Outbox {
        /// `aggregate_type` of the rows.
        aggregate: String,
        /// The outbox table; by default `<aggregate>.outbox`.
        table: TableName,
    },
    /// What `pg_logical_emit_message` writes under this prefix.
    Message(String),
}

/// In which form the values of a topic are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Values {
    /// Readable and lossless: decimals and times as texts, documents as they are.
    #[default]
    Readable,
    /// What Debezium's Postgres connector writes under its default settings, as JSON without schemas.
    Debezium,
}

impl Values {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A destination fed from topics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkSpec {
    /// The sink.
    pub name: SinkName,
    /// The topics it takes, at least one.
    pub topics: Vec<TopicName>,
    /// What it is.
    pub kind: SinkKind,
    /// Where it was declared, for messages; not stored.
    #[serde(skip)]
    pub declared_at: Option<Place>,
}

/// What a sink is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkKind {
    /// Gzipped JSONL on an S3 store.
    Archive(ArchiveSpec),
    /// Documents in OpenSearch.
    Search(SearchSpec),
}

/// An archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveSpec {
    /// The bucket.
    pub bucket: String,
    /// Before every object key: empty, or ending with `/`.
    pub prefix: String,
    /// What is promised of every record.
    #[serde(default, skip_serializing_if = "Guarantee::is_default")]
    pub guarantee: Guarantee,
    /// When a segment is closed.
    pub segment: SegmentSpec,
}

/// How often a record stands in an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guarantee {
    /// Once, whatever fails; asks for a store with atomic conditional writes.
    #[default]
    ExactlyOnce,
    /// Once or, where a worker was killed or hung, several times; any store will do.
    AtLeastOnce,
}

impl Guarantee {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// As it is declared.
impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ExactlyOnce => "exactly-once",
            Self::AtLeastOnce => "at-least-once",
        })
    }
}

/// When an archive segment is closed: at whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentSpec {
    /// Compressed bytes. Default 64 MiB, which one PUT carries well on every store we know.
    pub bytes: u64,
    /// Records. Default 500,000.
    pub records: u64,
    /// Milliseconds since its first record came. Default 60,000.
    pub age_ms: u64,
    /// Milliseconds since its last record came; none unless declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_ms: Option<u64>,
}

impl Default for SegmentSpec {
    fn default() -> Self {
        Self { bytes: 64 << 20, records: 500_000, age_ms: 60_000, idle_ms: None }
    }
}

/// A search index kept equal to a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchSpec {
    /// The alias that readers use; the index behind it is versioned.
    pub alias: String,
    /// OpenSearch's own index body: `mappings` and, if wanted, `settings`.
    pub mapping: serde_json::Value,
    /// How rows become documents.
    #[serde(default, skip_serializing_if = "DocumentSpec::is_default")]
    pub document: DocumentSpec,
    /// When a bulk request is sent.
    pub bulk: BulkSpec,
}

/// When a bulk request is sent: at whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkSpec {
    /// Bytes of the request. Default 8 MiB.
    pub bytes: u64,
    /// Operations. Default 2,000.
    pub operations: u64,
    /// Milliseconds since its first record came. Default 500.
    pub age_ms: u64,
}

/// One parsed YAML document.
pub(crate) enum Spec {
    Topic(TopicSpec),
    Sink(SinkSpec),
}

impl Spec {
    /// Reads one document; `None` means mistakes were noted.
    pub(crate) fn read(node: &Node, load: Load<'_>, mistakes: &mut Mistakes) -> Option<Self> {
        let mut top = node.section("", mistakes);
        let version: Option<String> = top.required("apiVersion", mistakes);
        if version.as_deref().is_some_and(|version| version != "tailwater/v1") {
            top.refuse("apiVersion", "expected `tailwater/v1`", mistakes);
        }
        let kind: Option<String> = top.required("kind", mistakes);
        match kind?.as_str() {
            "Topic" => topic(top, mistakes).map(Self::Topic),
            "Sink" => sink(top, load, mistakes).map(Self::Sink),
            _ => {
                top.refuse("kind", "expected `Topic` or `Sink`", mistakes);
                None
            }
        }
    }
}

fn topic(mut top: Section<'_>, mistakes: &mut Mistakes) -> Option<TopicSpec> {
    let declared_at = Some(top.place_of("name"));
    let name = top.required("name", mistakes);
    if top.node("from").is_none() {
        top.refuse(
            "from",
            "missing; say `from: { table: schema.table }`, `from: { outbox: aggregate }` or `from: { message: prefix }`",
            mistakes,
        );
    }
    let from = source(top.section("from", mistakes), mistakes);
    let has_key = top.node("key").is_some();
    let key: Vec<String> =
        top.list("key", mistakes).into_iter().map(|(column, _)| column).collect();
    if has_key && key.is_empty() {
        top.refuse("key", "expected at least one column", mistakes);
    }
    let partitions = top.or("partitions", 1_u32, mistakes);
    if !(1..=10_000).contains(&partitions) {
        top.refuse("partitions", "expected a number from 1 to 10000", mistakes);
    }
    let replication = top.optional("replication", mistakes);
    let config = top.texts("config", mistakes);
    let expose: Vec<String> =
        top.list("expose", mistakes).into_iter().map(|(column, _)| column).collect();
    let values: Option<String> = top.optional("values", mistakes);
    let values = match values.as_deref() {
        None | Some("readable") => Values::Readable,
        Some("debezium") => Values::Debezium,
        Some(_) => {
            top.refuse("values", "expected `readable` or `debezium`", mistakes);
            Values::Readable
        }
    };
    let mask = masks(&mut top, mistakes);
    top.finish_as(&shape::TOPIC, mistakes);
    Some(TopicSpec {
        name: name?,
        from: from?,
        key: has_key.then_some(key),
        partitions,
        replication,
        config,
        expose,
        values,
        mask,
        declared_at,
    })
}

fn masks(top: &mut Section<'_>, mistakes: &mut Mistakes) -> BTreeMap<String, Mask> {
    let mut masks = BTreeMap::new();
    for (column, text) in top.texts("mask", mistakes) {
        match text.parse() {
            Ok(mask) => drop(masks.insert(column, mask)),
            Err(problem) => top.refuse("mask", format!("`{column}: {text}`: {problem}"), mistakes),
        }
    }
    masks
}

fn source(mut from: Section<'_>, mistakes: &mut Mistakes) -> Option<From> {
    let outbox: Option<String> = from.optional("outbox", mistakes);
    let table: Option<TableName> = from.optional("table", mistakes);
    let message: Option<String> = from.optional("message", mistakes);
    if message.is_some() && (outbox.is_some() || table.is_some()) {
        from.refuse("message", "messages belong to no table; remove `table` or `outbox`", mistakes);
    }
    let read = match (outbox, table) {
        (Some(aggregate), Some(table)) => Some(From::Outbox { aggregate, table }),
        (Some(aggregate), None) => match format!("{aggregate}.outbox").parse() {
            Ok(table) => Some(From::Outbox { aggregate, table }),
            Err(_) => {
                let problem =
                    "no table follows from this aggregate type; add `table: schema.table`";
                from.refuse("outbox", problem, mistakes);
                None
            }
        },
        (None, Some(table)) => Some(From::Table(table)),
        (None, None) => message.map(From::Message),
    };
    from.finish_as(&shape::FROM, mistakes);
    read
}

fn sink(mut top: Section<'_>, load: Load<'_>, mistakes: &mut Mistakes) -> Option<SinkSpec> {
    let declared_at = Some(top.place_of("name"));
    let name = top.required("name", mistakes);
    let topics: Vec<TopicName> =
        top.list("topics", mistakes).into_iter().map(|(topic, _)| topic).collect();
    if topics.is_empty() {
        top.refuse("topics", "expected at least one topic", mistakes);
    }
    let kind: Option<String> = top.required("type", mistakes);
    let kind = match kind.as_deref() {
        Some("archive") => {
            let archive = archive(top.section("archive", mistakes), mistakes);
            top.finish_as(&shape::ARCHIVE_SINK, mistakes);
            archive.map(SinkKind::Archive)
        }
        Some("search") => {
            let search = search(top.section("search", mistakes), load, mistakes);
            top.finish_as(&shape::SEARCH_SINK, mistakes);
            search.map(SinkKind::Search)
        }
        // Which other keys belong here cannot be said without it.
        Some(_) => {
            top.refuse("type", "expected `archive` or `search`", mistakes);
            None
        }
        None => None,
    };
    Some(SinkSpec { name: name?, topics, kind: kind?, declared_at })
}

fn archive(mut archive: Section<'_>, mistakes: &mut Mistakes) -> Option<ArchiveSpec> {
    let bucket: Option<String> = archive.required("bucket", mistakes);
    let letters = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    let rule = |name: &str| (3..=63).contains(&name.len()) && name.bytes().all(letters);
    if bucket.as_deref().is_some_and(|name| !rule(name)) {
        let problem = "expected a bucket name: 3 to 63 of a-z, 0-9, `-` and `.`";
        archive.refuse("bucket", problem, mistakes);
    }
    let prefix: String = archive.optional("prefix", mistakes).unwrap_or_default();
    if !prefix.is_empty() && (!prefix.ends_with('/') || prefix.starts_with('/')) {
        archive.refuse(
            "prefix",
            "expected a text that ends with `/` and does not begin with it",
            mistakes,
        );
    }
    let guarantee: Option<String> = archive.optional("guarantee", mistakes);
    let guarantee = match guarantee.as_deref() {
        None | Some("exactly-once") => Guarantee::ExactlyOnce,
        Some("at-least-once") => Guarantee::AtLeastOnce,
        Some(_) => {
            let problem = "expected `exactly-once` or `at-least-once`";
            archive.refuse("guarantee", problem, mistakes);
            Guarantee::ExactlyOnce
        }
    };
    let mut segment = archive.section("segment", mistakes);
    let default = SegmentSpec::default();
    let age = Span(std::time::Duration::from_millis(default.age_ms));
    let spec = SegmentSpec {
        bytes: segment.or("bytes", ByteSize(default.bytes), mistakes).0,
        records: segment.or("records", default.records, mistakes),
        age_ms: millis(segment.or("age", age, mistakes)),
        idle_ms: segment.optional("idle", mistakes).map(millis),
    };
    let mut limits = vec![("bytes", spec.bytes), ("records", spec.records), ("age", spec.age_ms)];
    limits.extend(spec.idle_ms.map(|idle_ms| ("idle", idle_ms)));
    positive(&segment, &limits, mistakes);
    segment.finish_as(&shape::SEGMENT, mistakes);
    archive.finish_as(&shape::ARCHIVE, mistakes);
    Some(ArchiveSpec { bucket: bucket?, prefix, guarantee, segment: spec })
}

fn search(mut search: Section<'_>, load: Load<'_>, mistakes: &mut Mistakes) -> Option<SearchSpec> {
    let alias: Option<String> = search.required("alias", mistakes);
    let rule = |name: &str| {
        (1..=200).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.'))
    };
    if alias.as_deref().is_some_and(|name| !rule(name)) {
        search.refuse("alias", "expected an index name: a-z, 0-9, `_`, `-` and `.`", mistakes);
    }
    let path: Option<String> = search.required("mapping", mistakes);
    let mapping = path.and_then(|path| {
        let read =
            load(Path::new(&path)).map_err(|error| format!("`{path}` cannot be read: {error}"));
        let body = read.and_then(|text| {
            serde_json::from_str::<serde_json::Value>(&text)
                .map_err(|error| format!("`{path}` is not JSON: {error}"))
        });
        let checked = body.and_then(|body| match body.get("mappings") {
            Some(serde_json::Value::Object(_)) => Ok(body),
            _ => Err(format!("`{path}` has no `mappings` object at its top")),
        });
        checked.map_err(|problem| search.refuse("mapping", problem, mistakes)).ok()
    });
    let document = shaping::read(search.section("document", mistakes), mistakes);
    let mut bulk = search.section("bulk", mistakes);
    let spec = BulkSpec {
        bytes: bulk.or("bytes", ByteSize(8 << 20), mistakes).0,
        operations: bulk.or("operations", 2_000, mistakes),
        age_ms: millis(bulk.or("age", Span(std::time::Duration::from_millis(500)), mistakes)),
    };
    positive(
        &bulk,
        &[("bytes", spec.bytes), ("operations", spec.operations), ("age", spec.age_ms)],
        mistakes,
    );
    bulk.finish_as(&shape::BULK, mistakes);
    search.finish_as(&shape::SEARCH, mistakes);
    Some(SearchSpec { alias: alias?, mapping: mapping?, document, bulk: spec })
}

fn millis(span: Span) -> u64 {
    span.0.as_millis() as u64
}

fn positive(section: &Section<'_>, limits: &[(&str, u64)], mistakes: &mut Mistakes) {
    for (key, _) in limits.iter().filter(|(_, limit)| *limit == 0) {
        section.refuse(key, "expected more than nothing", mistakes);
    }
}
