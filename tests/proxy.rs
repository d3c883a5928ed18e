//! A proxy between one process and one HTTP server, which does mischief to writes.
//!
//! ```text
//!  process ──request──▶ proxy ──request──▶ server          every request on a connection of its own
//!              503, reset ◀┤ │                 │
//!                     held ◀┘ └◀── reply, or ──┘ nothing
//! ```
//!
//! * Only writes meet mischief: an object that is put under `data/`, and a bulk request.
//! * A held write has been sent by the process as far as it knows, and reaches the server when the test says so: after
//!   the process was stopped, replaced, and woken up again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, bail};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// What happens to a share of all writes; shares are of 1 and add up to at most that.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mischief {
    /// Done by the server, and the process never hears of it.
    pub cut_reply: f64,
    /// Refused with 503 before the server sees them.
    pub refuse: f64,
    /// The connection is closed before the server sees them.
    pub reset: f64,
}

/// A write on its way; let go, it reaches the server.
#[derive(Debug)]
pub struct Held {
    go: oneshot::Sender<()>,
}

impl Held {
    /// Lets the write reach the server.
    pub fn release(self) {
        // The process may have closed the connection meanwhile.
        let _ = self.go.send(());
    }
}

/// A running proxy.
#[derive(Clone, Debug)]
pub struct Proxy {
    address: String,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    mischief: Mischief,
    random: StdRng,
    /// Who waits for the next write.
    trap: Option<oneshot::Sender<Held>>,
    writes: u64,
    cut: u64,
    refused: u64,
    beaten: u64,
}

enum Fate {
    Pass,
    CutReply,
    Refuse,
    Reset,
    Hold(oneshot::Receiver<()>),
}

impl Proxy {
    /// Listens on a free port before `target`, a URL.
    pub async fn start(target: &str, seed: u64) -> anyhow::Result<Self> {
        let target = target.strip_prefix("http://").context("the server is not plain HTTP")?;
        let target = target.trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let state = State {
            mischief: Mischief::default(),
            random: StdRng::seed_from_u64(seed),
            trap: None,
            writes: 0,
            cut: 0,
            refused: 0,
            beaten: 0,
        };
        let address = format!("http://{}", listener.local_addr()?);
        let proxy = Self { address, state: Arc::new(Mutex::new(state)) };
        let serving = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (proxy, target) = (serving.clone(), target.clone());
                tokio::spawn(async move {
                    // Either side may close whenever it likes; that is what this is for.
                    let _ = proxy.exchange(client, &target).await;
                });
            }
        });
        Ok(proxy)
    }

    /// Where it listens, with scheme.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// From now on this is done to writes.
    pub fn set(&self, mischief: Mischief) {
        self.state().mischief = mischief;
    }

    /// Waits for the next write and holds it.
    pub async fn hold_next(&self) -> anyhow::Result<Held> {
        let (caught, next) = oneshot::channel();
        self.state().trap = Some(caught);
        next.await.context("another test waits for this proxy's writes")
    }

    /// Writes seen, replies cut, and writes that were refused or reset.
    pub fn counts(&self) -> [u64; 3] {
        let state = self.state();
        [state.writes, state.cut, state.refused]
    }

    /// Held writes that found their key taken (412) when they arrived.
    pub fn beaten(&self) -> u64 {
        self.state().beaten
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self, request_line: &str) -> Fate {
        let is_object = request_line.starts_with("PUT ") && request_line.contains("/data/");
        if !is_object && !request_line.contains("/_bulk?") {
            return Fate::Pass;
        }
        let mut state = self.state();
        state.writes += 1;
        if let Some(trap) = state.trap.take() {
            let (go, released) = oneshot::channel();
            if trap.send(Held { go }).is_ok() {
                return Fate::Hold(released);
            }
        }
        let Mischief { cut_reply, refuse, reset } = state.mischief;
        let roll: f64 = state.random.random();
        let passes = |share: f64| roll < share;
        if passes(cut_reply) {
            state.cut += 1;
            Fate::CutReply
        } else if passes(cut_reply + refuse) {
            state.refused += 1;
            Fate::Refuse
        } else if passes(cut_reply + refuse + reset) {
            state.refused += 1;
            Fate::Reset
        } else {
            Fate::Pass
        }
    }

    async fn exchange(&self, mut client: TcpStream, target: &str) -> anyhow::Result<()> {
        let Some(request) = read_request(&mut client).await? else { return Ok(()) };
        let line = request.head.lines().next().unwrap_or_default();
        let fate = self.fate(line);
        match fate {
            Fate::Reset => return Ok(()),
            Fate::Refuse => {
                let reply = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                return Ok(client.write_all(reply).await?);
            }
            Fate::Hold(released) => {
                // A test that ends lets everything go.
                let _ = released.await;
                let reply = forward(&request, target).await?;
                self.state().beaten += u64::from(reply.starts_with(b"HTTP/1.1 412"));
                client.write_all(&reply).await?;
            }
            Fate::CutReply => drop(forward(&request, target).await?),
            Fate::Pass => client.write_all(&forward(&request, target).await?).await?,
        }
        Ok(())
    }
}

/// The server answers and closes, so its reply is whatever it sends.
async fn forward(request: &Request, target: &str) -> anyhow::Result<Vec<u8>> {
    let mut server = TcpStream::connect(target).await?;
    server.write_all(request.head.as_bytes()).await?;
    server.write_all(&request.body).await?;
    let mut reply = Vec::new();
    server.read_to_end(&mut reply).await?;
    Ok(reply)
}

struct Request {
    /// With `connection: close` in place of whatever was said of the connection.
    head: String,
    body: Vec<u8>,
}

async fn read_request(client: &mut TcpStream) -> anyhow::Result<Option<Request>> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let mut body = bytes.split_off(end);
    let text = String::from_utf8(bytes)?;
    let mut head = String::new();
    let mut length = 0;
    for line in text.trim_end().split("\r\n") {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        match name.to_ascii_lowercase().as_str() {
            "connection" => continue,
            "transfer-encoding" => bail!("a body without a length"),
            "expect" => {
                client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
                continue;
            }
            "content-length" => length = value.trim().parse()?,
            _ => {}
        }
        head.push_str(line);
        head.push_str("\r\n");
    }
    head.push_str("connection: close\r\n\r\n");
    while body.len() < length {
        if client.read_buf(&mut body).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(Request { head, body }))
}
