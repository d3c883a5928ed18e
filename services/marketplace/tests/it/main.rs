//! The marketplace on a real Postgres.

mod live;
