use std::path::Path;

use tailwater_document::{Mistakes, Section};
use tailwater_runtime::Secret;

use crate::file::Load;

/// A secret given in place or as the name of a file that holds it.
pub(crate) fn secret(
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
        (None, Some(file)) => match load(Path::new(&file)) {
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
