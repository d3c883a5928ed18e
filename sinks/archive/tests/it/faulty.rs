//! Between a client and a store: every so many requests, by chance from a seed, meet a fault.
//!
//! ```text
//!  request ─┬─ passed on ─▶ store ─▶ answer ─┬─ passed on
//!           ├─ 503, not passed on            ├─ lost: it was done, and nobody hears of it
//!           └─ reset, not passed on          └─ broken off in the middle
//! ```
//!
//! Every request has a connection of its own, so that a fault never hits another one's answer.

use std::io;
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How many of a hundred requests meet each fault.
const OF_A_HUNDRED: [(Fault, u32); 4] =
    [(Fault::Throttled, 20), (Fault::Lost, 5), (Fault::Reset, 5), (Fault::BrokenOff, 5)];
const THROTTLED: &[u8] = b"HTTP/1.1 503 Slow Down\r\ncontent-type: application/xml\r\n\
    content-length: 66\r\nconnection: close\r\n\r\n\
    <Error><Code>SlowDown</Code><Message>as told, slow down</Message></";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// 503, and nothing is done.
    Throttled,
    /// It is done, and no answer comes.
    Lost,
    /// The connection is reset, and nothing is done.
    Reset,
    /// It is done, and half of the answer comes.
    BrokenOff,
}

pub(crate) struct Faulty {
    pub(crate) endpoint: String,
    chance: Arc<Mutex<Chance>>,
}

struct Chance {
    random: StdRng,
    met: Vec<Fault>,
    requests: usize,
}

impl Faulty {
    pub(crate) async fn start(target: &str, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let chance = Chance { random: StdRng::seed_from_u64(seed), met: Vec::new(), requests: 0 };
        let chance = Arc::new(Mutex::new(chance));
        let (target, dice) = (target.trim_start_matches("http://").to_owned(), chance.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (target, dice) = (target.clone(), dice.clone());
                tokio::spawn(async move {
                    // Whoever goes away in the middle finds out by itself.
                    let _ = serve(client, &target, &dice).await;
                });
            }
        });
        Self { endpoint, chance }
    }

    /// How many requests came, and how many of them met this fault.
    pub(crate) fn met(&self, fault: Fault) -> (usize, usize) {
        let chance = self.chance.lock().expect("whole");
        (chance.requests, chance.met.iter().filter(|met| **met == fault).count())
    }
}

impl Chance {
    fn fault(&mut self) -> Option<Fault> {
        self.requests += 1;
        let mut thrown = self.random.random_range(0..100);
        let fault = OF_A_HUNDRED.iter().find_map(|(fault, share)| {
            let is_it = thrown < *share;
            thrown = thrown.wrapping_sub(*share);
            is_it.then_some(*fault)
        });
        self.met.extend(fault);
        fault
    }
}

async fn serve(mut client: TcpStream, target: &str, chance: &Mutex<Chance>) -> io::Result<()> {
    let request = read_request(&mut client).await?;
    let fault = chance.lock().expect("whole").fault();
    match fault {
        Some(Fault::Throttled) => return client.write_all(THROTTLED).await,
        Some(Fault::Reset) => return client.set_zero_linger(),
        _ => {}
    }
    let mut server = TcpStream::connect(target).await?;
    server.write_all(&request).await?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    match fault {
        Some(Fault::Lost) => Ok(()),
        Some(Fault::BrokenOff) => client.write_all(&answer[..answer.len() / 2]).await,
        _ => client.write_all(&answer).await,
    }
}

/// A whole request, changed so that the store closes the connection behind its answer.
async fn read_request(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let head = loop {
        if client.read_buf(&mut request).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
    };
    let text = String::from_utf8_lossy(&request[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.map_or(0, |length| length.trim().parse().expect("a number"));
    if text.contains("\r\nexpect:") {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let whole = head + 4 + length;
    request.reserve(whole.saturating_sub(request.len()));
    while request.len() < whole {
        if client.read_buf(&mut request).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    request.splice(head..head, *b"\r\nconnection: close");
    Ok(request)
}
