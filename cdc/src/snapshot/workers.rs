//! Reads the ranges, several at a time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinSet;

use super::keeper::{enter, open};
use super::ranges::Range;
use super::{Error, Rows, Table, Taken};
use crate::config::Config;
use crate::stream::{Connection, Lines, Sender};

/// What every worker needs.
struct Work {
    config: Config,
    snapshot: String,
    tables: Vec<Table>,
    ranges: Mutex<VecDeque<Range>>,
    rows: Sender<Rows>,
}

impl Taken {
    /// Reads everything and hands it over. Given up at any point, it leaves nothing behind.
    pub(crate) async fn copy(self, config: Config, rows: Sender<Rows>) -> Result<(), Error> {
        let Self { keeper, tables, ranges, .. } = self;
        let count = config.limits.copy_workers.min(ranges.len());
        let snapshot = keeper.snapshot.clone();
        let ranges = Mutex::new(ranges);
        let work = Arc::new(Work { config, snapshot, tables, ranges, rows });
        let mut workers = JoinSet::new();
        for _ in 0..count {
            let work = Arc::clone(&work);
            workers.spawn(async move { work.run().await });
        }
        while let Some(ended) = workers.join_next().await {
            // The others are stopped when the set is dropped.
            ended.unwrap_or(Err(Error::Gone))?;
        }
        drop(keeper);
        Ok(())
    }
}

impl Work {
    async fn run(&self) -> Result<(), Error> {
        let mut connection = open(&self.config).await.map_err(Error::Snapshot)?;
        while let Some(range) = self.next() {
            self.copy(&mut connection, &range).await?;
        }
        connection.close().await;
        Ok(())
    }

    fn next(&self) -> Option<Range> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// One range in a transaction of its own, so that its lock ends with it.
    async fn copy(&self, connection: &mut Connection, range: &Range) -> Result<(), Error> {
        let place = range.leaf.table;
        let table = &self.tables[place];
        let read = |source: crate::stream::Error| {
            // Undefined table or column: somebody altered it since it was looked up.
            if source.is("42P01") || source.is("42703") {
                Error::Changed { table: table.name() }
            } else {
                Error::Read { table: table.name(), source }
            }
        };
        enter(connection, &self.snapshot).await?;
        let sql = range.sql(&table.columns(), table.filter.as_deref());
        let mut out = connection.copy_out(&sql).await.map_err(read)?;
        let mut rows = 0;
        while let Some(chunk) = out.next().await.map_err(read)? {
            rows += Lines::new(&chunk).count() as u64;
            self.rows.room_for(chunk.len()).await;
            if !self.rows.push(Rows::Chunk { table: place, chunk }) {
                return Err(Error::Gone);
            }
        }
        let sent = out.rows();
        if rows != sent {
            return Err(Error::Count { table: table.name(), found: rows, sent });
        }
        let leaf = &range.leaf;
        let sql =
            format!("SELECT pg_catalog.pg_relation_filenode({}) = {}", leaf.oid, leaf.filenode);
        let same = connection.query(&sql).await.map_err(read)?;
        if same.first().and_then(|row| row.get(0)) != Some("t") {
            return Err(Error::Changed { table: table.name() });
        }
        connection.query("COMMIT").await.map_err(read)?;
        self.rows.push(Rows::Range { table: place, bytes: range.bytes });
        Ok(())
    }
}
