//! The part of the pipeline that writes copied rows.
//!
//! ```text
//!  rows of a table ──▶ r r r … ──last──▶ (not its first copy) keys that vanished ──▶ d d … ──▶ copied, in progress
//! ```
//!
//! Deletes of vanished keys stand behind the rows, at the same point of history. Interrupted between the two or in the
//! middle of either, the table is not noted as copied and all of it is done again at a later point. All of it happens on
//! the lane whose turn it is, and that lane alone waits for it.

use std::collections::VecDeque;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use tailwater_topics_contract::Position;

use super::lane::STREAM;
use super::{IDLE_TICK, Pipeline};
use crate::copies::Existing;
use crate::crash::{self, Point};
use crate::error::Error;
use crate::metrics as names;
use crate::pgoutput::Tuple;
use crate::publish::Publisher;
use crate::route::TableRoute;
use crate::snapshot::{self, Order, Rows, Vanished, cells};
use crate::stream::Lines;

/// How many times as large as one of changes a Kafka transaction of copied rows may be, and how old at least. Nobody waits
/// for a row that has stood in its table for long, and each commit is a pause; `docs/performance.md` has what that costs.
const FULL: f64 = 4.0;
const OLD: Duration = Duration::from_secs(1);

/// A copy that is being written.
pub(super) struct Copy {
    order: Order,
    tables: Vec<Table>,
    /// Place of the next row among all rows of the copy. Beside the point it tells the rows apart.
    ordinal: u64,
    cells: Vec<u8>,
    /// Written so far, for the metrics of the open transaction.
    rows: u64,
    bytes: u64,
    /// Keys that have gone from a table whose rows are written are looked for.
    search: Option<Search>,
    /// Tables whose rows are all written and that are not noted as copied.
    written: VecDeque<usize>,
}

/// The search for keys that have gone from one table.
struct Search {
    vanished: Vanished,
    found: u64,
}

struct Table {
    /// Where its rows go; `None` when its topic was removed meanwhile.
    route: Option<TableRoute>,
    ranges_left: usize,
    rows: u64,
    /// Where its topic ended when the copy began, by partition; `None` when no key can have gone.
    copied_from: Option<Vec<i64>>,
}

impl Table {
    fn is_written(&self) -> bool {
        self.ranges_left == 0
    }
}

impl<P: Publisher> Pipeline<P> {
    /// Begins the next copy if its point is reached.
    pub(super) fn begin_copy(&mut self) -> Result<(), Error> {
        let lane = &self.lanes[self.at_work];
        if lane.copy.is_some() || !self.is_copy_due() || !lane.is_between() {
            return Ok(());
        }
        self.register()?;
        let Some(mut order) = self.lanes[self.at_work].orders.pop_front() else { return Ok(()) };
        if self.open.since.is_some() {
            // What is written from here on are copied rows, so that offsets tell them from all before.
            self.close()?;
        }
        let mut tables = Vec::new();
        for table in &order.tables {
            let route = self.lanes[self.at_work].capture.route_of_copy(&table.relation)?;
            let copied_from = match &route {
                Some(route) if !table.due.is_first => {
                    let extents = order.past.extents(&route.topic)?;
                    Some(extents.iter().map(|extent| extent.next).collect())
                }
                _ => None,
            };
            tables.push(Table { route, ranges_left: table.ranges, rows: 0, copied_from });
        }
        tracing::info!(at = %order.at, tables = tables.len(), "copying the rows that tables hold");
        self.progress.on_copying(Some(order.copying((self.clock)())));
        crash::point(Point::CopyBegun);
        let empty = (0..tables.len()).filter(|at| tables[*at].ranges_left == 0).collect();
        self.lanes[self.at_work].copy = Some(Copy {
            order,
            tables,
            ordinal: 0,
            cells: Vec::new(),
            rows: 0,
            bytes: 0,
            written: empty,
            search: None,
        });
        self.end_copy()
    }

    /// How long a lane with a copy may wait for more of it.
    pub(super) fn copy_wait(&self) -> Duration {
        match self.open.since {
            _ if self.at_work != STREAM => Duration::ZERO,
            None => IDLE_TICK,
            Some(since) => self.copy_delay().saturating_sub(since.elapsed()).min(IDLE_TICK),
        }
    }

    fn copy_delay(&self) -> Duration {
        self.delay().max(OLD)
    }

    /// Takes what the workers hand over next. Answers whether there was anything.
    pub(super) fn copy_next(&mut self, wait: Duration) -> Result<bool, Error> {
        let Some(mut copy) = self.lanes[self.at_work].copy.take() else { return Ok(false) };
        if !copy.written.is_empty() {
            let searched = self.search(&mut copy);
            self.lanes[self.at_work].copy = Some(copy);
            searched?;
            self.end_copy()?;
            return Ok(true);
        }
        let mut is_any = true;
        let popped = copy.order.rows.pop(wait);
        let taken = match popped {
            Ok(Rows::Chunk { table, chunk }) => {
                let taken = self.on_lines(&mut copy, table, &chunk);
                copy.order.rows.done(chunk.len());
                taken
            }
            Ok(Rows::Range { table, bytes }) => {
                self.progress.on_copied_range(bytes);
                crash::point(Point::RangeCopied);
                copy.tables[table].ranges_left -= 1;
                if copy.tables[table].ranges_left == 0 {
                    copy.written.push_back(table);
                }
                Ok(())
            }
            Err(RecvTimeoutError::Timeout) => {
                is_any = false;
                Ok(())
            }
            // The workers gave up. The session knows why, and ends us.
            Err(RecvTimeoutError::Disconnected) => {
                is_any = false;
                std::thread::sleep(wait.min(Duration::from_millis(10)));
                Ok(())
            }
        };
        self.lanes[self.at_work].copy = Some(copy);
        taken?;
        self.tell_copy();
        if self.open.since.is_some_and(|since| since.elapsed() >= self.copy_delay()) {
            self.close()?;
        }
        Ok(is_any)
    }

    fn on_lines(&mut self, copy: &mut Copy, place: usize, chunk: &[u8]) -> Result<(), Error> {
        let (began, sent, now_ms) = (Instant::now(), self.open.send, (self.clock)());
        let columns = copy.order.tables[place].relation.columns.len();
        let table = &mut copy.tables[place];
        let Some(route) = &table.route else { return Ok(()) };
        for line in Lines::new(chunk) {
            copy.cells.clear();
            cells(line, columns, &mut copy.cells).map_err(|source| snapshot::Error::Line {
                table: copy.order.tables[place].name(),
                source,
            })?;
            let row = Tuple::built(columns as u16, &copy.cells);
            let position = Position { commit_lsn: copy.order.at, ordinal: copy.ordinal };
            let before = self.batch.bytes();
            let taken_ms = copy.order.taken_ms;
            let capture = &mut self.lanes[self.at_work].capture;
            capture.on_copied_row(route, &row, position, taken_ms, now_ms, &mut self.batch)?;
            copy.ordinal += 1;
            table.rows += 1;
            let bytes = self.batch.bytes() - before;
            self.open.since.get_or_insert_with(Instant::now);
            self.open.records += 1;
            self.open.bytes += bytes;
            copy.rows += 1;
            copy.bytes += bytes as u64;
            if self.fill() >= FULL {
                self.progress.on_copied_rows(copy.ordinal);
                self.close()?;
            } else if self.batch.bytes() >= super::HAND_OVER {
                self.hand_over()?;
            }
        }
        self.progress.on_copied_rows(copy.ordinal);
        crash::point(Point::RowsCopied);
        self.open.capture += began.elapsed().saturating_sub(self.open.send.saturating_sub(sent));
        metrics::counter!(names::COPIED_ROWS).increment(std::mem::take(&mut copy.rows));
        metrics::counter!(names::COPIED_BYTES).increment(std::mem::take(&mut copy.bytes));
        Ok(())
    }

    /// Looks for a moment for keys that have gone from the first of the tables whose rows are written, and writes their
    /// deletes. Once there are no more, the table is copied.
    fn search(&mut self, copy: &mut Copy) -> Result<(), Error> {
        let Some(place) = copy.written.front().copied() else { return Ok(()) };
        if copy.search.is_none() {
            copy.search = self.begin_search(copy, place)?;
        }
        let keys = match &mut copy.search {
            Some(search) => search.vanished.next(copy.order.past.as_mut())?,
            None => None,
        };
        if let Some(keys) = keys {
            return self.write_deletes(copy, place, &keys);
        }
        let vanished = copy.search.take().map_or(0, |search| search.found);
        copy.written.pop_front();
        self.on_copied(copy, place, vanished);
        Ok(())
    }

    /// `None` where no key can have gone.
    fn begin_search(&mut self, copy: &mut Copy, place: usize) -> Result<Option<Search>, Error> {
        let table = &copy.tables[place];
        let (Some(route), Some(copied_from)) = (&table.route, &table.copied_from) else {
            return Ok(None);
        };
        if self.open.since.is_some() {
            // Only what is committed can be read.
            self.close()?;
        }
        let name = copy.order.tables[place].name();
        tracing::info!(table = %name, "looking for keys that have gone from the table");
        let extents = copy.order.past.extents(&route.topic)?;
        let keys_max = self.limits.copy_keys;
        let vanished = Vanished::new(route.topic.clone(), extents, copied_from, keys_max);
        Ok(Some(Search { vanished, found: 0 }))
    }

    fn write_deletes(
        &mut self,
        copy: &mut Copy,
        place: usize,
        keys: &[Vec<u8>],
    ) -> Result<(), Error> {
        let (Some(route), Some(search)) = (&copy.tables[place].route, &mut copy.search) else {
            return Ok(());
        };
        search.found += keys.len() as u64;
        metrics::counter!(names::VANISHED_KEYS).increment(keys.len() as u64);
        let (now_ms, taken_ms) = ((self.clock)(), copy.order.taken_ms);
        for key in keys {
            let position = Position { commit_lsn: copy.order.at, ordinal: copy.ordinal };
            let (records, bytes) = (self.batch.len(), self.batch.bytes());
            let capture = &mut self.lanes[self.at_work].capture;
            capture.on_vanished(route, key, position, taken_ms, now_ms, &mut self.batch)?;
            copy.ordinal += 1;
            self.open.since.get_or_insert_with(Instant::now);
            self.open.records += (self.batch.len() - records) as u64;
            self.open.bytes += self.batch.bytes() - bytes;
            if self.fill() >= FULL {
                self.close()?;
            } else if self.batch.bytes() >= super::HAND_OVER {
                self.hand_over()?;
            }
        }
        if self.open.since.is_some_and(|since| since.elapsed() >= self.copy_delay()) {
            self.close()?;
        }
        Ok(())
    }

    /// All of a table is written; the open Kafka transaction says so when it commits.
    fn on_copied(&mut self, copy: &Copy, place: usize, vanished: u64) {
        let Table { route, rows, .. } = &copy.tables[place];
        let (ordered, at) = (&copy.order.tables[place], copy.order.at);
        if let Some(route) = route {
            tracing::info!(table = %ordered.name(), rows, vanished, "copied");
            let (asked_ms, topic) = (ordered.due.asked_ms, Some(route.topic.clone()));
            let existing = Existing::Copied { at, rows: *rows, asked_ms, topic };
            self.progress.on_copied(ordered.name(), existing);
            crash::point(Point::TableCopied);
        }
    }

    /// Ends the copy once every table is written, so that all rows are durable before the lane goes on.
    fn end_copy(&mut self) -> Result<(), Error> {
        let is_done = self.lanes[self.at_work].copy.as_ref().is_some_and(|copy| {
            copy.written.is_empty() && copy.tables.iter().all(Table::is_written)
        });
        if !is_done {
            return Ok(());
        }
        let rows = self.lanes[self.at_work].copy.take().map_or(0, |copy| copy.ordinal);
        self.progress.on_copying(None);
        crash::point(Point::CopyEnding);
        self.close()?;
        crash::point(Point::CopyEnded);
        self.tell_copy();
        tracing::info!(rows, "all rows that tables held are in Kafka; following changes");
        Ok(())
    }

    /// Says how far the copy is.
    pub(super) fn tell_copy(&mut self) {
        let now_ms = (self.clock)();
        let Some(copying) = self.progress.copying() else {
            metrics::gauge!(names::COPY_TABLES_LEFT).set(0.0);
            metrics::gauge!(names::COPY_BYTES_LEFT).set(0.0);
            return;
        };
        metrics::gauge!(names::COPY_TABLES_LEFT).set(copying.tables_left as f64);
        let left = copying.bytes.saturating_sub(copying.bytes_done);
        metrics::gauge!(names::COPY_BYTES_LEFT).set(left as f64);
        if copying.is_time_to_tell(now_ms) {
            tracing::info!(
                tables_left = copying.tables_left,
                rows = copying.rows,
                mib_done = copying.bytes_done >> 20,
                mib = copying.bytes >> 20,
                seconds_left = copying.left_ms(now_ms).map(|ms| ms / 1000),
                "copying the rows that tables hold"
            );
        }
    }
}
