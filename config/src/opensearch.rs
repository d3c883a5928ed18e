//! `opensearch`.

use tailwater_document::{Field, Form, FromScalar, Mistakes, Scalar, Section, Shape};

use crate::file::Load;
use crate::keys::{self, Keys};
use crate::scalars::{Word, address, word};

/// Where the cluster is and who we are there.
#[derive(Clone, Debug)]
pub struct SearchConfig {
    /// `http://host:port` or `https://host:port`, perhaps with a path before all others.
    pub url: String,
    /// Who we are.
    pub login: Login,
}

/// How a cluster is told who we are.
#[derive(Clone, Debug)]
pub enum Login {
    /// Not at all.
    Open,
    /// By basic authentication.
    Basic {
        /// User.
        user: String,
        /// Its password.
        password: Option<Word>,
    },
    /// By a signature of each request.
    Signed(Signature),
}

/// AWS's signature, version 4.
#[derive(Clone, Debug)]
pub struct Signature {
    /// What is signed for.
    pub service: Service,
    /// Its region.
    pub region: String,
    /// Who signs.
    pub keys: Keys,
}

/// A service of AWS that runs OpenSearch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// A domain of Amazon OpenSearch Service: `es`.
    Domain,
    /// A collection of Amazon OpenSearch Serverless: `aoss`.
    Serverless,
}

impl SearchConfig {
    /// A cluster that asks nobody who they are.
    pub fn open(url: impl Into<String>) -> Self {
        Self { url: url.into(), login: Login::Open }
    }
}

impl Service {
    /// Its name in a signature.
    pub fn name(self) -> &'static str {
        match self {
            Self::Domain => "es",
            Self::Serverless => "aoss",
        }
    }
}

/// What the section may hold.
pub static SHAPE: Shape = Shape {
    about: "The cluster of search sinks. With `sigv4`, requests are signed as AWS's own services want it, by keys as `s3` has them: \
            without `access_key` and `secret_key` they are what AWS's own tools would take. Files are read again when they are a \
            minute old, or at once when the cluster refuses what they say.",
    fields: &[
        Field::required("url", Form::Text("`http://host:port`"), "the cluster"),
        Field::optional("user", Form::Text("a user"), "user for basic authentication"),
        Field::optional("password", Form::Text("a secret"), "its password"),
        Field::optional("password_file", Form::Text("a file name"), "file that holds the password"),
        Field::optional(
            "sigv4",
            Form::OneOf(&["es", "aoss"]),
            "sign requests for a domain of Amazon OpenSearch Service (`es`) or a collection of OpenSearch Serverless (`aoss`)",
        ),
        Field::optional(
            "region",
            Form::Text("a region"),
            "the region of `sigv4`, where the domain or collection is",
        ),
        Field::optional("access_key", Form::Text("a key"), "access key of `sigv4`"),
        Field::optional("access_key_file", Form::Text("a file name"), "file that holds it"),
        Field::optional("secret_key", Form::Text("a secret"), "secret key of `sigv4`"),
        Field::optional(
            "secret_key_file",
            Form::Text("a file name"),
            "file that holds the secret key",
        ),
        Field::optional("session_token", Form::Text("a secret"), "what goes with keys for a time"),
        Field::optional("session_token_file", Form::Text("a file name"), "file that holds it"),
    ],
};

/// Reads the section. `None` means that mistakes were noted.
pub fn read(
    mut section: Section<'_>,
    load: Load<'_>,
    mistakes: &mut Mistakes,
) -> Option<SearchConfig> {
    let url = address(&mut section, "url", mistakes);
    let is_signed = section.node("sigv4").is_some();
    let signature = signature(&mut section, is_signed, load, mistakes);
    let login = match basic(&mut section, load, mistakes) {
        Some(_) if is_signed => {
            let problem =
                "`user` is given too; a request is signed or carries a password, not both";
            section.refuse("sigv4", problem, mistakes);
            None
        }
        basic => {
            if is_signed {
                signature.map(Login::Signed)
            } else {
                Some(basic.unwrap_or(Login::Open))
            }
        }
    };
    section.finish_as(&SHAPE, mistakes);
    Some(SearchConfig { url: url?, login: login? })
}

fn basic(section: &mut Section<'_>, load: Load<'_>, mistakes: &mut Mistakes) -> Option<Login> {
    let user: Option<String> = section.optional("user", mistakes);
    let password = word(section, ["password", "password_file"], load, mistakes);
    if password.is_some() && user.is_none() {
        section.refuse("password", "there is a password and no `user`", mistakes);
    }
    Some(Login::Basic { user: user?, password })
}

/// `None` where none is wished, or where mistakes were noted.
fn signature(
    section: &mut Section<'_>,
    is_wished: bool,
    load: Load<'_>,
    mistakes: &mut Mistakes,
) -> Option<Signature> {
    let service: Option<Service> = section.optional("sigv4", mistakes);
    let region: Option<String> = section.optional("region", mistakes);
    if !is_wished {
        let lone = region.is_some().then_some("region");
        for key in lone.into_iter().chain(keys::named(section)) {
            section.refuse(key, "goes with `sigv4`, which is missing", mistakes);
        }
    } else if region.is_none() {
        section.refuse("region", "missing; a signature is for one region", mistakes);
    }
    let keys = keys::keys(section, load, mistakes);
    Some(Signature { service: service?, region: region?, keys: keys? })
}

impl FromScalar for Service {
    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, String> {
        match scalar.text {
            "es" => Ok(Self::Domain),
            "aoss" => Ok(Self::Serverless),
            _ => Err("expected `es` or `aoss`".to_owned()),
        }
    }
}
