//! What apply can do to the world, one value for each.

use std::collections::BTreeMap;
use std::fmt;

use tailwater_topics_contract::{
    From, Origin, Registration, SearchSpec, SinkSpec, Standing, TableName, TopicName,
    TopicRegistration,
};

/// One change, which can be repeated without harm.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Creates a topic.
    CreateTopic(NewTopic),
    /// Adds partitions to a topic that never held a record.
    GrowTopic {
        /// The topic.
        name: TopicName,
        /// Partitions it has.
        from: u32,
        /// Partitions it gets.
        to: u32,
    },
    /// Changes settings of a topic; all others stay.
    SetTopicConfig {
        /// The topic.
        name: TopicName,
        /// The settings that differ.
        settings: Vec<Setting>,
    },
    /// Creates a bucket.
    CreateBucket {
        /// The bucket.
        bucket: String,
    },
    /// Creates an index and its alias.
    CreateIndex {
        /// As declared.
        spec: SearchSpec,
    },
    /// Makes a topic known to the reader.
    RegisterTopic(TopicRegistration),
    /// Creates a publication.
    CreatePublication {
        /// The publication.
        name: String,
        /// What it publishes.
        publish: &'static str,
        /// Its tables, perhaps none yet.
        tables: Vec<TableName>,
    },
    /// Sets what a publication publishes and how partitions appear in it.
    SetPublication {
        /// The publication.
        name: String,
        /// What it publishes.
        publish: &'static str,
    },
    /// Adds tables to a publication.
    PublishTables {
        /// The publication.
        name: String,
        /// The tables it lacks.
        tables: Vec<TableName>,
    },
    /// Makes a sink known to the workers.
    RegisterSink {
        /// As declared.
        spec: SinkSpec,
        /// Active, or paused as it was.
        standing: Standing,
        /// Where its known partitions begin; kept as they were.
        origins: Vec<Origin>,
        /// Partitions whose beginning is taken when this is applied.
        new: Vec<(TopicName, i32)>,
    },
    /// Pauses, resumes or removes what is registered.
    SetStanding(Registration),
    /// Asks the reader to read the table of a topic once more.
    RereadTable(TopicRegistration),
    /// Takes tables out of a publication.
    UnpublishTables {
        /// The publication.
        name: String,
        /// The tables.
        tables: Vec<TableName>,
    },
}

/// How many changes make a step: few enough that somebody who watches sees it go on.
const STEP: usize = 100;

/// Changes in their order, those together that are carried out together: topics are created, and made known, many with
/// one request.
pub fn steps(changes: &[Change]) -> impl Iterator<Item = &[Change]> {
    changes.chunk_by(goes_with).flat_map(|together| together.chunks(STEP))
}

fn goes_with(one: &Change, next: &Change) -> bool {
    use Change::{CreateTopic, RegisterTopic, RereadTable};
    matches!(
        (one, next),
        (CreateTopic(_), CreateTopic(_))
            | (RegisterTopic(_), RegisterTopic(_))
            | (RereadTable(_), RereadTable(_))
    )
}

/// A topic to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// The topic.
    pub name: TopicName,
    /// Its partitions.
    pub partitions: u32,
    /// Replication factor; absent: the broker's default.
    pub replication: Option<u16>,
    /// Settings that differ from the broker's defaults.
    pub config: BTreeMap<String, String>,
}

/// One setting of a topic that differs from what is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub key: String,
    /// The value in force.
    pub from: String,
    /// The declared value.
    pub to: String,
}

/// One line, as a plan is printed: `+` creates, `~` changes, `-` removes.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateTopic(topic) => {
                write!(f, "+ topic {}: create with {}", topic.name, partitions(topic.partitions))?;
                if let Some(replication) = topic.replication {
                    write!(f, ", {replication} replicas")?;
                }
                for (key, value) in &topic.config {
                    write!(f, ", {key}={value}")?;
                }
                Ok(())
            }
            Self::GrowTopic { name, from, to } => {
                write!(f, "~ topic {name}: grow from {from} to {}", partitions(*to))
            }
            Self::SetTopicConfig { name, settings } => {
                write!(f, "~ topic {name}: set")?;
                for (number, Setting { key, from, to }) in settings.iter().enumerate() {
                    let comma = if number == 0 { "" } else { "," };
                    write!(f, "{comma} {key}={to} (was {from})")?;
                }
                Ok(())
            }
            Self::CreateBucket { bucket } => write!(f, "+ bucket {bucket}: create"),
            Self::CreateIndex { spec } => {
                write!(f, "+ index {}: create with its mapping and alias", spec.alias)
            }
            Self::RegisterTopic(topic) => {
                write!(
                    f,
                    "+ topic {}: register for {}",
                    topic.spec.name,
                    source(&topic.spec.from)
                )?;
                if topic.key_columns.is_empty() {
                    Ok(())
                } else {
                    write!(f, ", key ({})", topic.key_columns.join(", "))
                }
            }
            Self::CreatePublication { name, publish, tables } => {
                write!(f, "+ publication {name}: create, publishing {publish}")?;
                if tables.is_empty() { Ok(()) } else { write!(f, " of {}", listed(tables)) }
            }
            Self::SetPublication { name, publish } => {
                write!(f, "~ publication {name}: publish {publish}, partitions as their root")
            }
            Self::PublishTables { name, tables } => {
                write!(f, "~ publication {name}: add {}", listed(tables))
            }
            Self::SetStanding(registration) => {
                let (kind, name, standing) = match registration {
                    Registration::Topic(topic) => {
                        ("topic", topic.spec.name.to_string(), topic.standing)
                    }
                    Registration::Sink(sink) => ("sink", sink.spec.name.to_string(), sink.standing),
                };
                match standing {
                    Standing::Active => write!(f, "~ {kind} {name}: resume"),
                    Standing::Paused => write!(f, "~ {kind} {name}: pause"),
                    Standing::Removed => write!(f, "- {kind} {name}: remove"),
                }
            }
            Self::RereadTable(topic) => {
                write!(
                    f,
                    "~ topic {}: read {} once more",
                    topic.spec.name,
                    source(&topic.spec.from)
                )
            }
            Self::UnpublishTables { name, tables } => {
                write!(f, "~ publication {name}: take out {}", listed(tables))
            }
            Self::RegisterSink { spec, origins, new, .. } => {
                let sign = if origins.is_empty() { '+' } else { '~' };
                write!(f, "{sign} sink {}: register for {}", spec.name, listed(&spec.topics))?;
                match new.len() as u32 {
                    0 => Ok(()),
                    new => write!(f, ", {} from their beginning", partitions(new)),
                }
            }
        }
    }
}

fn partitions(count: u32) -> String {
    if count == 1 { "1 partition".to_owned() } else { format!("{count} partitions") }
}

fn listed(names: &[impl fmt::Display]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Where the rows of a topic come from, in words.
pub(crate) fn source(from: &From) -> String {
    match from {
        From::Table(table) => format!("table `{table}`"),
        From::Outbox { aggregate, table } => format!("aggregate `{aggregate}` of outbox `{table}`"),
        From::Message(prefix) => format!("messages with prefix `{prefix}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created(number: usize) -> Change {
        let name = format!("shop.t{number}").parse().expect("a name");
        Change::CreateTopic(NewTopic {
            name,
            partitions: 1,
            replication: None,
            config: BTreeMap::new(),
        })
    }

    fn published() -> Change {
        Change::PublishTables { name: "tailwater_shop_changes".to_owned(), tables: Vec::new() }
    }

    #[test]
    fn steps_keep_the_order_and_put_together_what_one_request_can_do() {
        let mut changes: Vec<Change> = (0..230).map(created).collect();
        changes.extend([published(), published()]);
        changes.extend((230..232).map(created));
        let sizes: Vec<usize> = steps(&changes).map(<[Change]>::len).collect();
        assert_eq!(sizes, [100, 100, 30, 1, 1, 2]);
        assert_eq!(steps(&changes).flatten().cloned().collect::<Vec<_>>(), changes);
    }
}
