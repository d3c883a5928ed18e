//! L2: what the objects hold.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use futures::{StreamExt, stream};
use tailwater_topics_contract::TopicName;

use super::numbers::shown;
use super::{Look, Object};
use crate::layout::Layout;
use crate::links::sha256;
use crate::manifest::{Manifest, Summary};
use crate::store::{Objects, StoreError};
use crate::{line, segment};

/// Objects that are read at once; each is held whole.
const READS: usize = 2;

/// An object and what is to be compared with its bytes.
struct Content<'a> {
    key: &'a str,
    object: &'a Object,
    layout: Layout,
    filter: Option<Bytes>,
}

/// What the objects of a partition before one have held.
#[derive(Clone, Copy, Default)]
struct Before {
    partition: i32,
    /// The highest number of the pipeline.
    newest: Option<u64>,
    /// The offset up to which there are no holes. Only an object that is not alone at its place begins below.
    covered: i64,
}

impl<S: Objects> Look<'_, S> {
    pub(super) async fn contents(
        &mut self,
        topic: &TopicName,
        objects: &BTreeMap<String, Object>,
        manifests: &HashMap<String, Manifest>,
        on_object: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(), StoreError> {
        let tree = self.tree;
        for object in objects.values() {
            if let Some((low, _)) = object.link.extent.tw_seq {
                self.numbers.expect(low);
            }
        }
        let mut ordered: Vec<(&String, &Object)> = objects.iter().collect();
        ordered.sort_by_key(|(_, object)| (object.partition, object.place));
        let mut fetched = stream::iter(ordered)
            .map(|(key, object)| async move {
                let layout = tree.layout(topic, object.partition);
                let body = tree.store.get(key).await?;
                let filter = match object.link.extent.records {
                    0 => None,
                    _ => tree.store.get(&layout.filter(object.place)).await?,
                };
                Ok::<_, StoreError>((Content { key, object, layout, filter }, body))
            })
            .buffered(READS);
        let mut before = Before::default();
        while let Some(next) = fetched.next().await {
            let (content, body) = next?;
            on_object(content.key);
            let Some(body) = body else {
                self.found(1, content.key, "it is listed, and it is not there");
                continue;
            };
            let Object { partition, link, .. } = content.object;
            if before.partition != *partition {
                before = Before { partition: *partition, ..Before::default() };
            }
            let newest = self.content(&content, &body, manifests.get(content.key), before);
            before.newest = newest.or(before.newest);
            before.covered = before.covered.max(link.next.start);
        }
        Ok(())
    }

    /// Looks at one object; answers the highest number of the pipeline in it.
    fn content(
        &mut self,
        content: &Content<'_>,
        body: &Bytes,
        manifest: Option<&Manifest>,
        before: Before,
    ) -> Option<u64> {
        let Content { key, object, layout, filter } = content;
        self.bytes(key, object, body);
        let (summary, chunks) = match Summary::of_object(body) {
            Ok(read) => read,
            Err(error) => {
                let cause = std::error::Error::source(&error);
                let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
                self.found(2, key, format!("{error}{cause}"));
                return None;
            }
        };
        self.report.records += summary.extent.records;
        if summary.extent != object.link.extent {
            self.found(2, key, "its metadata does not say what its records say");
        }
        let (place, link) = (object.place, &object.link);
        let expected = Manifest::new(layout, place, link, object.bytes, &chunks, &summary);
        if manifest.is_some_and(|manifest| *manifest != expected) {
            self.found(2, key, "its manifest does not say what its records say");
        }
        if filter.as_ref().is_some_and(|filter| *filter != summary.keys.encode()) {
            self.found(2, &layout.filter(place), "it does not hold the keys of its object");
        }
        self.lines(key, object, body, &chunks, before)
    }

    /// Looks at an object as bytes: lengths, hash, gzip.
    fn bytes(&mut self, key: &str, object: &Object, body: &Bytes) {
        if body.len() as u64 != object.bytes {
            let what = format!("it has {} bytes, and {} are listed", body.len(), object.bytes);
            self.found(1, key, what);
        }
        if sha256(body) != object.link.sha256 {
            self.found(2, key, "it does not match the hash in its metadata");
        }
        match segment::read_all(body) {
            Ok(raw) if raw.len() as u64 != object.link.raw_bytes => {
                let (found, said) = (raw.len(), object.link.raw_bytes);
                let what = format!("it has {found} bytes of lines, and its metadata says {said}");
                self.found(2, key, what);
            }
            Ok(_) => {}
            Err(error) => self.found(2, key, error.to_string()),
        }
        if !ends_in_its_trailer(body) {
            self.found(2, key, "bytes follow the end of its gzip member");
        }
    }

    /// Looks at every line; answers the highest number of the pipeline.
    fn lines(
        &mut self,
        key: &str,
        object: &Object,
        body: &Bytes,
        chunks: &[segment::Chunk],
        before: Before,
    ) -> Option<u64> {
        let (mut offset, mut newest, mut number) = (object.place.start - 1, before.newest, 0_u64);
        let is_repeat = |offset| object.place.twin.is_some() && offset < before.covered;
        let mut again = Vec::new();
        for (at, chunk) in chunks.iter().enumerate() {
            let Ok(raw) = segment::read_chunk(at, *chunk, chunk.of(body)) else { break };
            for text in raw.split_inclusive(|byte| *byte == b'\n') {
                number += 1;
                let Ok((partition, record)) = line::read(text.strip_suffix(b"\n").unwrap_or(text))
                else {
                    break;
                };
                if partition != object.partition {
                    self.found(2, key, format!("line {number} is of partition {partition}"));
                }
                if record.offset <= offset || record.offset >= object.link.next.start {
                    let what = format!(
                        "line {number} has offset {}, where one from {} to {} belongs",
                        record.offset,
                        offset + 1,
                        object.link.next.start - 1
                    );
                    self.found(2, key, what);
                }
                offset = record.offset;
                again.clear();
                let origin = line::write(partition, &record, &mut again);
                if again != text {
                    self.found(
                        2,
                        key,
                        format!("line {number} is not spelled as a writer spells it"),
                    );
                }
                if let Some(seq) = origin.tw_seq.filter(|_| !is_repeat(record.offset)) {
                    if newest.is_some_and(|newest| seq <= newest) {
                        let what = format!(
                            "line {number} has the pipeline's number {}, not above the one before it",
                            shown(seq)
                        );
                        self.found(2, key, what);
                    }
                    if !self.numbers.take(seq) {
                        let what = format!(
                            "line {number} has the pipeline's number {}, which stands elsewhere too",
                            shown(seq)
                        );
                        self.found(2, key, what);
                    }
                    newest = Some(seq);
                }
            }
        }
        newest
    }
}

/// Whether the last eight bytes are the checksum and length of what stands before them.
fn ends_in_its_trailer(object: &[u8]) -> bool {
    let Ok(chunks) = segment::chunks(object) else { return true };
    let end = chunks.last().map_or(16, |chunk| chunk.at + u64::from(chunk.compressed_bytes));
    // Two bytes of an empty last block, then the trailer.
    object.len() as u64 == end + 2 + 8
}
