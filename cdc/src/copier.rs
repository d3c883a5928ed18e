//! Which tables a session copies, and the tasks that do it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tailwater_topics_contract::{Registrations, TableName};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::config::Config;
use crate::copies::{Copies, Due};
use crate::error::Error;
use crate::joiner::Joiner;
use crate::progress::{self, Record};
use crate::publish::past::KafkaPast;
use crate::snapshot::{Order, Taken, published};
use crate::stream::{Input, queue};

/// Between two looks whether a table is published.
const PUBLISHED_LOOK: Duration = Duration::from_secs(1);

/// Between two looks at the progress record.
const PROGRESS_LOOK: Duration = Duration::from_millis(200);

type Task = JoinHandle<Result<(), Error>>;

/// The copies of a session, one after the other. Dropped, it stops them.
pub(crate) struct Copier {
    config: Config,
    joiner: Joiner,
    registered: Registrations,
    /// As progress said when the session began, or when tables last joined.
    copied: Copies,
    /// Tables that stand elsewhere than the stream, because a session ended before they had joined it.
    apart: BTreeSet<TableName>,
    /// Being copied, or done since then, and the request that this answers.
    begun: BTreeMap<TableName, i64>,
    /// Waiting for a copy.
    wanted: Vec<Due>,
    running: Option<Task>,
    /// Something has ended that progress tells of.
    is_news: bool,
    /// Progress is being read.
    news: Option<JoinHandle<Result<Option<Record>, Error>>>,
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
    pub(crate) fn new(config: &Config, joiner: Joiner, record: &Record) -> Self {
        let joining = record.joining.as_ref();
        Self {
            config: config.clone(),
            joiner,
            registered: Registrations::default(),
            copied: record.tables.clone(),
            apart: joining.map(|joining| joining.tables.clone()).unwrap_or_default(),
            begun: BTreeMap::new(),
            wanted: Vec::new(),
            running: None,
            is_news: false,
            news: None,
        }
    }

    /// Notes which tables have yet to be copied. Answers those whose rows are left out.
    pub(crate) fn on_registrations(&mut self, registered: &Registrations) -> Vec<Due> {
        self.registered = registered.clone();
        self.copied.on_registrations(registered);
        let due = self.copied.due(registered);
        // What no topic takes any more must be copied again should one come back.
        self.begun.retain(|table, _| due.iter().any(|due| due.table == *table));
        let waits =
            |due: &Due| self.begun.get(&due.table).is_none_or(|begun| *begun < due.asked_ms);
        let (wanted, left_out) = wanted(&self.config, &self.copied, registered);
        self.wanted = wanted.into_iter().filter(waits).collect();
        left_out
    }

    /// Copies what a snapshot holds, and the stream waits for it at its point.
    pub(crate) fn begin(&mut self, taken: Taken) {
        let begun = taken.tables.iter().map(|table| (table.name(), table.due.asked_ms));
        self.begun.extend(begun);
        if taken.tables.is_empty() {
            return;
        }
        let (sender, receiver) = queue(self.config.limits.queue_bytes);
        let past = Box::new(KafkaPast::new(&self.config.kafka));
        let order = Order::new(&taken, receiver, past);
        self.joiner.queue.push(Input::Copy(Box::new(order)));
        let config = self.config.clone();
        self.running = Some(tokio::spawn(async move { Ok(taken.copy(config, sender).await?) }));
    }

    /// Lets one table after the other join that waits for a copy. Answers when one has failed. May be given up and called
    /// again.
    pub(crate) async fn failed(&mut self) -> Error {
        loop {
            if let Some(task) = &mut self.running {
                let ended = task.await;
                self.running = None;
                if let Err(error) = ended.unwrap_or(Err(Error::Panicked)) {
                    return error;
                }
                self.is_news = true;
            }
            if self.is_news
                && let Err(error) = self.learn().await
            {
                return error;
            }
            match self.next().await {
                Ok(tables) => self.join(tables),
                Err(error) => return error,
            }
        }
    }

    /// What has been copied says progress.
    async fn learn(&mut self) -> Result<(), Error> {
        let config = &self.config;
        let task = self.news.get_or_insert_with(|| tokio::spawn(settled(config.clone())));
        let record = task.await;
        (self.news, self.is_news) = (None, false);
        // The stream waits for the copy of a first start, and says nothing more until it is done.
        let record = record.unwrap_or(Err(Error::Panicked))?;
        if let Some(record) = record.filter(|record| record.copying.is_none()) {
            self.copied = record.tables;
            self.begun.clear();
            self.on_registrations(&self.registered.clone());
        }
        Ok(())
    }

    /// The tables that join next.
    async fn next(&mut self) -> Result<BTreeSet<TableName>, Error> {
        if !self.apart.is_empty() {
            return Ok(std::mem::take(&mut self.apart));
        }
        if self.wanted.is_empty() {
            std::future::pending::<()>().await;
        }
        let names: Vec<TableName> = self.wanted.iter().map(|due| due.table.clone()).collect();
        loop {
            let found = published(&self.config, &names).await?;
            if !found.is_empty() {
                return Ok(found.into_iter().collect());
            }
            sleep(PUBLISHED_LOOK).await;
        }
    }

    fn join(&mut self, tables: BTreeSet<TableName>) {
        let (due, wanted) = std::mem::take(&mut self.wanted)
            .into_iter()
            .partition(|due| tables.contains(&due.table));
        self.wanted = wanted;
        let due: Vec<Due> = due;
        self.begun.extend(due.iter().map(|due| (due.table.clone(), due.asked_ms)));
        self.running = Some(tokio::spawn(self.joiner.clone().join(tables, due)));
    }
}

/// Progress, once no table is joining any more: those that have joined a moment ago may be shown as joining still.
async fn settled(config: Config) -> Result<Option<Record>, Error> {
    loop {
        let record = progress::read(&config).await?;
        if record.as_ref().is_none_or(|record| record.joining.is_none()) {
            return Ok(record);
        }
        sleep(PROGRESS_LOOK).await;
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        if let Some(task) = &self.running {
            task.abort();
        }
        if let Some(task) = &self.news {
            task.abort();
        }
    }
}
