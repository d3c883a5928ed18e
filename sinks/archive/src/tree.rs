//! What is stored under a prefix: topics, the objects of each with their links, and what belongs nowhere.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use tailwater_topics_contract::TopicName;

use crate::chain::Link;
use crate::layout::{self, Layout, Place};
use crate::store::{Objects, StoreError};
use crate::topic::{self, TopicError};

/// Requests that may be under way at once.
pub(crate) const REQUESTS: usize = 16;

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// Key of the object, or name of the topic.
    pub subject: String,
    /// At which level of [`crate::verify`] it shows.
    pub level: u8,
    /// What is wrong.
    pub what: String,
}

impl Finding {
    pub(crate) fn new(level: u8, subject: &str, what: impl Into<String>) -> Self {
        Self { subject: subject.to_owned(), level, what: what.into() }
    }
}

/// An archive in a bucket.
#[derive(Debug)]
pub(crate) struct Tree<'a, S> {
    pub(crate) store: &'a S,
    /// Before every key; empty, or ends with `/`.
    pub(crate) prefix: &'a str,
}

// Two references, whatever the store is; derived, these would ask the store itself.
impl<S> Clone for Tree<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Tree<'_, S> {}

/// An object that has a place in a chain.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) partition: i32,
    pub(crate) place: Place,
    pub(crate) bytes: u64,
    pub(crate) link: Link,
}

impl<S: Objects> Tree<'_, S> {
    pub(crate) fn layout(&self, topic: &TopicName, partition: i32) -> Layout {
        Layout::new(self.prefix, topic.clone(), partition)
    }

    /// The topics, also those of which only manifests are left, and what lies where no topic is.
    pub(crate) async fn topics(&self) -> Result<(BTreeSet<TopicName>, Vec<Finding>), StoreError> {
        let (mut topics, mut findings) = (BTreeSet::new(), Vec::new());
        for folder in ["data/", "meta/"] {
            let under = format!("{}{folder}", self.prefix);
            for listed in self.store.list(&under).await? {
                let rest = listed.key.strip_prefix(&under).unwrap_or_default();
                match rest.split_once('/').map(|(topic, _)| topic.parse::<TopicName>()) {
                    Some(Ok(topic)) => {
                        topics.insert(topic);
                    }
                    // The probe of a store that is just being made.
                    _ if rest.starts_with(".probe/") => {}
                    _ => findings.push(Finding::new(0, &listed.key, "it belongs to no topic")),
                }
            }
        }
        Ok((topics, findings))
    }

    /// Every object of a topic that has a place in a chain, by key, and the others.
    pub(crate) async fn objects(
        &self,
        topic: &TopicName,
    ) -> Result<(BTreeMap<String, Object>, Vec<Finding>), StoreError> {
        let mut findings = Vec::new();
        let mut placed = Vec::new();
        for listed in self.store.list(&layout::data(self.prefix, topic)).await? {
            match layout::parse(&listed.key) {
                Some((partition, place))
                    if self.layout(topic, partition).object(place) == listed.key =>
                {
                    placed.push((listed, partition, place));
                }
                _ => {
                    let what = "no object of an archive has such a key";
                    findings.push(Finding::new(0, &listed.key, what));
                }
            }
        }
        let looked = stream::iter(placed)
            .map(|(listed, partition, place)| async move {
                let link = match self.store.link(&listed.key).await {
                    Ok(link) => Ok(link),
                    Err(StoreError::Foreign { source, .. }) => Err(source.to_string()),
                    Err(error) => return Err(error),
                };
                Ok((listed, partition, place, link))
            })
            .buffered(REQUESTS);
        let mut objects = BTreeMap::new();
        for (listed, partition, place, link) in looked.try_collect::<Vec<_>>().await? {
            let (key, bytes) = (listed.key, listed.bytes);
            match link {
                Ok(Some(link)) => {
                    objects.insert(key, Object { partition, place, bytes, link });
                }
                Ok(None) => {
                    findings.push(Finding::new(1, &key, "it is listed, and it is not there"));
                }
                Err(what) => findings.push(Finding::new(0, &key, what)),
            }
        }
        Ok((objects, findings))
    }

    /// The keys of manifests and filters that stand beside the objects, and what lies there without one of them.
    ///
    /// Objects are listed before, so a writer at work may have added one since: what speaks of that is no finding.
    pub(crate) async fn beside(
        &self,
        topic: &TopicName,
        objects: &BTreeMap<String, Object>,
    ) -> Result<(BTreeSet<String>, Vec<Finding>), StoreError> {
        let expected: BTreeSet<String> = objects
            .values()
            .filter(|object| object.link.extent.records > 0)
            .flat_map(|object| {
                let layout = self.layout(topic, object.partition);
                [layout.manifest(object.place), layout.filter(object.place)]
            })
            .collect();
        let meta = layout::meta(self.prefix, topic);
        let (mut beside, mut findings) = (BTreeSet::new(), Vec::new());
        for listed in self.store.list(&meta).await? {
            let rest = listed.key.strip_prefix(&meta).unwrap_or_default();
            if expected.contains(&listed.key) {
                beside.insert(listed.key);
            } else if rest == "topic.json" {
                findings.extend(self.topic(topic, &listed.key).await?);
            } else if layout::parse_checkpoint(self.prefix, topic, &listed.key).is_some() {
                // A cache of manifests, which are looked at themselves.
            } else if !rest.starts_with("manifest/") && !rest.starts_with("keys/") {
                let what = "nothing of this kind belongs beside an archive";
                findings.push(Finding::new(1, &listed.key, what));
            } else if !self.is_newer(topic, objects, &listed.key).await? {
                let what = "the object it speaks of is missing, or is not to have one";
                findings.push(Finding::new(1, &listed.key, what));
            }
        }
        Ok((beside, findings))
    }

    /// What is wrong with what says which topic it is.
    async fn topic(&self, topic: &TopicName, key: &str) -> Result<Option<Finding>, StoreError> {
        match topic::filled_from(self.store, self.prefix, topic).await {
            Ok(source) if source.as_ref().is_none_or(|source| source.topic == *topic) => Ok(None),
            Ok(_) => Ok(Some(Finding::new(1, key, "it speaks of another topic"))),
            Err(TopicError::Store(error)) => Err(error),
            Err(error) => Ok(Some(Finding::new(1, key, error.to_string()))),
        }
    }

    /// Whether a manifest or filter is of an object that came after the listing of objects.
    async fn is_newer(
        &self,
        topic: &TopicName,
        objects: &BTreeMap<String, Object>,
        key: &str,
    ) -> Result<bool, StoreError> {
        let Some((partition, place)) = layout::parse_beside(key) else { return Ok(false) };
        let layout = self.layout(topic, partition);
        let object = layout.object(place);
        let is_its_own =
            [layout.manifest(place), layout.filter(place)].iter().any(|own| own == key);
        if !is_its_own || objects.contains_key(&object) {
            return Ok(false);
        }
        match self.store.link(&object).await {
            Ok(link) => Ok(link.is_some_and(|link| link.extent.records > 0)),
            Err(StoreError::Foreign { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
