//! Buckets and indices, through the crates of the sinks that write them.

use std::collections::{BTreeMap, BTreeSet};

use tailwater_config::{S3Config, SearchConfig};
use tailwater_sinks_archive::Store;
use tailwater_sinks_search::{Client, index};
use tailwater_topics_contract::{PipelineName, SearchSpec};

use crate::world::IndexState;

/// A store or a search cluster failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The S3 store.
    #[error("bucket `{bucket}` could not be {what}")]
    Store {
        /// The bucket.
        bucket: String,
        /// What was wanted.
        what: &'static str,
        /// Why not.
        #[source]
        source: tailwater_sinks_archive::StoreError,
    },
    /// OpenSearch.
    #[error("the index behind `{alias}` could not be {what}")]
    Search {
        /// The alias.
        alias: String,
        /// What was wanted.
        what: &'static str,
        /// Why not.
        #[source]
        source: tailwater_sinks_search::Error,
    },
    /// The address of OpenSearch is none.
    #[error("OpenSearch cannot be used as configured")]
    Client(#[source] tailwater_sinks_search::Error),
}

pub(crate) struct Destinations {
    pipeline: PipelineName,
    s3: Option<S3Config>,
    opensearch: Option<Client>,
}

impl Destinations {
    pub(crate) fn new(
        pipeline: PipelineName,
        s3: Option<S3Config>,
        opensearch: Option<SearchConfig>,
    ) -> Result<Self, Error> {
        let opensearch = opensearch.map(Client::new).transpose().map_err(Error::Client)?;
        Ok(Self { pipeline, s3, opensearch })
    }

    /// Those of the buckets that exist; `None` without a store.
    pub(crate) async fn buckets(
        &self,
        names: &BTreeSet<String>,
    ) -> Result<Option<BTreeSet<String>>, Error> {
        let Some(config) = &self.s3 else { return Ok(None) };
        let mut found = BTreeSet::new();
        for name in names {
            let exists = store(config, name).has_bucket().await;
            if exists.map_err(store_failed(name, "looked for"))? {
                found.insert(name.clone());
            }
        }
        Ok(Some(found))
    }

    pub(crate) async fn create_bucket(&self, name: &str) -> Result<(), Error> {
        let Some(config) = &self.s3 else { return Ok(()) };
        store(config, name).ensure_bucket().await.map_err(store_failed(name, "created"))
    }

    /// What is behind the alias of each search sink; `None` without a cluster.
    pub(crate) async fn indices(
        &self,
        specs: &[&SearchSpec],
    ) -> Result<Option<BTreeMap<String, IndexState>>, Error> {
        let Some(client) = &self.opensearch else { return Ok(None) };
        let mut found = BTreeMap::new();
        for spec in specs {
            let state = match index::inspect(client, &self.pipeline, spec).await {
                Ok(index::State::Absent) => IndexState::Absent,
                Ok(index::State::Ready { .. }) => IndexState::Ready,
                Err(
                    other @ (tailwater_sinks_search::Error::OtherIndex { .. }
                    | tailwater_sinks_search::Error::NoIndex { .. }),
                ) => IndexState::Unusable(other.to_string()),
                Err(source) => return Err(search_failed(&spec.alias, "looked for")(source)),
            };
            found.insert(spec.alias.clone(), state);
        }
        Ok(Some(found))
    }

    pub(crate) async fn create_index(&self, spec: &SearchSpec) -> Result<(), Error> {
        let Some(client) = &self.opensearch else { return Ok(()) };
        let made = index::ensure(client, &self.pipeline, spec).await;
        made.map(|_| ()).map_err(search_failed(&spec.alias, "created"))
    }
}

fn store(config: &S3Config, bucket: &str) -> Store {
    Store::connect(config.clone(), bucket)
}

fn store_failed(
    bucket: &str,
    what: &'static str,
) -> impl FnOnce(tailwater_sinks_archive::StoreError) -> Error {
    let bucket = bucket.to_owned();
    move |source| Error::Store { bucket, what, source }
}

fn search_failed(
    alias: &str,
    what: &'static str,
) -> impl FnOnce(tailwater_sinks_search::Error) -> Error {
    let alias = alias.to_owned();
    move |source| Error::Search { alias, what, source }
}
