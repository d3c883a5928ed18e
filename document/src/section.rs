//! Typed reads from a mapping, collecting everything that is wrong.

use std::collections::{BTreeMap, BTreeSet};

use crate::node::{Entry, Kind};
use crate::{FromScalar, Mistakes, Node, Place, Scalar, Shape};

/// A mapping in the middle of being read.
///
/// Ask for each key once, then call [`Section::finish`], which reports keys that nobody asked for.
pub struct Section<'a> {
    path: String,
    place: Place,
    entries: &'a [Entry],
    asked: BTreeSet<&'static str>,
    refused: BTreeSet<&'static str>,
}

impl Node {
    /// Reads this value as the mapping at `path` (empty at the top of a document).
    pub fn section(&self, path: &str, mistakes: &mut Mistakes) -> Section<'_> {
        let entries = match &self.kind {
            Kind::Mapping(entries) => entries.as_slice(),
            _ => {
                if !self.is_null() {
                    let problem = format!("expected a mapping, found {}", self.kind_name());
                    mistakes.add(self.place.clone(), path, problem);
                }
                &[]
            }
        };
        Section {
            path: path.to_owned(),
            place: self.place.clone(),
            entries,
            asked: BTreeSet::new(),
            refused: BTreeSet::new(),
        }
    }
}

impl<'a> Section<'a> {
    /// Where the mapping begins.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Where the key stands, or the mapping when the key is absent.
    pub fn place_of(&self, key: &str) -> Place {
        self.entry(key).map_or_else(|| self.place.clone(), |entry| entry.place.clone())
    }

    /// The dotted path of a key of this mapping.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Notes a mistake about a key of this mapping.
    pub fn refuse(&self, key: &str, problem: impl Into<String>, mistakes: &mut Mistakes) {
        mistakes.add(self.place_of(key), self.path_of(key), problem);
    }

    /// A value that must be there. `None` means a mistake was noted.
    pub fn required<T: FromScalar>(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes,
    ) -> Option<T> {
        if self.node(key).is_none() {
            self.refuse(key, "missing", mistakes);
            return None;
        }
        self.optional(key, mistakes)
    }

    /// A value that may be absent. `None` means absent, or a mistake was noted.
    pub fn optional<T: FromScalar>(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes,
    ) -> Option<T> {
        let path = self.path_of(key);
        self.node(key).and_then(|node| scalar(node, &path, mistakes))
    }

    /// A value that may be absent, with what stands in for it.
    pub fn or<T: FromScalar>(
        &mut self,
        key: &'static str,
        default: T,
        mistakes: &mut Mistakes,
    ) -> T {
        self.optional(key, mistakes).unwrap_or(default)
    }

    /// A mapping below this one; an absent one reads as empty, so that its required keys are reported.
    pub fn section(&mut self, key: &'static str, mistakes: &mut Mistakes) -> Section<'a> {
        let path = self.path_of(key);
        match self.node(key) {
            Some(node) => {
                let mut section = node.section(&path, mistakes);
                section.place = self.place_of(key);
                section
            }
            None => {
                let (asked, refused) = (BTreeSet::new(), BTreeSet::new());
                Section { path, place: self.place.clone(), entries: &[], asked, refused }
            }
        }
    }

    /// A mapping below this one that may be absent.
    pub fn optional_section(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes,
    ) -> Option<Section<'a>> {
        self.node(key)?;
        Some(self.section(key, mistakes))
    }

    /// A list of single values with their places; absent reads as empty.
    pub fn list<T: FromScalar>(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes,
    ) -> Vec<(T, Place)> {
        let path = self.path_of(key);
        let Some(node) = self.node(key) else { return Vec::new() };
        let Kind::Sequence(items) = &node.kind else {
            let problem = format!("expected a list, found {}", node.kind_name());
            mistakes.add(node.place.clone(), path, problem);
            return Vec::new();
        };
        let read = |(at, item): (usize, &Node)| {
            scalar(item, &format!("{path}[{at}]"), mistakes)
                .map(|value| (value, item.place.clone()))
        };
        items.iter().enumerate().filter_map(read).collect()
    }

    /// A mapping of free keys to texts; absent reads as empty.
    pub fn texts(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes,
    ) -> BTreeMap<String, String> {
        let section = self.section(key, mistakes);
        let read = |entry: &Entry| {
            let value = scalar(&entry.value, &section.path_of(&entry.key), mistakes)?;
            Some((entry.key.clone(), value))
        };
        section.entries.iter().filter_map(read).collect()
    }

    /// The raw value of a key, if it is there and not null.
    pub fn node(&mut self, key: &'static str) -> Option<&'a Node> {
        self.asked.insert(key);
        self.entry(key).map(|entry| &entry.value).filter(|node| !node.is_null())
    }

    /// Refuses a key whose meaning is known and that cannot be used, rather than calling it unknown.
    pub fn not_yet(&mut self, key: &'static str, why: &str, mistakes: &mut Mistakes) {
        self.refused.insert(key);
        if self.node(key).is_some() {
            self.refuse(key, why, mistakes);
        }
    }

    /// As [`Self::finish`], for a mapping that is described by a shape.
    ///
    /// # Panics
    /// In debug builds, when a key was asked for that the shape does not have: the description would be wrong.
    pub fn finish_as(self, shape: &Shape, mistakes: &mut Mistakes) {
        let described = |key: &str| shape.has(key) || self.refused.contains(key);
        debug_assert!(
            self.asked.iter().all(|key| described(key)),
            "{:?} are read, but not all are in the shape of `{}`",
            self.asked,
            self.path
        );
        self.finish(mistakes);
    }

    /// Reports every key that was never asked for.
    pub fn finish(self, mistakes: &mut Mistakes) {
        for entry in self.entries {
            if self.asked.contains(entry.key.as_str()) {
                continue;
            }
            let near = self.asked.iter().map(|known| (distance(known, &entry.key), known)).min();
            let problem = match near {
                Some((distance, known)) if distance <= 1 + entry.key.len() / 4 => {
                    format!("unknown key; did you mean `{known}`?")
                }
                _ if self.asked.is_empty() => "unknown key".to_owned(),
                _ => {
                    let known: Vec<_> = self.asked.iter().map(|key| format!("`{key}`")).collect();
                    format!("unknown key; known here: {}", known.join(", "))
                }
            };
            mistakes.add(entry.place.clone(), self.path_of(&entry.key), problem);
        }
    }

    fn entry(&self, key: &str) -> Option<&'a Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }
}

fn scalar<T: FromScalar>(node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<T> {
    let (text, expanded) = match &node.kind {
        Kind::Scalar { text, expanded, .. } => (text, expanded),
        Kind::Unfilled(problem) => {
            mistakes.add(node.place.clone(), path, problem.as_str());
            return None;
        }
        Kind::Sequence(_) | Kind::Mapping(_) => {
            let problem = format!("expected a single value, found {}", node.kind_name());
            mistakes.add(node.place.clone(), path, problem);
            return None;
        }
    };
    match T::from_scalar(Scalar { text }) {
        Ok(value) => Some(value),
        Err(expected) => {
            // A substituted text may come from a secret store: say what was expected, not what came.
            let found = if *expanded {
                "the substituted value is something else".to_owned()
            } else {
                format!("found `{text}`")
            };
            mistakes.add(node.place.clone(), path, format!("{expected}, {found}"));
            None
        }
    }
}

/// Levenshtein distance, for keys of a few letters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{parse, parse_expanding};

    const BAD: &str = "\
pipeline: market
postgres:
  host: db
  prot: 5432
  password: ${SECRET}
kafka: [a]
";

    #[test]
    fn all_mistakes_come_at_once_with_line_and_key() {
        let lookup = |_: &str| Some("hunter2".to_owned());
        let documents = parse_expanding("t.yaml", BAD, &lookup).expect("valid YAML");
        let mut mistakes = Mistakes::default();
        let mut top = documents[0].section("", &mut mistakes);
        assert_eq!(top.required::<String>("pipeline", &mut mistakes).as_deref(), Some("market"));
        let mut postgres = top.section("postgres", &mut mistakes);
        postgres.required::<String>("host", &mut mistakes);
        postgres.required::<u16>("port", &mut mistakes);
        postgres.optional::<u16>("password", &mut mistakes);
        postgres.finish(&mut mistakes);
        top.section("kafka", &mut mistakes).required::<String>("brokers", &mut mistakes);
        top.finish(&mut mistakes);
        let lines: Vec<String> = mistakes.into_sorted().iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "t.yaml:2:1: `postgres.port`: missing",
                "t.yaml:4:3: `postgres.prot`: unknown key; did you mean `port`?",
                "t.yaml:5:13: `postgres.password`: expected a whole number from 0 to 65535, the substituted value is something else",
                "t.yaml:6:1: `kafka.brokers`: missing",
                "t.yaml:6:8: `kafka`: expected a mapping, found a list",
            ]
        );
    }

    #[test]
    fn variables_that_are_not_set_are_mistakes_like_others_each_at_its_key() {
        let text = "a: ${ONE}\nb: ${TWO}\nc: none\n";
        let documents = parse_expanding("f", text, &|_| None).expect("valid YAML");
        let mut mistakes = Mistakes::default();
        let mut top = documents[0].section("", &mut mistakes);
        top.required::<String>("a", &mut mistakes);
        top.required::<u16>("b", &mut mistakes);
        top.required::<u16>("c", &mut mistakes);
        top.finish(&mut mistakes);
        let lines: Vec<String> = mistakes.into_sorted().iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].starts_with("f:1:4: `a`:") && lines[0].contains("ONE"), "{lines:?}");
        assert!(lines[1].starts_with("f:2:4: `b`:") && lines[1].contains("TWO"), "{lines:?}");
    }

    #[test]
    fn lists_and_free_keys_are_read_with_their_places() {
        let documents =
            parse("f", "topics: [a, b]\nconfig: {x: 1, y.z: compact}\n").expect("valid");
        let mut mistakes = Mistakes::default();
        let mut top = documents[0].section("", &mut mistakes);
        let topics = top.list::<String>("topics", &mut mistakes);
        assert_eq!(topics[1].0, "b");
        assert_eq!(topics[1].1.column, 13);
        assert_eq!(top.texts("config", &mut mistakes)["y.z"], "compact");
        assert!(mistakes.is_empty());
    }

    #[test]
    fn null_reads_as_absent() {
        let documents = parse("f", "a:\nb: ~\nc: ''\n").expect("valid");
        let mut mistakes = Mistakes::default();
        let mut top = documents[0].section("", &mut mistakes);
        assert_eq!(top.optional::<u16>("a", &mut mistakes), None);
        assert_eq!(top.optional::<u16>("b", &mut mistakes), None);
        assert!(mistakes.is_empty());
        assert_eq!(top.optional::<u16>("c", &mut mistakes), None);
        assert!(!mistakes.is_empty());
    }
}
