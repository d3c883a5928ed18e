//! What is wrong with a query, in words that help: where, what was meant, what to do.

use std::fmt;

use datafusion::common::{DataFusionError, SchemaError};

use crate::archive;
use crate::fetch::FetchError;

/// A query that gives no answer.
#[derive(Debug)]
pub enum Problem {
    /// The SQL is wrong.
    Sql {
        /// Line and column from 1, where known.
        at: Option<(usize, usize)>,
        /// What is wrong.
        what: String,
        /// That line.
        line: String,
    },
    /// It needs more memory than it may use.
    Memory {
        /// What it may use.
        limit: u64,
        /// Who wanted more.
        who: String,
    },
    /// The archive is not known to be complete up to the cut.
    Incomplete {
        /// The cut.
        cut: String,
        /// Why.
        because: Vec<String>,
    },
    /// The archive cannot be read.
    Archive(Box<dyn std::error::Error + Send + Sync>),
    /// A value cannot be used as the query wants.
    Value(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sql { at: Some((line_number, column)), what, line } => {
                write!(f, "line {line_number}, column {column}: {what}\n  {line}\n  ")?;
                write!(f, "{}^", " ".repeat(column.saturating_sub(1).min(line.chars().count())))
            }
            Self::Sql { at: None, what, .. } | Self::Value(what) => f.write_str(what),
            Self::Memory { limit, who } => write!(
                f,
                "the query needs more memory than the {} it may use, most of all for {who}; narrow it, or allow more with --memory",
                crate::output::bytes(*limit)
            ),
            Self::Incomplete { cut, because } => {
                write!(f, "the archive is not known to be complete up to {cut}:")?;
                for reason in because {
                    write!(f, "\n  {reason}")?;
                }
                f.write_str(
                    "\ntake an earlier cut, wait for the archive, or ask with --allow-incomplete",
                )
            }
            Self::Archive(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Problem {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Archive(error) => error.source(),
            _ => None,
        }
    }
}

impl From<FetchError> for Problem {
    fn from(error: FetchError) -> Self {
        Self::Archive(Box::new(error))
    }
}

impl From<archive::Error> for Problem {
    fn from(error: archive::Error) -> Self {
        Self::Archive(Box::new(error))
    }
}

impl Problem {
    /// A table that is not there.
    pub(crate) fn no_table(sql: &str, wanted: &str, tables: &[String]) -> Self {
        let plain = crate::session::plain_name(wanted);
        let instead = match nearest(&plain, tables) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are {}", tables.join(", ")),
        };
        let what = format!("there is no table `{wanted}`; {instead}");
        let last = wanted.rsplit('.').next().unwrap_or(wanted);
        let at = find_word(sql, wanted).or_else(|| find_word(sql, last));
        Self::sql(sql, at, what)
    }

    fn sql(sql: &str, at: Option<(usize, usize)>, what: String) -> Self {
        let line = at.and_then(|(line, _)| sql.lines().nth(line - 1)).unwrap_or_default();
        Self::Sql { at, what, line: line.to_owned() }
    }

    /// What the engine says of a query, in our words.
    pub(crate) fn of(sql: &str, limit: u64, error: DataFusionError) -> Self {
        let at = error
            .diagnostic()
            .and_then(|diagnostic| diagnostic.span)
            .map(|span| (span.start.line as usize, span.start.column as usize));
        let error = unwrapped(error);
        match error {
            DataFusionError::External(error) => match error.downcast::<FetchError>() {
                Ok(error) => Self::Archive(error),
                Err(error) => match error.downcast::<DataFusionError>() {
                    Ok(error) => Self::of(sql, limit, *error),
                    Err(error) => Self::Archive(error),
                },
            },
            DataFusionError::ResourcesExhausted(text) => {
                Self::Memory { limit, who: consumer(&text) }
            }
            DataFusionError::SQL(error, _) => {
                let text = error.to_string();
                let text = text.trim_start_matches("sql parser error: ");
                let (what, at) = position(text);
                Self::sql(sql, at.or_else(|| end_of(sql)), what)
            }
            DataFusionError::SchemaError(error, _) => match *error {
                SchemaError::FieldNotFound { field, valid_fields } => {
                    let valid: Vec<String> =
                        valid_fields.iter().map(|column| column.name.clone()).collect();
                    let instead = match nearest(&field.name, &valid) {
                        Some(near) if near.chars().any(char::is_uppercase) => {
                            format!("; did you mean \"{near}\", with its quotes?")
                        }
                        Some(near) => format!("; did you mean `{near}`?"),
                        None if valid.is_empty() => String::new(),
                        None => format!("; there are {}", valid.join(", ")),
                    };
                    let what = format!("there is no column `{}`{instead}", field.name);
                    Self::sql(sql, at.or_else(|| find_word(sql, &field.name)), what)
                }
                other => Self::sql(sql, at, other.to_string()),
            },
            DataFusionError::ArrowError(error, _) => Self::Value(error.to_string()),
            DataFusionError::Plan(text)
            | DataFusionError::NotImplemented(text)
            | DataFusionError::Internal(text) => {
                Self::sql(sql, at, mistyped(&text).unwrap_or(text))
            }
            other => Self::Value(other.strip_backtrace()),
        }
    }
}

fn unwrapped(error: DataFusionError) -> DataFusionError {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => {
            unwrapped(*inner)
        }
        DataFusionError::Collection(mut errors) if !errors.is_empty() => {
            unwrapped(errors.swap_remove(0))
        }
        DataFusionError::Shared(error) => match std::sync::Arc::try_unwrap(error) {
            Ok(error) => unwrapped(error),
            Err(error) => match error.find_root() {
                DataFusionError::ResourcesExhausted(text) => {
                    DataFusionError::ResourcesExhausted(text.clone())
                }
                other => DataFusionError::Execution(other.strip_backtrace()),
            },
        },
        other => other,
    }
}

/// Who holds most, out of the pool's list of its largest consumers.
fn consumer(text: &str) -> String {
    let listed = text.split_once(" as:").and_then(|(_, list)| list.trim_start().lines().next());
    let name = listed.and_then(|line| line.split(['#', '[']).next()).map_or("", str::trim);
    if name.is_empty() { "its intermediate results".to_owned() } else { format!("`{name}`") }
}

/// What a function was given that it cannot take, such as `sum(Utf8View)`.
fn mistyped(text: &str) -> Option<String> {
    let call = text.split_once("name and argument types '")?.1.split_once('\'')?.0;
    let call = call.replace("Utf8View", "text").replace("Utf8", "text");
    let advice =
        if call.contains("text") { "; decimals and times are text here, so CAST them" } else { "" };
    Some(format!("`{call}` is not possible{advice}"))
}

/// Takes ` at Line: 1, Column: 8` off a message.
fn position(text: &str) -> (String, Option<(usize, usize)>) {
    let Some((what, at)) = text.split_once(" at Line: ") else { return (text.to_owned(), None) };
    let mut numbers = at.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
    let mut number = || numbers.next().and_then(|number| number.parse().ok());
    let at = number().zip(number());
    (what.to_owned(), at)
}

fn end_of(sql: &str) -> Option<(usize, usize)> {
    let last = sql.lines().last()?;
    Some((sql.lines().count(), last.chars().count() + 1))
}

/// Line and column of a word.
fn find_word(sql: &str, word: &str) -> Option<(usize, usize)> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let lower = sql.to_lowercase();
    let found = lower.match_indices(&word.to_lowercase()).map(|(at, _)| at).find(|at| {
        let before = lower[..*at].chars().next_back();
        let after = lower[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })?;
    let before = &lower[..found];
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    Some((line, before[start..].chars().count() + 1))
}

/// The name that differs least, when it differs little.
pub(crate) fn nearest<'n>(wanted: &str, names: &'n [String]) -> Option<&'n str> {
    let wanted = wanted.to_lowercase();
    let near = names.iter().map(|name| (distance(&wanted, &name.to_lowercase()), name));
    let (distance, name) = near.min()?;
    (distance <= wanted.chars().count().div_ceil(3)).then_some(name)
}

/// How many characters must be put in, taken out or changed.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, a) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (at, b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[at + 1];
            row[at + 1] = changed.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_one_that_is_near() {
        let names = ["price".to_owned(), "productId".to_owned(), "id".to_owned()];
        assert_eq!(nearest("prise", &names), Some("price"));
        assert_eq!(nearest("productid", &names), Some("productId"));
        assert_eq!(nearest("warehouse", &names), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn what_the_engine_says_is_put_shorter() {
        let text = "Additional allocation failed for X with top memory consumers (across reservations) as:\n  the current rows of a.b#7(can spill: false) consumed 9 MB, peak 9 MB.\nError: …";
        assert_eq!(consumer(text), "`the current rows of a.b`");
        assert_eq!(consumer(""), "its intermediate results");
        let text =
            "… No function matches the given name and argument types 'sum(Utf8View)'. You might …";
        let said = "`sum(text)` is not possible; decimals and times are text here, so CAST them";
        assert_eq!(mistyped(text).as_deref(), Some(said));
    }

    #[test]
    fn positions_are_found_and_shown() {
        assert_eq!(
            position("Expected: an expression, found: FROM at Line: 2, Column: 8"),
            ("Expected: an expression, found: FROM".to_owned(), Some((2, 8)))
        );
        assert_eq!(find_word("SELECT a\nFROM  stoc", "stoc"), Some((2, 7)));
        assert_eq!(find_word("SELECT stocks", "stoc"), None);
        let problem = Problem::no_table("SELECT * FROM stok", "stok", &["stock".to_owned()]);
        assert_eq!(
            problem.to_string(),
            "line 1, column 15: there is no table `stok`; did you mean `stock`?\n  SELECT * FROM stok\n                ^"
        );
    }
}
