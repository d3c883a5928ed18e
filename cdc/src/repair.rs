//! What people can do when the reader must not go on: decided here, carried out in [`carry_out`].
//!
//! ```text
//!  why it stopped ──adopt──▶ go on at the slot, at progress, or at a new slot; what was between is lost or comes again
//!                 └─resync─▶ announce a first start in a new epoch; the next start makes the slot and copies all tables
//! ```
//!
//! * Nothing is repaired by the reader itself. A repair is one progress record, written under the reader's transactional
//!   id, so it is there as a whole or not at all, and a reader that comes in between fences it off.
//! * **Every repair begins an epoch of the sequence.** Numbers of an epoch have no holes; what may be missing, or may come
//!   twice, lies between two epochs, where everybody can see it.
//! * A resync needs nothing that a first start does not do: position zero says that the slot, whatever it is, gave out
//!   nothing, so it is made anew, and tables that are in doubt are copied and compared with their topics.

mod carry_out;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use tailwater_topics_contract::{Lsn, Registrations, Seq};

pub use self::carry_out::{Error, carry_out, look};
use crate::copies::Existing;
use crate::progress::{REPAIRS_MAX, Record};
use crate::slot::{Server, Slot};
use crate::start::{Start, Stop};

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Going on somewhere else than progress said.
    Adopt,
    /// Reading everything anew.
    Resync,
}

/// A repair, as the progress record remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// What.
    pub kind: Kind,
    /// The code with which the reader had stopped; absent when it had not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Why, in the words of whoever did it.
    pub reason: String,
    /// Where the pipeline stood; absent when that was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Place>,
    /// Where it went on. Position zero: at the slot that the next start makes.
    pub after: Place,
}

/// Where a pipeline stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The epoch of its sequence.
    pub epoch: u16,
    /// The last number used.
    pub seq: u64,
    /// Everything that committed before this was read.
    pub position: Lsn,
    /// The database cluster.
    pub system_id: String,
    /// Its timeline.
    pub timeline: u32,
}

impl Place {
    fn of(record: &Record) -> Self {
        Self {
            epoch: record.epoch,
            seq: record.seq,
            position: record.position,
            system_id: record.system_id.clone(),
            timeline: record.timeline,
        }
    }
}

/// What a repair begins with.
#[derive(Clone, Debug)]
pub struct Found {
    /// The pipeline's slot, by name.
    pub slot_name: String,
    /// The database that it should decode.
    pub database: String,
    /// The server and the slot.
    pub server: Server,
    /// As last committed.
    pub progress: Option<Record>,
    /// What a reader would do now.
    pub start: Result<Start, Stop>,
    /// Without progress, the highest epoch among the last records of the topics.
    pub epoch_seen: Option<u16>,
}

/// What somebody asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// Where there is no slot, make one and go on there.
    pub new_slot: bool,
    /// The epoch to begin, where nothing says which were used.
    pub epoch: Option<u16>,
}

/// Where the pipeline will go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// At the position of the server's slot.
    Slot(Lsn),
    /// Where progress stands.
    Progress(Lsn),
    /// At a slot that is made now.
    NewSlot,
    /// At the slot that the next start makes, after all tables were copied in its snapshot.
    Anew,
}

/// A repair that can be carried out, and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What.
    pub kind: Kind,
    /// Where.
    pub at: At,
    /// The epoch that begins.
    pub epoch: u16,
    /// What will be missing in Kafka.
    pub lost: String,
    /// What will be in Kafka twice.
    pub repeated: String,
}

/// A repair that would do harm, or nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The reader runs.
    #[error("slot `{slot}` is read by server process {pid}: stop the reader first")]
    Running {
        /// The slot.
        slot: String,
        /// Its reader's server process.
        pid: u32,
    },
    /// It can go on.
    #[error("nothing is wrong: the reader goes on at {position}")]
    NothingWrong {
        /// Where.
        position: Lsn,
    },
    /// It never began.
    #[error("nothing was ever read: start the reader, which begins by copying what tables hold")]
    NeverBegan,
    /// Going on would leave a hole, or what never happened.
    #[error(
        "{stop}. Going on from there would leave Kafka wrong for good; `tailwater cdc resync` reads every table again and deletes what has gone"
    )]
    ResyncOnly {
        /// Why the reader stopped.
        stop: Box<Stop>,
    },
    /// There is no slot.
    #[error(
        "{stop}. There is no slot to go on from: `tailwater cdc resync` reads every table again; if you know that nothing was written since the last position, `--new-slot` makes a slot and goes on there"
    )]
    NoSlot {
        /// Why the reader stopped.
        stop: Box<Stop>,
    },
    /// The remedy is another one.
    #[error("{stop}. No repair helps against that; `tailwater explain {}` says what does", stop.code().text)]
    NotThis {
        /// Why the reader stopped.
        stop: Box<Stop>,
    },
    /// Nobody knows which numbers were used.
    #[error(
        "neither progress nor any topic says which epochs of the sequence were used; give `--epoch N`, above all that a consumer may have seen (`source.seq` divided by 2^44)"
    )]
    NoEpoch,
    /// The epoch was used already, or there is none above it.
    #[error("epoch {epoch} cannot begin: it must be above {used} and at most 511")]
    BadEpoch {
        /// The one wished for.
        epoch: u32,
        /// The last one used.
        used: u16,
    },
}

impl Found {
    /// Whether the pipeline can go on at the slot or at progress, and what that means. Row by row of the decision table.
    pub fn adopt(&self, wish: Wish) -> Result<Plan, Refusal> {
        self.check_idle()?;
        let stop = match &self.start {
            Ok(start) => return Err(self.nothing_wrong(start)),
            Err(stop) => stop,
        };
        let nothing = || "nothing".to_owned();
        let boxed = || Box::new(stop.clone());
        let position = self.progress.as_ref().map_or(Lsn::ZERO, |record| record.position);
        let (at, lost, repeated) = match stop {
            Stop::ProgressLost { .. } => {
                let at = self.usable_slot().ok_or_else(|| Refusal::ResyncOnly { stop: boxed() })?;
                (
                    At::Slot(at),
                    "nothing, if nobody else has read this slot".to_owned(),
                    format!(
                        "changes after {at} that had reached Kafka come again, with higher numbers; rows of a first copy that was under way do not come"
                    ),
                )
            }
            Stop::SlotMoved { confirmed, bytes, .. } => (
                At::Slot(*confirmed),
                format!(
                    "every change, event and message that committed between {position} and {confirmed} ({bytes} bytes of WAL)"
                ),
                nothing(),
            ),
            Stop::OtherCluster { .. } | Stop::SlotMissing { .. } | Stop::TopicNotEmpty { .. } => {
                let at = match (&self.server.slot, self.usable_slot()) {
                    (Some(_), Some(at)) => At::Slot(at),
                    (Some(_), None) => return Err(Refusal::ResyncOnly { stop: boxed() }),
                    (None, _) if wish.new_slot => At::NewSlot,
                    (None, _) => return Err(Refusal::NoSlot { stop: boxed() }),
                };
                let place = match at {
                    At::Slot(at) => format!("{at}, where the slot begins"),
                    _ => "the slot that is made now".to_owned(),
                };
                let since = match position {
                    Lsn::ZERO => "what Kafka has".to_owned(),
                    position => format!("{position}, where progress stands"),
                };
                (
                    at,
                    format!(
                        "every change, event and message that committed between {since}, and {place}; nothing if there was none"
                    ),
                    nothing(),
                )
            }
            Stop::OptionsChanged { .. } => {
                let done = self.progress.as_ref().and_then(|record| record.in_flight);
                let count = done.map_or(0, |in_flight| in_flight.next_ordinal);
                let again = format!(
                    "the first {count} changes of the transaction that is half sent come again, with higher numbers"
                );
                (At::Progress(position), nothing(), again)
            }
            Stop::KafkaBehind { topic, partition, end, recorded } => (
                At::Progress(position),
                format!(
                    "what `{topic}` partition {partition} held between offsets {end} and {recorded}, and perhaps records of other topics; `tailwater cdc snapshot` brings the rows of tables back"
                ),
                nothing(),
            ),
            Stop::SlotLost { .. }
            | Stop::ServerBehind { .. }
            | Stop::AheadOfStandby { .. }
            | Stop::UnknownTimeline { .. } => return Err(Refusal::ResyncOnly { stop: boxed() }),
            Stop::OldPrimary { .. }
            | Stop::SlotBusy { .. }
            | Stop::EventsExist { .. }
            | Stop::SlotForeign { .. }
            | Stop::ProgressForeign { .. } => return Err(Refusal::NotThis { stop: boxed() }),
        };
        Ok(Plan { kind: Kind::Adopt, at, epoch: self.next_epoch(wish)?, lost, repeated })
    }

    /// Whether everything can be read anew, and what that means.
    pub fn resync(&self, wish: Wish) -> Result<Plan, Refusal> {
        self.check_idle()?;
        match &self.start {
            Ok(Start::First { .. }) => return Err(Refusal::NeverBegan),
            Err(
                stop @ (Stop::OldPrimary { .. }
                | Stop::SlotBusy { .. }
                | Stop::EventsExist { .. }
                | Stop::SlotForeign { .. }
                | Stop::ProgressForeign { .. }),
            ) => return Err(Refusal::NotThis { stop: Box::new(stop.clone()) }),
            Ok(Start::Resume { .. } | Start::Wait { .. }) | Err(_) => {}
        }
        if let Some(slot) = self.server.slot.as_ref().filter(|_| !self.is_our_slot()) {
            let (slot_name, plugin, database) =
                (self.slot_name(), slot.plugin.clone(), slot.database.clone());
            let stop = Stop::SlotForeign { slot: slot_name, plugin, database };
            return Err(Refusal::NotThis { stop: Box::new(stop) });
        }
        let since = match &self.progress {
            Some(record) => format!("{}", record.position),
            None => "what Kafka has".to_owned(),
        };
        Ok(Plan {
            kind: Kind::Resync,
            at: At::Anew,
            epoch: self.next_epoch(wish)?,
            lost: format!(
                "no row; events and messages that committed between {since} and the slot that the reader makes at its next start, and for each row what it was meanwhile"
            ),
            repeated: "every row of every captured table comes once more, with a higher number"
                .to_owned(),
        })
    }

    fn check_idle(&self) -> Result<(), Refusal> {
        match self.server.slot.as_ref().and_then(|slot| slot.active_pid) {
            Some(pid) => Err(Refusal::Running { slot: self.slot_name(), pid }),
            None => Ok(()),
        }
    }

    fn nothing_wrong(&self, start: &Start) -> Refusal {
        match (start, &self.progress) {
            (Start::Resume { .. } | Start::Wait { .. }, Some(record)) => {
                Refusal::NothingWrong { position: record.position }
            }
            _ => Refusal::NeverBegan,
        }
    }

    fn slot_name(&self) -> String {
        self.slot_name.clone()
    }

    fn is_our_slot(&self) -> bool {
        self.server
            .slot
            .as_ref()
            .is_some_and(|slot| slot.plugin == "pgoutput" && slot.database == self.database)
    }

    /// Where the slot goes on, if it is ours and whole.
    fn usable_slot(&self) -> Option<Lsn> {
        let is_whole = |slot: &&Slot| slot.wal_status != "lost" && self.is_our_slot();
        self.server.slot.as_ref().filter(is_whole)?.confirmed_flush
    }

    fn next_epoch(&self, wish: Wish) -> Result<u16, Refusal> {
        let known = self.progress.as_ref().map(|record| record.epoch);
        let used = known.max(self.epoch_seen);
        let epoch = match (wish.epoch, used) {
            (Some(epoch), _) => u32::from(epoch),
            (None, Some(used)) => u32::from(used) + 1,
            (None, None) => return Err(Refusal::NoEpoch),
        };
        let is_new = used.is_none_or(|used| epoch > u32::from(used)) && epoch > 0;
        let fits = u16::try_from(epoch).ok().filter(|epoch| Seq::new(*epoch, 0).is_some());
        fits.filter(|_| is_new).ok_or(Refusal::BadEpoch { epoch, used: used.unwrap_or(0) })
    }
}

impl Plan {
    /// The record that is the repair. `base` is an empty one with what is known of pipeline and server; `position` is
    /// where the slot begins that this made, if it made one.
    fn record(
        &self,
        found: &Found,
        base: Record,
        position: Option<Lsn>,
        registered: &Registrations,
        reason: &str,
        now_ms: i64,
    ) -> Record {
        let seq = Seq::new(self.epoch, 0).expect("checked when it was planned");
        let before = found.progress.as_ref();
        let mut record = Record {
            epoch: self.epoch,
            seq: seq.get(),
            position: match self.at {
                At::Slot(at) | At::Progress(at) => at,
                At::NewSlot => position.unwrap_or_default(),
                At::Anew => Lsn::ZERO,
            },
            tables: before.map(|record| record.tables.clone()).unwrap_or_default(),
            repairs: before.map(|record| record.repairs.clone()).unwrap_or_default(),
            at_ms: now_ms,
            ..base
        };
        let is_kafka_short = matches!(found.start, Err(Stop::KafkaBehind { .. }));
        match self.kind {
            Kind::Adopt => {
                if let Some(before) = before.filter(|_| !is_kafka_short) {
                    record.ends = before.ends.clone();
                }
                // Tables that stood elsewhere than the stream cannot be followed from there on.
                let joining = before.and_then(|record| record.joining.as_ref());
                for table in joining.into_iter().flat_map(|joining| &joining.tables) {
                    record.tables.insert(table.clone(), Existing::Doubtful);
                }
                if before.is_none() {
                    // Which rows are there nobody knows any more; they may be asked for.
                    let due = record.tables.due(registered);
                    record.tables.leave_out(due);
                }
            }
            Kind::Resync => record.tables.doubt(registered),
        }
        record.repairs.push(Repair {
            at_ms: now_ms,
            kind: self.kind,
            code: found.start.as_ref().err().map(|stop| stop.code().text.to_owned()),
            reason: reason.to_owned(),
            before: before.map(Place::of),
            after: Place::of(&record),
        });
        let excess = record.repairs.len().saturating_sub(REPAIRS_MAX);
        record.repairs.drain(..excess);
        record
    }
}
