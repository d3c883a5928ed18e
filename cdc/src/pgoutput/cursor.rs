//! Checked reads over bytes.

use tailwater_topics_contract::Lsn;

/// Microseconds from 1970 to 2000, where Postgres begins to count.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// Bytes that are no message of protocol version 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends in the middle of a field.
    #[error("a `{tag}` message ends in its {field}")]
    Short {
        /// Which message.
        tag: char,
        /// Which field.
        field: &'static str,
    },
    /// The message goes on after its last field.
    #[error("a `{tag}` message has {count} bytes too many")]
    Trailing {
        /// Which message.
        tag: char,
        /// How many.
        count: usize,
    },
    /// A message kind that protocol version 1 does not have.
    #[error("unknown message kind {tag:#04x}")]
    Tag {
        /// Its first byte.
        tag: u8,
    },
    /// A byte that must be one of a few and is another.
    #[error("a `{tag}` message has {found:#04x} as its {field}")]
    Choice {
        /// Which message.
        tag: char,
        /// Which field.
        field: &'static str,
        /// The byte.
        found: u8,
    },
    /// A name that is not UTF-8.
    #[error("a `{tag}` message has a {field} that is not UTF-8")]
    Name {
        /// Which message.
        tag: char,
        /// Which field.
        field: &'static str,
    },
    /// No bytes at all.
    #[error("an empty message")]
    Empty,
}

/// The bytes of one message not yet read.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    tag: char,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(tag: char, rest: &'a [u8]) -> Self {
        Self { rest, tag }
    }

    pub(super) fn tag(&self) -> char {
        self.tag
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn bytes(
        &mut self,
        count: usize,
        field: &'static str,
    ) -> Result<&'a [u8], DecodeError> {
        let (head, rest) =
            self.rest.split_at_checked(count).ok_or(DecodeError::Short { tag: self.tag, field })?;
        self.rest = rest;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Short { tag: self.tag, field })?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(super) fn i32(&mut self, field: &'static str) -> Result<i32, DecodeError> {
        self.array(field).map(i32::from_be_bytes)
    }

    pub(super) fn lsn(&mut self, field: &'static str) -> Result<Lsn, DecodeError> {
        self.array(field).map(|bytes| Lsn(u64::from_be_bytes(bytes)))
    }

    /// Microseconds since 1970.
    pub(super) fn time_us(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        let since_2000 = self.array(field).map(i64::from_be_bytes)?;
        Ok(since_2000.saturating_add(POSTGRES_EPOCH_US))
    }

    /// A text that ends with a zero byte.
    pub(super) fn text(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let short = DecodeError::Short { tag: self.tag, field };
        let end = self.rest.iter().position(|byte| *byte == 0).ok_or(short)?;
        let text = self.bytes(end, field)?;
        self.u8(field)?;
        std::str::from_utf8(text).map_err(|_| DecodeError::Name { tag: self.tag, field })
    }

    pub(super) fn refuse(&self, field: &'static str, found: u8) -> DecodeError {
        DecodeError::Choice { tag: self.tag, field, found }
    }

    /// Ends the message: nothing may be left.
    pub(super) fn finish<T>(self, message: T) -> Result<T, DecodeError> {
        match self.rest.len() {
            0 => Ok(message),
            count => Err(DecodeError::Trailing { tag: self.tag, count }),
        }
    }
}
