//! Which topic a destination is filled from, so that it is not gone on with from another one of its name.
//!
//! * Neither name nor offsets tell a topic from the one that was deleted before it: offsets begin anew, and Kafka forgets
//!   what a group has committed of a deleted topic.
//! * Kafka's id decides. Brokers that give none leave the generation of the registration, which catches the same when
//!   the topic was made again by `tailwater apply`.

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tailwater_topics_contract::{Generation, TopicName};

use crate::sink::SinkError;
use crate::topic_id::TopicId;

/// A topic, and which one of that name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its name.
    pub topic: TopicName,
    /// Kafka's id; none when the brokers give none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<TopicId>,
    /// As registered.
    #[serde(default)]
    pub generation: Generation,
}

/// Says which topic has a name now.
pub trait Sources: Send + Sync + 'static {
    /// Asked whenever a partition is opened: a topic can be made anew under a running worker.
    fn source(&self, topic: &TopicName) -> BoxFuture<'_, Result<Source, SinkError>>;
}

/// How what a destination remembers stands to the topic of now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relation {
    /// It was filled from this topic.
    Same,
    /// It remembers nothing of the name.
    Unknown,
    /// It was filled from another one, as the text says.
    Other(String),
}

/// Compares what a destination remembers with the topic of now.
pub fn relation<'a>(remembered: impl IntoIterator<Item = &'a Source>, now: &Source) -> Relation {
    let Some(then) = remembered.into_iter().find(|then| then.topic == now.topic) else {
        return Relation::Unknown;
    };
    let topic = &now.topic;
    match (&then.id, &now.id) {
        (Some(filled), Some(now)) if filled != now => Relation::Other(format!(
            "what it holds came from the topic `{topic}` with id {filled}, and the topic of that name has id {now}: it was deleted and made again"
        )),
        _ if then.generation != now.generation => Relation::Other(format!(
            "what it holds came from generation {} of the topic `{topic}`, and generation {} is registered: it was removed or had vanished, and was made again",
            then.generation, now.generation
        )),
        _ => Relation::Same,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(topic: &str, id: Option<&str>, generation: u32) -> Source {
        let generation = (1..generation).fold(Generation::default(), |g, _| g.next());
        Source { topic: topic.parse().unwrap(), id: id.map(TopicId::new), generation }
    }

    #[test]
    fn a_topic_made_again_is_known_by_its_id_and_without_one_by_its_generation() {
        let now = source("a", Some("one"), 1);
        assert_eq!(relation(&[], &now), Relation::Unknown);
        assert_eq!(relation(&[source("b", Some("two"), 7)], &now), Relation::Unknown);
        for (remembered, word) in [
            (source("a", Some("one"), 1), None),
            (source("a", None, 1), None),
            (source("a", Some("two"), 1), Some("with id two")),
            (source("a", Some("one"), 2), Some("generation 2 of")),
            (source("a", None, 2), Some("generation 2 of")),
        ] {
            match (relation(&[source("b", None, 9), remembered.clone()], &now), word) {
                (Relation::Same, None) => {}
                (Relation::Other(text), Some(word)) => assert!(text.contains(word), "{text}"),
                (other, _) => panic!("{remembered:?}: {other:?}"),
            }
        }
        assert_eq!(relation(&[source("a", Some("one"), 1)], &source("a", None, 1)), Relation::Same);
    }
}
