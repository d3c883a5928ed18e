//! The state of a table: of every key the last row, unless it was deleted or truncated away. The table `<t>_current`.
//!
//! ```text
//!  chunks, in any order, by several workers ──▶ state of each key ──merge──▶ states
//!        ──▶ truncated? deleted? left out ──▶ values moved from another key ──▶ rows
//! ```
//!
//! * **Merge.** Of two states of a key the later one stands; what it left out as unchanged is taken from the latest
//!   earlier one that has it. Candidates carry the number of the record they are from, so states may be merged in any
//!   order and any grouping.
//! * **Later** means a higher number of the pipeline. A row of a first copy (`r`) counts at the LSN of its copy: a
//!   streamed change of a later or the same commit goes before it, whichever record was written first.
//! * **Truncate** goes to every partition with numbers of its own, in one transaction: what is numbered below the
//!   highest of them is gone.
//! * **A moved key** is a delete of the old and a create of the new key with one position. What the create left out as
//!   unchanged stands in the old key's history, and is looked up there.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::{StreamExt, TryStreamExt, stream};

use crate::columns::{self, Batch, CURRENT, Columns, EVENT};
use crate::fetch::{self, FetchError, Queue};
use crate::head::{self, Depth, Head, Key};
use crate::json;
use crate::stats::Stats;
use crate::table::{Source, external};
use crate::wanted::Wanted;

/// Rows of a batch.
const BATCH_ROWS: usize = 4096;
/// Memory of a state beside its key and row: the map's entry, allocations.
const STATE_BYTES: usize = 160;
/// Memory is asked for in steps.
const GROW_BYTES: usize = 1 << 20;
/// The key of a truncate.
const TRUNCATE_KEY: &[u8] = b"{}";

/// The current rows of a topic.
#[derive(Debug)]
pub(crate) struct Current {
    source: Arc<Source>,
    columns: Columns,
}

impl Current {
    pub(crate) fn new(source: Arc<Source>) -> Self {
        let mut ours = CURRENT.to_vec();
        if source.shape.has_events {
            ours.extend(EVENT);
        }
        let columns = Columns::new(&ours, Arc::new(source.shape.rows.clone()), true);
        Self { source, columns }
    }
}

#[async_trait]
impl TableProvider for Current {
    fn schema(&self) -> SchemaRef {
        self.columns.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        // Only a key picks records without changing what a state is.
        Ok(filters.iter().map(|filter| self.source.narrows(filter, &["kafka_key"])).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = self.columns.project(projection);
        let asked = self.source.wanted(filters);
        let mut wanted = Wanted { keys: asked.keys, ..self.source.wanted(&[]) };
        if let Some(keys) = &mut wanted.keys {
            keys.push(TRUNCATE_KEY.to_vec());
        }
        let schema = columns.schema.clone();
        let fold = Fold {
            source: self.source.clone(),
            columns,
            wanted,
            workers: state.config().target_partitions(),
        };
        let plan =
            StreamingTableExec::try_new(schema, vec![Arc::new(fold)], None, [], false, limit)?;
        Ok(Arc::new(plan))
    }
}

#[derive(Clone, Debug)]
struct Fold {
    source: Arc<Source>,
    columns: Columns,
    wanted: Wanted,
    workers: usize,
}

impl PartitionStream for Fold {
    fn schema(&self) -> &SchemaRef {
        &self.columns.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (fold, schema) = (self.clone(), self.columns.schema.clone());
        let batches = async move {
            let (states, memory) = fold.states(&context).await?;
            Ok::<_, DataFusionError>(fold.batches(states, memory))
        };
        let batches = stream::once(batches).try_flatten();
        Box::pin(RecordBatchStreamAdapter::new(schema, batches))
    }
}

/// Where a record stands in the order of its key's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Order {
    /// The pipeline's number; of records without one, their offset.
    number: i64,
    commit_lsn: Option<i64>,
    /// Whether it is a row of a first copy.
    is_copied: bool,
}

impl Order {
    fn is_before(&self, other: &Self) -> bool {
        if self.is_copied != other.is_copied
            && let (Some(one), Some(two)) = (self.commit_lsn, other.commit_lsn)
        {
            let (copied, streamed) = if self.is_copied { (one, two) } else { (two, one) };
            let copied_is_before = copied <= streamed;
            return copied_is_before == self.is_copied;
        }
        self.number < other.number
    }
}

/// A change's place in its transaction.
type Position = (i64, i64);

/// A field that was left out as unchanged, and the latest earlier value of it that was found, with that one's place.
type Missing = (Box<str>, Option<(Order, Box<[u8]>)>);

/// What is known of one key.
#[derive(Clone, Debug)]
struct State {
    order: Order,
    /// `None`: deleted.
    row: Option<Box<[u8]>>,
    /// What the row left out.
    missing: Vec<Missing>,
    /// The create of a moved key that left them out, if it was one.
    moved: Option<Position>,
    meta: Meta,
}

#[derive(Clone, Copy, Debug, Default)]
struct Meta {
    partition: i32,
    offset: i64,
    op: Option<u8>,
    commit_lsn: Option<i64>,
    commit_ts_us: Option<i64>,
    tx_seq: Option<i64>,
    tw_seq: Option<i64>,
}

impl State {
    fn of(head: &Head<'_>) -> Self {
        let row = if head.op == Some(b'd') { None } else { columns::row_of(head) };
        let mut missing = Vec::new();
        if let (Some(_), Some(object)) = (row, head.object())
            && matches!(head.op, Some(b'c' | b'u' | b'r'))
            && let Some(names) = json::member(object, "unchanged")
        {
            let names = json::elements(names).filter_map(json::text_of);
            missing = names.map(|name| (name.into_boxed_str(), None)).collect();
        }
        let is_moved = head.op == Some(b'c') && !missing.is_empty();
        let order = Order {
            number: head.tw_seq.unwrap_or(head.offset),
            commit_lsn: head.commit_lsn,
            is_copied: head.op == Some(b'r'),
        };
        // An event's value is held without its brace.
        let row = row.map(|row| match row.first() {
            Some(b'{') => row.into(),
            _ => [b"{", row].concat().into(),
        });
        Self {
            order,
            row,
            missing,
            moved: is_moved.then(|| head.commit_lsn.zip(head.tx_seq)).flatten(),
            meta: Meta {
                partition: head.partition,
                offset: head.offset,
                op: head.op,
                commit_lsn: head.commit_lsn,
                commit_ts_us: head.commit_ts_us,
                tx_seq: head.tx_seq,
                tw_seq: head.tw_seq,
            },
        }
    }

    fn merge(&mut self, mut other: Self) {
        if self.order.is_before(&other.order) {
            std::mem::swap(self, &mut other);
        }
        // From here on `other` is the earlier one.
        let earlier = other;
        for (name, found) in &mut self.missing {
            let missing_there = earlier.missing.iter().find(|(there, _)| there == name);
            let candidate = match missing_there {
                Some((_, found)) => found.clone(),
                None => earlier
                    .row
                    .as_deref()
                    .and_then(|row| json::member(row, name))
                    .map(|value| (earlier.order, value.into())),
            };
            if let Some((order, value)) = candidate
                && found.as_ref().is_none_or(|(known, _)| known.is_before(&order))
            {
                *found = Some((order, value));
            }
            if missing_there.is_some() && self.moved.is_none() {
                self.moved = earlier.moved;
            }
        }
    }

    fn memory(&self) -> usize {
        let missing = self.missing.iter().map(|(name, found)| {
            name.len() + 64 + found.as_ref().map_or(0, |(_, value)| value.len())
        });
        self.row.as_ref().map_or(0, |row| row.len()) + missing.sum::<usize>() + STATE_BYTES
    }

    /// The row with what it left out, and how much of that was not found.
    fn filled(&self) -> (Option<Vec<u8>>, u64) {
        let Some(row) = &self.row else { return (None, 0) };
        let mut filled = row.to_vec();
        let mut unfilled = 0;
        for (name, found) in &self.missing {
            let Some((_, value)) = found else {
                unfilled += 1;
                continue;
            };
            filled.pop();
            filled.extend_from_slice(if filled.len() > 1 { b"," } else { b"" });
            filled.extend_from_slice(json::quoted(name).as_bytes());
            filled.push(b':');
            filled.extend_from_slice(value);
            filled.push(b'}');
        }
        (Some(filled), unfilled)
    }
}

/// States of keys, and the highest number of a truncate.
struct States {
    by_key: HashMap<Box<[u8]>, State>,
    truncated: i64,
    memory: MemoryReservation,
    held: usize,
}

impl States {
    fn new(memory: MemoryReservation) -> Self {
        Self { by_key: HashMap::new(), truncated: i64::MIN, memory, held: 0 }
    }

    fn on_record(&mut self, head: &Head<'_>) -> Result<()> {
        if head.op == Some(b't') {
            self.truncated = self.truncated.max(head.tw_seq.unwrap_or(head.offset));
            return Ok(());
        }
        let key = match head.key {
            Key::None => return Ok(()),
            Key::Json(key) | Key::Base64(key) => key,
        };
        self.merge(key.into(), State::of(head))
    }

    fn merge(&mut self, key: Box<[u8]>, state: State) -> Result<()> {
        let (before, after) = match self.by_key.entry(key) {
            std::collections::hash_map::Entry::Occupied(mut entry) => {
                let before = entry.get().memory();
                entry.get_mut().merge(state);
                (before, entry.get().memory())
            }
            std::collections::hash_map::Entry::Vacant(entry) => {
                let memory = entry.key().len() + state.memory();
                entry.insert(state);
                (0, memory)
            }
        };
        self.held = self.held + after - before.min(self.held);
        let reserved = self.memory.size();
        if self.held > reserved {
            self.memory.try_grow((self.held - reserved).max(GROW_BYTES))?;
        }
        Ok(())
    }

    fn absorb(&mut self, other: Self) -> Result<()> {
        self.truncated = self.truncated.max(other.truncated);
        let Self { by_key, memory, .. } = other;
        memory.free();
        for (key, state) in by_key {
            self.merge(key, state)?;
        }
        Ok(())
    }
}

impl Fold {
    /// Hands every wanted record to a visitor of each worker, and answers the visitors.
    async fn visit<V: Send + 'static>(
        &self,
        wanted: &Wanted,
        visitors: Vec<V>,
        on_record: fn(&mut V, &Head<'_>) -> Result<()>,
    ) -> Result<Vec<V>> {
        let Source { archive, topic, stats, cut, .. } = &*self.source;
        let pieces = fetch::pieces(archive, topic, wanted, stats).await.map_err(external)?;
        let queue = Arc::new(Queue::new(archive.store.clone(), stats.clone(), pieces));
        let cut = *cut;
        let workers = visitors.into_iter().map(|mut visitor| {
            let queue = queue.clone();
            let keys = wanted.keys.clone();
            SpawnedTask::spawn(async move {
                let mut chunks = std::pin::pin!(queue.chunks());
                while let Some(raw) = chunks.next().await {
                    let raw = raw.map_err(external)?;
                    let mut start = 0;
                    for end in memchr::memchr_iter(b'\n', &raw.lines) {
                        let line = &raw.lines[start..end];
                        start = end + 1;
                        let head = head::read(line, Depth::Body).map_err(|source| {
                            external(FetchError::Foreign { key: raw.segment.key.clone(), source })
                        })?;
                        let is_seen = match cut {
                            None => true,
                            Some(cut) => head.commit_lsn.is_some_and(|lsn| lsn <= cut),
                        };
                        let is_wanted = keys.as_ref().is_none_or(|keys| {
                            columns::key_text(head.key)
                                .is_some_and(|text| keys.iter().any(|key| *key == text.as_bytes()))
                        });
                        if is_seen && is_wanted {
                            on_record(&mut visitor, &head)?;
                        }
                    }
                }
                Ok::<_, DataFusionError>(visitor)
            })
        });
        let mut visited = Vec::new();
        for worker in workers.collect::<Vec<_>>() {
            let done = worker.join_unwind().await;
            visited.push(done.map_err(|error| DataFusionError::External(Box::new(error)))??);
        }
        Ok(visited)
    }

    async fn states(&self, context: &TaskContext) -> Result<(States, MemoryReservation)> {
        let name = format!("the current rows of {}", self.source.topic.name);
        let reserve =
            || MemoryConsumer::new(name.clone()).register(&context.runtime_env().memory_pool);
        let visitors = (0..self.workers.max(1)).map(|_| States::new(reserve())).collect();
        let parts = self.visit(&self.wanted, visitors, States::on_record).await?;
        let mut states = States::new(reserve());
        for part in parts {
            states.absorb(part)?;
        }
        let truncated = states.truncated;
        states.by_key.retain(|_, state| state.row.is_some() && state.order.number > truncated);
        self.follow_moves(&mut states).await?;
        Ok((states, reserve()))
    }

    /// Fills what creates of moved keys left out, from the history of the keys they had before.
    async fn follow_moves(&self, states: &mut States) -> Result<()> {
        loop {
            let mut moves: HashMap<Position, Vec<Box<[u8]>>> = HashMap::new();
            for (key, state) in &states.by_key {
                if let Some(position) = state.moved
                    && state.missing.iter().any(|(_, found)| found.is_none())
                {
                    moves.entry(position).or_default().push(key.clone());
                }
            }
            if moves.is_empty() {
                return Ok(());
            }
            // The deletes at those positions name the old keys.
            let lsns = moves.keys().map(|(lsn, _)| *lsn);
            let (low, high) =
                (lsns.clone().min().unwrap_or_default(), lsns.max().unwrap_or_default());
            let near = Wanted { commit_lsn: low..=high, ..Wanted::default() };
            let positions: std::collections::HashSet<Position> = moves.keys().copied().collect();
            let deletes = self
                .visit(
                    &near,
                    vec![Deletes { positions, found: HashMap::new() }],
                    Deletes::on_record,
                )
                .await?
                .pop()
                .map(|deletes| deletes.found)
                .unwrap_or_default();
            // The old keys' histories up to there.
            let keys = deletes.values().map(|(key, _)| key.to_vec()).collect();
            let of_keys = Wanted { keys: Some(keys), ..self.source.wanted(&[]) };
            let histories = deletes
                .into_iter()
                .map(|(position, (key, order))| History { position, key, order, state: None })
                .collect();
            let histories = self.visit(&of_keys, vec![Histories(histories)], Histories::on_record);
            let mut earlier: HashMap<Position, State> = HashMap::new();
            for history in histories.await?.into_iter().flat_map(|histories| histories.0) {
                earlier.extend(history.state.map(|state| (history.position, state)));
            }
            for (position, keys) in moves {
                for key in keys {
                    let Some(state) = states.by_key.get_mut(&key) else { continue };
                    state.moved = None;
                    if let Some(earlier) = earlier.get(&position) {
                        // It lies before whatever the new key has had.
                        let order = Order { number: i64::MIN, ..earlier.order };
                        state.merge(State { order, ..earlier.clone() });
                    }
                }
            }
        }
    }

    fn batches(
        self,
        states: States,
        memory: MemoryReservation,
    ) -> impl futures::Stream<Item = Result<RecordBatch>> + Send + use<> {
        let States { by_key, memory: held, .. } = states;
        let mut rows = by_key.into_iter();
        stream::iter(std::iter::from_fn(move || {
            let _ = (&memory, &held);
            let mut batch = Batch::new(&self.columns);
            for (key, state) in rows.by_ref().take(BATCH_ROWS) {
                let (row, unfilled) = state.filled();
                Stats::add(&self.source.stats.unfilled, unfilled);
                let meta = state.meta;
                let head = Head {
                    offset: meta.offset,
                    partition: meta.partition,
                    op: meta.op,
                    commit_lsn: meta.commit_lsn,
                    commit_ts_us: meta.commit_ts_us,
                    tx_seq: meta.tx_seq,
                    tw_seq: meta.tw_seq,
                    key: Key::Json(&key),
                    ..Head::default()
                };
                batch.push(&head, row.as_deref());
            }
            if batch.rows() == 0 {
                return None;
            }
            let (arrays, rows, drifted) = batch.finish();
            Stats::add(&self.source.stats.drifted, drifted);
            let options =
                datafusion::arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
            let schema = self.columns.schema.clone();
            Some(RecordBatch::try_new_with_options(schema, arrays, &options).map_err(Into::into))
        }))
    }
}

/// Deletes at certain positions: the key that was deleted, and its place in the order.
struct Deletes {
    positions: std::collections::HashSet<Position>,
    found: HashMap<Position, (Box<[u8]>, Order)>,
}

impl Deletes {
    #[expect(clippy::unnecessary_wraps, reason = "other visitors can fail")]
    fn on_record(&mut self, head: &Head<'_>) -> Result<()> {
        if let (Some(b'd'), Some(position), Key::Json(key)) =
            (head.op, head.commit_lsn.zip(head.tx_seq), head.key)
            && self.positions.contains(&position)
        {
            self.found.insert(position, (key.into(), State::of(head).order));
        }
        Ok(())
    }
}

/// The states that keys had before they were moved.
struct Histories(Vec<History>);

struct History {
    position: Position,
    key: Box<[u8]>,
    order: Order,
    state: Option<State>,
}

impl Histories {
    #[expect(clippy::unnecessary_wraps, reason = "other visitors can fail")]
    fn on_record(&mut self, head: &Head<'_>) -> Result<()> {
        let Key::Json(key) = head.key else { return Ok(()) };
        for history in self.0.iter_mut().filter(|history| *history.key == *key) {
            let state = State::of(head);
            if state.order.is_before(&history.order) && head.op != Some(b'x') {
                match &mut history.state {
                    Some(known) => known.merge(state),
                    none => *none = Some(state),
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn state(number: i64, op: u8, row: Option<&str>, missing: &[&str]) -> State {
        State {
            order: Order { number, commit_lsn: Some(number), is_copied: op == b'r' },
            row: row.map(|row| row.as_bytes().into()),
            missing: missing.iter().map(|name| ((*name).into(), None)).collect(),
            moved: None,
            meta: Meta { op: Some(op), ..Meta::default() },
        }
    }

    fn row(state: &State) -> Option<String> {
        state.filled().0.map(|row| String::from_utf8(row).expect("text"))
    }

    #[test]
    fn what_was_left_out_is_taken_from_the_latest_that_has_it() {
        let mut merged = state(3, b'u', Some(r#"{"id":1,"n":3}"#), &["text"]);
        merged.merge(state(1, b'c', Some(r#"{"id":1,"n":1,"text":"old"}"#), &[]));
        assert_eq!(row(&merged).as_deref(), Some(r#"{"id":1,"n":3,"text":"old"}"#));
        merged.merge(state(2, b'u', Some(r#"{"id":1,"n":2,"text":"new"}"#), &[]));
        assert_eq!(row(&merged).as_deref(), Some(r#"{"id":1,"n":3,"text":"new"}"#));
        merged.merge(state(4, b'd', None, &[]));
        assert_eq!(row(&merged), None);
    }

    #[test]
    fn a_copied_row_does_not_replace_a_change_of_a_later_commit() {
        let copied = |lsn| State {
            order: Order { number: 9, commit_lsn: Some(lsn), is_copied: true },
            ..state(9, b'r', Some(r#"{"id":1,"n":0}"#), &[])
        };
        let changed = state(5, b'u', Some(r#"{"id":1,"n":5}"#), &[]);
        for lsn in [4, 5] {
            let mut merged = copied(lsn);
            merged.merge(changed.clone());
            assert_eq!(row(&merged).as_deref(), Some(r#"{"id":1,"n":5}"#));
        }
        let mut merged = changed;
        merged.merge(copied(6));
        assert_eq!(row(&merged).as_deref(), Some(r#"{"id":1,"n":0}"#));
    }

    #[test]
    fn any_order_and_grouping_of_merges_gives_the_state_that_one_after_the_other_gives() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..500 {
            let mut history = vec![state(0, b'c', Some(r#"{"a":0,"b":0}"#), &[])];
            let (mut a, mut b, mut lives) = (0, 0, true);
            for number in 1..random.random_range(2..9) {
                history.push(match random.random_range(0..5) {
                    0 if lives => {
                        lives = false;
                        state(number, b'd', None, &[])
                    }
                    1 if lives => {
                        a = number;
                        state(number, b'u', Some(&format!(r#"{{"a":{a}}}"#)), &["b"])
                    }
                    2 if lives => {
                        b = number;
                        state(number, b'u', Some(&format!(r#"{{"b":{b}}}"#)), &["a"])
                    }
                    _ => {
                        (a, b, lives) = (number, number, true);
                        state(number, b'c', Some(&format!(r#"{{"a":{a},"b":{b}}}"#)), &[])
                    }
                });
            }
            history.shuffle(&mut random);
            while history.len() > 1 {
                let one = history.swap_remove(random.random_range(0..history.len()));
                let other = random.random_range(0..history.len());
                history[other].merge(one);
            }
            let found = history[0].filled().0;
            if lives {
                let found: serde_json::Value =
                    serde_json::from_slice(&found.expect("lives")).expect("JSON");
                assert_eq!(found, serde_json::json!({"a": a, "b": b}));
            } else {
                assert_eq!(found, None);
            }
        }
    }
}
