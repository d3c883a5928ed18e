//! A log in memory with Kafka's promises, and with faults on demand: the other implementation that the
//! contract of [`Publisher`] is tested with.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Error, Publisher};
use crate::batch::Batch;
use crate::progress::Ends;

/// One record as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The topic.
    pub topic: String,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: Option<Vec<u8>>,
    /// The headers.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// On which side of a step the reader dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The step did not happen.
    Before,
    /// The step happened and nobody was told.
    After,
}

/// The log. It outlives its writers; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Log>>);

#[derive(Debug, Default)]
struct Log {
    committed: Vec<Stored>,
    progress: Vec<Vec<u8>>,
    transactions: Vec<usize>,
    generation: u64,
    steps: u64,
    fault: Option<(u64, Fault)>,
}

/// One writer; the next one fences it.
#[derive(Debug)]
pub struct Writer {
    log: Memory,
    generation: u64,
    open: Vec<Stored>,
}

impl Memory {
    /// A new writer, which fences all before it and drops what they left open.
    pub fn writer(&self) -> Writer {
        let mut log = self.log();
        log.generation += 1;
        Writer { log: self.clone(), generation: log.generation, open: Vec::new() }
    }

    /// Lets the `step`-th call from now, counted from 0, fail.
    pub fn fail_at(&self, step: u64, fault: Fault) {
        let mut log = self.log();
        log.steps = 0;
        log.fault = Some((step, fault));
    }

    /// Whether the fault has struck.
    pub fn has_failed(&self) -> bool {
        let log = self.log();
        log.fault.is_some_and(|(step, _)| log.steps > step)
    }

    /// Every committed record, in order.
    pub fn committed(&self) -> Vec<Stored> {
        self.log().committed.clone()
    }

    /// How many records each committed transaction had.
    pub fn transactions(&self) -> Vec<usize> {
        self.log().transactions.clone()
    }

    /// Every committed progress value, in order.
    pub fn progress(&self) -> Vec<Vec<u8>> {
        self.log().progress.clone()
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Counts the step, and does it unless the fault comes first.
    fn step(&mut self, act: impl FnOnce(&mut Self)) -> Result<(), Error> {
        let step = self.steps;
        self.steps += 1;
        let struck = self.fault.filter(|(at, _)| *at == step);
        if let Some((_, Fault::Before)) = struck {
            return Err(lost());
        }
        act(self);
        if struck.is_some() { Err(lost()) } else { Ok(()) }
    }
}

fn lost() -> Error {
    Error::Unclear(Box::new(rdkafka::error::KafkaError::Canceled))
}

impl Publisher for Writer {
    fn send(&mut self, batch: &Batch) -> Result<(), Error> {
        let mut log = self.log.log();
        if log.generation != self.generation {
            return Err(Error::Fenced);
        }
        let records = batch.records().map(|record| Stored {
            topic: record.topic().to_string(),
            key: record.key().map(<[u8]>::to_vec),
            value: record.value().map(<[u8]>::to_vec),
            headers: record
                .headers()
                .map(|(name, value)| (name.to_owned(), value.to_vec()))
                .collect(),
        });
        let open = &mut self.open;
        log.step(|_| open.extend(records))
    }

    fn commit(&mut self, progress: &[u8]) -> Result<(), Error> {
        let mut log = self.log.log();
        if log.generation != self.generation {
            return Err(Error::Fenced);
        }
        let open = &mut self.open;
        log.step(|log| {
            log.transactions.push(open.len());
            log.committed.append(open);
            log.progress.push(progress.to_vec());
        })
    }

    fn abort(&mut self) {
        self.open.clear();
    }

    fn ends(&self) -> Ends {
        Ends::new()
    }
}
