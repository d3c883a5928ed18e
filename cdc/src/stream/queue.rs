//! What was received and not yet decoded: ordered, bounded in bytes.
//!
//! The sending side waits in Tokio, the receiving side on a thread of its own with a deadline; no ready-made
//! channel does both. So a plain channel carries the chunks and a semaphore counts their bytes.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use tailwater_topics_contract::Registrations;
use tokio::sync::Semaphore;

use crate::copies::Due;
use crate::snapshot::{Join, Order};

/// What the pipeline thread is given, in order.
#[derive(Debug)]
pub enum Input {
    /// Whole messages of the stream.
    Chunk(Bytes),
    /// What is registered has changed.
    Registrations(Registrations),
    /// Rows that these tables hold are not wanted.
    LeftOut(Vec<Due>),
    /// Rows that tables hold already are to be copied at a point that the stream has yet to reach, and it waits for them.
    Copy(Box<Order>),
    /// Tables leave the stream, to join it again once their rows are copied.
    Join(Box<Join>),
    /// Their rows, at a point that they have yet to reach; `None` when there are none to be copied.
    JoinCopy(Option<Box<Order>>),
    /// Look at the stop flag.
    Wake,
}

/// One permit per this many bytes, because a semaphore counts to 2^32 only and single messages may be large.
const UNIT: usize = 1024;

/// The side of the connection.
#[derive(Debug)]
pub struct Sender<T = Input> {
    inputs: mpsc::Sender<T>,
    room: Arc<Semaphore>,
    units_max: u32,
}

/// The side of the pipeline thread.
#[derive(Debug)]
pub struct Receiver<T = Input> {
    inputs: mpsc::Receiver<T>,
    room: Arc<Semaphore>,
    units_max: u32,
}

/// A queue that holds `bytes_max` bytes, or one larger message.
pub fn queue<T>(bytes_max: usize) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = mpsc::channel();
    let units_max = (bytes_max / UNIT).clamp(1, 1 << 24) as u32;
    let room = Arc::new(Semaphore::new(units_max as usize));
    (
        Sender { inputs: sender, room: Arc::clone(&room), units_max },
        Receiver { inputs: receiver, room, units_max },
    )
}

fn units(bytes: usize, units_max: u32) -> u32 {
    bytes.div_ceil(UNIT).min(units_max as usize) as u32
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        let (inputs, room) = (self.inputs.clone(), Arc::clone(&self.room));
        Self { inputs, room, units_max: self.units_max }
    }
}

impl<T> Sender<T> {
    /// Waits until a chunk of this size has room. Nothing is lost when the wait is given up.
    pub async fn room_for(&self, bytes: usize) {
        // The semaphore is never closed, so the permit always comes; it is given back by the receiver.
        if let Ok(permit) = self.room.acquire_many(units(bytes, self.units_max)).await {
            permit.forget();
        }
    }

    /// Hands over; for a chunk, after [`Self::room_for`]. `false` when the pipeline is gone.
    pub fn push(&self, input: T) -> bool {
        self.inputs.send(input).is_ok()
    }
}

impl<T> Receiver<T> {
    /// The next input, or why there is none.
    pub fn pop(&self, wait: Duration) -> Result<T, mpsc::RecvTimeoutError> {
        // Without this look a wait of zero would time out although something is there.
        match self.inputs.try_recv() {
            Ok(input) => Ok(input),
            Err(mpsc::TryRecvError::Disconnected) => Err(mpsc::RecvTimeoutError::Disconnected),
            Err(mpsc::TryRecvError::Empty) => self.inputs.recv_timeout(wait),
        }
    }

    /// Gives back the room of a chunk that has been decoded.
    pub fn done(&self, bytes: usize) {
        self.room.add_permits(units(bytes, self.units_max) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_holds_the_sender_until_a_chunk_is_done() {
        let (sender, receiver) = queue(4096);
        sender.room_for(4096).await;
        sender.push(Input::Chunk(Bytes::from_static(&[0; 4096])));
        let wait = Duration::from_millis(20);
        assert!(tokio::time::timeout(wait, sender.room_for(1)).await.is_err());
        assert!(matches!(receiver.pop(Duration::ZERO), Ok(Input::Chunk(_))));
        receiver.done(4096);
        assert!(tokio::time::timeout(wait, sender.room_for(1)).await.is_ok());
    }

    #[tokio::test]
    async fn a_message_larger_than_the_queue_passes_alone() {
        let (sender, receiver) = queue::<Input>(4096);
        sender.room_for(1 << 20).await;
        receiver.done(1 << 20);
        sender.room_for(4096).await;
    }
}
