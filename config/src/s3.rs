//! `s3`.

use tailwater_document::{Field, Form, FromScalar, Mistakes, Scalar, Section, Shape};

use crate::file::Load;
use crate::keys::{Keys, keys};
use crate::scalars::address;

/// How to reach a store. The bucket is each sink's own.
#[derive(Clone, Debug)]
pub struct S3Config {
    /// Where the store listens, with scheme.
    pub endpoint: String,
    /// Its region.
    pub region: String,
    /// Who we are to it.
    pub keys: Keys,
    /// Whether the bucket stands in the path rather than in the host name.
    pub path_style: bool,
    /// How it encrypts what is stored; as the bucket says, when this does not.
    pub encryption: Option<Encryption>,
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

/// What the section may hold.
pub static SHAPE: Shape = Shape {
    about: "The store of archive sinks. Without `access_key` and `secret_key` the keys are what AWS's own tools would take: \
            variables, a profile, the role of a service account, of a container or of an instance. Files are read again when \
            they are a minute old, or at once when the store refuses what they say.",
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
