//! Keys by which a service knows us: `s3` has them, and `opensearch` where requests are signed.

use tailwater_document::{Mistakes, Section};

use crate::file::Load;
use crate::scalars::{Word, word};

/// An access key, its secret, and perhaps a token that goes with both for a time.
#[derive(Clone, Debug)]
pub enum Keys {
    /// Keys that the configuration names.
    Named {
        /// Access key.
        access: Word,
        /// Secret key.
        secret: Word,
        /// What goes with keys for a time.
        session_token: Option<Word>,
    },
    /// What AWS's own tools would take: variables, a profile, the role of a service account, a container or an instance.
    Environment,
}

impl Keys {
    /// Keys that are known now.
    pub fn given(access: impl Into<String>, secret: impl Into<String>) -> Self {
        Self::Named {
            access: Word::given(access),
            secret: Word::given(secret),
            session_token: None,
        }
    }
}

/// Where each key may stand: itself, or the name of its file.
const ACCESS: [&str; 2] = ["access_key", "access_key_file"];
const SECRET: [&str; 2] = ["secret_key", "secret_key_file"];
const TOKEN: [&str; 2] = ["session_token", "session_token_file"];

/// The first key that a section names, if it names any.
pub(crate) fn named(section: &mut Section<'_>) -> Option<&'static str> {
    [ACCESS, SECRET, TOKEN].into_iter().flatten().find(|key| section.node(key).is_some())
}

/// Reads them. `None` means that mistakes were noted.
pub(crate) fn keys(
    section: &mut Section<'_>,
    load: Load<'_>,
    mistakes: &mut Mistakes,
) -> Option<Keys> {
    let [names_access, names_secret, names_token] =
        [ACCESS, SECRET, TOKEN].map(|keys| keys.iter().any(|key| section.node(key).is_some()));
    let access = word(section, ACCESS, load, mistakes);
    let secret = word(section, SECRET, load, mistakes);
    let session_token = word(section, TOKEN, load, mistakes);
    match (names_access, names_secret) {
        (false, false) if !names_token => return Some(Keys::Environment),
        (true, true) => {}
        (false, _) => {
            section.refuse(
                "access_key",
                "missing; or name a file with `access_key_file`, or give no key at all, to take those of the environment",
                mistakes,
            );
        }
        (true, false) => {
            let problem = "missing; or name a file with `secret_key_file`";
            section.refuse("secret_key", problem, mistakes);
        }
    }
    Some(Keys::Named { access: access?, secret: secret?, session_token })
}
