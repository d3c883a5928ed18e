use std::collections::BTreeMap;
use std::ops::Bound;

use crate::bucket::Entry;

/// Most keys and prefixes in one page.
pub(crate) const PAGE_MAX: usize = 1000;

/// Where a page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Start,
    /// Behind this key, which need not exist.
    After(String),
    /// Behind all keys with this prefix.
    Beyond(String),
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Object(String, Entry),
    /// Stands for all keys that begin so.
    Prefix(String),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) lines: Vec<Line>,
    /// Where the next page begins; nothing when this was the last.
    pub(crate) next: Option<From>,
}

impl From {
    /// As a continuation token or marker.
    pub(crate) fn token(&self) -> String {
        match self {
            Self::Start => String::new(),
            Self::After(key) => format!("k{key}"),
            Self::Beyond(prefix) => format!("p{prefix}"),
        }
    }

    /// Reads a token back; nothing when it is not one of ours.
    pub(crate) fn of_token(token: &str) -> Option<Self> {
        match token.split_at_checked(1)? {
            ("k", key) => Some(Self::After(key.to_owned())),
            ("p", prefix) => Some(Self::Beyond(prefix.to_owned())),
            _ => None,
        }
    }
}

/// Cuts one page of at most `limit` lines out of the keys, which are in order of their bytes.
pub(crate) fn page(
    entries: &BTreeMap<String, Entry>,
    prefix: &str,
    delimiter: Option<&str>,
    from: &From,
    limit: usize,
) -> Page {
    let delimiter = delimiter.filter(|delimiter| !delimiter.is_empty());
    let mut lines: Vec<Line> = Vec::new();
    let mut last = from.clone();
    let lower = match from {
        From::After(key) if key.as_str() >= prefix => Bound::Excluded(key.as_str()),
        From::Beyond(beyond) if beyond.as_str() >= prefix => Bound::Included(beyond.as_str()),
        _ => Bound::Included(prefix),
    };
    for (key, entry) in entries.range::<str, _>((lower, Bound::Unbounded)) {
        let Some(rest) = key.strip_prefix(prefix) else { break };
        if let From::Beyond(beyond) = &last
            && key.starts_with(beyond.as_str())
        {
            continue;
        }
        if lines.len() >= limit {
            // A page of nothing has no place to go on from.
            let next = (limit > 0).then_some(last);
            return Page { lines, next };
        }
        let rolled = delimiter.and_then(|delimiter| {
            let end = rest.find(delimiter)? + delimiter.len();
            Some(&key[..prefix.len() + end])
        });
        match rolled {
            Some(common) => {
                last = From::Beyond(common.to_owned());
                lines.push(Line::Prefix(common.to_owned()));
            }
            None => {
                last = From::After(key.clone());
                lines.push(Line::Object(key.clone(), entry.clone()));
            }
        }
    }
    Page { lines, next: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn entries(keys: &[&str]) -> BTreeMap<String, Entry> {
        let entry = Entry { size: 0, etag: String::new(), modified: UNIX_EPOCH };
        keys.iter().map(|key| ((*key).to_owned(), entry.clone())).collect()
    }

    fn walk(keys: &[&str], prefix: &str, delimiter: Option<&str>, limit: usize) -> Vec<String> {
        let entries = entries(keys);
        let mut from = From::Start;
        let mut names = Vec::new();
        loop {
            let page = page(&entries, prefix, delimiter, &from, limit);
            assert!(page.lines.len() <= limit);
            names.extend(page.lines.into_iter().map(|line| match line {
                Line::Object(key, _) => key,
                Line::Prefix(prefix) => format!("{prefix}*"),
            }));
            match page.next {
                Some(next) => from = From::of_token(&next.token()).unwrap(),
                None => return names,
            }
        }
    }

    const KEYS: [&str; 7] = ["a", "a-b", "a/1", "a/2", "a/b/c", "b/1", "é"];

    #[test]
    fn every_page_size_gives_the_same_lines_in_byte_order() {
        for limit in 1..=8 {
            assert_eq!(walk(&KEYS, "", None, limit), KEYS);
            assert_eq!(walk(&KEYS, "", Some("/"), limit), ["a", "a-b", "a/*", "b/*", "é"]);
            assert_eq!(walk(&KEYS, "a/", Some("/"), limit), ["a/1", "a/2", "a/b/*"]);
            assert_eq!(walk(&KEYS, "a/", Some(""), limit), ["a/1", "a/2", "a/b/c"]);
            assert_eq!(walk(&KEYS, "x", None, limit), Vec::<String>::new());
        }
    }

    #[test]
    fn a_start_before_the_prefix_changes_nothing() {
        let entries = entries(&KEYS);
        let page = page(&entries, "b/", None, &From::After("a".into()), 10);
        assert_eq!(page.lines.len(), 1);
    }

    #[test]
    fn a_page_of_nothing_is_the_last() {
        let page = page(&entries(&KEYS), "", None, &From::Start, 0);
        assert_eq!(page, Page { lines: vec![], next: None });
    }
}
