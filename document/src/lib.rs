//! YAML text to typed values, with every mistake at its line.
//!
//! ```text
//!  text ──▶ node: scalars, sequences, mappings with their places ──▶ section: typed reads ──▶ values
//!                                                         shape ──────────┴──▶ mistakes, all of them
//! ```
//!
//! A derived deserializer stops at the first mistake. People who edit a configuration want all of them at
//! once, each with file, line and key, and never the text of a secret. So a document is first read into
//! [`Node`]s that know where they stand, and a [`Section`] then hands out typed values and collects what is
//! wrong. Anchors and aliases are refused: they make a small file expand without bound.
#![forbid(unsafe_code)]

mod mistake;
mod node;
mod scalar;
mod section;
mod shape;

pub use mistake::{Mistake, Mistakes, Place};
pub use node::{Lookup, Node, parse, parse_expanding};
pub use scalar::{ByteSize, FromScalar, Scalar, Span};
pub use section::Section;
pub use shape::{Field, Form, Need, Shape};
