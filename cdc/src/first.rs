//! The very first start, and the one after a resync.
//!
//! It announces itself in progress before it makes the slot. So a slot without progress is never ours, and a start
//! that dies in between is taken up again: its slot has given nothing out, and is made anew.

use tailwater_runtime::clock;
use tailwater_topics_contract::Registrations;
use tokio::task::spawn_blocking;

use crate::config::Config;
use crate::copier::wanted;
use crate::crash::{self, Point};
use crate::error::Error;
use crate::progress::Record;
use crate::publish::Publisher;
use crate::publish::kafka::Kafka;
use crate::slot;
use crate::snapshot::{Keeper, Taken};
use crate::start::Stop;
use crate::stream::Connection;

/// What a first start needs to know.
pub(crate) struct First<'a> {
    pub(crate) config: &'a Config,
    pub(crate) slot: &'a str,
    pub(crate) registered: &'a Registrations,
    /// Outbox tables, quoted.
    pub(crate) outboxes: &'a [String],
    pub(crate) unfinished: bool,
    pub(crate) announced: Record,
}

/// What it leaves behind.
pub(crate) struct Begun {
    pub(crate) publisher: Kafka,
    pub(crate) record: Record,
    /// The rows to be copied.
    pub(crate) taken: Option<Taken>,
}

impl First<'_> {
    pub(crate) async fn run(
        self,
        connection: &mut Connection,
        publisher: Kafka,
    ) -> Result<Begun, Error> {
        let Self { config, slot, .. } = self;
        // Of a resync it was said when it was asked for that events are not read anew.
        let leaves_events = config.from_now || config.events_from_now || self.announced.is_resync();
        let outboxes = if leaves_events { &[] } else { self.outboxes };
        // Before anything is made, so that the usual refusal leaves no trace.
        if let Some(table) = slot::first_filled(connection, outboxes).await? {
            return Err(Stop::EventsExist { table }.into());
        }
        let announced = Record { at_ms: clock::now_ms(), ..self.announced };
        let publisher = write(publisher, &announced).await?;
        crash::point(Point::Announced);
        if self.unfinished {
            slot::drop(connection, slot).await?;
        }
        tracing::info!(slot, "creating the slot; it waits for running transactions");
        let (due, left_out) = wanted(config, &announced.tables, self.registered);
        let (begins, exported) = slot::create(connection, slot).await?;
        crash::point(Point::SlotMade);
        let mut keeper = Keeper::import(config, &exported).await?;
        crash::point(Point::SnapshotKept);
        // Once more, in the very snapshot at which the slot begins.
        if let Some(table) = slot::first_filled(keeper.connection(), outboxes).await? {
            slot::drop(connection, slot).await?;
            return Err(Stop::EventsExist { table }.into());
        }
        let taken = if due.is_empty() {
            None
        } else {
            Some(Taken::of(config, begins, keeper, &due).await?)
        };
        let at_ms = clock::now_ms();
        // So that an attempt that is interrupted is known for what it is: the stream has not begun.
        let copying = taken.as_ref().and_then(|taken| taken.copying(at_ms));
        let mut record = Record { position: begins, copying, at_ms, ..announced };
        record.tables.leave_out(left_out);
        let publisher = write(publisher, &record).await?;
        crash::point(Point::PositionWritten);
        tracing::info!(slot, position = %begins, "first start");
        Ok(Begun { publisher, record, taken })
    }
}

/// Commits a record of progress alone.
pub(crate) async fn write(mut publisher: Kafka, record: &Record) -> Result<Kafka, Error> {
    let value = record.encode();
    let body = move || {
        publisher.commit(&value)?;
        Ok(publisher)
    };
    spawn_blocking(body).await.unwrap_or(Err(Error::Panicked))
}
