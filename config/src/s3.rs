use tailwater_document::{Field, Form, Mistakes, Section, Shape};
use tailwater_runtime::Secret;

use crate::file::Load;
use crate::scalars::{address, secret};

/// How to reach a store. The bucket is each sink's own.
#[derive(Clone, Debug)]
pub struct S3Config {
    /// Where the store listens, with scheme.
    pub endpoint: String,
    /// Its region.
    pub region: String,
    /// Access key.
    pub access_key: String,
    /// Secret key.
    pub secret: Secret,
    /// Whether the bucket stands in the path rather than in the host name.
    pub path_style: bool,
}

/// What the section may hold.
pub static SHAPE: Shape = Shape {
    about: "The store of archive sinks.",
    fields: &[
        Field::required("endpoint", Form::Text("`http://host:port`"), "the store"),
        Field::or("region", Form::Text("a region"), "us-east-1", "its region"),
        Field::required("access_key", Form::Text("a key"), "access key"),
        Field::optional("secret_key", Form::Text("a secret"), "secret key"),
        Field::optional(
            "secret_key_file",
            Form::Text("a file name"),
            "file that holds the secret key",
        ),
        Field::or(
            "path_style",
            Form::Truth,
            "true",
            "whether the bucket is part of the path, not of the host name",
        ),
    ],
};

/// Reads the section. `None` means that mistakes were noted.
pub fn read(mut section: Section<'_>, load: Load<'_>, mistakes: &mut Mistakes) -> Option<S3Config> {
    let endpoint = address(&mut section, "endpoint", mistakes);
    let region = section.optional("region", mistakes).unwrap_or_else(|| "us-east-1".to_owned());
    let access_key = section.required("access_key", mistakes);
    let secret_key = secret(&mut section, "secret_key", "secret_key_file", load, mistakes);
    if secret_key.is_none() && section.node("secret_key_file").is_none() {
        section.refuse("secret_key", "missing; or name a file with `secret_key_file`", mistakes);
    }
    let path_style = section.or("path_style", true, mistakes);
    section.finish_as(&SHAPE, mistakes);
    Some(S3Config {
        endpoint: endpoint?,
        region,
        access_key: access_key?,
        secret: secret_key?,
        path_style,
    })
}
