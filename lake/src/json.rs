//! JSON looked at in place: members of an object, elements of an array, kinds of values. Nothing is built.
//!
//! It is for lines whose JSON was checked when they were archived. Of other text it makes some answer or none; it never
//! panics and never reads beyond the end.

use memchr::memchr2;

/// What a value is, told by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Bool,
    Number,
    Text,
    Object,
    Array,
}

impl Kind {
    pub(crate) fn of(value: &[u8]) -> Option<Self> {
        Some(match value.first()? {
            b'n' => Self::Null,
            b't' | b'f' => Self::Bool,
            b'-' | b'0'..=b'9' => Self::Number,
            b'"' => Self::Text,
            b'{' => Self::Object,
            b'[' => Self::Array,
            _ => return None,
        })
    }
}

/// Where the value that begins at `at` ends.
pub(crate) fn end_of(text: &[u8], at: usize) -> Option<usize> {
    match text.get(at)? {
        b'"' => end_of_text(text, at),
        b'{' | b'[' => {
            let mut depth = 0_usize;
            let mut here = at;
            loop {
                match text.get(here)? {
                    b'"' => {
                        here = end_of_text(text, here)?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => {
                        depth -= 1;
                        if depth == 0 {
                            return Some(here + 1);
                        }
                    }
                    _ => {}
                }
                here += 1;
            }
        }
        _ => {
            let rest = &text[at..];
            let end = rest.iter().position(|byte| {
                matches!(byte, b',' | b'}' | b']' | b':' | b' ' | b'\t' | b'\n' | b'\r')
            });
            let end = end.unwrap_or(rest.len());
            (end > 0).then_some(at + end)
        }
    }
}

/// Where the text that begins at `at` ends, its closing quote included.
fn end_of_text(text: &[u8], at: usize) -> Option<usize> {
    let mut here = at + 1;
    loop {
        here += memchr2(b'"', b'\\', text.get(here..)?)?;
        if text[here] == b'"' {
            return Some(here + 1);
        }
        here += 2;
    }
}

fn skip_blanks(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The members of an object, as they stand: names without their quotes and still escaped, values whole.
pub(crate) struct Members<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Members<'a> {
    /// Of an object, or of what remains of one behind its opening brace.
    pub(crate) fn of(text: &'a [u8]) -> Self {
        let at = usize::from(text.first() == Some(&b'{'));
        Self { text, at }
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let text = self.text;
        let mut at = skip_blanks(text, self.at);
        if text.get(at) == Some(&b',') {
            at = skip_blanks(text, at + 1);
        }
        if text.get(at) != Some(&b'"') {
            return None;
        }
        let name_end = end_of_text(text, at)?;
        let name = &text[at + 1..name_end - 1];
        let colon = skip_blanks(text, name_end);
        if text.get(colon) != Some(&b':') {
            return None;
        }
        let value = skip_blanks(text, colon + 1);
        let end = end_of(text, value)?;
        self.at = end;
        Some((name, &text[value..end]))
    }
}

/// The elements of an array.
pub(crate) fn elements(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = if text.first() == Some(&b'[') { 1 } else { text.len() };
    std::iter::from_fn(move || {
        at = skip_blanks(text, at);
        if text.get(at) == Some(&b',') {
            at = skip_blanks(text, at + 1);
        }
        if matches!(text.get(at), None | Some(b']')) {
            return None;
        }
        let end = end_of(text, at)?;
        let element = &text[at..end];
        at = end;
        Some(element)
    })
}

/// The member of an object by its name as it stands in the text.
pub(crate) fn member<'a>(object: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let found = Members::of(object).find(|(found, _)| *found == name.as_bytes());
    if found.is_none() && memchr::memchr(b'\\', object).is_some() {
        let mut members = Members::of(object);
        return members.find(|(found, _)| unescape_name(found) == name).map(|(_, value)| value);
    }
    found.map(|(_, value)| value)
}

/// What a name or text says, of its bytes between the quotes.
pub(crate) fn unescape_name(raw: &[u8]) -> String {
    let quoted = [b"\"", raw, b"\""].concat();
    text_of(&quoted).unwrap_or_else(|| String::from_utf8_lossy(raw).into_owned())
}

/// What a text says, of a value that is one.
pub(crate) fn text_of(value: &[u8]) -> Option<String> {
    let inside = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if memchr::memchr(b'\\', inside).is_none() {
        return std::str::from_utf8(inside).ok().map(str::to_owned);
    }
    serde_json::from_slice(value).ok()
}

/// A text as JSON.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_in_order_and_as_they_stand() {
        let text = br#"{"a":1, "b\"c" : {"x":"}]","y":[1,{"z":2}]},"d":"e\\","f":[],"g":null}"#;
        let found: Vec<(String, String)> = Members::of(text)
            .map(|(name, value)| (unescape_name(name), String::from_utf8_lossy(value).into_owned()))
            .collect();
        let expected = [
            ("a", "1"),
            ("b\"c", r#"{"x":"}]","y":[1,{"z":2}]}"#),
            ("d", r#""e\\""#),
            ("f", "[]"),
            ("g", "null"),
        ];
        assert_eq!(found.len(), expected.len());
        for ((name, value), expected) in found.iter().zip(expected) {
            assert_eq!((name.as_str(), value.as_str()), expected);
        }
        assert_eq!(member(text, "b\"c").map(Kind::of), Some(Some(Kind::Object)));
    }

    #[test]
    fn elements_are_found() {
        let found: Vec<&[u8]> = elements(br#"[1, "a,b" ,[2,3],{}]"#).collect();
        assert_eq!(found, [&b"1"[..], b"\"a,b\"", b"[2,3]", b"{}"]);
        assert_eq!(elements(b"{}").count(), 0);
    }

    #[test]
    fn any_bytes_give_some_answer_or_none() {
        for text in
            ["{", "{\"", "{\"a", "{\"a\"", "{\"a\":", "{\"a\":\"\\", "[", "[1", "[[", "}", ""]
        {
            let _ = Members::of(text.as_bytes()).count();
            let _ = elements(text.as_bytes()).count();
        }
        assert_eq!(text_of(br#""\u00e4\n""#).as_deref(), Some("ä\n"));
        assert_eq!(quoted("a\"b"), r#""a\"b""#);
    }
}
