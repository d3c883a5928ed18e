//! The part of the pipeline that writes copied rows.

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use tailwater_topics_contract::{Lsn, Position};

use super::{IDLE_TICK, Pipeline};
use crate::copies::Existing;
use crate::error::Error;
use crate::metrics as names;
use crate::pgoutput::Tuple;
use crate::publish::Publisher;
use crate::route::TableRoute;
use crate::snapshot::{self, Copying, Order, Rows, cells};
use crate::stream::{Frame, Lines};

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
}

struct Table {
    /// Where its rows go; `None` when its topic was removed meanwhile.
    route: Option<TableRoute>,
    ranges_left: usize,
    rows: u64,
}

impl<P: Publisher> Pipeline<P> {
    /// Takes a copy that is to be made once the stream has reached its point. One whose point has been passed is refused:
    /// its rows would stand behind changes that followed them.
    pub fn on_order(&mut self, order: Order) -> Result<(), Error> {
        let passed = self.passed.max(self.capture.at().position);
        if order.at < passed {
            return Err(snapshot::Error::Passed { at: order.at, passed }.into());
        }
        self.orders.push_back(order);
        Ok(())
    }

    /// Whether the stream must not go on with this frame before the next copy is made: it may belong to a transaction
    /// that the copy does not see.
    pub(super) fn is_held(&mut self, frame: Frame<'_>) -> bool {
        if self.orders.is_empty() || !self.is_between() {
            return false;
        }
        // A message outside of transactions takes the stream on as a transaction does.
        if let Frame::Data { body: [b'B', lsn @ ..] | [b'M', 0, lsn @ ..], .. } = frame
            && let Some(lsn) = lsn.first_chunk()
        {
            // Transactions come in the order of their commits, so everything before this one has been taken.
            self.passed = self.passed.max(Lsn(u64::from_be_bytes(*lsn)));
        }
        self.orders.front().is_some_and(|order| self.passed >= order.at)
    }

    /// No transaction is open, and none of which a part is in Kafka has yet to come.
    fn is_between(&self) -> bool {
        !self.capture.is_inside_transaction() && self.capture.at().in_flight.is_none()
    }

    /// Begins the next copy if the stream has reached its point.
    pub(super) fn begin_copy(&mut self) -> Result<(), Error> {
        let is_due = self.orders.front().is_some_and(|order| self.passed >= order.at);
        if self.copy.is_some() || !is_due || !self.is_between() {
            return Ok(());
        }
        self.register()?;
        let Some(order) = self.orders.pop_front() else { return Ok(()) };
        let mut tables = Vec::new();
        for table in &order.tables {
            tables.push(Table {
                route: self.capture.route_of_copy(&table.relation)?,
                ranges_left: table.ranges,
                rows: 0,
            });
        }
        tracing::info!(at = %order.at, tables = tables.len(), "copying the rows that tables hold");
        self.progress.on_copying(Some(Copying::new(&order, (self.clock)())));
        let empty: Vec<usize> =
            (0..tables.len()).filter(|at| tables[*at].ranges_left == 0).collect();
        self.copy = Some(Copy { order, tables, ordinal: 0, cells: Vec::new(), rows: 0, bytes: 0 });
        for table in empty {
            self.on_copied(table);
        }
        self.end_copy()
    }

    /// Takes what the workers hand over next, if anything.
    pub(super) fn copy_next(&mut self) -> Result<(), Error> {
        let wait = match self.open.since {
            None => IDLE_TICK,
            Some(since) => self.delay().saturating_sub(since.elapsed()).min(IDLE_TICK),
        };
        let Some(mut copy) = self.copy.take() else { return Ok(()) };
        let popped = copy.order.rows.pop(wait);
        let taken = match popped {
            Ok(Rows::Chunk { table, chunk }) => {
                let taken = self.on_lines(&mut copy, table, &chunk);
                copy.order.rows.done(chunk.len());
                taken
            }
            Ok(Rows::Range { table, bytes }) => {
                self.copy = Some(copy);
                return self.on_range(table, bytes);
            }
            Err(RecvTimeoutError::Timeout) => Ok(()),
            // The workers gave up. The session knows why, and ends us.
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(Duration::from_millis(10));
                Ok(())
            }
        };
        self.copy = Some(copy);
        taken?;
        self.tell_copy();
        if self.open.since.is_some_and(|since| since.elapsed() >= self.delay()) {
            self.close()?;
        }
        Ok(())
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
            self.capture.on_copied_row(route, &row, position, taken_ms, now_ms, &mut self.batch)?;
            copy.ordinal += 1;
            table.rows += 1;
            let bytes = self.batch.bytes() - before;
            self.open.since.get_or_insert_with(Instant::now);
            self.open.records += 1;
            self.open.bytes += bytes;
            copy.rows += 1;
            copy.bytes += bytes as u64;
            if self.fill() >= 1.0 {
                self.progress.on_copied_rows(copy.ordinal);
                self.close()?;
            } else if self.batch.bytes() >= super::HAND_OVER {
                self.hand_over()?;
            }
        }
        self.progress.on_copied_rows(copy.ordinal);
        self.open.capture += began.elapsed().saturating_sub(self.open.send.saturating_sub(sent));
        metrics::counter!(names::COPIED_ROWS).increment(std::mem::take(&mut copy.rows));
        metrics::counter!(names::COPIED_BYTES).increment(std::mem::take(&mut copy.bytes));
        Ok(())
    }

    fn on_range(&mut self, place: usize, bytes: u64) -> Result<(), Error> {
        self.progress.on_copied_range(bytes);
        let Some(copy) = &mut self.copy else { return Ok(()) };
        let table = &mut copy.tables[place];
        table.ranges_left -= 1;
        if table.ranges_left == 0 {
            self.on_copied(place);
        }
        self.end_copy()
    }

    /// All rows of a table are written; the open Kafka transaction says so when it commits.
    fn on_copied(&mut self, place: usize) {
        let Some(copy) = &self.copy else { return };
        let (table, at) = (&copy.tables[place], copy.order.at);
        let name = copy.order.tables[place].name();
        if table.route.is_some() {
            tracing::info!(table = %name, rows = table.rows, "copied");
            self.progress.on_copied(name, Existing::Copied { at, rows: table.rows });
        }
    }

    /// Ends the copy once every table is written, so that all rows are durable before the stream goes on.
    fn end_copy(&mut self) -> Result<(), Error> {
        let is_done = self
            .copy
            .as_ref()
            .is_some_and(|copy| copy.tables.iter().all(|table| table.ranges_left == 0));
        if !is_done {
            return Ok(());
        }
        let rows = self.copy.take().map_or(0, |copy| copy.ordinal);
        self.progress.on_copying(None);
        self.close()?;
        self.tell_copy();
        tracing::info!(rows, "all rows that tables held are in Kafka; following changes");
        Ok(())
    }

    /// Says how far the copy is.
    fn tell_copy(&mut self) {
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
