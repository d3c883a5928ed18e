//! What a failed request means: the one place where answers of a store are classified.
//!
//! ```text
//!  no bucket ──────────────▶ definite   keys it does not know ─┬─ of files, of the environment ──▶ read again, transient
//!  not allowed, misdone ───▶ definite                          └─ of the configuration ─────────▶ definite
//!  the clock is wrong ─────▶ transient
//!  an answer broke off ────▶ unavailable, whatever its status: the rest would have said what it is about
//!  anything else ──────────▶ unavailable: transient, and nobody can tell what has happened
//! ```

use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use tailwater_sinks_keys::{self as keys, CredentialsError};

use super::{Store, StoreError};

/// Answers of status 400 that are about one transmission, not about what was asked.
const GARBLED: [&str; 5] = [
    "RequestTimeout",
    "IncompleteBody",
    "BadDigest",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
];
/// Answers that say of the keys, not of what they may do, that they do not hold (any more). Between the reading of two files,
/// the key may be the old one and its secret the new one; that is a signature that does not match.
const STALE: [&str; 6] = [
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "InvalidTokenId", // MinIO
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
];
/// The request is older or newer than the store allows, by its own clock: 15 minutes with AWS.
const CLOCK: &str = "RequestTimeTooSkewed";

impl Store {
    pub(super) fn failed<E>(&self, error: &SdkError<E>, doing: &str) -> StoreError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        if error.code() == Some("NoSuchBucket") {
            return self.no_bucket();
        }
        if matches!(error, SdkError::ResponseError(_)) {
            let why = DisplayErrorContext(error).to_string();
            return self.unavailable(doing.to_owned(), why);
        }
        let (endpoint, doing) = (self.endpoint.clone(), doing.to_owned());
        if keys_are_missing(error) {
            let why = "there are no keys for it, neither `s3.access_key` and `s3.secret_key` in the configuration nor any in the environment".to_owned();
            return StoreError::Refused { endpoint, doing, why };
        }
        let why = said(error);
        let is_one_of = |codes: &[&str]| error.code().is_some_and(|code| codes.contains(&code));
        let status = status(error);
        if is_one_of(&[CLOCK]) {
            return StoreError::Clock { endpoint, doing, why };
        }
        if (is_one_of(&STALE) || status == Some(401)) && self.keys.on_stale() {
            return StoreError::StaleKeys { endpoint, doing, why };
        }
        match status {
            // 408 and 409 ask for another try; 429 and 5xx pass. 301 is for another region.
            Some(301 | 400..=407 | 410..=428 | 430..=499 | 501) if !is_one_of(&GARBLED) => {
                StoreError::Refused { endpoint, doing, why }
            }
            _ => self.unavailable(doing, why),
        }
    }

    /// The answer to a HEAD has no body, and so does not say what is refused: the keys, or what they may do. So something
    /// that has one is asked for, with the same keys.
    pub(super) async fn head_failed<E>(&self, error: &SdkError<E>, doing: &str) -> StoreError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        if error.code().is_none() && matches!(status(error), Some(400 | 401 | 403)) {
            let list = self.client.list_objects_v2().bucket(&self.bucket).max_keys(1);
            if let Err(error) = list.send().await {
                return self.failed(&error, doing);
            }
        }
        self.failed(error, doing)
    }

    pub(super) fn unavailable(&self, doing: String, why: String) -> StoreError {
        StoreError::Unavailable { endpoint: self.endpoint.clone(), doing, why }
    }

    pub(super) fn no_bucket(&self) -> StoreError {
        StoreError::NoBucket { endpoint: self.endpoint.clone(), bucket: self.bucket.clone() }
    }
}

pub(super) fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// What the store said, as far as it said anything.
fn said<E>(error: &SdkError<E>) -> String
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}, {message}"),
        (Some(code), None) if STALE.contains(&code) => {
            format!("{code}, the access key or its secret is wrong, or holds no more")
        }
        (Some(code), None) => code.to_owned(),
        _ => match status(error) {
            Some(status @ (401 | 403)) => {
                format!(
                    "status {status}: the access key or its secret is wrong, or may not do this"
                )
            }
            Some(status) => format!("status {status}"),
            None => DisplayErrorContext(error).to_string(),
        },
    }
}

/// Whether a request was not even sent because nobody gave keys.
fn keys_are_missing(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(error.source(), |cause| cause.source())
        .filter_map(|cause| cause.downcast_ref::<CredentialsError>())
        .any(keys::are_missing)
}
