//! Every document of an index, page by page, as a search saw it at one moment.

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::client::Client;
use crate::error::Error;

/// Documents of a page.
const PAGE: usize = 2_000;
/// How long the cluster keeps the moment between two pages.
const KEEP: &str = "scroll=5m";

/// One document.
#[derive(Debug, Deserialize)]
pub struct Document {
    /// `_id`.
    #[serde(rename = "_id")]
    pub id: String,
    /// The document, as it was sent.
    #[serde(rename = "_source")]
    pub source: Box<RawValue>,
}

#[derive(Deserialize)]
struct Page {
    #[serde(rename = "_scroll_id")]
    scroll_id: String,
    hits: Hits,
}

#[derive(Deserialize)]
struct Hits {
    hits: Vec<Document>,
}

/// Shows every document to `see`.
///
/// # Errors
/// When the cluster cannot be asked.
pub async fn documents(
    client: &Client,
    index: &str,
    mut see: impl FnMut(Document),
) -> Result<(), Error> {
    let first = json!({ "size": PAGE, "sort": ["_doc"] });
    let mut page: Page = client.page(&[index, "_search"], KEEP, &first).await?;
    while !page.hits.hits.is_empty() {
        page.hits.hits.into_iter().for_each(&mut see);
        let next = json!({ "scroll": "5m", "scroll_id": page.scroll_id });
        page = client.page(&["_search", "scroll"], "", &next).await?;
    }
    let done = json!({ "scroll_id": page.scroll_id });
    // Forgotten by itself after a while, should this fail.
    let _ = client.call(Method::DELETE, &["_search", "scroll"], Some(&done)).await?;
    Ok(())
}

impl Client {
    /// One page, parsed from its text: through a JSON value, documents would lose their digits.
    async fn page(
        &self,
        path: &[&str],
        query: &str,
        body: &serde_json::Value,
    ) -> Result<Page, Error> {
        let reply = self.ask(Method::POST, path, query, Some(body)).await?;
        let name = || format!("POST /{}", path.join("/"));
        if !reply.status.is_success() {
            let refusal = self.refusal(&reply);
            return Err(refusal.unwrap_or_else(|| self.unexpected(name(), &reply)));
        }
        serde_json::from_slice(&reply.body).map_err(|error| Error::Unexpected {
            address: self.address().to_owned(),
            request: name(),
            status: reply.status.as_u16(),
            reason: format!("the answer is no page of documents: {error}"),
        })
    }
}
