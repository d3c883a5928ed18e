//! Archived lines as they stand: the first, the last, those of one key.

use tailwater_topics_contract::TopicName;

use crate::archive::{Archive, Topic};
use crate::columns;
use crate::fetch::{self, FetchError, Queue};
use crate::head::{self, Depth};
use crate::json::{self, Kind};
use crate::stats::Stats;
use crate::wanted::Wanted;
use futures::TryStreamExt;
use std::sync::Arc;

/// From which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The oldest lines.
    First,
    /// The newest.
    Last,
}

/// The first or last lines of each partition, in the order of offsets.
pub async fn ends(
    archive: &Archive,
    topic: &Topic,
    partition: Option<i32>,
    count: usize,
    end: End,
) -> Result<Vec<Vec<u8>>, FetchError> {
    let mut lines = Vec::new();
    for number in topic.partitions() {
        if partition.is_some_and(|partition| partition != number) {
            continue;
        }
        let mut chunks: Vec<_> = topic
            .segments
            .iter()
            .filter(|segment| segment.partition == number)
            .flat_map(|segment| (0..segment.chunks.len()).map(move |chunk| (segment, chunk)))
            .collect();
        if end == End::Last {
            chunks.reverse();
        }
        let mut found: Vec<Vec<u8>> = Vec::new();
        for (segment, chunk) in chunks {
            if found.len() >= count {
                break;
            }
            let raw = fetch::one(archive, segment, chunk).await?;
            let all = raw.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            let left = count - found.len();
            match end {
                End::First => found.extend(all.take(left).map(<[u8]>::to_vec)),
                End::Last => {
                    found.extend(all.rev().take(left).map(<[u8]>::to_vec));
                }
            }
        }
        if end == End::Last {
            found.reverse();
        }
        lines.append(&mut found);
    }
    Ok(lines)
}

/// Every line of the records with one of some keys, by partition and offset, and what was read for it.
pub async fn with_keys(
    archive: &Archive,
    topic: &Topic,
    keys: &[Vec<u8>],
) -> Result<(Vec<Vec<u8>>, Arc<Stats>), FetchError> {
    let stats = Arc::new(Stats::default());
    let wanted = Wanted { keys: Some(keys.to_vec()), ..Wanted::default() };
    let pieces = fetch::pieces(archive, topic, &wanted, &stats).await?;
    let queue = Arc::new(Queue::new(archive.store.clone(), stats.clone(), pieces));
    let mut chunks = std::pin::pin!(queue.chunks());
    let mut found = Vec::new();
    while let Some(raw) = chunks.try_next().await? {
        for line in raw.lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let head = head::read(line, Depth::Key)
                .map_err(|source| FetchError::Foreign { key: raw.segment.key.clone(), source })?;
            let is_wanted = columns::key_text(head.key)
                .is_some_and(|text| keys.iter().any(|key| *key == text.as_bytes()));
            if is_wanted {
                found.push(((head.partition, head.offset), line.to_vec()));
            }
        }
    }
    found.sort();
    Ok((found.into_iter().map(|(_, line)| line).collect(), stats))
}

/// What may stand in Kafka for a key as a person writes it: the text itself; with the names of the key's fields, one
/// value, or `name=value,name=value`.
pub fn spellings(written: &str, fields: Option<&[String]>) -> Vec<Vec<u8>> {
    let mut keys = vec![written.as_bytes().to_vec()];
    let Some(fields) = fields else { return keys };
    let values: Option<Vec<&str>> = match fields {
        [_] if !written.contains('=') => Some(vec![written]),
        fields => {
            let parts: Vec<(&str, &str)> =
                written.split(',').filter_map(|part| part.split_once('=')).collect();
            fields
                .iter()
                .map(|field| {
                    parts
                        .iter()
                        .find(|(name, _)| name.trim() == field)
                        .map(|(_, value)| value.trim())
                })
                .collect()
        }
    };
    let Some(values) = values else { return keys };
    // A number may be one, or a text of digits: both are looked for.
    let mut texts = vec![String::from("{")];
    for (field, value) in fields.iter().zip(values) {
        let mut forms = vec![json::quoted(value)];
        let plain = matches!(Kind::of(value.as_bytes()), Some(Kind::Number | Kind::Bool));
        if plain && serde_json::from_str::<serde_json::Value>(value).is_ok() {
            forms.push(value.to_owned());
        }
        texts = texts
            .iter()
            .flat_map(|text| {
                forms.iter().map(move |form| {
                    let comma = if text.len() > 1 { "," } else { "" };
                    format!("{text}{comma}{}:{form}", json::quoted(field))
                })
            })
            .collect();
    }
    keys.extend(texts.into_iter().map(|text| format!("{text}}}").into_bytes()));
    keys
}

/// A topic that is named as a topic or as its table.
pub fn is_called(topic: &TopicName, name: &str) -> bool {
    topic.as_str() == name || crate::session::plain_name(topic.as_str()) == name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(written: &str, fields: &[&str]) -> Vec<String> {
        let fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
        let keys = spellings(written, Some(&fields));
        keys.into_iter().map(|key| String::from_utf8(key).expect("text")).collect()
    }

    #[test]
    fn a_key_is_found_by_its_value_by_names_or_as_it_stands() {
        assert_eq!(spelled("42", &["id"]), ["42", r#"{"id":"42"}"#, r#"{"id":42}"#]);
        assert_eq!(
            spelled("b=x, a=1", &["a", "b"]),
            ["b=x, a=1", r#"{"a":"1","b":"x"}"#, r#"{"a":1,"b":"x"}"#]
        );
        assert_eq!(spelled(r#"{"id":42}"#, &["id", "n"]), [r#"{"id":42}"#]);
        assert_eq!(spellings("x", None), [b"x".to_vec()]);
    }
}
