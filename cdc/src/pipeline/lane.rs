//! One way through the WAL, in order: the stream itself, or that of tables on their way to join it.

use std::collections::VecDeque;

use bytes::Bytes;
use tailwater_topics_contract::{Lsn, Registrations};

use super::copy::Copy;
use crate::capture::Capture;
use crate::error::Error;
use crate::snapshot::{self, Order};
use crate::stream::Frame;

/// The place of the stream among the lanes.
pub(super) const STREAM: usize = 0;

/// The place of tables that are joining it, when there are any.
pub(super) const JOINING: usize = 1;

/// A chunk of which a part was taken.
pub(super) struct Held {
    pub(super) chunk: Bytes,
    pub(super) done: usize,
}

/// Takes frames in the order of commits, and a copy's rows where they belong between them.
pub(super) struct Lane {
    pub(super) capture: Capture,
    /// Everything that committed before this has been taken, as far as the server says so.
    pub(super) passed: Lsn,
    /// Not taken yet.
    pub(super) registered: Option<Registrations>,
    /// Copies whose point has not been reached.
    pub(super) orders: VecDeque<Order>,
    /// The copy that is being written; no frame is taken until it is done.
    pub(super) copy: Option<Copy>,
    pub(super) held: Option<Held>,
}

impl Lane {
    /// Goes on where `capture` stands.
    pub(super) fn new(capture: Capture, passed: Lsn) -> Self {
        let orders = VecDeque::new();
        Self { capture, passed, registered: None, orders, copy: None, held: None }
    }

    /// Everything that committed before this has been taken.
    pub(super) fn passed(&self) -> Lsn {
        self.passed.max(self.capture.at().position)
    }

    /// No transaction is open, and none of which a part is in Kafka has yet to come.
    pub(super) fn is_between(&self) -> bool {
        !self.capture.is_inside_transaction() && self.capture.at().in_flight.is_none()
    }

    /// Takes a copy that is to be made once its point is reached. One whose point has been passed is refused: its rows
    /// would stand behind changes that followed them.
    pub(super) fn on_order(&mut self, order: Order) -> Result<(), Error> {
        let passed = self.passed();
        if order.at < passed {
            return Err(snapshot::Error::Passed { at: order.at, passed }.into());
        }
        self.orders.push_back(order);
        Ok(())
    }

    /// Notes what a frame that comes next says of all before it. Answers where its transaction committed, if it begins one.
    pub(super) fn look(&mut self, frame: Frame<'_>) -> Option<Lsn> {
        // A message outside of transactions takes the stream on as a transaction does.
        let Frame::Data { body: [b'B', lsn @ ..] | [b'M', 0, lsn @ ..], .. } = frame else {
            return None;
        };
        // Transactions come in the order of their commits, so everything before this one has been taken.
        let lsn = Lsn(u64::from_be_bytes(*lsn.first_chunk()?));
        self.passed = self.passed.max(lsn);
        Some(lsn)
    }
}
