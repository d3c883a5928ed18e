//! `COPY … TO STDOUT`, taken in chunks of whole messages.

use bytes::Bytes;
use bytes::BytesMut;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::Error;
use super::connection::{Connection, Wire};
use super::frame::{self, HEADER};

/// Room for one read.
const BLOCK: usize = 256 << 10;

/// A copy that the server is sending. Dropped before its end, it leaves the session unusable.
#[derive(Debug)]
pub struct CopyOut<'c> {
    wire: &'c mut Wire,
    rows: u64,
    refused: Option<Error>,
}

impl Connection {
    /// Runs a `COPY … TO STDOUT` statement. Without a limit in time: a filter may pass over much before it finds a row.
    pub async fn copy_out(&mut self, sql: &str) -> Result<CopyOut<'_>, Error> {
        let mut out = BytesMut::new();
        self.wire.built(frontend::query(sql, &mut out))?;
        self.wire.send(&out).await?;
        Ok(CopyOut { wire: &mut self.wire, rows: 0, refused: None })
    }
}

impl CopyOut<'_> {
    /// The next lines, for [`Lines`]; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            match self.whole()? {
                0 => {}
                whole => return Ok(Some(self.wire.input.split_to(whole).freeze())),
            }
            if self.wire.input.first().is_some_and(|tag| *tag != b'd')
                && let Some(message) = self.parse()?
            {
                match message {
                    Message::CommandComplete(body) => {
                        let tag = self.wire.built(body.tag())?;
                        let rows = tag.rsplit(' ').next().and_then(|rows| rows.parse().ok());
                        self.rows = rows.unwrap_or_default();
                    }
                    Message::ErrorResponse(body) => self.refused = Some(self.wire.refused(&body)),
                    Message::ReadyForQuery(_) => return self.refused.take().map_or(Ok(None), Err),
                    Message::CopyOutResponse(_)
                    | Message::CopyDone
                    | Message::NoticeResponse(_)
                    | Message::ParameterStatus(_) => {}
                    _ => return Err(self.wire.protocol("an unexpected answer to COPY")),
                }
                continue;
            }
            self.wire.fill().await?;
        }
    }

    /// How many rows the server says it has sent; known after the last line.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    fn parse(&mut self) -> Result<Option<Message>, Error> {
        let parsed = Message::parse(&mut self.wire.input);
        self.wire.built(parsed)
    }

    /// Bytes of whole lines that have arrived; makes room for what has not.
    fn whole(&mut self) -> Result<usize, Error> {
        let mut whole = 0;
        loop {
            let rest = &self.wire.input[whole..];
            if rest.first().is_some_and(|tag| *tag != b'd') {
                return Ok(whole);
            }
            let size = frame::size(rest).map_err(|error| self.wire.protocol(error.0))?;
            match size {
                Some(size) if rest.len() >= size => whole += size,
                size => {
                    let missing = size.map_or(0, |size| size - rest.len());
                    if whole == 0 {
                        self.wire.input.reserve(missing.max(BLOCK));
                    }
                    return Ok(whole);
                }
            }
        }
    }
}

/// Walks the lines of a chunk.
#[derive(Clone, Debug)]
pub struct Lines<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    /// The lines of a chunk that holds only whole messages.
    pub fn new(chunk: &'a [u8]) -> Self {
        Self(chunk)
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let size = frame::size(self.0).ok()??;
        let message = self.0.get(..size)?;
        self.0 = &self.0[size..];
        Some(&message[HEADER..])
    }
}
