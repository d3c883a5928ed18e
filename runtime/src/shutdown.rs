//! Signals to one cancellation token.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A signal handler could not be installed.
#[derive(Debug, thiserror::Error)]
#[error("could not listen for SIGTERM and SIGINT")]
pub struct ShutdownError(#[from] std::io::Error);

/// Turns SIGTERM and SIGINT into one token. The first signal asks everybody to drain; the second ends the
/// process at once, for a person who will not wait.
#[derive(Debug)]
pub struct Shutdown {
    terminate: Signal,
    interrupt: Signal,
    token: CancellationToken,
}

impl Shutdown {
    /// Installs the handlers. Must be called within a Tokio runtime.
    pub fn install() -> Result<Self, ShutdownError> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            token: CancellationToken::new(),
        })
    }

    /// The token that is cancelled when the process shall drain.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Listens until the process ends; run it as a task of its own and do not join it.
    pub async fn listen(mut self) {
        let name = self.next().await;
        tracing::info!(signal = name, "asked to stop; draining");
        self.token.cancel();
        let name = self.next().await;
        tracing::warn!(signal = name, "asked to stop again; ending without drain");
        std::process::exit(130);
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
