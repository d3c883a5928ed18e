//! What can go wrong on a connection to Postgres, with the remedy where there is one.

use std::io;
use std::path::PathBuf;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorResponseBody;
use tailwater_runtime::ErrorClass;

use tailwater_config::postgres::SslMode;

/// What can go wrong on a connection to Postgres. An `address` is `host:port/database`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers at the address.
    #[error("Postgres at `{address}` cannot be reached")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to Postgres at `{address}` broke")]
    Lost {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("Postgres at `{address}` did not answer within {seconds} s while {doing}")]
    Silent {
        /// Where.
        address: String,
        /// What we waited for.
        doing: &'static str,
        /// How long.
        seconds: u64,
    },
    /// The server ended the stream, as it does when it shuts down.
    #[error("Postgres at `{address}` ended the stream")]
    Ended {
        /// Where.
        address: String,
    },
    /// The server takes no writes, so it can neither be followed nor prepared.
    #[error(
        "Postgres at `{address}` is a read-only standby; name the primary in `postgres.host`, or all servers separated by commas, and the one that takes writes is used"
    )]
    Standby {
        /// Where.
        address: String,
    },
    /// None of several hosts will do.
    #[error("none of the hosts in `{address}` can be used:{}", list(.failures))]
    NoHost {
        /// All of them.
        address: String,
        /// What happened at each.
        failures: Vec<Error>,
    },
    /// The server reported an error.
    #[error("Postgres at `{address}` refused, {sqlstate}: {message}{}", then(remedy(.sqlstate, .message)))]
    Refused {
        /// Where.
        address: String,
        /// The five characters of the SQL standard.
        sqlstate: String,
        /// Message, detail and hint as the server wrote them.
        message: String,
    },
    /// The server wants a password and none is configured.
    #[error(
        "Postgres at `{address}` asks for a password of `{user}` and none is configured; give `postgres.password_file` or `postgres.password`"
    )]
    NoPassword {
        /// Where.
        address: String,
        /// The role.
        user: String,
    },
    /// The server wants to authenticate us in a way we do not know.
    #[error("Postgres at `{address}` asks for {method}, which this version does not speak")]
    Method {
        /// Where.
        address: String,
        /// The method.
        method: String,
    },
    /// `channel_binding: require`, and the server or its certificate does not allow it.
    #[error(
        "Postgres at `{address}` offers no channel binding, and `postgres.channel_binding` is `require`; store the password as SCRAM-SHA-256 on the server, or write `prefer`"
    )]
    NoBinding {
        /// Where.
        address: String,
    },
    /// The server could not prove that it knows the password, or sent a malformed proof.
    #[error("the password exchange with Postgres at `{address}` failed")]
    Scram {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Encryption is wanted and the server has none.
    #[error(
        "Postgres at `{address}` takes no encrypted connections, and `postgres.sslmode` is `{mode}` (as it is by itself away from this machine); set `ssl = on` on the server, or write `postgres.sslmode: disable` to send rows and password in clear text"
    )]
    NoTls {
        /// Where.
        address: String,
        /// What we wanted.
        mode: SslMode,
    },
    /// The server's certificate is not trusted.
    #[error("the certificate of Postgres at `{address}` {problem}; {remedy}")]
    Untrusted {
        /// Where.
        address: String,
        /// As the rest of a sentence about the certificate.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The server does not trust us.
    #[error(
        "Postgres at `{address}` ended the TLS handshake with the alert {alert}; look at `postgres.sslcert` and `postgres.sslkey` here, and at `ssl_ca_file` and the log of the server"
    )]
    Unwelcome {
        /// Where.
        address: String,
        /// TLS's word for the reason.
        alert: String,
    },
    /// The two sides cannot agree on TLS.
    #[error("the TLS handshake with Postgres at `{address}` failed: {problem}")]
    Handshake {
        /// Where.
        address: String,
        /// What.
        problem: String,
    },
    /// A host that no certificate can name.
    #[error("`{name}` in `postgres.host` is no host name or address that a certificate could name")]
    NoTlsName {
        /// Where.
        address: String,
        /// The host.
        name: String,
    },
    /// A file of certificates or keys cannot be used.
    #[error("`postgres.{setting}`{} {problem}", file(.path))]
    Files {
        /// The setting that names it.
        setting: &'static str,
        /// The file; empty when none is named.
        path: PathBuf,
        /// As the rest of a sentence about the file.
        problem: String,
    },
    /// The server said something that the protocol does not allow there.
    #[error("Postgres at `{address}` broke the protocol: {problem}")]
    Protocol {
        /// Where.
        address: String,
        /// What.
        problem: String,
    },
}

impl Error {
    /// Whether waiting helps.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Unreachable { .. }
            | Self::Lost { .. }
            | Self::Silent { .. }
            | Self::Standby { .. }
            | Self::NoHost { .. }
            | Self::Ended { .. } => ErrorClass::Transient,
            Self::Refused { sqlstate, .. } => {
                // 08 connection, 53 resources (disk, memory, connections), 57 operator (shutting down, starting
                // up, terminated), 58030 I/O, 55006 object in use, 40 rollback. A protocol violation (08P01) stays.
                let passes = ["08", "40", "53", "57", "58030", "55006"];
                if sqlstate != "08P01" && passes.iter().any(|class| sqlstate.starts_with(class)) {
                    ErrorClass::Transient
                } else {
                    ErrorClass::Definite
                }
            }
            Self::NoPassword { .. }
            | Self::Method { .. }
            | Self::NoBinding { .. }
            | Self::Scram { .. }
            | Self::NoTls { .. }
            | Self::Untrusted { .. }
            | Self::Unwelcome { .. }
            | Self::Handshake { .. }
            | Self::NoTlsName { .. }
            | Self::Files { .. }
            | Self::Protocol { .. } => ErrorClass::Definite,
        }
    }

    /// Whether only a person can mend it.
    pub fn is_definite(&self) -> bool {
        self.class() == ErrorClass::Definite
    }

    /// Whether the server refused with this SQLSTATE.
    pub fn is(&self, state: &str) -> bool {
        matches!(self, Self::Refused { sqlstate, .. } if sqlstate == state)
    }

    /// Whether the server has no room: no connection, walsender or replication slot is left.
    pub fn is_full(&self) -> bool {
        match self {
            // `too_many_connections`, `configuration_limit_exceeded`
            Self::Refused { sqlstate, .. } => sqlstate == "53300" || sqlstate == "53400",
            Self::NoHost { failures, .. } => failures.iter().any(Self::is_full),
            _ => false,
        }
    }

    /// Whether the server takes no sessions because it is shutting down, or not yet up.
    pub fn is_going_down(&self) -> bool {
        match self {
            // `cannot_connect_now`
            Self::Refused { sqlstate, .. } => sqlstate == "57P03",
            Self::NoHost { failures, .. } => failures.iter().any(Self::is_going_down),
            _ => false,
        }
    }

    /// Whether the server refused the login rather than a command.
    pub fn is_login(&self) -> bool {
        match self {
            Self::NoPassword { .. }
            | Self::Method { .. }
            | Self::NoBinding { .. }
            | Self::Scram { .. } => true,
            Self::Refused { sqlstate, .. } => sqlstate.starts_with("28") || sqlstate == "3D000",
            _ => false,
        }
    }

    /// Whether the two sides could not agree on an encrypted connection.
    pub fn is_tls(&self) -> bool {
        matches!(
            self,
            Self::NoTls { .. }
                | Self::Untrusted { .. }
                | Self::Unwelcome { .. }
                | Self::Handshake { .. }
                | Self::NoTlsName { .. }
                | Self::Files { .. }
        )
    }

    /// A broken connection; with TLS 1.3 the server's verdict on our certificate arrives as one.
    pub fn lost(address: &str, source: io::Error) -> Self {
        let address = address.to_owned();
        match crate::tls::certificate_error(&source) {
            Some(rustls::Error::AlertReceived(alert)) => {
                Self::Unwelcome { address, alert: format!("{alert:?}") }
            }
            _ => Self::Lost { address, source },
        }
    }
}

/// The server's error with what it says beside the message.
pub fn refused(address: &str, body: &ErrorResponseBody) -> Error {
    let (mut sqlstate, mut message, mut detail, mut hint) =
        (String::new(), String::new(), String::new(), String::new());
    let mut fields = body.fields();
    while let Ok(Some(field)) = fields.next() {
        let text = String::from_utf8_lossy(field.value_bytes());
        match field.type_() {
            b'C' => sqlstate = text.into_owned(),
            b'M' => message = text.into_owned(),
            b'D' => detail = format!(" ({text})"),
            b'H' => hint = format!("; hint: {text}"),
            _ => {}
        }
    }
    Error::Refused { address: address.to_owned(), sqlstate, message: message + &detail + &hint }
}

/// What to do about a refusal whose reason is known to be usual.
fn remedy(sqlstate: &str, message: &str) -> Option<&'static str> {
    const POOLER: &str = "a connection pooler such as PgBouncer answers there; write the address of Postgres itself into `postgres.host` and `postgres.port`";
    let says = |words: &str| message.contains(words);
    match sqlstate {
        "08P01" if says("unsupported startup parameter") => Some(POOLER),
        "42601" if says("IDENTIFY_SYSTEM") || says("START_REPLICATION") => Some(POOLER),
        "28P01" => Some("correct `postgres.user` and its password"),
        "28000" if says("no encryption") => Some(
            "the server wants this connection encrypted: write `postgres.sslmode: verify-full`, or add an entry to `pg_hba.conf`",
        ),
        "28000" if says("no pg_hba.conf entry") => {
            Some("add an entry for this user, database and address to `pg_hba.conf`")
        }
        "28000" if says("client certificate") => {
            Some("name one with `postgres.sslcert` and its key with `postgres.sslkey`")
        }
        "3D000" => Some("correct `postgres.database`"),
        "53300" => Some("raise `max_connections` and `max_wal_senders` on the server"),
        _ => None,
    }
}

fn then(remedy: Option<&str>) -> String {
    remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default()
}

fn file(path: &std::path::Path) -> String {
    if path.as_os_str().is_empty() { String::new() } else { format!(": `{}`", path.display()) }
}

fn list(failures: &[Error]) -> String {
    let line = |failure: &Error| {
        let causes =
            std::iter::successors(std::error::Error::source(failure), |cause| cause.source());
        causes.fold(format!("\n  {failure}"), |text, cause| format!("{text}: {cause}"))
    };
    failures.iter().map(line).collect()
}
