//! A session that reads and drops.

use anyhow::{Context, bail};
use bytes::{Buf, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tailwater_postgres::{Socket, dial, from_url};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Room for one read: the reader's.
const BLOCK: usize = 256 << 10;

/// Tag and length before each message's body.
const HEADER: usize = 5;

/// Before the plugin's message: `w`, two positions, a time.
const DATA_HEADER: usize = 25;
/// Where a keepalive says whether it wants an answer: behind its letter, the end of the WAL and a time.
const KEEPALIVE_REPLY: usize = 17;

/// A session. It logs in where the server trusts, as the tests' servers do, and nowhere else.
pub(super) struct Wire {
    socket: Socket,
    input: BytesMut,
    /// Of the message last given out, which is still in `input`.
    size: usize,
    bytes: u64,
}

/// What a message of the stream tells.
pub(super) enum Change {
    /// An insert, update or delete.
    Row,
    /// The end of a transaction.
    Commit {
        /// Where the commit record is.
        at: u64,
        /// Where it ends.
        end: u64,
    },
    /// Anything else.
    Other,
}

impl Wire {
    pub(super) async fn open(url: &str, replication: bool) -> anyhow::Result<Self> {
        let config = from_url(url)?;
        let host = config.hosts.iter().next().context("no host")?;
        let socket = dial(&config, host).await?;
        let mut wire = Self { socket, input: BytesMut::with_capacity(BLOCK), size: 0, bytes: 0 };
        let mut parameters = vec![
            ("user", config.user.as_str()),
            ("database", config.database.as_str()),
            ("application_name", "tailwater bench"),
        ];
        if replication {
            parameters.push(("replication", "database"));
        }
        let mut out = BytesMut::new();
        frontend::startup_message(parameters, &mut out)?;
        wire.socket.write_all(&out).await?;
        loop {
            match wire.receive().await? {
                Message::ReadyForQuery(_) => return Ok(wire),
                Message::AuthenticationOk
                | Message::BackendKeyData(_)
                | Message::ParameterStatus(_) => {}
                _ => bail!("{url} asks for a password; give a server that trusts this machine"),
            }
        }
    }

    /// Bytes read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Begins to stream where the slot is confirmed.
    pub(super) async fn stream(&mut self, slot: &str, publication: &str) -> anyhow::Result<()> {
        self.query(&format!(
            "START_REPLICATION SLOT \"{slot}\" LOGICAL 0/0 (proto_version '1', publication_names '\"{publication}\"')"
        ))
        .await?;
        self.socket.gather();
        Ok(())
    }

    /// The next message of the stream.
    pub(super) async fn change(&mut self) -> anyhow::Result<Change> {
        self.next().await?;
        let message = &self.input[HEADER..self.size];
        if message.first() == Some(&b'k') && message.get(KEEPALIVE_REPLY) == Some(&1) {
            // The server gives up who is silent while it collects a transaction of gigabytes.
            self.socket.write_all(&status(0)).await?;
            return Ok(Change::Other);
        }
        Ok(match (self.input[0], message.get(DATA_HEADER)) {
            (b'd', Some(b'I' | b'U' | b'D')) => Change::Row,
            (b'd', Some(b'C')) => {
                let mut fields = &message[DATA_HEADER + 2..];
                Change::Commit { at: fields.get_u64(), end: fields.get_u64() }
            }
            (b'E', _) => bail!("the server refuses: {}", String::from_utf8_lossy(message)),
            _ => Change::Other,
        })
    }

    /// Confirms the slot and ends the stream.
    pub(super) async fn confirm(&mut self, position: u64) -> anyhow::Result<()> {
        let mut out = status(position);
        let mut end = BytesMut::new();
        frontend::copy_done(&mut end);
        frontend::terminate(&mut end);
        out.extend_from_slice(&end);
        self.socket.write_all(&out).await?;
        // Until the server hangs up the slot is taken.
        while self.fill().await.is_ok() {
            self.input.clear();
        }
        Ok(())
    }

    /// Runs a `COPY … TO STDOUT` and drops its rows; answers how many there were.
    pub(super) async fn copy(&mut self, sql: &str) -> anyhow::Result<u64> {
        self.query(sql).await?;
        let mut rows = 0;
        loop {
            self.next().await?;
            match self.input[0] {
                b'd' => rows += 1,
                b'E' => {
                    bail!(
                        "the server refuses: {}",
                        String::from_utf8_lossy(&self.input[..self.size])
                    )
                }
                b'Z' => return Ok(rows),
                _ => {}
            }
        }
    }

    async fn query(&mut self, sql: &str) -> anyhow::Result<()> {
        let mut out = BytesMut::new();
        frontend::query(sql, &mut out)?;
        Ok(self.socket.write_all(&out).await?)
    }

    /// Drops the message at hand and waits for the next one to be whole.
    async fn next(&mut self) -> anyhow::Result<()> {
        self.input.advance(self.size);
        self.size = 0;
        loop {
            if let Some(mut length) = self.input.get(1..HEADER) {
                let size = length.get_u32() as usize + 1;
                if self.input.len() >= size {
                    self.size = size;
                    return Ok(());
                }
                self.input.reserve(size - self.input.len());
            }
            self.fill().await?;
        }
    }

    async fn receive(&mut self) -> anyhow::Result<Message> {
        loop {
            if let Some(message) = Message::parse(&mut self.input)? {
                return Ok(message);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        if self.input.capacity() - self.input.len() < BLOCK / 4 {
            self.input.reserve(BLOCK);
        }
        match self.socket.read_buf(&mut self.input).await? {
            0 => bail!("the server hung up"),
            read => {
                self.bytes += read as u64;
                Ok(())
            }
        }
    }
}

/// A status update; position 0 confirms nothing.
fn status(position: u64) -> Vec<u8> {
    let mut out = vec![b'd', 0, 0, 0, 38, b'r'];
    for _ in 0..3 {
        out.extend_from_slice(&position.to_be_bytes());
    }
    out.extend_from_slice(&[0; 9]);
    out
}
