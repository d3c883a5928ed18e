//! The endpoint in this process, a real client in front of it, sometimes a bad wire in between.

#![expect(clippy::unwrap_used, reason = "a failing step of a test shall end it")]

mod world;

mod conditions;
mod crash;
mod integrity;
mod listing;
mod multipart;
mod objects;
