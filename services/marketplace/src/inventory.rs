//! Stock in warehouses.

mod model;
mod routes;
mod store;

pub use routes::router;
