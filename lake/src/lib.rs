//! SQL, proof and replay over the archive.
#![forbid(unsafe_code)]
