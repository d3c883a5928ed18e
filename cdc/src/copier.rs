//! Which tables a session copies, and the tasks that do it.

use std::collections::BTreeSet;

use tailwater_topics_contract::{Registrations, TableName};
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::copies::Copies;
use crate::error::Error;
use crate::snapshot::{self, Order, Taken, until_published};
use crate::stream::{Input, Sender, queue};

type Task = JoinHandle<Result<(), snapshot::Error>>;

/// The copies of a session. Dropped, it stops them.
pub(crate) struct Copier {
    config: Config,
    queue: Sender,
    /// As progress said when the session began.
    copied: Copies,
    /// Being copied, or done in this session.
    begun: BTreeSet<TableName>,
    /// Waiting for a copy.
    wanted: Vec<TableName>,
    running: Option<Task>,
}

impl Copier {
    pub(crate) fn new(config: &Config, queue: Sender, copied: Copies) -> Self {
        Self {
            config: config.clone(),
            queue,
            copied,
            begun: BTreeSet::new(),
            wanted: Vec::new(),
            running: None,
        }
    }

    /// Notes which tables have yet to be copied.
    pub(crate) fn on_registrations(&mut self, registered: &Registrations) {
        self.copied.retain(registered);
        let missing = self.copied.missing(registered);
        // What no topic takes any more must be copied again should one come back.
        self.begun.retain(|table| missing.contains(table));
        if !self.config.from_now {
            self.wanted = missing;
            self.wanted.retain(|table| !self.begun.contains(table));
        }
    }

    /// Copies what a snapshot holds.
    pub(crate) fn begin(&mut self, taken: Taken) {
        self.begun.extend(taken.tables.iter().map(|table| table.name()));
        if taken.tables.is_empty() {
            return;
        }
        let (sender, receiver) = queue(self.config.limits.queue_bytes);
        self.queue.push(Input::Copy(Box::new(Order::new(&taken, receiver))));
        self.running = Some(tokio::spawn(taken.copy(self.config.clone(), sender)));
    }

    /// Answers when the session has to begin anew because a table waits for its copy, or when a copy has failed. May be
    /// given up and called again.
    pub(crate) async fn ended(&mut self) -> Result<(), Error> {
        if let Some(task) = &mut self.running {
            let ended = task.await;
            self.running = None;
            ended.map_err(|_| Error::Panicked)??;
        }
        if self.wanted.is_empty() {
            return std::future::pending().await;
        }
        Ok(until_published(&self.config, &self.wanted).await?)
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        if let Some(task) = &self.running {
            task.abort();
        }
    }
}
