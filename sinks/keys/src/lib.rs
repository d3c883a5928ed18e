//! Who we are to a service that AWS's keys open: a store, or a cluster that wants its requests signed.
//!
//! ```text
//!  configuration ┐                                      ┌──▶ client of the store
//!  files         ├──▶ source ──▶ held until they expire ─┤
//!  environment   ┘       ▲                              └──▶ signature
//!                        └── refused as stale: read again at once
//! ```
//!
//! * Keys that say when they expire are held until shortly before. Keys in files do not say it: they are held for a minute,
//!   so a file that is written anew, by a secret's rotation or by whoever fetches keys for a time, holds within it.
//! * A service may refuse keys before that, because the rotation ended the old ones at once. Then what is held is dropped,
//!   and the next request reads anew.
//! * What stands in the configuration or in a variable of this process stays what it is as long as the process runs: that
//!   it is refused, waiting does not mend.
#![forbid(unsafe_code)]

/// Where keys come from.
mod source;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

pub use aws_credential_types::Credentials;
pub use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use tailwater_config::Keys;

use self::source::{Read, Source};

/// How long keys are used that may change and do not say when.
const HOLD: Duration = Duration::from_secs(60);
/// So long before they expire keys are not used any more: a request takes a while to arrive.
const MARGIN: Duration = Duration::from_secs(10);
/// Keys are read no more often than that, however many requests are refused at once.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Keys, read when they are needed and held for a while. Clones hold the same ones.
#[derive(Clone, Debug)]
pub struct HeldKeys {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    source: Source,
    held: Mutex<Option<Held>>,
    /// Whoever reads; others wait for what comes of it.
    reader: tokio::sync::Mutex<()>,
}

/// Keys and how long they hold.
#[derive(Clone, Debug)]
struct Held {
    keys: Credentials,
    read_at: SystemTime,
    /// Read again from then on; `None` for keys that cannot change while this process runs.
    until: Option<SystemTime>,
}

impl HeldKeys {
    /// Reads nothing yet. `region` is where AWS is asked for a role's keys.
    pub fn new(keys: Keys, region: &str) -> Self {
        let (held, reader) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { inner: Arc::new(Inner { source: Source::new(keys, region), held, reader }) }
    }

    /// The keys as they are now.
    ///
    /// # Errors
    /// They cannot be read. [`are_missing`] tells whether that is because nobody gave any.
    pub async fn now(&self) -> Result<Credentials, CredentialsError> {
        if let Some(keys) = self.held_at(SystemTime::now()) {
            return Ok(keys);
        }
        let _reading = self.inner.reader.lock().await;
        let now = SystemTime::now();
        if let Some(keys) = self.held_at(now) {
            return Ok(keys);
        }
        // AWS's chain is a large future, and most requests do without.
        let held = Held::new(Box::pin(self.inner.source.read()).await?, now);
        let keys = held.keys.clone();
        *self.lock() = Some(held);
        Ok(keys)
    }

    /// The service says that these keys hold no more. Answers whether others may come: then they are read again.
    pub fn on_stale(&self) -> bool {
        match &mut *self.lock() {
            Some(held) => held.on_stale(),
            // Read for somebody else's request meanwhile, or not at all.
            None => true,
        }
    }

    /// Whether the keys are others than these by now. They are read anew for it, unless that was just done.
    pub async fn have_changed_since(&self, used: &Credentials) -> bool {
        if !self.on_stale() {
            return false;
        }
        let words = |keys: &Credentials| {
            let token = keys.session_token().map(str::to_owned);
            (keys.access_key_id().to_owned(), keys.secret_access_key().to_owned(), token)
        };
        self.now().await.is_ok_and(|now| words(&now) != words(used))
    }

    /// For a client that asks for keys itself; it must not keep them.
    pub fn provider(&self) -> SharedCredentialsProvider {
        SharedCredentialsProvider::new(self.clone())
    }

    fn held_at(&self, now: SystemTime) -> Option<Credentials> {
        self.lock().as_ref().filter(|held| !held.is_due(now)).map(|held| held.keys.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Held>> {
        // Nothing half-done can be left behind.
        self.inner.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProvideCredentials for HeldKeys {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.now())
    }
}

/// Whether there are no keys because nobody gave any.
pub fn are_missing(error: &CredentialsError) -> bool {
    matches!(error, CredentialsError::CredentialsNotLoaded(_))
}

impl Held {
    fn new(read: Read, now: SystemTime) -> Self {
        let until = match (&read, read.keys().expiry()) {
            (Read::Fixed(_), _) => None,
            (Read::Renewable(_), Some(expiry)) => Some(expiry - MARGIN),
            (Read::Renewable(_), None) => Some(now + HOLD),
        };
        Self { keys: read.into_keys(), read_at: now, until }
    }

    fn is_due(&self, now: SystemTime) -> bool {
        // A clock that was set back must not make them hold for longer.
        self.until.is_some_and(|until| now >= until || now < self.read_at)
    }

    fn on_stale(&mut self) -> bool {
        let Some(until) = self.until else { return false };
        self.until = Some(until.min(self.read_at + READ_AGAIN_AFTER));
        true
    }
}

#[cfg(test)]
mod tests {
    use tailwater_config::Word;

    use super::*;

    fn keys(expiry: Option<SystemTime>) -> Credentials {
        Credentials::new("a", "s", None, expiry, "test")
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn keys_hold_for_a_minute_or_until_shortly_before_they_expire() {
        let in_a_file = Held::new(Read::Renewable(keys(None)), at(100));
        assert!(!in_a_file.is_due(at(159)) && in_a_file.is_due(at(160)));
        let for_a_time = Held::new(Read::Renewable(keys(Some(at(1_000)))), at(100));
        assert!(!for_a_time.is_due(at(989)) && for_a_time.is_due(at(990)));
        assert!(in_a_file.is_due(at(99)), "the clock was set back");
        assert!(!Held::new(Read::Fixed(keys(None)), at(100)).is_due(at(1_000_000)));
    }

    #[test]
    fn stale_keys_are_read_again_a_second_after_they_were_read_unless_they_cannot_change() {
        let mut held = Held::new(Read::Renewable(keys(None)), at(100));
        assert!(held.on_stale() && held.on_stale());
        assert!(!held.is_due(at(100)) && held.is_due(at(101)));
        let mut expiring = Held::new(Read::Renewable(keys(Some(at(50)))), at(100));
        assert!(expiring.on_stale() && expiring.is_due(at(100)), "never later than before");
        assert!(!Held::new(Read::Fixed(keys(None)), at(100)).on_stale());
    }

    #[tokio::test]
    async fn a_file_that_changes_is_read_again_when_its_keys_are_refused_and_an_empty_one_is_none()
    {
        let file = std::env::temp_dir().join(format!("tailwater-key-{}", uuid::Uuid::new_v4()));
        let named = Keys::Named {
            access: Word::given("a"),
            secret: Word::File(file.clone()),
            session_token: Some(Word::given("t")),
        };
        let held = HeldKeys::new(named, "us-east-1");
        for text in [None, Some("\n")] {
            text.iter().for_each(|text| std::fs::write(&file, text).expect("written"));
            let error = held.now().await.expect_err("there is no key");
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            assert!(cause.is_some_and(|cause| cause.contains("tailwater-key-")), "{error}");
            assert!(!are_missing(&error) && held.on_stale());
        }
        std::fs::write(&file, "first\n").expect("written");
        let first = held.now().await.expect("read");
        assert_eq!((first.access_key_id(), first.secret_access_key()), ("a", "first"));
        assert_eq!(first.session_token(), Some("t"));
        std::fs::write(&file, "second\r\n").expect("written");
        assert_eq!(held.now().await.expect("held").secret_access_key(), "first");
        assert!(held.on_stale());
        tokio::time::sleep(READ_AGAIN_AFTER).await;
        assert_eq!(held.now().await.expect("read").secret_access_key(), "second");
        std::fs::remove_file(&file).expect("removed");
    }

    #[tokio::test]
    async fn keys_of_the_configuration_are_not_read_again() {
        let held = HeldKeys::new(Keys::given("a", "s"), "us-east-1");
        assert_eq!(held.now().await.expect("given").secret_access_key(), "s");
        assert!(!held.on_stale());
    }
}
