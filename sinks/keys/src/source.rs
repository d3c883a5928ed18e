use aws_config::Region;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::environment::credentials::EnvironmentVariableCredentialsProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use tailwater_config::{Keys, Word};

/// What the configuration says of keys.
#[derive(Debug)]
pub(crate) struct Source {
    keys: Keys,
    region: Region,
}

/// Keys, and whether reading them again may bring others.
pub(crate) enum Read {
    /// They are what they are as long as this process runs.
    Fixed(Credentials),
    /// They may change.
    Renewable(Credentials),
}

impl Source {
    pub(crate) fn new(keys: Keys, region: &str) -> Self {
        Self { keys, region: Region::new(region.to_owned()) }
    }

    pub(crate) async fn read(&self) -> Result<Read, CredentialsError> {
        match &self.keys {
            Keys::Named { access, secret, session_token } => {
                named(access, secret, session_token.as_ref())
            }
            Keys::Environment => self.environment().await,
        }
    }

    /// Variables come first, as in AWS's own chain. It is made anew each time, because one chain reads a profile's files
    /// once and never again.
    async fn environment(&self) -> Result<Read, CredentialsError> {
        if let Ok(keys) = EnvironmentVariableCredentialsProvider::new().provide_credentials().await
        {
            return Ok(Read::Fixed(keys));
        }
        let chain = DefaultCredentialsChain::builder().region(self.region.clone()).build().await;
        chain.provide_credentials().await.map(Read::Renewable)
    }
}

fn named(access: &Word, secret: &Word, token: Option<&Word>) -> Result<Read, CredentialsError> {
    let text = |word: &Word| {
        let text = word.read().map_err(CredentialsError::provider_error)?;
        Ok::<_, CredentialsError>(text.expose().to_owned())
    };
    let may_change =
        [Some(access), Some(secret), token].into_iter().flatten().any(Word::may_change);
    let token = token.map(text).transpose()?;
    let keys = Credentials::new(text(access)?, text(secret)?, token, None, "configuration");
    Ok(if may_change { Read::Renewable(keys) } else { Read::Fixed(keys) })
}

impl Read {
    pub(crate) fn keys(&self) -> &Credentials {
        let (Self::Fixed(keys) | Self::Renewable(keys)) = self;
        keys
    }

    pub(crate) fn into_keys(self) -> Credentials {
        let (Self::Fixed(keys) | Self::Renewable(keys)) = self;
        keys
    }
}
