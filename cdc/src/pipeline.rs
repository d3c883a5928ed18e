//! From the stream, and from copies, to the log: on a thread of its own.
//!
//! ```text
//!  chunk ─────▶ Capture ─▶ Batch ─▶ Publisher ─ commit(progress) ─▶ Durable ─▶ slot
//!  copied rows ────▲
//! ```
//!
//! * A Kafka transaction ends when it is full, old, or when nothing more is waiting between two Postgres
//!   transactions; then its progress record goes with it.
//! * Where a copy is due, the stream is held between two Postgres transactions until all its rows are written. Its
//!   queue fills and its socket too; the feed goes on answering the server.

mod copy;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tailwater_topics_contract::{Lsn, Registrations};

use self::copy::Copy;
use crate::batch::Batch;
use crate::capture::{Capture, Step};
use crate::config::Limits;
use crate::crash::{self, Point};
use crate::error::Error;
use crate::metrics as names;
use crate::progress::Progress;
use crate::publish::Publisher;
use crate::snapshot::Order;
use crate::stream::{Frame, Frames, Input, Receiver};

/// Bytes of records gathered before they are handed to the publisher, so that sending overlaps with decoding.
const HAND_OVER: usize = 128 << 10;

/// How often an idle pipeline looks whether its position should be written.
const IDLE_TICK: Duration = Duration::from_millis(250);

/// A chunk of which a part was taken.
struct Held {
    chunk: Bytes,
    done: usize,
}

/// Takes inputs, one after the other.
pub struct Pipeline<P> {
    capture: Capture,
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
    /// Not taken yet.
    registered: Option<Registrations>,
    /// Everything that committed before this has been taken, as far as the stream says so.
    passed: Lsn,
    /// Copies whose point the stream has not reached.
    orders: VecDeque<Order>,
    /// The copy for which the stream is held.
    copy: Option<Copy>,
}

/// What the open Kafka transaction holds, handed over or still in the batch.
#[derive(Default)]
struct Open {
    since: Option<Instant>,
    records: u64,
    bytes: usize,
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
        capture: Capture,
        publisher: P,
        progress: Progress,
        limits: Limits,
        clock: fn() -> i64,
    ) -> Self {
        let passed = progress.record().position;
        Self {
            capture,
            batch: Batch::default(),
            publisher,
            progress,
            limits,
            clock,
            open: Open::default(),
            wal_end: Lsn::ZERO,
            behind_since_ms: None,
            behind_target: Lsn::ZERO,
            registered: None,
            passed,
            orders: VecDeque::new(),
            copy: None,
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
        let mut held: Option<Held> = None;
        loop {
            if stop.load(Ordering::Acquire) {
                return self.drain();
            }
            self.begin_copy()?;
            if self.copy.is_some() {
                self.copy_next()?;
                continue;
            }
            let held_now = match held.take() {
                Some(chunk) => chunk,
                None => match queue.pop(self.wait()) {
                    Ok(Input::Chunk(chunk)) => Held { chunk, done: 0 },
                    other => {
                        match other {
                            Ok(Input::Registrations(registrations)) => {
                                self.registered = Some(registrations);
                            }
                            Ok(Input::Copy(order)) => self.on_order(*order)?,
                            Ok(Input::Chunk(_) | Input::Wake) => {}
                            Err(RecvTimeoutError::Timeout) => self.on_quiet()?,
                            Err(RecvTimeoutError::Disconnected) => return self.drain(),
                        }
                        continue;
                    }
                },
            };
            let Held { chunk, done } = held_now;
            let done = done + self.on_chunk(&chunk[done..])?;
            if done < chunk.len() {
                held = Some(Held { chunk, done });
            } else {
                queue.done(chunk.len());
            }
        }
    }

    /// How long to wait for more before something else is due.
    fn wait(&self) -> Duration {
        match self.open.since {
            None => IDLE_TICK,
            Some(_) if !self.capture.is_inside_transaction() => Duration::ZERO,
            Some(since) => self.delay().saturating_sub(since.elapsed()),
        }
    }

    fn delay(&self) -> Duration {
        Duration::from_millis(self.limits.transaction_delay_ms)
    }

    /// Takes whole messages of the stream, up to the point of the next copy. Answers how many bytes it took.
    pub fn on_chunk(&mut self, chunk: &[u8]) -> Result<usize, Error> {
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
                    // A transaction that is half in Kafka is open too, even before it has come again.
                    let inside = self.capture.is_inside_transaction()
                        || self.capture.at().in_flight.is_some();
                    self.progress.on_keepalive(wal_end, reply, inside);
                    if !inside {
                        self.passed = self.passed.max(wal_end);
                    }
                }
            }
        }
        self.open.capture += began.elapsed().saturating_sub(self.open.send.saturating_sub(sent));
        let due = match self.open.since {
            Some(since) => since.elapsed() >= self.delay(),
            // Another database of the server may be so busy that keepalives leave no quiet moment.
            None => self.progress.is_due(&self.capture.at(), now_ms),
        };
        if due {
            self.close()?;
        }
        Ok(taken)
    }

    /// Takes new registrations, between two Postgres transactions.
    fn register(&mut self) -> Result<(), Error> {
        if self.capture.is_inside_transaction() {
            return Ok(());
        }
        match self.registered.take() {
            Some(registrations) => {
                crash::point(Point::Registering);
                self.progress.on_registrations(&registrations);
                self.publisher.on_registrations(&registrations);
                self.capture.on_registrations(&registrations)?;
                crash::point(Point::Registered);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn on_data(&mut self, lsn: Lsn, body: &[u8], now_ms: i64) -> Result<(), Error> {
        let (records, bytes) = (self.batch.len(), self.batch.bytes());
        let given_up = self.capture.given_up();
        let step = self.capture.on_message(lsn, body, now_ms, &mut self.batch)?;
        let added = self.batch.len() - records;
        if added > 0 {
            self.open.since.get_or_insert_with(Instant::now);
            self.open.records += added as u64;
            self.open.bytes += self.batch.bytes() - bytes;
        }
        self.open.rows += u64::from(matches!(body.first(), Some(b'I' | b'U' | b'D')));
        self.open.given_up += self.capture.given_up() - given_up;
        let committed = match step {
            Step::Committed { commit_ts_us, .. } => {
                self.open.commits += 1;
                if self.open.records > 0 {
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

    /// How full the open Kafka transaction is; 1 is full.
    fn fill(&self) -> f64 {
        let bytes = self.open.bytes as f64 / self.limits.transaction_bytes as f64;
        let records = self.open.records as f64 / self.limits.transaction_rows as f64;
        bytes.max(records)
    }

    /// Nothing is waiting.
    pub fn on_quiet(&mut self) -> Result<(), Error> {
        let due = match self.open.since {
            Some(since) => !self.capture.is_inside_transaction() || since.elapsed() >= self.delay(),
            None => {
                let now_ms = (self.clock)();
                self.progress.is_due(&self.capture.at(), now_ms)
                    || self.progress.lacks(&self.publisher.ends(), now_ms)
            }
        };
        self.gauge();
        if due { self.close() } else { Ok(()) }
    }

    /// Commits what is complete, and the position of an idle stream at once.
    pub fn drain(&mut self) -> Result<(), Error> {
        if self.open.since.is_some() || self.progress.is_ahead(&self.capture.at()) {
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

    /// Ends the Kafka transaction: records, progress, commit; only then the slot.
    fn close(&mut self) -> Result<(), Error> {
        self.hand_over()?;
        crash::point(Point::Closing);
        let at = self.capture.at();
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
        metrics::gauge!(names::CONFIRMED_LSN).set(durable.0 as f64);
    }
}
