//! One session after the other, and in each the loop from stream to log.
//!
//! ```text
//!  session: fence ─▶ progress ─▶ slot ─▶ decide ─▶ stream
//!                                                   │ queue (bytes)
//!  pipeline thread:  chunk ─▶ Capture ─▶ Batch ─▶ Publisher ─ commit(progress) ─▶ Durable ─▶ slot
//! ```
//!
//! * A Kafka transaction ends when it is full, old, or when nothing more is waiting between two Postgres
//!   transactions; then its progress record goes with it.
//! * A session that ends for a passing reason is followed by a fresh one, from fencing onwards. Nothing is
//!   carried over but the configuration: what is durable stands in the log.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use tailwater_runtime::{Backoff, Classify, ErrorClass, Health, clock};
use tailwater_topics_contract::{Lsn, Registrations, TopicName};
use tokio::sync::{oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::batch::Batch;
use crate::capture::{self, Capture, SourceName, Step};
use crate::config::{Config, Limits};
use crate::error::Error;
use crate::outbox::OutboxError;
use crate::preflight::{self, Declared, Finding, Severity};
use crate::progress::{Progress, Record};
use crate::publish::Publisher;
use crate::publish::kafka::{self, End, Kafka};
use crate::route::RouteError;
use crate::slot::{self, Server};
use crate::start::{self, Ours, Start, Stop};
use crate::stream::{
    Connection, Feed, Frame, Frames, Input, Mode, Receiver, Sender, Timing, queue,
    quote_identifier, quote_literal,
};
use crate::{metrics as names, stream};

/// The name under which the reader reports its readiness.
const PART: &str = "stream";

/// First and longest wait between two sessions.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// A session that streamed this long was a success, and the next failure starts counting anew.
const SETTLED: Duration = Duration::from_secs(30);

/// Between two looks at a slot that another connection reads.
const SLOT_LOOK: Duration = Duration::from_millis(500);

/// Between two looks at what the slot costs the server.
const SLOT_COST_LOOK: Duration = Duration::from_secs(10);

/// How long registrations and publications may disagree before the start is refused, and between two looks.
const SETTLE_WAIT: Duration = Duration::from_secs(15);
const SETTLE_LOOK: Duration = Duration::from_secs(1);

/// How often in a row a table without a topic may stop the stream before it stops for good: its registration
/// may be on the way.
const UNDECLARED_MAX: u32 = 5;

/// Bytes of records gathered before they are handed to the publisher, so that sending overlaps with decoding.
const HAND_OVER: usize = 128 << 10;

/// How often an idle pipeline looks whether its position should be written.
const IDLE_TICK: Duration = Duration::from_millis(250);

/// Reads the database into Kafka until told to stop, or until something happens that waiting does not mend.
///
/// When `shutdown` is cancelled the open batch ends at its last complete change, is committed and confirmed,
/// and the answer is `Ok`. Every error has a code and an exit code of its own.
pub async fn run(
    config: Config,
    mut registrations: watch::Receiver<Registrations>,
    shutdown: CancellationToken,
    health: Health,
) -> Result<(), Error> {
    tailwater_runtime::describe(names::ALL);
    tokio::select! {
        ended = sessions(&config, &mut registrations, &shutdown, &health) => ended,
        never = watch_slot(&config) => match never {},
    }
}

/// Says what the slot costs the server, on a connection of its own, so that it is known while the stream is down
/// and the WAL piles up.
async fn watch_slot(config: &Config) -> Infallible {
    let application = format!("tailwater {} watch", config.pipeline);
    let slot = config.pipeline.slot();
    loop {
        if let Ok(mut connection) =
            Connection::open(&config.postgres, &application, Mode::Sql).await
        {
            while let Ok(cost) = slot::cost(&mut connection, &slot).await {
                if let Some(cost) = cost {
                    metrics::gauge!(names::RETAINED_BYTES).set(cost.retained as f64);
                }
                if let Some(budget) = cost.and_then(|cost| cost.budget) {
                    metrics::gauge!(names::BUDGET_BYTES).set(budget as f64);
                }
                sleep(SLOT_COST_LOOK).await;
            }
        }
        sleep(SLOT_COST_LOOK).await;
    }
}

async fn sessions(
    config: &Config,
    registrations: &mut watch::Receiver<Registrations>,
    shutdown: &CancellationToken,
    health: &Health,
) -> Result<(), Error> {
    health.not_ready(PART, "starting");
    let seed = clock::now_ms() as u64;
    let mut backoff = Backoff::new(RETRY.0, RETRY.1, StdRng::seed_from_u64(seed));
    let mut attempt = 0_u32;
    loop {
        let began = Instant::now();
        let error = match session(config, registrations, shutdown, health).await {
            Ok(()) => {
                health.not_ready(PART, "stopped");
                return Ok(());
            }
            Err(error) => error,
        };
        health.not_ready(PART, explain(&error));
        if began.elapsed() >= SETTLED {
            backoff.reset();
            attempt = 0;
        }
        let on_the_way = attempt < UNDECLARED_MAX
            && matches!(
                &error,
                Error::Capture(
                    capture::Error::Route(RouteError::Undeclared { .. })
                        | capture::Error::Outbox(OutboxError::NoTopic { .. })
                )
            );
        if error.class() != ErrorClass::Transient && !on_the_way {
            return Err(error);
        }
        attempt += 1;
        let wait = backoff.next().unwrap_or(RETRY.1);
        tracing::warn!(
            code = error.code(),
            attempt,
            wait_ms = wait.as_millis() as u64,
            "{}; trying again",
            explain(&error)
        );
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = sleep(wait) => {}
        }
    }
}

/// The error with its causes on one line.
fn explain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Stops the parts of a session when it is left, however it is left.
struct Leave {
    stop: Arc<AtomicBool>,
    feed: CancellationToken,
    queue: Option<Sender>,
}

impl Leave {
    fn stop_pipeline(&self) {
        self.stop.store(true, Ordering::Release);
        if let Some(queue) = &self.queue {
            queue.push(Input::Wake);
        }
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.stop_pipeline();
        self.feed.cancel();
    }
}

async fn session(
    config: &Config,
    registrations: &mut watch::Receiver<Registrations>,
    shutdown: &CancellationToken,
    health: &Health,
) -> Result<(), Error> {
    metrics::counter!(names::SESSIONS).increment(1);
    let mut leave = Leave {
        stop: Arc::new(AtomicBool::new(false)),
        feed: CancellationToken::new(),
        queue: None,
    };
    let begun = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        begun = begin(config, registrations, health, &leave.stop) => begun?,
    };
    let Begun { copying, server, publisher, progress, registered } = begun;

    let source = SourceName {
        pipeline: config.pipeline.clone(),
        database: config.postgres.database.clone(),
    };
    let capture = Capture::new(source, &registered, progress.record().resume())?;
    let (sender, receiver) = queue(config.limits.queue_bytes);
    leave.queue = Some(sender.clone());
    let timing = Timing::for_server(server.wal_sender_timeout_ms, clock::now_ms);
    let feed = Feed::new(copying, sender.clone(), progress.durable(), timing);
    let mut feed = tokio::spawn(feed.run(leave.feed.clone()));
    let pipeline = Pipeline::new(capture, publisher, progress, config.limits, clock::now_ms);
    let mut pipeline = spawn_pipeline(pipeline, receiver, Arc::clone(&leave.stop));
    health.ready(PART);

    let mut fed = None;
    let mut follow = true;
    let drained = loop {
        tokio::select! {
            ended = &mut pipeline => break ended.unwrap_or(Err(Error::Panicked)),
            () = shutdown.cancelled(), if !leave.stop.load(Ordering::Acquire) => {
                health.not_ready(PART, "draining");
                leave.stop_pipeline();
            }
            ended = &mut feed, if fed.is_none() => {
                fed = Some(ended);
                leave.stop_pipeline();
            }
            changed = registrations.changed(), if follow => {
                follow = changed.is_ok();
                sender.push(Input::Registrations(registrations.borrow_and_update().clone()));
            }
        }
    };
    // Only now, so that the last status update carries what the drain made durable.
    leave.feed.cancel();
    let fed = match fed {
        Some(fed) => fed,
        None => feed.await,
    };
    drained?;
    match fed {
        Ok(Ok(())) => Ok(()),
        // What was asked for has been done; a server that hung up first is no news.
        Ok(Err(_)) if shutdown.is_cancelled() => Ok(()),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Error::Panicked),
    }
}

fn spawn_pipeline<P: Publisher>(
    pipeline: Pipeline<P>,
    queue: Receiver,
    stop: Arc<AtomicBool>,
) -> oneshot::Receiver<Result<(), Error>> {
    let (done, ended) = oneshot::channel();
    let body = move || {
        // Nobody listens when the session was dropped as a whole.
        let _ = done.send(pipeline.run(&queue, &stop));
    };
    let named = std::thread::Builder::new().name("tailwater-pipeline".to_owned());
    if let Err(error) = named.spawn(body) {
        tracing::error!(%error, "no thread for the pipeline");
    }
    ended
}

/// A session that is ready to read.
struct Begun {
    copying: stream::Copying,
    server: Server,
    publisher: Kafka,
    progress: Progress,
    registered: Registrations,
}

/// From nothing to a stream, in the order that makes the answers trustworthy: fence, then read progress, then
/// look at the server, then decide.
async fn begin(
    config: &Config,
    registrations: &mut watch::Receiver<Registrations>,
    health: &Health,
    stop: &Arc<AtomicBool>,
) -> Result<Begun, Error> {
    while registrations.borrow_and_update().written().next().is_none() {
        health.not_ready(PART, "no topic is registered; declare some with `tailwater apply`");
        if registrations.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
    let slot = config.pipeline.slot();

    // Fencing ends a reader that works. So first a look whether one does; if so, this is the one too many.
    let application = config.application();
    let mut connection =
        Connection::open(&config.postgres, &application, Mode::Replication).await?;
    wait_for_slot(config, &mut connection, health).await?;
    let (registered, declared) = preflight(config, registrations).await?;

    let mut publisher = fence(config, &registered, stop).await?;
    let (kafka, topic) = (config.kafka.clone(), config.pipeline.progress_topic());
    let value = blocking(move || Ok(kafka::last_value(&kafka, &topic)?)).await?;
    let record = value.map(|value| Record::decode(&value)).transpose()?;

    let options = options(config);
    let ours = Ours {
        pipeline: config.pipeline.as_str(),
        slot: &slot,
        database: &config.postgres.database,
        options: &options,
    };
    let (server, start) = loop {
        let server = slot::inspect(&mut connection, &slot).await?;
        let history = match &record {
            Some(record) if server.timeline > record.timeline => {
                Some(slot::history(&mut connection, server.timeline).await?)
            }
            _ => None,
        };
        match start::decide(ours, record.as_ref(), &server, history.as_ref())? {
            Start::Wait { .. } => wait_for_slot(config, &mut connection, health).await?,
            start => break (server, start),
        }
    };
    let record = match (start, record) {
        (Start::Resume { timeline }, Some(record)) => {
            check_log_ends(config, &record).await?;
            tracing::info!(slot, position = %record.position, seq = record.seq, "resuming");
            // Comparable, or nothing is in flight.
            Record { timeline, options: options.clone(), ..record }
        }
        (start, record) => {
            let unfinished = matches!(start, Start::First { unfinished: true });
            check_topics_empty(config, &registered).await?;
            let announced = record.unwrap_or_else(|| {
                Record::first(&config.pipeline, &server.system_id, server.timeline, &options)
            });
            let tables = declared.quoted_tables();
            let first = First { config, slot: &slot, tables: &tables, unfinished, announced };
            let (back, record) = first.run(&mut connection, publisher).await?;
            publisher = back;
            record
        }
    };
    let command = format!(
        "START_REPLICATION SLOT {} LOGICAL {} (proto_version '1', publication_names {})",
        quote_identifier(&slot),
        record.position,
        quote_literal(&publications(config).map(|name| quote_identifier(&name)).join(","))
    );
    let copying = connection.stream(&command).await?;
    Ok(Begun { copying, server, publisher, progress: Progress::new(record), registered })
}

fn publications(config: &Config) -> [String; 2] {
    [config.pipeline.changes_publication(), config.pipeline.outbox_publication()]
}

/// What decides which changes are sent and how they are counted.
fn options(config: &Config) -> String {
    format!("proto_version=1;publications={}", publications(config).join(","))
}

/// Looks the database over. Registrations arrive one by one while somebody applies a catalog, so what is missing
/// now may be there in a moment. Answers what is registered once nothing is wrong.
async fn preflight(
    config: &Config,
    registrations: &mut watch::Receiver<Registrations>,
) -> Result<(Registrations, Declared), Error> {
    let began = Instant::now();
    loop {
        let registered = registrations.borrow_and_update().clone();
        let declared = Declared::in_registrations(&registered);
        let mut findings = preflight::look(config, &declared).await?;
        if began.elapsed() < SETTLE_WAIT
            && findings.iter().any(|finding| finding.severity == Severity::Error)
        {
            sleep(SETTLE_LOOK).await;
            continue;
        }
        warn(&mut findings);
        return if findings.is_empty() {
            Ok((registered, declared))
        } else {
            Err(Error::Preflight(findings))
        };
    }
}

/// Logs the warnings and leaves the errors.
fn warn(findings: &mut Vec<Finding>) {
    for warning in findings.extract_if(.., |finding| finding.severity == Severity::Warning) {
        tracing::warn!(
            code = warning.code,
            "{}: {}; {}",
            warning.subject,
            warning.problem,
            warning.remedy
        );
    }
}

/// Runs what blocks where blocking is allowed.
async fn blocking<T: Send + 'static>(
    body: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    spawn_blocking(body).await.unwrap_or(Err(Error::Panicked))
}

async fn fence(
    config: &Config,
    registered: &Registrations,
    stop: &Arc<AtomicBool>,
) -> Result<Kafka, Error> {
    let (kafka, pipeline) = (config.kafka.clone(), config.pipeline.clone());
    let topics: Vec<_> = registered.written().cloned().collect();
    let stop = Arc::clone(stop);
    blocking(move || {
        let publisher = Kafka::new(&kafka, &pipeline)?;
        publisher.init(&stop)?;
        kafka::check_topics(&kafka, topics.iter())?;
        Ok(publisher)
    })
    .await
}

/// Waits, with a limit, until nobody reads the slot.
async fn wait_for_slot(
    config: &Config,
    connection: &mut Connection,
    health: &Health,
) -> Result<(), Error> {
    let name = config.pipeline.slot();
    let limit = Duration::from_millis(config.limits.slot_wait_ms);
    let began = Instant::now();
    let mut told = false;
    loop {
        let found = slot::find(connection, &name).await?;
        let Some(pid) = found.and_then(|slot| slot.active_pid) else { return Ok(()) };
        if began.elapsed() >= limit {
            return Err(Stop::SlotBusy { slot: name, pid }.into());
        }
        if !told {
            told = true;
            health.not_ready(PART, format!("slot `{name}` is read by server process {pid}"));
            tracing::warn!(slot = name, pid, "another connection reads the slot; waiting");
        }
        sleep(SLOT_LOOK).await;
    }
}

/// Every partition reaches at least as far as progress says.
async fn check_log_ends(config: &Config, record: &Record) -> Result<(), Error> {
    let (kafka, ends) = (config.kafka.clone(), record.ends.clone());
    blocking(move || {
        let recorded = |topic: &TopicName, partition: i32| {
            ends.get(topic).and_then(|ends| ends.get(partition as usize)).copied()
        };
        let partitions = ends.iter().flat_map(|(topic, ends)| {
            let known = ends.iter().enumerate().filter(|(_, end)| **end > 0);
            known.map(move |(partition, _)| (topic, partition as i32))
        });
        let short =
            |end: End<'_>| recorded(end.topic, end.partition).is_some_and(|at| end.offset < at);
        let Some(end) = kafka::find_end(&kafka, partitions, short)? else { return Ok(()) };
        Err(Stop::KafkaBehind {
            topic: end.topic.to_string(),
            partition: end.partition,
            end: end.offset,
            recorded: recorded(end.topic, end.partition).unwrap_or_default(),
        }
        .into())
    })
    .await
}

/// A first start begins the sequence anew, which must not happen above records that exist.
async fn check_topics_empty(config: &Config, registered: &Registrations) -> Result<(), Error> {
    let kafka = config.kafka.clone();
    let topics: Vec<_> = registered.written().map(|topic| topic.spec.clone()).collect();
    blocking(move || {
        let partitions = topics
            .iter()
            .flat_map(|topic| (0..topic.partitions as i32).map(move |p| (&topic.name, p)));
        match kafka::find_end(&kafka, partitions, |end| end.offset > 0)? {
            Some(end) => Err(Stop::TopicNotEmpty { topic: end.topic.to_string() }.into()),
            None => Ok(()),
        }
    })
    .await
}

/// The very first start.
///
/// It announces itself in progress before it makes the slot. So a slot without progress is never ours, and a
/// start that dies in between is taken up again: its slot has given nothing out, and is made anew.
struct First<'a> {
    config: &'a Config,
    slot: &'a str,
    tables: &'a [String],
    unfinished: bool,
    announced: Record,
}

impl First<'_> {
    async fn run(
        self,
        connection: &mut Connection,
        publisher: Kafka,
    ) -> Result<(Kafka, Record), Error> {
        let tables = if self.config.from_now { &[] } else { self.tables };
        // Before anything is made, so that the usual refusal leaves no trace.
        if let Some(table) = slot::first_filled(connection, tables).await? {
            return Err(Stop::SnapshotNeeded { table }.into());
        }
        let announced = Record { at_ms: clock::now_ms(), ..self.announced };
        let publisher = write(publisher, &announced).await?;
        if self.unfinished {
            slot::drop(connection, self.slot).await?;
        }
        tracing::info!(slot = self.slot, "creating the slot; it waits for running transactions");
        let (begins, filled) = slot::create(connection, self.slot, tables).await?;
        if let Some(table) = filled {
            slot::drop(connection, self.slot).await?;
            return Err(Stop::SnapshotNeeded { table }.into());
        }
        let record = Record { position: begins, at_ms: clock::now_ms(), ..announced };
        let publisher = write(publisher, &record).await?;
        tracing::info!(slot = self.slot, position = %begins, "first start");
        Ok((publisher, record))
    }
}

async fn write(mut publisher: Kafka, record: &Record) -> Result<Kafka, Error> {
    let value = record.encode();
    blocking(move || {
        publisher.commit(&value)?;
        Ok(publisher)
    })
    .await
}

/// From stream to log, on a thread of its own.
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
        loop {
            if stop.load(Ordering::Acquire) {
                return self.drain();
            }
            match queue.pop(self.wait()) {
                Ok(Input::Chunk(chunk)) => {
                    self.on_chunk(&chunk)?;
                    queue.done(chunk.len());
                }
                Ok(Input::Registrations(registrations)) => self.registered = Some(registrations),
                Ok(Input::Wake) => {}
                Err(RecvTimeoutError::Timeout) => self.on_quiet()?,
                Err(RecvTimeoutError::Disconnected) => return self.drain(),
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

    /// Takes whole messages of the stream.
    pub fn on_chunk(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let began = Instant::now();
        let sent = self.open.send;
        let now_ms = (self.clock)();
        for frame in Frames::new(chunk) {
            self.register()?;
            match frame {
                Frame::Data { wal_end, body } => {
                    self.wal_end = self.wal_end.max(wal_end);
                    self.on_data(body, now_ms)?;
                }
                Frame::Keepalive { wal_end, reply } => {
                    self.wal_end = self.wal_end.max(wal_end);
                    // A transaction that is half in Kafka is open too, even before it has come again.
                    let inside = self.capture.is_inside_transaction()
                        || self.capture.at().in_flight.is_some();
                    self.progress.on_keepalive(wal_end, reply, inside);
                }
            }
        }
        self.open.capture += began.elapsed().saturating_sub(self.open.send.saturating_sub(sent));
        if self.open.since.is_some_and(|since| since.elapsed() >= self.delay()) {
            self.close()?;
        }
        Ok(())
    }

    /// Takes new registrations, between two Postgres transactions.
    fn register(&mut self) -> Result<(), Error> {
        if self.capture.is_inside_transaction() {
            return Ok(());
        }
        match self.registered.take() {
            Some(registrations) => Ok(self.capture.on_registrations(&registrations)?),
            None => Ok(()),
        }
    }

    fn on_data(&mut self, body: &[u8], now_ms: i64) -> Result<(), Error> {
        let (records, bytes) = (self.batch.len(), self.batch.bytes());
        let given_up = self.capture.given_up();
        let step = self.capture.on_message(body, now_ms, &mut self.batch)?;
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
            None => self.progress.is_due(&self.capture.at(), (self.clock)()),
        };
        self.gauge();
        if due { self.close() } else { Ok(()) }
    }

    /// Commits what is complete, and the position of an idle stream at once.
    pub fn drain(&mut self) -> Result<(), Error> {
        if self.open.since.is_some() || self.progress.is_ahead(&self.capture.at()) {
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
        self.batch.clear();
        self.open.send += began.elapsed();
        Ok(())
    }

    /// Ends the Kafka transaction: records, progress, commit; only then the slot.
    fn close(&mut self) -> Result<(), Error> {
        self.hand_over()?;
        let at = self.capture.at();
        let record = self.progress.next(&at, self.publisher.ends(), (self.clock)());
        self.publisher.commit(&record.encode())?;
        self.progress.on_committed(record);
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
