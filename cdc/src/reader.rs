//! One session after the other.
//!
//! ```text
//!  session: fence ─▶ progress ─▶ slot ─▶ decide ─▶ stream ─── queue (bytes) ─▶ pipeline, on its thread
//!                                         └─▶ tables to copy ─▶ workers ─ queue ──────┤
//!                                                           └─▶ another slot ─ queue ─┘
//! ```
//!
//! * A session that ends for a passing reason is followed by a fresh one, from fencing onwards. Nothing is
//!   carried over but the configuration and the ends of partitions seen so far: what is durable stands in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use tailwater_runtime::{Backoff, Classify, ErrorClass, Health, clock};
use tailwater_topics_contract::Registrations;
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::capture::{self, Capture, SourceName};
use crate::config::Config;
use crate::copier::{Copier, wanted};
use crate::crash::{self, Point};
use crate::error::Error;
use crate::first::{self, First};
use crate::found::{self, blocking};
use crate::joiner::Joiner;
use crate::mask::MaskKey;
use crate::outbox::OutboxError;
use crate::pipeline::Pipeline;
use crate::preflight::{self, Declared, Finding, Severity};
use crate::progress::{self, Progress, Record};
use crate::publish::kafka::{self, Kafka, KnownEnds};
use crate::publish::{self, Publisher};
use crate::route::RouteError;
use crate::slot::{self, Server};
use crate::snapshot::Taken;
use crate::start::{Start, Stop};
use crate::stream::{Connection, Feed, Input, Mode, Receiver, Sender, Timing, queue};
use crate::watch::{GoingDown, farewell};
use crate::{metrics as names, stream};

/// The name under which the reader reports its readiness.
const PART: &str = "stream";

/// First and longest wait between two sessions.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// A session that streamed this long was a success, and the next failure starts counting anew.
const SETTLED: Duration = Duration::from_secs(30);

/// Between two looks at a slot that another connection reads.
const SLOT_LOOK: Duration = Duration::from_millis(500);

/// How long registrations and publications may disagree before the start is refused, and between two looks.
const SETTLE_WAIT: Duration = Duration::from_secs(15);
const SETTLE_LOOK: Duration = Duration::from_secs(1);

/// How often in a row a table without a topic may stop the stream before it stops for good: its registration
/// may be on the way.
const UNDECLARED_MAX: u32 = 5;

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
    let (told, going_down) = watch::channel(false);
    tokio::select! {
        ended = sessions(&config, &mut registrations, going_down, &shutdown, &health) => ended,
        never = crate::watch::run(&config, &told, &health) => match never {},
    }
}

async fn sessions(
    config: &Config,
    registrations: &mut watch::Receiver<Registrations>,
    mut going_down: GoingDown,
    shutdown: &CancellationToken,
    health: &Health,
) -> Result<(), Error> {
    health.not_ready(PART, "starting");
    let seed = clock::now_ms() as u64;
    let mut backoff = Backoff::new(RETRY.0, RETRY.1, StdRng::seed_from_u64(seed));
    let mut attempt = 0_u32;
    let known = KnownEnds::default();
    let mut has_receded = false;
    loop {
        let began = Instant::now();
        let session = session(config, registrations, &mut going_down, shutdown, health, &known);
        // Large, and there is one at a time.
        let error = match Box::pin(session).await {
            Ok(()) => {
                health.not_ready(PART, "stopped");
                return Ok(());
            }
            Err(error) => error,
        };
        health.not_ready(PART, explain(&error));
        // The next session, with a producer that is not used up, writes down what has been lost, so that every later
        // process stops too, and ends.
        if matches!(error, Error::Publish(publish::Error::Receded { .. })) && !has_receded {
            has_receded = true;
            continue;
        }
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
    going_down: &mut GoingDown,
    shutdown: &CancellationToken,
    health: &Health,
    known: &KnownEnds,
) -> Result<(), Error> {
    metrics::counter!(names::SESSIONS).increment(1);
    let mut leave = Leave {
        stop: Arc::new(AtomicBool::new(false)),
        feed: CancellationToken::new(),
        queue: None,
    };
    let begun = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        begun = begin(config, registrations, health, &leave.stop, known) => begun?,
    };
    let Begun { copying, server, publisher, progress, registered, taken } = begun;

    let source = SourceName {
        pipeline: config.pipeline.clone(),
        database: config.postgres.database.clone(),
        mask_key: config.mask_key.as_ref().map(MaskKey::new),
    };
    let capture = Capture::new(source, &registered, progress.record().resume())?;
    let (sender, receiver) = queue(config.limits.queue_bytes);
    leave.queue = Some(sender.clone());
    let timing = Timing::for_server(server.wal_sender_timeout_ms, clock::now_ms);
    let joiner = Joiner::new(config, sender.clone(), timing, leave.feed.clone());
    let mut copier = Copier::new(config, joiner, progress.record());
    if let Some(taken) = taken {
        copier.begin(taken);
    }
    sender.push(Input::LeftOut(copier.on_registrations(&registered)));
    let feed = Feed::new(copying, sender.clone(), progress.durable(), timing);
    let mut feed = tokio::spawn(feed.run(leave.feed.clone()));
    let pipeline = Pipeline::new(capture, publisher, progress, config.limits, clock::now_ms);
    let mut pipeline = spawn_pipeline(pipeline, receiver, Arc::clone(&leave.stop));
    health.ready(PART);

    let (mut fed, mut failed) = (None, None);
    let mut follow = true;
    let mut let_go = false;
    let drained = loop {
        tokio::select! {
            ended = &mut pipeline => break ended.unwrap_or(Err(Error::Panicked)),
            () = shutdown.cancelled(), if !leave.stop.load(Ordering::Acquire) => {
                health.not_ready(PART, "draining");
                leave.stop_pipeline();
            }
            // Whatever the pipeline waits for, the server must not wait with it.
            () = farewell(going_down), if !let_go => {
                let_go = true;
                leave.feed.cancel();
            }
            ended = &mut feed, if fed.is_none() => {
                fed = Some(ended);
                leave.stop_pipeline();
            }
            error = copier.failed(), if failed.is_none() => {
                failed = Some(error);
                leave.stop_pipeline();
            }
            changed = registrations.changed(), if follow => {
                follow = changed.is_ok();
                let registered = registrations.borrow_and_update().clone();
                let left_out = copier.on_registrations(&registered);
                sender.push(Input::Registrations(registered));
                sender.push(Input::LeftOut(left_out));
            }
        }
    };
    drop(copier);
    // Only now, so that the last status update carries what the drain made durable.
    leave.feed.cancel();
    let fed = match fed {
        Some(fed) => fed,
        None => feed.await,
    };
    drained?;
    if let Some(error) = failed {
        return Err(error);
    }
    match fed {
        Ok(Ok(())) if let_go && !shutdown.is_cancelled() => {
            Err(stream::Error::Ended { address: config.postgres.address() }.into())
        }
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
    /// The first copy of a first start.
    taken: Option<Taken>,
}

/// From nothing to a stream, in the order that makes the answers trustworthy: fence, then read progress, then
/// look at the server, then decide.
async fn begin(
    config: &Config,
    registrations: &mut watch::Receiver<Registrations>,
    health: &Health,
    stop: &Arc<AtomicBool>,
    known: &KnownEnds,
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

    let mut publisher = fence(config, &registered, stop, known).await?;
    crash::point(Point::Fenced);
    let record = progress::read(config).await?;
    crash::point(Point::ProgressRead);

    let (server, start) = loop {
        let (server, start) = found::look(config, &mut connection, record.as_ref()).await?;
        match start {
            Ok(Start::Wait { .. }) => wait_for_slot(config, &mut connection, health).await?,
            Ok(start) => break (server, start),
            // Frozen for a while, this reader may compare what a successor moved with what it read before.
            Err(_) if progress::read(config).await? != record => {
                return Err(publish::Error::Fenced.into());
            }
            Err(stop) => return Err(stop.into()),
        }
    };
    let options = found::options(config);
    let taken;
    let record = match (start, record) {
        (Start::Resume { timeline }, Some(record)) => {
            let ends = known.with(&record.ends);
            let is_news = ends != record.ends;
            let record = Record { ends, ..record };
            if let Err(stop) = found::check_log_ends(config, &record).await {
                if is_news {
                    // So that the next process stops as well; otherwise what is written already has to do.
                    first::write(publisher, &record).await?;
                }
                return Err(stop);
            }
            publisher.expect(&record.ends);
            tracing::info!(slot, position = %record.position, seq = record.seq, "resuming");
            // Comparable, or nothing is in flight.
            let mut record = Record { timeline, options: options.clone(), ..record };
            record.tables.on_registrations(&registered);
            let (due, left_out) = wanted(config, &record.tables, &registered);
            record.tables.leave_out(left_out);
            // A first start that was interrupted is ended as it began: nothing is streamed before the rows. Tables that were
            // added since join beside the stream.
            let is_first = record.copying.is_some() && record.joining.is_none();
            taken = if is_first { Taken::ahead(config, &due).await? } else { None };
            record.copying = taken.as_ref().and_then(|taken| taken.copying(clock::now_ms()));
            record
        }
        (start, record) => {
            let unfinished = matches!(start, Start::First { unfinished: true });
            if !record.as_ref().is_some_and(Record::is_resync) {
                found::check_topics_empty(config, &registered).await?;
            }
            let announced = record.unwrap_or_else(|| {
                Record::first(&config.pipeline, &server.system_id, server.timeline, &options)
            });
            let outboxes = declared.quoted_outboxes();
            let first = First {
                config,
                slot: &slot,
                registered: &registered,
                outboxes: &outboxes,
                unfinished,
                announced,
            };
            let begun = first.run(&mut connection, publisher).await?;
            (publisher, taken) = (begun.publisher, begun.taken);
            begun.record
        }
    };
    let command = found::streaming(config, &slot, record.position);
    let copying = connection.stream(&command).await?;
    crash::point(Point::Streaming);
    let progress = Progress::new(record);
    Ok(Begun { copying, server, publisher, progress, registered, taken })
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

async fn fence(
    config: &Config,
    registered: &Registrations,
    stop: &Arc<AtomicBool>,
    known: &KnownEnds,
) -> Result<Kafka, Error> {
    let (kafka, pipeline) = (config.kafka.clone(), config.pipeline.clone());
    let topics: Vec<_> = registered.written().cloned().collect();
    let wait = Duration::from_millis(config.limits.transaction_wait_ms);
    let (stop, known) = (Arc::clone(stop), known.clone());
    blocking(move || {
        let publisher = Kafka::for_topics(&kafka, &pipeline, &topics, wait, known)?;
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
