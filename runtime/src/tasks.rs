//! Named tasks, all joined; the first failure cancels the others.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;

use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

/// How a task failed.
#[derive(Debug)]
pub enum TaskError<E> {
    /// It answered an error.
    Failed {
        /// The task.
        task: String,
        /// Its error.
        source: E,
    },
    /// It panicked, or was aborted from outside.
    Panicked {
        /// The task.
        task: String,
    },
}

impl<E> fmt::Display for TaskError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { task, .. } => write!(f, "task `{task}` failed"),
            Self::Panicked { task } => write!(f, "task `{task}` panicked"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for TaskError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed { source, .. } => Some(source),
            Self::Panicked { .. } => None,
        }
    }
}

/// A set of tasks that live and end together.
#[derive(Debug)]
pub struct Tasks<E> {
    set: JoinSet<Result<(), E>>,
    names: HashMap<Id, String>,
    token: CancellationToken,
}

impl<E: Send + 'static> Tasks<E> {
    /// An empty set whose members watch `token`.
    pub fn new(token: CancellationToken) -> Self {
        Self { set: JoinSet::new(), names: HashMap::new(), token }
    }

    /// Starts a task. It should end soon after the token is cancelled.
    pub fn spawn(
        &mut self,
        name: impl Into<String>,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let id = self.set.spawn(task).id();
        self.names.insert(id, name.into());
    }

    /// Waits for all tasks. The first failure cancels the token; the others are still joined, and the first
    /// failure is the answer.
    pub async fn join(mut self) -> Result<(), TaskError<E>> {
        let mut first = None;
        while let Some(ended) = self.set.join_next_with_id().await {
            let failure = match ended {
                Ok((_, Ok(()))) => continue,
                Ok((id, Err(source))) => TaskError::Failed { task: self.name(id), source },
                Err(error) => TaskError::Panicked { task: self.name(error.id()) },
            };
            tracing::error!(error = %failure, "stopping the others");
            self.token.cancel();
            first.get_or_insert(failure);
        }
        first.map_or(Ok(()), Err)
    }

    fn name(&self, id: Id) -> String {
        self.names.get(&id).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_failure_cancels_the_others_and_is_the_answer() {
        let token = CancellationToken::new();
        let mut tasks = Tasks::new(token.clone());
        let watched = token.clone();
        tasks.spawn("waits", async move {
            watched.cancelled().await;
            Ok(())
        });
        tasks.spawn("fails", async { Err("broken") });
        let error = tasks.join().await.expect_err("one failed");
        assert_eq!(error.to_string(), "task `fails` failed");
        assert!(token.is_cancelled());
    }

    #[tokio::test]
    async fn a_panic_is_named() {
        let mut tasks: Tasks<&str> = Tasks::new(CancellationToken::new());
        tasks.spawn("unlucky", async { panic!("no") });
        let error = tasks.join().await.expect_err("panicked");
        assert_eq!(error.to_string(), "task `unlucky` panicked");
    }
}
