//! AWS's signature, version 4, as its services that run OpenSearch want it.
//!
//! ```text
//!  method, path, query ┐
//!  host, content type  ├──▶ canonical request ──▶ signed for a day, a region and a service ──▶ authorization
//!  hash of the body    ┘
//! ```
//!
//! * The body is signed as it is sent: gzipped. Its hash goes along as a header; `aoss` refuses a body without.
//! * The path is escaped once more than it is on the wire, as every service but S3 wants it.
//! * Only headers are signed that nobody on the way has a reason to change. `content-length` is not: `aoss` refuses it.

use std::time::SystemTime;

use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use reqwest::Request;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use tailwater_config::Service;
use tailwater_sinks_keys::Credentials;

use crate::error::Error;

/// What a signature is for.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) service: Service,
    pub(crate) region: String,
}

/// What a service that refuses a signature does not like about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Objection {
    /// The keys: expired, unknown, or not the ones that signed.
    Keys,
    /// The time it was signed at.
    Clock,
    /// Anything else: rights, the region, or it does not say.
    Other,
}

impl Scope {
    /// Signs a request as it stands.
    ///
    /// # Errors
    /// The keys have characters that a header cannot have.
    pub(crate) fn sign(
        &self,
        request: &mut Request,
        keys: &Credentials,
        now: SystemTime,
    ) -> Result<(), Error> {
        let unsigned = |error: &dyn std::fmt::Display| Error::Unsigned(error.to_string());
        let mut settings = SigningSettings::default();
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.percent_encoding_mode = PercentEncodingMode::Double;
        let identity = keys.clone().into();
        let params = SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(self.service.name())
            .time(now)
            .settings(settings)
            .build()
            .map_err(|error| unsigned(&error))?
            .into();
        let content_type = request.headers().get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let body = request.body().and_then(reqwest::Body::as_bytes).unwrap_or_default();
        let signable = SignableRequest::new(
            request.method().as_str(),
            request.url().as_str(),
            content_type.map(|value| (CONTENT_TYPE.as_str(), value)).into_iter(),
            SignableBody::Bytes(body),
        )
        .map_err(|error| unsigned(&error))?;
        let signed = sign(signable, &params).map_err(|error| unsigned(&error))?;
        let (headers, _) = signed.into_parts().0.into_parts();
        for header in headers {
            let mut value =
                HeaderValue::from_str(header.value()).map_err(|error| unsigned(&error))?;
            value.set_sensitive(header.sensitive());
            request.headers_mut().insert(header.name(), value);
        }
        Ok(())
    }
}

/// The words of AWS's front door, which are the same for all its services.
pub(crate) fn objection(reason: &str) -> Objection {
    let says = |words: &[&str]| words.iter().any(|words| reason.contains(words));
    if says(&["Signature expired", "Signature not yet current"]) {
        Objection::Clock
    } else if says(&[
        "The security token included in the request is",
        "The request signature we calculated does not match",
    ]) {
        Objection::Keys
    } else {
        Objection::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_keys_and_clock_is_told_from_what_is_said_of_rights() {
        for (reason, expected) in [
            ("The security token included in the request is expired", Objection::Keys),
            ("The security token included in the request is invalid.", Objection::Keys),
            (
                "The request signature we calculated does not match the signature you provided.",
                Objection::Keys,
            ),
            (
                "Signature expired: 20210416T1Z is now earlier than 20210416T2Z (20210416T3Z - 5 min.)",
                Objection::Clock,
            ),
            (
                "Signature not yet current: 20210416T3Z is still later than 20210416T2Z",
                Objection::Clock,
            ),
            ("Credential should be scoped to a valid region, not 'us-east-2'.", Objection::Other),
            ("Missing Authentication Token", Objection::Other),
            ("User: anonymous is not authorized to perform: es:ESHttpPut", Objection::Other),
            ("Forbidden: 403 Forbidden", Objection::Other),
        ] {
            assert_eq!(objection(reason), expected, "{reason}");
        }
    }
}
