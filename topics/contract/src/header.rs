//! Header names on the wire.
//!
//! Events carry the CloudEvents 1.0 attributes in Kafka's binary binding; tombstones and events carry their
//! place in the pipeline, which row changes hold in their `source` block.

/// `seq` of the record, in decimal.
pub const SEQ: &str = "tw-seq";
/// [`Position`](crate::Position) of the record.
pub const POSITION: &str = "tw-position";

/// CloudEvents version, always `1.0`.
pub const CE_SPECVERSION: &str = "ce_specversion";
/// Outbox row id.
pub const CE_ID: &str = "ce_id";
/// Event type.
pub const CE_TYPE: &str = "ce_type";
/// `/<pipeline>/<aggregate type>`.
pub const CE_SOURCE: &str = "ce_source";
/// When the outbox row was written, ISO 8601 in UTC.
pub const CE_TIME: &str = "ce_time";
/// Aggregate id.
pub const CE_SUBJECT: &str = "ce_subject";
/// Version of the event type, as a CloudEvents extension.
pub const CE_EVENT_VERSION: &str = "ce_eventversion";
/// Media type of the value.
pub const CONTENT_TYPE: &str = "content-type";
/// W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// What this event belongs to.
pub const CORRELATION_ID: &str = "correlation-id";
/// Which event caused this one.
pub const CAUSATION_ID: &str = "causation-id";

/// Whether a name says something about a record that only Tailwater may say.
pub fn is_ours(name: &str) -> bool {
    let single = [CONTENT_TYPE, TRACEPARENT, CORRELATION_ID, CAUSATION_ID];
    let families = ["tw-", "ce_"];
    families.iter().any(|family| name.starts_with(family)) || single.contains(&name)
}

/// Which sink set the record aside.
pub const DLQ_SINK: &str = "tw-dlq-sink";
/// Where the record stood: topic.
pub const DLQ_TOPIC: &str = "tw-dlq-topic";
/// Where the record stood: partition.
pub const DLQ_PARTITION: &str = "tw-dlq-partition";
/// Where the record stood: offset.
pub const DLQ_OFFSET: &str = "tw-dlq-offset";
/// Timestamp of the original record, in milliseconds.
pub const DLQ_TIMESTAMP: &str = "tw-dlq-timestamp";
/// Short machine-readable class of the failure.
pub const DLQ_CLASS: &str = "tw-dlq-class";
/// What the destination said.
pub const DLQ_REASON: &str = "tw-dlq-reason";
/// How often it was tried.
pub const DLQ_ATTEMPTS: &str = "tw-dlq-attempts";
/// When it was set aside, in milliseconds.
pub const DLQ_AT: &str = "tw-dlq-at";
