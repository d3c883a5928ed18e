//! What a catalog document may hold: for JSON Schema and the reference page.
//!
//! The reading is in `spec`; a key that is read there and not described here stops every debug build.

use tailwater_document::{Field, Form, Shape};

const VERSION: Field =
    Field::required("apiVersion", Form::Only("tailwater/v1"), "version of this form");

/// A topic.
pub static TOPIC: Shape = Shape {
    about: "A Kafka topic that the reader writes.",
    fields: &[
        VERSION,
        Field::required("kind", Form::Only("Topic"), "what is declared"),
        Field::required("name", Form::Text("a topic name"), "the topic in Kafka"),
        Field::required("from", Form::Section(&FROM), "where its records come from"),
        Field::optional(
            "key",
            Form::Texts("column names"),
            "columns that make the record key; by default the table's replica identity. Not for an outbox",
        ),
        Field::or(
            "partitions",
            Form::Whole(1, 10_000),
            "1",
            "partitions; never shrunk, and grown only while the topic is empty, because rows would move",
        ),
        Field::optional(
            "replication",
            Form::Whole(1, 32_767),
            "replication factor; by default the broker's",
        ),
        Field::optional(
            "config",
            Form::Free("Kafka's topic settings"),
            "settings of the topic, verbatim; with `cleanup.policy: compact` a delete is followed by a tombstone",
        ),
        Field::optional(
            "expose",
            Form::Texts("column names"),
            "columns that are published although their names look like card data",
        ),
        Field::or(
            "values",
            Form::OneOf(&["readable", "debezium"]),
            "readable",
            "form of the values; `debezium` writes what its Postgres connector writes by default. Only for tables",
        ),
        Field::optional(
            "mask",
            Form::Free("a mask for each column"),
            "columns that do not go out as they are: `drop` leaves one out, `hmac` replaces values by their HMAC-SHA256 under `reader.mask_key`, `truncate(n)` keeps the first n characters of a text. Only for tables, and not for columns of the key",
        ),
    ],
};

/// Where a topic's records come from.
pub static FROM: Shape = Shape {
    about: "A table, the events of one aggregate type in an outbox table, or logical messages.",
    fields: &[
        Field::optional(
            "table",
            Form::Text("`schema.table`"),
            "the table; with `outbox`, the outbox table, by default `<aggregate>.outbox`",
        ),
        Field::optional(
            "outbox",
            Form::Text("an aggregate type"),
            "`aggregate_type` of the rows that belong into this topic",
        ),
        Field::optional(
            "message",
            Form::Text("a prefix"),
            "the prefix of `pg_logical_emit_message` whose messages belong into this topic",
        ),
    ],
};

/// A sink that is an archive.
pub static ARCHIVE_SINK: Shape = Shape {
    about: "An archive of topics as gzipped JSONL on an S3 store.",
    fields: &[
        VERSION,
        Field::required("kind", Form::Only("Sink"), "what is declared"),
        Field::required("name", Form::Text("a sink name"), "the sink; names its consumer group"),
        Field::required("type", Form::Only("archive"), "what kind of sink it is"),
        Field::required("topics", Form::Texts("topic names"), "the topics it takes"),
        Field::required("archive", Form::Section(&ARCHIVE), "where and how"),
    ],
};

/// An archive.
pub static ARCHIVE: Shape = Shape {
    about: "Where an archive is and how its objects are cut.",
    fields: &[
        Field::required("bucket", Form::Text("a bucket name"), "the bucket; created if missing"),
        Field::or(
            "prefix",
            Form::Text("a text that ends with `/`"),
            "",
            "before every object key, so that several archives share a bucket",
        ),
        Field::or(
            "guarantee",
            Form::OneOf(&["exactly-once", "at-least-once"]),
            "exactly-once",
            "how often a record is kept; `at-least-once` is for stores without atomic conditional writes: where a worker was killed or hung, records may stand in two objects",
        ),
        Field::optional(
            "segment",
            Form::Section(&SEGMENT),
            "when an object is closed: at whichever comes first",
        ),
    ],
};

/// When an archive object is closed.
pub static SEGMENT: Shape = Shape {
    about: "When an archive object is closed: at whichever comes first.",
    fields: &[
        Field::or(
            "bytes",
            Form::Bytes,
            "64MiB",
            "its compressed size; one of more than 64MiB is sent in parts",
        ),
        Field::or("records", Form::Whole(1, u64::MAX), "500000", "records in it"),
        Field::or("age", Form::Span, "60s", "time since its first record came"),
        Field::optional("idle", Form::Span, "time since its last record came"),
    ],
};

/// A sink that is a search index.
pub static SEARCH_SINK: Shape = Shape {
    about: "An OpenSearch index kept equal to tables.",
    fields: &[
        VERSION,
        Field::required("kind", Form::Only("Sink"), "what is declared"),
        Field::required("name", Form::Text("a sink name"), "the sink; names its consumer group"),
        Field::required("type", Form::Only("search"), "what kind of sink it is"),
        Field::required("topics", Form::Texts("topic names"), "topics with the rows of tables"),
        Field::required("search", Form::Section(&SEARCH), "where and how"),
    ],
};

/// A search index.
pub static SEARCH: Shape = Shape {
    about: "Which index, with which mapping.",
    fields: &[
        Field::required(
            "alias",
            Form::Text("an index name"),
            "the alias that readers use; the index behind it is versioned",
        ),
        Field::required(
            "mapping",
            Form::Text("a file name"),
            "JSON file with `mappings` and, if wanted, `settings`; relative to this file",
        ),
        Field::optional("document", Form::Section(&DOCUMENT), "how rows become documents"),
        Field::optional(
            "bulk",
            Form::Section(&BULK),
            "when a bulk request is sent: at whichever comes first",
        ),
    ],
};

/// How rows become documents.
pub static DOCUMENT: Shape = Shape {
    about: "How rows become documents; by default as they are. An index keeps the shape it was made with: another one asks for `tailwater sinks rebuild`.",
    fields: &[
        Field::optional(
            "id",
            Form::Texts("column names"),
            "columns of the key that make `_id`: the value of one, the values of several with `:` between them. They must tell rows apart. By default the value of the key's only column, or the key as it is",
        ),
        Field::optional(
            "routing",
            Form::Text("a column name"),
            "column of `id` whose value chooses the shard; by default `_id` does",
        ),
        Field::optional(
            "include",
            Form::Texts("column names"),
            "columns that become fields; by default all. A row without one of them is set aside",
        ),
        Field::optional(
            "exclude",
            Form::Texts("column names"),
            "columns that do not become fields; not together with `include`",
        ),
        Field::optional(
            "rename",
            Form::Free("a field name for each column"),
            "fields that are not called as their columns",
        ),
        Field::optional(
            "nested",
            Form::Texts("column names"),
            "columns that hold JSON objects or arrays, or texts that are such: they become nested documents. A row with another value is set aside",
        ),
    ],
};

/// When a bulk request is sent.
pub static BULK: Shape = Shape {
    about: "When a bulk request is sent: at whichever comes first.",
    fields: &[
        Field::or("bytes", Form::Bytes, "8MiB", "size of the request"),
        Field::or("operations", Form::Whole(1, u64::MAX), "2000", "documents in it"),
        Field::or("age", Form::Span, "500ms", "time since its first record came"),
    ],
};

/// Every document of a catalog.
pub static DOCUMENTS: [&Shape; 3] = [&TOPIC, &ARCHIVE_SINK, &SEARCH_SINK];
