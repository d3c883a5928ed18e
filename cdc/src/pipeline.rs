//! From the stream, and from copies, to the log: on a thread of its own.
//!
//! ```text
//!  chunk ─────▶ Capture ─▶ Batch ─▶ Publisher ─ commit(progress) ─▶ Durable ─▶ slot
//!  copied rows ────▲
//! ```
//!
//! * A Kafka transaction ends when it is full, old, or when nothing more is waiting between two Postgres
//!   transactions; then its progress record goes with it.
//! * Where a copy is due, its lane is held between two Postgres transactions until all its rows are written. Its queue fills
//!   and its socket too; the feed goes on answering the server. At the first start that lane is the stream itself; tables
//!   that are added later, or read again, have one of their own beside it.

mod copy;
mod join;
mod lane;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use tailwater_topics_contract::Lsn;

use self::join::Supply;
use self::lane::{Held, JOINING, Lane, STREAM};
use crate::batch::Batch;
use crate::capture::{Capture, Resume, Step};
use crate::config::Limits;
use crate::crash::{self, Point};
use crate::error::Error;
use crate::metrics as names;
use crate::progress::Progress;
use crate::publish::Publisher;
use crate::snapshot::{Join, Order};
use crate::stream::{Frame, Frames, Input, Receiver};

/// Bytes of records gathered before they are handed to the publisher, so that sending overlaps with decoding.
const HAND_OVER: usize = 128 << 10;

/// How often an idle pipeline looks whether its position should be written.
const IDLE_TICK: Duration = Duration::from_millis(250);

/// Takes inputs, one after the other.
pub struct Pipeline<P> {
    /// The stream, and behind it the tables that are joining it, if there are any.
    lanes: Vec<Lane>,
    /// The lane that is at work.
    at_work: usize,
    /// Tables that leave the stream at its next border.
    leaving: Option<Join>,
    /// What the lane behind the stream lives from.
    supply: Option<Supply>,
    batch: Batch,
    publisher: P,
    progress: Progress,
    limits: Limits,
    clock: fn() -> i64,
    open: Open,
    wal_end: Lsn,
    /// Since when `behind_target`, an end of the WAL seen then, is not durable.
    behind_since_ms: Option<i64>,
    behind_target: Lsn,
}

/// What the open Kafka transaction holds, handed over or still in the batch.
#[derive(Default)]
struct Open {
    since: Option<Instant>,
    records: u64,
    bytes: usize,
    /// Some of it came by the stream.
    is_streamed: bool,
    /// Commit time of its first finished Postgres transaction, in microseconds since 1970.
    oldest_us: Option<i64>,
    capture: Duration,
    send: Duration,
    rows: u64,
    commits: u64,
    given_up: u64,
}

impl<P: Publisher> Pipeline<P> {
    /// Goes on where `progress` and `capture` stand.
    pub fn new(
        mut capture: Capture,
        publisher: P,
        progress: Progress,
        limits: Limits,
        clock: fn() -> i64,
    ) -> Self {
        let record = progress.record();
        let joining = record.joining.as_ref().map(|joining| {
            let part = capture.part(joining.tables.clone(), joining.resume(capture.seq()));
            Lane::new(part.expect("no relation is known that could be refused"), joining.position)
        });
        let stream = Lane::new(capture, record.position);
        Self {
            lanes: std::iter::once(stream).chain(joining).collect(),
            at_work: STREAM,
            leaving: None,
            supply: None,
            batch: Batch::default(),
            publisher,
            progress,
            limits,
            clock,
            open: Open::default(),
            wal_end: Lsn::ZERO,
            behind_since_ms: None,
            behind_target: Lsn::ZERO,
        }
    }

    /// Works until `stop` is set or the sender is gone, then commits what is complete.
    pub fn run(mut self, queue: &Receiver, stop: &AtomicBool) -> Result<(), Error> {
        let ended = self.work(queue, stop);
        if ended.is_err() {
            self.publisher.abort();
        }
        ended
    }

    fn work(&mut self, queue: &Receiver, stop: &AtomicBool) -> Result<(), Error> {
        while !stop.load(Ordering::Acquire) && self.turn(queue)? {}
        self.drain()
    }

    /// One turn of each lane; waits a little when there is nothing to do. `false` when the sender is gone.
    pub fn turn(&mut self, queue: &Receiver) -> Result<bool, Error> {
        self.join_turn()?;
        self.begin_copy()?;
        if self.lanes[STREAM].copy.is_some() {
            self.copy_next(self.copy_wait())?;
            return Ok(true);
        }
        let held = match self.lanes[STREAM].held.take() {
            Some(held) => held,
            None => match queue.pop(self.wait()) {
                Ok(Input::Chunk(chunk)) => Held { chunk, done: 0 },
                other => {
                    match other {
                        Ok(input) => self.on_input(input)?,
                        Err(RecvTimeoutError::Timeout) => self.on_quiet()?,
                        Err(RecvTimeoutError::Disconnected) => return Ok(false),
                    }
                    return Ok(true);
                }
            },
        };
        let done = held.done + self.on_chunk(&held.chunk[held.done..])?;
        if done < held.chunk.len() {
            self.lanes[STREAM].held = Some(Held { done, ..held });
        } else {
            queue.done(held.chunk.len());
        }
        Ok(true)
    }

    /// Takes what is no part of the stream.
    fn on_input(&mut self, input: Input) -> Result<(), Error> {
        match input {
            Input::Registrations(registrations) => {
                self.on_join_registrations(&registrations);
                for lane in &mut self.lanes {
                    lane.registered = Some(registrations.clone());
                }
            }
            Input::LeftOut(tables) => self.progress.on_left_out(tables),
            Input::Copy(order) => self.on_order(*order)?,
            Input::Join(join) => self.on_join(*join),
            Input::JoinCopy(order) => self.on_join_copy(order.map(|order| *order))?,
            Input::Chunk(_) | Input::Wake => {}
        }
        Ok(())
    }

    /// Takes a copy for which the stream is held at its point.
    pub fn on_order(&mut self, order: Order) -> Result<(), Error> {
        self.lanes[STREAM].on_order(order)
    }

    /// How long to wait for more before something else is due.
    fn wait(&self) -> Duration {
        let wait = match self.open.since {
            None => IDLE_TICK,
            Some(_) if self.is_complete() => Duration::ZERO,
            Some(since) => self.delay().saturating_sub(since.elapsed()),
        };
        match &self.supply {
            None => wait,
            Some(supply) if supply.is_busy => Duration::ZERO,
            Some(_) => wait.min(join::LOOK),
        }
    }

    /// Whether the open Kafka transaction should end as soon as nothing is waiting. What tables that are joining wrote alone
    /// has time.
    fn is_complete(&self) -> bool {
        let is_for_stream = self.supply.is_none() || self.open.is_streamed;
        is_for_stream && !self.lanes[STREAM].capture.is_inside_transaction()
    }

    fn delay(&self) -> Duration {
        Duration::from_millis(self.limits.transaction_delay_ms)
    }

    /// Takes whole messages of the stream, up to the point of the next copy. Answers how many bytes it took.
    pub fn on_chunk(&mut self, chunk: &[u8]) -> Result<usize, Error> {
        self.take(chunk)
    }

    /// Takes whole messages for the lane that is at work, as far as it may go. Answers how many bytes it took.
    fn take(&mut self, chunk: &[u8]) -> Result<usize, Error> {
        let began = Instant::now();
        let sent = self.open.send;
        let now_ms = (self.clock)();
        let mut frames = Frames::new(chunk);
        let mut taken = chunk.len();
        loop {
            let rest = frames.rest().len();
            let Some(frame) = frames.next() else { break };
            if self.is_held(frame) {
                taken -= rest;
                break;
            }
            self.register()?;
            match frame {
                Frame::Data { start, wal_end, body } => {
                    self.wal_end = self.wal_end.max(wal_end);
                    self.on_data(start, body, now_ms)?;
                }
                Frame::Keepalive { wal_end, reply } => {
                    self.wal_end = self.wal_end.max(wal_end);
                    self.on_keepalive(wal_end, reply);
                }
            }
        }
        self.open.capture += began.elapsed().saturating_sub(self.open.send.saturating_sub(sent));
        let due = match self.open.since {
            Some(since) => since.elapsed() >= self.delay(),
            // Another database of the server may be so busy that keepalives leave no quiet moment.
            None => self.progress.is_due(&self.at(), now_ms),
        };
        if due {
            self.close()?;
        }
        Ok(taken)
    }

    /// Whether the lane at work must not go on with this frame: it may belong to a transaction that its next copy does not
    /// see, to one that is the stream's affair, or to one before which tables leave or join.
    fn is_held(&mut self, frame: Frame<'_>) -> bool {
        let (is_stream, stops) = (self.at_work == STREAM, self.is_border_wanted());
        if is_stream && !stops && self.lanes[STREAM].orders.is_empty() {
            return false;
        }
        let lane = &mut self.lanes[self.at_work];
        if !lane.is_between() {
            return false;
        }
        let begins = lane.look(frame);
        self.is_copy_due()
            || begins.is_some_and(|at| if is_stream { stops } else { at >= self.stream_at() })
    }

    /// Whether the lane at work has reached the point of its next copy. Tables that are joining do not overtake the stream.
    fn is_copy_due(&self) -> bool {
        let lane = &self.lanes[self.at_work];
        lane.orders.front().is_some_and(|order| {
            lane.passed() >= order.at && (self.at_work == STREAM || self.stream_at() >= order.at)
        })
    }

    fn on_keepalive(&mut self, wal_end: Lsn, reply: bool) {
        let lane = &mut self.lanes[self.at_work];
        // A transaction that is half in Kafka is open too, even before it has come again.
        let is_between = lane.is_between();
        if is_between {
            lane.passed = lane.passed.max(wal_end);
        }
        if self.at_work == STREAM {
            self.progress.on_keepalive(wal_end, reply, !is_between);
        }
    }

    /// Takes new registrations, between two Postgres transactions.
    fn register(&mut self) -> Result<(), Error> {
        let lane = &mut self.lanes[self.at_work];
        if lane.capture.is_inside_transaction() {
            return Ok(());
        }
        match lane.registered.take() {
            Some(registrations) => {
                crash::point(Point::Registering);
                if self.at_work == STREAM {
                    self.progress.on_registrations(&registrations);
                }
                self.publisher.on_registrations(&registrations);
                lane.capture.on_registrations(&registrations)?;
                crash::point(Point::Registered);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn on_data(&mut self, lsn: Lsn, body: &[u8], now_ms: i64) -> Result<(), Error> {
        let (records, bytes) = (self.batch.len(), self.batch.bytes());
        let capture = &mut self.lanes[self.at_work].capture;
        let given_up = capture.given_up();
        let step = capture.on_message(lsn, body, now_ms, &mut self.batch)?;
        self.open.given_up += capture.given_up() - given_up;
        let added = self.batch.len() - records;
        if added > 0 {
            self.open.since.get_or_insert_with(Instant::now);
            self.open.records += added as u64;
            self.open.bytes += self.batch.bytes() - bytes;
            self.open.is_streamed |= self.at_work == STREAM;
        }
        // What tables that are joining read is read by the stream as well, and counted there.
        let is_stream = self.at_work == STREAM;
        self.open.rows += u64::from(is_stream && matches!(body.first(), Some(b'I' | b'U' | b'D')));
        let committed = match step {
            Step::Committed { commit_ts_us, .. } => {
                self.open.commits += u64::from(is_stream);
                if is_stream && self.open.records > 0 {
                    self.open.oldest_us.get_or_insert(commit_ts_us);
                }
                true
            }
            Step::Inside | Step::Outside => false,
        };
        // Better a little early at a commit than on time inside a transaction.
        let full = self.fill() >= 1.0 || (committed && self.fill() >= 0.75);
        if full {
            self.close()
        } else if self.batch.bytes() >= HAND_OVER {
            self.hand_over()
        } else {
            Ok(())
        }
    }

    /// How full the open Kafka transaction is; 1 is full for changes.
    fn fill(&self) -> f64 {
        let bytes = self.open.bytes as f64 / self.limits.transaction_bytes as f64;
        let records = self.open.records as f64 / self.limits.transaction_rows as f64;
        bytes.max(records)
    }

    /// Nothing is waiting.
    pub fn on_quiet(&mut self) -> Result<(), Error> {
        let due = match self.open.since {
            Some(since) => self.is_complete() || since.elapsed() >= self.delay(),
            None => {
                let now_ms = (self.clock)();
                self.progress.is_due(&self.at(), now_ms)
                    || self.progress.lacks(&self.publisher.ends(), now_ms)
            }
        };
        self.gauge();
        if due { self.close() } else { Ok(()) }
    }

    /// Commits what is complete, and the position of an idle stream at once.
    pub fn drain(&mut self) -> Result<(), Error> {
        if self.open.since.is_some() || self.progress.is_ahead(&self.at()) {
            self.close()?;
        }
        // The ends of the last records are known only now.
        if self.progress.is_lacking(&self.publisher.ends()) {
            self.close()?;
        }
        Ok(())
    }

    fn hand_over(&mut self) -> Result<(), Error> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        self.publisher.send(&self.batch)?;
        crash::point(Point::BatchSent);
        self.batch.clear();
        self.open.send += began.elapsed();
        Ok(())
    }

    /// Where the stream stands, behind the last number that any lane used.
    fn at(&self) -> Resume {
        let seqs = self.lanes.iter().map(|lane| lane.capture.seq());
        let at = self.lanes[STREAM].capture.at();
        Resume { seq: seqs.fold(at.seq, Ord::max), ..at }
    }

    /// Ends the Kafka transaction: records, progress, commit; only then the slot.
    fn close(&mut self) -> Result<(), Error> {
        self.hand_over()?;
        self.publisher.settle()?;
        crash::point(Point::Closing);
        let at = self.at();
        if let Some(lane) = self.lanes.get(JOINING) {
            self.progress.on_join_at(&lane.capture.at());
        }
        let record = self.progress.next(&at, self.publisher.ends(), (self.clock)());
        self.publisher.commit(&record.encode())?;
        crash::point(Point::Committed);
        self.progress.on_committed(record);
        crash::point(Point::Noted);
        let open = std::mem::take(&mut self.open);
        metrics::counter!(names::TRANSACTIONS).increment(1);
        metrics::counter!(names::RECORDS).increment(open.records);
        metrics::counter!(names::BYTES).increment(open.bytes as u64);
        metrics::counter!(names::ROWS).increment(open.rows);
        metrics::counter!(names::COMMITS).increment(open.commits);
        metrics::counter!(names::GIVEN_UP).increment(open.given_up);
        if open.records > 0 {
            let stage = |stage: &'static str, took: Duration| {
                metrics::histogram!(names::STAGE, "stage" => stage).record(took.as_secs_f64());
            };
            stage("capture", open.capture);
            stage("send", open.send);
        }
        if let Some(oldest_us) = open.oldest_us {
            let took = (self.clock)().saturating_mul(1000).saturating_sub(oldest_us).max(0);
            metrics::histogram!(names::COMMIT_TO_BROKER).record(took as f64 / 1e6);
        }
        self.gauge();
        Ok(())
    }

    fn gauge(&mut self) {
        let durable = self.progress.record().position;
        let lag = self.wal_end.0.saturating_sub(durable.0);
        self.behind_since_ms = match (lag, self.behind_since_ms) {
            (0, _) => None,
            (_, Some(since)) if durable < self.behind_target => Some(since),
            _ => {
                self.behind_target = self.wal_end;
                Some((self.clock)())
            }
        };
        metrics::gauge!(names::LAG_BYTES).set(lag as f64);
        let behind_ms = self.behind_since_ms.map_or(0, |since| (self.clock)() - since);
        metrics::gauge!(names::LAG_SECONDS).set(behind_ms.max(0) as f64 / 1000.0);
        metrics::gauge!(names::CONFIRMED_LSN).set(self.progress.record().needs_from().0 as f64);
    }
}
