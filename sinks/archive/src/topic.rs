//! Which topic an archive is filled from, remembered beside its objects.
//!
//! ```text
//!  <prefix>meta/<topic>/topic.json: {"topic":"orders.events","id":"x4Sf…","generation":1}
//!
//!  a partition is opened ──▶ which topic has the name now? ─┬─ the one remembered ──▶ go on
//!                                                           ├─ none remembered ─────▶ remember it, go on
//!                                                           └─ another ─────────────▶ the partition stops
//! ```
//!
//! * The offsets of a topic that was deleted and made again begin anew, and the chain goes on at its head. Whatever the
//!   new topic holds below the head would be passed over, and nothing would say so.
//! * The object is created where none stands and never replaced. Of two that find none, one creates it, and both
//!   compare with what stands there then. An archive of a version that remembered nothing gets it once.

use tailwater_runtime::{Classify, ErrorClass};
use tailwater_sinks_worker::source::{Relation, Source, relation};
use tailwater_topics_contract::TopicName;

use crate::layout;
use crate::links::create_beside;
use crate::store::{Objects, StoreError};

const JSON: &str = "application/json";

/// Why an archive cannot be gone on with from a topic.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was filled from another topic of the same name.
    #[error(
        "`{key}` says that the archive is of another topic: {difference}; the first records of the new one would be \
         missing in it, so nothing was written: declare an archive with another name and another prefix, and remove \
         this sink; what is archived stays readable"
    )]
    Other {
        /// The object that remembers.
        key: String,
        /// Which topic filled it, and which there is.
        difference: String,
    },
    /// Nobody can tell which topic filled it.
    #[error("`{key}` does not say which topic the archive is of; put it back from a copy")]
    Unreadable {
        /// The object that should.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl Classify for TopicError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Store(store) => store.class(),
            Self::Other { .. } | Self::Unreadable { .. } => ErrorClass::Definite,
        }
    }
}

/// The topic that an archive was filled from, as far as it remembers one.
///
/// # Errors
/// The store fails, or what stands there cannot be read.
pub async fn filled_from<S: Objects>(
    store: &S,
    prefix: &str,
    topic: &TopicName,
) -> Result<Option<Source>, TopicError> {
    let key = layout::topic(prefix, topic);
    let Some(stored) = store.get(&key).await? else { return Ok(None) };
    let read = serde_json::from_slice(&stored);
    read.map(Some).map_err(|source| TopicError::Unreadable { key, source })
}

/// Makes sure that an archive was filled from no other topic of the name.
///
/// # Errors
/// It was; or the store fails.
pub async fn ensure_same<S: Objects>(
    store: &S,
    prefix: &str,
    now: &Source,
) -> Result<(), TopicError> {
    let key = layout::topic(prefix, &now.topic);
    let filled = filled_from(store, prefix, &now.topic).await?;
    // Kafka's word is enough: that nothing was written to the topic for a while matters to an index, not to an archive.
    if filled.as_ref().is_some_and(|filled| filled.id.is_some() && filled.id == now.id) {
        return Ok(());
    }
    match relation(&filled, now) {
        Relation::Other(difference) => Err(TopicError::Other { key, difference }),
        Relation::Same | Relation::Unknown => Ok(()),
    }
}

/// The same, and remembers the topic where none is remembered.
pub(crate) async fn remember<S: Objects>(
    store: &S,
    prefix: &str,
    now: &Source,
) -> Result<(), TopicError> {
    if filled_from(store, prefix, &now.topic).await?.is_none() {
        let key = layout::topic(prefix, &now.topic);
        let body = serde_json::to_vec(now)
            .map_err(|source| TopicError::Unreadable { key: key.clone(), source })?;
        create_beside(store, &key, body.into(), JSON).await?;
        tracing::info!(key, topic = %now.topic, generation = %now.generation, "remembered");
    }
    ensure_same(store, prefix, now).await
}
