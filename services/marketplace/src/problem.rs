//! What a client did wrong, or what failed, as a JSON problem (RFC 9457).

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio_postgres::error::SqlState;

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The body or a header is wrong.
    #[error("`{field}`: {why}")]
    Invalid {
        /// Which part.
        field: &'static str,
        /// What would be right.
        why: String,
    },
    /// Nothing there.
    #[error("there is no {what} `{id}`")]
    NotFound {
        /// What was looked for.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// It contradicts what is there.
    #[error("{0}")]
    Conflict(String),
    /// The database failed.
    #[error("the database failed")]
    Database(#[from] tokio_postgres::Error),
    /// No connection was free in time.
    #[error("no database connection is free")]
    Pool(#[from] deadpool_postgres::PoolError),
    /// An event could not be written.
    #[error("an event could not be written")]
    Outbox(#[from] tailwater_outbox::AppendError),
    /// An event of ours was refused.
    #[error("an event is not valid")]
    Event(#[from] tailwater_outbox::BadEvent),
}

impl Problem {
    /// A part of the request is wrong.
    pub fn invalid(field: &'static str, why: impl Into<String>) -> Self {
        Self::Invalid { field, why: why.into() }
    }

    /// What HTTP calls it.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Invalid { .. } => StatusCode::BAD_REQUEST,
            Self::NotFound { .. } => StatusCode::NOT_FOUND,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Pool(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Database(error) if is_of_the_client(error) => StatusCode::BAD_REQUEST,
            Self::Database(_) | Self::Outbox(_) | Self::Event(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }
}

/// Whether a value was of a kind that the database cannot keep: too large a number, `\u0000` in JSON, too much for
/// one event.
fn is_of_the_client(error: &tokio_postgres::Error) -> bool {
    let codes = [
        SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
        SqlState::UNTRANSLATABLE_CHARACTER,
        SqlState::CHECK_VIOLATION,
    ];
    error.code().is_some_and(|code| codes.contains(code))
}

/// The causes of an error, outermost first.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        if status.is_server_error() {
            tracing::error!(error = %self, cause = causes(&self), "request failed");
        }
        let detail = match &self {
            Self::Database(error) if status.is_client_error() => {
                let said = error.as_db_error().map(|error| error.message().to_owned());
                format!("a value cannot be stored: {}", said.unwrap_or_default())
            }
            other => other.to_string(),
        };
        let body = Json(json!({ "status": status.as_u16(), "detail": detail }));
        (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}
