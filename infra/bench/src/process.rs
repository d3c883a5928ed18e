//! A measured process.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// How long a process may take to drain before it counts as hung.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// A process and when it began.
pub(crate) struct Measured {
    child: Child,
    began: Instant,
}

/// What a stage cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Wall-clock seconds.
    pub(crate) seconds: f64,
    /// CPU-seconds of the process, user and system.
    pub(crate) cpu_seconds: f64,
    /// Most memory it held, in MiB.
    pub(crate) peak_mib: f64,
}

impl Cost {
    /// What was added since an earlier look; the peak stays the process's own.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            seconds: self.seconds - before.seconds,
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
            peak_mib: self.peak_mib,
        }
    }

    /// The figures of a stage that handled `rows`.
    pub(crate) fn line(&self, rows: u64) -> String {
        let rows = rows as f64;
        format!(
            "{:>8.0} rows/s  {:>6.1} s  {:>5.2} cores  {:>6.2} CPU-s per million  {:>6.1} MiB peak",
            rows / self.seconds,
            self.seconds,
            self.cpu_seconds / self.seconds,
            self.cpu_seconds / rows * 1e6,
            self.peak_mib
        )
    }
}

/// A run that fails leaves nothing behind.
impl Drop for Measured {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

impl Measured {
    /// Starts a process; what it says goes to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        Ok(Self { child, began: Instant::now() })
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// What it cost until now.
    pub(crate) fn cost(&self) -> anyhow::Result<Cost> {
        let folder = format!("/proc/{}", self.child.id());
        let stat =
            std::fs::read_to_string(format!("{folder}/stat")).context("the process is gone")?;
        // The name in parentheses may hold spaces; utime and stime are the 12th and 13th fields after it.
        let fields: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")?;
        let status = std::fs::read_to_string(format!("{folder}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak_kib: f64 =
            peak.and_then(|text| text.split_whitespace().next()).context("no VmHWM")?.parse()?;
        Ok(Cost {
            seconds: self.began.elapsed().as_secs_f64(),
            cpu_seconds: ticks as f64 / per_second as f64,
            peak_mib: peak_kib / 1024.0,
        })
    }

    /// Asks it to drain.
    pub(crate) fn ask_to_drain(&self) -> anyhow::Result<()> {
        Ok(kill(Pid::from_raw(self.child.id().try_into()?), Signal::SIGTERM)?)
    }

    /// Asks it to drain and waits.
    pub(crate) fn stop(self) -> anyhow::Result<()> {
        self.ask_to_drain()?;
        self.until_ended()
    }

    /// Waits for one that was asked to drain.
    pub(crate) fn until_ended(mut self) -> anyhow::Result<()> {
        let asked = Instant::now();
        while self.child.try_wait()?.is_none() {
            if asked.elapsed() > DRAIN_MAX {
                self.child.kill()?;
                anyhow::bail!("did not drain within {DRAIN_MAX:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}
