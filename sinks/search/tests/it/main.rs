//! The sink in front of a strict, scripted server and in front of a real one.

#![expect(clippy::unwrap_used, reason = "a failing step of a test shall end it")]

mod aws;
mod door;
mod fake;
mod records;

mod late;
mod live;
mod login;
mod loops;
