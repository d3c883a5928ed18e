//! The part of the pipeline that lets tables join without holding the stream.
//!
//! ```text
//!  stream   ──┬─ all other tables ──────────────────────────────────────────────┬─▶ all tables
//!             H                                                                 J
//!  joining    └─ their changes up to S ─▶ rows at S ─▶ their changes behind S ──┘
//! ```
//!
//! **Invariant.** Of a table that joins, the stream writes the changes that committed before H and from J on, and its own
//! lane those in between; the lane's rows stand where a copy's rows stand. So every change is written once, and in the
//! order of commits.
//!
//! * H is where the stream stands between two transactions when the table leaves it. The lane reads another slot, which
//!   begins at or before H, and drops what committed before H.
//! * The lane never takes a transaction that committed where the stream stands or behind. So J, where the stream stands
//!   between two transactions when the lane has taken all before it, is one place for both.
//! * **After a crash** both go on from one progress record: the stream where it stood, the lane where it stood. What the lane
//!   needs is still there, because the pipeline's slot is confirmed up to the lesser of the two.
//! * The lanes take turns, a chunk each. Only at the end does the stream wait, for [`HOLD_MAX`], while what the lane lacks
//!   is less than [`NEAR`].

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tailwater_topics_contract::{From, Lsn, Registrations, TableName};
use tokio_util::sync::DropGuard;

use super::Pipeline;
use super::lane::{Held, JOINING, Lane, STREAM};
use crate::capture::Resume;
use crate::copies::Existing;
use crate::crash::{self, Point};
use crate::error::Error;
use crate::metrics as names;
use crate::publish::Publisher;
use crate::snapshot::{Join, Order};
use crate::stream::{Input, Receiver};

/// How long a pipeline without work sleeps while tables are joining, which come by another queue.
pub(super) const LOOK: Duration = Duration::from_millis(2);

/// Bytes of WAL that are read in a moment.
const NEAR: u64 = 1 << 20;

/// How long the stream may wait for a lane that is near, and how long it then goes on before it waits again.
const HOLD_MAX: Duration = Duration::from_millis(500);
const HOLD_PAUSE: Duration = Duration::from_secs(2);

/// What the lane of joining tables lives from.
pub(super) struct Supply {
    changes: Receiver,
    /// Its copy, or that there is none, is known. Until then it must not go on, because it could pass the copy's point.
    is_ready: bool,
    /// It had something to do when it last was its turn.
    pub(super) is_busy: bool,
    /// No topic takes the tables any more.
    is_unwanted: bool,
    hold: Hold,
    /// Dropped, it tells the session that the tables have joined.
    _until_joined: DropGuard,
}

/// Whether the stream waits.
enum Hold {
    No,
    Since(Instant),
    NotBefore(Instant),
}

impl<P: Publisher> Pipeline<P> {
    /// Takes tables that are to join, once the stream is between two transactions.
    pub(super) fn on_join(&mut self, join: Join) {
        self.leaving = Some(join);
    }

    /// Takes the copy of the tables that are joining, or that there is none.
    pub(super) fn on_join_copy(&mut self, order: Option<Order>) -> Result<(), Error> {
        let (Some(supply), Some(lane)) = (&mut self.supply, self.lanes.get_mut(JOINING)) else {
            return Ok(());
        };
        supply.is_ready = true;
        order.map_or(Ok(()), |order| lane.on_order(order))
    }

    /// Tables that no topic takes any more need not join.
    pub(super) fn on_join_registrations(&mut self, registered: &Registrations) {
        let (Some(supply), Some(joining)) = (&mut self.supply, self.progress.joining()) else {
            return;
        };
        let is_taken = |from: &From| matches!(from, From::Table(t) if joining.tables.contains(t));
        supply.is_unwanted = !registered.written().any(|topic| is_taken(&topic.spec.from));
    }

    /// Whether the stream has to stop at the next border.
    pub(super) fn is_border_wanted(&self) -> bool {
        let wants = |supply: &Supply| supply.is_unwanted || matches!(supply.hold, Hold::Since(_));
        self.leaving.is_some() || self.supply.as_ref().is_some_and(wants)
    }

    /// Everything that committed before this has been taken by the stream, and nothing else.
    pub(super) fn stream_at(&self) -> Lsn {
        self.progress.position(&self.lanes[STREAM].capture.at())
    }

    /// One turn of the tables that are joining.
    pub(super) fn join_turn(&mut self) -> Result<(), Error> {
        self.begin_join()?;
        if !self.supply.as_ref().is_some_and(|supply| supply.is_ready) {
            return self.end_join();
        }
        self.at_work = JOINING;
        let used = self.lanes[STREAM].capture.seq();
        self.lanes[JOINING].capture.on_seq(used);
        let worked = self.step();
        self.at_work = STREAM;
        let used = self.lanes[JOINING].capture.seq();
        self.lanes[STREAM].capture.on_seq(used);
        let is_busy = worked?;
        if let Some(supply) = &mut self.supply {
            supply.is_busy = is_busy;
        }
        self.end_join()
    }

    /// Lets tables leave the stream, or goes on with those that a crash left in between.
    fn begin_join(&mut self) -> Result<(), Error> {
        if self.leaving.is_none() || !self.lanes[STREAM].is_between() {
            return Ok(());
        }
        // What the reader was told before it let them join goes for them too, and the stream may be quiet.
        self.register()?;
        let Some(join) = self.leaving.take() else { return Ok(()) };
        if self.lanes.len() == JOINING {
            self.part(join.tables)?;
        }
        self.supply = Some(Supply {
            changes: join.changes,
            is_ready: false,
            is_busy: false,
            is_unwanted: false,
            hold: Hold::No,
            _until_joined: join.until_joined,
        });
        // Nobody listens when the session is ending.
        let _ = join.begun.send(());
        Ok(())
    }

    fn part(&mut self, tables: BTreeSet<TableName>) -> Result<(), Error> {
        let position = self.stream_at();
        let stream = &mut self.lanes[STREAM].capture;
        let resume = Resume { seq: stream.seq(), position, in_flight: None };
        let capture = stream.part(tables.clone(), resume)?;
        self.lanes.push(Lane::new(capture, position));
        let told: Vec<String> = tables.iter().map(ToString::to_string).collect();
        tracing::info!(at = %position, tables = told.join(", "), "tables are joining beside the stream");
        self.progress.on_join(tables, position);
        crash::point(Point::TablesLeft);
        Ok(())
    }

    /// Rows of the copy, or changes. Answers whether there were any.
    fn step(&mut self) -> Result<bool, Error> {
        self.begin_copy()?;
        if self.lanes[JOINING].copy.is_some() {
            return self.copy_next(self.copy_wait());
        }
        let Some(supply) = &self.supply else { return Ok(false) };
        // The stream waits for us, so there is nothing else to do.
        let wait = if matches!(supply.hold, Hold::Since(_)) { LOOK } else { Duration::ZERO };
        let held = match self.lanes[JOINING].held.take() {
            Some(held) => held,
            None => match supply.changes.pop(wait) {
                Ok(Input::Chunk(chunk)) => Held { chunk, done: 0 },
                // When its connection is gone the session knows why, and ends us.
                _ => return Ok(false),
            },
        };
        let taken = self.take(&held.chunk[held.done..])?;
        let done = held.done + taken;
        if done < held.chunk.len() {
            self.lanes[JOINING].held = Some(Held { done, ..held });
        } else if let Some(supply) = &self.supply {
            supply.changes.done(held.chunk.len());
        }
        Ok(taken > 0)
    }

    /// Lets the stream take the tables again where both stand at the same place.
    fn end_join(&mut self) -> Result<(), Error> {
        let at = self.stream_at();
        let (Some(supply), Some(lane)) = (&mut self.supply, self.lanes.get(JOINING)) else {
            return Ok(());
        };
        let lacks = at.0.saturating_sub(lane.passed().0);
        metrics::gauge!(names::JOINING_LAG_BYTES).set(lacks as f64);
        let is_copied = supply.is_ready && lane.orders.is_empty() && lane.copy.is_none();
        let is_near = is_copied && lacks <= NEAR;
        supply.hold = supply.hold.next(is_near, Instant::now());
        let has_caught_up = is_copied && lacks == 0 && lane.is_between();
        if !self.lanes[STREAM].is_between() || !(has_caught_up || supply.is_unwanted) {
            return Ok(());
        }
        if supply.is_unwanted {
            self.progress.on_copying(None);
            self.tell_copy();
            let joining = self.progress.joining().cloned();
            for table in joining.into_iter().flat_map(|joining| joining.tables) {
                self.progress.on_copied(table, Existing::Doubtful);
            }
        }
        // Held until it is durable.
        let _joined = self.supply.take();
        self.lanes.truncate(JOINING);
        self.lanes[STREAM].capture.unite()?;
        self.progress.on_joined();
        metrics::gauge!(names::JOINING_LAG_BYTES).set(0.0);
        tracing::info!(%at, has_caught_up, "the tables have joined the stream");
        crash::point(Point::TablesJoined);
        self.close()
    }
}

impl Hold {
    fn next(&self, is_near: bool, now: Instant) -> Self {
        match *self {
            Self::NotBefore(then) if now < then => Self::NotBefore(then),
            Self::Since(since) if is_near && now.duration_since(since) >= HOLD_MAX => {
                Self::NotBefore(now + HOLD_PAUSE)
            }
            Self::Since(since) if is_near => Self::Since(since),
            Self::No | Self::NotBefore(_) if is_near => Self::Since(now),
            Self::No | Self::Since(_) | Self::NotBefore(_) => Self::No,
        }
    }
}
