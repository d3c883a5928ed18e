//! Queries over an archive.
//!
//! ```text
//!  SQL ──▶ which tables ──▶ their manifests and samples (once a session) ──▶ complete up to the cut? ──▶ plan ──▶ rows
//! ```
//!
//! A topic `inventory.cdc` is the table `inventory_cdc`: lower case, and `_` for whatever is neither letter nor digit.
//! Its own name in quotes, `"inventory.cdc"`, is the same table. Each has `_changes` and `_current` beside it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, MemoryCatalogProvider, SchemaProvider, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::config::Dialect;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::{GreedyMemoryPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::sqlparser::ast;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement;
use tailwater_topics_contract::{Lsn, TopicName};
use tokio::sync::Mutex;

use crate::archive::{Archive, Topic};
use crate::columns::RowColumn;
use crate::complete::{self, Pipeline, Verdict};
use crate::current::Current;
use crate::ddl::Subject;
use crate::functions;
use crate::infer;
use crate::problem::Problem;
use crate::stats::Stats;
use crate::table::{Records, Source};

/// Consumers that are named when memory runs out.
const NAMED: NonZeroUsize = NonZeroUsize::MIN;

/// What queries may do and see.
#[derive(Clone, Debug)]
pub struct Options {
    /// Memory of a query's intermediate results, in bytes.
    pub memory: u64,
    /// Workers of a scan.
    pub threads: usize,
    /// Where to cut.
    pub cut: Option<Cut>,
    /// Whether to answer when it is not known that everything up to the cut is there.
    pub allow_incomplete: bool,
}

impl Default for Options {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
        Self { memory: 256 << 20, threads, cut: None, allow_incomplete: false }
    }
}

/// Where to cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// At a commit.
    Lsn(Lsn),
    /// At the newest commit that is not later than a time, in microseconds since 1970.
    Time(i64),
}

impl std::str::FromStr for Cut {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            return text.parse().map(Self::Lsn).map_err(|error| format!("{error}"));
        }
        let spelled = text.replacen(' ', "T", 1);
        let time = spelled.parse::<jiff::Timestamp>().ok().or_else(|| {
            let local: jiff::civil::DateTime = spelled.parse().ok()?;
            Some(local.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
        });
        time.map(|time| Self::Time(time.as_microsecond())).ok_or_else(|| {
            format!("`{text}` is neither an LSN such as `16/B374D848` nor a time such as `2026-01-02 03:04:05Z`")
        })
    }
}

/// An archive that answers queries.
pub struct Lake {
    options: Options,
    context: SessionContext,
    tables: Arc<Tables>,
    pipeline: Option<Pipeline>,
    /// The cut as an LSN, and when that commit was, if that is known.
    cut: Option<(Lsn, Option<i64>)>,
}

/// The rows of a query, and what is known of their completeness.
pub struct Answer {
    /// The rows.
    pub rows: SendableRecordBatchStream,
    /// One phrase for the last line.
    pub completeness: String,
}

impl Lake {
    /// Lists the topics; everything else is looked at when a query needs it.
    pub async fn open(
        archive: Archive,
        options: Options,
        pipeline: Option<Pipeline>,
    ) -> Result<Self, Problem> {
        let topics = archive.topics().await?;
        let names = names(&topics);
        let mut tables = Tables {
            archive,
            topics,
            names,
            stats: Arc::default(),
            cut: None,
            loaded: Mutex::default(),
        };
        let cut = match options.cut {
            None => None,
            Some(Cut::Lsn(lsn)) => Some((lsn, None)),
            Some(Cut::Time(time)) => {
                let topics = tables.all().await?;
                let at = complete::commit_at(&tables.archive, &refs(&topics), time).await?;
                let Some((lsn, at)) = at else {
                    let time = shown(time);
                    let what = format!("no commit at or before {time} is archived");
                    return Err(Problem::Value(what));
                };
                Some((lsn, Some(at)))
            }
        };
        tables.cut = cut.map(|(lsn, _)| lsn.0.cast_signed());
        tables.loaded = Mutex::default();
        let tables = Arc::new(tables);
        let context = context(&options, tables.clone())
            .map_err(|error| Problem::Value(error.strip_backtrace()))?;
        Ok(Self { options, context, tables, pipeline, cut })
    }

    /// Counters of the last query.
    pub fn stats(&self) -> &Stats {
        &self.tables.stats
    }

    /// The topics and the names of their tables.
    pub fn topics(&self) -> impl Iterator<Item = (&TopicName, String)> {
        self.tables.topics.iter().map(|topic| (topic, plain_name(topic.as_str())))
    }

    /// Every name that may stand for a table.
    pub fn table_names(&self) -> Vec<String> {
        self.tables.names.keys().cloned().collect()
    }

    /// The columns of a topic's rows.
    pub async fn row_columns(&self, topic: &TopicName) -> Result<Vec<RowColumn>, Problem> {
        Ok(self.tables.source(topic).await?.shape.rows.clone())
    }

    /// The fields of a topic's key, when keys are objects.
    pub async fn key_fields(&self, topic: &TopicName) -> Result<Option<Vec<String>>, Problem> {
        Ok(self.tables.source(topic).await?.shape.key.clone())
    }

    /// A topic as other engines are told of it.
    pub async fn subject(&self, topic: &TopicName) -> Result<Subject, Problem> {
        Ok(Subject::new(topic.clone(), &self.tables.source(topic).await?.shape))
    }

    /// The topic of a table, by any of its names.
    pub fn topic_of(&self, name: &str) -> Result<TopicName, Problem> {
        let found = self.tables.names.get(name).map(|(topic, _)| topic.clone());
        found.ok_or_else(|| {
            let topics: Vec<String> = self.tables.topics.iter().map(ToString::to_string).collect();
            Problem::no_table("", name, &topics)
        })
    }

    /// Answers a query.
    pub async fn query(&self, sql: &str) -> Result<Answer, Problem> {
        self.tables.stats.reset();
        let problem = |error| Problem::of(sql, self.options.memory, error);
        let state = self.context.state();
        let statement = state.sql_to_statement(sql, &Dialect::Generic).map_err(problem)?;
        let reads = match &statement {
            Statement::Statement(statement) => matches!(
                **statement,
                ast::Statement::Query(_)
                    | ast::Statement::Explain { .. }
                    | ast::Statement::ExplainTable { .. }
            ),
            Statement::Explain(_) => true,
            _ => false,
        };
        if !reads {
            let what = "an archive is only read: SELECT, EXPLAIN and DESCRIBE";
            return Err(Problem::Value(what.to_owned()));
        }
        let references = state.resolve_table_references(&statement).map_err(problem)?;
        let mut asked = BTreeSet::new();
        for reference in references {
            let known = reference.catalog().is_none() && reference.schema().is_none();
            match self.tables.names.get(reference.table()).filter(|_| known) {
                Some((topic, _)) => {
                    asked.insert(topic.clone());
                }
                None => {
                    let plain: Vec<String> =
                        self.table_names().into_iter().filter(|name| !name.contains('.')).collect();
                    return Err(Problem::no_table(sql, &reference.to_string(), &plain));
                }
            }
        }
        let completeness = self.completeness(&asked).await?;
        let plan = state.statement_to_plan(statement).await.map_err(problem)?;
        let frame = self.context.execute_logical_plan(plan).await.map_err(problem)?;
        let rows = frame.execute_stream().await.map_err(problem)?;
        Ok(Answer { rows, completeness })
    }

    /// What a problem met while rows are read is called.
    pub fn problem(&self, sql: &str, error: DataFusionError) -> Problem {
        Problem::of(sql, self.options.memory, error)
    }

    /// Refuses a cut that is not vouched for, or says so.
    async fn completeness(&self, asked: &BTreeSet<TopicName>) -> Result<String, Problem> {
        let Some((lsn, at)) = self.cut else {
            return self.newest(asked).await;
        };
        let cut = match at {
            Some(at) => format!("LSN {lsn} (commit {})", shown(at)),
            None => format!("LSN {lsn}"),
        };
        if asked.is_empty() {
            return Ok(format!("cut at {cut}"));
        }
        let topics = self.tables.all().await?;
        let asked: Vec<&TopicName> = asked.iter().collect();
        let archive = &self.tables.archive;
        let pipeline = self.pipeline.as_ref();
        match complete::judge(archive, &refs(&topics), &asked, lsn, pipeline).await? {
            Verdict::Complete { proof } => Ok(format!("complete through {cut}: {proof}")),
            Verdict::Unknown { .. } if self.options.allow_incomplete => {
                Ok(format!("cut at {cut}, NOT known to be complete"))
            }
            Verdict::Unknown { because } => Err(Problem::Incomplete { cut, because }),
        }
    }

    /// How far the tables of a query without a cut reach.
    async fn newest(&self, asked: &BTreeSet<TopicName>) -> Result<String, Problem> {
        let mut newest: Option<(u64, Option<i64>)> = None;
        let mut broken = 0;
        for topic in asked {
            let source = self.tables.source(topic).await?;
            broken += source.topic.breaks().len();
            let extent = source.topic.extent();
            if let Some((_, lsn)) = extent.commit_lsn {
                newest = newest.max(Some((lsn, extent.commit_ts_us.map(|(_, last)| last))));
            }
        }
        let phrase = match newest {
            Some((lsn, Some(at))) => format!("newest commit LSN {} ({})", Lsn(lsn), shown(at)),
            Some((lsn, None)) => format!("newest commit LSN {}", Lsn(lsn)),
            None => return Ok("no commits".to_owned()),
        };
        Ok(match broken {
            0 => format!("{phrase}, completeness not asked (--asof)"),
            broken => format!("{phrase}, {broken} BROKEN CHAIN LINKS: run `verify`"),
        })
    }
}

fn refs(topics: &[Arc<Source>]) -> Vec<&Topic> {
    topics.iter().map(|source| &source.topic).collect()
}

/// A time as people read it.
pub(crate) fn shown(time_us: i64) -> String {
    jiff::Timestamp::from_microsecond(time_us)
        .map_or_else(|_| time_us.to_string(), |t| t.to_string())
}

fn context(options: &Options, tables: Arc<Tables>) -> Result<SessionContext, DataFusionError> {
    let pool = GreedyMemoryPool::new(usize::try_from(options.memory).unwrap_or(usize::MAX));
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(TrackConsumersPool::new(pool, NAMED)))
        .build_arc()?;
    let mut config = SessionConfig::new()
        .with_target_partitions(options.threads.max(1))
        .with_default_catalog_and_schema("lake", "archive")
        .with_create_default_catalog_and_schema(false);
    config.options_mut().sql_parser.collect_spans = true;
    let mut context = SessionContext::new_with_config_rt(config, runtime);
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema("archive", tables)?;
    context.register_catalog("lake", Arc::new(catalog));
    functions::register(&mut context)?;
    Ok(context)
}

/// The name of a topic's table without quotes.
pub(crate) fn plain_name(topic: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    topic.chars().map(plain).collect()
}

/// Which of a topic's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum View {
    Records,
    Changes,
    Current,
}

const VIEWS: [(&str, View); 3] =
    [("", View::Records), ("_changes", View::Changes), ("_current", View::Current)];

fn names(topics: &BTreeSet<TopicName>) -> BTreeMap<String, (TopicName, View)> {
    let mut names = BTreeMap::new();
    let mut taken: HashMap<String, usize> = HashMap::new();
    for topic in topics {
        *taken.entry(plain_name(topic.as_str())).or_default() += 1;
    }
    for topic in topics {
        let plain = plain_name(topic.as_str());
        for (suffix, view) in VIEWS {
            names.insert(format!("{topic}{suffix}"), (topic.clone(), view));
            // Two topics that share a plain name are told apart by quotes only.
            if taken.get(&plain) == Some(&1) {
                names.entry(format!("{plain}{suffix}")).or_insert((topic.clone(), view));
            }
        }
    }
    names
}

/// The tables of an archive.
#[derive(Debug)]
struct Tables {
    archive: Archive,
    topics: BTreeSet<TopicName>,
    names: BTreeMap<String, (TopicName, View)>,
    stats: Arc<Stats>,
    cut: Option<i64>,
    loaded: Mutex<HashMap<TopicName, Arc<Source>>>,
}

impl Tables {
    async fn source(&self, topic: &TopicName) -> Result<Arc<Source>, Problem> {
        let mut loaded = self.loaded.lock().await;
        if let Some(source) = loaded.get(topic) {
            return Ok(source.clone());
        }
        let listed = self.archive.topic(topic).await?;
        Stats::add(&self.stats.manifests_fetched, listed.fetched);
        for foreign in &listed.foreign {
            tracing::warn!("object `{foreign}` is not part of the archive and is left out");
        }
        let shape = infer::shape(&self.archive, &listed).await?;
        let source = Arc::new(Source {
            archive: self.archive.clone(),
            topic: listed,
            shape,
            stats: self.stats.clone(),
            cut: self.cut,
        });
        loaded.insert(topic.clone(), source.clone());
        Ok(source)
    }

    async fn all(&self) -> Result<Vec<Arc<Source>>, Problem> {
        let mut all = Vec::new();
        for topic in &self.topics {
            all.push(self.source(topic).await?);
        }
        Ok(all)
    }
}

#[async_trait]
impl SchemaProvider for Tables {
    fn table_names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        let Some((topic, view)) = self.names.get(name) else { return Ok(None) };
        let source = self.source(topic).await;
        let source = source.map_err(|problem| DataFusionError::External(Box::new(problem)))?;
        Ok(Some(match view {
            View::Records => Arc::new(Records::new(source, true)),
            View::Changes => Arc::new(Records::new(source, false)),
            View::Current => Arc::new(Current::new(source)),
        }))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_a_table_by_its_own_name_and_by_a_plain_one() {
        let topics = ["inventory.cdc", "a.b", "a_b"].map(|topic| topic.parse().expect("valid"));
        let names = names(&topics.into_iter().collect());
        let of = |name: &str| names.get(name).map(|(topic, view)| (topic.to_string(), *view));
        let stock = || "inventory.cdc".to_owned();
        assert_eq!(of("inventory.cdc"), Some((stock(), View::Records)));
        assert_eq!(of("inventory_cdc_current"), Some((stock(), View::Current)));
        assert_eq!(of("inventory.cdc_changes"), Some((stock(), View::Changes)));
        assert_eq!(of("a_b"), Some(("a_b".to_owned(), View::Records)), "its own name");
        assert_eq!(of("a.b"), Some(("a.b".to_owned(), View::Records)));
    }

    #[test]
    fn a_cut_is_an_lsn_or_a_time() {
        assert_eq!("16/B374D848".parse(), Ok(Cut::Lsn(Lsn(0x16_B374_D848))));
        let second = Ok(Cut::Time(1_767_323_045_000_000));
        for time in ["2026-01-02T03:04:05Z", "2026-01-02 03:04:05Z", "2026-01-02 03:04:05"] {
            assert_eq!(time.parse(), second, "{time}");
        }
        assert!("yesterday".parse::<Cut>().is_err());
        assert!("1/".parse::<Cut>().is_err());
    }
}
