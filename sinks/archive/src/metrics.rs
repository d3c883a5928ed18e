//! Names of metrics.

/// Objects created. Label: `topic`.
pub const OBJECTS: &str = "tailwater_archive_objects_total";
/// Bytes of objects created. Label: `topic`.
pub const OBJECT_BYTES: &str = "tailwater_archive_object_bytes_total";
/// Keys that another writer had taken, whose object was adopted. Label: `topic`.
pub const ADOPTED: &str = "tailwater_archive_adopted_total";
/// How long a create took. Label: `topic`.
pub const PUT_SECONDS: &str = "tailwater_archive_put_seconds";
