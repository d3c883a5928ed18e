//! Who we are to the store, asked for whenever the client needs to know.
//!
//! The client keeps what it is told until that expires. Keys in files are said to expire after a minute, so a file that is
//! written anew, by a secret's rotation or by whoever fetches keys for a time, holds within it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_s3::config::Region;
use tailwater_config::S3Keys;
use tailwater_config::s3::Word;
use tokio::sync::OnceCell;

/// How long keys from files are used before the files are read again.
const FILES_HOLD: Duration = Duration::from_secs(60);

/// What the client asks.
pub(super) fn provider(keys: S3Keys, region: Region) -> SharedCredentialsProvider {
    match keys {
        S3Keys::Named { access, secret, session_token } => {
            SharedCredentialsProvider::new(Named { access, secret, session_token })
        }
        S3Keys::Environment => {
            SharedCredentialsProvider::new(Environment { region, chain: Arc::default() })
        }
    }
}

#[derive(Debug)]
struct Named {
    access: Word,
    secret: Word,
    session_token: Option<Word>,
}

impl Named {
    fn read(&self, now: SystemTime) -> provider::Result {
        let token = self.session_token.as_ref().map(text).transpose()?;
        let words = [Some(&self.access), Some(&self.secret), self.session_token.as_ref()];
        let is_in_files = words.into_iter().flatten().any(|word| matches!(word, Word::File(_)));
        let expires = is_in_files.then(|| now + FILES_HOLD);
        Ok(Credentials::new(
            text(&self.access)?,
            text(&self.secret)?,
            token,
            expires,
            "configuration",
        ))
    }
}

impl ProvideCredentials for Named {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(self.read(SystemTime::now()))
    }
}

fn text(word: &Word) -> Result<String, CredentialsError> {
    match word {
        Word::Given(secret) => Ok(secret.expose().to_owned()),
        Word::File(path) => match std::fs::read_to_string(path) {
            Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(error) => {
                Err(CredentialsError::provider_error(format!("{}: {error}", path.display())))
            }
        },
    }
}

/// AWS's own chain. It is set up when the first key is needed, because setting it up waits.
#[derive(Debug)]
struct Environment {
    region: Region,
    chain: Arc<OnceCell<DefaultCredentialsChain>>,
}

impl ProvideCredentials for Environment {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let set_up = || DefaultCredentialsChain::builder().region(self.region.clone()).build();
            self.chain.get_or_init(set_up).await.provide_credentials().await
        })
    }
}

/// Whether a request was not even sent because nobody gave keys.
pub(super) fn are_missing(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(error.source(), |cause| cause.source()).any(|cause| {
        let keys = cause.downcast_ref::<CredentialsError>();
        matches!(keys, Some(CredentialsError::CredentialsNotLoaded(_)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_a_file_are_read_again_and_those_in_the_configuration_hold_for_good() {
        let given = |text: &str| Word::Given(tailwater_runtime::Secret::new(text));
        let file = std::env::temp_dir().join(format!("tailwater-key-{}", uuid::Uuid::new_v4()));
        let mut named = Named {
            access: given("a"),
            secret: Word::File(file.clone()),
            session_token: Some(given("t")),
        };
        let now = SystemTime::UNIX_EPOCH;
        let missing = named.read(now).expect_err("there is no file").to_string();
        let cause = std::error::Error::source(&named.read(now).expect_err("the same"))
            .map(ToString::to_string);
        assert!(cause.is_some_and(|cause| cause.contains("tailwater-key-")), "{missing}");
        for secret in ["first", "second"] {
            std::fs::write(&file, format!("{secret}\n")).expect("written");
            let keys = named.read(now).expect("read");
            assert_eq!((keys.access_key_id(), keys.secret_access_key()), ("a", secret));
            assert_eq!(keys.session_token(), Some("t"));
            assert_eq!(keys.expiry(), Some(now + FILES_HOLD));
        }
        std::fs::remove_file(&file).expect("removed");
        named.secret = given("s");
        assert_eq!(named.read(now).expect("read").expiry(), None);
    }
}
