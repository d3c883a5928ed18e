//! A line of COPY's text format as the cells of a row.

use memchr::memchr;

/// A line that is not the row it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// It has another number of columns.
    #[error("a copied row has {found} columns where {expected} were asked for")]
    ColumnCount {
        /// In the line.
        found: usize,
        /// Asked for.
        expected: usize,
    },
    /// A backslash with nothing behind it.
    #[error("a copied row ends in the middle of an escape")]
    Escape,
}

/// Appends the cells of a line in the form that the stream has them in, so that one encoder serves both.
///
/// A tab or line feed that belongs to a value comes escaped, so a bare tab always ends a cell.
pub(crate) fn cells(line: &[u8], columns: usize, out: &mut Vec<u8>) -> Result<(), BadLine> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    // Nulls have a backslash too. Most lines have none, and then no cell needs a look.
    let is_escaped = memchr(b'\\', line).is_some();
    let mut rest = (columns > 0 || !line.is_empty()).then_some(line);
    let mut found = 0;
    while let Some(line) = rest {
        let cell = match memchr(b'\t', line) {
            Some(end) => {
                rest = Some(&line[end + 1..]);
                &line[..end]
            }
            None => {
                rest = None;
                line
            }
        };
        found += 1;
        if is_escaped && cell == b"\\N" {
            out.push(b'n');
            continue;
        }
        out.push(b't');
        if !is_escaped {
            out.extend_from_slice(&(cell.len() as u32).to_be_bytes());
            out.extend_from_slice(cell);
            continue;
        }
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        unescape(cell, out)?;
        let length = (out.len() - at - 4) as u32;
        out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }
    if found == columns { Ok(()) } else { Err(BadLine::ColumnCount { found, expected: columns }) }
}

/// What `COPY TO` escapes: the control characters that have a letter, and the backslash itself.
fn unescape(mut cell: &[u8], out: &mut Vec<u8>) -> Result<(), BadLine> {
    while let Some(at) = memchr(b'\\', cell) {
        out.extend_from_slice(&cell[..at]);
        let escaped = cell.get(at + 1).ok_or(BadLine::Escape)?;
        out.push(match escaped {
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 0x0b,
            other => *other,
        });
        cell = &cell[at + 2..];
    }
    out.extend_from_slice(cell);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pgoutput::{Cell, Tuple};

    /// As the server writes a line.
    fn line(cells: &[Option<Vec<u8>>]) -> Vec<u8> {
        let mut line = Vec::new();
        for (at, cell) in cells.iter().enumerate() {
            if at > 0 {
                line.push(b'\t');
            }
            let Some(cell) = cell else {
                line.extend_from_slice(b"\\N");
                continue;
            };
            for byte in cell {
                match byte {
                    0x08 => line.extend_from_slice(b"\\b"),
                    0x0c => line.extend_from_slice(b"\\f"),
                    b'\n' => line.extend_from_slice(b"\\n"),
                    b'\r' => line.extend_from_slice(b"\\r"),
                    b'\t' => line.extend_from_slice(b"\\t"),
                    0x0b => line.extend_from_slice(b"\\v"),
                    b'\\' => line.extend_from_slice(b"\\\\"),
                    other => line.push(*other),
                }
            }
        }
        line.push(b'\n');
        line
    }

    proptest! {
        #[test]
        fn what_the_server_escapes_comes_back(
            values in proptest::collection::vec(proptest::option::of(proptest::collection::vec(1_u8.., 0..20)), 1..6),
        ) {
            let mut out = Vec::new();
            cells(&line(&values), values.len(), &mut out).expect("a good line");
            let row = Tuple::built(values.len() as u16, &out);
            let expected = values.iter().map(|value| match value {
                None => Cell::Null,
                Some(value) => Cell::Text(value),
            });
            prop_assert_eq!(row.cells().collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, columns in 0_usize..5) {
            let _ = cells(&bytes, columns, &mut Vec::new());
        }
    }

    #[test]
    fn a_null_is_not_the_text_that_looks_like_one() {
        let mut out = Vec::new();
        cells(b"\\N\t\\\\N\t\n", 3, &mut out).expect("a good line");
        let row = Tuple::built(3, &out);
        assert_eq!(
            row.cells().collect::<Vec<_>>(),
            [Cell::Null, Cell::Text(b"\\N"), Cell::Text(b"")]
        );
    }

    #[test]
    fn a_line_of_another_shape_is_refused() {
        let mut out = Vec::new();
        let count = |found, expected| Err(BadLine::ColumnCount { found, expected });
        assert_eq!(cells(b"a\tb\n", 3, &mut out), count(2, 3));
        assert_eq!(cells(b"a\n", 0, &mut out), count(1, 0));
        assert_eq!(cells(b"a\\", 1, &mut out), Err(BadLine::Escape));
        assert_eq!(cells(b"\n", 0, &mut out), Ok(()));
    }
}
