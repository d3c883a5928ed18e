//! An index beside the one in use: made, filled through an alias of its own, put in its place by one request.
//!
//! ```text
//!            filling                      swapped
//!  products ──────▶ products-v1           products ──────────▶ products-v2   _meta: filled up to {…}
//!  products-next ─▶ products-v2           products-previous ─▶ products-v1   _meta: filled up to {…}
//! ```
//!
//! * Up to which offsets an index was filled stands in the index itself, so that filling goes on where it stopped, by
//!   whatever process, and cannot be believed of another index.
//! * **The rule at the seam.** The group remembers which index everything below an offset went to. A worker that finds
//!   another one in its place goes on only if that one was filled from the beginning at least up to the offset. So a
//!   document can be missing from it only if its record lies at or above the offset, and that record the worker is
//!   about to write. What another index got beyond the mark is seen as such, and the worker stops rather than serve a
//!   hole.
//! * Which topics an index is filled from stands in it, too ([`source`]): marks are offsets of these.
//! * Nobody but the one who fills writes to an index before it is put in place, each partition in its order. So a
//!   document that was deleted cannot come back, whatever OpenSearch forgets about deletions.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tailwater_sinks_worker::TopicPartition;
use tailwater_sinks_worker::source::{Relation, Source, relation};
use tailwater_topics_contract::{DocumentSpec, PipelineName, SearchSpec, TopicName};

use crate::client::Client;
use crate::error::Error;
use crate::index::{self, Index};
use crate::source;

/// The next offset of each partition: everything below is in the index.
pub type Filled = BTreeMap<TopicPartition, i64>;

/// One partition of [`Filled`], as stored.
#[derive(Serialize, Deserialize)]
struct Mark {
    topic: TopicName,
    partition: i32,
    next: i64,
}

/// Reads `_meta.tailwater.filled`. What cannot be read covers nothing.
pub(crate) fn read(tailwater: &Value) -> Filled {
    let marks: Vec<Mark> = serde_json::from_value(tailwater["filled"].clone()).unwrap_or_default();
    let mark = |Mark { topic, partition, next }| (TopicPartition { topic, partition }, next);
    marks.into_iter().map(mark).collect()
}

fn write(filled: &Filled) -> Value {
    let mark = |(TopicPartition { topic, partition }, next): (&TopicPartition, &i64)| Mark {
        topic: topic.clone(),
        partition: *partition,
        next: *next,
    };
    json!(filled.iter().map(mark).collect::<Vec<_>>())
}

/// An index that is not in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beside {
    /// The index.
    pub index: Index,
    /// The alias through which alone it is written to.
    pub alias: String,
    /// The mapping it was made with.
    pub mapping: Value,
    /// The shape of its documents.
    pub document: DocumentSpec,
}

impl Beside {
    /// Up to where it was filled when that was last noted.
    pub fn filled(&self) -> &Filled {
        &self.index.filled
    }
}

/// The alias of an index that is being filled.
pub fn next_alias(alias: &str) -> String {
    format!("{alias}-next")
}

/// The alias of the index that was in use before.
pub fn previous_alias(alias: &str) -> String {
    format!("{alias}-previous")
}

/// The index to fill: the one that was begun, or a new one of the next number. Its mapping is that of `spec`, and it is
/// filled from these topics.
///
/// # Errors
/// One was begun with another mapping or from other topics, the mapping is none, or the cluster cannot be asked.
pub async fn begin(
    client: &Client,
    pipeline: &PipelineName,
    spec: &SearchSpec,
    current: &Index,
    sources: &[Source],
) -> Result<Beside, Error> {
    if let Some(mut begun) = beside(client, &next_alias(&spec.alias)).await? {
        let tailwater = meta(client, &begun.index.name).await?.1;
        return match index::difference(&tailwater, pipeline, spec) {
            None => {
                for now in sources {
                    fill_from(client, &begun.alias, &mut begun.index, now).await?;
                }
                Ok(begun)
            }
            Some(difference) => {
                Err(Error::OtherIndex { alias: begun.alias, index: begun.index.name, difference })
            }
        };
    }
    let alias = next_alias(&spec.alias);
    let mut body = index::index_body(pipeline, spec)?;
    body["mappings"]["_meta"]["tailwater"]["sources"] = source::write(sources);
    body["aliases"] = json!({ alias.as_str(): { "is_write_index": true } });
    let mut number = number_of(&current.name, &spec.alias) + 1;
    loop {
        let name = format!("{}-v{number}", spec.alias);
        match client.call(Method::PUT, &[&name], Some(&body)).await? {
            Ok(_) => break,
            // One that was in use once and kept.
            Err(reply) if reply.reason().1.contains("resource_already_exists") => number += 1,
            Err(reply) if reply.status.as_u16() == 400 => {
                let problem = reply.reason().1;
                return Err(Error::Mapping { alias: spec.alias.clone(), problem });
            }
            Err(reply) => return Err(client.unexpected(format!("PUT /{name}"), &reply)),
        }
    }
    beside(client, &alias).await?.ok_or_else(|| missing(client, &alias))
}

/// The index behind an alias of this module, if there is one.
///
/// # Errors
/// When the cluster cannot be asked.
pub async fn beside(client: &Client, alias: &str) -> Result<Option<Beside>, Error> {
    let behind = index::behind_alias(client, alias).await?.unwrap_or_default();
    let Some(name) = index::write_index(&behind, alias) else { return Ok(None) };
    let (uuid, tailwater) = meta(client, &name).await?;
    let declared = tailwater["declared"].as_str().unwrap_or_default();
    let mapping = serde_json::from_str(declared).unwrap_or_default();
    let document = index::document(&tailwater).unwrap_or_default();
    let index = Index::read(name, uuid, &tailwater);
    Ok(Some(Beside { index, alias: alias.to_owned(), mapping, document }))
}

/// Notes in an index up to where it is filled.
///
/// # Errors
/// When the cluster cannot be asked.
pub async fn note(client: &Client, index: &str, filled: &Filled) -> Result<(), Error> {
    change(client, index, |tailwater| tailwater["filled"] = write(filled)).await
}

/// Makes sure that an index may be filled from a topic, and remembers it.
///
/// # Errors
/// It was filled from another topic of that name, or the cluster cannot be asked.
pub async fn fill_from(
    client: &Client,
    alias: &str,
    index: &mut Index,
    now: &Source,
) -> Result<(), Error> {
    match relation(&index.sources, now) {
        Relation::Same => Ok(()),
        Relation::Other(difference) => Err(Error::OtherSource {
            alias: alias.to_owned(),
            index: index.name.clone(),
            difference,
        }),
        Relation::Unknown => {
            let name = index.name.as_str();
            let id = now.id.as_ref().map(ToString::to_string);
            let remember = |tailwater: &mut Value| {
                let mut sources = source::read(tailwater);
                sources.retain(|other| other.topic != now.topic);
                sources.push(now.clone());
                tailwater["sources"] = source::write(&sources);
            };
            change(client, name, remember).await?;
            tracing::info!(
                index = name, topic = %now.topic, id, generation = %now.generation,
                "from now on the index remembers which topic it is filled from"
            );
            index.sources.push(now.clone());
            Ok(())
        }
    }
}

/// Changes an index's `_meta.tailwater`.
async fn change(
    client: &Client,
    index: &str,
    change: impl FnOnce(&mut Value),
) -> Result<(), Error> {
    let mut meta = whole_meta(client, index).await?.1;
    change(&mut meta["tailwater"]);
    // `_meta` is replaced as a whole, the user's own parts of it too.
    let body = json!({ "_meta": meta });
    match client.call(Method::PUT, &[index, "_mapping"], Some(&body)).await? {
        Ok(_) => Ok(()),
        Err(reply) => Err(client.unexpected(format!("PUT /{index}/_mapping"), &reply)),
    }
}

/// Puts an index in place of the one in use, by one request: readers see the one or the other. What the group remembers
/// of the old one up to `filled` is from now on true of the new one.
///
/// `left` is up to where the old one is filled: what the group has committed, which is less than `filled` when records
/// came after its workers had ended. Noted too high, a way back would leave those out.
///
/// # Errors
/// When the cluster cannot be asked. Called again it finishes what was begun.
pub async fn swap(
    client: &Client,
    alias: &str,
    current: &Index,
    to: &Beside,
    filled: &Filled,
    left: &Filled,
) -> Result<(), Error> {
    note(client, &current.name, left).await?;
    note(client, &to.index.name, filled).await?;
    let (next, previous) = (next_alias(alias), previous_alias(alias));
    let mut actions = Vec::new();
    for old in [&next, &previous] {
        let behind = index::behind_alias(client, old).await?.unwrap_or_default();
        for index in behind.as_object().into_iter().flatten().map(|(index, _)| index) {
            actions.push(json!({"remove": {"index": index, "alias": old}}));
        }
    }
    actions.extend([
        json!({"remove": {"index": current.name, "alias": alias}}),
        json!({"add": {"index": current.name, "alias": previous, "is_write_index": true}}),
        json!({"add": {"index": to.index.name, "alias": alias, "is_write_index": true}}),
    ]);
    let body = json!({ "actions": actions });
    match client.call(Method::POST, &["_aliases"], Some(&body)).await? {
        Ok(_) => Ok(()),
        Err(reply) => Err(client.unexpected("POST /_aliases".to_owned(), &reply)),
    }
}

/// Deletes an index that was begun and not put in place; nothing when there is none.
///
/// # Errors
/// When the cluster cannot be asked.
pub async fn abandon(client: &Client, alias: &str) -> Result<Option<Index>, Error> {
    let Some(begun) = beside(client, &next_alias(alias)).await? else { return Ok(None) };
    match client.call(Method::DELETE, &[&begun.index.name], None).await? {
        Ok(_) => Ok(Some(begun.index)),
        Err(reply) => Err(client.unexpected(format!("DELETE /{}", begun.index.name), &reply)),
    }
}

/// Makes everything written so far visible to searches.
///
/// # Errors
/// When the cluster cannot be asked.
pub async fn refresh(client: &Client, index: &str) -> Result<(), Error> {
    match client.call(Method::POST, &[index, "_refresh"], None).await? {
        Ok(_) => Ok(()),
        Err(reply) => Err(client.unexpected(format!("POST /{index}/_refresh"), &reply)),
    }
}

/// An index's uuid and `_meta.tailwater`.
async fn meta(client: &Client, index: &str) -> Result<(String, Value), Error> {
    let (uuid, mut meta) = whole_meta(client, index).await?;
    Ok((uuid, meta["tailwater"].take()))
}

async fn whole_meta(client: &Client, index: &str) -> Result<(String, Value), Error> {
    let mut found = match client.call(Method::GET, &[index], None).await? {
        Ok(mut found) => found[index].take(),
        Err(reply) => return Err(client.unexpected(format!("GET /{index}"), &reply)),
    };
    let uuid = found["settings"]["index"]["uuid"].as_str().unwrap_or_default().to_owned();
    Ok((uuid, found["mappings"]["_meta"].take()))
}

fn missing(client: &Client, alias: &str) -> Error {
    Error::NoIndex {
        address: client.address().to_owned(),
        alias: alias.to_owned(),
        reason: "it vanished as soon as it was made".to_owned(),
    }
}

/// The number at the end of an index's name; 1 when it has none.
fn number_of(index: &str, alias: &str) -> u32 {
    let number = index.strip_prefix(alias).and_then(|rest| rest.strip_prefix("-v"));
    number.and_then(|number| number.parse().ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_back_and_what_is_none_covers_nothing() {
        let at = TopicPartition { topic: "t".parse().unwrap(), partition: 3 };
        let filled: Filled = [(at, 10)].into();
        assert_eq!(read(&json!({ "filled": write(&filled) })), filled);
        for other in [Value::Null, json!({"filled": 7}), json!({"filled": [{"topic": 1}]})] {
            assert_eq!(read(&other), Filled::new());
        }
    }

    #[test]
    fn indices_are_numbered_on() {
        assert_eq!(number_of("products-v7", "products"), 7);
        assert_eq!(number_of("products-v1", "products"), 1);
        assert_eq!(number_of("something", "products"), 1);
    }
}
