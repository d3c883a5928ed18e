//! The lake over archives that the real writer made.

mod archived;
mod world;
mod history;
mod questions;
mod live;
mod checkpoints;
mod twins;
