//! What the reader measures.

use tailwater_runtime::Metric;

/// Row changes decoded.
pub const ROWS: &str = "tailwater_cdc_rows_total";
/// Of those, given up on request.
pub const GIVEN_UP: &str = "tailwater_cdc_given_up_total";
/// Records that stand in the reader's dead-letter topic.
pub const SET_ASIDE: &str = "tailwater_cdc_set_aside_total";
/// Records committed.
pub const RECORDS: &str = "tailwater_cdc_records_total";
/// Their bytes.
pub const BYTES: &str = "tailwater_cdc_bytes_total";
/// Kafka transactions.
pub const TRANSACTIONS: &str = "tailwater_cdc_kafka_transactions_total";
/// Postgres transactions.
pub const COMMITS: &str = "tailwater_cdc_postgres_transactions_total";
/// Distance to the server's end.
pub const LAG_BYTES: &str = "tailwater_cdc_lag_bytes";
/// Age of the oldest WAL that is not durable.
pub const LAG_SECONDS: &str = "tailwater_cdc_lag_seconds";
/// What the slot may forget.
pub const CONFIRMED_LSN: &str = "tailwater_cdc_confirmed_lsn";
/// Latency.
pub const COMMIT_TO_BROKER: &str = "tailwater_cdc_commit_to_broker_seconds";
/// Time of a stage.
pub const STAGE: &str = "tailwater_cdc_stage_seconds";
/// Starts of the stream.
pub const SESSIONS: &str = "tailwater_cdc_sessions_total";
/// WAL kept for the slot.
pub const RETAINED_BYTES: &str = "tailwater_cdc_slot_retained_bytes";
/// WAL until the slot is lost.
pub const BUDGET_BYTES: &str = "tailwater_cdc_slot_budget_bytes";
/// Time until the slot is lost.
pub const BUDGET_SECONDS: &str = "tailwater_cdc_slot_budget_seconds";
/// Rows of first copies.
pub const COPIED_ROWS: &str = "tailwater_cdc_copied_rows_total";
/// Their bytes.
pub const COPIED_BYTES: &str = "tailwater_cdc_copied_bytes_total";
/// Keys deleted at the end of a copy.
pub const VANISHED_KEYS: &str = "tailwater_cdc_vanished_keys_total";
/// Tables of the running copy that are not finished.
pub const COPY_TABLES_LEFT: &str = "tailwater_cdc_copy_tables_left";
/// Their bytes in the database.
pub const COPY_BYTES_LEFT: &str = "tailwater_cdc_copy_left_bytes";
/// Distance of joining tables to the stream.
pub const JOINING_LAG_BYTES: &str = "tailwater_cdc_joining_lag_bytes";

/// All of them.
pub const ALL: &[Metric] = &[
    Metric::counter(ROWS, &[], "row changes decoded"),
    Metric::counter(
        GIVEN_UP,
        &[],
        "changes that went nowhere on request: rows of removed topics, housekeeping in outbox tables",
    ),
    Metric::counter(
        SET_ASIDE,
        &["topic"],
        "records in the dead-letter topic of the reader: larger than their topic takes, or, without a topic, messages that are no event",
    ),
    Metric::counter(RECORDS, &[], "records in committed Kafka transactions, without progress"),
    Metric::counter(BYTES, &[], "bytes of keys, values and headers of those records"),
    Metric::counter(TRANSACTIONS, &[], "Kafka transactions committed"),
    Metric::counter(COMMITS, &[], "Postgres transactions read to their end"),
    Metric::gauge(LAG_BYTES, &[], "WAL between the server's end and what is durable in Kafka"),
    Metric::gauge(
        LAG_SECONDS,
        &[],
        "how long there has been WAL that is not durable in Kafka; 0 when there is none",
    ),
    Metric::gauge(CONFIRMED_LSN, &[], "LSN up to which the slot may forget, as a number"),
    Metric::histogram(
        COMMIT_TO_BROKER,
        &[],
        "from a commit in Postgres to the commit in Kafka, for the oldest transaction of each batch",
    ),
    Metric::histogram(STAGE, &["stage"], "time a stage took for one Kafka transaction"),
    Metric::counter(SESSIONS, &[], "starts of the stream: the first one and every reconnect"),
    Metric::gauge(RETAINED_BYTES, &[], "WAL that Postgres keeps because the slot needs it"),
    Metric::gauge(
        BUDGET_BYTES,
        &[],
        "WAL that may still be written before Postgres gives the slot up; absent without `max_slot_wal_keep_size`",
    ),
    Metric::gauge(
        BUDGET_SECONDS,
        &[],
        "time until the slot is given up at the pace of the last five minutes; `+Inf` while its budget does not shrink, absent without `max_slot_wal_keep_size`",
    ),
    Metric::counter(COPIED_ROWS, &[], "rows that tables held before their changes were captured"),
    Metric::counter(COPIED_BYTES, &[], "bytes of their keys and values"),
    Metric::counter(
        VANISHED_KEYS,
        &[],
        "keys that a topic still held and its table did not when it was read again, and that were deleted",
    ),
    Metric::gauge(
        COPY_TABLES_LEFT,
        &[],
        "tables whose rows are still being copied; 0 without a copy",
    ),
    Metric::gauge(
        COPY_BYTES_LEFT,
        &[],
        "bytes of those tables in the database that have not been read; 0 without a copy",
    ),
    Metric::gauge(
        JOINING_LAG_BYTES,
        &[],
        "WAL between the stream and tables that are joining it, rows first; 0 when there are none",
    ),
];
