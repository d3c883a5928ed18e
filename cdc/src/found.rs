//! What is there before a session begins: who the server is, what it holds for us, where the topics end.

use tailwater_topics_contract::{Lsn, Registrations, TopicName};
use tokio::task::spawn_blocking;

use crate::config::Config;
use crate::error::Error;
use crate::progress::Record;
use crate::publish::kafka::{self, End};
use crate::slot::{self, Server};
use crate::start::{self, Ours, Start, Stop};
use crate::stream::{Connection, quote_identifier, quote_literal};

/// The command that begins a stream, of the slot of the pipeline or of one that stands in for it.
pub(crate) fn streaming(config: &Config, slot: &str, from: Lsn) -> String {
    let publications = publications(config).map(|name| quote_identifier(&name)).join(",");
    format!(
        "START_REPLICATION SLOT {} LOGICAL {from} (proto_version '1', messages 'true', publication_names {})",
        quote_identifier(slot),
        quote_literal(&publications)
    )
}

/// The publications that the stream is asked for.
pub(crate) fn publications(config: &Config) -> [String; 2] {
    [config.pipeline.changes_publication(), config.pipeline.outbox_publication()]
}

/// What decides which changes are sent and how they are counted.
pub(crate) fn options(config: &Config) -> String {
    format!("proto_version=1;messages=true;publications={}", publications(config).join(","))
}

/// The server, and what the decision table says of it. Kafka is not asked.
pub(crate) async fn look(
    config: &Config,
    connection: &mut Connection,
    record: Option<&Record>,
) -> Result<(Server, Result<Start, Stop>), Error> {
    let (slot, options) = (config.pipeline.slot(), options(config));
    let ours = Ours {
        pipeline: config.pipeline.as_str(),
        slot: &slot,
        database: &config.postgres.database,
        options: &options,
    };
    let server = slot::inspect(connection, &slot).await?;
    let history = match record {
        // Of another cluster's timelines there is nothing to learn.
        Some(record)
            if server.timeline > record.timeline && server.system_id == record.system_id =>
        {
            Some(slot::history(connection, server.timeline).await?)
        }
        _ => None,
    };
    let start = start::decide(ours, record, &server, history.as_ref());
    Ok((server, start))
}

/// Every partition reaches at least as far as progress says.
pub(crate) async fn check_log_ends(config: &Config, record: &Record) -> Result<(), Error> {
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
pub(crate) async fn check_topics_empty(
    config: &Config,
    registered: &Registrations,
) -> Result<(), Error> {
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

/// Runs what blocks where blocking is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    body: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    spawn_blocking(body).await.unwrap_or(Err(Error::Panicked))
}
