//! Declared topics and sinks as they stand in the registration topic.
//!
//! The topic is compacted and has one partition; its key is `topic/<name>` or `sink/<name>`, its value the JSON
//! of a [`Registration`], and a tombstone removes one. Reader and workers fold it into [`Registrations`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{SinkName, SinkSpec, TopicName, TopicSpec};

/// A topic that the reader writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicRegistration {
    /// As declared.
    pub spec: TopicSpec,
    /// Columns that make the record key: the declared ones, else the table's replica identity at registration.
    /// Empty for outbox topics, whose key is a column of the outbox row.
    pub key_columns: Vec<String>,
}

/// A sink that a worker runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkRegistration {
    /// As declared.
    pub spec: SinkSpec,
    /// Where each partition begins for this sink. Set when the partition is first registered, then kept.
    pub origins: Vec<Origin>,
}

impl SinkRegistration {
    /// Where a partition begins, if it is registered.
    pub fn origin(&self, topic: &TopicName, partition: i32) -> Option<&Origin> {
        self.origins.iter().find(|o| o.topic == *topic && o.partition == partition)
    }
}

/// The beginning of one partition for one sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: i32,
    /// First offset the sink is responsible for.
    pub offset: i64,
    /// Day folder of the first archive link, `YYYY-MM-DD` in UTC.
    pub dt: String,
}

/// One value of the registration topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Registration {
    /// A topic.
    Topic(TopicRegistration),
    /// A sink.
    Sink(SinkRegistration),
}

impl Registration {
    /// The key under which it stands in the topic.
    pub fn key(&self) -> String {
        match self {
            Self::Topic(topic) => format!("topic/{}", topic.spec.name),
            Self::Sink(sink) => format!("sink/{}", sink.spec.name),
        }
    }
}

/// Everything registered: the fold of the registration topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registrations {
    /// Topics by name.
    pub topics: BTreeMap<TopicName, TopicRegistration>,
    /// Sinks by name.
    pub sinks: BTreeMap<SinkName, SinkRegistration>,
}

/// A record of the registration topic that cannot be read. Written by a newer version, or by somebody else.
#[derive(Debug, thiserror::Error)]
pub enum BadRegistration {
    /// The key names neither a topic nor a sink.
    #[error("registration key `{key}` is not `topic/<name>` or `sink/<name>`")]
    Key {
        /// The key as text.
        key: String,
    },
    /// The value is not what this version writes.
    #[error("the registration under `{key}` cannot be read")]
    Value {
        /// The key as text.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl Registrations {
    /// Takes one record of the registration topic, in order.
    pub fn on_record(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), BadRegistration> {
        let text = String::from_utf8_lossy(key);
        let bad_key = || BadRegistration::Key { key: text.to_string() };
        let Some(value) = value else {
            match text.split_once('/') {
                Some(("topic", name)) => {
                    self.topics.remove(&name.parse().map_err(|_| bad_key())?);
                }
                Some(("sink", name)) => {
                    self.sinks.remove(&name.parse().map_err(|_| bad_key())?);
                }
                _ => return Err(bad_key()),
            }
            return Ok(());
        };
        let registration = serde_json::from_slice(value)
            .map_err(|source| BadRegistration::Value { key: text.to_string(), source })?;
        match registration {
            Registration::Topic(topic) => {
                self.topics.insert(topic.spec.name.clone(), topic);
            }
            Registration::Sink(sink) => {
                self.sinks.insert(sink.spec.name.clone(), sink);
            }
        }
        Ok(())
    }
}
