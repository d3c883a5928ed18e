//! The links of one partition in a store: finding the last, adding the next.
//!
//! ```text
//!  known place ──HEAD──▶ link ──HEAD──▶ link … 404: the head
//!                                        └─ has it a manifest? if not, from the object
//! ```
//!
//! **Manifests.** Nobody goes on from a link with records before its manifest stands. So in a whole chain only the last
//! link can be without one, when its writer died between the two, and whoever finds it as the last makes up for it.

use std::collections::HashMap;
use std::time::Instant;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tailwater_runtime::{Classify, ErrorClass};

use crate::chain::Link;
use crate::layout::{self, Layout, Place};
use crate::manifest::{BadObject, Manifest, Summary};
use crate::metrics;
use crate::segment::Chunk;
use crate::store::{Objects, Put, StoreError, again};

const GZIP: &str = "application/gzip";
const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

/// Why a chain cannot be followed or continued.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "object `{key}` does not lead on from its place; somebody else has written into the archive"
    )]
    Astray { key: String },
    #[error(
        "the store says that `{key}` is taken and that it is not there; if it was deleted from a bucket that keeps versions, remove its delete marker"
    )]
    Hidden { key: String },
    #[error("object `{key}` does not match the hash in its metadata; put it back from a copy")]
    Changed { key: String },
    #[error("object `{key}` is damaged; put it back from a copy")]
    Damaged { key: String, source: BadObject },
    #[error("the manifest of `{key}` could not be written")]
    Manifest { key: String, source: serde_json::Error },
}

impl Classify for Error {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Store(store) => store.class(),
            Self::Hidden { .. } => ErrorClass::Transient,
            _ => ErrorClass::Definite,
        }
    }
}

/// The last link there is, and where the next belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// Place of the last link; the origin when there is none.
    pub(crate) last: Place,
    /// Place of what follows.
    pub(crate) head: Place,
}

/// The links of one partition.
#[derive(Clone, Debug)]
pub(crate) struct Links<S> {
    pub(crate) store: S,
    pub(crate) layout: Layout,
}

impl<S: Objects> Links<S> {
    /// Finds the end, from the best place that is certainly a link's or the head: the rule of the chain allows no
    /// other to begin at.
    pub(crate) async fn find(&self, origin: Place, hint: Option<Place>) -> Result<End, Error> {
        if let Some(hint) = hint
            && self.store.link(&self.layout.object(hint)).await?.is_some()
        {
            return self.walk(hint).await;
        }
        // No hint, or one that names nothing: whatever object stands last is a link.
        let listed = self.store.list(&self.layout.data()).await?;
        let places = listed.iter().filter_map(|object| layout::parse(&object.key));
        let ours = places.filter(|(partition, _)| *partition == self.layout.partition());
        self.walk(ours.map(|(_, place)| place).max().unwrap_or(origin)).await
    }

    /// Walks to the end from a link or the head.
    pub(crate) async fn walk(&self, known: Place) -> Result<End, Error> {
        let mut end = End { last: known, head: known };
        let mut last = None;
        loop {
            let key = self.layout.object(end.head);
            match self.store.link(&key).await? {
                None => break,
                Some(link) if link.is_at(end.head) => {
                    end = End { last: end.head, head: link.next };
                    last = Some(link);
                }
                Some(_) => return Err(Error::Astray { key }),
            }
        }
        if let Some(link) = last {
            self.ensure_manifest(end.last, &link).await?;
        }
        Ok(end)
    }

    /// Finds the end of what stands without a hole, where objects may overlap. Each begins where everything before it
    /// stands already, so one may be looked from: that at the hint, if there is one.
    pub(crate) async fn covered(&self, origin: Place, hint: Option<Place>) -> Result<End, Error> {
        let listed = self.store.list(&self.layout.data()).await?;
        let places = listed.iter().filter_map(|object| layout::parse(&object.key));
        let ours = places.filter(|(partition, _)| *partition == self.layout.partition());
        let mut places: Vec<Place> = ours.map(|(_, place)| place).collect();
        places.sort();
        let hint = hint.filter(|hint| places.iter().any(|place| place.start == hint.start));
        let from = hint.unwrap_or(origin);
        let mut end = End { last: from, head: from };
        for place in places.into_iter().filter(|place| place.start >= from.start) {
            if place.start > end.head.start {
                break;
            }
            let key = self.layout.object(place);
            match self.store.link(&key).await? {
                Some(link) if !link.is_at(place) => return Err(Error::Astray { key }),
                Some(link) if link.next.start > end.head.start => {
                    end = End { last: place, head: link.next };
                }
                _ => {}
            }
        }
        Ok(end)
    }

    /// Creates a link unless its place is taken; answers the one that stands there now.
    pub(crate) async fn create(
        &self,
        place: Place,
        link: Link,
        bytes: Bytes,
    ) -> Result<Link, Error> {
        let metadata = link.to_metadata();
        self.create_with(place, link, metadata, bytes).await
    }

    /// As [`Links::create`], for a link that gives up a range, with the reason in its metadata.
    pub(crate) async fn create_gap(
        &self,
        place: Place,
        link: Link,
        reason: &str,
        bytes: Bytes,
    ) -> Result<Link, Error> {
        let mut metadata = link.to_metadata();
        metadata.insert("gap".to_owned(), reason.to_owned());
        self.create_with(place, link, metadata, bytes).await
    }

    async fn create_with(
        &self,
        place: Place,
        link: Link,
        metadata: HashMap<String, String>,
        bytes: Bytes,
    ) -> Result<Link, Error> {
        let key = self.layout.object(place);
        let (began, size) = (Instant::now(), bytes.len());
        let unclear = match self.store.create(&key, bytes, metadata, GZIP).await? {
            Put::Created => {
                let topic = || self.layout.topic().to_string();
                ::metrics::counter!(metrics::OBJECTS, "topic" => topic()).increment(1);
                ::metrics::counter!(metrics::OBJECT_BYTES, "topic" => topic())
                    .increment(size as u64);
                ::metrics::histogram!(metrics::PUT_SECONDS, "topic" => topic())
                    .record(began.elapsed().as_secs_f64());
                return Ok(link);
            }
            Put::Taken => None,
            Put::Conflict(error) | Put::Unclear(error) => Some(error),
        };
        // An object that is there settles it; without one the worker calls again.
        match (self.store.link(&key).await?, unclear) {
            (Some(found), _) if found.is_at(place) => Ok(found),
            (Some(_), _) => Err(Error::Astray { key }),
            (None, Some(error)) => Err(error.into()),
            (None, None) => Err(Error::Hidden { key }),
        }
    }

    /// Writes the key filters and the manifest of a link that stands.
    pub(crate) async fn write_manifest(
        &self,
        place: Place,
        link: &Link,
        bytes: usize,
        chunks: &[Chunk],
        summary: &Summary,
    ) -> Result<(), Error> {
        let manifest = Manifest::new(&self.layout, place, link, bytes as u64, chunks, summary);
        let body = serde_json::to_vec(&manifest)
            .map_err(|source| Error::Manifest { key: manifest.key, source })?;
        // The filter first: where a manifest stands, its filter does.
        let beside = [
            (self.layout.filter(place), summary.keys.encode(), BYTES),
            (self.layout.manifest(place), body.into(), JSON),
        ];
        for (key, body, content_type) in beside {
            create_beside(&self.store, &key, body, content_type).await?;
        }
        Ok(())
    }

    async fn ensure_manifest(&self, place: Place, link: &Link) -> Result<(), Error> {
        let turns_the_day = link.extent.records == 0;
        if turns_the_day || self.store.get(&self.layout.manifest(place)).await?.is_some() {
            return Ok(());
        }
        let key = self.layout.object(place);
        let Some(object) = self.store.get(&key).await? else { return Err(Error::Hidden { key }) };
        if sha256(&object) != link.sha256 {
            return Err(Error::Changed { key });
        }
        tracing::info!(key, "the manifest is missing and is made from the object");
        let (summary, chunks) =
            Summary::of_object(&object).map_err(|source| Error::Damaged { key, source })?;
        self.write_manifest(place, link, object.len(), &chunks, &summary).await
    }
}

/// Creates what follows from an object, and is the same whoever writes it: a key that is taken is as good, and what went
/// wrong is tried again.
pub(crate) async fn create_beside<S: Objects>(
    store: &S,
    key: &str,
    body: Bytes,
    content_type: &str,
) -> Result<(), StoreError> {
    again(|| async {
        match store.create(key, body.clone(), HashMap::new(), content_type).await? {
            Put::Created | Put::Taken => Ok(()),
            Put::Conflict(error) | Put::Unclear(error) => Err(error),
        }
    })
    .await
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
