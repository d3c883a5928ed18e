//! Listing and reading back.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tailwater_topics_contract::TopicName;

use crate::layout;
use crate::segment::{self, BadSegment};
use crate::store::{Listed, Store, StoreError};

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
    /// The position after its last record.
    pub next: i64,
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
            next: link.next.start,
            records: link.records,
            bytes: listed.bytes,
        }))
    };
    let looked: Vec<Option<Object>> =
        stream::iter(listed).map(look).buffered(LOOKS).try_collect().await?;
    let mut objects: Vec<Object> = looked.into_iter().flatten().collect();
    // An empty link comes before the one that shares its start.
    objects.sort_by(|a, b| {
        (a.partition, a.first, a.next, &a.key).cmp(&(b.partition, b.first, b.next, &b.key))
    });
    Ok(objects)
}

/// The lines of an object, without their line breaks.
pub async fn lines(store: &Store, key: &str) -> Result<Vec<Bytes>, ReadError> {
    let object = store.get(key).await?.ok_or_else(|| ReadError::Missing(key.to_owned()))?;
    let damaged = |source| ReadError::Damaged { key: key.to_owned(), source };
    let text = Bytes::from(segment::read_all(&object).map_err(damaged)?);
    let mut lines = Vec::new();
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', &text) {
        lines.push(text.slice(start..end));
        start = end + 1;
    }
    Ok(lines)
}
