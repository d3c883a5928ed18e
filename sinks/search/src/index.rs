//! ```text
//!  alias products ──is_write_index──▶ products-v1   _meta.tailwater: pipeline, alias, declared, sources
//! ```
//! * Index and alias are made by one request, so there is never one without the other.
//! * `_meta` keeps the declaration the index was made from. Comparing with it is exact, where comparing
//!   mappings is not: the server rewrites them.
//! * `auto_expand_replicas` gives a copy as soon as there is a second node and keeps a single node green.

use reqwest::Method;
use serde_json::{Map, Value, json};
use tailwater_sinks_worker::source::Source;
use tailwater_topics_contract::{DocumentSpec, PipelineName, SearchSpec};

use crate::client::Client;
use crate::error::Error;
use crate::source;
use crate::succession::{self, Filled};

/// How long the index remembers the version of a deleted document. It must outlast every request of a
/// writer that lost its partition without knowing; the server's own minute does not.
const GC_DELETES: &str = "1h";

/// What is behind the alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing yet.
    Absent,
    /// The declared index.
    Ready(Index),
}

/// An index, and which one of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Its name.
    pub name: String,
    /// Given by the cluster when it was made; another one after it was deleted and made again.
    pub uuid: String,
    /// Up to where it was filled before it was put in place.
    pub(crate) filled: Filled,
    /// The topics it was filled from, as it remembers them.
    pub(crate) sources: Vec<Source>,
}

impl Index {
    /// With what its `_meta.tailwater` says.
    pub(crate) fn read(name: String, uuid: String, tailwater: &Value) -> Self {
        let (filled, sources) = (succession::read(tailwater), source::read(tailwater));
        Self { name, uuid, filled, sources }
    }

    /// The topics it was filled from, as it remembers them.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }
}

impl std::fmt::Display for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.name, self.uuid)
    }
}

/// The index that is made for an alias.
pub fn first_index(spec: &SearchSpec) -> String {
    format!("{}-v1", spec.alias)
}

/// Looks at what is behind the alias; changes nothing.
///
/// # Errors
/// When something else than the declared index is there, or the cluster cannot be asked.
pub async fn inspect(
    client: &Client,
    pipeline: &PipelineName,
    spec: &SearchSpec,
) -> Result<State, Error> {
    let alias = spec.alias.as_str();
    let no_index = |reason: String| Error::NoIndex {
        address: client.address().to_owned(),
        alias: alias.to_owned(),
        reason,
    };
    let mut behind = behind_alias(client, alias).await?;
    if behind.is_none() {
        let Some(name) = obstacle(client, spec).await? else { return Ok(State::Absent) };
        // Another worker may have made both since we looked.
        behind = behind_alias(client, alias).await?;
        if behind.is_none() {
            return Err(no_index(format!("`{name}` is an index and the alias is missing")));
        }
    }
    let behind = behind.unwrap_or_default();
    let index = write_index(&behind, alias)
        .ok_or_else(|| no_index("it names several indices and no write index".to_owned()))?;
    let found = match client.call(Method::GET, &[&index], None).await? {
        Ok(mut found) => found[&index].take(),
        Err(reply) => return Err(client.unexpected(format!("GET /{index}"), &reply)),
    };
    match difference(&found["mappings"]["_meta"]["tailwater"], pipeline, spec) {
        None => {
            let uuid = found["settings"]["index"]["uuid"].as_str().unwrap_or_default().to_owned();
            let tailwater = &found["mappings"]["_meta"]["tailwater"];
            Ok(State::Ready(Index::read(index, uuid, tailwater)))
        }
        Some(difference) => Err(Error::OtherIndex { alias: alias.to_owned(), index, difference }),
    }
}

/// Makes index and alias unless they are there; answers the index. May be called by many at once.
///
/// # Errors
/// As [`inspect`], and when the declared mapping is not one.
pub async fn ensure(
    client: &Client,
    pipeline: &PipelineName,
    spec: &SearchSpec,
) -> Result<Index, Error> {
    if let State::Ready(index) = inspect(client, pipeline, spec).await? {
        return Ok(index);
    }
    let name = first_index(spec);
    let body = index_body(pipeline, spec)?;
    match client.call(Method::PUT, &[&name], Some(&body)).await? {
        Ok(_) => tracing::info!(index = name, alias = spec.alias, "made index `{name}`"),
        // Another worker was faster.
        Err(reply) if reply.reason().1.contains("resource_already_exists") => {}
        Err(reply) if reply.status.as_u16() == 400 => {
            let problem = reply.reason().1;
            return Err(Error::Mapping { alias: spec.alias.clone(), problem });
        }
        Err(reply) => return Err(client.unexpected(format!("PUT /{name}"), &reply)),
    }
    match inspect(client, pipeline, spec).await? {
        State::Ready(index) => Ok(index),
        State::Absent => Err(Error::NoIndex {
            address: client.address().to_owned(),
            alias: spec.alias.clone(),
            reason: format!("`{name}` vanished as soon as it was made"),
        }),
    }
}

/// Whether the alias exists. Asked before a request of deletes alone, which would make an index.
pub(crate) async fn alias_exists(client: &Client, alias: &str) -> Result<bool, Error> {
    Ok(behind_alias(client, alias).await?.is_some())
}

/// The indices behind an alias; nothing when there is no such alias.
pub(crate) async fn behind_alias(client: &Client, alias: &str) -> Result<Option<Value>, Error> {
    match client.call(Method::GET, &["_alias", alias], None).await? {
        Ok(behind) => Ok(Some(behind)),
        Err(reply) if reply.status.as_u16() == 404 => Ok(None),
        Err(reply) => Err(client.unexpected(format!("GET /_alias/{alias}"), &reply)),
    }
}

/// An index that has the name of the alias or of the index to be made.
async fn obstacle(client: &Client, spec: &SearchSpec) -> Result<Option<String>, Error> {
    for name in [spec.alias.clone(), first_index(spec)] {
        match client.call(Method::GET, &[&name], None).await? {
            Ok(_) => return Ok(Some(name)),
            Err(reply) if reply.status.as_u16() == 404 => {}
            Err(reply) => return Err(client.unexpected(format!("GET /{name}"), &reply)),
        }
    }
    Ok(None)
}

/// The index that writes through the alias reach, from the reply to `GET /_alias/<alias>`.
pub(crate) fn write_index(behind: &Value, alias: &str) -> Option<String> {
    let behind = behind.as_object()?;
    let flag = |entry: &Value| entry["aliases"][alias]["is_write_index"].as_bool();
    let marked = behind.iter().find(|(_, entry)| flag(entry) == Some(true));
    let only = behind.iter().next().filter(|(_, entry)| behind.len() == 1 && flag(entry).is_none());
    marked.or(only).map(|(index, _)| index.clone())
}

/// In what the found `_meta` is not ours.
pub(crate) fn difference(
    found: &Value,
    pipeline: &PipelineName,
    spec: &SearchSpec,
) -> Option<String> {
    // Compared as values, since texts differ by the order of their fields.
    let declared = found["declared"].as_str().and_then(|text| serde_json::from_str(text).ok());
    if found.is_null() {
        Some("it was not made by Tailwater".to_owned())
    } else if found["pipeline"] != pipeline.as_str() {
        Some(format!("it belongs to pipeline {}", found["pipeline"]))
    } else if found["alias"] != spec.alias.as_str() {
        Some(format!("it was made for alias {}", found["alias"]))
    } else if declared.as_ref() != Some(&spec.mapping) {
        Some("its mapping was declared otherwise when it was made".to_owned())
    } else if document(found).as_ref() != Some(&spec.document) {
        Some("the shape of its documents was declared otherwise when it was made".to_owned())
    } else {
        None
    }
}

/// The shape of documents that an index was made for; the default one if it says nothing, nothing if that cannot be read.
pub(crate) fn document(tailwater: &Value) -> Option<DocumentSpec> {
    match tailwater["document"].as_str() {
        None => Some(DocumentSpec::default()),
        Some(text) => serde_json::from_str(text).ok(),
    }
}

/// The body that makes index and alias.
pub(crate) fn index_body(pipeline: &PipelineName, spec: &SearchSpec) -> Result<Value, Error> {
    let bad =
        |problem: &str| Error::Mapping { alias: spec.alias.clone(), problem: problem.to_owned() };
    let declared = spec.mapping.as_object().ok_or_else(|| bad("it is not a JSON object"))?;
    if let Some(key) = declared.keys().find(|key| !matches!(key.as_str(), "mappings" | "settings"))
    {
        return Err(bad(&format!("`{key}` is neither `mappings` nor `settings`")));
    }
    let empty = Value::Object(Map::new());
    let mappings = declared.get("mappings").unwrap_or(&empty);
    let mut mappings =
        mappings.as_object().ok_or_else(|| bad("`mappings` is not an object"))?.clone();
    let meta = mappings.entry("_meta").or_insert_with(|| Value::Object(Map::new()));
    let meta = meta.as_object_mut().ok_or_else(|| bad("`_meta` is not an object"))?;
    let mut tailwater = json!({
        "pipeline": pipeline.as_str(),
        "alias": spec.alias,
        // As text: stored as an object it would be searched for mappings.
        "declared": spec.mapping.to_string(),
    });
    if !spec.document.is_default() {
        tailwater["document"] = json!(json!(spec.document).to_string());
    }
    meta.insert("tailwater".to_owned(), tailwater);

    let mut settings = Map::new();
    flatten("", declared.get("settings").unwrap_or(&empty), &mut settings);
    let declares = |name: &str| settings.contains_key(name);
    let replicas = declares("index.number_of_replicas") || declares("index.auto_expand_replicas");
    let deletes = declares("index.gc_deletes");
    if !replicas {
        settings.insert("index.auto_expand_replicas".to_owned(), json!("0-1"));
    }
    if !deletes {
        settings.insert("index.gc_deletes".to_owned(), json!(GC_DELETES));
    }
    Ok(json!({
        "settings": settings,
        "mappings": mappings,
        "aliases": { spec.alias.as_str(): { "is_write_index": true } },
    }))
}

/// Settings come nested, dotted, with or without `index.`; they leave dotted and with it.
fn flatten(prefix: &str, value: &Value, into: &mut Map<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name =
                    if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&name, value, into);
            }
        }
        value => {
            let name = if prefix.starts_with("index.") {
                prefix.to_owned()
            } else {
                format!("index.{prefix}")
            };
            into.insert(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use tailwater_topics_contract::BulkSpec;

    use super::*;

    fn spec(mapping: Value) -> SearchSpec {
        let bulk = BulkSpec { bytes: 1, operations: 1, age_ms: 1 };
        let document = DocumentSpec::default();
        SearchSpec { alias: "products".into(), mapping, document, bulk }
    }

    fn pipeline() -> PipelineName {
        "market".parse().unwrap()
    }

    #[test]
    fn the_body_carries_alias_mark_and_safe_defaults() {
        let spec = spec(json!({"mappings": {"dynamic": "strict", "_meta": {"mine": 1}}}));
        let body = index_body(&pipeline(), &spec).unwrap();
        assert_eq!(body["aliases"]["products"]["is_write_index"], true);
        assert_eq!(body["mappings"]["dynamic"], "strict");
        assert_eq!(body["mappings"]["_meta"]["mine"], 1);
        assert_eq!(body["settings"]["index.gc_deletes"], "1h");
        assert_eq!(body["settings"]["index.auto_expand_replicas"], "0-1");
        let found = &body["mappings"]["_meta"]["tailwater"];
        assert_eq!(difference(found, &pipeline(), &spec), None);
        assert!(difference(found, &"other".parse().unwrap(), &spec).is_some());
        assert!(difference(&Value::Null, &pipeline(), &spec).is_some());
        let changed = self::spec(json!({"mappings": {"dynamic": false}}));
        assert!(difference(found, &pipeline(), &changed).is_some());
        let document = DocumentSpec { routing: Some("id".into()), ..DocumentSpec::default() };
        let shaped = SearchSpec { document, ..spec.clone() };
        assert!(difference(found, &pipeline(), &shaped).is_some_and(|d| d.contains("shape")));
        let body = index_body(&pipeline(), &shaped).unwrap();
        let found = &body["mappings"]["_meta"]["tailwater"];
        assert_eq!(difference(found, &pipeline(), &shaped), None);
        assert!(difference(found, &pipeline(), &spec).is_some());
    }

    #[test]
    fn declared_settings_win_in_whatever_form() {
        for settings in [
            json!({"number_of_replicas": 2, "gc_deletes": "2h"}),
            json!({"index": {"number_of_replicas": 2, "gc_deletes": "2h"}}),
            json!({"index.number_of_replicas": 2, "index.gc_deletes": "2h"}),
        ] {
            let body = index_body(&pipeline(), &spec(json!({"settings": settings}))).unwrap();
            let expected = json!({"index.number_of_replicas": 2, "index.gc_deletes": "2h"});
            assert_eq!(body["settings"], expected);
        }
    }

    #[test]
    fn mappings_that_are_none_are_named() {
        for mapping in [
            json!([]),
            json!({"properties": {}}),
            json!({"mappings": 1}),
            json!({"mappings": {"_meta": 1}}),
        ] {
            assert!(index_body(&pipeline(), &spec(mapping)).is_err());
        }
    }

    #[test]
    fn the_write_index_is_the_marked_or_the_only_one() {
        let entry = |flag: Value| json!({"aliases": {"p": {"is_write_index": flag}}});
        let plain = || json!({"aliases": {"p": {}}});
        for (behind, expected) in [
            (json!({"p-v1": plain()}), Some("p-v1")),
            (json!({"p-v1": entry(json!(false))}), None),
            (json!({"p-v1": plain(), "p-v2": entry(json!(true))}), Some("p-v2")),
            (json!({"p-v1": plain(), "p-v2": plain()}), None),
            (json!({}), None),
        ] {
            assert_eq!(write_index(&behind, "p").as_deref(), expected, "{behind}");
        }
    }
}
