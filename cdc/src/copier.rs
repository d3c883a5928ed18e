//! Which tables a session copies, and the tasks that do it.

use std::collections::BTreeMap;

use tailwater_topics_contract::{Registrations, TableName};
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::copies::{Copies, Due};
use crate::error::Error;
use crate::publish::past::KafkaPast;
use crate::snapshot::{self, Order, Taken, until_published};
use crate::stream::{Input, Sender, queue};

type Task = JoinHandle<Result<(), snapshot::Error>>;

/// The copies of a session. Dropped, it stops them.
pub(crate) struct Copier {
    config: Config,
    queue: Sender,
    /// As progress said when the session began.
    copied: Copies,
    /// Being copied, or done in this session, and the request that this answers.
    begun: BTreeMap<TableName, i64>,
    /// Waiting for a copy.
    wanted: Vec<TableName>,
    running: Option<Task>,
}

/// What a reader has to copy, and what it leaves out: with `--from-now` the rows of tables that are new to it and that
/// nobody asked for.
pub(crate) fn wanted(
    config: &Config,
    copied: &Copies,
    registered: &Registrations,
) -> (Vec<Due>, Vec<Due>) {
    let is_wanted = |due: &Due| !(config.from_now && due.is_first && due.asked_ms == 0);
    copied.due(registered).into_iter().partition(is_wanted)
}

impl Copier {
    pub(crate) fn new(config: &Config, queue: Sender, copied: Copies) -> Self {
        Self {
            config: config.clone(),
            queue,
            copied,
            begun: BTreeMap::new(),
            wanted: Vec::new(),
            running: None,
        }
    }

    /// Notes which tables have yet to be copied.
    pub(crate) fn on_registrations(&mut self, registered: &Registrations) {
        self.copied.on_registrations(registered);
        let due = self.copied.due(registered);
        // What no topic takes any more must be copied again should one come back.
        self.begun.retain(|table, _| due.iter().any(|due| due.table == *table));
        let waits =
            |due: &Due| self.begun.get(&due.table).is_none_or(|begun| *begun < due.asked_ms);
        let (wanted, _) = wanted(&self.config, &self.copied, registered);
        self.wanted = wanted.into_iter().filter(waits).map(|due| due.table).collect();
    }

    /// Copies what a snapshot holds.
    pub(crate) fn begin(&mut self, taken: Taken) {
        let begun = taken.tables.iter().map(|table| (table.name(), table.due.asked_ms));
        self.begun.extend(begun);
        if taken.tables.is_empty() {
            return;
        }
        let (sender, receiver) = queue(self.config.limits.queue_bytes);
        let past = Box::new(KafkaPast::new(&self.config.kafka));
        self.queue.push(Input::Copy(Box::new(Order::new(&taken, receiver, past))));
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
