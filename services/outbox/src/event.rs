//! One domain fact.

use uuid::Uuid;

/// Longest type or key. Generous for a name, small for an index entry.
const TEXT_MAX: usize = 255;

/// Something that happened to an aggregate.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_field_names, reason = "the fields are the columns of the outbox table")]
pub struct Event {
    pub(crate) id: Uuid,
    pub(crate) aggregate_type: String,
    pub(crate) aggregate_id: String,
    pub(crate) event_type: String,
    pub(crate) event_version: i16,
    pub(crate) partition_key: Option<String>,
    pub(crate) payload: serde_json::Value,
    pub(crate) headers: Option<serde_json::Value>,
    pub(crate) correlation_id: Option<Uuid>,
    pub(crate) causation_id: Option<Uuid>,
    pub(crate) traceparent: Option<String>,
}

/// An event that could not be routed or keyed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEvent {
    /// A name or key is empty or too long.
    #[error("`{field}` has {length} characters; 1 to {TEXT_MAX} are allowed")]
    Length {
        /// Which.
        field: &'static str,
        /// How many it has.
        length: usize,
    },
    /// A payload that is no JSON object.
    #[error("the payload is not a JSON object")]
    Payload,
}

impl Event {
    /// An event of version 1 with a new, time-ordered id. It is keyed by its aggregate's id.
    ///
    /// # Errors
    /// Empty or over-long names, a payload that is no object.
    pub fn new(
        aggregate_type: &str,
        aggregate_id: impl ToString,
        event_type: &str,
        payload: serde_json::Value,
    ) -> Result<Self, BadEvent> {
        let aggregate_id = aggregate_id.to_string();
        check("aggregate_type", aggregate_type)?;
        check("aggregate_id", &aggregate_id)?;
        check("event_type", event_type)?;
        if !payload.is_object() {
            return Err(BadEvent::Payload);
        }
        Ok(Self {
            id: Uuid::now_v7(),
            aggregate_type: aggregate_type.to_owned(),
            aggregate_id,
            event_type: event_type.to_owned(),
            event_version: 1,
            partition_key: None,
            payload,
            headers: None,
            correlation_id: None,
            causation_id: None,
            traceparent: None,
        })
    }

    /// Its id, which consumers see as `ce_id`.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Keys the record by something else than the aggregate's id; events of one key keep their order.
    ///
    /// # Errors
    /// An empty or over-long key.
    pub fn keyed_by(mut self, key: impl ToString) -> Result<Self, BadEvent> {
        let key = key.to_string();
        check("partition_key", &key)?;
        self.partition_key = Some(key);
        Ok(self)
    }

    /// What the event belongs to.
    pub fn correlated(mut self, correlation_id: Uuid) -> Self {
        self.correlation_id = Some(correlation_id);
        self
    }

    /// The event that caused this one.
    pub fn caused_by(mut self, causation_id: Uuid) -> Self {
        self.causation_id = Some(causation_id);
        self
    }

    /// The W3C trace context in which it happened.
    pub fn traced(mut self, traceparent: &str) -> Self {
        self.traceparent = Some(traceparent.to_owned());
        self
    }

    /// Version of the payload's form, where it is not 1.
    pub fn version(mut self, version: i16) -> Self {
        self.event_version = version;
        self
    }
}

fn check(field: &'static str, text: &str) -> Result<(), BadEvent> {
    match text.chars().count() {
        1..=TEXT_MAX => Ok(()),
        length => Err(BadEvent::Length { field, length }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_that_could_not_be_routed_are_refused() {
        let length = |field, length| Err(BadEvent::Length { field, length });
        assert_eq!(Event::new("", 1, "T", json!({})), length("aggregate_type", 0));
        assert_eq!(Event::new("orders", "", "T", json!({})), length("aggregate_id", 0));
        let long = "t".repeat(256);
        assert_eq!(Event::new("orders", 1, &long, json!({})), length("event_type", 256));
        assert_eq!(Event::new("orders", 1, "T", json!([1])), Err(BadEvent::Payload));
        let event = Event::new("orders", 1, "T", json!({})).expect("good");
        assert_eq!(event.keyed_by(""), length("partition_key", 0));
    }
}
