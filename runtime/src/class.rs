//! The three kinds of error.

/// What an error asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// It will pass: wait and try again.
    Transient,
    /// It will not pass by waiting: stop and say how to mend it.
    Definite,
    /// This record will never succeed: set it aside and go on.
    Poison,
}

/// The one function of a crate that answers which kind an error is.
pub trait Classify {
    /// What this error asks for.
    fn class(&self) -> ErrorClass;
}
