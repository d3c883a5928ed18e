//! A repair from the first look to the record, with the servers.
//!
//! ```text
//!  look ─▶ plan ─▶ (somebody agrees) ─▶ fence ─▶ look again: the same? ─▶ slot, if one is needed ─▶ record
//! ```
//!
//! Killed anywhere, it has done nothing, or made a slot that the next attempt finds, or is done.

use std::sync::atomic::AtomicBool;

use tailwater_runtime::clock;
use tailwater_topics_contract::{Registrations, TopicName};

use super::{At, Found, Plan};
use crate::config::Config;
use crate::error;
use crate::found::{self, blocking};
use crate::progress::{self, Record};
use crate::publish::kafka::Kafka;
use crate::publish::{self, Publisher, past};
use crate::slot;
use crate::start::{Start, Stop};
use crate::stream::{Connection, Mode};

/// A repair that was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was agreed to is not what is there now.
    #[error("slot or progress have changed since they were shown; look at them once more")]
    Changed,
    /// A server.
    #[error(transparent)]
    Reader(#[from] error::Error),
}

/// Looks at everything that a reader would look at, without fencing one.
pub async fn look(config: &Config, registered: &Registrations) -> Result<Found, error::Error> {
    let mut connection = open(config).await?;
    let found = found_by(config, &mut connection, registered).await;
    connection.close().await;
    found
}

async fn open(config: &Config) -> Result<Connection, error::Error> {
    let application = format!("tailwater {} repair", config.pipeline);
    Ok(Connection::open(&config.postgres, &application, Mode::Replication).await?)
}

async fn found_by(
    config: &Config,
    connection: &mut Connection,
    registered: &Registrations,
) -> Result<Found, error::Error> {
    let progress = progress::read(config).await?;
    let (server, start) = found::look(config, connection, progress.as_ref()).await?;
    let start = match (start, &progress) {
        (Ok(start @ Start::Resume { .. }), Some(record)) => {
            stopped(found::check_log_ends(config, record).await, start)?
        }
        (Ok(start @ Start::First { .. }), None) => {
            stopped(found::check_topics_empty(config, registered).await, start)?
        }
        (start, _) => start,
    };
    let epoch_seen = match progress {
        Some(_) => None,
        None => {
            let (kafka, topics) = (config.kafka.clone(), names(registered));
            blocking(move || Ok(last_epoch(&kafka, &topics)?)).await?
        }
    };
    let (slot_name, database) = (config.pipeline.slot(), config.postgres.database.clone());
    Ok(Found { slot_name, database, server, progress, start, epoch_seen })
}

/// A stop is what was looked for; anything else is in the way.
fn stopped(
    checked: Result<(), error::Error>,
    start: Start,
) -> Result<Result<Start, Stop>, error::Error> {
    match checked {
        Ok(()) => Ok(Ok(start)),
        Err(error::Error::Start(stop)) => Ok(Err(stop)),
        Err(error) => Err(error),
    }
}

fn names(registered: &Registrations) -> Vec<TopicName> {
    registered.topics.keys().cloned().collect()
}

/// Over topics that exist: of what was removed, the topic may be gone.
fn last_epoch(
    kafka: &tailwater_config::KafkaConfig,
    topics: &[TopicName],
) -> Result<Option<u16>, publish::Error> {
    let mut highest = None;
    for topic in topics {
        match past::last_epoch(kafka, topic) {
            Ok(epoch) => highest = highest.max(epoch),
            Err(publish::Error::NoTopic { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(highest)
}

/// Carries out what was planned from what was found. Answers the record that was written.
///
/// # Errors
/// [`Error::Changed`], before anything was done; otherwise it may be tried again.
pub async fn carry_out(
    config: &Config,
    registered: &Registrations,
    found: &Found,
    plan: &Plan,
    reason: &str,
) -> Result<Record, Error> {
    let (kafka, pipeline) = (config.kafka.clone(), config.pipeline.clone());
    let mut publisher = blocking(move || {
        let publisher = Kafka::new(&kafka, &pipeline)?;
        publisher.init(&AtomicBool::new(false))?;
        Ok(publisher)
    })
    .await?;
    let mut connection = open(config).await?;
    let now = found_by(config, &mut connection, registered).await?;
    if !is_same(found, &now) {
        return Err(Error::Changed);
    }
    let begins = match plan.at {
        At::NewSlot => {
            let made = slot::create(&mut connection, &config.pipeline.slot()).await;
            Some(made.map_err(error::Error::from)?.0)
        }
        At::Slot(_) | At::Progress(_) | At::Anew => None,
    };
    connection.close().await;
    let options = found::options(config);
    let base =
        Record::first(&config.pipeline, &now.server.system_id, now.server.timeline, &options);
    let record = plan.record(&now, base, begins, registered, reason, clock::now_ms());
    let value = record.encode();
    blocking(move || Ok(publisher.commit(&value)?)).await?;
    Ok(record)
}

/// The end of the WAL moves all the time and decides nothing here.
fn is_same(before: &Found, now: &Found) -> bool {
    before.progress == now.progress
        && before.server.slot == now.server.slot
        && before.server.system_id == now.server.system_id
        && before.server.timeline == now.server.timeline
        && before.epoch_seen == now.epoch_seen
}
