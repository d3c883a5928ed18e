//! Why brokers will not have us.
//!
//! A client that is refused tries again for ever, and whoever waits for an answer learns only that none came in time. The
//! reason arrives beside, as an event. So before anything else is asked, we ask who is there and listen for it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext};

/// How long to listen. A client that is let in answers long before.
const LISTEN: Duration = Duration::from_secs(5);

/// How long one question waits before we listen again.
const SLICE: Duration = Duration::from_millis(250);

/// How long to take what has arrived. Without a time it would be one event, and the reason may stand behind others.
const EVENTS: Duration = Duration::from_millis(20);

/// In the client's words: what a peer says of our certificate. With TLS 1.3 that comes after the handshake, so to the
/// client it is a lost connection.
const ALERT: &str = "SSL alert number";

/// Why brokers will not have us; waiting does not mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Kafka at {brokers} cannot be used: {reason}; {remedy}")]
pub struct Refusal {
    /// `bootstrap.servers`.
    pub brokers: String,
    /// In the client's words.
    pub reason: String,
    /// What to do.
    pub remedy: &'static str,
}

/// Asks the brokers and answers why they refuse. `None` when they answer, when they say nothing at all (who asks next
/// finds out that nobody is there), and in clear text without a login, where there is nothing to refuse. Blocks.
pub fn refusal(config: &ClientConfig) -> KafkaResult<Option<Refusal>> {
    if config.get("security.protocol").is_none_or(|protocol| protocol == "plaintext") {
        return Ok(None);
    }
    let client: BaseProducer<Listener> = config.create_with_context(Listener::default())?;
    let began = Instant::now();
    loop {
        let answer = client.client().fetch_metadata(None, SLICE);
        client.poll(EVENTS);
        if let Some((code, reason)) = client.context().take() {
            let brokers = config.get("bootstrap.servers").unwrap_or_default().to_owned();
            return Ok(Some(Refusal { brokers, remedy: remedy(code, &reason), reason }));
        }
        if answer.is_ok() || began.elapsed() >= LISTEN {
            return Ok(None);
        }
    }
}

fn remedy(code: RDKafkaErrorCode, reason: &str) -> &'static str {
    let says = |words: &str| reason.contains(words);
    match code {
        RDKafkaErrorCode::SSL if says("certificate verify failed") || says("unable to get") => {
            "name the certificate of the authority that signed the brokers' with `kafka.tls.ca_file`, and reach them by a name their certificates hold"
        }
        RDKafkaErrorCode::SSL if says(ALERT) => {
            "the brokers want a certificate that they trust: name ours with `kafka.tls.cert_file` and its key with `kafka.tls.key_file`"
        }
        RDKafkaErrorCode::SSL => "look whether this listener speaks TLS, and at `kafka.tls`",
        RDKafkaErrorCode::UnsupportedSASLMechanism => "correct `kafka.sasl.mechanism`",
        _ => "correct `kafka.sasl.user`, its password and `kafka.sasl.mechanism`",
    }
}

/// Keeps the first reason that waiting does not mend.
#[derive(Default)]
struct Listener(Mutex<Option<(RDKafkaErrorCode, String)>>);

impl Listener {
    fn keep(&self, code: RDKafkaErrorCode, reason: &str) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| (code, reason.to_owned()));
    }

    fn take(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for Listener {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
        // To the client this is a lost connection like any other; only its log has the guess, which is a good one.
        if message.contains("PLAINTEXT broker listener") {
            self.keep(RDKafkaErrorCode::SSL, message);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        if reason.contains(ALERT) {
            return self.keep(RDKafkaErrorCode::SSL, reason);
        }
        if matches!(
            code,
            RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::SSL
                | RDKafkaErrorCode::UnsupportedSASLMechanism
        ) {
            self.keep(code, reason);
        }
    }
}

impl ProducerContext for Listener {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}
