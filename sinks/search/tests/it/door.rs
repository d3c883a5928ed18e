//! In front of a real server: lets in whom it knows, and passes their requests on as they came.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::live::server;

/// What the door says of a request that it does not let in: a status and a body of JSON.
pub(crate) type Refusal = (u16, String);

pub(crate) trait Guard: Send + Sync + 'static {
    fn look(&self, request: &Parts, body: &Bytes) -> Result<(), Refusal>;
}

pub(crate) struct Door<G> {
    pub(crate) url: String,
    guard: Arc<Guarded<G>>,
}

struct Guarded<G> {
    guard: G,
    http: reqwest::Client,
    passed: AtomicUsize,
    refused: AtomicUsize,
}

impl<G: Guard> Door<G> {
    pub(crate) async fn open(guard: G) -> Self {
        let (passed, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let guard = Arc::new(Guarded { guard, http: reqwest::Client::new(), passed, refused });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().fallback(pass::<G>).with_state(Arc::clone(&guard));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, guard }
    }

    pub(crate) fn guard(&self) -> &G {
        &self.guard.guard
    }

    /// Requests that were let in, and those that were not.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let Guarded { passed, refused, .. } = &*self.guard;
        (passed.load(Ordering::SeqCst), refused.load(Ordering::SeqCst))
    }
}

async fn pass<G: Guard>(State(door): State<Arc<Guarded<G>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    if let Err((status, said)) = door.guard.look(&parts, &body) {
        door.refused.fetch_add(1, Ordering::SeqCst);
        let json = [(header::CONTENT_TYPE, "application/json")];
        return (StatusCode::from_u16(status).unwrap(), json, said).into_response();
    }
    door.passed.fetch_add(1, Ordering::SeqCst);
    let url = format!("{}{}", server(), parts.uri.path_and_query().unwrap());
    let mut onward = door.http.request(parts.method, url).body(body);
    for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING] {
        if let Some(value) = parts.headers.get(&name) {
            onward = onward.header(name, value);
        }
    }
    let answer = onward.send().await.unwrap();
    let status = answer.status();
    (status, Body::from(answer.bytes().await.unwrap())).into_response()
}
