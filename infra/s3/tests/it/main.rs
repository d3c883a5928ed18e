//! The endpoint in this process, a real client in front of it, sometimes a bad wire in between.

mod world;

mod conditions;
mod integrity;
mod listing;
mod multipart;
mod objects;
