//! The probe: whether a store lets exactly one of several writers create an object, and keeps what that one wrote.
//!
//! ```text
//!  seven writers at once ──▶ one is told that it created it        one more, when all is over ──▶ taken
//!                                     └────────────── the object holds what this one wrote
//! ```
//!
//! A writer without a clear answer may have won or not. Where it wrote what stands there, and nobody was told to have
//! won, it has. With fewer than two clear answers nothing is shown, and they race again.

use std::collections::HashMap;

use bytes::Bytes;
use futures::future::join_all;
use uuid::Uuid;

use super::{Objects, Put, Store, StoreError, again, upload};

/// Writers of a race: all but the last at once. Two are enough to show a store that checks before it writes; more show
/// it sooner.
pub(super) const WRITERS: usize = 8;
/// Uploads in parts that race.
pub(super) const UPLOADERS: usize = 3;
/// Clear answers without which a race shows nothing.
const CLEAR_LEAST: usize = 2;

impl Store {
    /// Races several conditional creates of one object, and fails unless exactly one wins and stays; the same again in
    /// parts, when segments may be so large that they need them.
    ///
    /// # Errors
    /// The store fails, or cannot hold an archive.
    pub async fn probe(&self, segment_bytes: u64) -> Result<(), StoreError> {
        again(|| self.race_creates()).await?;
        if segment_bytes > upload::SINGLE_MAX as u64 {
            again(|| self.race_uploads()).await?;
        }
        Ok(())
    }

    async fn race_creates(&self) -> Result<(), StoreError> {
        let key = new_key();
        let create = |writer| self.create(&key, body(writer), HashMap::new(), "text/plain");
        let late = WRITERS - 1;
        let mut puts = join_all((0..late).map(create)).await;
        // One that comes when all is over must lose, too.
        puts.push(create(late).await);
        let endpoint = self.endpoint.clone();
        match self.shown_by(&key, puts).await? {
            Shown::One => Ok(()),
            Shown::Another => Err(StoreError::Overwrites { endpoint }),
            Shown::Winners(winners) => Err(StoreError::NotAtomic { endpoint, winners }),
        }
    }

    async fn race_uploads(&self) -> Result<(), StoreError> {
        let key = new_key();
        let create =
            |writer| self.create_in_parts(&key, body(writer), HashMap::new(), "text/plain");
        let puts = join_all((0..UPLOADERS).map(create)).await;
        let endpoint = self.endpoint.clone();
        match self.shown_by(&key, puts).await? {
            Shown::One => Ok(()),
            Shown::Another => Err(StoreError::PartsNotAtomic { endpoint, winners: 1 }),
            Shown::Winners(winners) => Err(StoreError::PartsNotAtomic { endpoint, winners }),
        }
    }

    /// What a race for a key has shown, by what its writers were told and what stands there.
    async fn shown_by(
        &self,
        key: &str,
        puts: Vec<Result<Put, StoreError>>,
    ) -> Result<Shown, StoreError> {
        let mut race = Race::default();
        for (writer, put) in puts.into_iter().enumerate() {
            race.on_put(writer, put?);
        }
        // The race is run again as a whole.
        let kept = self.fetch(key, None).await?;
        // Best effort: a probe left behind harms nobody.
        let _ = self.client.delete_object().bucket(&self.bucket).key(key).send().await;
        race.shown(kept.and_then(|(kept, _)| (0..WRITERS).find(|writer| kept == body(*writer))))
    }
}

fn new_key() -> String {
    format!("meta/.probe/{}", Uuid::new_v4())
}

fn body(writer: usize) -> Bytes {
    format!("writer {writer}").into()
}

/// What the writers of a race were told.
#[derive(Debug, Default)]
struct Race {
    winners: Vec<usize>,
    losers: usize,
    unclear: Vec<(usize, StoreError)>,
}

/// What a race has shown.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    /// One has won, and what it wrote stands there.
    One,
    /// One was told that it had won, and something else stands there.
    Another,
    /// So many were told that they had won.
    Winners(usize),
}

impl Race {
    fn on_put(&mut self, writer: usize, put: Put) {
        match put {
            Put::Created => self.winners.push(writer),
            Put::Taken | Put::Conflict(_) => self.losers += 1,
            Put::Unclear(error) => self.unclear.push((writer, error)),
        }
    }

    /// `kept` is the writer whose bytes stand there.
    ///
    /// # Errors
    /// Too few answers were clear.
    fn shown(mut self, kept: Option<usize>) -> Result<Shown, StoreError> {
        let is_unclear = |writer| self.unclear.iter().any(|(unclear, _)| *unclear == writer);
        let shown = match (self.winners.as_slice(), kept) {
            ([winner], Some(kept)) if *winner == kept => Shown::One,
            ([], Some(kept)) if is_unclear(kept) => Shown::One,
            ([_], _) => return Ok(Shown::Another),
            ([], _) => Shown::Winners(0),
            (winners, _) => return Ok(Shown::Winners(winners.len())),
        };
        // That nobody won, or only one, says little when most have not been heard.
        let is_clear = match shown {
            Shown::One => self.winners.len() + self.losers >= CLEAR_LEAST,
            _ => self.unclear.is_empty(),
        };
        match self.unclear.pop() {
            Some((_, error)) if !is_clear => Err(error),
            _ => Ok(shown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a race shows when its writers are told `C`reated, `T`aken, a `=` conflict, or nothing clear, `?`.
    fn race(told: &str, kept: Option<usize>) -> Option<Shown> {
        let error = || {
            let (endpoint, doing, why) = ("e".into(), "testing".into(), "503".into());
            StoreError::Unavailable { endpoint, doing, why }
        };
        let mut race = Race::default();
        for (writer, told) in told.chars().enumerate() {
            let put = match told {
                'C' => Put::Created,
                'T' => Put::Taken,
                '=' => Put::Conflict(error()),
                _ => Put::Unclear(error()),
            };
            race.on_put(writer, put);
        }
        race.shown(kept).ok()
    }

    #[test]
    fn a_race_is_judged_by_what_was_told_and_what_stands_there() {
        use Shown::{Another, One, Winners};
        let cases = [
            ("TCTT", Some(1), Some(One)),
            ("=C=T", Some(1), Some(One)),
            ("TCTT", Some(2), Some(Another)),
            ("TCTT", None, Some(Another)),
            ("TCCT", Some(1), Some(Winners(2))),
            ("TTTT", None, Some(Winners(0))),
            ("TTTT", Some(1), Some(Winners(0))),
            // Somebody was not told.
            ("T?TT", Some(1), Some(One)),
            ("C?TT", Some(0), Some(One)),
            ("C?TT", Some(1), Some(Another)),
            ("C?C?", Some(0), Some(Winners(2))),
            ("T??T", None, None),
            ("???C", Some(3), None),
            ("????", Some(2), None),
            ("????", None, None),
        ];
        for (told, kept, shown) in cases {
            assert_eq!(race(told, kept), shown, "{told}, {kept:?}");
        }
    }
}
