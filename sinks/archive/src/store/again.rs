//! Requests that are made again by themselves: a store that throttles, restarts or resets a connection answers the next.
//!
//! * Only what changes nothing when it is done twice: looks, and writes that put the same bytes there whoever makes them.
//!   The create of a link is none of these; there the chain looks.
//! * When patience ends the error is the caller's. A worker calls again for as long as it takes, a command says it.

use std::future::Future;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tailwater_runtime::Backoff;
use tokio::time::Instant;

use super::StoreError;
use crate::metrics;

/// First and longest wait before a request is made again.
const WAIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// A person who waits wants to know why; a store that throttles now and then is no news.
const TOLD_AFTER: Duration = Duration::from_secs(2);

/// Makes a request until it is answered, or for as long as its failure is worth it.
pub(crate) async fn again<T, F>(mut request: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut waits = Backoff::new(WAIT.0, WAIT.1, StdRng::from_os_rng());
    let (mut failing, mut is_told) = (None, false);
    loop {
        let error = match request().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        // From the first failure on: what failed after a minute is worth another try, too.
        let failing = *failing.get_or_insert_with(Instant::now);
        if failing.elapsed() >= patience(&error) {
            return Err(error);
        }
        if !is_told && failing.elapsed() >= TOLD_AFTER {
            is_told = true;
            tracing::warn!(%error, "it is asked again for a while");
        }
        ::metrics::counter!(metrics::REPEATS).increment(1);
        tokio::time::sleep(waits.next().unwrap_or(WAIT.1)).await;
    }
}

/// For how long after it first failed a request that fails so is made again.
fn patience(error: &StoreError) -> Duration {
    match error {
        // Stores throttle for seconds and restart in some.
        StoreError::Unavailable { .. } => Duration::from_secs(10),
        // Keys that were refused are read again after a second.
        StoreError::StaleKeys { .. } => Duration::from_secs(2),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    fn unavailable() -> StoreError {
        let (endpoint, doing, why) = ("e".into(), "testing".into(), "503".into());
        StoreError::Unavailable { endpoint, doing, why }
    }

    fn refused() -> StoreError {
        let (endpoint, doing, why) = ("e".into(), "testing".into(), "403".into());
        StoreError::Refused { endpoint, doing, why }
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_for_a_while_is_asked_until_it_is_answered() {
        let mut left = 5;
        let answer = again(|| {
            left -= 1;
            std::future::ready(if left == 0 { Ok(7) } else { Err(unavailable()) })
        });
        assert_eq!(answer.await.expect("answered"), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_an_answer_and_patience_ends() {
        let mut asked = 0;
        let mut ask = async |error: fn() -> StoreError| {
            let began = Instant::now();
            let failed = again(|| {
                asked += 1;
                std::future::ready(Err::<(), _>(error()))
            });
            let failed = failed.await.expect_err("never answered");
            (failed, std::mem::take(&mut asked), began.elapsed().as_secs())
        };
        assert!(matches!(ask(refused).await, (StoreError::Refused { .. }, 1, 0)));
        let (failed, asked, seconds) = ask(unavailable).await;
        assert!(matches!(failed, StoreError::Unavailable { .. }), "{failed}");
        assert!((10..=11).contains(&seconds) && asked > 10, "{asked} times in {seconds} s");
    }

    /// What goes to the log.
    #[derive(Clone, Default)]
    struct Said(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Said {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("whole").write(text)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_for_two_seconds_is_told_once() {
        let said = Said::default();
        let heard = said.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || heard.clone()).finish();
        let _until_the_end = tracing::subscriber::set_default(subscriber);
        for (after, times) in [(1_500, 0), (5_000, 1)] {
            let began = Instant::now();
            let answer = again(|| {
                let is_there = began.elapsed() >= Duration::from_millis(after);
                std::future::ready(if is_there { Ok(()) } else { Err(unavailable()) })
            });
            answer.await.expect("answered");
            let said = String::from_utf8(std::mem::take(&mut *said.0.lock().expect("whole")));
            let said = said.expect("text");
            assert_eq!(said.matches("it is asked again for a while").count(), times, "{said}");
        }
    }
}
