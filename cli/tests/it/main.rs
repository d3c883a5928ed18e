//! The binary as a person or a script meets it.

mod command;
mod bad_input;
mod place;
mod live;
