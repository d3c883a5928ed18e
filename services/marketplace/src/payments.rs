//! Payments and their events.

mod model;
mod routes;
mod store;

pub use routes::router;
