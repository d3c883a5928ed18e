//! The text of an array as JSON.
//!
//! ```text
//!  {{a,NULL},{"b,\\"c",""}}  ──▶  [["a",null],["b,\"c",""]]
//!  [0:1]={a,b}              ──▶  "[0:1]={a,b}"               its lower bound would be lost in a JSON array
//! ```

use super::BadText;

/// Whether the array begins at 1 in each dimension, as nearly all do. Others say their bounds first.
pub(crate) fn is_plain(text: &[u8]) -> bool {
    text.first() == Some(&b'{')
}

/// Appends a plain array; `element` writes one that is not null, from its text.
pub(crate) fn write(
    text: &[u8],
    out: &mut Vec<u8>,
    mut element: impl FnMut(&[u8], &mut Vec<u8>) -> Result<(), BadText>,
) -> Result<(), BadText> {
    let mut rest = text;
    let mut depth = 0_usize;
    loop {
        // Here an element or a deeper array begins.
        match rest {
            [b'{', b'}', ..] => {
                out.extend_from_slice(b"[]");
                rest = &rest[2..];
            }
            [b'{', ..] => {
                depth += 1;
                out.push(b'[');
                rest = &rest[1..];
                continue;
            }
            [b'"', ..] => rest = quoted(&rest[1..], out, &mut element)?,
            _ => {
                let end = rest.iter().position(|byte| matches!(byte, b',' | b'}'));
                let (bare, after) = rest.split_at(end.ok_or(BadText::NotItsType)?);
                match bare {
                    b"" => return Err(BadText::NotItsType),
                    b"NULL" => out.extend_from_slice(b"null"),
                    bare => element(bare, out)?,
                }
                rest = after;
            }
        }
        while let [b'}', after @ ..] = rest {
            depth = depth.checked_sub(1).ok_or(BadText::NotItsType)?;
            out.push(b']');
            rest = after;
        }
        match (depth, rest) {
            (0, []) => return Ok(()),
            (1.., [b',', after @ ..]) => {
                out.push(b',');
                rest = after;
            }
            _ => return Err(BadText::NotItsType),
        }
    }
}

/// An element in quotes, in which a backslash stands before each quote and backslash. Answers what follows it.
fn quoted<'t>(
    text: &'t [u8],
    out: &mut Vec<u8>,
    element: &mut impl FnMut(&[u8], &mut Vec<u8>) -> Result<(), BadText>,
) -> Result<&'t [u8], BadText> {
    let special = |byte: &u8| matches!(byte, b'"' | b'\\');
    let first = text.iter().position(special).ok_or(BadText::NotItsType)?;
    if text[first] == b'"' {
        element(&text[..first], out)?;
        return Ok(&text[first + 1..]);
    }
    let mut plain = Vec::with_capacity(text.len().min(256));
    let mut at = 0;
    loop {
        let next = text[at..].iter().position(special).ok_or(BadText::NotItsType)? + at;
        plain.extend_from_slice(&text[at..next]);
        if text[next] == b'"' {
            element(&plain, out)?;
            return Ok(&text[next + 1..]);
        }
        plain.push(*text.get(next + 1).ok_or(BadText::NotItsType)?);
        at = next + 2;
    }
}
