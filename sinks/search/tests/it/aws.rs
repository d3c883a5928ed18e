//! AWS's front door: computes every request's signature from what came over the wire and the secret it knows, step by step
//! as AWS publishes the algorithm, and answers what AWS answers. It shares no code with what signs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard};

use axum::body::Bytes;
use axum::http::request::Parts;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::{SignedDuration, Timestamp};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::json;
use sha2_mac::{Digest as _, Sha256};

use crate::door::{Guard, Refusal};

pub(crate) const ACCESS: &str = "AKIDEXAMPLE";
pub(crate) const REGION: &str = "eu-central-1";

/// How far a request's time may be from the door's.
const TOLERANCE: SignedDuration = SignedDuration::from_mins(5);
/// What is not escaped: letters, digits, `-`, `.`, `_`, `~`.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

pub(crate) struct FrontDoor {
    service: &'static str,
    knows: Mutex<Knows>,
}

/// What may change while it is open.
#[derive(Clone)]
pub(crate) struct Knows {
    pub(crate) secret: String,
    /// Keys for a time come with one.
    pub(crate) token: Option<String>,
    pub(crate) is_expired: bool,
    /// How far its clock is ahead.
    pub(crate) ahead: SignedDuration,
    /// It allows nothing to anybody.
    pub(crate) denies: bool,
}

impl FrontDoor {
    pub(crate) fn of(service: &'static str, secret: &str, token: Option<&str>) -> Self {
        let knows = Knows {
            secret: secret.to_owned(),
            token: token.map(str::to_owned),
            is_expired: false,
            ahead: SignedDuration::ZERO,
            denies: false,
        };
        Self { service, knows: Mutex::new(knows) }
    }

    pub(crate) fn knows(&self) -> MutexGuard<'_, Knows> {
        self.knows.lock().unwrap()
    }
}

fn says(message: impl Into<String>) -> Refusal {
    (403, json!({ "message": message.into() }).to_string())
}

/// As a collection of OpenSearch Serverless refuses, where it gives no reason.
fn forbidden(reason: &str) -> Refusal {
    (403, json!({ "status": 403, "error": {"reason": reason, "type": "Forbidden"} }).to_string())
}

impl Guard for FrontDoor {
    fn look(&self, request: &Parts, body: &Bytes) -> Result<(), Refusal> {
        let knows = self.knows().clone();
        let header = |name: &str| request.headers.get(name).map(|value| value.to_str().unwrap());
        let Some(shown) = header("authorization").and_then(Shown::read) else {
            return Err(says("Missing Authentication Token"));
        };
        if shown.access != ACCESS || header("x-amz-security-token") != knows.token.as_deref() {
            return Err(says("The security token included in the request is invalid."));
        }
        if knows.is_expired {
            return Err(says("The security token included in the request is expired"));
        }
        let time = header("x-amz-date").unwrap();
        if shown.scope[0] != &time[..8] {
            return Err(says(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date",
            ));
        }
        if shown.scope[1..] != [REGION, self.service, "aws4_request"] {
            let region = shown.scope[1];
            return Err(says(format!(
                "Credential should be scoped to a valid region, not '{region}'."
            )));
        }
        check_time(time, Timestamp::now() + knows.ahead)?;

        let hash = hex(&Sha256::digest(body));
        if header("x-amz-content-sha256") != Some(hash.as_str()) {
            return Err(forbidden("the hash of the body is missing, or another"));
        }
        let mut wanted = vec!["host", "x-amz-content-sha256", "x-amz-date"];
        wanted.extend(header("content-type").map(|_| "content-type"));
        wanted.extend(knows.token.as_ref().map(|_| "x-amz-security-token"));
        wanted.sort_unstable();
        if shown.headers != wanted {
            return Err(forbidden("other headers are signed than should be"));
        }

        let headers: Vec<(&str, &str)> =
            shown.headers.iter().map(|name| (*name, header(name).unwrap())).collect();
        let uri = &request.uri;
        let (method, path) = (request.method.as_str(), uri.path());
        let canonical = canonical(method, path, uri.query().unwrap_or_default(), &headers, &hash);
        if signature(&canonical, &knows.secret, time, &shown.scope) != shown.signature {
            // As AWS does, it repeats the request, with the token.
            return Err(says(format!(
                "The request signature we calculated does not match the signature you provided. Check your AWS \
                 Secret Access Key and signing method.\n\nThe Canonical String for this request should have been\n'{canonical}'"
            )));
        }
        if knows.denies {
            return Err(forbidden("403 Forbidden"));
        }
        Ok(())
    }
}

fn check_time(time: &str, now: Timestamp) -> Result<(), Refusal> {
    // Of equal length and order, texts compare as times do.
    let text = |time: Timestamp| time.strftime("%Y%m%dT%H%M%SZ").to_string();
    let (oldest, newest) = (text(now - TOLERANCE), text(now + TOLERANCE));
    if time < oldest.as_str() {
        let now = text(now);
        return Err(says(format!(
            "Signature expired: {time} is now earlier than {oldest} ({now} - 5 min.)"
        )));
    }
    if time > newest.as_str() {
        return Err(says(format!(
            "Signature not yet current: {time} is still later than {newest}"
        )));
    }
    Ok(())
}

/// The `authorization` of a request.
struct Shown<'a> {
    access: &'a str,
    /// Day, region, service, and a word that is always the same.
    scope: Vec<&'a str>,
    headers: Vec<&'a str>,
    signature: &'a str,
}

impl<'a> Shown<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let fields = text.strip_prefix("AWS4-HMAC-SHA256 ")?;
        let fields: BTreeMap<&str, &str> =
            fields.split(',').filter_map(|field| field.trim().split_once('=')).collect();
        let (access, scope) = fields.get("Credential")?.split_once('/')?;
        let scope = scope.split('/').collect();
        let headers = fields.get("SignedHeaders")?.split(';').collect();
        Some(Self { access, scope, headers, signature: fields.get("Signature")? })
    }
}

/// The first step: one text for all forms in which the same request may arrive.
fn canonical(
    method: &str,
    path: &str,
    query: &str,
    headers: &[(&str, &str)],
    payload_hash: &str,
) -> String {
    let escape = |text: &str| utf8_percent_encode(text, ESCAPED).to_string();
    // What is escaped on the wire is escaped once more.
    let path: Vec<String> = path.split('/').map(escape).collect();
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<(String, String)> = pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let plain = |text| percent_decode_str(text).decode_utf8().unwrap().into_owned();
            (escape(&plain(name)), escape(&plain(value)))
        })
        .collect();
    pairs.sort();
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut lines = vec![method.to_owned(), path.join("/"), pairs.join("&")];
    lines.extend(headers.iter().map(|(name, value)| format!("{name}:{}", value.trim())));
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    lines.extend([String::new(), names.join(";"), payload_hash.to_owned()]);
    lines.join("\n")
}

/// The other steps: the text's hash, with time and scope, under a key that is derived from the secret for that scope.
fn signature(canonical: &str, secret: &str, time: &str, scope: &[&str]) -> String {
    let hash = hex(&Sha256::digest(canonical));
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{}\n{hash}", scope.join("/"));
    let first = format!("AWS4{secret}").into_bytes();
    let key = scope.iter().fold(first, |key, word| keyed(&key, word));
    hex(&keyed(&key, &to_sign))
}

fn keyed(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// From AWS's own suite for signers: the request, and the signature that it must have.
#[test]
fn the_front_door_computes_what_aws_publishes() {
    let empty = hex(&Sha256::digest(""));
    let form = hex(&Sha256::digest("Param1=value1"));
    let token = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267";
    let (host, date) = (("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z"));
    for (method, path, query, headers, hash, expected) in [
        (
            "GET",
            "/",
            "",
            vec![host, date, ("x-amz-security-token", token)],
            &empty,
            "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8",
        ),
        (
            "GET",
            "/",
            "Param-3=Value3&Param=Value2&%E1%88%B4=Value1",
            vec![host, date],
            &empty,
            "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac",
        ),
        (
            "POST",
            "/",
            "",
            vec![
                ("content-length", "13"),
                ("content-type", "application/x-www-form-urlencoded"),
                host,
                ("x-amz-content-sha256", form.as_str()),
                date,
            ],
            &form,
            "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b",
        ),
    ] {
        let canonical = canonical(method, path, query, &headers, hash);
        let scope = ["20150830", "us-east-1", "service", "aws4_request"];
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        assert_eq!(signature(&canonical, secret, date.1, &scope), expected, "{canonical}");
    }
    let twice = canonical("POST", "/test/@connections/JBDvjfGEIAMCERw%3D", "", &[], &empty);
    assert!(twice.contains("\n/test/%40connections/JBDvjfGEIAMCERw%253D\n"), "{twice}");
}
