//! Whether the source's history and ours agree: a table, and nothing else.
//!
//! ```text
//!  progress (P, system, timeline, options) ─┐
//!  server (system, timeline, W)             ├─▶ decide ─▶ first run │ resume at P │ wait │ stop, with a code
//!  slot (confirmed C, status, who reads it) ┘
//! ```
//!
//! * The server silently moves a start below `C` forward, and silently skips what lies before a start above
//!   its own history. Both look like a quiet, healthy source, so they are recognised here or never.
//! * Nothing is repaired here. A wrong guess would be a hole that nobody sees.

use tailwater_topics_contract::Lsn;

use crate::error::{Code, code};
use crate::progress::Record;
use crate::slot::{History, Server};

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Nothing was ever read. With `unfinished`, an earlier first start was interrupted after it had created
    /// the slot; nothing came out of that slot, so it is dropped and made again.
    First {
        /// Whether the slot of an interrupted first start exists.
        unfinished: bool,
    },
    /// Go on at the progress position.
    Resume {
        /// The timeline to note from now on.
        timeline: u32,
    },
    /// Everything agrees but another connection reads the slot.
    Wait {
        /// Its server process.
        pid: u32,
    },
}

/// Why nothing may be read. The messages say what is at risk and what a person can do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// No progress, but a slot.
    #[error(
        "slot `{slot}` exists but there is no progress record: the progress topic was lost, or the slot is somebody else's; `tailwater cdc adopt` goes on at the slot if it is this pipeline's, `SELECT pg_drop_replication_slot('{slot}')` drops it once you know that nobody needs it"
    )]
    ProgressLost {
        /// The slot.
        slot: String,
    },
    /// Progress, but no slot.
    #[error(
        "slot `{slot}` is gone; changes after {position} may be lost; `tailwater cdc resync` reads every table anew"
    )]
    SlotMissing {
        /// The slot.
        slot: String,
        /// Where we were.
        position: Lsn,
    },
    /// Progress of another cluster.
    #[error(
        "the progress belongs to database cluster {expected}, but cluster {found} answers; correct `postgres.host` and `postgres.port`, or, if the database has moved, use `tailwater cdc adopt` or `resync`"
    )]
    OtherCluster {
        /// The cluster we know.
        expected: String,
        /// The cluster that answers.
        found: String,
    },
    /// The server has thrown away what the slot needed.
    #[error(
        "slot `{slot}` is {status}: the server no longer has the WAL after {position}; raise `max_slot_wal_keep_size`, then `tailwater cdc resync` reads every table anew"
    )]
    SlotLost {
        /// The slot.
        slot: String,
        /// Its status.
        status: String,
        /// Where we were.
        position: Lsn,
    },
    /// The slot is ahead of us.
    #[error(
        "slot `{slot}` was moved or made again by somebody else: it begins at {confirmed}, {bytes} bytes after our {position}; the changes between are lost; `tailwater cdc adopt` goes on without them, `tailwater cdc resync` reads every table anew"
    )]
    SlotMoved {
        /// The slot.
        slot: String,
        /// Where it is.
        confirmed: Lsn,
        /// Where we were.
        position: Lsn,
        /// How much lies between.
        bytes: u64,
    },
    /// We are ahead of the server.
    #[error(
        "the server's WAL ends at {wal_end}, before our {position}: an older copy of the database answers; Kafka holds changes that this database never made; `tailwater cdc resync` takes them back"
    )]
    ServerBehind {
        /// How far the server is.
        wal_end: Lsn,
        /// Where we were.
        position: Lsn,
    },
    /// We are ahead of a promoted standby.
    #[error(
        "timeline {timeline} branched off {before}, before our {position}: Kafka holds changes that the promoted server never had, and it would skip new ones; `tailwater cdc resync` takes them back; set `synchronized_standby_slots` before the next failover"
    )]
    AheadOfStandby {
        /// The server's timeline.
        timeline: u32,
        /// Where it began.
        before: Lsn,
        /// Where we were.
        position: Lsn,
    },
    /// A timeline we cannot place.
    #[error(
        "the server is on timeline {found}, whose history does not contain our timeline {known}; `tailwater cdc resync` follows it"
    )]
    UnknownTimeline {
        /// The server's timeline.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The former primary.
    #[error(
        "the server is on timeline {found}, but progress was made on {known}: the old primary answers; correct `postgres.host`"
    )]
    OldPrimary {
        /// The server's timeline.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Another reader holds the slot and does not let go.
    #[error(
        "slot `{slot}` is read by server process {pid}; another reader of this pipeline is running"
    )]
    SlotBusy {
        /// The slot.
        slot: String,
        /// The process.
        pid: u32,
    },
    /// The stream options changed in the middle of a transaction.
    #[error(
        "the stream options changed from `{before}` to `{now}` while a transaction is half sent, so its rows cannot be counted alike; start once more with the former version, or `tailwater cdc adopt` to have its first rows twice"
    )]
    OptionsChanged {
        /// As the transaction was counted.
        before: String,
        /// As it would be counted now.
        now: String,
    },
    /// An outbox holds events and nobody said what shall become of them.
    #[error(
        "outbox {table} already holds events, and whether somebody else has sent them is not to be seen; start once with `--events-from-now` to leave them out, or empty the table first"
    )]
    EventsExist {
        /// The first such table, quoted.
        table: String,
    },
    /// Not a slot of ours.
    #[error(
        "slot `{slot}` uses plugin `{plugin}` in database `{database}`, so it was not made by this pipeline"
    )]
    SlotForeign {
        /// The slot.
        slot: String,
        /// Its plugin; empty when physical.
        plugin: String,
        /// Its database.
        database: String,
    },
    /// Not a progress record of ours.
    #[error("the progress record belongs to pipeline `{pipeline}` with slot `{slot}`")]
    ProgressForeign {
        /// Its pipeline.
        pipeline: String,
        /// Its slot.
        slot: String,
    },
    /// A first start into topics that hold records.
    #[error(
        "topic `{topic}` already holds records but there is no progress: the sequence would begin again below theirs and sinks would ignore it; use new topics, or `tailwater cdc resync` to read every table anew above them"
    )]
    TopicNotEmpty {
        /// The topic.
        topic: String,
    },
    /// Kafka lost records that progress counts.
    #[error(
        "topic `{topic}` partition {partition} ends at {end}, before the recorded {recorded}: Kafka lost acknowledged records, or the topic was made again; `tailwater cdc adopt` goes on without them"
    )]
    KafkaBehind {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Its end.
        end: i64,
        /// What progress says.
        recorded: i64,
    },
}

impl Stop {
    /// The code of this row.
    pub fn code(&self) -> Code {
        match self {
            Self::ProgressLost { .. } => code::PROGRESS_LOST,
            Self::SlotMissing { .. } => code::SLOT_MISSING,
            Self::OtherCluster { .. } => code::OTHER_CLUSTER,
            Self::SlotLost { .. } => code::SLOT_LOST,
            Self::SlotMoved { .. } => code::SLOT_MOVED,
            Self::ServerBehind { .. } => code::SERVER_BEHIND,
            Self::AheadOfStandby { .. } => code::AHEAD_OF_STANDBY,
            Self::UnknownTimeline { .. } => code::UNKNOWN_TIMELINE,
            Self::OldPrimary { .. } => code::OLD_PRIMARY,
            Self::SlotBusy { .. } => code::SLOT_BUSY,
            Self::OptionsChanged { .. } => code::OPTIONS_CHANGED,
            Self::EventsExist { .. } => code::SNAPSHOT_NEEDED,
            Self::SlotForeign { .. } => code::SLOT_FOREIGN,
            Self::ProgressForeign { .. } => code::PROGRESS_FOREIGN,
            Self::TopicNotEmpty { .. } => code::TOPIC_NOT_EMPTY,
            Self::KafkaBehind { .. } => code::KAFKA_BEHIND,
        }
    }
}

/// What the decision is about, beside progress and server.
#[derive(Clone, Copy, Debug)]
pub struct Ours<'a> {
    /// The pipeline's name.
    pub pipeline: &'a str,
    /// Its slot.
    pub slot: &'a str,
    /// Its database.
    pub database: &'a str,
    /// What the stream will be asked for.
    pub options: &'a str,
}

/// The table. `history` is needed when the server's timeline is higher than the known one.
pub fn decide(
    ours: Ours<'_>,
    progress: Option<&Record>,
    server: &Server,
    history: Option<&History>,
) -> Result<Start, Stop> {
    let slot = || ours.slot.to_owned();
    let Some(progress) = progress else {
        return match server.slot {
            None => Ok(Start::First { unfinished: false }),
            Some(_) => Err(Stop::ProgressLost { slot: slot() }),
        };
    };
    if progress.pipeline.as_str() != ours.pipeline || progress.slot != ours.slot {
        return Err(Stop::ProgressForeign {
            pipeline: progress.pipeline.to_string(),
            slot: progress.slot.clone(),
        });
    }
    if progress.system_id != server.system_id {
        return Err(Stop::OtherCluster {
            expected: progress.system_id.clone(),
            found: server.system_id.clone(),
        });
    }
    let position = progress.position;
    let first = position == Lsn::ZERO;
    if !first {
        same_history(progress, server, history)?;
    }
    let Some(found) = &server.slot else {
        return if first {
            Ok(Start::First { unfinished: false })
        } else {
            Err(Stop::SlotMissing { slot: slot(), position })
        };
    };
    if found.plugin != "pgoutput" || found.database != ours.database {
        let (plugin, database) = (found.plugin.clone(), found.database.clone());
        return Err(Stop::SlotForeign { slot: slot(), plugin, database });
    }
    if first {
        return match found.active_pid {
            Some(pid) => Ok(Start::Wait { pid }),
            None => Ok(Start::First { unfinished: true }),
        };
    }
    let confirmed = match found.confirmed_flush {
        Some(confirmed) if found.wal_status != "lost" => confirmed,
        _ => {
            let status = found.wal_status.clone();
            return Err(Stop::SlotLost { slot: slot(), status, position });
        }
    };
    let needed = progress.needs_from();
    if needed < confirmed {
        let bytes = confirmed.0 - needed.0;
        return Err(Stop::SlotMoved { slot: slot(), confirmed, position: needed, bytes });
    }
    if position > server.wal_end {
        return Err(Stop::ServerBehind { wal_end: server.wal_end, position });
    }
    if progress.is_in_flight() && progress.options != ours.options {
        let before = progress.options.clone();
        return Err(Stop::OptionsChanged { before, now: ours.options.to_owned() });
    }
    match found.active_pid {
        Some(pid) => Ok(Start::Wait { pid }),
        None => Ok(Start::Resume { timeline: server.timeline }),
    }
}

fn same_history(progress: &Record, server: &Server, history: Option<&History>) -> Result<(), Stop> {
    let (known, found) = (progress.timeline, server.timeline);
    if found < known {
        return Err(Stop::OldPrimary { found, known });
    }
    if found > known {
        let end = history.and_then(|history| history.end_of(known));
        let before = end.ok_or(Stop::UnknownTimeline { found, known })?;
        if progress.position > before {
            let position = progress.position;
            return Err(Stop::AheadOfStandby { timeline: found, before, position });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::progress::{InFlight, Joining};
    use crate::slot::Slot;

    const OURS: Ours<'_> = Ours {
        pipeline: "market",
        slot: "tailwater_market",
        database: "shop",
        options: "proto_version=1;publications=a,b",
    };

    fn progress(position: u64) -> Record {
        let pipeline = OURS.pipeline.parse().expect("a name");
        let mut record = Record::first(&pipeline, "7012", 3, OURS.options);
        record.position = Lsn(position);
        record
    }

    fn server(confirmed: u64, wal_end: u64) -> Server {
        Server {
            system_id: "7012".to_owned(),
            timeline: 3,
            wal_end: Lsn(wal_end),
            wal_sender_timeout_ms: 60_000,
            slot: Some(Slot {
                plugin: "pgoutput".to_owned(),
                database: "shop".to_owned(),
                active_pid: None,
                wal_status: "reserved".to_owned(),
                restart_lsn: Some(Lsn(confirmed)),
                confirmed_flush: Some(Lsn(confirmed)),
            }),
        }
    }

    fn stop(progress: Option<&Record>, server: &Server) -> Code {
        decide(OURS, progress, server, None).expect_err("it stops").code()
    }

    #[test]
    fn no_progress_and_no_slot_is_the_first_run() {
        let server = Server { slot: None, ..server(0, 100) };
        assert_eq!(decide(OURS, None, &server, None), Ok(Start::First { unfinished: false }));
    }

    #[test]
    fn an_interrupted_first_run_is_taken_up_again() {
        let announced = progress(0);
        let none = Server { slot: None, ..server(0, 100) };
        let first = |unfinished| Ok(Start::First { unfinished });
        assert_eq!(decide(OURS, Some(&announced), &none, None), first(false));
        assert_eq!(decide(OURS, Some(&announced), &server(90, 100), None), first(true));
    }

    #[test]
    fn a_slot_without_progress_stops() {
        assert_eq!(stop(None, &server(50, 100)), code::PROGRESS_LOST);
    }

    #[test]
    fn progress_without_a_slot_stops() {
        let server = Server { slot: None, ..server(0, 100) };
        assert_eq!(stop(Some(&progress(50)), &server), code::SLOT_MISSING);
    }

    #[test]
    fn another_cluster_stops() {
        let server = Server { system_id: "8".to_owned(), ..server(50, 100) };
        assert_eq!(stop(Some(&progress(50)), &server), code::OTHER_CLUSTER);
        assert_eq!(stop(Some(&progress(0)), &server), code::OTHER_CLUSTER);
    }

    #[test]
    fn a_lost_slot_stops() {
        let mut server = server(50, 100);
        server.slot.as_mut().expect("a slot").wal_status = "lost".to_owned();
        assert_eq!(stop(Some(&progress(50)), &server), code::SLOT_LOST);
    }

    #[test]
    fn a_slot_at_or_before_progress_resumes() {
        for confirmed in [0, 49, 50] {
            let decided = decide(OURS, Some(&progress(50)), &server(confirmed, 50), None);
            assert_eq!(decided, Ok(Start::Resume { timeline: 3 }));
        }
    }

    #[test]
    fn a_slot_ahead_of_progress_stops() {
        assert_eq!(stop(Some(&progress(50)), &server(51, 100)), code::SLOT_MOVED);
    }

    #[test]
    fn a_slot_ahead_of_what_a_joining_table_needs_stops() {
        let mut progress = progress(50);
        let tables = BTreeSet::from(["s.late".parse().expect("a name")]);
        progress.joining = Some(Joining { tables, position: Lsn(30), in_flight: None });
        assert_eq!(stop(Some(&progress), &server(40, 100)), code::SLOT_MOVED);
        let decided = decide(OURS, Some(&progress), &server(30, 100), None);
        assert_eq!(decided, Ok(Start::Resume { timeline: 3 }));
    }

    #[test]
    fn progress_ahead_of_the_server_stops() {
        assert_eq!(stop(Some(&progress(101)), &server(50, 100)), code::SERVER_BEHIND);
    }

    #[test]
    fn a_clean_failover_goes_on_under_the_new_timeline() {
        let server = Server { timeline: 4, ..server(50, 100) };
        let history = History::parse("2\t0/10\tx\n3\t0/32\tx\n");
        let decided = decide(OURS, Some(&progress(50)), &server, Some(&history));
        assert_eq!(decided, Ok(Start::Resume { timeline: 4 }));
    }

    #[test]
    fn a_reader_ahead_of_a_promoted_standby_stops() {
        let server = Server { timeline: 4, ..server(50, 100) };
        let history = History::parse("3\t0/31\tx\n");
        let decided = decide(OURS, Some(&progress(50)), &server, Some(&history));
        assert_eq!(decided.expect_err("it stops").code(), code::AHEAD_OF_STANDBY);
    }

    #[test]
    fn a_timeline_that_is_no_descendant_stops() {
        let server = Server { timeline: 4, ..server(50, 100) };
        assert_eq!(stop(Some(&progress(50)), &server), code::UNKNOWN_TIMELINE);
    }

    #[test]
    fn the_old_primary_stops() {
        let server = Server { timeline: 2, ..server(50, 100) };
        assert_eq!(stop(Some(&progress(50)), &server), code::OLD_PRIMARY);
    }

    #[test]
    fn a_slot_in_use_is_waited_for() {
        let mut server = server(50, 100);
        server.slot.as_mut().expect("a slot").active_pid = Some(7);
        let decided = decide(OURS, Some(&progress(50)), &server, None);
        assert_eq!(decided, Ok(Start::Wait { pid: 7 }));
    }

    #[test]
    fn options_may_change_between_transactions_only() {
        let mut progress = progress(50);
        progress.options = "proto_version=2".to_owned();
        let decided = decide(OURS, Some(&progress), &server(50, 100), None);
        assert_eq!(decided, Ok(Start::Resume { timeline: 3 }));
        progress.in_flight = Some(InFlight { commit_lsn: Lsn(60), next_ordinal: 4 });
        assert_eq!(stop(Some(&progress), &server(50, 100)), code::OPTIONS_CHANGED);
    }

    #[test]
    fn a_slot_or_progress_of_somebody_else_stops() {
        let mut server = server(50, 100);
        server.slot.as_mut().expect("a slot").plugin = "test_decoding".to_owned();
        assert_eq!(stop(Some(&progress(50)), &server), code::SLOT_FOREIGN);
        let mut progress = progress(50);
        progress.slot = "other".to_owned();
        assert_eq!(stop(Some(&progress), &server), code::PROGRESS_FOREIGN);
    }
}
