//! Between a client and a store: passes bytes on and, once, when told, cuts the connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Bytes of a connection's requests after which a body counts as large.
const LARGE: usize = 1 << 20;

pub(crate) struct Proxy {
    pub(crate) endpoint: String,
    faults: Arc<Faults>,
}

/// Where the next connection is cut.
#[derive(Default)]
struct Faults {
    answer: AtomicBool,
    body: AtomicBool,
    completion: AtomicBool,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// After the server has answered a PUT, before the client hears it.
    Answer,
    /// In the middle of a large body.
    Body,
    /// After the server has completed an upload in parts, before the client hears it.
    Completion,
}

impl Proxy {
    pub(crate) async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let faults = Arc::<Faults>::default();
        let target = target.trim_start_matches("http://").to_owned();
        let due = faults.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, target.clone(), due.clone()));
            }
        });
        Self { endpoint, faults }
    }

    pub(crate) fn cut_next(&self, fault: Fault) {
        self.faults.of(fault).store(true, Ordering::SeqCst);
    }

    pub(crate) fn has_cut(&self, fault: Fault) -> bool {
        !self.faults.of(fault).load(Ordering::SeqCst)
    }
}

impl Faults {
    fn of(&self, fault: Fault) -> &AtomicBool {
        match fault {
            Fault::Answer => &self.answer,
            Fault::Body => &self.body,
            Fault::Completion => &self.completion,
        }
    }

    /// Whether to cut here; the next one passes again.
    fn take(&self, fault: Fault) -> bool {
        self.of(fault).swap(false, Ordering::SeqCst)
    }
}

async fn pass(mut client: TcpStream, target: String, faults: Arc<Faults>) {
    let mut server = TcpStream::connect(target).await.expect("the server runs");
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    // What the request asks that is on its way; connections are used again.
    let (mut is_put, mut completes, mut sent) = (false, false, 0);
    loop {
        tokio::select! {
            read = client.read(&mut up) => match read {
                Ok(count @ 1..) => {
                    if begins_request(&up[..count]) {
                        is_put = up.starts_with(b"PUT /");
                        completes = is_completion(&up[..count]);
                    }
                    sent += count;
                    if sent > LARGE && faults.take(Fault::Body) { return; }
                    if server.write_all(&up[..count]).await.is_err() { return; }
                }
                _ => return,
            },
            read = server.read(&mut down) => match read {
                Ok(count @ 1..) => {
                    let is_answer = down[..count].starts_with(b"HTTP/1.1 200");
                    if is_put && is_answer && faults.take(Fault::Answer) { return; }
                    if completes && is_answer && faults.take(Fault::Completion) { return; }
                    if client.write_all(&down[..count]).await.is_err() { return; }
                }
                _ => return,
            },
        }
    }
}

fn begins_request(bytes: &[u8]) -> bool {
    ["GET /", "HEAD /", "PUT /", "POST /", "DELETE /"]
        .iter()
        .any(|verb| bytes.starts_with(verb.as_bytes()))
}

/// Whether a request completes an upload: only that is posted to an upload.
fn is_completion(request: &[u8]) -> bool {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    line.starts_with(b"POST /") && line.windows(9).any(|part| part == b"uploadId=")
}
