//! One running binary.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A binary of this workspace, running. Dropping it kills it.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a binary that stands beside the test's own; its output is appended to `<folder>/<name>.log`.
    pub fn start(
        folder: &Path,
        name: &str,
        binary: &str,
        arguments: &[String],
    ) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let child = Command::new(path_of(binary)?)
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting `{binary}`"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Fails with the end of its log when it is not running.
    pub fn check_running(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("`{}` ended with {status}:\n{}", self.name, self.last_words()),
        }
    }

    /// Ends it between any two instructions.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until it has ended well by itself.
    pub fn wait(&mut self, within: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    bail!("`{}` ended with {status}:\n{}", self.name, self.last_words())
                }
                None if began.elapsed() > within => {
                    bail!("`{}` did not end within {within:?}:\n{}", self.name, self.last_words())
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Stops it where it stands, as a machine that hangs would; [`Process::thaw`] lets it go on.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on, unaware that time has passed.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Asks it to drain; fails when it does not end well within the time.
    pub fn stop(mut self, within: Duration) -> anyhow::Result<()> {
        self.signal(Signal::SIGTERM)?;
        let asked = Instant::now();
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    bail!("`{}` drained with {status}:\n{}", self.name, self.last_words())
                }
                None if asked.elapsed() > within => {
                    bail!("`{}` did not drain within {within:?}:\n{}", self.name, self.last_words())
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill(Pid::from_raw(self.child.id().try_into()?), signal)?)
    }

    /// How many lines of its log hold this text.
    pub fn lines_with(&self, text: &str) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains(text)).count()
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The path of a workspace binary: test binaries stand in `deps` below it.
fn path_of(binary: &str) -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent).context("a test binary stands in `deps`")?;
    let path = folder.join(binary);
    if !path.exists() {
        bail!("`{}` is not built; run the tests with `make test`", path.display());
    }
    Ok(path)
}
