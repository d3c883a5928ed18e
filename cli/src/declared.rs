//! Catalog files: every `*.yaml` and `*.yml` of a folder and the folders below it.

use std::io;
use std::path::{Path, PathBuf};

use tailwater_document::{Mistake, Place};
use tailwater_topics_contract::Catalog;

use crate::config::Error;

/// Reads a folder, or one file, as one catalog.
pub(crate) fn load(path: &Path) -> Result<Catalog, Error> {
    let mut files = Vec::new();
    find(path, &mut files).map_err(|(path, error)| unreadable(&path, &error))?;
    files.sort();
    if files.is_empty() {
        let problem = "there is no `*.yaml` file with topics or sinks in it";
        return Err(mistake(path, problem.to_owned()));
    }
    let mut texts = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(|error| unreadable(&file, &error))?;
        texts.push((file.display().to_string(), text));
    }
    let texts = texts.iter().map(|(file, text)| (file.as_str(), text.as_str()));
    Catalog::parse(texts, &|path| std::fs::read_to_string(path)).map_err(Error::Mistakes)
}

fn find(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), (PathBuf, io::Error)> {
    let at = |error| (path.to_owned(), error);
    if !path.metadata().map_err(at)?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in path.read_dir().map_err(at)? {
        let below = entry.map_err(at)?.path();
        let is_yaml = below.extension().is_some_and(|e| e == "yaml" || e == "yml");
        if below.is_dir() || is_yaml {
            find(&below, files)?;
        }
    }
    Ok(())
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    mistake(path, format!("it cannot be read: {error}"))
}

fn mistake(path: &Path, problem: String) -> Error {
    let place = Place::file(&path.display().to_string());
    Error::Mistakes(vec![Mistake { place, key: String::new(), problem }])
}
