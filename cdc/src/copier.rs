//! Which tables a session copies, and the tasks that do it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;

use tailwater_topics_contract::{Registrations, TableName};
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::copies::Copies;
use crate::error::Error;
use crate::snapshot::{self, Order, Taken};
use crate::stream::{Input, Sender, queue};

type Task = JoinHandle<Result<(), snapshot::Error>>;
type Taking = Pin<Box<dyn Future<Output = Result<Taken, snapshot::Error>> + Send>>;

/// A snapshot being taken, and of what.
struct Wish {
    names: BTreeSet<TableName>,
    taking: Taking,
}

/// The copies of a session, one after the other. Dropped, it stops them.
pub(crate) struct Copier {
    config: Config,
    queue: Sender,
    /// As progress said when the session began.
    copied: Copies,
    /// Being copied, or done in this session.
    begun: BTreeSet<TableName>,
    wanted: BTreeSet<TableName>,
    wish: Option<Wish>,
    running: Option<Task>,
}

impl Copier {
    pub(crate) fn new(config: &Config, queue: Sender, copied: Copies) -> Self {
        Self {
            config: config.clone(),
            queue,
            copied,
            begun: BTreeSet::new(),
            wanted: BTreeSet::new(),
            wish: None,
            running: None,
        }
    }

    /// Tables that have yet to be copied are, as soon as nothing else is being copied.
    pub(crate) fn on_registrations(&mut self, registered: &Registrations) {
        self.copied.retain(registered);
        let missing: BTreeSet<TableName> = self.copied.missing(registered).into_iter().collect();
        // What no topic takes any more must be copied again should one come back.
        self.begun.retain(|table| missing.contains(table));
        if !self.config.from_now {
            let wished = self.wish.iter().flat_map(|wish| &wish.names).collect::<BTreeSet<_>>();
            let is_new =
                |table: &&TableName| !self.begun.contains(*table) && !wished.contains(table);
            self.wanted = missing.iter().filter(is_new).cloned().collect();
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

    /// Answers only when a copy has failed. May be given up and called again.
    pub(crate) async fn failed(&mut self) -> Error {
        match self.copy_all().await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    /// Makes one copy after the other.
    async fn copy_all(&mut self) -> Result<Infallible, Error> {
        loop {
            if let Some(task) = &mut self.running {
                let ended = task.await;
                self.running = None;
                ended.map_err(|_| Error::Panicked)??;
            } else if let Some(wish) = &mut self.wish {
                let taken = (&mut wish.taking).await;
                let names = self.wish.take().map(|wish| wish.names).unwrap_or_default();
                self.begin(taken?);
                // Those that are not published yet.
                self.wanted.extend(names.difference(&self.begun).cloned());
            } else if self.wanted.is_empty() {
                return std::future::pending().await;
            } else {
                let names = std::mem::take(&mut self.wanted);
                let (config, wanted) = (self.config.clone(), names.iter().cloned().collect());
                let taking = Box::pin(async move { Taken::beside(&config, wanted).await });
                self.wish = Some(Wish { names, taking });
            }
        }
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        if let Some(task) = &self.running {
            task.abort();
        }
    }
}
