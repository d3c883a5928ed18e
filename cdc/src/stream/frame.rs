//! Messages inside the copy stream, read and written in place.
//!
//! ```text
//!  'd' len32 ─┬─ 'w' start64 end64 clock64 payload…      a change, as pgoutput wrote it
//!             └─ 'k' end64 clock64 reply8                a keepalive
//! ```
//!
//! Other tags may come in between (notices, parameter changes) and are passed over.

use tailwater_topics_contract::Lsn;

/// Bytes before a message's body: tag and length.
pub(super) const HEADER: usize = 5;

/// Longer than any message a server can build (its own limit is 1 GiB).
const LENGTH_MAX: usize = 0x4800_0000;

/// One message of the copy stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A message of the output plugin.
    Data {
        /// LSN of what the message tells.
        start: Lsn,
        /// The server's WAL end when it sent this.
        wal_end: Lsn,
        /// The plugin's message.
        body: &'a [u8],
    },
    /// The server is alive, and has sent everything before `wal_end`.
    Keepalive {
        /// How far it has read the WAL.
        wal_end: Lsn,
        /// Whether it wants a status update now.
        reply: bool,
    },
}

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// The size of the first message with its header, once its length is known.
pub(super) fn size(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some(length) = bytes.get(1..HEADER) else { return Ok(None) };
    let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
    if (4..=LENGTH_MAX).contains(&length) {
        Ok(Some(length + 1))
    } else {
        Err(Malformed("a message with an impossible length"))
    }
}

/// The body of a `d` message.
pub(super) fn copy_data(body: &[u8]) -> Result<Frame<'_>, Malformed> {
    let word = |at: usize| {
        let eight = body.get(at..at + 8)?;
        Some(u64::from_be_bytes(eight.try_into().ok()?))
    };
    let short = Malformed("a message of the copy stream that ends too early");
    match body.first() {
        Some(b'w') => {
            let start = Lsn(word(1).ok_or_else(|| short.clone())?);
            let wal_end = Lsn(word(9).ok_or_else(|| short.clone())?);
            Ok(Frame::Data { start, wal_end, body: body.get(25..).ok_or(short)? })
        }
        Some(b'k') => {
            let wal_end = Lsn(word(1).ok_or_else(|| short.clone())?);
            Ok(Frame::Keepalive { wal_end, reply: *body.get(17).ok_or(short)? != 0 })
        }
        _ => Err(Malformed("a message of the copy stream of an unknown kind")),
    }
}

/// Walks the messages of a chunk that holds only whole ones. Only what the feed has checked comes here, so it
/// simply ends at anything it cannot read.
#[derive(Clone, Debug)]
pub struct Frames<'a>(&'a [u8]);

impl<'a> Frames<'a> {
    /// The messages of a chunk.
    pub fn new(chunk: &'a [u8]) -> Self {
        Self(chunk)
    }

    /// What has not been walked yet.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        loop {
            let size = size(self.0).ok()??;
            let message = self.0.get(..size)?;
            self.0 = &self.0[size..];
            if message[0] == b'd' {
                return copy_data(&message[HEADER..]).ok();
            }
        }
    }
}

/// What we tell the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusUpdate {
    /// Received up to here.
    pub received: Lsn,
    /// Durable in our progress up to here: what the slot may forget.
    pub durable: Lsn,
    /// Milliseconds since 1970.
    pub now_ms: i64,
    /// Whether we want an answer, to learn whether the server is still there.
    pub reply: bool,
}

/// Milliseconds from 1970 to 2000, where Postgres begins to count.
const EPOCH_MS: i64 = 946_684_800_000;

impl StatusUpdate {
    /// The bytes to send.
    pub fn encode(&self) -> [u8; 39] {
        let mut out = [0; 39];
        out[0] = b'd';
        out[1..5].copy_from_slice(&38_u32.to_be_bytes());
        out[5] = b'r';
        out[6..14].copy_from_slice(&self.received.max(self.durable).0.to_be_bytes());
        out[14..22].copy_from_slice(&self.durable.0.to_be_bytes());
        out[22..30].copy_from_slice(&self.durable.0.to_be_bytes());
        let micros = (self.now_ms - EPOCH_MS).saturating_mul(1000);
        out[30..38].copy_from_slice(&micros.to_be_bytes());
        out[38] = u8::from(self.reply);
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        out.extend_from_slice(body);
        out
    }

    fn data(wal_end: u64, payload: &[u8]) -> Vec<u8> {
        let mut body = vec![b'w'];
        body.extend_from_slice(&1_u64.to_be_bytes());
        body.extend_from_slice(&wal_end.to_be_bytes());
        body.extend_from_slice(&0_u64.to_be_bytes());
        body.extend_from_slice(payload);
        message(b'd', &body)
    }

    #[test]
    fn messages_are_found_in_place_and_notices_passed_over() {
        let mut chunk = data(7, b"one");
        chunk.extend(message(b'N', b"SNOTICE\0\0"));
        let mut keepalive = vec![b'k'];
        keepalive.extend_from_slice(&9_u64.to_be_bytes());
        keepalive.extend_from_slice(&[0; 8]);
        keepalive.push(1);
        chunk.extend(message(b'd', &keepalive));
        let frames: Vec<Frame<'_>> = Frames::new(&chunk).collect();
        assert_eq!(
            frames,
            [
                Frame::Data { start: Lsn(1), wal_end: Lsn(7), body: b"one" },
                Frame::Keepalive { wal_end: Lsn(9), reply: true },
            ]
        );
    }

    #[test]
    fn impossible_lengths_are_refused() {
        assert_eq!(size(b"d\0\0"), Ok(None));
        assert!(size(b"d\0\0\0\x03").is_err());
        assert!(size(b"d\xff\xff\xff\xff").is_err());
        assert_eq!(size(b"d\0\0\0\x04"), Ok(Some(5)));
    }

    #[test]
    fn a_status_update_confirms_only_what_is_durable() {
        let update =
            StatusUpdate { received: Lsn(9), durable: Lsn(5), now_ms: EPOCH_MS + 2, reply: true };
        let bytes = update.encode();
        assert_eq!(&bytes[..6], b"d\0\0\0\x26r");
        assert_eq!(bytes[13], 9);
        assert_eq!((bytes[21], bytes[29]), (5, 5));
        assert_eq!(&bytes[36..], &[0x07, 0xd0, 1]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = size(&bytes);
            let _ = copy_data(&bytes);
            let _ = Frames::new(&bytes).count();
        }
    }
}
