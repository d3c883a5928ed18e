//! Names of what the reader measures.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Row changes decoded, captured or not.
pub const ROWS: &str = "tailwater_cdc_rows_total";
/// Records in committed Kafka transactions, without progress records.
pub const RECORDS: &str = "tailwater_cdc_records_total";
/// Bytes of keys, values and headers of those records.
pub const BYTES: &str = "tailwater_cdc_bytes_total";
/// Committed Kafka transactions.
pub const TRANSACTIONS: &str = "tailwater_cdc_kafka_transactions_total";
/// Postgres transactions seen to their end.
pub const COMMITS: &str = "tailwater_cdc_postgres_transactions_total";
/// Bytes of WAL between the server's end and what is durable.
pub const LAG_BYTES: &str = "tailwater_cdc_lag_bytes";
/// What is durable and confirmed to the slot, as a number.
pub const CONFIRMED_LSN: &str = "tailwater_cdc_confirmed_lsn";
/// From a commit in Postgres to the commit in Kafka, for the oldest transaction of each batch.
pub const COMMIT_TO_BROKER: &str = "tailwater_cdc_commit_to_broker_seconds";
/// Time a stage took, with the label `stage`: `capture`, `send`, `deliver`, `commit`.
pub const STAGE: &str = "tailwater_cdc_stage_seconds";
/// Sessions begun: first start, reconnects.
pub const SESSIONS: &str = "tailwater_cdc_sessions_total";

/// Tells the exporter what the names mean.
pub fn describe() {
    describe_counter!(ROWS, Unit::Count, "row changes decoded");
    describe_counter!(RECORDS, Unit::Count, "records committed to Kafka");
    describe_counter!(BYTES, Unit::Bytes, "bytes of records committed to Kafka");
    describe_counter!(TRANSACTIONS, Unit::Count, "Kafka transactions committed");
    describe_counter!(COMMITS, Unit::Count, "Postgres transactions read");
    describe_gauge!(LAG_BYTES, Unit::Bytes, "WAL not yet durable in Kafka");
    describe_gauge!(CONFIRMED_LSN, "LSN that the slot may forget");
    describe_histogram!(COMMIT_TO_BROKER, Unit::Seconds, "commit in Postgres to commit in Kafka");
    describe_histogram!(STAGE, Unit::Seconds, "time per stage and Kafka transaction");
    describe_counter!(SESSIONS, Unit::Count, "starts of the stream");
}
