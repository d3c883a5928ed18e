//! `s3`.

use std::path::{Path, PathBuf};

use tailwater_document::{Field, Form, FromScalar, Mistakes, Scalar, Section, Shape};
use tailwater_runtime::Secret;

use crate::file::Load;
use crate::scalars::address;

/// How to reach a store. The bucket is each sink's own.
#[derive(Clone, Debug)]
pub struct S3Config {
    /// Where the store listens, with scheme.
    pub endpoint: String,
    /// Its region.
    pub region: String,
    /// Who we are to it.
    pub keys: S3Keys,
    /// Whether the bucket stands in the path rather than in the host name.
    pub path_style: bool,
    /// How it encrypts what is stored; as the bucket says, when this does not.
    pub encryption: Option<Encryption>,
}

/// Who we are to a store.
#[derive(Clone, Debug)]
pub enum S3Keys {
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

/// A text that stands in the configuration, or in a file that is read whenever the text is needed.
#[derive(Clone, Debug)]
pub enum Word {
    /// It stands there.
    Given(Secret),
    /// It is what is in the file, without the line's end.
    File(PathBuf),
}

/// How a store encrypts what is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// With keys of the store (SSE-S3).
    Aes256,
    /// With a key of a key service (SSE-KMS); the bucket's own when none is named.
    Kms {
        /// Its name.
        key: Option<String>,
    },
}

impl S3Keys {
    /// Keys that are known now.
    pub fn given(access: impl Into<String>, secret: impl Into<String>) -> Self {
        let word = |text: String| Word::Given(Secret::new(text));
        Self::Named {
            access: word(access.into()),
            secret: word(secret.into()),
            session_token: None,
        }
    }
}

/// What the section may hold.
pub static SHAPE: Shape = Shape {
    about: "The store of archive sinks. Without `access_key` and `secret_key` the keys are what AWS's own tools would take: \
            variables, a profile, the role of a service account, of a container or of an instance. Files are read again when \
            they are a minute old.",
    fields: &[
        Field::required("endpoint", Form::Text("`http://host:port`"), "the store"),
        Field::or("region", Form::Text("a region"), "us-east-1", "its region"),
        Field::optional("access_key", Form::Text("a key"), "access key"),
        Field::optional("access_key_file", Form::Text("a file name"), "file that holds it"),
        Field::optional("secret_key", Form::Text("a secret"), "secret key"),
        Field::optional(
            "secret_key_file",
            Form::Text("a file name"),
            "file that holds the secret key",
        ),
        Field::optional("session_token", Form::Text("a secret"), "what goes with keys for a time"),
        Field::optional("session_token_file", Form::Text("a file name"), "file that holds it"),
        Field::or(
            "path_style",
            Form::Truth,
            "true",
            "whether the bucket is part of the path, not of the host name",
        ),
        Field::optional(
            "encryption",
            Form::OneOf(&["aes256", "kms"]),
            "how the store encrypts what is stored: with keys of its own (SSE-S3), or of a key service (SSE-KMS); as the bucket says, when this does not",
        ),
        Field::optional("kms_key", Form::Text("a key's name"), "the key of `encryption: kms`"),
    ],
};

/// Where each key may stand: itself, or the name of its file.
const ACCESS: [&str; 2] = ["access_key", "access_key_file"];
const SECRET: [&str; 2] = ["secret_key", "secret_key_file"];
const TOKEN: [&str; 2] = ["session_token", "session_token_file"];

/// Reads the section. `None` means that mistakes were noted.
pub fn read(mut section: Section<'_>, load: Load<'_>, mistakes: &mut Mistakes) -> Option<S3Config> {
    let endpoint = address(&mut section, "endpoint", mistakes);
    let region = section.optional("region", mistakes).unwrap_or_else(|| "us-east-1".to_owned());
    let keys = keys(&mut section, load, mistakes);
    let path_style = section.or("path_style", true, mistakes);
    let encryption = encryption(&mut section, mistakes);
    section.finish_as(&SHAPE, mistakes);
    Some(S3Config { endpoint: endpoint?, region, keys: keys?, path_style, encryption })
}

fn keys(section: &mut Section<'_>, load: Load<'_>, mistakes: &mut Mistakes) -> Option<S3Keys> {
    let [names_access, names_secret, names_token] =
        [ACCESS, SECRET, TOKEN].map(|keys| keys.iter().any(|key| section.node(key).is_some()));
    let access = word(section, ACCESS, load, mistakes);
    let secret = word(section, SECRET, load, mistakes);
    let session_token = word(section, TOKEN, load, mistakes);
    match (names_access, names_secret) {
        (false, false) if !names_token => return Some(S3Keys::Environment),
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
    Some(S3Keys::Named { access: access?, secret: secret?, session_token })
}

/// A text under one of two keys: itself, or the name of its file, which must be there now.
fn word(
    section: &mut Section<'_>,
    [key, file_key]: [&'static str; 2],
    load: Load<'_>,
    mistakes: &mut Mistakes,
) -> Option<Word> {
    let given: Option<Secret> = section.optional(key, mistakes);
    let file: Option<String> = section.optional(file_key, mistakes);
    match (given, file) {
        (Some(_), Some(_)) => {
            section.refuse(file_key, format!("`{key}` is given too; keep one of them"), mistakes);
            None
        }
        (given, None) => given.map(Word::Given),
        (None, Some(file)) => match load.text(Path::new(&file)) {
            Ok(_) => Some(Word::File(load.path(Path::new(&file)))),
            Err(error) => {
                section.refuse(file_key, format!("the file cannot be read: {error}"), mistakes);
                None
            }
        },
    }
}

fn encryption(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<Encryption> {
    let encryption = section.optional("encryption", mistakes);
    let key: Option<String> = section.optional("kms_key", mistakes);
    match (encryption, key) {
        (Some(Encryption::Kms { .. }), key) => Some(Encryption::Kms { key }),
        (encryption, None) => encryption,
        (_, Some(_)) => {
            section.refuse("kms_key", "goes with `encryption: kms`", mistakes);
            None
        }
    }
}

impl FromScalar for Encryption {
    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, String> {
        match scalar.text {
            "aes256" => Ok(Self::Aes256),
            "kms" => Ok(Self::Kms { key: None }),
            _ => Err("expected `aes256` or `kms`".to_owned()),
        }
    }
}
