//! The manifests of a topic: out of its newest checkpoint where that can be believed, else one by one.
//!
//! ```text
//!  list manifest/ ──▶ key, ETag ──a row of the newest checkpoint has both?─┬─▶ yes: the row's manifest
//!                                                                          └─▶ no: fetched by itself
//!  checkpoint: all of them, when some were fetched ──create-only──▶ checkpoint/<the next number>.parquet
//! ```
//!
//! * A row gets the ETag of the answer that brought its manifest, not the listed one: what was replaced between the two
//!   is not taken for the other.
//! * A checkpoint that cannot be read is named and passed over, for the one before it.

use std::collections::HashMap;

use futures::{StreamExt, TryStreamExt, stream};
use serde::de::Error as _;
use tailwater_sinks_archive::manifest::Manifest;
use tailwater_sinks_archive::{Listed, Objects, Put, layout};
use tailwater_topics_contract::TopicName;

use crate::archive::{Archive, Error, REQUESTS};
use crate::checkpoint::{self, Row};

const PARQUET: &str = "application/vnd.apache.parquet";

/// The manifests of a topic.
pub(crate) struct Manifests {
    /// In the order of their keys.
    pub(crate) all: Vec<Manifest>,
    /// How many of them were fetched by themselves.
    pub(crate) fetched: usize,
}

/// What became of a checkpoint that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rolled {
    /// It was written.
    Up {
        /// Its key.
        key: String,
        /// How many manifests it holds.
        manifests: usize,
        /// How many of them the one before did not.
        added: usize,
        /// Its bytes.
        bytes: usize,
    },
    /// The newest one holds every manifest.
    Before {
        /// Its key.
        key: String,
        /// How many manifests there are.
        manifests: usize,
    },
    /// Somebody else has just written one.
    Elsewhere {
        /// Its key.
        key: String,
    },
    /// There is no manifest.
    Nothing,
    /// No manifest can be recognised by its ETag, so no checkpoint could be believed.
    Unrecognisable,
}

/// A manifest as it stands in the store.
struct Stored {
    key: String,
    etag: Option<String>,
    json: String,
    source: Source,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Checkpoint,
    /// Whether the ETag it came with is the one that was listed.
    Fetched {
        is_recognised: bool,
    },
}

/// The newest checkpoint that can be read, and the numbers that are taken.
#[derive(Default)]
struct Newest {
    key: Option<String>,
    rows: HashMap<String, Row>,
    /// The highest number of all.
    number: u64,
    /// Whether it cannot be read.
    is_passed_over: bool,
}

impl Archive {
    pub(crate) async fn manifests(&self, topic: &TopicName) -> Result<Manifests, Error> {
        let (stored, _) = self.stored(topic).await?;
        let fetched = stored.iter().filter(|stored| stored.source != Source::Checkpoint).count();
        let parsed = stored.into_iter().map(|Stored { key, json, .. }| {
            serde_json::from_str(&json).map_err(|source| Error::Manifest { key, source })
        });
        Ok(Manifests { all: parsed.collect::<Result<_, _>>()?, fetched })
    }

    /// Rolls the manifests of a topic up into a checkpoint, unless the newest one holds them all.
    pub async fn checkpoint(&self, topic: &TopicName) -> Result<Rolled, Error> {
        let (stored, newest) = self.stored(topic).await?;
        let manifests = stored.len();
        let count = |source| stored.iter().filter(|stored| stored.source == source).count();
        let (believed, added) =
            (count(Source::Checkpoint), count(Source::Fetched { is_recognised: true }));
        if manifests == 0 {
            return Ok(Rolled::Nothing);
        }
        if added == 0 && !(newest.is_passed_over && believed > 0) {
            let before = newest.key.filter(|_| believed > 0);
            return Ok(
                before.map_or(Rolled::Unrecognisable, |key| Rolled::Before { key, manifests })
            );
        }
        // Where keys are of chance, the store may not know conditions; and whichever of two checkpoints stays will do.
        let is_twin = |stored: &Stored| {
            layout::parse_beside(&stored.key).is_some_and(|(_, place)| place.twin.is_some())
        };
        let store = self.store.clone();
        let store = if stored.iter().any(is_twin) { store.without_conditions() } else { store };
        let rows = stored.into_iter().filter_map(|Stored { key, etag, json, .. }| {
            Some(Row { key, etag: etag?, manifest: json })
        });
        let rows: Vec<Row> = rows.collect();
        let key = layout::checkpoint(&self.prefix, topic, newest.number.saturating_add(1));
        let body = checkpoint::write(&rows).map_err(|error| match error {
            checkpoint::Error::Manifest { key, source } => Error::Manifest { key, source },
            source => Error::Checkpoint { key: key.clone(), source },
        })?;
        let (manifests, bytes) = (rows.len(), body.len());
        match store.create(&key, body.into(), HashMap::new(), PARQUET).await? {
            Put::Created => Ok(Rolled::Up { key, manifests, added, bytes }),
            Put::Taken | Put::Conflict(_) => Ok(Rolled::Elsewhere { key }),
            Put::Unclear(error) => Err(error.into()),
        }
    }

    async fn stored(&self, topic: &TopicName) -> Result<(Vec<Stored>, Newest), Error> {
        let under = format!("{}manifest/", layout::meta(&self.prefix, topic));
        let list = async { Ok::<_, Error>(self.store.list(&under).await?) };
        let (listed, mut newest) = futures::future::try_join(list, self.newest(topic)).await?;
        let mut rows = std::mem::take(&mut newest.rows);
        let stored = stream::iter(listed)
            .map(|listed| {
                let row = rows.remove(&listed.key);
                let row = row.filter(|row| listed.etag.as_ref() == Some(&row.etag));
                async move {
                    match row {
                        Some(Row { key, etag, manifest }) => Ok(Some(Stored {
                            key,
                            etag: Some(etag),
                            json: manifest,
                            source: Source::Checkpoint,
                        })),
                        None => self.by_itself(listed).await,
                    }
                }
            })
            .buffered(REQUESTS)
            .try_filter_map(|stored| async move { Ok(stored) });
        Ok((stored.try_collect().await?, newest))
    }

    async fn by_itself(&self, listed: Listed) -> Result<Option<Stored>, Error> {
        let Listed { key, etag: listed, .. } = listed;
        let Some((body, etag)) = self.store.get_with_etag(&key).await? else { return Ok(None) };
        let is_recognised = etag.is_some() && etag == listed;
        match String::from_utf8(body.into()) {
            Ok(json) => {
                Ok(Some(Stored { key, etag, json, source: Source::Fetched { is_recognised } }))
            }
            Err(error) => Err(Error::Manifest { key, source: serde_json::Error::custom(error) }),
        }
    }

    async fn newest(&self, topic: &TopicName) -> Result<Newest, Error> {
        let listed = self.store.list(&layout::checkpoints(&self.prefix, topic)).await?;
        let number = |key: &str| layout::parse_checkpoint(&self.prefix, topic, key);
        let numbered = listed.into_iter().filter_map(|listed| Some((number(&listed.key)?, listed)));
        let mut numbered: Vec<(u64, Listed)> = numbered.collect();
        numbered.sort_unstable_by_key(|(number, _)| *number);
        let number = numbered.last().map_or(0, |(number, _)| *number);
        let mut newest = Newest { number, ..Newest::default() };
        for (_, Listed { key, .. }) in numbered.into_iter().rev() {
            match self.rows(&key).await {
                Ok(rows) => {
                    newest.rows = rows.into_iter().map(|row| (row.key.clone(), row)).collect();
                    newest.key = Some(key);
                    break;
                }
                // Whatever is wrong with it, the manifests are there.
                Err(why) => {
                    tracing::warn!("checkpoint `{key}` is passed over: {why}");
                    newest.is_passed_over = true;
                }
            }
        }
        Ok(newest)
    }

    async fn rows(
        &self,
        checkpoint: &str,
    ) -> Result<Vec<Row>, Box<dyn std::error::Error + Send + Sync>> {
        let body = self.store.get(checkpoint).await?;
        let body = body.ok_or("it is listed, and it is not there")?;
        Ok(checkpoint::read(body)?)
    }
}
