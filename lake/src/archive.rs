//! What stands in an archive: topics, segments, chunks, from listings and manifests.
//!
//! ```text
//!  list data/ ──▶ topics ──▶ segments of a topic ◀── manifests (chunks and how far each reaches)
//!                                  └── no manifest (the last one, or an empty link): metadata and gzip header
//! ```
//!
//! * Manifests are create-only and follow from their objects, so they are believed here. `verify` believes nothing.
//! * What is found that no writer of ours made is named and left out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use tailwater_sinks_archive::filter::Filters;
use tailwater_sinks_archive::layout::{self, Layout, Place};
use tailwater_sinks_archive::manifest::{Extent, Manifest, Ops};
use tailwater_sinks_archive::segment::Chunk;
use tailwater_sinks_archive::{Listed, Objects, Store, StoreError, read};
use tailwater_topics_contract::TopicName;

use crate::checkpoint;
use crate::manifests::Manifests;

/// Requests that may be under way at once.
pub(crate) const REQUESTS: usize = 32;

/// An archive in a bucket.
#[derive(Clone, Debug)]
pub struct Archive {
    /// The bucket.
    pub store: Store,
    /// Before every key; empty, or ends with `/`.
    pub prefix: String,
}

/// An archive that cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object cannot be read.
    #[error(transparent)]
    Read(#[from] read::ReadError),
    /// Nothing is archived under the prefix.
    #[error("there is no archive under `{place}`: no object lies in its `data/`")]
    Empty {
        /// Bucket and prefix.
        place: String,
    },
    /// A manifest that cannot be read.
    #[error("manifest `{key}` is damaged; remove it, and it is made again, or run `verify`")]
    Manifest {
        /// Its key.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A checkpoint that cannot be made.
    #[error("checkpoint `{key}` cannot be written")]
    Checkpoint {
        /// Its key.
        key: String,
        /// Why.
        #[source]
        source: checkpoint::Error,
    },
    /// A manifest without its object.
    #[error("object `{key}` is missing, though its manifest is there; run `verify`")]
    Missing {
        /// The object's key.
        key: String,
    },
    /// An object of another size than its manifest says.
    #[error("object `{key}` has {found} bytes and should have {expected}; run `verify`")]
    Size {
        /// The object's key.
        key: String,
        /// Its size.
        found: u64,
        /// What the manifest says.
        expected: u64,
    },
}

/// The archive of one topic.
#[derive(Debug)]
pub struct Topic {
    /// Its name.
    pub name: TopicName,
    /// Its segments, by partition and then in the order of the chain.
    pub segments: Vec<Arc<Segment>>,
    /// Keys under `data/` that are no segment's.
    pub foreign: Vec<String>,
    /// How many manifests were fetched one by one.
    pub fetched: u64,
}

/// One object, and what is known of it without reading its lines.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Its key.
    pub key: String,
    /// Its partition.
    pub partition: i32,
    /// Where it stands in its chain.
    pub place: Place,
    /// Where the chain goes on.
    pub next: Place,
    /// Its bytes.
    pub bytes: u64,
    /// How far its records reach.
    pub extent: Extent,
    /// How many of each `op_code`; nothing when there was no manifest.
    pub ops: Ops,
    /// Its chunks.
    pub chunks: Vec<Reach>,
    /// Lines with lower offsets stand in segments before it.
    pub begins: i64,
}

/// A chunk and how far its records reach, when that is known.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// Where it stands.
    pub chunk: Chunk,
    /// How far it reaches.
    pub extent: Option<Extent>,
}

impl Archive {
    /// Bucket and prefix, for messages.
    pub fn place(&self) -> String {
        format!("s3://{}/{}", self.store.bucket(), self.prefix)
    }

    /// The topics that have objects.
    pub async fn topics(&self) -> Result<BTreeSet<TopicName>, Error> {
        let data = format!("{}data/", self.prefix);
        let listed = self.store.list(&data).await?;
        let topic = |listed: &Listed| {
            let (topic, _) = listed.key.strip_prefix(&data)?.split_once('/')?;
            topic.parse().ok()
        };
        let topics: BTreeSet<TopicName> = listed.iter().filter_map(topic).collect();
        if topics.is_empty() {
            return Err(Error::Empty { place: self.place() });
        }
        Ok(topics)
    }

    /// The segments of a topic.
    pub async fn topic(&self, name: &TopicName) -> Result<Topic, Error> {
        // Manifests first: one whose object was listed before it was written is simply not there yet.
        let Manifests { all: manifests, fetched } = Box::pin(self.manifests(name)).await?;
        let listed = self.store.list(&layout::data(&self.prefix, name)).await?;
        let mut objects: BTreeMap<String, (i32, Place, u64)> = BTreeMap::new();
        let mut foreign = Vec::new();
        for Listed { key, bytes, .. } in listed {
            match layout::parse(&key) {
                Some((partition, place))
                    if Layout::new(&self.prefix, name.clone(), partition).object(place) == key =>
                {
                    objects.insert(key, (partition, place, bytes));
                }
                _ => foreign.push(key),
            }
        }
        let mut segments = Vec::with_capacity(objects.len());
        for manifest in manifests {
            let Some((partition, place, bytes)) = objects.remove(&manifest.key) else {
                return Err(Error::Missing { key: manifest.key });
            };
            if bytes != manifest.bytes {
                let (key, expected) = (manifest.key, manifest.bytes);
                return Err(Error::Size { key, found: bytes, expected });
            }
            segments.push(Segment::of_manifest(manifest, partition, place));
        }
        let bare = stream::iter(objects)
            .map(|(key, (partition, place, bytes))| self.bare(key, partition, place, bytes))
            .buffered(REQUESTS);
        segments.extend(bare.try_collect::<Vec<_>>().await?);
        // An empty link comes before the one that shares its start: days only grow.
        segments.sort_by_key(|segment| (segment.partition, segment.place));
        let segments = without_repeats(segments);
        let segments = segments.into_iter().map(Arc::new).collect();
        Ok(Topic { name: name.clone(), segments, foreign, fetched: fetched as u64 })
    }

    /// The filters of a segment's chunks; none when there is no readable filter.
    pub async fn filters(
        &self,
        topic: &TopicName,
        segment: &Segment,
    ) -> Result<Option<Filters>, Error> {
        let layout = Layout::new(&self.prefix, topic.clone(), segment.partition);
        let stored = self.store.get(&layout.filter(segment.place)).await?;
        let filters = stored.and_then(|stored| Filters::decode(&stored).ok());
        // Filters of another number of chunks are not this object's.
        Ok(filters.filter(|filters| filters.chunks() == segment.chunks.len()))
    }

    /// A segment whose manifest is not there.
    async fn bare(
        &self,
        key: String,
        partition: i32,
        place: Place,
        bytes: u64,
    ) -> Result<Segment, Error> {
        let link = self.store.link(&key).await?;
        let link = link.ok_or_else(|| Error::Missing { key: key.clone() })?;
        let chunks = match link.extent.records {
            0 => Vec::new(),
            _ => read::chunks(&self.store, &key).await?,
        };
        let chunks = chunks.into_iter().map(|chunk| Reach { chunk, extent: None }).collect();
        let (next, extent) = (link.next, link.extent);
        let (ops, begins) = (Ops::new(), place.start);
        Ok(Segment { key, partition, place, next, bytes, extent, ops, chunks, begins })
    }
}

impl Segment {
    fn of_manifest(manifest: Manifest, partition: i32, place: Place) -> Self {
        let reach = |entry: &tailwater_sinks_archive::manifest::ChunkEntry| Reach {
            chunk: entry.chunk,
            extent: Some(entry.extent),
        };
        let dt = manifest.next_dt.parse().unwrap_or(place.dt);
        Self {
            partition,
            place,
            next: Place::new(manifest.next, dt),
            bytes: manifest.bytes,
            extent: manifest.extent,
            ops: manifest.ops,
            chunks: manifest.chunks.iter().map(reach).collect(),
            key: manifest.key,
            begins: place.start,
        }
    }

    /// Whether some of its lines stand in segments before it.
    pub(crate) fn repeats(&self) -> bool {
        self.begins > self.place.start
    }

    fn is_followed_by(&self, next: &Self) -> bool {
        match next.place.twin {
            None => self.next == next.place,
            // What it repeats does not count, so it begins at the end of this one or behind a hole.
            Some(_) => next.begins == self.next.start,
        }
    }
}

/// Where several segments may begin at one place, every offset is taken from the first that has it.
fn without_repeats(segments: Vec<Segment>) -> Vec<Segment> {
    let mut kept: Vec<Segment> = Vec::with_capacity(segments.len());
    for mut segment in segments {
        if segment.place.twin.is_some()
            && let Some(before) = kept.last().filter(|one| one.partition == segment.partition)
        {
            if segment.next.start <= before.next.start {
                continue;
            }
            segment.begins = segment.begins.max(before.next.start);
        }
        kept.push(segment);
    }
    kept
}

impl Topic {
    /// The partitions that have segments.
    pub fn partitions(&self) -> BTreeSet<i32> {
        self.segments.iter().map(|segment| segment.partition).collect()
    }

    /// How far all its records reach.
    pub fn extent(&self) -> Extent {
        let extents = self.segments.iter().map(|segment| segment.extent);
        extents.fold(Extent::default(), |all, one| Extent {
            records: all.records + one.records,
            offset: None,
            kafka_ts_ms: span(all.kafka_ts_ms, one.kafka_ts_ms),
            commit_lsn: span(all.commit_lsn, one.commit_lsn),
            commit_ts_us: span(all.commit_ts_us, one.commit_ts_us),
            tw_seq: span(all.tw_seq, one.tw_seq),
        })
    }

    /// How many records of each `op_code` there are, as far as manifests tell.
    pub fn ops(&self) -> Ops {
        let mut ops = Ops::new();
        for (op, count) in self.segments.iter().flat_map(|segment| &segment.ops) {
            *ops.entry(*op).or_default() += count;
        }
        ops
    }

    /// Places where one segment does not lead to the next: records are missing there, or stand twice.
    pub fn breaks(&self) -> Vec<String> {
        let pairs = self.segments.windows(2).map(|pair| (&pair[0], &pair[1]));
        pairs
            .filter(|(one, next)| one.partition == next.partition && !one.is_followed_by(next))
            .map(|(one, next)| {
                format!("`{}` leads to {}, and `{}` comes next", one.key, one.next, next.key)
            })
            .collect()
    }
}

fn span<T: Ord + Copy>(one: Option<(T, T)>, other: Option<(T, T)>) -> Option<(T, T)> {
    match (one, other) {
        (Some(one), Some(other)) => Some((one.0.min(other.0), one.1.max(other.1))),
        (one, other) => one.or(other),
    }
}
