use std::path::{Path, PathBuf};

use tailwater_document::{Mistakes, Section};
use tailwater_runtime::Secret;

use crate::file::Load;

/// A secret given in place or as the name of a file that holds it.
pub fn secret(
    section: &mut Section<'_>,
    key: &'static str,
    file_key: &'static str,
    load: Load<'_>,
    mistakes: &mut Mistakes,
) -> Option<Secret> {
    let given: Option<Secret> = section.optional(key, mistakes);
    let file: Option<String> = section.optional(file_key, mistakes);
    match (given, file) {
        (Some(_), Some(_)) => {
            section.refuse(file_key, format!("`{key}` is given too; keep one of them"), mistakes);
            None
        }
        (given, None) => given,
        (None, Some(file)) => match load.text(Path::new(&file)) {
            Ok(text) => Some(Secret::new(text.trim_end_matches(['\r', '\n']))),
            Err(error) => {
                section.refuse(file_key, format!("the file cannot be read: {error}"), mistakes);
                None
            }
        },
    }
}

/// An `http://` or `https://` address. One with user and password in it is refused, and not repeated.
pub(crate) fn address(
    section: &mut Section<'_>,
    key: &'static str,
    mistakes: &mut Mistakes,
) -> Option<String> {
    let text: String = section.required(key, mistakes)?;
    let rest = ["http://", "https://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let problem = match rest {
        None | Some("") => "expected `http://host:port` or `https://host:port`",
        Some(rest) if rest.contains('@') => "user and password have keys of their own here",
        Some(_) => return Some(text),
    };
    section.refuse(key, problem, mistakes);
    None
}

/// A certificate by which a server knows us. Read at every connection, so that a renewed one is taken at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// File of the certificate and of those between it and its root, in PEM.
    pub certificate: PathBuf,
    /// File of its key, in PEM and not encrypted.
    pub key: PathBuf,
}

/// A file that is read at every connection, and can be read now.
pub(crate) fn pem_file(
    section: &mut Section<'_>,
    key: &'static str,
    load: Load<'_>,
    mistakes: &mut Mistakes,
) -> Option<PathBuf> {
    let file: String = section.optional(key, mistakes)?;
    match load.text(Path::new(&file)) {
        Ok(_) => Some(load.path(Path::new(&file))),
        Err(error) => {
            section.refuse(key, format!("the file cannot be read: {error}"), mistakes);
            None
        }
    }
}

/// A certificate and its key, which go together.
pub(crate) fn client_certificate(
    section: &mut Section<'_>,
    [certificate_key, key_key]: [&'static str; 2],
    load: Load<'_>,
    mistakes: &mut Mistakes,
) -> Option<ClientCertificate> {
    let lone = |section: &mut Section<'_>, key, missing, what: &str, mistakes: &mut Mistakes| {
        if section.node(missing).is_none() {
            let problem = format!("its {what} is missing; name it with `{missing}`");
            section.refuse(key, problem, mistakes);
        }
    };
    match (
        pem_file(section, certificate_key, load, mistakes),
        pem_file(section, key_key, load, mistakes),
    ) {
        (Some(certificate), Some(key)) => Some(ClientCertificate { certificate, key }),
        (Some(_), None) => {
            lone(section, certificate_key, key_key, "key", mistakes);
            None
        }
        (None, Some(_)) => {
            lone(section, key_key, certificate_key, "certificate", mistakes);
            None
        }
        (None, None) => None,
    }
}
