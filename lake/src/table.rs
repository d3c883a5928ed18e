//! Every archived record of a topic as a row: the table `<t>`, and `<t>_changes` without tombstones.
//!
//! ```text
//!  filters ──▶ wanted ranges and keys ──▶ pieces ──▶ queue ──▶ workers: chunk ──▶ batch of the wanted columns
//! ```
//!
//! Filters only leave chunks out; the engine applies them again to every row. So a row that is there is right, and
//! pruning can only be too careful.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::{StreamExt, TryStreamExt, stream};
use memchr::memmem::Finder;

use crate::archive::{Archive, Topic};
use crate::columns::{Batch, Columns, EVENT, OURS, Type};
use crate::fetch::{self, FetchError, Piece, Queue, Raw};
use crate::head::{self, Depth};
use crate::infer::Shape;
use crate::stats::Stats;
use crate::wanted::{self, Wanted};

/// What all tables of a topic are made from.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) archive: Archive,
    pub(crate) topic: Topic,
    pub(crate) shape: Shape,
    pub(crate) stats: Arc<Stats>,
    /// Commits after this LSN are not seen.
    pub(crate) cut: Option<i64>,
}

impl Source {
    pub(crate) fn wanted(&self, filters: &[Expr]) -> Wanted {
        let mut wanted = Wanted::of(filters, &|equal| self.key_of(equal));
        if let Some(cut) = self.cut {
            wanted.commit_lsn = *wanted.commit_lsn.start()..=*wanted.commit_lsn.end().min(&cut);
        }
        wanted
    }

    /// The key of the row whose columns have these values, when they tell it exactly.
    fn key_of(&self, equal: &[(&str, &ScalarValue)]) -> Option<Vec<u8>> {
        let key = self.shape.key.as_ref().filter(|_| self.shape.only_changes)?;
        let mut members = Vec::new();
        for field in key {
            let column = self.shape.rows.iter().find(|row| row.field == *field)?;
            let (_, value) = equal.iter().find(|(name, _)| *name == column.name)?;
            let value = match column.kind {
                Type::Int => match value {
                    ScalarValue::Int64(Some(value)) => value.to_string(),
                    _ => return None,
                },
                Type::Text => plain_text(&wanted::text(value)?)?,
                Type::Float | Type::Bool | Type::Json => return None,
            };
            members.push(format!("{}:{value}", crate::json::quoted(field)));
        }
        Some(format!("{{{}}}", members.join(",")).into_bytes())
    }

    /// The columns a key follows from.
    fn key_columns(&self) -> Vec<&str> {
        let key = self.shape.key.iter().flatten();
        let rows = key.filter_map(|field| self.shape.rows.iter().find(|row| row.field == *field));
        rows.map(|row| row.name.as_str()).collect()
    }

    /// Whether a filter can leave chunks out.
    pub(crate) fn narrows(&self, filter: &Expr, columns: &[&str]) -> TableProviderFilterPushDown {
        let keys = self.key_columns();
        let used = filter.column_refs();
        let narrows = used
            .iter()
            .any(|column| columns.contains(&column.name()) || keys.contains(&column.name()));
        if narrows {
            TableProviderFilterPushDown::Inexact
        } else {
            TableProviderFilterPushDown::Unsupported
        }
    }
}

/// A text as JSON, when there is only one way to write it.
fn plain_text(text: &str) -> Option<String> {
    let plain = |c: char| c >= ' ' && !matches!(c, '"' | '\\' | '\u{7f}');
    text.chars().all(plain).then(|| format!("\"{text}\""))
}

/// Whether a key stands in a line byte for byte: as an object, or as a text that needs no escapes.
fn stands_as_it_is(key: &[u8]) -> bool {
    let plain = |byte: &u8| *byte >= b' ' && !matches!(byte, b'"' | b'\\' | 0x7f);
    let object = || {
        serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(key).is_ok()
            && memchr::memchr2(b'\n', b'\r', key).is_none()
    };
    key.iter().all(plain) || object()
}

/// The records of a topic.
#[derive(Debug)]
pub(crate) struct Records {
    source: Arc<Source>,
    columns: Columns,
    with_tombstones: bool,
}

impl Records {
    pub(crate) fn new(source: Arc<Source>, with_tombstones: bool) -> Self {
        let mut ours = OURS.to_vec();
        if source.shape.has_events {
            ours.extend(EVENT);
        }
        let columns = Columns::new(&ours, Arc::new(source.shape.rows.clone()), false);
        Self { source, columns, with_tombstones }
    }

    /// How many records there are, when it is known without reading any.
    fn counted(&self, filters: &[Expr]) -> Option<u64> {
        if !filters.is_empty() || self.source.cut.is_some() {
            return None;
        }
        let mut count = 0;
        for segment in &self.source.topic.segments {
            if segment.repeats() {
                return None;
            }
            count += segment.extent.records;
            if !self.with_tombstones && segment.extent.records > 0 {
                if segment.ops.is_empty() {
                    return None;
                }
                count -= segment.ops.get(&'x').copied().unwrap_or(0);
            }
        }
        Some(count)
    }
}

#[async_trait]
impl TableProvider for Records {
    fn schema(&self) -> SchemaRef {
        self.columns.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(filters.iter().map(|filter| self.source.narrows(filter, &wanted::COLUMNS)).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = self.columns.project(projection);
        let source = &self.source;
        if columns.cols.is_empty()
            && let Some(count) = self.counted(filters)
        {
            let counted: Arc<dyn PartitionStream> =
                Arc::new(Counted { schema: columns.schema.clone(), count });
            for segment in &source.topic.segments {
                Stats::add(&source.stats.segments, 1);
                Stats::add(&source.stats.chunks, segment.chunks.len() as u64);
                Stats::add(&source.stats.bytes, segment.bytes);
            }
            let plan =
                StreamingTableExec::try_new(columns.schema, vec![counted], None, [], false, limit)?;
            return Ok(Arc::new(plan));
        }
        let wanted = source.wanted(filters);
        let pieces = fetch::pieces(&source.archive, &source.topic, &wanted, &source.stats).await;
        let pieces = pieces.map_err(external)?;
        let workers = state.config().target_partitions().min(pieces.len()).max(1);
        let scan = Arc::new(Scan {
            source: source.clone(),
            columns: columns.clone(),
            with_tombstones: self.with_tombstones,
            wanted,
            pieces,
            running: Mutex::default(),
        });
        let workers = (0..workers)
            .map(|at| Arc::new(ScanWorker { at, scan: scan.clone() }) as Arc<dyn PartitionStream>);
        let plan =
            StreamingTableExec::try_new(columns.schema, workers.collect(), None, [], false, limit)?;
        Ok(Arc::new(plan))
    }
}

pub(crate) fn external(error: FetchError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// One scan of a topic, by several workers.
struct Scan {
    source: Arc<Source>,
    columns: Columns,
    with_tombstones: bool,
    wanted: Wanted,
    pieces: Vec<Piece>,
    running: Mutex<Running>,
}

/// The queue of a run, and the workers that have begun on it.
#[derive(Debug, Default)]
struct Running {
    queue: Option<Arc<Queue>>,
    begun: Vec<usize>,
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scan({}, {} pieces)", self.source.topic.name, self.pieces.len())
    }
}

impl Scan {
    /// A worker that begins for the second time belongs to another run of the same plan.
    fn queue(&self, worker: usize) -> Arc<Queue> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.begun.contains(&worker) {
            *running = Running::default();
        }
        running.begun.push(worker);
        let fresh = || {
            let store = self.source.archive.store.clone();
            Arc::new(Queue::new(store, self.source.stats.clone(), self.pieces.clone()))
        };
        running.queue.get_or_insert_with(fresh).clone()
    }

    fn batch(&self, raw: &Raw) -> Result<RecordBatch> {
        let mut batch = Batch::new(&self.columns);
        let wants_ops = !self.with_tombstones;
        let cut = self.source.cut;
        let mut depth = self.columns.depth();
        if wants_ops {
            depth = depth.max(Depth::Op);
        }
        if cut.is_some() {
            depth = depth.max(Depth::CommitLsn);
        }
        // Lines without a key that is looked for are not read at all, where it stands in them as it is.
        let keys = self.wanted.keys.as_deref().unwrap_or_default();
        let stand = keys.iter().all(|key| stands_as_it_is(key));
        let finders: Vec<Finder<'_>> =
            if stand { keys.iter().map(Finder::new).collect() } else { Vec::new() };
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', &raw.lines) {
            let line = &raw.lines[start..end];
            start = end + 1;
            if !finders.is_empty() && finders.iter().all(|finder| finder.find(line).is_none()) {
                continue;
            }
            let head = head::read(line, depth).map_err(|source| {
                external(FetchError::Foreign { key: raw.segment.key.clone(), source })
            })?;
            let is_seen = match cut {
                None => true,
                Some(cut) => head.commit_lsn.is_some_and(|lsn| lsn <= cut),
            };
            if is_seen && !(wants_ops && head.op == Some(b'x')) {
                if self.columns.cols.is_empty() {
                    batch.count(1);
                } else {
                    batch.push(&head, None);
                }
            }
        }
        let (arrays, rows, drifted) = batch.finish();
        Stats::add(&self.source.stats.drifted, drifted);
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(self.columns.schema.clone(), arrays, &options)?)
    }
}

#[derive(Debug)]
struct ScanWorker {
    at: usize,
    scan: Arc<Scan>,
}

impl PartitionStream for ScanWorker {
    fn schema(&self) -> &SchemaRef {
        &self.scan.columns.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let scan = self.scan.clone();
        let chunks = scan.queue(self.at).chunks().map_err(external);
        let schema = scan.columns.schema.clone();
        let batches = chunks.map(move |raw| scan.batch(&raw?));
        Box::pin(RecordBatchStreamAdapter::new(schema, batches))
    }
}

/// Rows of which only the number was asked.
#[derive(Debug)]
struct Counted {
    schema: SchemaRef,
    count: u64,
}

impl PartitionStream for Counted {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = usize::try_from(self.count).unwrap_or(usize::MAX);
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), vec![], &options);
        let batches = stream::iter([batch.map_err(DataFusionError::from)]);
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches))
    }
}
