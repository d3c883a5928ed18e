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

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tailwater_sinks_archive::chain::Link;
use tailwater_sinks_archive::layout::{self, Layout, Place};
use tailwater_sinks_archive::manifest::{Manifest, Summary};
use tailwater_sinks_archive::{Objects, StoreError, line, segment};
use tailwater_topics_contract::{Origin, Seq, TopicName};

use crate::archive::{Archive, Error};

/// Requests that may be under way at once.
const REQUESTS: usize = 16;
/// Objects that are read at once; each is held whole.
const READS: usize = 2;
/// Missing numbers that are listed.
const LISTED: usize = 5;

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

    fn chains(&mut self, topic: &TopicName, objects: &BTreeMap<String, Object>) {
        let mut chains: BTreeMap<i32, Vec<(&String, &Object)>> = BTreeMap::new();
        for (key, object) in objects {
            chains.entry(object.partition).or_default().push((key, object));
        }
        self.report.partitions += chains.len() as u64;
        for (partition, chain) in &mut chains {
            chain.sort_by_key(|(_, object)| object.place);
            for (key, object) in chain.iter() {
                if !object.link.is_at(object.place) {
                    let what = format!("it leads back, to {}", object.link.next);
                    self.found(0, key, what);
                }
            }
            for pair in chain.windows(2) {
                let ((before, one), (after, next)) = (&pair[0], &pair[1]);
                if one.link.next != next.place {
                    let what = format!(
                        "it leads to {}, and `{after}` comes next; records are missing or stand twice",
                        one.link.next
                    );
                    self.found(0, before, what);
                }
            }
            let origin = self
                .scope
                .origins
                .iter()
                .find(|origin| origin.topic == *topic && origin.partition == *partition);
            if let (Some(origin), Some((key, first))) = (origin, chain.first())
                && (origin.offset != first.place.start || origin.dt != first.place.dt.to_string())
            {
                let what = format!(
                    "it is the first of its chain, which was registered to begin at {}/{}",
                    origin.dt, origin.offset
                );
                self.found(0, key, what);
            }
        }
    }

    async fn manifests(
        &mut self,
        topic: &TopicName,
        objects: &BTreeMap<String, Object>,
    ) -> Result<HashMap<String, Manifest>, Error> {
        let archive = self.archive;
        let layout = |partition| Layout::new(&archive.prefix, topic.clone(), partition);
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
        let meta = layout::meta(&archive.prefix, topic);
        let mut stored = Vec::new();
        for listed in archive.store.list(&meta).await? {
            let rest = listed.key.strip_prefix(&meta).unwrap_or_default();
            if rest.starts_with("manifest/") {
                if expected.contains_key(&listed.key) {
                    stored.push(listed.key);
                } else {
                    let what = "the object it speaks of is missing, or is not to have one";
                    self.found(1, &listed.key, what);
                }
            } else if filters.remove(&listed.key).is_none() {
                let what = if rest.starts_with("keys/") {
                    "the object whose keys it holds is missing"
                } else {
                    "nothing of this kind belongs beside an archive"
                };
                self.found(1, &listed.key, what);
            }
        }
        let fetched = stream::iter(stored)
            .map(|key| async move { Ok::<_, Error>((archive.store.get(&key).await?, key)) })
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
            if last.get(&object.partition) == Some(&object.place) {
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

    async fn contents(
        &mut self,
        topic: &TopicName,
        objects: &BTreeMap<String, Object>,
        manifests: &HashMap<String, Manifest>,
        on_object: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(), Error> {
        let archive = self.archive;
        for object in objects.values() {
            if let Some((low, _)) = object.link.extent.tw_seq {
                self.numbers.expect(low);
            }
        }
        let mut ordered: Vec<(&String, &Object)> = objects.iter().collect();
        ordered.sort_by_key(|(_, object)| (object.partition, object.place));
        let mut bodies = stream::iter(ordered)
            .map(|(key, object)| async move {
                let layout = Layout::new(&archive.prefix, topic.clone(), object.partition);
                let body = archive.store.get(key).await?;
                let filter = match object.link.extent.records {
                    0 => None,
                    _ => archive.store.get(&layout.filter(object.place)).await?,
                };
                Ok::<_, Error>((key, object, body, filter, layout))
            })
            .buffered(READS);
        let mut last: Option<(i32, u64)> = None;
        while let Some(fetched) = bodies.next().await {
            let (key, object, body, filter, layout) = fetched?;
            on_object(key);
            let Some(body) = body else {
                self.found(1, key, "it is listed, and it is not there");
                continue;
            };
            if body.len() as u64 != object.bytes {
                self.found(
                    1,
                    key,
                    format!("it has {} bytes, and {} are listed", body.len(), object.bytes),
                );
            }
            if sha256(&body) != object.link.sha256 {
                self.found(2, key, "it does not match the hash in its metadata");
            }
            match segment::read_all(&body) {
                Ok(raw) if raw.len() as u64 != object.link.raw_bytes => {
                    let (found, said) = (raw.len(), object.link.raw_bytes);
                    self.found(
                        2,
                        key,
                        format!("it has {found} bytes of lines, and its metadata says {said}"),
                    );
                }
                Ok(_) => {}
                Err(error) => self.found(2, key, error.to_string()),
            }
            if body.len() < 8 || !ends_in_its_trailer(&body) {
                self.found(2, key, "bytes follow the end of its gzip member");
            }
            let (summary, chunks) = match Summary::of_object(&body) {
                Ok(read) => read,
                Err(error) => {
                    let cause = std::error::Error::source(&error);
                    let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
                    self.found(2, key, format!("{error}{cause}"));
                    continue;
                }
            };
            self.report.records += summary.extent.records;
            if summary.extent != object.link.extent {
                self.found(2, key, "its metadata does not say what its records say");
            }
            if let Some(manifest) = manifests.get(key) {
                let expected = Manifest::new(
                    &layout,
                    object.place,
                    &object.link,
                    object.bytes,
                    &chunks,
                    &summary,
                );
                if *manifest != expected {
                    self.found(2, key, "its manifest does not say what its records say");
                }
            }
            if let Some(filter) = filter
                && filter != summary.keys.encode()
            {
                self.found(
                    2,
                    &layout.filter(object.place),
                    "it does not hold the keys of its object",
                );
            }
            let carry =
                last.filter(|(partition, _)| *partition == object.partition).map(|(_, n)| n);
            let newest = self.lines(key, object, &body, &chunks, carry);
            last = newest.or(carry).map(|number| (object.partition, number));
        }
        Ok(())
    }

    /// Looks at every line; answers the highest number of the pipeline.
    fn lines(
        &mut self,
        key: &str,
        object: &Object,
        body: &Bytes,
        chunks: &[segment::Chunk],
        before: Option<u64>,
    ) -> Option<u64> {
        let (mut offset, mut newest, mut number) = (object.place.start - 1, before, 0_u64);
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
                if let Some(seq) = origin.tw_seq {
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

/// Where a manifest and its object's metadata differ.
fn disagreements(
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

/// Whether the last eight bytes are the checksum and length of what stands before them.
fn ends_in_its_trailer(object: &[u8]) -> bool {
    let Ok(chunks) = segment::chunks(object) else { return true };
    let end = chunks.last().map_or(16, |chunk| chunk.at + u64::from(chunk.compressed_bytes));
    // Two bytes of an empty last block, then the trailer.
    object.len() as u64 == end + 2 + 8
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A number as epoch and count.
fn shown(seq: u64) -> String {
    Seq::from_stored(seq)
        .map_or_else(|| seq.to_string(), |seq| format!("{}.{}", seq.epoch(), seq.n()))
}

/// Which numbers of the pipeline were met: one bit each, by epoch.
#[derive(Default)]
struct Numbers {
    epochs: BTreeMap<u64, Epoch>,
}

#[derive(Default)]
struct Epoch {
    base: u64,
    bits: Vec<u64>,
    met: u64,
    top: u64,
}

/// Numbers are `epoch * 2^44 + n`.
const EPOCH: u64 = 1 << 44;
/// More numbers than this between the lowest and another are no numbers of one archive.
const SPAN_MAX: u64 = 1 << 36;

impl Numbers {
    /// Learns the lowest number of an object before any is taken.
    fn expect(&mut self, low: u64) {
        let epoch = self.epochs.entry(low / EPOCH);
        let epoch = epoch.or_insert(Epoch { base: low, ..Epoch::default() });
        if low < epoch.base {
            let words = (epoch.base - low).div_ceil(64);
            if words < SPAN_MAX / 64 {
                epoch.base -= (words * 64).min(epoch.base);
                let moved = words as usize;
                epoch
                    .bits
                    .splice(0..0, std::iter::repeat_n(0, if epoch.met > 0 { moved } else { 0 }));
            }
        }
    }

    /// Answers whether it is new.
    fn take(&mut self, seq: u64) -> bool {
        let epoch =
            self.epochs.entry(seq / EPOCH).or_insert(Epoch { base: seq, ..Epoch::default() });
        let Some(place) = seq.checked_sub(epoch.base).filter(|place| *place < SPAN_MAX) else {
            return false;
        };
        let (word, bit) = ((place / 64) as usize, 1_u64 << (place % 64));
        if epoch.bits.len() <= word {
            epoch.bits.resize(word + 1, 0);
        }
        let is_new = epoch.bits[word] & bit == 0;
        epoch.bits[word] |= bit;
        epoch.met += u64::from(is_new);
        epoch.top = epoch.top.max(seq);
        is_new
    }

    fn judge(&self, whole: bool, report: &mut Report) {
        for epoch in self.epochs.values().filter(|epoch| epoch.met > 0) {
            let mut missing = Vec::new();
            let mut lowest = None;
            let mut holes = 0_u64;
            for seq in epoch.base..=epoch.top {
                let place = seq - epoch.base;
                let is_met = epoch.bits[(place / 64) as usize] & (1 << (place % 64)) != 0;
                if is_met {
                    lowest.get_or_insert(seq);
                } else if lowest.is_some() {
                    holes += 1;
                    if missing.len() < LISTED {
                        missing.push(shown(seq));
                    }
                }
            }
            let first = lowest.unwrap_or(epoch.base);
            let begins_late = whole && first % EPOCH > 1;
            let note = format!(
                "{} of {} numbers of the pipeline are there, from {} to {}",
                epoch.met,
                epoch.top - first + 1,
                shown(first),
                shown(epoch.top)
            );
            if whole && (holes > 0 || begins_late) {
                let mut parts = vec![note];
                if holes > 0 {
                    let more = if holes > missing.len() as u64 { " and more" } else { "" };
                    parts.push(format!("missing are {}{more}", missing.join(", ")));
                }
                if begins_late {
                    parts.push("those before the first are missing".to_owned());
                }
                let what = parts.join("; ");
                report.findings.push(Finding {
                    subject: "the pipeline".to_owned(),
                    level: 2,
                    what,
                });
            } else {
                report.notes.push(note);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(seqs: &[u64], whole: bool) -> Report {
        let mut numbers = Numbers::default();
        numbers.expect(EPOCH + *seqs.iter().min().expect("some"));
        for seq in seqs {
            assert!(numbers.take(EPOCH + seq));
        }
        let mut report = Report::default();
        numbers.judge(whole, &mut report);
        report
    }

    #[test]
    fn missing_numbers_are_a_finding_only_where_none_may_be_missing() {
        assert_eq!(judged(&[1, 2, 3], true).findings, []);
        let report = judged(&[1, 2, 70, 4], true);
        assert!(report.findings[0].what.contains("4 of 70"), "{report:?}");
        assert!(report.findings[0].what.contains("1.3, 1.5"), "{report:?}");
        assert_eq!(judged(&[1, 4], false).findings, []);
        assert!(judged(&[5, 6], true).findings[0].what.contains("before the first"));
    }

    #[test]
    fn a_number_is_taken_once() {
        let mut numbers = Numbers::default();
        numbers.expect(EPOCH + 200);
        numbers.expect(EPOCH + 3);
        assert!(numbers.take(EPOCH + 200));
        assert!(numbers.take(EPOCH + 3));
        assert!(!numbers.take(EPOCH + 200));
        assert!(numbers.take(2 * EPOCH + 200));
    }
}
