//! The values of one row, still in the message.

use super::cursor::{Cursor, DecodeError};

/// One value of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    /// SQL's null.
    Null,
    /// A value stored out of line that the change did not touch; the server does not send it.
    Unchanged,
    /// The value's text form, in the client encoding.
    Text(&'a [u8]),
}

/// The values of one row in column order. Lengths were checked when the message was decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<'a> {
    column_count: u16,
    bytes: &'a [u8],
}

impl<'a> Tuple<'a> {
    pub(super) fn read(cursor: &mut Cursor<'a>) -> Result<Self, DecodeError> {
        let column_count = cursor.u16("column count")?;
        let start = cursor.rest();
        for _ in 0..column_count {
            cell(cursor)?;
        }
        let bytes = &start[..start.len() - cursor.rest().len()];
        Ok(Self { column_count, bytes })
    }

    /// A row in the same form, from elsewhere. Cells that cannot be read end it early.
    pub(crate) fn built(column_count: u16, bytes: &'a [u8]) -> Self {
        Self { column_count, bytes }
    }

    /// How many columns the row has.
    pub fn column_count(&self) -> usize {
        usize::from(self.column_count)
    }

    /// The values in column order.
    pub fn cells(&self) -> impl Iterator<Item = Cell<'a>> + use<'a> {
        let mut cursor = Cursor::new('T', self.bytes);
        // The same bytes were read once without error, so this yields one cell a column.
        (0..self.column_count).map_while(move |_| cell(&mut cursor).ok())
    }
}

fn cell<'a>(cursor: &mut Cursor<'a>) -> Result<Cell<'a>, DecodeError> {
    match cursor.u8("value kind")? {
        b'n' => Ok(Cell::Null),
        b'u' => Ok(Cell::Unchanged),
        b't' => {
            let length = cursor.i32("value length")?;
            let length = usize::try_from(length)
                .map_err(|_| DecodeError::Short { tag: cursor.tag(), field: "value" })?;
            cursor.bytes(length, "value").map(Cell::Text)
        }
        // `b`, binary, comes only when asked for, and we do not ask.
        found => Err(cursor.refuse("value kind", found)),
    }
}
