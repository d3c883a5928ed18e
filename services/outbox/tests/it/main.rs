//! The outbox on a real Postgres.

mod live;
