//! The task that owns the socket while the server streams.
//!
//! It reads as long as the queue has room and tells the server how far we are; it never waits for Kafka.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tailwater_topics_contract::Lsn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::connection::Wire;
use super::frame::{self, Frame, HEADER};
use super::{Copying, Error, Input, Sender, StatusUpdate};
use crate::crash::{self, Point};
use crate::progress::Durable;

/// Room for one read. Larger reads gave nothing in measurements, and a chunk holds its whole block alive.
const BLOCK: usize = 256 << 10;

/// With less room than this in a block, a new one is begun.
const ROOM: usize = 64 << 10;

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
}

impl Feed {
    /// Takes over a session that has begun to stream.
    pub fn new(mut copying: Copying, queue: Sender, durable: Arc<Durable>, timing: Timing) -> Self {
        let now = Instant::now();
        copying.wire.socket.gather();
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
                read = read(&mut self.wire), if self.whole == 0 => match read {
                    Ok(0) => return Err(self.wire.lost(io::ErrorKind::UnexpectedEof.into())),
                    Ok(_) => self.heard_at = Instant::now(),
                    Err(error) => return Err(self.wire.lost(error)),
                },
            }
        }
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
        crash::point(Point::Confirming);
        match timeout(SEND_WAIT, self.wire.send(&update.encode())).await {
            Ok(sent) => sent?,
            Err(_) => return Err(self.wire.lost(io::ErrorKind::TimedOut.into())),
        }
        crash::point(Point::Confirmed);
        Ok(())
    }

    /// Last words: what is durable, then the end of the copy. The server answers with its own end, for which we
    /// wait a little so that the slot is free when we say that we have stopped.
    async fn end(mut self) -> Result<(), Error> {
        self.tell().await?;
        let mut out = BytesMut::new();
        frontend::copy_done(&mut out);
        frontend::terminate(&mut out);
        self.wire.send(&out).await?;
        let closed = async {
            let mut rest = vec![0; ROOM];
            loop {
                match self.wire.socket.read(&mut rest).await {
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

/// Reads what is there; 0 is the end. Given up while it waits, it has taken nothing.
async fn read(wire: &mut Wire) -> io::Result<usize> {
    if wire.input.capacity() - wire.input.len() < ROOM {
        wire.input.reserve(BLOCK);
    }
    wire.socket.read_buf(&mut wire.input).await
}
