//! Who we are to the cluster: nobody in particular, a user, or whoever signs with AWS's keys.
//!
//! * A password or keys that may change are no reason to stop when the cluster refuses them: somebody has rotated them, or
//!   is about to. Where they cannot change, waiting does not help.
//! * Rights are another matter: whoever may not do something is told so under any password. A service that does not say
//!   which of the two it means is believed to mean rights, unless the keys have become others meanwhile.

use std::time::SystemTime;

use reqwest::{Request, RequestBuilder, StatusCode};
use tailwater_config::{Login as Config, Word};
use tailwater_runtime::Secret;
use tailwater_sinks_keys::{self as keys, Credentials, HeldKeys};

use crate::error::Error;
use crate::signature::{Objection, Scope, objection};

/// How requests are made ours.
#[derive(Clone, Debug)]
pub(crate) enum Login {
    Open,
    Basic { user: String, password: Option<Word> },
    Signed { scope: Scope, keys: HeldKeys },
}

/// A request that says who we are, and the keys it says it with.
pub(crate) struct Ours {
    pub(crate) request: Request,
    pub(crate) keys: Option<Credentials>,
}

impl Login {
    pub(crate) fn new(config: Config) -> Self {
        match config {
            Config::Open => Self::Open,
            Config::Basic { user, password } => Self::Basic { user, password },
            Config::Signed(signature) => {
                let keys = HeldKeys::new(signature.keys, &signature.region);
                let scope = Scope { service: signature.service, region: signature.region };
                Self::Signed { scope, keys }
            }
        }
    }

    /// Makes a request ours.
    ///
    /// # Errors
    /// Password or keys cannot be read.
    pub(crate) async fn ours(&self, request: RequestBuilder) -> Result<Ours, Error> {
        let request = match self {
            Self::Basic { user, password } => {
                let password = password.as_ref().map(Word::read).transpose();
                let password = password.map_err(Error::Password)?;
                request.basic_auth(user, password.as_ref().map(Secret::expose))
            }
            Self::Open | Self::Signed { .. } => request,
        };
        let mut request = request.build().map_err(Error::Prepare)?;
        let Self::Signed { scope, keys } = self else { return Ok(Ours { request, keys: None }) };
        let keys = keys.now().await.map_err(|error| {
            if keys::are_missing(&error) { Error::NoKeys } else { Error::Keys(error) }
        })?;
        scope.sign(&mut request, &keys, SystemTime::now())?;
        Ok(Ours { request, keys: Some(keys) })
    }

    /// What a refusal says of password, keys or clock; `None` when it is about rights, or about what cannot change.
    pub(crate) async fn objection(
        &self,
        used: Option<&Credentials>,
        address: &str,
        status: StatusCode,
        reason: &str,
    ) -> Option<Error> {
        let stale =
            |what| Error::Stale { address: address.to_owned(), what, reason: reason.to_owned() };
        match self {
            Self::Basic { password: Some(password), .. } => {
                let is_stale = status == StatusCode::UNAUTHORIZED && password.may_change();
                is_stale.then(|| stale("the password"))
            }
            Self::Signed { keys, .. } => {
                let is_stale = match objection(reason) {
                    Objection::Clock => {
                        let (address, reason) = (address.to_owned(), reason.to_owned());
                        return Some(Error::Clock { address, reason });
                    }
                    Objection::Keys => keys.on_stale(),
                    Objection::Other => keys.have_changed_since(used?).await,
                };
                is_stale.then(|| stale("the keys"))
            }
            Self::Open | Self::Basic { .. } => None,
        }
    }

    /// What a person should look at when we are not let in.
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::Open | Self::Basic { .. } => "user, password and the user's rights on the index",
            Self::Signed { .. } => {
                "the keys, `opensearch.region`, and what the access policy and the role mapping allow the keys' owner"
            }
        }
    }
}
