//! What stands in OpenSearch.

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::row::{Column, Digest, from_json};

const PAGE: usize = 5_000;

#[derive(Deserialize)]
struct Page {
    #[serde(rename = "_scroll_id")]
    scroll_id: String,
    hits: Hits,
}

#[derive(Deserialize)]
struct Hits {
    hits: Vec<Hit>,
}

#[derive(Deserialize)]
struct Hit {
    #[serde(rename = "_source")]
    source: Box<RawValue>,
}

/// How many documents an alias shows, after a refresh.
pub async fn count(http: &reqwest::Client, url: &str, alias: &str) -> anyhow::Result<u64> {
    #[derive(Deserialize)]
    struct Count {
        count: u64,
    }
    http.post(format!("{url}/{alias}/_refresh")).send().await?.error_for_status()?;
    let count: Count =
        http.get(format!("{url}/{alias}/_count")).send().await?.error_for_status()?.json().await?;
    Ok(count.count)
}

/// A digest of every document an alias shows.
pub async fn documents(
    http: &reqwest::Client,
    url: &str,
    alias: &str,
    columns: &[Column],
) -> anyhow::Result<Digest> {
    http.post(format!("{url}/{alias}/_refresh")).send().await?.error_for_status()?;
    let body = serde_json::json!({ "size": PAGE, "sort": ["_doc"] });
    let first = http.post(format!("{url}/{alias}/_search?scroll=1m")).json(&body);
    let mut page: Page = first.send().await?.error_for_status()?.json().await?;
    let mut digest = Digest::default();
    while !page.hits.hits.is_empty() {
        for hit in &page.hits.hits {
            let row = from_json(columns, &hit.source, &[], None)
                .with_context(|| format!("a document of `{alias}`"))?;
            digest.add_row(&row);
        }
        let body = serde_json::json!({ "scroll": "1m", "scroll_id": page.scroll_id });
        let next = http.post(format!("{url}/_search/scroll")).json(&body);
        page = next.send().await?.error_for_status()?.json().await?;
    }
    let body = serde_json::json!({ "scroll_id": page.scroll_id });
    let closed = http.delete(format!("{url}/_search/scroll")).json(&body).send().await?;
    ensure!(closed.status().is_success(), "the scroll could not be closed: {}", closed.status());
    Ok(digest)
}
