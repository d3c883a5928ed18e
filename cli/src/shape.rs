//! What `tailwater.yaml` may hold: for JSON Schema and the reference page. The reading is in `config`.

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
        Field::required("postgres", Form::Section(&POSTGRES), "the database that is read"),
        Field::required("kafka", Form::Section(&KAFKA), "the brokers"),
        Field::optional("s3", Form::Section(&S3), "the store of archive sinks"),
        Field::optional("opensearch", Form::Section(&OPENSEARCH), "the cluster of search sinks"),
        Field::optional("reader", Form::Section(&READER), "how the reader runs"),
        Field::optional("sinks", Form::Section(&SINKS), "how sink workers run"),
    ],
};

/// `postgres`.
pub(crate) static POSTGRES: Shape = Shape {
    about: "The database that is read.",
    fields: &[
        Field::required("host", Form::Text("a host name or address"), "the server"),
        Field::or("port", Form::Whole(1, 65_535), "5432", "its port"),
        Field::required(
            "user",
            Form::Text("a role"),
            "a role with `REPLICATION` that owns or may publish the tables",
        ),
        Field::optional("password", Form::Text("a secret"), "its password"),
        Field::optional("password_file", Form::Text("a file name"), "file that holds the password"),
        Field::required("database", Form::Text("a database"), "the database"),
        Field::optional(
            "sslmode",
            Form::OneOf(&["disable"]),
            "outside loopback it must be said that the connection is not encrypted; this version has no TLS to Postgres",
        ),
    ],
};

/// `kafka`.
pub(crate) static KAFKA: Shape = Shape {
    about: "The brokers.",
    fields: &[
        Field::required("brokers", Form::Text("`host:port,…`"), "where the cluster is first asked"),
        Field::optional(
            "properties",
            Form::Free("librdkafka's settings"),
            "settings of the client, verbatim; those that exactly-once rests on are refused",
        ),
    ],
};

/// `s3`.
pub(crate) static S3: Shape = Shape {
    about: "The store of archive sinks.",
    fields: &[
        Field::required("endpoint", Form::Text("`http://host:port`"), "the store"),
        Field::or("region", Form::Text("a region"), "us-east-1", "its region"),
        Field::required("access_key", Form::Text("a key"), "access key"),
        Field::optional("secret_key", Form::Text("a secret"), "secret key"),
        Field::optional(
            "secret_key_file",
            Form::Text("a file name"),
            "file that holds the secret key",
        ),
        Field::or(
            "path_style",
            Form::Truth,
            "true",
            "whether the bucket is part of the path, not of the host name",
        ),
    ],
};

/// `opensearch`.
pub(crate) static OPENSEARCH: Shape = Shape {
    about: "The cluster of search sinks.",
    fields: &[
        Field::required("url", Form::Text("`http://host:port`"), "the cluster"),
        Field::optional("user", Form::Text("a user"), "user for basic authentication"),
        Field::optional("password", Form::Text("a secret"), "its password"),
        Field::optional("password_file", Form::Text("a file name"), "file that holds the password"),
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
            "a Kafka transaction is closed at this size",
        ),
        Field::or(
            "transaction_rows",
            Form::Whole(1, u64::MAX),
            "50000",
            "or at this number of records",
        ),
        Field::or(
            "transaction_delay",
            Form::Span,
            "200ms",
            "or at this age; at once when nothing more is waiting",
        ),
        Field::or(
            "queue_bytes",
            Form::Bytes,
            "8MiB",
            "most that is held between the connection and the encoder",
        ),
        Field::or(
            "slot_wait",
            Form::Span,
            "90s",
            "how long to wait for a slot that another connection reads",
        ),
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
            "most that all open batches of one sink hold together, from 1MiB",
        ),
    ],
};
