//! What is wrong with a document, and where.

use std::fmt;
use std::sync::Arc;

/// A place in a file, as editors count: lines and columns from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file as the user named it.
    pub file: Arc<str>,
    /// Line, from 1; 0 when the mistake concerns the file as a whole.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
}

impl Place {
    /// The file as a whole.
    pub fn file(file: &str) -> Self {
        Self { file: file.into(), line: 0, column: 0 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            f.write_str(&self.file)
        } else {
            write!(f, "{}:{}:{}", self.file, self.line, self.column)
        }
    }
}

/// One thing wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Where it stands.
    pub place: Place,
    /// The dotted path of the key, such as `postgres.port`; empty for the document as a whole.
    pub key: String,
    /// What is wrong and what would be right. Never holds the value of a secret.
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "{}: {}", self.place, self.problem)
        } else {
            write!(f, "{}: `{}`: {}", self.place, self.key, self.problem)
        }
    }
}

impl std::error::Error for Mistake {}

/// Every mistake found so far, in the order they were found.
#[derive(Debug, Default)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// Notes a mistake.
    pub fn add(&mut self, place: Place, key: impl Into<String>, problem: impl Into<String>) {
        self.0.push(Mistake { place, key: key.into(), problem: problem.into() });
    }

    /// Notes a mistake that already has its place.
    pub fn push(&mut self, mistake: Mistake) {
        self.0.push(mistake);
    }

    /// Whether nothing is wrong so far.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All mistakes, in the order of their places.
    pub fn into_sorted(mut self) -> Vec<Mistake> {
        self.0.sort();
        self.0
    }

    /// The value if nothing is wrong, otherwise every mistake.
    ///
    /// `value` may only be absent when a mistake was noted; that is the caller's side of the bargain.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Vec<Mistake>> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => {
                debug_assert!(!self.0.is_empty(), "a value is missing and no mistake says why");
                Err(self.into_sorted())
            }
        }
    }
}
