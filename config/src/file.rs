//! A configuration file: one YAML document, and all its mistakes at once.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use tailwater_document::{Mistake, Mistakes, Place, Section, parse_expanding};

/// Answers what an environment variable holds.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The files that a configuration names, which are looked for beside it.
#[derive(Clone, Copy)]
pub struct Load<'a> {
    folder: &'a Path,
    read: &'a dyn Fn(&Path) -> io::Result<String>,
}

impl Load<'_> {
    /// Reads a file whole.
    pub fn text(&self, file: &Path) -> io::Result<String> {
        (self.read)(&self.path(file))
    }

    /// Where a file is.
    pub fn path(&self, file: &Path) -> PathBuf {
        self.folder.join(file)
    }
}

/// The configuration cannot be used.
#[derive(Debug)]
pub enum Error {
    /// The file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Everything wrong in it. Its lines are not shown with its mistakes: they may hold secrets.
    Mistakes(Vec<Mistake>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, .. } => write!(
                f,
                "cannot read the configuration `{}`; name it with --config or TAILWATER_CONFIG",
                path.display()
            ),
            Self::Mistakes(mistakes) => {
                let s = if mistakes.len() == 1 { "" } else { "s" };
                write!(f, "{} mistake{s}:", mistakes.len())?;
                mistakes.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } => Some(source),
            Self::Mistakes(_) => None,
        }
    }
}

/// Reads a configuration file by `whole`, which asks the top section for what its program needs and answers `None` when
/// it noted a mistake. Files that the configuration names are looked for beside it.
///
/// # Errors
/// The file cannot be read, or has mistakes.
pub fn load<T>(
    path: &Path,
    environment: Environment<'_>,
    whole: impl FnOnce(Section<'_>, Load<'_>, &mut Mistakes) -> Option<T>,
) -> Result<T, Error> {
    let read = |path: &Path| std::fs::read_to_string(path);
    let text = read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let load = Load { folder, read: &read };
    parse_beside(&path.display().to_string(), &text, environment, load, whole)
        .map_err(Error::Mistakes)
}

/// The same for a text; `file` is its name in messages.
///
/// # Errors
/// Every mistake in it.
pub fn parse<T>(
    file: &str,
    text: &str,
    environment: Environment<'_>,
    read: &dyn Fn(&Path) -> io::Result<String>,
    whole: impl FnOnce(Section<'_>, Load<'_>, &mut Mistakes) -> Option<T>,
) -> Result<T, Vec<Mistake>> {
    parse_beside(file, text, environment, Load { folder: Path::new(""), read }, whole)
}

fn parse_beside<T>(
    file: &str,
    text: &str,
    environment: Environment<'_>,
    load: Load<'_>,
    whole: impl FnOnce(Section<'_>, Load<'_>, &mut Mistakes) -> Option<T>,
) -> Result<T, Vec<Mistake>> {
    let mut mistakes = Mistakes::default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents = parse_expanding(file, text, environment).map_err(|mistake| vec![mistake])?;
    let read = match documents.as_slice() {
        [document] => whole(document.section("", &mut mistakes), load, &mut mistakes),
        [] => {
            mistakes.add(
                Place::file(file),
                "",
                "it is empty; it needs `pipeline`, `kafka` and more",
            );
            None
        }
        [_, second, ..] => {
            let problem =
                "a configuration is one document; remove everything from the second `---` on";
            mistakes.add(second.place().clone(), "", problem);
            None
        }
    };
    mistakes.finish(read)
}
