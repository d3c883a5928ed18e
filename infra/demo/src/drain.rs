//! Waits until everything has arrived everywhere.

use std::time::{Duration, Instant};

use crate::reconcile::{Judge, Tally};

/// How long the stores may stand still without agreeing before it is called a loss.
const STILL_MAX: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(500);

/// How a drain ended.
#[derive(Debug)]
pub struct Drained {
    /// Whether the counts agree.
    pub agreed: bool,
    /// From the call to the end.
    pub took: Duration,
    /// The last counts.
    pub tally: Tally,
}

/// Counts until all stores agree, or until nothing has moved for 90 seconds. `show` is told every count.
pub async fn drain(judge: &mut Judge, mut show: impl FnMut(&Tally)) -> anyhow::Result<Drained> {
    let start = Instant::now();
    let mut moved = start;
    let mut tally = judge.tally().await?;
    loop {
        show(&tally);
        if tally.agrees() || moved.elapsed() > STILL_MAX {
            return Ok(Drained { agreed: tally.agrees(), took: start.elapsed(), tally });
        }
        tokio::time::sleep(PAUSE).await;
        let next = judge.tally().await?;
        if next != tally {
            moved = Instant::now();
        }
        tally = next;
    }
}
