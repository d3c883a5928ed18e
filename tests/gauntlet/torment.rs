//! Two workers, and what is done to them.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::Rng;
use rand::rngs::StdRng;
use tailwater_tests::{Held, Line, Mischief, Process, Worker};

/// The workers' session time-out, and time for the group to hand the partitions on.
const TAKEOVER: Duration = Duration::from_millis(7_500);
/// How long a write may let itself be waited for.
const WRITE_MAX: Duration = Duration::from_secs(60);

/// How often each thing is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Often {
    pub(crate) freezes: u32,
    pub(crate) kills: u32,
    pub(crate) cuts: u64,
    pub(crate) faults: u64,
}

impl Often {
    /// A short form unless told otherwise.
    pub(crate) fn from_env() -> anyhow::Result<Self> {
        let mut often = Self { freezes: 1, kills: 5, cuts: 10, faults: 14 };
        let Ok(told) = std::env::var("TAILWATER_GAUNTLET") else { return Ok(often) };
        for part in told.split(',') {
            let (name, count) = part.split_once('=').context("expected name=count,…")?;
            let count: u32 = count.parse().with_context(|| format!("`{part}`"))?;
            match name {
                "freezes" => often.freezes = count,
                "kills" => often.kills = count,
                "cuts" => often.cuts = count.into(),
                "faults" => often.faults = count.into(),
                _ => anyhow::bail!("`{name}` is none of freezes, kills, cuts, faults"),
            }
        }
        Ok(often)
    }
}

/// The two workers.
pub(crate) struct Tormented<'l> {
    line: &'l Line,
    workers: [Worker; 2],
    processes: [Process; 2],
}

impl<'l> Tormented<'l> {
    pub(crate) async fn start(line: &'l Line, random: &mut StdRng) -> anyhow::Result<Self> {
        // One of each kind: a member of the group under a fixed name, and one that is another each time.
        let workers = [
            line.worker("a", Some("a"), random.random()).await?,
            line.worker("b", None, random.random()).await?,
        ];
        let mut processes = [line.start(&workers[0])?, line.start(&workers[1])?];
        for (worker, process) in workers.iter().zip(&mut processes) {
            line.wait_until_ready(worker, process).await?;
        }
        Ok(Self { line, workers, processes })
    }

    /// Freezes a worker with a write under way, long enough for the other to take over, then lets both go on.
    pub(crate) async fn freeze(&mut self, times: u32, random: &mut StdRng) -> anyhow::Result<()> {
        let (began, mut uploads) = (Instant::now(), 0);
        for time in 0..times {
            let victim = random.random_range(0..2);
            let is_upload = time % 2 == 0;
            let late = random.random_range(0..3);
            uploads += u64::from(is_upload);
            self.freeze_one(victim, is_upload, late).await.with_context(|| {
                format!("freeze {time}: worker {victim}, upload {is_upload}, {late}")
            })?;
        }
        let lost: usize =
            self.processes.iter().map(|process| process.lines_with("\"lost\":true")).sum();
        let beaten: u64 = self.workers.iter().map(|worker| worker.store.beaten()).sum();
        println!(
            "{times} freezes in {:.0?}, {uploads} of them during an upload: {beaten} uploads came late to a taken \
             key, partitions were lost {lost} times",
            began.elapsed()
        );
        ensure!(times == 0 || lost > 0, "no session ended: nothing was tried");
        // One whose successor had nothing to write yet is no zombie.
        ensure!(
            uploads < 10 || beaten * 2 >= uploads,
            "hardly any late upload met its successor's work"
        );
        Ok(())
    }

    async fn freeze_one(
        &mut self,
        victim: usize,
        is_upload: bool,
        late: u32,
    ) -> anyhow::Result<()> {
        let (worker, process) = (&self.workers[victim], &mut self.processes[victim]);
        let proxy = if is_upload { &worker.store } else { &worker.index };
        let held = tokio::time::timeout(WRITE_MAX, proxy.hold_next()).await;
        let held: Held =
            held.with_context(|| format!("it wrote nothing:\n{}", process.last_words()))??;
        process.freeze()?;
        tokio::time::sleep(TAKEOVER).await;
        // The write arrives while its writer is frozen, as it wakes up, or after it has been awake for a while.
        match late {
            0 => {
                held.release();
                tokio::time::sleep(Duration::from_millis(300)).await;
                process.thaw()?;
            }
            1 => {
                process.thaw()?;
                held.release();
            }
            _ => {
                process.thaw()?;
                tokio::time::sleep(Duration::from_millis(500)).await;
                held.release();
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.line.wait_until_ready(&self.workers[victim], &mut self.processes[victim]).await?;
        self.check_running()
    }

    /// Kills one at random, again and again, and starts it anew.
    pub(crate) async fn kill(&mut self, times: u32, random: &mut StdRng) -> anyhow::Result<()> {
        let began = Instant::now();
        for _ in 0..times {
            tokio::time::sleep(Duration::from_millis(random.random_range(20..1_200))).await;
            self.check_running()?;
            // The one that is another member each time costs the group a session when it dies.
            let victim = usize::from(random.random_bool(0.1));
            self.processes[victim].kill()?;
            self.processes[victim] = self.line.start(&self.workers[victim])?;
        }
        for (worker, process) in self.workers.iter().zip(&mut self.processes) {
            self.line.wait_until_ready(worker, process).await?;
        }
        println!("{times} kills in {:.0?}", began.elapsed());
        Ok(())
    }

    /// Every third write is done and its reply lost, until so many were.
    pub(crate) async fn cut_replies(&mut self, times: u64) -> anyhow::Result<()> {
        let share = Mischief { cut_reply: 0.33, ..Mischief::default() };
        self.until("replies cut", share, |[_, cut, _]| cut, times).await
    }

    /// One in five writes is refused, one in twenty done without a reply, one in twenty reset, until so many were.
    pub(crate) async fn fail_writes(&mut self, times: u64) -> anyhow::Result<()> {
        let share = Mischief { refuse: 0.20, cut_reply: 0.05, reset: 0.05 };
        self.until("writes failed", share, |[_, cut, refused]| cut + refused, times).await
    }

    async fn until(
        &mut self,
        what: &str,
        mischief: Mischief,
        count: impl Fn([u64; 3]) -> u64,
        times: u64,
    ) -> anyhow::Result<()> {
        let (began, before) = (Instant::now(), self.counts());
        self.set(mischief);
        let limit = Duration::from_secs(60 + times);
        let done = |now: [[u64; 3]; 2]| {
            let of = |both: [[u64; 3]; 2]| both.map(&count);
            let (now, before) = (of(now), of(before));
            [now[0] - before[0], now[1] - before[1]]
        };
        // Half of them at the store and half at the index.
        while done(self.counts()).iter().any(|done| *done < times / 2) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            self.check_running()?;
            ensure!(
                began.elapsed() < limit,
                "{what}: only {:?} within {limit:?}",
                done(self.counts())
            );
        }
        self.set(Mischief::default());
        let [store, index] = done(self.counts());
        println!("{what} in {:.0?}: {store} of the store, {index} of the index", began.elapsed());
        Ok(())
    }

    fn set(&self, mischief: Mischief) {
        for worker in &self.workers {
            worker.store.set(mischief);
            worker.index.set(mischief);
        }
    }

    /// What the proxies before the stores counted together, and those before the indices.
    fn counts(&self) -> [[u64; 3]; 2] {
        let sum = |of: &dyn Fn(&Worker) -> [u64; 3]| {
            let (a, b) = (of(&self.workers[0]), of(&self.workers[1]));
            [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
        };
        [sum(&|worker| worker.store.counts()), sum(&|worker| worker.index.counts())]
    }

    fn check_running(&mut self) -> anyhow::Result<()> {
        self.processes.iter_mut().try_for_each(Process::check_running)
    }

    /// Lets both drain.
    pub(crate) fn stop(mut self, within: Duration) -> anyhow::Result<()> {
        self.check_running()?;
        self.processes.into_iter().try_for_each(|process| process.stop(within))
    }
}
