//! Whether the process can do its work now, and if not, why.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The state of one part of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Working.
    Ready,
    /// Not working now; the text says why, in one line.
    NotReady(String),
}

/// What every part says of itself. Clones share one state; ready means that all parts are.
///
/// A process whose parts have said nothing yet is not ready.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<BTreeMap<String, Condition>>>);

impl Health {
    /// Says that a part works.
    pub fn ready(&self, part: &str) {
        self.set(part, Condition::Ready);
    }

    /// Says that a part does not work, and why.
    pub fn not_ready(&self, part: &str, why: impl Into<String>) {
        self.set(part, Condition::NotReady(why.into()));
    }

    /// Forgets a part, such as a partition that moved away.
    pub fn forget(&self, part: &str) {
        self.parts().remove(part);
    }

    /// `Ok` when everything works, otherwise `part: why` for each part that does not.
    pub fn check(&self) -> Result<(), Vec<String>> {
        let parts = self.parts();
        if parts.is_empty() {
            return Err(vec!["starting".to_owned()]);
        }
        let reasons: Vec<String> = parts
            .iter()
            .filter_map(|(part, condition)| match condition {
                Condition::Ready => None,
                Condition::NotReady(why) => Some(format!("{part}: {why}")),
            })
            .collect();
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    fn set(&self, part: &str, condition: Condition) {
        self.parts().insert(part.to_owned(), condition);
    }

    fn parts(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Condition>> {
        // A thread that panicked while holding the lock left a whole map behind: every change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_only_when_every_part_is() {
        let health = Health::default();
        assert!(health.check().is_err(), "nothing has been said yet");
        health.ready("stream");
        health.not_ready("orders.events[2]", "bucket missing");
        assert_eq!(health.check(), Err(vec!["orders.events[2]: bucket missing".to_owned()]));
        health.forget("orders.events[2]");
        assert_eq!(health.check(), Ok(()));
    }
}
