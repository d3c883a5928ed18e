use std::io;
use std::path::{Path, PathBuf};

use tailwater_document::{Mistakes, Section};
use tailwater_runtime::Secret;

use crate::file::Load;

/// A text that stands in the configuration, or in a file that is read whenever the text is needed.
#[derive(Clone, Debug)]
pub enum Word {
    /// It stands there.
    Given(Secret),
    /// It is what is in the file, without the line's end.
    File(PathBuf),
}

/// A file that should hold a text does not, now.
#[derive(Debug, thiserror::Error)]
#[error("`{}` cannot be read", path.display())]
pub struct NoWord {
    path: PathBuf,
    #[source]
    why: io::Error,
}

impl Word {
    /// One that is known now.
    pub fn given(text: impl Into<String>) -> Self {
        Self::Given(Secret::new(text))
    }

    /// What it is now. An empty file is one that somebody is writing.
    ///
    /// # Errors
    /// The file cannot be read, or is empty.
    pub fn read(&self) -> Result<Secret, NoWord> {
        let path = match self {
            Self::Given(text) => return Ok(text.clone()),
            Self::File(path) => path,
        };
        let text = std::fs::read_to_string(path).map(|text| without_line_end(&text));
        match text {
            Ok(text) if !text.expose().is_empty() => Ok(text),
            Ok(_) => Err(NoWord { path: path.clone(), why: io::Error::other("it is empty") }),
            Err(why) => Err(NoWord { path: path.clone(), why }),
        }
    }

    /// Whether it may be another one later.
    pub fn may_change(&self) -> bool {
        matches!(self, Self::File(_))
    }
}

fn without_line_end(text: &str) -> Secret {
    Secret::new(text.trim_end_matches(['\r', '\n']))
}

/// What stands under one of two keys: a text, or the name of a file, whose text is told as well.
enum Found {
    Given(Secret),
    File(PathBuf, String),
}

fn given_or_in_a_file(
    section: &mut Section<'_>,
    [key, file_key]: [&'static str; 2],
    load: Load<'_>,
    mistakes: &mut Mistakes,
) -> Option<Found> {
    let given: Option<Secret> = section.optional(key, mistakes);
    if given.is_some() && section.node(file_key).is_some() {
        section.refuse(file_key, format!("`{key}` is given too; keep one of them"), mistakes);
        return None;
    }
    let file = file(section, file_key, load, mistakes).map(|(path, text)| Found::File(path, text));
    given.map(Found::Given).or(file)
}

/// A secret given in place or as the name of a file that holds it, which is read now.
pub fn secret(
    section: &mut Section<'_>,
    key: &'static str,
    file_key: &'static str,
    load: Load<'_>,
    mistakes: &mut Mistakes,
) -> Option<Secret> {
    match given_or_in_a_file(section, [key, file_key], load, mistakes)? {
        Found::Given(text) => Some(text),
        Found::File(_, text) => Some(without_line_end(&text)),
    }
}

/// The same, where the file is read again whenever the text is needed.
pub(crate) fn word(
    section: &mut Section<'_>,
    keys: [&'static str; 2],
    load: Load<'_>,
    mistakes: &mut Mistakes,
) -> Option<Word> {
    match given_or_in_a_file(section, keys, load, mistakes)? {
        Found::Given(text) => Some(Word::Given(text)),
        Found::File(path, _) => Some(Word::File(path)),
    }
}

/// Where a named file is, and what is in it now.
fn file(
    section: &mut Section<'_>,
    key: &'static str,
    load: Load<'_>,
    mistakes: &mut Mistakes,
) -> Option<(PathBuf, String)> {
    let file: String = section.optional(key, mistakes)?;
    match load.text(Path::new(&file)) {
        Ok(text) => Some((load.path(Path::new(&file)), text)),
        Err(error) => {
            section.refuse(key, format!("the file cannot be read: {error}"), mistakes);
            None
        }
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
    file(section, key, load, mistakes).map(|(path, _)| path)
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
