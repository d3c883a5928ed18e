//! One message.

use tailwater_topics_contract::Lsn;

use super::Tuple;
use super::cursor::{Cursor, DecodeError};

/// A decoded message. Row values borrow from the bytes it was decoded from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A committed transaction begins.
    Begin {
        /// Where its commit record is: the commit LSN, known before the first row.
        final_lsn: Lsn,
        /// Commit time, in microseconds since 1970.
        commit_time_us: i64,
        /// Transaction id.
        xid: u32,
    },
    /// The transaction ends.
    Commit {
        /// Where the commit record is.
        commit_lsn: Lsn,
        /// Where the commit record ends: what is confirmed to the slot.
        end_lsn: Lsn,
        /// Commit time, in microseconds since 1970.
        commit_time_us: i64,
    },
    /// The transaction came from another server.
    Origin {
        /// Its commit LSN there.
        lsn: Lsn,
        /// Name of the origin.
        name: &'a str,
    },
    /// A table is announced, before its first change and whenever it was altered.
    Relation(RelationMessage),
    /// A type that is not built in is announced. A domain is announced under its own oid, but with schema and name
    /// of the type beneath.
    Type {
        /// Its oid.
        oid: u32,
        /// Its schema.
        schema: &'a str,
        /// Its name.
        name: &'a str,
    },
    /// A row was inserted.
    Insert {
        /// Into this relation.
        relation: u32,
        /// The row.
        new: Tuple<'a>,
    },
    /// A row was updated.
    Update {
        /// In this relation.
        relation: u32,
        /// What it was, where the replica identity says so.
        old: Option<Old<'a>>,
        /// What it is.
        new: Tuple<'a>,
    },
    /// A row was deleted.
    Delete {
        /// From this relation.
        relation: u32,
        /// What it was.
        old: Old<'a>,
    },
    /// Tables were truncated.
    Truncate {
        /// Every table of the statement.
        relations: Vec<u32>,
    },
    /// `pg_logical_emit_message`.
    Logical {
        /// Whether it belongs to the transaction around it.
        is_transactional: bool,
        /// Where its record ends in the WAL.
        lsn: Lsn,
        /// Its prefix.
        prefix: &'a str,
        /// Its content.
        content: &'a [u8],
    },
}

/// The old form of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old<'a> {
    /// Only the columns of the replica identity; the others read as null.
    Key(Tuple<'a>),
    /// The whole row.
    Full(Tuple<'a>),
}

impl<'a> Old<'a> {
    /// The values.
    pub fn tuple(&self) -> &Tuple<'a> {
        match self {
            Self::Key(tuple) | Self::Full(tuple) => tuple,
        }
    }
}

/// Which columns the server sends to identify a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key.
    Default,
    /// None.
    Nothing,
    /// The whole row.
    Full,
    /// The columns of a unique index.
    Index,
}

/// A table as announced in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationMessage {
    /// Its oid.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// How its rows are identified.
    pub identity: ReplicaIdentity,
    /// Its published columns, in order.
    pub columns: Vec<RelationColumn>,
}

/// A column as announced in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationColumn {
    /// Whether it is part of the replica identity.
    pub is_identity: bool,
    /// Its name.
    pub name: String,
    /// Oid of its type; of a domain over a built-in type, that type's.
    pub type_oid: u32,
    /// What its type was declared with, such as precision and scale; -1 for nothing. A domain keeps its own to
    /// itself.
    pub type_modifier: i32,
    /// Name of its type where the type is not built in; of a domain, of the type beneath.
    pub type_name: Option<String>,
}

/// Decodes one message.
///
/// # Errors
/// Any bytes that are not exactly one message of protocol version 1.
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, DecodeError> {
    let (tag, rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
    let mut cursor = Cursor::new(char::from(*tag), rest);
    let message = match tag {
        b'B' => Message::Begin {
            final_lsn: cursor.lsn("final LSN")?,
            commit_time_us: cursor.time_us("commit time")?,
            xid: cursor.u32("transaction id")?,
        },
        b'C' => {
            match cursor.u8("flags")? {
                0 => {}
                found => return Err(cursor.refuse("flags", found)),
            }
            Message::Commit {
                commit_lsn: cursor.lsn("commit LSN")?,
                end_lsn: cursor.lsn("end LSN")?,
                commit_time_us: cursor.time_us("commit time")?,
            }
        }
        b'O' => Message::Origin { lsn: cursor.lsn("LSN")?, name: cursor.text("name")? },
        b'R' => Message::Relation(relation(&mut cursor)?),
        b'Y' => Message::Type {
            oid: cursor.u32("oid")?,
            schema: schema(&mut cursor)?,
            name: cursor.text("name")?,
        },
        b'I' => {
            let relation = cursor.u32("relation")?;
            new_marker(&mut cursor)?;
            Message::Insert { relation, new: Tuple::read(&mut cursor)? }
        }
        b'U' => update(&mut cursor)?,
        b'D' => {
            let relation = cursor.u32("relation")?;
            let old = match cursor.u8("tuple kind")? {
                b'K' => Old::Key(Tuple::read(&mut cursor)?),
                b'O' => Old::Full(Tuple::read(&mut cursor)?),
                found => return Err(cursor.refuse("tuple kind", found)),
            };
            Message::Delete { relation, old }
        }
        b'T' => truncate(&mut cursor)?,
        b'M' => logical(&mut cursor)?,
        tag => return Err(DecodeError::Tag { tag: *tag }),
    };
    cursor.finish(message)
}

fn new_marker(cursor: &mut Cursor<'_>) -> Result<(), DecodeError> {
    match cursor.u8("tuple kind")? {
        b'N' => Ok(()),
        found => Err(cursor.refuse("tuple kind", found)),
    }
}

fn update<'a>(cursor: &mut Cursor<'a>) -> Result<Message<'a>, DecodeError> {
    let relation = cursor.u32("relation")?;
    let old = match cursor.u8("tuple kind")? {
        b'N' => None,
        b'K' => Some(Old::Key(Tuple::read(cursor)?)),
        b'O' => Some(Old::Full(Tuple::read(cursor)?)),
        found => return Err(cursor.refuse("tuple kind", found)),
    };
    if old.is_some() {
        new_marker(cursor)?;
    }
    Ok(Message::Update { relation, old, new: Tuple::read(cursor)? })
}

fn truncate<'a>(cursor: &mut Cursor<'a>) -> Result<Message<'a>, DecodeError> {
    let count = cursor.u32("relation count")?;
    // 1: CASCADE, 2: RESTART IDENTITY; neither changes what happened to the rows.
    match cursor.u8("options")? {
        0..=3 => {}
        found => return Err(cursor.refuse("options", found)),
    }
    let short = DecodeError::Short { tag: cursor.tag(), field: "relations" };
    let length = usize::try_from(count).ok().and_then(|count| count.checked_mul(4));
    let bytes = cursor.bytes(length.ok_or(short)?, "relations")?;
    let (oids, _) = bytes.as_chunks::<4>();
    Ok(Message::Truncate { relations: oids.iter().map(|oid| u32::from_be_bytes(*oid)).collect() })
}

fn logical<'a>(cursor: &mut Cursor<'a>) -> Result<Message<'a>, DecodeError> {
    let is_transactional = match cursor.u8("flags")? {
        0 => false,
        1 => true,
        found => return Err(cursor.refuse("flags", found)),
    };
    let lsn = cursor.lsn("LSN")?;
    let prefix = cursor.text("prefix")?;
    let length = cursor.u32("content length")?;
    let content = cursor.bytes(length as usize, "content")?;
    Ok(Message::Logical { is_transactional, lsn, prefix, content })
}

fn schema<'a>(cursor: &mut Cursor<'a>) -> Result<&'a str, DecodeError> {
    Ok(match cursor.text("schema")? {
        // The server abbreviates its own schema to nothing.
        "" => "pg_catalog",
        schema => schema,
    })
}

fn relation(cursor: &mut Cursor<'_>) -> Result<RelationMessage, DecodeError> {
    let oid = cursor.u32("oid")?;
    let schema = schema(cursor)?;
    let name = cursor.text("name")?;
    let identity = match cursor.u8("replica identity")? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        found => return Err(cursor.refuse("replica identity", found)),
    };
    let column_count = cursor.u16("column count")?;
    let mut columns = Vec::new();
    for _ in 0..column_count {
        let is_identity = match cursor.u8("column flags")? {
            0 => false,
            1 => true,
            found => return Err(cursor.refuse("column flags", found)),
        };
        let name = cursor.text("column name")?.to_owned();
        let type_oid = cursor.u32("column type")?;
        let type_modifier = cursor.i32("type modifier")?;
        columns.push(RelationColumn {
            is_identity,
            name,
            type_oid,
            type_modifier,
            type_name: None,
        });
    }
    Ok(RelationMessage { oid, schema: schema.to_owned(), name: name.to_owned(), identity, columns })
}
