//! Declared topics and sinks as they stand in the registration topic.
//!
//! The topic is compacted and has one partition; its key is `topic/<name>` or `sink/<name>`, its value the JSON
//! of a [`Registration`]. Reader and workers fold it into [`Registrations`].
//!
//! ```text
//!  apply ──▶ active ◀──resume── paused
//!              │ ──────pause──────▶ │
//!              └──▶ removed ◀───────┘      apply makes it active again
//! ```
//!
//! What is removed stays registered as such. Of a topic, the write-ahead log may still hold rows of its table,
//! and the reader must know that they were given up rather than forgotten. Of a sink, the origins must survive:
//! they are where its archive's chains begin.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{From, SinkName, SinkSpec, TableName, TopicName, TopicSpec};

/// What was decided about something registered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// A topic is written and delivered; a sink runs.
    #[default]
    Active,
    /// A topic is written and no sink takes it; a sink stands still and keeps its place.
    Paused,
    /// Rows of a topic's table are given up; a sink has no worker.
    Removed,
}

impl Standing {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
    fn is_active(&self) -> bool {
        *self == Self::Active
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Removed => "removed",
        })
    }
}

/// How often a topic of this name was begun: one more whenever it is registered after it was removed, or created anew
/// because it had vanished from Kafka. What was filled from one generation is not gone on with from another: rows that
/// were deleted in between have a record in neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(u32);

impl Generation {
    /// The one after it.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
    fn is_first(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Generation {
    /// The first.
    fn default() -> Self {
        Self(1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A topic that the reader writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicRegistration {
    /// As declared.
    pub spec: TopicSpec,
    /// Columns that make the record key: the declared ones, else the table's replica identity at registration.
    /// Empty for outbox topics, whose key is a column of the outbox row.
    pub key_columns: Vec<String>,
    /// Which topic of this name it is.
    #[serde(default, skip_serializing_if = "Generation::is_first")]
    pub generation: Generation,
    /// What was decided about it.
    #[serde(default, skip_serializing_if = "Standing::is_active")]
    pub standing: Standing,
    /// That the rows of its table be read once more. Stays after it was done: the reader's progress says which request
    /// was the last that it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reread: Option<Reread>,
}

/// A request to read the rows of a table once more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reread {
    /// When it was made, in milliseconds since 1970. Of two requests for a topic the second has the later time.
    pub asked_ms: i64,
    /// Why, in the words of whoever asked.
    pub reason: String,
}

/// A sink that a worker runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkRegistration {
    /// As declared.
    pub spec: SinkSpec,
    /// Where each partition begins for this sink. Set when the partition is first registered, then kept.
    pub origins: Vec<Origin>,
    /// What was decided about it.
    #[serde(default, skip_serializing_if = "Standing::is_active")]
    pub standing: Standing,
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
    /// The topics the reader writes: all that were not removed.
    pub fn written(&self) -> impl Iterator<Item = &TopicRegistration> + Clone {
        self.topics.values().filter(|topic| topic.standing != Standing::Removed)
    }

    /// Which topic of its name a topic is; the first if it is not registered.
    pub fn generation(&self, name: &TopicName) -> Generation {
        self.topics.get(name).map(|topic| topic.generation).unwrap_or_default()
    }

    /// The sinks that stand, running or paused: all that were not removed.
    pub fn standing_sinks(&self) -> impl Iterator<Item = &SinkRegistration> {
        self.sinks.values().filter(|sink| sink.standing != Standing::Removed)
    }

    /// The tables whose rows a sink takes.
    pub fn tables_of<'r>(&'r self, sink: &'r SinkSpec) -> impl Iterator<Item = &'r TableName> {
        let topics = sink.topics.iter().filter_map(|name| self.topic(name));
        topics.filter_map(|topic| match &topic.spec.from {
            From::Table(table) => Some(table),
            From::Outbox { .. } | From::Message(_) => None,
        })
    }

    /// A topic that was not removed.
    pub fn topic(&self, name: &TopicName) -> Option<&TopicRegistration> {
        self.topics.get(name).filter(|topic| topic.standing != Standing::Removed)
    }

    /// A sink that was not removed.
    pub fn sink(&self, name: &SinkName) -> Option<&SinkRegistration> {
        self.sinks.get(name).filter(|sink| sink.standing != Standing::Removed)
    }

    /// What a worker of this sink has to do now: the registration without paused topics, or `None` when there is
    /// nothing to do.
    pub fn work_of(&self, name: &SinkName) -> Option<SinkRegistration> {
        let mut sink = self.sinks.get(name).filter(|sink| sink.standing.is_active())?.clone();
        let flows = |topic: &TopicName| {
            self.topics.get(topic).is_none_or(|topic| topic.standing.is_active())
        };
        sink.spec.topics.retain(flows);
        (!sink.spec.topics.is_empty()).then_some(sink)
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ArchiveSpec, SegmentSpec, SinkKind};

    fn topic(name: &str, standing: Standing) -> TopicRegistration {
        let spec = TopicSpec {
            name: name.parse().expect("valid"),
            from: From::Table("shop.stock".parse().expect("valid")),
            key: None,
            partitions: 1,
            replication: None,
            config: BTreeMap::new(),
            expose: Vec::new(),
            values: crate::Values::default(),
            mask: BTreeMap::new(),
            declared_at: None,
        };
        let key_columns = vec!["id".into()];
        TopicRegistration {
            spec,
            key_columns,
            generation: Generation::default(),
            standing,
            reread: None,
        }
    }

    fn registered(topics: &[(&str, Standing)], standing: Standing) -> Registrations {
        let guarantee = crate::Guarantee::default();
        let segment = SegmentSpec { bytes: 1, records: 1, age_ms: 1, idle_ms: None };
        let archive =
            ArchiveSpec { bucket: "events".into(), prefix: String::new(), guarantee, segment };
        let spec = SinkSpec {
            name: "lake".parse().expect("valid"),
            topics: topics.iter().map(|(name, _)| name.parse().expect("valid")).collect(),
            kind: SinkKind::Archive(archive),
            declared_at: None,
        };
        let sink = SinkRegistration { spec, origins: Vec::new(), standing };
        Registrations {
            topics: topics
                .iter()
                .map(|(name, standing)| (name.parse().expect("valid"), topic(name, *standing)))
                .collect(),
            sinks: [(sink.spec.name.clone(), sink)].into(),
        }
    }

    #[test]
    fn a_paused_topic_is_left_out_of_the_work_of_its_sinks() {
        let lake = "lake".parse().expect("valid");
        let both = [("a", Standing::Active), ("b", Standing::Paused)];
        let work = registered(&both, Standing::Active).work_of(&lake).expect("one flows");
        assert_eq!(work.spec.topics, ["a".parse().expect("valid")]);
        let none = registered(&both[1..], Standing::Active).work_of(&lake);
        assert_eq!(none, None, "nothing flows");
        for standing in [Standing::Paused, Standing::Removed] {
            assert_eq!(registered(&both, standing).work_of(&lake), None);
        }
    }

    #[test]
    fn a_registration_of_a_version_without_standing_reads_as_active() {
        let mut value = serde_json::to_value(Registration::Topic(topic("a", Standing::Active)))
            .expect("serializes");
        assert!(value.as_object().is_some_and(|value| !value.contains_key("standing")));
        value["spec"].as_object_mut().expect("a map").remove("config");
        let mut read = Registrations::default();
        let text = value.to_string();
        read.on_record(b"topic/a", Some(text.as_bytes())).expect("reads");
        assert_eq!(read.topics.values().next().map(|topic| topic.standing), Some(Standing::Active));
    }
}
