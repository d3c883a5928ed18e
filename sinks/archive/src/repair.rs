//! Manifests and key filters made again from their objects.
//!
//! ```text
//!  object ──hash, lines──▶ manifest, filter ◀──compared──▶ what stands beside it: made where it is missing, replaced
//!                                                          where it says something else
//! ```
//!
//! * Objects are the archive; what stands beside them follows from them, byte for byte. So a repair writes under `meta/`
//!   alone, loses nothing, and may run while writers do: what both write is the same.
//! * An object is believed when it matches the hash in its metadata and its lines match its extent. What does not, and
//!   a manifest whose object has gone, is beyond repair and said; it is evidence, and nothing is removed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use tailwater_topics_contract::TopicName;

use crate::layout;
use crate::links::{create_beside, sha256};
use crate::manifest::{BadObject, Manifest, Summary};
use crate::store::{Objects, Store, StoreError};
use crate::tree::{Finding, Object, REQUESTS, Tree};
use crate::verify::disagreements;

const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

/// How far to go.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scope {
    /// Whether every object is read and compared with what stands beside it. Otherwise an object is read only when its
    /// manifest or filter is missing, or its manifest contradicts its metadata.
    pub content: bool,
    /// Whether nothing is written.
    pub dry_run: bool,
}

/// What was done, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// Objects with records that were looked at.
    pub objects: u64,
    /// Objects that were read.
    pub read: u64,
    /// Keys of what was missing and is made.
    pub made: Vec<String>,
    /// Keys of what said something else and is replaced.
    pub replaced: Vec<String>,
    /// What cannot be mended from the archive.
    pub beyond: Vec<Finding>,
}

/// Why a repair ended early. What it had done stands, and it can be run again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A manifest that cannot be written as JSON.
    #[error("the manifest of `{key}` could not be written")]
    Manifest {
        /// The object's key.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Mends some topics under a prefix; all that there are when `topics` is empty. `on_object` hears the key of each object
/// that is read.
///
/// # Errors
/// The store fails, or refuses to be written to.
pub async fn repair(
    store: &Store,
    prefix: &str,
    topics: &[TopicName],
    scope: Scope,
    on_object: &mut (dyn FnMut(&str) + Send),
) -> Result<Repaired, Error> {
    let tree = Tree { store, prefix };
    let mut work = Work { tree, scope, repaired: Repaired::default() };
    let every: BTreeSet<TopicName> = if topics.is_empty() {
        let (every, strangers) = tree.topics().await?;
        work.repaired.beyond.extend(strangers);
        every
    } else {
        topics.iter().cloned().collect()
    };
    for topic in &every {
        work.topic(topic, on_object).await?;
    }
    work.repaired.beyond.sort();
    Ok(work.repaired)
}

struct Work<'a> {
    tree: Tree<'a, Store>,
    scope: Scope,
    repaired: Repaired,
}

impl Work<'_> {
    async fn topic(
        &mut self,
        topic: &TopicName,
        on_object: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(), Error> {
        let (objects, wrong) = self.tree.objects(topic).await?;
        self.repaired.beyond.extend(wrong);
        let objects: BTreeMap<String, Object> =
            objects.into_iter().filter(|(_, object)| object.link.extent.records > 0).collect();
        self.repaired.objects += objects.len() as u64;
        let (beside, wrong) = self.tree.beside(topic, &objects).await?;
        self.repaired.beyond.extend(wrong);
        let (tree, content) = (self.tree, self.scope.content);
        let due = stream::iter(&objects)
            .map(|(key, object)| {
                let beside = &beside;
                async move {
                    let layout = tree.layout(topic, object.partition);
                    let has_filter = beside.contains(&layout.filter(object.place));
                    if content || !has_filter {
                        return Ok(Some((key, object)));
                    }
                    let stored = tree.store.get(&layout.manifest(object.place)).await?;
                    let is_sound = is_sound(stored.as_ref(), topic, key, object);
                    Ok::<_, StoreError>((!is_sound).then_some((key, object)))
                }
            })
            .buffered(REQUESTS)
            .try_filter_map(|due| async move { Ok(due) });
        for (key, object) in due.try_collect::<Vec<_>>().await? {
            on_object(key);
            self.object(topic, key, object).await?;
        }
        Ok(())
    }

    async fn object(&mut self, topic: &TopicName, key: &str, object: &Object) -> Result<(), Error> {
        self.repaired.read += 1;
        let Some(body) = self.tree.store.get(key).await? else {
            let what = "it is listed, and it is not there";
            self.repaired.beyond.push(Finding::new(1, key, what));
            return Ok(());
        };
        let layout = self.tree.layout(topic, object.partition);
        let (summary, manifest) = match made_again(&layout, object, &body) {
            Ok(made) => made,
            Err(what) => {
                let what = format!("{what}; put it back from a copy");
                self.repaired.beyond.push(Finding::new(2, key, what));
                return Ok(());
            }
        };
        let manifest = serde_json::to_vec(&manifest)
            .map_err(|source| Error::Manifest { key: key.to_owned(), source })?;
        // The filter first: where a manifest stands, its filter does.
        self.settle(layout.filter(object.place), summary.keys.encode(), BYTES).await?;
        self.settle(layout.manifest(object.place), manifest.into(), JSON).await
    }

    /// Makes what stands at a key what it must be.
    async fn settle(&mut self, key: String, due: Bytes, content_type: &str) -> Result<(), Error> {
        let store = self.tree.store;
        let found = store.get(&key).await?;
        if found.as_ref() == Some(&due) {
            return Ok(());
        }
        if found.is_some() {
            if !self.scope.dry_run {
                store.replace(&key, due, content_type).await?;
            }
            self.repaired.replaced.push(key);
            return Ok(());
        }
        if !self.scope.dry_run {
            // It may be taken by now, by the writer whose last link this is.
            create_beside(store, &key, due, content_type).await?;
        }
        self.repaired.made.push(key);
        Ok(())
    }
}

/// Whether a manifest can be read, is spelled as a writer spells it, and agrees with its object's metadata.
fn is_sound(stored: Option<&Bytes>, topic: &TopicName, key: &str, object: &Object) -> bool {
    let Some(stored) = stored else { return false };
    let Ok(manifest) = serde_json::from_slice::<Manifest>(stored) else { return false };
    let is_spelled = serde_json::to_vec(&manifest).is_ok_and(|again| *stored == again);
    is_spelled && disagreements(&manifest, topic, key, object).is_empty()
}

/// What follows from an object, unless it is damaged itself; then how.
fn made_again(
    layout: &layout::Layout,
    object: &Object,
    body: &Bytes,
) -> Result<(Summary, Manifest), String> {
    if sha256(body) != object.link.sha256 {
        return Err("it does not match the hash in its metadata".to_owned());
    }
    let (summary, chunks) = Summary::of_object(body).map_err(|error: BadObject| {
        let cause = std::error::Error::source(&error);
        format!("{error}{}", cause.map(|cause| format!(": {cause}")).unwrap_or_default())
    })?;
    if summary.extent != object.link.extent {
        return Err("its metadata does not say what its records say".to_owned());
    }
    let bytes = body.len() as u64;
    let manifest = Manifest::new(layout, object.place, &object.link, bytes, &chunks, &summary);
    Ok((summary, manifest))
}
