//! The pure heart of the reader: one message in, records out.
//!
//! ```text
//!  message ──▶ decode ──▶ transaction: begin, ordinals, commit ──▶ route ──▶ encode ──▶ batch
//!                              │                                                └─ seq: one for each record
//!                              └─▶ at(): what progress must say once the batch is durable
//! ```
//!
//! * The ordinal counts every decoded change of a transaction before any filter of ours, so that a second decoding
//!   gives the same numbers and a resume can skip exactly what is durable.
//! * All records of one change (the delete, the tombstone and the create of a moved key) are added together, so
//!   [`Capture::at`] never points between them.
//! * Nothing passes silently: a change that has no place to go is an error, one that was given up is counted.

use std::collections::{BTreeSet, HashMap};

use tailwater_topics_contract::{Lsn, Position, Registrations, Seq, TableName};

use self::writer::RecordWriter;
use crate::batch::Batch;
use crate::encode::{Images, RowError};
use crate::outbox::{Emitted, OutboxError};
use crate::pgoutput::{DecodeError, Message, Old, RelationMessage, Tuple, decode, oid_of};
pub use crate::route::SourceName;
use crate::route::{MessagePlace, Route, RouteError, Routes, Scope, TableRoute};

mod vanished;
mod writer;

/// Where a reader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The last number used.
    pub seq: Seq,
    /// End LSN of the last finished transaction.
    pub position: Lsn,
    /// The transaction of which a part is finished, and the next ordinal of it.
    pub in_flight: Option<Position>,
}

/// What a message meant for the transaction around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A transaction is open.
    Inside,
    /// A transaction ended.
    Committed {
        /// Where its commit record is.
        commit_lsn: Lsn,
        /// Where its commit record ends.
        end_lsn: Lsn,
        /// Commit time, in microseconds since 1970.
        commit_ts_us: i64,
    },
    /// No transaction is open.
    Outside,
}

/// A stream that cannot be followed. Every one is definite: the same bytes would fail again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Bytes that are no message.
    #[error("the stream holds bytes that are not a message of pgoutput version 1")]
    Decode(#[from] DecodeError),
    /// A message in a place where it cannot be.
    #[error("the stream holds a `{message}` message where none can be")]
    Order {
        /// Its kind.
        message: &'static str,
    },
    /// A change of a relation that was not announced.
    #[error("the stream holds a change of relation {oid}, which was not announced")]
    Unannounced {
        /// Its oid.
        oid: u32,
    },
    /// A relation without a place to go.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// A row that cannot be written.
    #[error(transparent)]
    Row(#[from] RowError),
    /// An outbox row that cannot be written.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The transaction of which a part is in Kafka did not come first.
    #[error(
        "the transaction at {expected} is in Kafka in part, but the stream goes on with the one at {found}; the slot has moved"
    )]
    InFlight {
        /// Its commit LSN.
        expected: Lsn,
        /// What came.
        found: Lsn,
    },
    /// The transaction of which a part is in Kafka ended before that part did: it is not the one that was written.
    #[error(
        "the transaction at {commit_lsn} has {found} changes, but {expected} of them are in Kafka already; the slot does not decode what it decoded before"
    )]
    InFlightShort {
        /// Its commit LSN.
        commit_lsn: Lsn,
        /// Changes that are durable.
        expected: u64,
        /// Changes that came now.
        found: u64,
    },
    /// The epoch has no numbers left.
    #[error("the sequence is used up; a resync begins a new epoch")]
    SeqUsedUp,
}

/// The state of the capture between two messages.
#[derive(Debug)]
pub struct Capture {
    routes: Routes,
    /// As announced, and where they go. Kept together so that new registrations can route them again.
    relations: HashMap<u32, (RelationMessage, Route)>,
    /// Types that are not built in: for a domain over a type that is, that one's oid; and the name.
    types: HashMap<u32, (Option<u32>, String)>,
    seq: Seq,
    position: Lsn,
    /// Of the message at hand.
    lsn: Lsn,
    /// A transaction that the predecessor finished in part and that has not come again yet.
    pending: Option<Position>,
    open: Option<Open>,
    unchanged: Vec<usize>,
    given_up: u64,
}

/// The open transaction.
#[derive(Clone, Copy, Debug)]
struct Open {
    commit_lsn: Lsn,
    /// In microseconds since 1970.
    commit_us: i64,
    xid: u32,
    /// Ordinal of the next change.
    ordinal: u64,
    /// Changes below this ordinal are durable already.
    emit_from: u64,
}

impl Open {
    /// What is written at the point of a copy belongs to no transaction; its time is that of the snapshot.
    fn of_copy(position: Position, taken_ms: i64) -> Self {
        let commit_us = taken_ms.saturating_mul(1_000);
        Self { commit_lsn: position.commit_lsn, commit_us, xid: 0, ordinal: 0, emit_from: 0 }
    }
}

impl Capture {
    /// Goes on at `resume`.
    pub fn new(
        source: SourceName,
        registrations: &Registrations,
        resume: Resume,
    ) -> Result<Self, Error> {
        Ok(Self::at_resume(Routes::new(source, Scope::All, registrations)?, resume))
    }

    fn at_resume(routes: Routes, resume: Resume) -> Self {
        Self {
            routes,
            relations: HashMap::new(),
            types: HashMap::new(),
            seq: resume.seq,
            position: resume.position,
            lsn: Lsn::ZERO,
            pending: resume.in_flight,
            open: None,
            unchanged: Vec::new(),
            given_up: 0,
        }
    }

    /// Takes one message, which tells of the WAL at `lsn`. `now_ms` goes into the records as their processing time, in
    /// milliseconds since 1970.
    ///
    /// # Errors
    /// After an error neither the capture nor the batch may be used.
    pub fn on_message(
        &mut self,
        lsn: Lsn,
        body: &[u8],
        now_ms: i64,
        out: &mut Batch,
    ) -> Result<Step, Error> {
        self.lsn = lsn;
        match decode(body)? {
            Message::Begin { final_lsn, commit_time_us, xid } => {
                self.on_begin(final_lsn, commit_time_us, xid)
            }
            Message::Commit { commit_lsn, end_lsn, commit_time_us } => {
                self.on_commit(commit_lsn, end_lsn, commit_time_us)
            }
            Message::Relation(mut relation) => {
                self.name_types(&mut relation);
                let route = self.routes.route(&relation)?;
                self.relations.insert(relation.oid, (relation, route));
                Ok(self.step())
            }
            Message::Type { oid, schema, name } => {
                let beneath = if schema == "pg_catalog" { oid_of(name) } else { None };
                self.types.insert(oid, (beneath, name.to_owned()));
                Ok(self.step())
            }
            Message::Origin { .. } => Ok(self.step()),
            Message::Insert { relation, new } => {
                self.on_row(relation, b'c', None, Some(&new), now_ms, out)
            }
            Message::Update { relation, old, new } => {
                self.on_row(relation, b'u', old.as_ref(), Some(&new), now_ms, out)
            }
            Message::Delete { relation, old } => {
                self.on_row(relation, b'd', Some(&old), None, now_ms, out)
            }
            Message::Truncate { relations } => self.on_truncate(&relations, now_ms, out),
            Message::Logical { is_transactional: true, prefix, content, .. } => {
                self.on_logical(prefix, content, now_ms, out)
            }
            Message::Logical { is_transactional: false, lsn, prefix, content } => {
                self.on_lone_logical(lsn, prefix, content, now_ms, out)
            }
        }
    }

    /// Routes everything anew. To be called between transactions only.
    pub fn on_registrations(&mut self, registrations: &Registrations) -> Result<(), Error> {
        let (source, scope) = (self.routes.source().clone(), self.routes.scope().clone());
        self.routes = Routes::new(source, scope, registrations)?;
        self.route_anew()
    }

    /// Leaves these tables, from here on, to a capture of their own that stands at `resume`. To be called between
    /// transactions only.
    pub fn part(&mut self, tables: BTreeSet<TableName>, resume: Resume) -> Result<Self, Error> {
        let only = self.routes.within(Scope::Only(tables.clone()));
        self.routes = self.routes.within(Scope::Without(tables));
        self.route_anew()?;
        Ok(Self::at_resume(only, resume))
    }

    /// Takes all tables again: the capture that was parted with stands where this one does. To be called between
    /// transactions only.
    pub fn unite(&mut self) -> Result<(), Error> {
        self.routes = self.routes.within(Scope::All);
        self.route_anew()
    }

    /// The last number used.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// Goes on behind a number that another capture used.
    pub fn on_seq(&mut self, used: Seq) {
        self.seq = self.seq.max(used);
    }

    fn route_anew(&mut self) -> Result<(), Error> {
        for (relation, route) in self.relations.values_mut() {
            *route = self.routes.route(relation)?;
        }
        Ok(())
    }

    /// Where the copied rows of a relation go; `None` when no topic takes them any more.
    pub fn route_of_copy(&self, relation: &RelationMessage) -> Result<Option<TableRoute>, Error> {
        Ok(match self.routes.route(relation)? {
            Route::Table(route) => Some(TableRoute { plan: route.plan.copied(), ..route }),
            Route::Outbox(_) | Route::GivenUp | Route::Elsewhere | Route::Undeclared(_) => None,
        })
    }

    /// Adds a row that was there before its changes were captured. To be called between transactions only. `position`
    /// is the point of the copy and the row's place in it, `taken_ms` when the copy's snapshot was taken.
    pub fn on_copied_row(
        &mut self,
        route: &TableRoute,
        row: &Tuple<'_>,
        position: Position,
        taken_ms: i64,
        now_ms: i64,
        out: &mut Batch,
    ) -> Result<(), Error> {
        let open = Open::of_copy(position, taken_ms);
        let mut writer = self.copy_writer(&open, position, now_ms, out);
        writer.write(route, Images { op: b'r', before: None, after: Some(row), fill: None }, None)
    }

    /// Writes at the point of a copy. To be called between transactions only.
    fn copy_writer<'a>(
        &'a mut self,
        open: &'a Open,
        position: Position,
        now_ms: i64,
        out: &'a mut Batch,
    ) -> RecordWriter<'a> {
        RecordWriter {
            pipeline: self.routes.source().pipeline.as_str(),
            open,
            seq: &mut self.seq,
            unchanged: &mut self.unchanged,
            lsn: open.commit_lsn,
            last_commit: self.position,
            position,
            now_ms,
            out,
        }
    }

    /// What progress must say once every record given out so far is durable.
    pub fn at(&self) -> Resume {
        let in_flight = match &self.open {
            None => self.pending,
            Some(open) => {
                let ordinal = open.ordinal.max(open.emit_from);
                match self.pending {
                    // A transaction before the pending one, which is wholly durable.
                    Some(pending) if pending.commit_lsn != open.commit_lsn => Some(pending),
                    _ if open.commit_lsn < self.position => None,
                    _ => (ordinal > 0).then_some(Position { commit_lsn: open.commit_lsn, ordinal }),
                }
            }
        };
        Resume { seq: self.seq, position: self.position, in_flight }
    }

    /// Changes that were decoded and went nowhere because that was asked for: rows of removed topics, and what is
    /// not an insert in an outbox.
    pub fn given_up(&self) -> u64 {
        self.given_up
    }

    /// Whether a transaction is open.
    pub fn is_inside_transaction(&self) -> bool {
        self.open.is_some()
    }

    /// Adds to the columns what the stream has said of their types, which comes before the relation.
    fn name_types(&self, relation: &mut RelationMessage) {
        for column in &mut relation.columns {
            let Some((beneath, name)) = self.types.get(&column.type_oid) else { continue };
            column.type_name = Some(name.clone());
            column.type_oid = beneath.unwrap_or(column.type_oid);
        }
    }

    fn step(&self) -> Step {
        if self.open.is_some() { Step::Inside } else { Step::Outside }
    }

    fn on_begin(&mut self, final_lsn: Lsn, commit_time_us: i64, xid: u32) -> Result<Step, Error> {
        if self.open.is_some() {
            return Err(Error::Order { message: "Begin" });
        }
        // A server that fell back, after a crash or failover, sends again what is wholly durable: its commit record
        // lies before our position.
        let emit_from = if final_lsn < self.position {
            u64::MAX
        } else {
            match self.pending {
                None => 0,
                Some(pending) if pending.commit_lsn == final_lsn => pending.ordinal,
                Some(pending) => {
                    return Err(Error::InFlight { expected: pending.commit_lsn, found: final_lsn });
                }
            }
        };
        self.open = Some(Open {
            commit_lsn: final_lsn,
            commit_us: commit_time_us,
            xid,
            ordinal: 0,
            emit_from,
        });
        Ok(Step::Inside)
    }

    fn on_commit(
        &mut self,
        commit_lsn: Lsn,
        end_lsn: Lsn,
        commit_ts_us: i64,
    ) -> Result<Step, Error> {
        let open = self.open.take().ok_or(Error::Order { message: "Commit" })?;
        if open.commit_lsn != commit_lsn {
            return Err(Error::Order { message: "Commit" });
        }
        if let Some(pending) = self.pending.filter(|pending| pending.commit_lsn == commit_lsn) {
            if open.ordinal < pending.ordinal {
                return Err(Error::InFlightShort {
                    commit_lsn,
                    expected: pending.ordinal,
                    found: open.ordinal,
                });
            }
            self.pending = None;
        }
        self.position = self.position.max(end_lsn);
        Ok(Step::Committed { commit_lsn, end_lsn, commit_ts_us })
    }

    fn on_row(
        &mut self,
        oid: u32,
        op: u8,
        old: Option<&Old<'_>>,
        new: Option<&Tuple<'_>>,
        now_ms: i64,
        out: &mut Batch,
    ) -> Result<Step, Error> {
        let Some(position) = self.next_ordinal()? else { return Ok(Step::Inside) };
        let Some((_, route)) = self.relations.get(&oid) else {
            return Err(Error::Unannounced { oid });
        };
        let mut writer = RecordWriter {
            pipeline: self.routes.source().pipeline.as_str(),
            open: self.open.as_ref().ok_or(Error::Order { message: "row" })?,
            seq: &mut self.seq,
            unchanged: &mut self.unchanged,
            lsn: self.lsn,
            last_commit: self.position,
            position,
            now_ms,
            out,
        };
        match (route, op, new) {
            (Route::Table(route), _, _) => writer.row(route, op, old, new)?,
            (Route::Outbox(table), b'c', Some(new)) => {
                if !writer.event(&table.outbox, &table.cells(new)?)? {
                    self.given_up += 1;
                }
            }
            // An event is what was inserted; housekeeping in the table afterwards is no event. The publication
            // holds these back anyway, unless somebody altered it.
            (Route::Outbox(_) | Route::GivenUp, ..) => self.given_up += 1,
            (Route::Elsewhere, ..) => {}
            (Route::Undeclared(table), ..) => {
                return Err(RouteError::Undeclared { table: table.clone() }.into());
            }
        }
        Ok(Step::Inside)
    }

    fn on_truncate(&mut self, oids: &[u32], now_ms: i64, out: &mut Batch) -> Result<Step, Error> {
        for oid in oids {
            let Some(position) = self.next_ordinal()? else { continue };
            let Some((_, route)) = self.relations.get(oid) else {
                return Err(Error::Unannounced { oid: *oid });
            };
            let mut writer = RecordWriter {
                pipeline: self.routes.source().pipeline.as_str(),
                open: self.open.as_ref().ok_or(Error::Order { message: "Truncate" })?,
                seq: &mut self.seq,
                unchanged: &mut self.unchanged,
                lsn: self.lsn,
                last_commit: self.position,
                position,
                now_ms,
                out,
            };
            match route {
                Route::Table(route) => writer.truncate(route)?,
                Route::Outbox(_) | Route::GivenUp => self.given_up += 1,
                Route::Elsewhere => {}
                Route::Undeclared(table) => {
                    return Err(RouteError::Undeclared { table: table.clone() }.into());
                }
            }
        }
        Ok(Step::Inside)
    }

    /// A message of the open transaction: a change like any other.
    fn on_logical(
        &mut self,
        prefix: &str,
        content: &[u8],
        now_ms: i64,
        out: &mut Batch,
    ) -> Result<Step, Error> {
        let Some(position) = self.next_ordinal()? else { return Ok(Step::Inside) };
        let open = self.open.ok_or(Error::Order { message: "Message" })?;
        self.logical(prefix, content, &open, position, now_ms, out)?;
        Ok(Step::Inside)
    }

    /// A message outside of any transaction, which is over as soon as it came. `lsn` is where its record ends.
    fn on_lone_logical(
        &mut self,
        lsn: Lsn,
        prefix: &str,
        content: &[u8],
        now_ms: i64,
        out: &mut Batch,
    ) -> Result<Step, Error> {
        if self.open.is_some() {
            return Err(Error::Order { message: "Message" });
        }
        // A server that fell back sends again what is durable.
        if lsn <= self.position {
            return Ok(Step::Outside);
        }
        // Its end may be where a commit record begins, so its identity is a place that is within its own record.
        let commit_lsn = Lsn(lsn.0 - 1);
        let position = Position { commit_lsn, ordinal: 0 };
        let commit_us = now_ms.saturating_mul(1_000);
        let alone = Open { commit_lsn, commit_us, xid: 0, ordinal: 0, emit_from: 0 };
        self.logical(prefix, content, &alone, position, now_ms, out)?;
        self.position = lsn;
        Ok(Step::Committed { commit_lsn, end_lsn: lsn, commit_ts_us: commit_us })
    }

    fn logical(
        &mut self,
        prefix: &str,
        content: &[u8],
        open: &Open,
        position: Position,
        now_ms: i64,
        out: &mut Batch,
    ) -> Result<(), Error> {
        let Some(place) = self.routes.message(prefix) else { return Ok(()) };
        let mut writer = RecordWriter {
            pipeline: self.routes.source().pipeline.as_str(),
            open,
            seq: &mut self.seq,
            unchanged: &mut self.unchanged,
            lsn: self.lsn,
            last_commit: self.position,
            position,
            now_ms,
            out,
        };
        let goes = match place {
            MessagePlace::GivenUp => false,
            MessagePlace::Topic(route) => {
                let origin = writer.origin()?;
                let (key, value) = route.write(content, origin, writer.out.arena());
                writer.out.push(&route.topic, None, Some(key), Some(value));
                true
            }
            MessagePlace::Outbox(outbox) => match Emitted::parse(content) {
                Ok(event) => writer.event(outbox, &event.cells())?,
                Err(why) => {
                    let letters = self.routes.source().pipeline.reader_dead_letter_topic();
                    writer.no_event(&letters, prefix, content, &why)?;
                    true
                }
            },
        };
        self.given_up += u64::from(!goes);
        Ok(())
    }

    /// Counts a change; `None` when it is durable already.
    fn next_ordinal(&mut self) -> Result<Option<Position>, Error> {
        let open = self.open.as_mut().ok_or(Error::Order { message: "row" })?;
        let ordinal = open.ordinal;
        open.ordinal += 1;
        let is_new = ordinal >= open.emit_from;
        Ok(is_new.then_some(Position { commit_lsn: open.commit_lsn, ordinal }))
    }
}
