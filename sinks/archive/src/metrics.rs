//! What the archive measures.

use tailwater_runtime::Metric;

/// Objects.
pub const OBJECTS: &str = "tailwater_archive_objects_total";
/// Their size.
pub const OBJECT_BYTES: &str = "tailwater_archive_object_bytes_total";
/// Objects of others.
pub const ADOPTED: &str = "tailwater_archive_adopted_total";
/// Length of a create.
pub const PUT_SECONDS: &str = "tailwater_archive_put_seconds";
/// Requests made again.
pub const REPEATS: &str = "tailwater_archive_repeated_requests_total";

const TOPIC: &[&str] = &["topic"];

/// All of them.
pub const ALL: &[Metric] = &[
    Metric::counter(OBJECTS, TOPIC, "objects created"),
    Metric::counter(OBJECT_BYTES, TOPIC, "bytes of objects created"),
    Metric::counter(ADOPTED, TOPIC, "keys that another writer had taken, whose object was adopted"),
    Metric::counter(
        REPEATS,
        &[],
        "requests made again because the store throttled or did not answer",
    ),
    Metric::histogram(PUT_SECONDS, TOPIC, "how long creating an object took"),
];
