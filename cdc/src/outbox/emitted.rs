//! An event that was written with `pg_logical_emit_message`: an object whose fields are the columns of the outbox table.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{COLUMNS, Cells, Place};

/// What stands in one message, by [`COLUMNS`].
#[derive(Debug)]
pub struct Emitted<'a>([Option<Cow<'a, [u8]>>; COLUMNS.len()]);

/// Fields without which there is no event.
const NEEDED: [Place; 5] =
    [Place::Id, Place::AggregateType, Place::AggregateId, Place::EventType, Place::Payload];

impl<'a> Emitted<'a> {
    /// Reads a message.
    ///
    /// # Errors
    /// Why it is no event, for whoever wrote it.
    pub fn parse(content: &'a [u8]) -> Result<Self, String> {
        let fields: BTreeMap<Cow<'_, str>, &'a RawValue> = serde_json::from_slice(content)
            .map_err(|error| format!("it is not a JSON object: {error}"))?;
        let mut cells = [const { None }; COLUMNS.len()];
        for (place, column) in COLUMNS.iter().enumerate() {
            let Some(raw) = fields.get(*column).map(|raw| raw.get()) else { continue };
            if raw == "null" {
                continue;
            }
            let is_document =
                [Place::Payload, Place::Headers].iter().any(|document| *document as usize == place);
            // Documents keep their bytes; of everything else the text counts, not how JSON writes it.
            cells[place] = Some(match serde_json::from_str::<Cow<'a, str>>(raw) {
                Ok(Cow::Borrowed(text)) if !is_document => Cow::Borrowed(text.as_bytes()),
                Ok(Cow::Owned(text)) if !is_document => Cow::Owned(text.into_bytes()),
                _ => Cow::Borrowed(raw.as_bytes()),
            });
        }
        let is_missing =
            |place: &Place| cells[*place as usize].as_deref().is_none_or(<[u8]>::is_empty);
        match NEEDED.into_iter().find(is_missing) {
            Some(place) => Err(format!("it has no `{}`", COLUMNS[place as usize])),
            None => Ok(Self(cells)),
        }
    }

    /// As the cells of a row.
    pub(crate) fn cells(&self) -> Cells<'_> {
        self.0.each_ref().map(Option::as_deref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(content: &str, column: &str) -> Option<String> {
        let emitted = Emitted::parse(content.as_bytes()).expect("an event");
        let place = COLUMNS.iter().position(|each| *each == column).expect("a column");
        let cell = emitted.cells()[place];
        cell.map(|cell| String::from_utf8(cell.to_vec()).expect("text"))
    }

    #[test]
    fn documents_keep_their_bytes_and_everything_else_is_text() {
        let event = r#"{"id": "7", "aggregate_type": "orders", "aggregate_id": 12, "event_type": "Pl\u0061ced",
            "payload": {"b": 1.0, "a":  "\u0061"}, "headers": {"x": 1}, "event_version": 3, "partition_key": null, "more": 1}"#;
        assert_eq!(cell(event, "aggregate_id").as_deref(), Some("12"));
        assert_eq!(cell(event, "event_type").as_deref(), Some("Placed"));
        assert_eq!(cell(event, "payload").as_deref(), Some(r#"{"b": 1.0, "a":  "\u0061"}"#));
        assert_eq!(cell(event, "headers").as_deref(), Some(r#"{"x": 1}"#));
        assert_eq!(cell(event, "event_version").as_deref(), Some("3"));
        assert_eq!(cell(event, "partition_key"), None);
        let text = event.replace(r#"{"b": 1.0, "a":  "\u0061"}"#, r#""a text""#);
        assert_eq!(cell(&text, "payload").as_deref(), Some(r#""a text""#));
    }

    #[test]
    fn what_is_no_event_says_why() {
        let whole = r#"{"id": "7", "aggregate_type": "orders", "aggregate_id": "1", "event_type": "Placed", "payload": {}}"#;
        assert!(Emitted::parse(whole.as_bytes()).is_ok());
        for (content, why) in [
            ("", "not a JSON object"),
            ("[1]", "not a JSON object"),
            ("\u{0}", "not a JSON object"),
            (&whole.replace("payload", "body"), "no `payload`"),
            (&whole.replace("{}", "null"), "no `payload`"),
            (&whole.replace(r#""7""#, r#""""#), "no `id`"),
            (&whole.replace("aggregate_id", "aggregate"), "no `aggregate_id`"),
        ] {
            let said = Emitted::parse(content.as_bytes()).expect_err("no event");
            assert!(said.contains(why), "{content}: {said}");
        }
        let bytes = [whole.as_bytes(), b"\xff"].concat();
        assert!(Emitted::parse(&bytes).is_err());
    }
}
