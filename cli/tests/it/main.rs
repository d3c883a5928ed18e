//! The binary as a person or a script meets it.

mod command;
mod bad_input;
mod broken;
mod docs;
mod place;
mod keys;
mod live;
mod repair;
