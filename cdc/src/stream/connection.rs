//! A session: open, ask, and turn it into a stream.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{ErrorResponseBody, Header, Message};
use postgres_protocol::message::frontend;
use tailwater_config::PostgresConfig;
use tailwater_config::postgres::Host;
use tailwater_postgres::{CONNECT_WAIT, Socket, Tried, dial, refused};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{Error, startup};

/// How long an ordinary query may take. They read catalogs only.
const QUERY_WAIT: Duration = Duration::from_secs(30);

/// `CopyBothResponse`, the one tag that `postgres-protocol` does not know.
const COPY_BOTH: u8 = b'W';

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Queries. Takes one of `max_connections`.
    Sql,
    /// Queries and replication commands. Takes one of `max_wal_senders`.
    Replication,
}

/// The socket with what was read and not yet used.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) socket: Socket,
    pub(super) input: BytesMut,
    pub(super) address: String,
}

/// A session that takes queries.
#[derive(Debug)]
pub struct Connection {
    pub(super) wire: Wire,
}

/// A session whose server is streaming.
#[derive(Debug)]
pub struct Copying {
    pub(super) wire: Wire,
}

/// One row of a simple query, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row(Vec<Option<String>>);

impl Row {
    /// A column by its place; `None` for NULL and beyond the last.
    pub fn get(&self, column: usize) -> Option<&str> {
        self.0.get(column)?.as_deref()
    }
}

impl Connection {
    /// Connects to the first host that answers and takes writes, and logs in.
    pub async fn open(
        config: &PostgresConfig,
        application: &str,
        mode: Mode,
    ) -> Result<Self, Error> {
        let mut tried = Tried::default();
        for host in config.hosts.iter() {
            match Self::open_at(config, host, application, mode).await {
                Ok(connection) => return Ok(connection),
                Err(error) => tried.on_failure(error)?,
            }
        }
        Err(tried.at_end(config))
    }

    async fn open_at(
        config: &PostgresConfig,
        host: &Host,
        application: &str,
        mode: Mode,
    ) -> Result<Self, Error> {
        let address = config.address_of(host);
        let socket = dial(config, host).await?;
        let mut wire = Wire { socket, input: BytesMut::with_capacity(8 << 10), address };
        let starting = startup::start(&mut wire, config, application, mode);
        let Ok(started) = timeout(CONNECT_WAIT, starting).await else {
            let seconds = CONNECT_WAIT.as_secs();
            return Err(Error::Silent { address: wire.address, doing: "logging in", seconds });
        };
        let has_no_encoding = started?.has_no_encoding;
        let mut connection = Self { wire };
        if has_no_encoding {
            // The server would refuse bytes that are no UTF-8 without a word about where they stand; we know that.
            connection.query("SET client_encoding TO SQL_ASCII").await?;
        }
        Ok(connection)
    }

    /// Where this session is connected, for messages.
    pub fn address(&self) -> &str {
        &self.wire.address
    }

    /// Runs statements and returns the rows of all of them.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>, Error> {
        self.query_within(sql, QUERY_WAIT).await
    }

    /// As [`Self::query`], with its own limit.
    pub async fn query_within(&mut self, sql: &str, limit: Duration) -> Result<Vec<Row>, Error> {
        match timeout(limit, self.ask(sql)).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Silent {
                address: self.wire.address.clone(),
                doing: "answering a query",
                seconds: limit.as_secs(),
            }),
        }
    }

    async fn ask(&mut self, sql: &str) -> Result<Vec<Row>, Error> {
        let mut out = BytesMut::new();
        self.wire.built(frontend::query(sql, &mut out))?;
        self.wire.send(&out).await?;
        let mut rows = Vec::new();
        let mut refused = None;
        loop {
            match self.wire.receive().await? {
                Message::DataRow(body) => {
                    let mut ranges = body.ranges();
                    let mut row = Vec::new();
                    while let Some(range) = self.wire.built(ranges.next())? {
                        let text = range.and_then(|range| body.buffer().get(range));
                        row.push(text.map(|text| String::from_utf8_lossy(text).into_owned()));
                    }
                    rows.push(Row(row));
                }
                Message::ErrorResponse(body) => refused = Some(self.wire.refused(&body)),
                Message::ReadyForQuery(_) => return refused.map_or(Ok(rows), Err),
                Message::RowDescription(_)
                | Message::CommandComplete(_)
                | Message::EmptyQueryResponse
                | Message::NoticeResponse(_)
                | Message::ParameterStatus(_) => {}
                _ => return Err(self.wire.protocol("an unexpected answer to a query")),
            }
        }
    }

    /// Sends a `START_REPLICATION` command and waits until the server agrees to stream.
    pub async fn stream(mut self, command: &str) -> Result<Copying, Error> {
        let mut out = BytesMut::new();
        self.wire.built(frontend::query(command, &mut out))?;
        self.wire.send(&out).await?;
        let agreed = timeout(QUERY_WAIT, async {
            loop {
                if self.wire.next_tag().await? == COPY_BOTH {
                    return self.wire.skip_message().await;
                }
                match self.wire.receive().await? {
                    Message::NoticeResponse(_) | Message::ParameterStatus(_) => {}
                    Message::ErrorResponse(body) => return Err(self.wire.refused(&body)),
                    _ => return Err(self.wire.protocol("no answer to START_REPLICATION")),
                }
            }
        });
        match agreed.await {
            Ok(agreed) => agreed?,
            Err(_) => {
                return Err(Error::Silent {
                    address: self.wire.address,
                    doing: "starting to stream",
                    seconds: QUERY_WAIT.as_secs(),
                });
            }
        }
        Ok(Copying { wire: self.wire })
    }

    /// Returns, with the reason, when the server ends the session or the connection breaks. May be given up at any time.
    pub async fn broken(&mut self) -> Error {
        loop {
            match self.wire.receive().await {
                Ok(Message::ErrorResponse(body)) => return self.wire.refused(&body),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    }

    /// Says good-bye, so that the server need not find out.
    pub async fn close(mut self) {
        let mut out = BytesMut::new();
        frontend::terminate(&mut out);
        // The server may be gone already, which is what we want.
        let _ = timeout(Duration::from_secs(1), self.wire.send(&out)).await;
    }
}

impl Wire {
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let sent = async {
            self.socket.write_all(bytes).await?;
            // TLS may hold back what did not fit into the socket at once.
            self.socket.flush().await
        };
        let sent = sent.await;
        sent.map_err(|source| self.lost(source))
    }

    pub(super) async fn receive(&mut self) -> Result<Message, Error> {
        loop {
            let parsed = Message::parse(&mut self.input);
            if let Some(message) = self.built(parsed)? {
                return Ok(message);
            }
            self.fill().await?;
        }
    }

    async fn next_tag(&mut self) -> Result<u8, Error> {
        while self.input.is_empty() {
            self.fill().await?;
        }
        Ok(self.input[0])
    }

    async fn skip_message(&mut self) -> Result<(), Error> {
        loop {
            let parsed = Header::parse(&self.input);
            if let Some(header) = self.built(parsed)? {
                let size = header.len() as usize + 1;
                if self.input.len() >= size {
                    let _ = self.input.split_to(size);
                    return Ok(());
                }
            }
            self.fill().await?;
        }
    }

    pub(super) async fn fill(&mut self) -> Result<(), Error> {
        match self.socket.read_buf(&mut self.input).await {
            Ok(0) => Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(source) => Err(self.lost(source)),
        }
    }

    pub(super) fn lost(&self, source: io::Error) -> Error {
        Error::lost(&self.address, source)
    }

    pub(super) fn protocol(&self, problem: impl Into<String>) -> Error {
        Error::Protocol { address: self.address.clone(), problem: problem.into() }
    }

    pub(super) fn method(&self, method: &str) -> Error {
        Error::Method { address: self.address.clone(), method: method.to_owned() }
    }

    /// Names the server when a message could not be built or taken apart.
    pub(super) fn built<T>(&self, result: io::Result<T>) -> Result<T, Error> {
        result.map_err(|error| self.protocol(error.to_string()))
    }

    pub(super) fn refused(&self, body: &ErrorResponseBody) -> Error {
        refused(&self.address, body)
    }
}

/// A text as SQL and the replication commands take it: `'it''s'`.
pub fn quote_literal(text: &str) -> String {
    // Both grammars take backslashes as they are, with `standard_conforming_strings` at its default.
    format!("'{}'", text.replace('\'', "''"))
}

/// A name as SQL and the replication commands take it: `"a ""b"""`.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
