//! Which topics there are now, for archives and indices that remember which ones they were filled from.

use std::collections::BTreeMap;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tailwater_sinks_worker::SinkError;
use tailwater_sinks_worker::source::{Source, Sources};
use tailwater_sinks_worker::topic_id::{TopicIdError, TopicIds};
use tailwater_topics_contract::{Generation, Registrations, SinkSpec, TopicName};

use crate::config::Config;

/// Kafka's ids, asked for each time, and the generations of the registrations.
pub(crate) struct TopicsNow {
    ids: TopicIds,
    generations: BTreeMap<TopicName, Generation>,
}

impl TopicsNow {
    /// # Errors
    /// The Kafka client refuses its settings.
    pub(crate) fn new(
        config: &Config,
        generations: BTreeMap<TopicName, Generation>,
    ) -> Result<Self, TopicIdError> {
        Ok(Self { ids: TopicIds::new(&config.kafka_client())?, generations })
    }
}

impl Sources for TopicsNow {
    fn source(&self, topic: &TopicName) -> BoxFuture<'_, Result<Source, SinkError>> {
        let topic = topic.clone();
        let generation = self.generations.get(&topic).copied().unwrap_or_default();
        async move {
            // A topic that is not there may be on its way, and a broker that does not answer comes back.
            let id = self.ids.of(&topic).await.map_err(SinkError::transient)?;
            Ok(Source { topic, id, generation })
        }
        .boxed()
    }
}

/// As the topics of a sink are registered.
pub(crate) fn generations(
    sink: &SinkSpec,
    registrations: &Registrations,
) -> BTreeMap<TopicName, Generation> {
    let generation = |topic: &TopicName| (topic.clone(), registrations.generation(topic));
    sink.topics.iter().map(generation).collect()
}
