//! Products, prices and the documents made of them.

mod model;
mod routes;
mod store;

pub use routes::router;
