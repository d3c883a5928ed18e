//! The registry against real servers.

mod place;
mod live;
