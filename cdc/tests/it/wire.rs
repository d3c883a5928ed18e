//! Writes messages of pgoutput version 1, as the server does; shares no code with the decoder.

/// One value of a row to be written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Unchanged,
    Text(Vec<u8>),
}

/// A text value.
pub(crate) fn text(text: &str) -> Value {
    Value::Text(text.as_bytes().to_vec())
}

/// A row of text values.
pub(crate) fn row(values: &[&str]) -> Vec<Value> {
    values.iter().map(|value| text(value)).collect()
}

pub(crate) fn begin(final_lsn: u64, xid: u32) -> Vec<u8> {
    let mut out = vec![b'B'];
    out.extend(final_lsn.to_be_bytes());
    out.extend(1_000_000_i64.to_be_bytes());
    out.extend(xid.to_be_bytes());
    out
}

pub(crate) fn commit(commit_lsn: u64, end_lsn: u64) -> Vec<u8> {
    let mut out = vec![b'C', 0];
    out.extend(commit_lsn.to_be_bytes());
    out.extend(end_lsn.to_be_bytes());
    out.extend(1_000_000_i64.to_be_bytes());
    out
}

/// Columns are (name, type oid, whether in the identity).
pub(crate) fn relation(
    oid: u32,
    schema: &str,
    name: &str,
    identity: u8,
    columns: &[(&str, u32, bool)],
) -> Vec<u8> {
    let mut out = vec![b'R'];
    out.extend(oid.to_be_bytes());
    for name in [schema, name] {
        out.extend(name.as_bytes());
        out.push(0);
    }
    out.push(identity);
    out.extend((columns.len() as u16).to_be_bytes());
    for (name, type_oid, is_identity) in columns {
        out.push(u8::from(*is_identity));
        out.extend(name.as_bytes());
        out.push(0);
        out.extend(type_oid.to_be_bytes());
        out.extend((-1_i32).to_be_bytes());
    }
    out
}

fn tuple(values: &[Value], out: &mut Vec<u8>) {
    out.extend((values.len() as u16).to_be_bytes());
    for value in values {
        match value {
            Value::Null => out.push(b'n'),
            Value::Unchanged => out.push(b'u'),
            Value::Text(text) => {
                out.push(b't');
                out.extend((text.len() as u32).to_be_bytes());
                out.extend(text);
            }
        }
    }
}

pub(crate) fn insert(oid: u32, new: &[Value]) -> Vec<u8> {
    let mut out = vec![b'I'];
    out.extend(oid.to_be_bytes());
    out.push(b'N');
    tuple(new, &mut out);
    out
}

/// `old` is its kind, `K` or `O`, and its values.
pub(crate) fn update(oid: u32, old: Option<(u8, &[Value])>, new: &[Value]) -> Vec<u8> {
    let mut out = vec![b'U'];
    out.extend(oid.to_be_bytes());
    if let Some((kind, values)) = old {
        out.push(kind);
        tuple(values, &mut out);
    }
    out.push(b'N');
    tuple(new, &mut out);
    out
}

pub(crate) fn delete(oid: u32, kind: u8, old: &[Value]) -> Vec<u8> {
    let mut out = vec![b'D'];
    out.extend(oid.to_be_bytes());
    out.push(kind);
    tuple(old, &mut out);
    out
}

pub(crate) fn truncate(oids: &[u32]) -> Vec<u8> {
    let mut out = vec![b'T'];
    out.extend((oids.len() as u32).to_be_bytes());
    out.push(0);
    oids.iter().for_each(|oid| out.extend(oid.to_be_bytes()));
    out
}

/// `lone_at` is the LSN of a message outside of transactions.
pub(crate) fn logical(lone_at: Option<u64>, prefix: &str, content: &[u8]) -> Vec<u8> {
    let mut out = vec![b'M', u8::from(lone_at.is_none())];
    out.extend(lone_at.unwrap_or(7).to_be_bytes());
    out.extend(prefix.as_bytes());
    out.push(0);
    out.extend((content.len() as u32).to_be_bytes());
    out.extend(content);
    out
}
