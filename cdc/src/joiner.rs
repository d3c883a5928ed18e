//! How tables come to a stream that runs already.
//!
//! ```text
//!  the pipeline's slot ─copy─▶ temporary slot ─▶ feed ─ queue ─▶ pipeline: they leave the stream
//!                                     snapshot, once they have ─▶ workers ─ queue ─▶ rows, then their changes
//! ```
//!
//! * The copied slot begins where the pipeline's is confirmed, so at or before the place where the tables leave the stream.
//!   It is made at once, while a new slot would wait for running transactions.
//! * The snapshot needs a new slot for a moment. It is asked for when the tables have left, so its point lies ahead of
//!   where they stand. Only they wait for running transactions.
//! * A server without a free slot or walsender is asked again and again; the stream goes on meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tailwater_topics_contract::{Lsn, TableName};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::copies::Due;
use crate::error::Error;
use crate::found;
use crate::publish::past::KafkaPast;
use crate::slot;
use crate::snapshot::{self, Join, Order, Taken};
use crate::stream::{self, Connection, Copying, Feed, Input, Mode, Sender, Timing, queue};

/// Between two attempts on a server that has no room.
const ROOM_LOOK: Duration = Duration::from_secs(10);

/// What it takes to let tables join.
#[derive(Clone)]
pub(crate) struct Joiner {
    pub(crate) config: Config,
    /// Towards the pipeline.
    pub(crate) queue: Sender,
    timing: Timing,
    /// The server must not wait for us.
    leave: CancellationToken,
}

impl Joiner {
    pub(crate) fn new(
        config: &Config,
        queue: Sender,
        timing: Timing,
        leave: CancellationToken,
    ) -> Self {
        Self { config: config.clone(), queue, timing, leave }
    }

    /// Lets tables join; `due` are those of them whose rows have to be copied. Ends when they have joined, or when the
    /// session is left.
    pub(crate) async fn join(
        self,
        tables: BTreeSet<TableName>,
        due: Vec<Due>,
    ) -> Result<(), Error> {
        let copying = self.stream().await?;
        let (sender, changes) = queue(self.config.limits.queue_bytes);
        // Its own slot is temporary: there is nothing to confirm.
        let feed = Feed::new(copying, sender, Arc::default(), self.timing);
        let joined = self.leave.child_token();
        let (begun, has_begun) = oneshot::channel();
        let until_joined = joined.clone().drop_guard();
        self.queue.push(Input::Join(Box::new(Join { tables, changes, begun, until_joined })));
        let copied = async {
            if has_begun.await.is_ok() {
                self.copy(due).await?;
            }
            joined.cancelled().await;
            Ok(())
        };
        tokio::select! {
            biased;
            fed = feed.run(joined.clone()) => Ok(fed?),
            copied = copied => copied,
        }
    }

    /// The stream of a slot that stands where the pipeline's does.
    async fn stream(&self) -> Result<Copying, Error> {
        loop {
            match self.try_stream().await {
                Err(error) if error.is_full() => until_room(&error).await,
                answer => return Ok(answer?),
            }
        }
    }

    async fn try_stream(&self) -> Result<Copying, stream::Error> {
        let Self { config, .. } = self;
        let application = format!("tailwater {} join", config.pipeline);
        let mut connection =
            Connection::open(&config.postgres, &application, Mode::Replication).await?;
        let own = slot::copy_temporary(&mut connection, &config.pipeline.slot()).await?;
        // From where the slot is confirmed.
        let command = found::streaming(config, &own, Lsn::ZERO);
        connection.stream(&command).await
    }

    async fn copy(&self, due: Vec<Due>) -> Result<(), Error> {
        let Some(taken) = self.snapshot(&due).await? else {
            self.queue.push(Input::JoinCopy(None));
            return Ok(());
        };
        let (sender, receiver) = queue(self.config.limits.queue_bytes);
        let past = Box::new(KafkaPast::new(&self.config.kafka));
        let order = Order::new(&taken, receiver, past);
        self.queue.push(Input::JoinCopy(Some(Box::new(order))));
        Ok(taken.copy(self.config.clone(), sender).await?)
    }

    async fn snapshot(&self, due: &[Due]) -> Result<Option<Taken>, Error> {
        loop {
            match Taken::ahead(&self.config, due).await {
                Err(snapshot::Error::Snapshot(error)) if error.is_full() => {
                    until_room(&error).await;
                }
                Err(snapshot::Error::Snapshot(error @ stream::Error::Silent { .. })) => {
                    tracing::warn!(%error, "a transaction runs for long, and tables wait for its end to join; the stream goes on");
                }
                answer => return Ok(answer?),
            }
        }
    }
}

async fn until_room(error: &stream::Error) {
    tracing::warn!(
        code = "TW104",
        %error,
        "tables cannot join as long as the server has no replication slot and no walsender to spare; the stream goes on. \
         Raise `max_replication_slots` and `max_wal_senders` by 2, or drop a slot that nobody needs"
    );
    sleep(ROOM_LOOK).await;
}
