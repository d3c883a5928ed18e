//! A YAML document as values that know where they stand.

use std::borrow::Cow;
use std::iter::Peekable;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};

use crate::{Mistake, Place};

/// Deepest nesting that is read. Configuration needs five levels; the limit keeps hostile files off the stack.
const DEPTH_MAX: usize = 64;

/// Answers what `${NAME}` stands for.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// One YAML value and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub(crate) place: Place,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// `plain` scalars may mean null, a number or a boolean; quoted ones are always text.
    Scalar {
        text: String,
        plain: bool,
        expanded: bool,
    },
    /// A scalar whose substitution failed, with what is to be said about it when somebody reads it: so that it is
    /// said with everything else, and at its key.
    Unfilled(String),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) value: Node,
}

impl Node {
    /// Where the value stands.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Whether the value is absent in all but name: `key:` with nothing behind it, `null` or `~`.
    pub fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, plain: true, .. } if matches!(text.as_str(), "" | "~" | "null"))
    }

    pub(crate) fn kind_name(&self) -> &'static str {
        match &self.kind {
            _ if self.is_null() => "nothing",
            Kind::Scalar { .. } | Kind::Unfilled(_) => "a single value",
            Kind::Sequence(_) => "a list",
            Kind::Mapping(_) => "a mapping",
        }
    }
}

/// Reads all documents of a file, without substitution.
pub fn parse(file: &str, text: &str) -> Result<Vec<Node>, Mistake> {
    read(file, text, None)
}

/// Reads all documents of a file and replaces `${NAME}` and `${NAME:-default}` in values.
///
/// `$${` stands for a literal `${`. A name without value and default is a mistake.
pub fn parse_expanding(file: &str, text: &str, lookup: Lookup<'_>) -> Result<Vec<Node>, Mistake> {
    read(file, text, Some(lookup))
}

fn read(file: &str, text: &str, lookup: Option<Lookup<'_>>) -> Result<Vec<Node>, Mistake> {
    let file: Arc<str> = file.into();
    let mut reader = Reader { events: Parser::new_from_str(text).peekable(), file, lookup };
    let mut documents = Vec::new();
    loop {
        let (event, place) = reader.next()?;
        match event {
            Event::StreamEnd => return Ok(documents),
            Event::DocumentStart(_) => {
                let node = reader.node(0)?;
                if !node.is_null() {
                    documents.push(node);
                }
            }
            Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
            other => return Err(problem(place, format!("unexpected {other:?}"))),
        }
    }
}

struct Reader<'input, 'l> {
    events: Peekable<Parser<'input, StrInput<'input>>>,
    file: Arc<str>,
    lookup: Option<Lookup<'l>>,
}

impl<'input> Reader<'input, '_> {
    fn next(&mut self) -> Result<(Event<'input>, Place), Mistake> {
        match self.events.next() {
            Some(Ok((event, span))) => Ok((event, self.place(span.start.line(), span.start.col()))),
            Some(Err(error)) => {
                let place = self.place(error.marker().line(), error.marker().col());
                Err(problem(place, format!("not valid YAML: {}", error.info())))
            }
            None => Ok((Event::StreamEnd, self.place(0, 0))),
        }
    }

    fn place(&self, line: usize, column_from_zero: usize) -> Place {
        Place {
            file: self.file.clone(),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column_from_zero + 1).unwrap_or(u32::MAX),
        }
    }

    fn node(&mut self, depth: usize) -> Result<Node, Mistake> {
        let (event, place) = self.next()?;
        if depth > DEPTH_MAX {
            return Err(problem(place, format!("nested deeper than {DEPTH_MAX} levels")));
        }
        let kind = match event {
            Event::Scalar(text, style, ..) => self.scalar(text, style),
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                while !self.at_end() {
                    items.push(self.node(depth + 1)?);
                }
                self.next()?;
                Kind::Sequence(items)
            }
            Event::MappingStart(..) => {
                let mut entries: Vec<Entry> = Vec::new();
                while !self.at_end() {
                    let entry = self.entry(depth)?;
                    if let Some(first) = entries.iter().find(|e| e.key == entry.key) {
                        let line = first.place.line;
                        return Err(Mistake {
                            place: entry.place,
                            key: entry.key,
                            problem: format!("given twice, first on line {line}"),
                        });
                    }
                    entries.push(entry);
                }
                self.next()?;
                Kind::Mapping(entries)
            }
            Event::Alias(_) => {
                return Err(problem(place, "aliases are not read; write the value out"));
            }
            other => return Err(problem(place, format!("unexpected {other:?}"))),
        };
        Ok(Node { place, kind })
    }

    fn entry(&mut self, depth: usize) -> Result<Entry, Mistake> {
        let key = self.node(depth + 1)?;
        let Kind::Scalar { text, .. } = key.kind else {
            return Err(problem(key.place, "a key must be a single value"));
        };
        Ok(Entry { key: text, place: key.place, value: self.node(depth + 1)? })
    }

    fn at_end(&mut self) -> bool {
        matches!(
            self.events.peek(),
            None | Some(Ok((Event::SequenceEnd | Event::MappingEnd | Event::StreamEnd, _)))
        )
    }

    fn scalar(&self, text: Cow<'_, str>, style: ScalarStyle) -> Kind {
        let plain = style == ScalarStyle::Plain;
        let Some(lookup) = self.lookup.filter(|_| text.contains("${")) else {
            return Kind::Scalar { text: text.into_owned(), plain, expanded: false };
        };
        match expand(&text, lookup) {
            Ok(text) => Kind::Scalar { text, plain, expanded: true },
            Err(problem) => Kind::Unfilled(problem),
        }
    }
}

fn problem(place: Place, problem: impl Into<String>) -> Mistake {
    Mistake { place, key: String::new(), problem: problem.into() }
}

fn expand(text: &str, lookup: Lookup<'_>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if let Some(literal) = rest[..at].strip_suffix('$') {
            out.push_str(literal);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let inner = &rest[at + 2..];
        let end = inner.find('}').ok_or("`${` without a closing `}`")?;
        let (name, default) = match inner[..end].split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (&inner[..end], None),
        };
        match lookup(name).filter(|value| !value.is_empty()).as_deref().or(default) {
            Some(value) => out.push_str(value),
            None => {
                return Err(format!(
                    "the environment variable `{name}` is not set; set it or write `${{{name}:-default}}`"
                ));
            }
        }
        rest = &inner[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text_of(node: &Node) -> &str {
        match &node.kind {
            Kind::Scalar { text, .. } => text,
            _ => panic!("not a scalar"),
        }
    }

    fn expanded(text: &str) -> Result<String, String> {
        expand(text, &|name| (name == "PORT").then(|| "5432".to_owned()))
    }

    #[test]
    fn variables_are_replaced_and_defaults_stand_in() {
        assert_eq!(expanded("a${PORT}b").as_deref(), Ok("a5432b"));
        assert_eq!(expanded("${NONE:-x}").as_deref(), Ok("x"));
        assert_eq!(expanded("$${PORT}").as_deref(), Ok("${PORT}"));
        assert!(expanded("${NONE}").is_err_and(|e| e.contains("NONE")));
        assert!(expanded("${PORT").is_err());
    }

    #[test]
    fn every_document_of_a_file_is_read_and_empty_ones_are_passed_over() {
        let documents = parse("f", "a\n---\n---\nb\n").expect("valid");
        assert_eq!(documents.iter().map(text_of).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_broken_document_names_the_line() {
        let mistake = parse("f.yaml", "a: 1\nb: [1,\nc: }\n").expect_err("broken");
        assert!(mistake.place.line >= 2, "{mistake}");
    }

    #[test]
    fn a_key_given_twice_is_refused() {
        let mistake = parse("f.yaml", "a: 1\nb: 2\na: 3\n").expect_err("twice");
        assert_eq!(mistake.to_string(), "f.yaml:3:1: `a`: given twice, first on line 1");
    }

    #[test]
    fn aliases_are_refused() {
        assert!(parse("f", "a: &x 1\nb: *x\n").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_panic(text in "[ -~\n\t]{0,200}") {
            let _ = parse("f", &text);
        }
    }
}
