//! Names, checked where they enter.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tailwater_document::{FromScalar, Scalar};

/// A text that cannot be the name it was meant to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}: {rule}")]
pub struct BadName {
    text: String,
    what: &'static str,
    rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(BadName { text: text.to_owned(), what: $what, rule: $rule })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;

            fn try_from(text: String) -> Result<Self, BadName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromScalar for $name {
            fn from_scalar(scalar: Scalar<'_>) -> Result<Self, String> {
                scalar.text.parse().map_err(|_| concat!("expected a ", $what, ": ", $rule).to_owned())
            }
        }
    };
}

name! {
    /// A Kafka topic. Kafka allows 249 characters; 200 leave room for what the archive puts around them within
    /// the 255 bytes a path segment may have on disk-backed stores.
    TopicName, "topic name", "1 to 200 of a-z, 0-9, `.`, `_` and `-`, not `.` or `..`",
    |text| (1..=200).contains(&text.len())
        && text != "." && text != ".."
        && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

name! {
    /// A sink.
    SinkName, "sink name", "1 to 60 of a-z, 0-9 and `-`, beginning with a letter",
    |text| (1..=60).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

name! {
    /// One database read into one Kafka cluster. Slots, publications, transactional ids and internal topics are
    /// named after it, so its letters are those that Postgres allows in a slot's name.
    PipelineName, "pipeline name", "1 to 40 of a-z, 0-9 and `_`, beginning with a letter",
    |text| (1..=40).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

impl PipelineName {
    /// The replication slot.
    pub fn slot(&self) -> String {
        format!("tailwater_{self}")
    }

    /// The publication of captured tables: every operation.
    pub fn changes_publication(&self) -> String {
        format!("tailwater_{self}_changes")
    }

    /// The publication of outbox tables: inserts only, so that dropping an old partition is not a change.
    pub fn outbox_publication(&self) -> String {
        format!("tailwater_{self}_outbox")
    }

    /// Who the reader is to the broker; a second reader with the same id fences the first.
    pub fn transactional_id(&self) -> String {
        format!("tailwater.{self}")
    }

    /// Where the reader keeps how far it came: one partition, compacted.
    pub fn progress_topic(&self) -> TopicName {
        self.internal("progress")
    }

    /// Where declared topics and sinks are made known: one partition, compacted.
    pub fn registrations_topic(&self) -> TopicName {
        self.internal("registrations")
    }

    /// Where workers write up to where each sink is complete: one partition, compacted.
    pub fn watermarks_topic(&self) -> TopicName {
        self.internal("watermarks")
    }

    /// The consumer group of a sink.
    pub fn consumer_group(&self, sink: &SinkName) -> String {
        format!("tailwater.{self}.{sink}")
    }

    /// Where a sink sets records aside.
    pub fn dead_letter_topic(&self, sink: &SinkName) -> TopicName {
        self.internal(&format!("{sink}.dlq"))
    }

    /// Where the reader sets aside records that their topics do not take.
    pub fn reader_dead_letter_topic(&self) -> TopicName {
        self.internal("dlq")
    }

    fn internal(&self, what: &str) -> TopicName {
        // Letters and lengths of both parts keep every such name within a topic's rules.
        TopicName(format!("tailwater.{self}.{what}").into())
    }
}

/// A table with its schema.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TableName {
    /// Schema, as Postgres stores it.
    pub schema: String,
    /// Table, as Postgres stores it.
    pub table: String,
}

impl TableName {
    /// The name as SQL takes it: `"inventory"."stock"`.
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&self.table))
    }
}

/// `schema.table`; a part in double quotes is taken as it is, any other must be lower case as Postgres would
/// fold it.
impl FromStr for TableName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = || BadName {
            text: text.to_owned(),
            what: "table name",
            rule: "`schema.table`, with double quotes around parts that are not plain lower case",
        };
        let (schema, rest) = part(text).ok_or_else(bad)?;
        let (table, rest) = rest.strip_prefix('.').and_then(part).ok_or_else(bad)?;
        if rest.is_empty() { Ok(Self { schema, table }) } else { Err(bad()) }
    }
}

fn part(text: &str) -> Option<(String, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        let mut name = String::new();
        let mut chars = quoted.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            if c != '"' {
                name.push(c);
            } else if chars.next_if(|(_, next)| *next == '"').is_some() {
                name.push('"');
            } else {
                return (!name.is_empty()).then(|| (name, &quoted[at + 1..]));
            }
        }
        return None;
    }
    let end = text.find('.').unwrap_or(text.len());
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'$';
    let name = &text[..end];
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    (starts && name.bytes().all(plain)).then(|| (name.to_owned(), &text[end..]))
}

fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// Prints so that it parses back: quotes only where needed.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |name: &str| match part(name) {
            Some((plain, "")) if plain == name => plain,
            _ => quote(name),
        };
        write!(f, "{}.{}", show(&self.schema), show(&self.table))
    }
}

impl From<TableName> for String {
    fn from(name: TableName) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for TableName {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl FromScalar for TableName {
    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, String> {
        scalar.text.parse().map_err(|_| {
            "expected a table as `schema.table`, with double quotes around parts that are not plain lower case"
                .to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn internal_names_keep_the_rules_of_topics_and_slots() {
        let pipeline: PipelineName = "a".repeat(40).parse().expect("valid");
        let sink: SinkName = "s".repeat(60).parse().expect("valid");
        let topic = pipeline.dead_letter_topic(&sink);
        assert_eq!(topic.as_str().parse::<TopicName>().as_ref(), Ok(&topic));
        assert!(pipeline.slot().len() < 64, "Postgres truncates names at 63 bytes");
        assert!(pipeline.changes_publication().len() < 64);
    }

    #[test]
    fn names_outside_their_letters_are_refused() {
        assert!("Orders".parse::<TopicName>().is_err());
        assert!("..".parse::<TopicName>().is_err());
        assert!("a b".parse::<SinkName>().is_err());
        assert!("my-db".parse::<PipelineName>().is_err());
    }

    #[test]
    fn tables_are_plain_or_quoted() {
        let table: TableName = "inventory.stock".parse().expect("plain");
        assert_eq!(table.quoted(), "\"inventory\".\"stock\"");
        let odd: TableName = r#"public."Odd ""name"". here""#.parse().expect("quoted");
        assert_eq!(odd.table, "Odd \"name\". here");
        for text in ["stock", "a.b.c", "A.b", "a.", ".b", "a.\"b", "a.\"\""] {
            assert!(text.parse::<TableName>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_table_prints_as_it_parses(schema in "\\PC{1,12}", table in "\\PC{1,12}") {
            let name = TableName { schema, table };
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }
    }
}
