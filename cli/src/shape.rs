//! What `tailwater.yaml` may hold: for JSON Schema and the reference page. The reading is in `config`.

use tailwater_config::{kafka, opensearch, postgres, s3};
use tailwater_document::{Field, Form, Shape};

/// The whole file.
pub(crate) static CONFIG: Shape = Shape {
    about: "tailwater.yaml: where everything is. `${NAME}` and `${NAME:-default}` are replaced by environment variables.",
    fields: &[
        Field::required(
            "pipeline",
            Form::Text("a-z, 0-9 and `_`"),
            "one database read into one Kafka cluster; names the slot, the publications and our own topics",
        ),
        Field::required("postgres", Form::Section(&postgres::SHAPE), "the database that is read"),
        Field::required("kafka", Form::Section(&kafka::SHAPE), "the brokers"),
        Field::optional("s3", Form::Section(&s3::SHAPE), "the store of archive sinks"),
        Field::optional(
            "opensearch",
            Form::Section(&opensearch::SHAPE),
            "the cluster of search sinks",
        ),
        Field::optional("reader", Form::Section(&READER), "how the reader runs"),
        Field::optional("sinks", Form::Section(&SINKS), "how sink workers run"),
    ],
};

/// `reader`.
pub(crate) static READER: Shape = Shape {
    about: "How the reader runs.",
    fields: &[
        Field::or(
            "admin",
            Form::Text("`address:port`"),
            "127.0.0.1:18090",
            "where `/live`, `/ready` and `/metrics` are",
        ),
        Field::or(
            "transaction_bytes",
            Form::Bytes,
            "8MiB",
            "a Kafka transaction is closed at this size; one of copied rows at four times as much",
        ),
        Field::or(
            "transaction_rows",
            Form::Whole(1, u64::MAX),
            "50000",
            "or at this number of records; of copied rows at four times as many",
        ),
        Field::or(
            "transaction_delay",
            Form::Span,
            "200ms",
            "or at this age; at once when nothing more is waiting, and not before a second while rows are copied",
        ),
        Field::or(
            "queue_bytes",
            Form::Bytes,
            "8MiB",
            "most that is held between the connection and the encoder",
        ),
        Field::or(
            "copy_workers",
            Form::Whole(1, 64),
            "4",
            "connections that read existing rows at once while they are copied",
        ),
        Field::or(
            "slot_wait",
            Form::Span,
            "90s",
            "how long to wait for a slot that another connection reads",
        ),
        Field::or(
            "heartbeat",
            Form::Span,
            "60s",
            "how often a small message is written to the WAL, so that the slot of a quiet database moves and outlives a failover; `0s` is never",
        ),
        Field::optional(
            "mask_key",
            Form::Text("a secret"),
            "the key of `hmac` masks, at least 32 bytes; with another key, equal values get other codes",
        ),
        Field::optional("mask_key_file", Form::Text("a file name"), "or the file that holds it"),
    ],
};

/// `sinks`.
pub(crate) static SINKS: Shape = Shape {
    about: "How sink workers run.",
    fields: &[
        Field::or(
            "admin",
            Form::Text("`address:port`"),
            "127.0.0.1:18091",
            "where `/live`, `/ready` and `/metrics` are; `--admin` goes before it",
        ),
        Field::or(
            "memory",
            Form::Bytes,
            "64MiB",
            "most that the records of one sink take, fetched ahead, queued and in open batches, from 1MiB; the process takes up to 100 MiB more",
        ),
    ],
};
