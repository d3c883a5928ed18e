//! The reader, from bytes to records and from Postgres to Kafka.

mod capture;
mod certificates;
mod decode;
mod live;
mod loops;
mod own_postgres;
mod script;
mod snapshot;
mod source;
mod tables;
mod types;
mod wire;
