//! A connected socket of any kind, read and written alike.
//!
//! ```text
//!  kernel ──▶ Tcp (gathers while behind) ──▶ [buffer ──▶ TLS] ──▶ Socket
//! ```
//!
//! * A server sends every change with its own `send()`. While behind, the kernel gathers [`GATHER`] bytes before it
//!   wakes us, with a timer of [`GATHER_WAIT`] for the rest; that costs a fraction of the wake-ups. It happens below
//!   TLS, because only the kernel's bytes can be counted there.

use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Sleep, sleep};
use tokio_postgres::tls::{ChannelBinding, TlsStream as Bound};
use tokio_rustls::client::TlsStream;

use crate::low_water;

/// What the kernel gathers before it wakes us while we are behind.
const GATHER: usize = 64 << 10;

/// How long gathered bytes may wait while we are behind.
const GATHER_WAIT: Duration = Duration::from_millis(2);

/// A read of less than this means that we have caught up.
const CAUGHT_UP: usize = 8 << 10;

/// What is read from the kernel at once for TLS, which itself asks for 4 KiB at a time.
const TLS_BUFFER: usize = 256 << 10;

/// A socket of any kind.
#[derive(Debug)]
pub struct Socket {
    kind: Kind,
    /// `tls-server-end-point` of RFC 5929, when the connection is encrypted and its certificate allows one.
    end_point: Option<Vec<u8>>,
}

#[derive(Debug)]
enum Kind {
    Plain(Tcp),
    Unix(UnixStream),
    Tls(Box<TlsStream<BufReader<Tcp>>>),
}

impl Socket {
    pub(crate) fn plain(stream: Tcp) -> Self {
        Self { kind: Kind::Plain(stream), end_point: None }
    }

    pub(crate) fn unix(stream: UnixStream) -> Self {
        Self { kind: Kind::Unix(stream), end_point: None }
    }

    pub(crate) fn tls(stream: TlsStream<BufReader<Tcp>>, end_point: Option<Vec<u8>>) -> Self {
        Self { kind: Kind::Tls(Box::new(stream)), end_point }
    }

    /// The bytes that tie a password exchange to this connection's certificate.
    pub fn end_point(&self) -> Option<&[u8]> {
        self.end_point.as_deref()
    }

    /// Whether nobody else can read along.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.kind, Kind::Tls(_))
    }

    /// From now on bytes may be gathered: for a stream that is read without pause.
    pub fn gather(&mut self) {
        match &mut self.kind {
            Kind::Plain(tcp) => tcp.gathers = true,
            Kind::Tls(tls) => tls.get_mut().0.get_mut().gathers = true,
            // The kernel has no such setting there.
            Kind::Unix(_) => {}
        }
    }
}

/// Room for what TLS reads.
pub(crate) fn buffered(stream: Tcp) -> BufReader<Tcp> {
    BufReader::with_capacity(TLS_BUFFER, stream)
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Kind::Unix(unix) => Pin::new(unix).poll_read(cx, buffer),
            Kind::Tls(tls) => fill(tls, cx, buffer),
        }
    }
}

/// TLS gives out what it read at once, some kilobytes. Whatever else is there already is taken along. An error after
/// some bytes comes again at the next read.
fn fill(
    tls: &mut TlsStream<BufReader<Tcp>>,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let before = buffer.filled().len();
    loop {
        let had = buffer.filled().len();
        let read = Pin::new(&mut *tls).poll_read(cx, buffer);
        let is_first = had == before;
        match read {
            Poll::Ready(Ok(())) if buffer.filled().len() == had => return Poll::Ready(Ok(())),
            Poll::Ready(Ok(()))
                if buffer.filled().len() - before < GATHER && buffer.remaining() > 0 => {}
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
            read if is_first => return read,
            _ => return Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.kind {
            Kind::Plain(tcp) => Pin::new(&mut tcp.stream).poll_write(cx, bytes),
            Kind::Unix(unix) => Pin::new(unix).poll_write(cx, bytes),
            Kind::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Plain(tcp) => Pin::new(&mut tcp.stream).poll_flush(cx),
            Kind::Unix(unix) => Pin::new(unix).poll_flush(cx),
            Kind::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Plain(tcp) => Pin::new(&mut tcp.stream).poll_shutdown(cx),
            Kind::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
            Kind::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

impl Bound for Socket {
    fn channel_binding(&self) -> ChannelBinding {
        match self.end_point() {
            Some(hash) => ChannelBinding::tls_server_end_point(hash.to_owned()),
            None => ChannelBinding::none(),
        }
    }
}

/// A TCP stream that lets the kernel gather while there is more than we can take.
#[derive(Debug)]
pub(crate) struct Tcp {
    stream: TcpStream,
    gathers: bool,
    behind: bool,
    /// Runs while behind and nothing was ready.
    wait: Option<Pin<Box<Sleep>>>,
}

impl Tcp {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, gathers: false, behind: false, wait: None }
    }

    fn on_read(&mut self, bytes: usize) -> io::Result<()> {
        self.wait = None;
        match self.behind {
            false if self.gathers && bytes >= GATHER => self.set_behind(true),
            true if bytes < CAUGHT_UP => self.set_behind(false),
            _ => Ok(()),
        }
    }

    fn set_behind(&mut self, behind: bool) -> io::Result<()> {
        self.behind = behind;
        low_water::set(&self.stream, if behind { GATHER as i32 } else { 1 })
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let had = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buffer) {
            read?;
            return Poll::Ready(self.on_read(buffer.filled().len() - had));
        }
        if !self.behind {
            return Poll::Pending;
        }
        let wait = self.wait.get_or_insert_with(|| Box::pin(sleep(GATHER_WAIT)));
        ready!(wait.as_mut().poll(cx));
        // Without asking Tokio, which knows nothing of bytes below the low-water mark.
        let room = buffer.remaining().min(GATHER);
        let into = buffer.initialize_unfilled_to(room);
        match (&*socket2::SockRef::from(&self.stream)).read(into) {
            Ok(bytes) => {
                buffer.advance(bytes);
                Poll::Ready(self.on_read(bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Nothing came: caught up. Setting the mark wakes us if something came just now.
                self.on_read(0)?;
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
