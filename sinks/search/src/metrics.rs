//! What the search sink measures.

use tailwater_runtime::Metric;

/// Documents.
pub const DOCUMENTS: &str = "tailwater_search_documents_total";
/// Records without one.
pub const SKIPPED: &str = "tailwater_search_skipped_total";
/// Length of a bulk request.
pub const BULK_SECONDS: &str = "tailwater_search_bulk_seconds";
/// Size of bulk requests.
pub const BULK_BYTES: &str = "tailwater_search_bulk_bytes_total";

const ALIAS: &[&str] = &["alias"];

/// All of them.
pub const ALL: &[Metric] = &[
    Metric::counter(
        DOCUMENTS,
        &["alias", "outcome"],
        "documents by what became of them: stored, stale, refused, retried, superseded",
    ),
    Metric::counter(SKIPPED, ALIAS, "records that ask nothing of the index: tombstones"),
    Metric::histogram(BULK_SECONDS, ALIAS, "from sending a bulk request to having its reply"),
    Metric::counter(BULK_BYTES, ALIAS, "bytes of bulk requests before compression"),
];
