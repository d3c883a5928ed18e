//! What an archive measures.

use tailwater_runtime::Metric;

/// Objects created.
pub const OBJECTS: &str = "tailwater_archive_objects_total";
/// Their bytes.
pub const OBJECT_BYTES: &str = "tailwater_archive_object_bytes_total";
/// Keys that were taken.
pub const ADOPTED: &str = "tailwater_archive_adopted_total";
/// How long a create took.
pub const PUT_SECONDS: &str = "tailwater_archive_put_seconds";

const TOPIC: &[&str] = &["topic"];

/// All of them.
pub const ALL: &[Metric] = &[
    Metric::counter(OBJECTS, TOPIC, "objects created"),
    Metric::counter(OBJECT_BYTES, TOPIC, "bytes of objects created"),
    Metric::counter(ADOPTED, TOPIC, "keys that another writer had taken, whose object was adopted"),
    Metric::histogram(PUT_SECONDS, TOPIC, "how long it took to create an object"),
];
