//! Listing and reading back.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tailwater_topics_contract::TopicName;

use crate::layout::{self, Day, Place};
use crate::segment::{self, BadSegment, Chunk};
use crate::store::{Listed, Objects, Store, StoreError};

/// Looks at objects that may be under way at once.
const LOOKS: usize = 16;

/// One object of a topic's archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its key.
    pub key: String,
    /// Its partition.
    pub partition: i32,
    /// Its first position.
    pub first: i64,
    /// Its folder.
    pub dt: Day,
    /// The position after its last record.
    pub next: i64,
    /// Folder of what follows.
    pub next_dt: Day,
    /// Its records; 0 for a link that only turns the day.
    pub records: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// An object that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No such object.
    #[error("there is no object `{0}`")]
    Missing(String),
    /// Damaged.
    #[error("object `{key}` is damaged")]
    Damaged {
        /// Its key.
        key: String,
        /// How.
        #[source]
        source: BadSegment,
    },
}

/// The objects of a topic, by partition and then in the order of the chain.
pub async fn list(
    store: &Store,
    prefix: &str,
    topic: &TopicName,
) -> Result<Vec<Object>, StoreError> {
    let listed = store.list(&layout::data(prefix, topic)).await?;
    let look = |listed: Listed| async move {
        let Some((partition, place)) = layout::parse(&listed.key) else { return Ok(None) };
        let link = store.link(&listed.key).await?;
        Ok::<_, StoreError>(link.map(|link| Object {
            key: listed.key,
            partition,
            first: place.start,
            dt: place.dt,
            next: link.next.start,
            next_dt: link.next.dt,
            records: link.extent.records,
            bytes: listed.bytes,
        }))
    };
    let looked: Vec<Option<Object>> =
        stream::iter(listed).map(look).buffered(LOOKS).try_collect().await?;
    let mut objects: Vec<Object> = looked.into_iter().flatten().collect();
    // An empty link comes before the one that shares its start: days only grow.
    objects.sort_by_key(|object| (object.partition, object.first, object.dt));
    Ok(objects)
}

/// A place where one object does not lead to the next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{before}` leads to {leads_to}, and `{after}` comes next; records are missing or there twice"
)]
pub struct Break {
    /// Key of the object that leads elsewhere.
    pub before: String,
    /// Where it leads.
    pub leads_to: String,
    /// Key of the object that comes next in order.
    pub after: String,
}

/// The breaks in the chains of a topic's objects, ordered as [`list`] gives them. None: from the first object of each
/// partition to its last there is every position once.
pub fn breaks(objects: &[Object]) -> Vec<Break> {
    let pairs = objects.windows(2).map(|pair| (&pair[0], &pair[1]));
    let broken = pairs.filter(|(before, after)| {
        before.partition == after.partition
            && (before.next, before.next_dt) != (after.first, after.dt)
    });
    broken
        .map(|(before, after)| Break {
            before: before.key.clone(),
            leads_to: Place::new(before.next, before.next_dt).to_string(),
            after: after.key.clone(),
        })
        .collect()
}

/// The lines of an object, without their line breaks.
pub async fn lines(store: &Store, key: &str) -> Result<Vec<Bytes>, ReadError> {
    let object = store.get(key).await?.ok_or_else(|| ReadError::Missing(key.to_owned()))?;
    let damaged = |source| ReadError::Damaged { key: key.to_owned(), source };
    Ok(split(segment::read_all(&object).map_err(damaged)?))
}

/// The chunks of an object, from its first bytes alone.
pub async fn chunks(store: &Store, key: &str) -> Result<Vec<Chunk>, ReadError> {
    let head = store.get_range(key, 0..segment::HEAD_BYTES).await?;
    let head = head.ok_or_else(|| ReadError::Missing(key.to_owned()))?;
    segment::chunks(&head).map_err(|source| ReadError::Damaged { key: key.to_owned(), source })
}

/// The lines of one of an object's [`chunks`], without their line breaks. Only its bytes are fetched.
pub async fn chunk_lines(
    store: &Store,
    key: &str,
    number: usize,
    chunk: Chunk,
) -> Result<Vec<Bytes>, ReadError> {
    let range = chunk.at..chunk.at + u64::from(chunk.compressed_bytes);
    let compressed = store.get_range(key, range).await?;
    let compressed = compressed.ok_or_else(|| ReadError::Missing(key.to_owned()))?;
    let lines = segment::read_chunk(number, chunk, &compressed).map(split);
    lines.map_err(|source| ReadError::Damaged { key: key.to_owned(), source })
}

fn split(text: Vec<u8>) -> Vec<Bytes> {
    let text = Bytes::from(text);
    let mut lines = Vec::new();
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', &text) {
        lines.push(text.slice(start..end));
        start = end + 1;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_breaks_where_an_object_does_not_lead_to_the_next() {
        let day = |number: i64| Day::of_ms(number * 86_400_000);
        let object = |partition, (first, dt), (next, next_dt)| Object {
            key: format!("p{partition}/{first}"),
            partition,
            first,
            dt: day(dt),
            next,
            next_dt: day(next_dt),
            records: 1,
            bytes: 1,
        };
        let mut objects = vec![
            object(0, (5, 1), (9, 1)),
            object(0, (9, 1), (9, 3)),
            object(0, (9, 3), (12, 3)),
            object(1, (0, 1), (4, 1)),
        ];
        assert_eq!(breaks(&objects), []);
        objects.remove(1);
        assert_eq!(
            breaks(&objects).iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "`p0/5` leads to 1970-01-02/9, and `p0/9` comes next; records are missing or there twice"
            ]
        );
    }
}
