use metrics::{Unit, describe_counter, describe_histogram};

/// Documents by `alias` and `outcome`: `stored`, `stale`, `refused`, `retried`, `superseded`.
pub const DOCUMENTS: &str = "tailwater_search_documents_total";
/// Records that asked for nothing, by `alias`: tombstones.
pub const SKIPPED: &str = "tailwater_search_skipped_total";
/// Seconds from sending a bulk request to having its reply, by `alias`.
pub const BULK_SECONDS: &str = "tailwater_search_bulk_seconds";
/// Bytes of bulk requests before compression, by `alias`.
pub const BULK_BYTES: &str = "tailwater_search_bulk_bytes_total";

/// Tells the exporter what they mean.
pub fn describe() {
    describe_counter!(DOCUMENTS, "Documents sent to the index, by what became of them");
    describe_counter!(SKIPPED, "Records that ask nothing of the index");
    describe_histogram!(BULK_SECONDS, Unit::Seconds, "Time of one bulk request");
    describe_counter!(BULK_BYTES, Unit::Bytes, "Bulk requests before compression");
}
