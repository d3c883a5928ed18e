//! Proof that an archive holds what its writers put there, from what is stored alone.
//!
//! ```text
//!  L0  chains     every object leads to the next; keys, places and days fit; nothing else lies beside them
//!  L1  existence  every object has its metadata and its manifest, every manifest its object; they say the same
//!  L2  content    hashes, gzip, chunk index, lines, offsets, filters; numbers of the pipeline rise and stand once
//! ```
//!
//! Nothing is believed: what one place says is compared with what follows from another. What cannot be seen from the
//! archive alone is the loss of a chain's end together with its manifest; that shows in the numbers, when the archive
//! holds every topic of its pipeline (`whole`), and in the origins, when they are known.

mod chains; // L0
mod contents; // L2
mod manifests; // L1
mod numbers; // L2: the pipeline's own

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use tailwater_sinks_archive::chain::Link;
use tailwater_sinks_archive::layout::{self, Layout, Place};
use tailwater_sinks_archive::{Objects, StoreError};
use tailwater_topics_contract::{Origin, TopicName};

use crate::archive::{Archive, Error};
use crate::verify::numbers::Numbers;

/// Requests that may be under way at once.
const REQUESTS: usize = 16;

/// How far to look.
#[derive(Clone, Debug)]
pub struct Scope {
    /// 0, 1 or 2; each includes those before it.
    pub level: u8,
    /// Whether the archive holds every topic of its pipeline, so that no number may be missing.
    pub whole: bool,
    /// Where chains begin, as registered; empty when that is not known.
    pub origins: Vec<Origin>,
}

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// Key of the object, or name of the topic.
    pub subject: String,
    /// At which level it was found.
    pub level: u8,
    /// What is wrong.
    pub what: String,
}

/// What was looked at and found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Topics.
    pub topics: u64,
    /// Chains.
    pub partitions: u64,
    /// Objects under `data/`.
    pub objects: u64,
    /// Records that metadata speaks of; at level 2 the ones that were read.
    pub records: u64,
    /// Bytes of objects; at level 2 they were read.
    pub bytes: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

struct Object {
    partition: i32,
    place: Place,
    bytes: u64,
    link: Link,
}

struct Look<'a> {
    archive: &'a Archive,
    scope: &'a Scope,
    report: Report,
    numbers: Numbers,
}

/// Looks at some topics; at all that there are when `topics` is empty.
pub async fn verify(
    archive: &Archive,
    topics: &[TopicName],
    scope: &Scope,
    on_object: &mut (dyn FnMut(&str) + Send),
) -> Result<Report, Error> {
    let mut look = Look { archive, scope, report: Report::default(), numbers: Numbers::default() };
    let every: BTreeSet<TopicName> =
        if topics.is_empty() { look.strangers().await? } else { topics.iter().cloned().collect() };
    for topic in &every {
        look.topic(topic, on_object).await?;
    }
    if scope.level >= 2 {
        look.numbers.judge(scope.whole && topics.is_empty(), &mut look.report);
    }
    look.report.findings.sort();
    look.report.findings.dedup();
    Ok(look.report)
}

impl Look<'_> {
    fn found(&mut self, level: u8, subject: &str, what: impl Into<String>) {
        let (subject, what) = (subject.to_owned(), what.into());
        self.report.findings.push(Finding { subject, level, what });
    }

    /// What lies where no topic is, and the topics, with those of which only manifests are left.
    async fn strangers(&mut self) -> Result<BTreeSet<TopicName>, Error> {
        let mut topics = BTreeSet::new();
        for folder in ["data/", "meta/"] {
            let under = format!("{}{folder}", self.archive.prefix);
            for listed in self.archive.store.list(&under).await? {
                let rest = listed.key.strip_prefix(&under).unwrap_or_default();
                match rest.split_once('/').map(|(topic, _)| topic.parse::<TopicName>()) {
                    Some(Ok(topic)) => {
                        topics.insert(topic);
                    }
                    // The probe of a store that is just being made.
                    _ if rest.starts_with(".probe/") => {}
                    _ => self.found(0, &listed.key, "it belongs to no topic"),
                }
            }
        }
        if topics.is_empty() {
            return Err(Error::Empty { place: self.archive.place() });
        }
        Ok(topics)
    }

    async fn topic(
        &mut self,
        topic: &TopicName,
        on_object: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(), Error> {
        self.report.topics += 1;
        let objects = self.objects(topic).await?;
        self.chains(topic, &objects);
        self.report.objects += objects.len() as u64;
        self.report.bytes += objects.values().map(|object| object.bytes).sum::<u64>();
        if self.scope.level < 2 {
            self.report.records += objects.values().map(|o| o.link.extent.records).sum::<u64>();
        }
        if self.scope.level < 1 {
            return Ok(());
        }
        let manifests = self.manifests(topic, &objects).await?;
        if self.scope.level < 2 {
            return Ok(());
        }
        self.contents(topic, &objects, &manifests, on_object).await
    }

    /// Every object that has a place in a chain.
    async fn objects(&mut self, topic: &TopicName) -> Result<BTreeMap<String, Object>, Error> {
        let archive = self.archive;
        let listed = archive.store.list(&layout::data(&archive.prefix, topic)).await?;
        let mut placed = Vec::new();
        for listed in listed {
            match layout::parse(&listed.key) {
                Some((partition, place))
                    if Layout::new(&archive.prefix, topic.clone(), partition).object(place)
                        == listed.key =>
                {
                    placed.push((listed, partition, place));
                }
                _ => self.found(0, &listed.key, "no object of an archive has such a key"),
            }
        }
        let looked = stream::iter(placed)
            .map(|(listed, partition, place)| async move {
                let link = match archive.store.link(&listed.key).await {
                    Ok(link) => Ok(link),
                    Err(StoreError::Foreign { source, .. }) => Err(source.to_string()),
                    Err(error) => return Err(error),
                };
                Ok((listed, partition, place, link))
            })
            .buffered(REQUESTS);
        let mut objects = BTreeMap::new();
        for (listed, partition, place, link) in looked.try_collect::<Vec<_>>().await? {
            match link {
                Ok(Some(link)) => {
                    let bytes = listed.bytes;
                    objects.insert(listed.key, Object { partition, place, bytes, link });
                }
                Ok(None) => self.found(1, &listed.key, "it is listed, and it is not there"),
                Err(what) => self.found(0, &listed.key, what),
            }
        }
        Ok(objects)
    }
}
