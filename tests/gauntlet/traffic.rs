//! Rows that come, change and go while the sinks suffer.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Ids that are used again and again, so that most rows have a history.
const IDS: i32 = 500;
/// Between two transactions.
const PAUSE: Duration = Duration::from_millis(15);

/// A writer at work.
pub(crate) struct Traffic {
    stop: watch::Sender<bool>,
    writer: JoinHandle<anyhow::Result<u64>>,
}

impl Traffic {
    pub(crate) fn start(mut client: tokio_postgres::Client, seed: u64) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut random = StdRng::seed_from_u64(seed);
        let writer = tokio::spawn(async move {
            let mut count = 0;
            while !*stopped.borrow() {
                write(&mut client, &mut random).await?;
                count += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Ok(count)
        });
        Self { stop, writer }
    }

    /// Ends it; answers how many transactions were committed or rolled back.
    pub(crate) async fn stop(self) -> anyhow::Result<u64> {
        self.stop.send(true)?;
        self.writer.await?
    }
}

/// One transaction of a few changes; some are rolled back.
async fn write(client: &mut tokio_postgres::Client, random: &mut StdRng) -> anyhow::Result<()> {
    let transaction = client.transaction().await?;
    for _ in 0..random.random_range(1..=6) {
        let id = random.random_range(0..IDS);
        if random.random_bool(0.2) {
            transaction.execute("delete from zoo.animals where id = $1", &[&id]).await?;
            continue;
        }
        let (name, weight) = (format!("animal {}", random.random::<u32>()), random.random::<i64>());
        let notes = random.random_bool(0.5).then(|| "ö\"\\\n".repeat(random.random_range(0..200)));
        let upsert = "insert into zoo.animals values ($1, $2, $3, $4) on conflict (id)
                      do update set name = excluded.name, weight = excluded.weight, notes = excluded.notes";
        transaction.execute(upsert, &[&id, &name, &weight, &notes]).await?;
    }
    if random.random_bool(0.05) {
        transaction.rollback().await?;
    } else {
        transaction.commit().await?;
    }
    Ok(())
}
