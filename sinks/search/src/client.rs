//! One address, one connection pool. Bodies of bulk requests go out gzipped: NDJSON of one table shrinks
//! to a tenth, and the network is what a cluster and its writers share.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use reqwest::{Method, RequestBuilder, StatusCode, Url, redirect};
use serde::Deserialize;
use serde_json::Value;
use tailwater_config::SearchConfig;

use crate::bulk::{Cause, shorten};
use crate::error::Error;
use crate::login::{Login, Ours};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request may take. Also bounds how late a forgotten writer's request can still arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection pool to one cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    address: String,
    login: Login,
}

/// A status and what came with it.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Client {
    /// Checks the address; does not connect.
    ///
    /// # Errors
    /// When the address is not one or carries a password, which logs would show.
    pub fn new(config: SearchConfig) -> Result<Self, Error> {
        let SearchConfig { url, login } = config;
        let shown = || url.split_once('@').map_or(url.clone(), |(_, host)| format!("…@{host}"));
        let bad = |problem: &str| Error::Address { url: shown(), problem: problem.to_owned() };
        let mut base = Url::parse(&url).map_err(|error| bad(&error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return Err(bad("expected http://host:port or https://host:port"));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(bad("user and password have fields of their own"));
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(bad("it must end with the path"));
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(Error::Prepare)?;
        let address = base.as_str().trim_end_matches('/').to_owned();
        Ok(Self { http, base, address, login: Login::new(login) })
    }

    /// Scheme, host and port, for messages.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends a bulk body to an alias and gives the reply as it is.
    pub(crate) async fn bulk(&self, alias: &str, body: Vec<u8>) -> Result<Reply, Error> {
        let url = self.url(&[alias, "_bulk"], "require_alias=true", crate::bulk::REPLY_FILTER);
        let packed = tokio::task::spawn_blocking(move || gzip(&body))
            .await
            .expect("compression does not panic and is not cancelled");
        let request = self
            .http
            .post(url)
            .header(CONTENT_TYPE, "application/x-ndjson")
            .header(CONTENT_ENCODING, "gzip")
            .body(packed);
        self.send(request, format!("POST /{alias}/_bulk")).await
    }

    /// Sends a small JSON request. A 404 is an answer; other failures are errors.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&Value>,
    ) -> Result<Result<Value, Reply>, Error> {
        let name = format!("{method} /{}", path.join("/"));
        let reply = self.ask(method, path, "", body).await?;
        if !reply.status.is_success() {
            if let Some(error) = self.refusal(&reply) {
                return Err(error);
            }
            return Ok(Err(reply));
        }
        serde_json::from_slice(&reply.body).map(Ok).map_err(|error| Error::Unexpected {
            address: self.address.clone(),
            request: name,
            status: reply.status.as_u16(),
            reason: format!("the answer is not JSON: {error}"),
        })
    }

    /// Sends a small JSON request and gives the reply as it is.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &[&str],
        query: &str,
        body: Option<&Value>,
    ) -> Result<Reply, Error> {
        let mut url = self.url(path, "", "");
        if !query.is_empty() {
            url.set_query(Some(query));
        }
        let name = format!("{method} /{}", path.join("/"));
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        self.send(request, name).await
    }

    async fn send(&self, request: RequestBuilder, name: String) -> Result<Reply, Error> {
        let Ours { request, keys } = self.login.ours(request).await?;
        let exchange = async {
            let response = self.http.execute(request).await?;
            Ok(Reply { status: response.status(), body: response.bytes().await? })
        };
        let reply = exchange.await.map_err(|source: reqwest::Error| Error::Unreachable {
            address: self.address.clone(),
            request: name,
            source: source.without_url(),
        })?;
        if !matches!(reply.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Ok(reply);
        }
        let reason = reply.reason().1;
        let objection = self.login.objection(keys.as_ref(), &self.address, reply.status, &reason);
        objection.await.map_or(Ok(reply), Err)
    }

    /// The error that a whole reply stands for whatever was asked: no rights, or not now.
    pub(crate) fn refusal(&self, reply: &Reply) -> Option<Error> {
        let address = self.address.clone();
        let (cause, reason) = reply.reason();
        match reply.status.as_u16() {
            _ if cause.is_some_and(|cause| cause.is_block()) => {
                Some(Error::Busy { address, reason })
            }
            status @ (401 | 403) => Some(self.denied(status, reason)),
            408 | 429 | 500..=599 => Some(Error::Busy { address, reason }),
            _ => None,
        }
    }

    /// We may not do this.
    pub(crate) fn denied(&self, status: u16, reason: String) -> Error {
        let (address, advice) = (self.address.clone(), self.login.advice());
        Error::Denied { address, status, reason, advice }
    }

    /// A reply that nothing accounts for.
    pub(crate) fn unexpected(&self, request: String, reply: &Reply) -> Error {
        Error::Unexpected {
            address: self.address.clone(),
            request,
            status: reply.status.as_u16(),
            reason: reply.reason().1,
        }
    }

    fn url(&self, path: &[&str], flag: &str, filter: &str) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !flag.is_empty() {
            url.set_query(Some(&format!("{flag}&filter_path={filter}")));
        }
        url
    }
}

impl Reply {
    /// What the server said, parsed if it is its usual form, and as text.
    pub(crate) fn reason(&self) -> (Option<Cause>, String) {
        #[derive(Deserialize)]
        struct Wrapped {
            error: Cause,
        }
        /// What stands in front of a service of AWS speaks so.
        #[derive(Deserialize)]
        struct FrontDoor {
            #[serde(alias = "Message")]
            message: String,
        }
        if let Ok(Wrapped { error }) = serde_json::from_slice(&self.body) {
            let text = error.text();
            return (Some(error), text);
        }
        if let Ok(FrontDoor { message }) = serde_json::from_slice(&self.body) {
            // Below the first line it repeats the request, with the session token in it.
            let line = message.lines().next().unwrap_or_default();
            return (None, shorten(line.to_owned()));
        }
        let text = shorten(String::from_utf8_lossy(&self.body).trim().to_owned());
        let text = if text.is_empty() { format!("status {}", self.status) } else { text };
        (None, text)
    }
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body).expect("memory takes every write");
    encoder.finish().expect("memory takes every write")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(url: &str) -> Result<Client, Error> {
        Client::new(SearchConfig::open(url))
    }

    #[test]
    fn addresses_are_checked_and_never_show_a_password() {
        for url in ["", "localhost:9200", "ftp://x", "http://x/?a=b"] {
            assert!(matches!(client(url), Err(Error::Address { .. })), "{url}");
        }
        let error = client("http://user:hunter2@search:9200").unwrap_err().to_string();
        assert!(!error.contains("hunter2") && error.contains("search:9200"), "{error}");
        assert_eq!(client("http://127.0.0.1:9200").unwrap().address(), "http://127.0.0.1:9200");
    }

    #[test]
    fn names_in_paths_are_escaped() {
        let client = client("http://h:1/base").unwrap();
        let url = client.url(&["a/b?c", "_bulk"], "", "");
        assert_eq!(url.as_str(), "http://h:1/base/a%2Fb%3Fc/_bulk");
    }
}
