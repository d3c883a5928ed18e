//! The reader, from bytes to records and from Postgres to Kafka.

mod capture;
mod certificates;
mod debezium;
mod decode;
mod fuzz;
mod ledger;
mod live;
mod loops;
mod masks;
mod messages;
mod own_kafka;
mod own_postgres;
mod script;
mod source;
mod tables;
mod types;
mod verifier;
mod wire;
