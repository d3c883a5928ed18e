//! A server that keeps versions as OpenSearch does, believes nothing a client sends, and can be told to
//! misbehave, one fault per bulk request.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What happens to one bulk request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    None,
    /// Items whose number in the request divides by this are answered 429; 1 means all.
    BusyItems(usize),
    /// All items are answered as at the flood stage.
    Flood,
    /// The request as a whole gets this status.
    Status(u16),
    /// Everything is done, and the answer is lost.
    LoseReply,
    /// The answer is that to another request.
    Garbage,
    /// Everything is done, after a while.
    Slow,
}

#[derive(Default)]
pub(crate) struct Inner {
    /// By id: version, and the document unless deleted.
    documents: BTreeMap<String, (u64, Option<Value>)>,
    /// By id: which shard its operations went to.
    routings: BTreeMap<String, Option<String>>,
    index: Option<(String, Value)>,
    /// How many were made.
    made: usize,
    pub(crate) script: VecDeque<Fault>,
    /// Faults met.
    pub(crate) met: usize,
    /// Ids of every bulk request, in order.
    pub(crate) requests: Vec<Vec<String>>,
    /// Requests with more operations than this are answered 413.
    pub(crate) operations_max: Option<usize>,
    /// A request with such an id is answered 400 as a whole.
    pub(crate) poisonous: Option<String>,
    /// A document with this name is answered 400.
    pub(crate) refused_name: Option<String>,
}

#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) url: String,
    inner: Arc<Mutex<Inner>>,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let fake = Self { url, inner: Arc::default() };
        let routes = Router::new()
            .route("/_alias/{alias}", get(alias))
            .route("/{index}", get(describe).put(create))
            .route("/{index}/_mapping", put(mapping))
            .route("/{alias}/_bulk", post(bulk))
            .layer(DefaultBodyLimit::disable())
            .with_state(fake.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        fake
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub(crate) fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().script = faults.into_iter().collect();
    }

    pub(crate) fn drop_index(&self) {
        self.lock().index = None;
    }

    /// `_meta` of the index.
    pub(crate) fn meta(&self) -> Value {
        let inner = self.lock();
        inner.index.as_ref().map_or(Value::Null, |(_, body)| body["mappings"]["_meta"].clone())
    }

    pub(crate) fn change_meta(&self, change: impl FnOnce(&mut Value)) {
        if let Some((_, body)) = &mut self.lock().index {
            change(&mut body["mappings"]["_meta"]);
        }
    }

    /// Names of the living documents by id.
    pub(crate) fn names(&self) -> BTreeMap<String, String> {
        let inner = self.lock();
        let living = inner.documents.iter().filter_map(|(id, (_, document))| {
            Some((id.clone(), document.as_ref()?["name"].as_str()?.to_owned()))
        });
        living.collect()
    }
}

fn error(status: u16, kind: &str, reason: &str) -> Response {
    let body = json!({"error": {"type": kind, "reason": reason}, "status": status});
    (StatusCode::from_u16(status).unwrap(), body.to_string()).into_response()
}

async fn alias(State(fake): State<Fake>, Path(alias): Path<String>) -> Response {
    match &fake.lock().index {
        Some((index, body)) if body["aliases"][&alias].is_object() => {
            json!({index: {"aliases": body["aliases"]}}).to_string().into_response()
        }
        _ => (StatusCode::NOT_FOUND, json!({"error": "alias missing"}).to_string()).into_response(),
    }
}

async fn describe(State(fake): State<Fake>, Path(name): Path<String>) -> Response {
    let inner = fake.lock();
    match &inner.index {
        Some((index, body)) if *index == name => {
            let settings = json!({"index": {"uuid": format!("uuid-{}", inner.made)}});
            let described = json!({"mappings": body["mappings"], "settings": settings});
            json!({index: described}).to_string().into_response()
        }
        _ => error(404, "index_not_found_exception", "no such index"),
    }
}

async fn create(State(fake): State<Fake>, Path(name): Path<String>, body: String) -> Response {
    let mut inner = fake.lock();
    if inner.index.is_some() {
        return error(400, "resource_already_exists_exception", "already exists");
    }
    inner.made += 1;
    inner.index = Some((name, serde_json::from_str(&body).unwrap()));
    json!({"acknowledged": true}).to_string().into_response()
}

/// Replaces `_meta` as a whole, as OpenSearch does.
async fn mapping(State(fake): State<Fake>, Path(name): Path<String>, body: String) -> Response {
    let body: Value = serde_json::from_str(&body).unwrap();
    let changed: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(changed, ["_meta"], "nothing else of a mapping is changed");
    match &mut fake.lock().index {
        Some((index, found)) if *index == name => {
            found["mappings"]["_meta"] = body["_meta"].clone();
            json!({"acknowledged": true}).to_string().into_response()
        }
        _ => error(404, "index_not_found_exception", "no such index"),
    }
}

struct Operation {
    id: String,
    routing: Option<String>,
    version: u64,
    document: Option<Value>,
}

/// Reads a bulk body as strictly as it can be read.
fn parse(headers: &HeaderMap, query: &BTreeMap<String, String>, body: &Bytes) -> Vec<Operation> {
    assert_eq!(headers["content-type"], "application/x-ndjson");
    assert_eq!(headers["content-encoding"], "gzip");
    assert_eq!(query["require_alias"], "true");
    let mut text = String::new();
    GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
    assert!(text.ends_with('\n') && !text.contains('\r'));
    let mut lines = text.trim_end_matches('\n').split('\n');
    let mut operations = Vec::new();
    while let Some(line) = lines.next() {
        let action: Value = serde_json::from_str(line).unwrap();
        let (name, fields) = action.as_object().unwrap().iter().next().unwrap();
        assert_eq!(fields["version_type"], "external_gte");
        let routing = fields.get("routing").map(|routing| routing.as_str().unwrap().to_owned());
        assert_eq!(fields.as_object().unwrap().len(), 3 + usize::from(routing.is_some()));
        let document = match name.as_str() {
            "index" => Some(serde_json::from_str(lines.next().unwrap()).unwrap()),
            "delete" => None,
            other => panic!("`{other}` carries no version"),
        };
        let id = fields["_id"].as_str().unwrap().to_owned();
        assert!((1..=512).contains(&id.len()));
        let version = fields["version"].as_u64().unwrap();
        operations.push(Operation { id, routing, version, document });
    }
    let ids: std::collections::BTreeSet<_> = operations.iter().map(|one| &one.id).collect();
    assert_eq!(ids.len(), operations.len(), "an id is in a request twice");
    operations
}

async fn bulk(
    State(fake): State<Fake>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let operations = parse(&headers, &query, &body);
    let fault = {
        let mut inner = fake.lock();
        let fault = inner.script.pop_front();
        inner.met += usize::from(fault.is_some());
        fault.unwrap_or(Fault::None)
    };
    if let Fault::Slow = fault {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let mut inner = fake.lock();
    inner.requests.push(operations.iter().map(|one| one.id.clone()).collect());
    if let Fault::Status(status) = fault {
        return error(status, "some_exception", "as told");
    }
    if inner.operations_max.is_some_and(|most| operations.len() > most) {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    }
    if operations.iter().any(|one| Some(&one.id) == inner.poisonous.as_ref()) {
        return error(400, "action_request_validation_exception", "Validation Failed");
    }
    let mut items = Vec::new();
    for (place, operation) in operations.iter().enumerate() {
        items.push(apply(&mut inner, operation, place, &fault));
    }
    drop(inner);
    match fault {
        Fault::LoseReply => {
            let lost = futures::stream::iter([
                Ok(Bytes::from_static(b"{")),
                Err(std::io::Error::other("connection lost")),
            ]);
            Body::from_stream(lost).into_response()
        }
        Fault::Garbage => {
            json!({"items": [{"index": {"status": 200}}]}).to_string().into_response()
        }
        _ => json!({"errors": true, "items": items}).to_string().into_response(),
    }
}

fn apply(inner: &mut Inner, operation: &Operation, place: usize, fault: &Fault) -> Value {
    let action = if operation.document.is_some() { "index" } else { "delete" };
    let failed = |status: u16, kind: &str| json!({action: {"status": status, "error": {"type": kind, "reason": "as told"}}});
    if inner.index.is_none() {
        return failed(404, "index_not_found_exception");
    }
    match fault {
        Fault::BusyItems(every) if place.is_multiple_of(*every) => {
            return failed(429, "rejected_execution_exception");
        }
        Fault::Flood => return failed(429, "cluster_block_exception"),
        _ => {}
    }
    let name = operation.document.as_ref().and_then(|document| document["name"].as_str());
    if name.is_some() && name == inner.refused_name.as_deref() {
        return failed(400, "mapper_parsing_exception");
    }
    let routing = inner.routings.entry(operation.id.clone());
    assert_eq!(*routing.or_insert(operation.routing.clone()), operation.routing, "on two shards");
    let current = inner.documents.get(&operation.id);
    if current.is_some_and(|(version, _)| *version > operation.version) {
        return failed(409, "version_conflict_engine_exception");
    }
    let existed = current.is_some_and(|(_, document)| document.is_some());
    let new = (operation.version, operation.document.clone());
    inner.documents.insert(operation.id.clone(), new);
    let status = match (action, existed) {
        ("delete", false) => 404,
        ("index", false) => 201,
        _ => 200,
    };
    json!({action: {"status": status}})
}
