//! L1: every object has its manifest, every manifest its object, and they say the same.

use std::collections::{BTreeMap, HashMap};

use futures::{StreamExt, TryStreamExt, stream};
use tailwater_topics_contract::TopicName;

use super::{Look, Object};
use crate::layout::Place;
use crate::manifest::Manifest;
use crate::store::{Objects, StoreError};
use crate::tree::REQUESTS;

impl<S: Objects> Look<'_, S> {
    pub(super) async fn manifests(
        &mut self,
        topic: &TopicName,
        objects: &BTreeMap<String, Object>,
    ) -> Result<HashMap<String, Manifest>, StoreError> {
        let tree = self.tree;
        let layout = |partition| tree.layout(topic, partition);
        let mut expected: HashMap<String, &String> = HashMap::new();
        let mut filters: HashMap<String, &String> = HashMap::new();
        let mut last: HashMap<i32, Place> = HashMap::new();
        for (key, object) in objects {
            let end = last.entry(object.partition).or_insert(object.place);
            *end = (*end).max(object.place);
            if object.link.extent.records > 0 {
                expected.insert(layout(object.partition).manifest(object.place), key);
                filters.insert(layout(object.partition).filter(object.place), key);
            }
        }
        let (beside, findings) = tree.beside(topic, objects).await?;
        self.report.findings.extend(findings);
        filters.retain(|key, _| !beside.contains(key));
        let stored = beside.into_iter().filter(|key| expected.contains_key(key));
        let stored: Vec<String> = stored.collect();
        let fetched = stream::iter(stored)
            .map(|key| async move { Ok::<_, StoreError>((tree.store.get(&key).await?, key)) })
            .buffered(REQUESTS)
            .try_collect::<Vec<_>>()
            .await?;
        let mut manifests = HashMap::new();
        for (body, manifest_key) in fetched {
            let parsed = body.as_deref().map(serde_json::from_slice::<Manifest>);
            let Some(key) = expected.remove(&manifest_key) else { continue };
            match (parsed, objects.get(key)) {
                (Some(Ok(manifest)), Some(object)) => {
                    for what in disagreements(&manifest, topic, key, object) {
                        self.found(1, &manifest_key, what);
                    }
                    // Every field must be spelled as it was written.
                    let again = serde_json::to_vec(&manifest).unwrap_or_default();
                    if body.as_deref() != Some(&again) {
                        self.found(1, &manifest_key, "it is not spelled as a writer spells it");
                    }
                    manifests.insert(key.clone(), manifest);
                }
                (Some(Err(error)), _) => {
                    self.found(1, &manifest_key, format!("it cannot be read: {error}"));
                }
                _ => self.found(1, &manifest_key, "it is listed, and it is not there"),
            }
        }
        for key in expected.values() {
            let object = &objects[*key];
            if object.place.twin.is_some() {
                let note = format!("`{key}` has no manifest; `tailwater archive repair` makes it");
                self.report.notes.push(note);
            } else if last.get(&object.partition) == Some(&object.place) {
                let note = format!("`{key}` is the last of its chain and has no manifest yet");
                self.report.notes.push(note);
            } else {
                self.found(1, key, "its manifest is missing, and it is not the last of its chain");
            }
        }
        let bare = filters.values().filter(|key| manifests.contains_key(**key)).count();
        if bare > 0 {
            let note =
                format!("{bare} objects of `{topic}` have no key filter; searches read them whole");
            self.report.notes.push(note);
        }
        Ok(manifests)
    }
}

/// Where a manifest and its object's metadata differ.
pub(crate) fn disagreements(
    manifest: &Manifest,
    topic: &TopicName,
    key: &str,
    object: &Object,
) -> Vec<String> {
    let link = &object.link;
    let same = [
        ("topic", manifest.topic == topic.as_str()),
        ("partition", manifest.partition == object.partition),
        ("key", manifest.key == key),
        ("start", manifest.start == object.place.start),
        ("next", manifest.next == link.next.start),
        ("next_dt", manifest.next_dt == link.next.dt.to_string()),
        ("bytes", manifest.bytes == object.bytes),
        ("raw_bytes", manifest.raw_bytes == link.raw_bytes),
        ("sha256", manifest.sha256 == link.sha256),
        ("writer", manifest.writer == link.writer),
        ("extent", manifest.extent == link.extent),
        ("ops", manifest.ops.values().sum::<u64>() == manifest.extent.records),
        (
            "chunks",
            manifest.chunks.iter().map(|c| c.extent.records).sum::<u64>()
                == manifest.extent.records
                && manifest.chunks.iter().map(|c| u64::from(c.chunk.raw_bytes)).sum::<u64>()
                    == manifest.raw_bytes,
        ),
    ];
    let wrong = same.iter().filter(|(_, same)| !same);
    wrong.map(|(field, _)| format!("its `{field}` is not the object's")).collect()
}
