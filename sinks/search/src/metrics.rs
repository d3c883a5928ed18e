//! What a search sink measures.

use tailwater_runtime::Metric;

/// Documents sent.
pub const DOCUMENTS: &str = "tailwater_search_documents_total";
/// Records that asked for nothing.
pub const SKIPPED: &str = "tailwater_search_skipped_total";
/// How long a bulk request took.
pub const BULK_SECONDS: &str = "tailwater_search_bulk_seconds";
/// Bytes of bulk requests.
pub const BULK_BYTES: &str = "tailwater_search_bulk_bytes_total";

/// All of them.
pub const ALL: &[Metric] = &[
    Metric::counter(
        DOCUMENTS,
        &["alias", "outcome"],
        "documents sent, by what became of them: stored, stale, refused, retried, superseded",
    ),
    Metric::counter(
        SKIPPED,
        &["alias"],
        "records that ask nothing of the index, such as tombstones",
    ),
    Metric::histogram(BULK_SECONDS, &["alias"], "from sending a bulk request to having its reply"),
    Metric::counter(BULK_BYTES, &["alias"], "bytes of bulk requests before compression"),
];
