//! Catalog files: every `*.yaml` and `*.yml` of a folder and the folders below it, hidden ones left out.
//!
//! A folder that Kubernetes mounts holds each file twice: as itself, and in a hidden folder that it links to.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use tailwater_document::{Mistake, Place};
use tailwater_topics_contract::Catalog;

use crate::config::Error;

/// The texts of a catalog by file, to show the line that a message is about. Holds no secrets: there are none in a
/// catalog.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources(BTreeMap<String, String>);

impl Sources {
    /// The line at a place with a mark below it, ready to be appended to a message; empty where it is not known.
    pub(crate) fn snippet(&self, place: &Place) -> String {
        let line = place.line.checked_sub(1).and_then(|before| {
            self.0.get(place.file.as_ref() as &str)?.lines().nth(before as usize)
        });
        let Some(line) = line.filter(|line| !line.trim().is_empty()) else { return String::new() };
        let number = place.line.to_string();
        let (gap, column) =
            (" ".repeat(number.len()), " ".repeat(place.column.saturating_sub(1) as usize));
        let line = line.replace('\t', " ");
        format!("\n      {number} | {line}\n      {gap} | {column}^")
    }
}

/// Reads a folder, or one file, as one catalog.
pub(crate) fn load(path: &Path) -> Result<(Catalog, Sources), Error> {
    let mut files = Vec::new();
    find(path, &mut files).map_err(|(path, error)| unreadable(&path, &error))?;
    files.sort();
    if files.is_empty() {
        let problem = "there is no `*.yaml` file with topics or sinks in it";
        return Err(mistake(path, problem.to_owned()));
    }
    let mut texts = BTreeMap::new();
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(|error| unreadable(&file, &error))?;
        texts.insert(file.display().to_string(), text);
    }
    let files = texts.iter().map(|(file, text)| (file.as_str(), text.as_str()));
    match Catalog::parse(files, &|path| std::fs::read_to_string(path)) {
        Ok(catalog) => Ok((catalog, Sources(texts))),
        Err(mistakes) => Err(Error::Mistakes(mistakes, Sources(texts))),
    }
}

fn find(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), (PathBuf, io::Error)> {
    let at = |error| (path.to_owned(), error);
    if !path.metadata().map_err(at)?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in path.read_dir().map_err(at)? {
        let entry = entry.map_err(at)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let below = entry.path();
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
    let mistakes = vec![Mistake { place, key: String::new(), problem }];
    Error::Mistakes(mistakes, Sources::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snippet_shows_the_line_and_marks_the_column() {
        let sources =
            Sources([("a.yaml".to_owned(), "kind: Topic\nname: Bad\n".to_owned())].into());
        let place = Place { line: 2, column: 7, ..Place::file("a.yaml") };
        assert_eq!(sources.snippet(&place), "\n      2 | name: Bad\n        |       ^");
        assert_eq!(sources.snippet(&Place { line: 9, ..place }), "");
        assert_eq!(sources.snippet(&Place::file("a.yaml")), "");
    }

    #[test]
    fn a_folder_as_kubernetes_mounts_it_holds_every_file_once() {
        let folder = std::env::temp_dir().join(format!("tailwater-mount-{}", std::process::id()));
        let hidden = folder.join("..2026_11_21");
        std::fs::create_dir_all(&hidden).expect("a folder");
        std::fs::write(hidden.join("topics.yaml"), "").expect("a file");
        std::os::unix::fs::symlink("..2026_11_21", folder.join("..data")).expect("a link");
        std::os::unix::fs::symlink("..data/topics.yaml", folder.join("topics.yaml"))
            .expect("a link");
        let mut files = Vec::new();
        let found = find(&folder, &mut files);
        std::fs::remove_dir_all(&folder).expect("removed");
        assert!(found.is_ok());
        assert_eq!(files, [folder.join("topics.yaml")]);
    }
}
