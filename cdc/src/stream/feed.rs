//! The task that owns the socket while the server streams.
//!
//! It reads as long as the queue has room and tells the server how far we are; it never waits for Kafka.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tailwater_topics_contract::Lsn;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::connection::Wire;
use super::frame::{self, Frame, HEADER};
use super::{Copying, Error, Input, Sender, StatusUpdate, low_water};
use crate::progress::Durable;

/// What the kernel gathers before it wakes us while we are behind.
const GATHER: usize = 64 << 10;

/// How long gathered bytes may wait while we are behind.
const GATHER_WAIT: Duration = Duration::from_millis(2);

/// Less than this within [`GATHER_WAIT`] means that we have caught up.
const CAUGHT_UP: usize = 8 << 10;

/// Room for one read. Larger reads gave nothing in measurements, and a chunk holds its whole block alive.
const BLOCK: usize = 256 << 10;

/// Least time between two status updates, so that a server that asks in a loop (as it does while shutting
/// down) is answered without a busy loop on both sides.
const STATUS_MIN: Duration = Duration::from_millis(20);

/// How soon the server learns that more is durable. Soon, so that it may recycle WAL and a person sees the truth;
/// not at once, because a busy reader commits some hundred times a second.
const CONFIRM: Duration = Duration::from_millis(100);

/// How long a status update may take to leave.
const SEND_WAIT: Duration = Duration::from_secs(10);

/// How long the server may take to end the stream after we did.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// When the feed talks and how long it listens.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between two status updates that nobody asked for.
    pub status: Duration,
    /// Without a byte from the server, after which the connection counts as lost.
    pub silence: Duration,
    /// Milliseconds since 1970.
    pub clock: fn() -> i64,
}

impl Timing {
    /// Update three times within the server's own patience, at least every ten seconds.
    pub fn for_server(wal_sender_timeout_ms: u64, clock: fn() -> i64) -> Self {
        let third = if wal_sender_timeout_ms == 0 { 10_000 } else { wal_sender_timeout_ms / 3 };
        let status = Duration::from_millis(third.clamp(100, 10_000));
        Self { status, silence: Duration::from_secs(40).max(status * 3), clock }
    }
}

/// A stream with its queue.
#[derive(Debug)]
pub struct Feed {
    wire: Wire,
    queue: Sender,
    durable: Arc<Durable>,
    timing: Timing,
    /// Bytes of `wire.input` that are whole, checked messages.
    whole: usize,
    received: Lsn,
    /// Set by a keepalive that asks, cleared by the next update.
    asked: bool,
    /// More is durable than the server was told.
    moved: bool,
    heard_at: Instant,
    told_at: Instant,
    behind: bool,
    scratch: Vec<u8>,
}

impl Feed {
    /// Takes over a session that has begun to stream.
    pub fn new(copying: Copying, queue: Sender, durable: Arc<Durable>, timing: Timing) -> Self {
        let now = Instant::now();
        Self {
            wire: copying.wire,
            queue,
            durable,
            timing,
            whole: 0,
            received: Lsn::ZERO,
            asked: false,
            moved: false,
            heard_at: now,
            told_at: now,
            behind: false,
            scratch: Vec::new(),
        }
    }

    /// Reads until told to stop, then confirms what is durable by then and ends the stream. Without being told,
    /// it ends with the reason why the stream cannot go on.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        loop {
            self.take_whole_messages()?;
            let status_at = self.status_at();
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.end().await,
                () = sleep_until(status_at) => {
                    if self.heard_at.elapsed() >= self.timing.silence && self.whole == 0 {
                        return Err(Error::Silent {
                            address: self.wire.address.clone(),
                            doing: "streaming",
                            seconds: self.timing.silence.as_secs(),
                        });
                    }
                    self.tell().await?;
                }
                () = self.durable.moved(), if !self.moved => self.moved = true,
                // With whole messages at hand, wait for room and nothing else: the socket fills, and the server
                // feels it.
                () = self.queue.room_for(self.whole), if self.whole > 0 => {
                    let chunk: Bytes = self.wire.input.split_to(self.whole).freeze();
                    self.whole = 0;
                    // While there was no room we did not listen.
                    self.heard_at = Instant::now();
                    if !self.queue.push(Input::Chunk(chunk)) {
                        // The pipeline is gone and says why itself.
                        return self.end().await;
                    }
                }
                read = read(&mut self.wire, &mut self.scratch, self.behind), if self.whole == 0 => {
                    self.on_read(read)?;
                }
            }
        }
    }

    fn on_read(&mut self, read: io::Result<usize>) -> Result<(), Error> {
        match read {
            // The timer ran out with nothing there: caught up.
            Ok(0) => self.gather(false)?,
            Ok(bytes) => {
                self.heard_at = Instant::now();
                if !self.behind && bytes >= GATHER {
                    self.gather(true)?;
                } else if self.behind && bytes < CAUGHT_UP {
                    self.gather(false)?;
                }
            }
            Err(error) => return Err(self.wire.lost(error)),
        }
        Ok(())
    }

    fn gather(&mut self, behind: bool) -> Result<(), Error> {
        self.behind = behind;
        let bytes = if behind { GATHER as i32 } else { 1 };
        low_water::set(&self.wire.socket, bytes).map_err(|error| self.wire.lost(error))
    }

    /// Extends `whole` over the messages that have arrived, and notes what they say to us.
    fn take_whole_messages(&mut self) -> Result<(), Error> {
        loop {
            let rest = &self.wire.input[self.whole..];
            let size = frame::size(rest).map_err(|error| self.wire.protocol(error.0))?;
            let Some(size) = size else { return Ok(()) };
            if rest.len() < size {
                let missing = size - rest.len();
                self.wire.input.reserve(missing);
                return Ok(());
            }
            let body = &rest[HEADER..size];
            match rest[0] {
                b'd' => {
                    match frame::copy_data(body).map_err(|error| self.wire.protocol(error.0))? {
                        Frame::Data { wal_end, .. } => self.received = self.received.max(wal_end),
                        Frame::Keepalive { wal_end, reply } => {
                            self.received = self.received.max(wal_end);
                            self.asked |= reply;
                        }
                    }
                    self.whole += size;
                }
                b'N' | b'S' => self.whole += size,
                // Before an end or an error, what came ahead of it is handed over.
                _ if self.whole > 0 => return Ok(()),
                b'E' => {
                    let message = Message::parse(&mut self.wire.input);
                    return Err(match self.wire.built(message)? {
                        Some(Message::ErrorResponse(body)) => self.wire.refused(&body),
                        _ => self.wire.protocol("an error without fields"),
                    });
                }
                b'c' | b'C' | b'Z' => {
                    return Err(Error::Ended { address: self.wire.address.clone() });
                }
                tag => {
                    let problem = format!("message `{}` within the stream", tag.escape_ascii());
                    return Err(self.wire.protocol(problem));
                }
            }
        }
    }

    fn status_at(&self) -> Instant {
        let pause = match (self.asked, self.moved) {
            (true, _) => STATUS_MIN,
            (false, true) => CONFIRM.min(self.timing.status),
            (false, false) => self.timing.status,
        };
        self.told_at + pause
    }

    async fn tell(&mut self) -> Result<(), Error> {
        let update = StatusUpdate {
            received: self.received,
            durable: self.durable.get(),
            now_ms: (self.timing.clock)(),
            // An idle server says nothing as long as we talk to it; asking is how we learn that it is gone.
            reply: self.heard_at.elapsed() >= self.timing.status,
        };
        (self.asked, self.moved) = (false, false);
        self.told_at = Instant::now();
        match timeout(SEND_WAIT, self.wire.send(&update.encode())).await {
            Ok(sent) => sent,
            Err(_) => Err(self.wire.lost(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Last words: what is durable, then the end of the copy. The server answers with its own end, for which we
    /// wait a little so that the slot is free when we say that we have stopped.
    async fn end(mut self) -> Result<(), Error> {
        self.tell().await?;
        let mut out = BytesMut::new();
        frontend::copy_done(&mut out);
        frontend::terminate(&mut out);
        self.wire.send(&out).await?;
        self.gather(false)?;
        let closed = async {
            loop {
                self.scratch.resize(BLOCK, 0);
                let read = tokio::io::AsyncReadExt::read(&mut self.wire.socket, &mut self.scratch);
                match read.await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
        };
        // A server that still has much to send notices the end late; it frees the slot by itself.
        let _ = timeout(CLOSE_WAIT, closed).await;
        let _ = self.wire.socket.shutdown().await;
        Ok(())
    }
}

/// Reads what is there, at least one byte. While behind, waits for [`GATHER`] bytes or the timer, and then 0
/// means that nothing came. Given up at any await, it has taken nothing.
async fn read(wire: &mut Wire, scratch: &mut Vec<u8>, behind: bool) -> io::Result<usize> {
    if wire.input.capacity() - wire.input.len() < GATHER {
        wire.input.reserve(BLOCK);
    }
    if behind {
        return match timeout(GATHER_WAIT, readable(&wire.socket, &mut wire.input)).await {
            Ok(read) => read,
            Err(_) => read_now(&wire.socket, &mut wire.input, scratch),
        };
    }
    readable(&wire.socket, &mut wire.input).await
}

async fn readable(socket: &TcpStream, input: &mut BytesMut) -> io::Result<usize> {
    loop {
        socket.readable().await?;
        match socket.try_read_buf(input) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // In the middle of a gathered stream, 0 would read as "nothing yet".
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => return read,
        }
    }
}

/// Reads without asking Tokio, which knows nothing of bytes below the low-water mark.
fn read_now(socket: &TcpStream, input: &mut BytesMut, scratch: &mut Vec<u8>) -> io::Result<usize> {
    scratch.resize(GATHER, 0);
    let socket = socket2::SockRef::from(socket);
    match (&*socket).read(scratch) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(bytes) => {
            input.extend_from_slice(&scratch[..bytes]);
            Ok(bytes)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error),
    }
}
