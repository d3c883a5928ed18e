//! JSON bodies, parsed with messages a client can act on.

use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::problem::Problem;

/// A JSON body that was read and checked.
#[derive(Debug)]
pub struct Body<T>(pub T);

/// A body's own rules, beyond its types.
pub trait Check {
    /// Fails on the first part that is wrong.
    fn check(&self) -> Result<(), Problem>;
}

impl<S: Send + Sync, T: DeserializeOwned + Check> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|error| Problem::invalid("body", error.to_string()))?;
        let body: T = serde_json::from_slice(&bytes)
            .map_err(|error| Problem::invalid("body", error.to_string()))?;
        body.check()?;
        Ok(Self(body))
    }
}

/// A text of 1 to `most` characters, without the one that Postgres cannot keep.
pub fn text(field: &'static str, text: &str, most: usize) -> Result<(), Problem> {
    if text.contains('\0') {
        return Err(Problem::invalid(field, "must not hold the character U+0000"));
    }
    match text.chars().count() {
        count if (1..=most).contains(&count) => Ok(()),
        count => {
            Err(Problem::invalid(field, format!("has {count} characters, 1 to {most} are allowed")))
        }
    }
}

/// A number above zero.
pub fn positive(field: &'static str, number: i64) -> Result<(), Problem> {
    if number > 0 { Ok(()) } else { Err(Problem::invalid(field, "must be above zero")) }
}

/// Three capital letters.
pub fn currency(code: &str) -> Result<(), Problem> {
    if code.len() == 3 && code.bytes().all(|b| b.is_ascii_uppercase()) {
        Ok(())
    } else {
        Err(Problem::invalid("currency", "must be three capital letters such as `EUR`"))
    }
}

/// An id from a path.
pub fn id(text: &str) -> Result<Uuid, Problem> {
    text.parse().map_err(|_| Problem::invalid("id", "must be a UUID"))
}
