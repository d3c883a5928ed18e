mod reach;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rdkafka::ClientConfig;
use tailwater_document::{Field, Form, FromScalar, Mistakes, Scalar, Section, Shape};
use tailwater_runtime::Secret;

use crate::file::Load;
use crate::scalars::{ClientCertificate, client_certificate, pem_file, secret};

pub use reach::{Refusal, refusal};

/// How to reach the brokers.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// `host:port`, comma-separated.
    pub brokers: String,
    /// Encryption. Without it clear text.
    pub tls: Option<KafkaTls>,
    /// Who we are there. Without it nobody asks.
    pub sasl: Option<Sasl>,
    /// Further librdkafka properties, verbatim.
    pub properties: BTreeMap<String, String>,
}

/// Encryption; brokers must have a certificate for the host they are reached at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KafkaTls {
    /// Certificates that may sign the brokers', in PEM. Without it those of the operating system.
    pub ca_file: Option<PathBuf>,
    /// What brokers are shown of us.
    pub client_certificate: Option<ClientCertificate>,
}

/// A user name and the way it is proven.
#[derive(Clone, Debug)]
pub struct Sasl {
    /// The way.
    pub mechanism: Mechanism,
    /// The name.
    pub user: String,
    /// Its password.
    pub password: Secret,
}

/// SASL mechanisms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// The password itself.
    Plain,
    /// A proof of it, with SHA-256.
    ScramSha256,
    /// A proof of it, with SHA-512.
    ScramSha512,
}

/// What the section may hold.
pub static SHAPE: Shape = Shape {
    about: "The brokers.",
    fields: &[
        Field::required("brokers", Form::Text("`host:port,…`"), "where the cluster is first asked"),
        Field::optional(
            "tls",
            Form::Section(&TLS),
            "encrypts connections; `tls: {}` with the operating system's authorities",
        ),
        Field::optional("sasl", Form::Section(&SASL), "who we are to the brokers"),
        Field::optional(
            "properties",
            Form::Free("librdkafka's settings"),
            "settings of the client, verbatim; those that exactly-once rests on are refused",
        ),
    ],
};

/// `kafka.tls`.
static TLS: Shape = Shape {
    about: "Encryption of connections to the brokers, whose certificates must be made out to the host they are reached at.",
    fields: &[
        Field::optional(
            "ca_file",
            Form::Text("a file name"),
            "certificates in PEM that may sign the brokers'; by itself those of the operating system",
        ),
        Field::optional(
            "cert_file",
            Form::Text("a file name"),
            "certificate in PEM by which the brokers know us",
        ),
        Field::optional(
            "key_file",
            Form::Text("a file name"),
            "its key in PEM, without a passphrase",
        ),
    ],
};

/// `kafka.sasl`.
static SASL: Shape = Shape {
    about: "Who we are to the brokers.",
    fields: &[
        Field::required(
            "mechanism",
            Form::OneOf(&["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]),
            "how the password is proven; PLAIN sends it, and needs `kafka.tls` away from this machine",
        ),
        Field::required("user", Form::Text("a user"), "the user"),
        Field::optional("password", Form::Text("a secret"), "its password"),
        Field::optional("password_file", Form::Text("a file name"), "file that holds the password"),
    ],
};

/// Properties that the delivery promise rests on.
const OURS: [&str; 12] = [
    "acks",
    "bootstrap.servers",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "isolation.level",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "message.timeout.ms",
    "metadata.broker.list",
    "partitioner",
    "request.required.acks",
    "transactional.id",
];

/// Properties that say in librdkafka's words what `tls` and `sasl` say.
const SECURITY: [&str; 4] =
    ["security.protocol", "sasl.mechanism", "sasl.mechanisms", "sasl.username"];

/// Reads the section. `None` means that mistakes were noted.
pub fn read(
    mut section: Section<'_>,
    load: Load<'_>,
    mistakes: &mut Mistakes,
) -> Option<KafkaConfig> {
    let brokers: Option<String> = section.required("brokers", mistakes);
    let tls = section.optional_section("tls", mistakes).map(|tls| read_tls(tls, load, mistakes));
    let wants_sasl = section.node("sasl").is_some();
    let sasl =
        section.optional_section("sasl", mistakes).and_then(|sasl| read_sasl(sasl, load, mistakes));
    let properties: BTreeMap<String, String> = section.texts("properties", mistakes);
    for property in OURS.iter().filter(|name| properties.contains_key(**name)) {
        let problem = format!("`{property}` is set by Tailwater itself; remove it");
        section.refuse("properties", problem, mistakes);
    }
    if tls.is_some() || wants_sasl {
        for property in SECURITY.iter().filter(|name| properties.contains_key(**name)) {
            let problem = format!("`{property}` follows from `tls` and `sasl`; remove it");
            section.refuse("properties", problem, mistakes);
        }
    }
    if let (Some(sasl), None, Some(brokers)) = (&sasl, &tls, &brokers)
        && sasl.mechanism == Mechanism::Plain
        && !brokers.split(',').all(is_here)
    {
        let problem = "`PLAIN` would send the password in clear text to another machine; add `tls: {}`, or use `SCRAM-SHA-512`";
        section.refuse("sasl", problem, mistakes);
    }
    section.finish_as(&SHAPE, mistakes);
    if wants_sasl && sasl.is_none() {
        return None;
    }
    Some(KafkaConfig { brokers: brokers?, tls, sasl, properties })
}

fn read_tls(mut section: Section<'_>, load: Load<'_>, mistakes: &mut Mistakes) -> KafkaTls {
    let ca_file = pem_file(&mut section, "ca_file", load, mistakes);
    let client_certificate =
        client_certificate(&mut section, ["cert_file", "key_file"], load, mistakes);
    section.finish_as(&TLS, mistakes);
    KafkaTls { ca_file, client_certificate }
}

fn read_sasl(mut section: Section<'_>, load: Load<'_>, mistakes: &mut Mistakes) -> Option<Sasl> {
    let mechanism = section.required("mechanism", mistakes);
    let user = section.required("user", mistakes);
    let password = secret(&mut section, "password", "password_file", load, mistakes);
    if password.is_none() && section.node("password_file").is_none() {
        section.refuse("password", "missing; or name a file with `password_file`", mistakes);
    }
    section.finish_as(&SASL, mistakes);
    Some(Sasl { mechanism: mechanism?, user: user?, password: password? })
}

/// Whether a broker is this machine, as far as its name alone tells.
fn is_here(broker: &str) -> bool {
    let broker = broker.trim();
    let host = broker.rsplit_once(':').map_or(broker, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl FromScalar for Mechanism {
    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, String> {
        match scalar.text {
            "PLAIN" => Ok(Self::Plain),
            "SCRAM-SHA-256" => Ok(Self::ScramSha256),
            "SCRAM-SHA-512" => Ok(Self::ScramSha512),
            _ => Err("expected `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`".to_owned()),
        }
    }
}

impl KafkaConfig {
    /// Brokers, and nothing else.
    pub fn new(brokers: impl Into<String>) -> Self {
        Self { brokers: brokers.into(), tls: None, sasl: None, properties: BTreeMap::new() }
    }

    /// How every client begins.
    pub fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        // Finds brokers that are gone without a word, also on connections with nothing to say.
        client.set("socket.keepalive.enable", "true");
        for (property, value) in &self.properties {
            client.set(property, value);
        }
        client.set("bootstrap.servers", &self.brokers);
        match (&self.tls, &self.sasl) {
            (None, None) => {}
            (Some(_), None) => {
                client.set("security.protocol", "ssl");
            }
            (Some(_), Some(_)) => {
                client.set("security.protocol", "sasl_ssl");
            }
            (None, Some(_)) => {
                client.set("security.protocol", "sasl_plaintext");
            }
        }
        if let Some(tls) = &self.tls {
            let mut file = |property: &str, path: &Path| {
                client.set(property, path.to_string_lossy());
            };
            if let Some(path) = &tls.ca_file {
                file("ssl.ca.location", path);
            }
            if let Some(own) = &tls.client_certificate {
                file("ssl.certificate.location", &own.certificate);
                file("ssl.key.location", &own.key);
            }
        }
        if let Some(sasl) = &self.sasl {
            client
                .set(
                    "sasl.mechanism",
                    match sasl.mechanism {
                        Mechanism::Plain => "PLAIN",
                        Mechanism::ScramSha256 => "SCRAM-SHA-256",
                        Mechanism::ScramSha512 => "SCRAM-SHA-512",
                    },
                )
                .set("sasl.username", &sasl.user)
                .set("sasl.password", sasl.password.expose());
        }
        client
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(rest: &str) -> Result<KafkaConfig, String> {
        let text = format!("{{ brokers: 'kafka.internal:9093'{rest} }}");
        let read_section =
            |top: Section<'_>, load: Load<'_>, mistakes: &mut Mistakes| read(top, load, mistakes);
        let load = |path: &Path| match path.extension() {
            Some(_) => Ok("hunter2-canary\n".to_owned()),
            None => Err(std::io::ErrorKind::NotFound.into()),
        };
        crate::parse("t", &text, &|_| None, &load, read_section)
            .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn tls_and_sasl_become_the_clients_words() {
        let said = |rest: &str, property: &str| {
            let client = reads(rest).unwrap_or_else(|said| panic!("{said}")).client();
            client.get(property).map(str::to_owned)
        };
        let protocol = "security.protocol";
        assert_eq!(said("", protocol), None);
        assert_eq!(said(", tls: {}", protocol).as_deref(), Some("ssl"));
        let sasl = ", sasl: { mechanism: SCRAM-SHA-512, user: u, password_file: p.key }";
        assert_eq!(said(sasl, protocol).as_deref(), Some("sasl_plaintext"));
        assert_eq!(said(sasl, "sasl.password").as_deref(), Some("hunter2-canary"));
        let both = format!("{sasl}, tls: {{ ca_file: ca.pem }}");
        assert_eq!(said(&both, protocol).as_deref(), Some("sasl_ssl"));
        assert_eq!(said(&both, "ssl.ca.location").as_deref(), Some("ca.pem"));
        let shown = format!("{:?}", reads(&both).expect("good"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn what_cannot_work_or_is_not_safe_is_refused() {
        for (rest, why) in [
            (", sasl: { mechanism: PLAIN, user: u, password: p }", "clear text to another machine"),
            (", sasl: { mechanism: GSSAPI, user: u, password: p }", "expected `PLAIN`"),
            (", sasl: { mechanism: PLAIN, user: u }", "password_file"),
            (", tls: { cert_file: us.pem }", "its key is missing; name it with `key_file`"),
            (", tls: { ca_file: none }", "the file cannot be read"),
            (", tls: {}, properties: { security.protocol: ssl }", "follows from `tls` and `sasl`"),
            (", properties: { acks: 1 }", "`acks` is set by Tailwater itself"),
        ] {
            let said = reads(rest).expect_err(rest);
            assert!(said.contains(why), "{rest}: {said}");
        }
        assert!(["localhost:1", "127.0.0.1", "[::1]:9092"].iter().all(|broker| is_here(broker)));
        assert!(!is_here("localhost.evil.example:9092"));
    }
}
