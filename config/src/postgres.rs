mod hosts;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use tailwater_document::{Field, Form, FromScalar, Mistakes, Scalar, Section, Shape};
use tailwater_runtime::Secret;

use crate::file::Load;
use crate::scalars::{client_certificate, pem_file, secret};

pub use crate::scalars::ClientCertificate;
pub use hosts::{Host, Hosts, WrongHost};

/// How to reach the database.
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// Servers that are one another's standbys, in the order in which they are tried.
    pub hosts: Hosts,
    /// A role that may log in and has `REPLICATION`.
    pub user: String,
    /// Its password, when the server asks for one.
    pub password: Option<Secret>,
    /// The database whose tables are captured.
    pub database: String,
    /// Encryption. Without it `verify-full`, and `disable` on this machine.
    pub sslmode: Option<SslMode>,
    /// File of the certificates that may sign the server's, in PEM. Without it those of the operating system.
    pub sslrootcert: Option<PathBuf>,
    /// What the server is shown of us.
    pub client_certificate: Option<ClientCertificate>,
    /// Whether the password exchange is tied to the server's certificate.
    pub channel_binding: ChannelBinding,
}

/// Whether a connection is encrypted, and what is asked of the server's certificate. Postgres's own words; its
/// `allow` and `prefer` are missing because they fall back to clear text without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// Clear text.
    Disable,
    /// Encrypted, with whoever answers.
    Require,
    /// Encrypted, and the certificate comes from an authority we trust.
    VerifyCa,
    /// As `verify-ca`, and it is made out to the host we meant.
    VerifyFull,
}

/// Whether a SCRAM exchange proves that nobody sits between us and the owner of the certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelBinding {
    /// When the server can.
    #[default]
    Prefer,
    /// Or not at all.
    Require,
    /// Never.
    Disable,
}

/// A setting that does not go with the others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct WrongSetting {
    /// Its key within `postgres`.
    pub key: &'static str,
    /// Why.
    pub problem: String,
}

/// What the section may hold.
pub static SHAPE: Shape = Shape {
    about: "The database that is read.",
    fields: &[
        Field::required(
            "host",
            Form::Text("`host`, `host:port,…` or `/folder`"),
            "the server, or several of which the first that answers and takes writes is used; a folder is that of a Unix socket",
        ),
        Field::or("port", Form::Whole(1, 65_535), "5432", "port of hosts without one of their own"),
        Field::required(
            "user",
            Form::Text("a role"),
            "a role with `REPLICATION` that owns or may publish the tables",
        ),
        Field::optional("password", Form::Text("a secret"), "its password"),
        Field::optional("password_file", Form::Text("a file name"), "file that holds the password"),
        Field::required("database", Form::Text("a database"), "the database"),
        Field::optional(
            "sslmode",
            Form::OneOf(&["disable", "require", "verify-ca", "verify-full"]),
            "encryption, and what is asked of the server's certificate; by itself `verify-full`, and `disable` on loopback",
        ),
        Field::optional(
            "sslrootcert",
            Form::Text("a file name"),
            "certificates in PEM that may sign the server's; by itself those of the operating system",
        ),
        Field::optional(
            "sslcert",
            Form::Text("a file name"),
            "certificate in PEM by which the server knows us; read at every connection",
        ),
        Field::optional(
            "sslkey",
            Form::Text("a file name"),
            "its key in PEM, without a passphrase",
        ),
        Field::or(
            "channel_binding",
            Form::OneOf(&["disable", "prefer", "require"]),
            "prefer",
            "whether the password exchange is tied to the server's certificate (SCRAM-SHA-256-PLUS)",
        ),
    ],
};

/// Reads the section. `None` means that mistakes were noted.
pub fn read(
    mut section: Section<'_>,
    load: Load<'_>,
    mistakes: &mut Mistakes,
) -> Option<PostgresConfig> {
    let host: Option<String> = section.required("host", mistakes);
    let port = section.or("port", 5432, mistakes);
    if port == 0 {
        section.refuse("port", "expected a port from 1 to 65535", mistakes);
    }
    let hosts = host.and_then(|host| match Hosts::parse(&host, port) {
        Ok(hosts) => Some(hosts),
        Err(wrong) => {
            section.refuse("host", wrong.to_string(), mistakes);
            None
        }
    });
    let user: Option<String> = section.required("user", mistakes);
    let password = secret(&mut section, "password", "password_file", load, mistakes);
    let database: Option<String> = section.required("database", mistakes);
    let sslmode = section.optional("sslmode", mistakes);
    let sslrootcert = pem_file(&mut section, "sslrootcert", load, mistakes);
    let client_certificate =
        client_certificate(&mut section, ["sslcert", "sslkey"], load, mistakes);
    let channel_binding = section.or("channel_binding", ChannelBinding::Prefer, mistakes);
    let config = hosts.zip(user).zip(database).map(|((hosts, user), database)| PostgresConfig {
        password,
        sslmode,
        sslrootcert,
        client_certificate,
        channel_binding,
        ..PostgresConfig::new(hosts, user, database)
    });
    if let Some(Err(WrongSetting { key, problem })) = config.as_ref().map(PostgresConfig::check) {
        section.refuse(key, problem, mistakes);
    }
    section.finish_as(&SHAPE, mistakes);
    config
}

impl PostgresConfig {
    /// A configuration with nothing but the necessary.
    pub fn new(hosts: Hosts, user: impl Into<String>, database: impl Into<String>) -> Self {
        Self {
            hosts,
            user: user.into(),
            password: None,
            database: database.into(),
            sslmode: None,
            sslrootcert: None,
            client_certificate: None,
            channel_binding: ChannelBinding::default(),
        }
    }

    /// How a host is spoken to. A socket of this machine is never encrypted: nobody can listen there.
    pub fn sslmode(&self, host: &Host) -> SslMode {
        match (host, self.sslmode) {
            (Host::Unix { .. }, _) => SslMode::Disable,
            (_, Some(mode)) => mode,
            (host, None) if host.is_here() => SslMode::Disable,
            (_, None) => SslMode::VerifyFull,
        }
    }

    /// The first setting that the others leave without effect.
    pub fn check(&self) -> Result<(), WrongSetting> {
        let wrong = |key, problem: &str| Err(WrongSetting { key, problem: problem.to_owned() });
        let modes: Vec<SslMode> = self.hosts.iter().map(|host| self.sslmode(host)).collect();
        let all = |mode| modes.iter().all(|other| *other == mode);
        if all(SslMode::Disable) {
            let without = "has no effect, because no connection is encrypted here; set `postgres.sslmode` or remove it";
            if self.sslrootcert.is_some() {
                return wrong("sslrootcert", without);
            }
            if self.client_certificate.is_some() {
                return wrong("sslcert", without);
            }
            if self.channel_binding == ChannelBinding::Require {
                return wrong(
                    "channel_binding",
                    "`require` needs an encrypted connection; set `postgres.sslmode`",
                );
            }
        }
        if self.sslrootcert.is_some() && self.sslmode == Some(SslMode::Require) {
            return wrong(
                "sslrootcert",
                "`sslmode: require` looks at no certificate; write `verify-full` or `verify-ca`, or remove the file",
            );
        }
        Ok(())
    }

    /// `host:port/database` of one host, for messages.
    pub fn address_of(&self, host: &Host) -> String {
        format!("{host}/{}", self.database)
    }

    /// `host:port/database`, or `host:port,host:port/database`, for messages.
    pub fn address(&self) -> String {
        format!("{}/{}", self.hosts, self.database)
    }
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disable => "disable",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        })
    }
}

impl FromStr for SslMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "disable" => Ok(Self::Disable),
            "require" => Ok(Self::Require),
            "verify-ca" => Ok(Self::VerifyCa),
            "verify-full" => Ok(Self::VerifyFull),
            "allow" | "prefer" => Err(format!(
                "`{text}` falls back to clear text without a word and is not offered; write `verify-full`, `verify-ca`, `require` or `disable`"
            )),
            _ => Err("expected `verify-full`, `verify-ca`, `require` or `disable`".to_owned()),
        }
    }
}

impl FromStr for ChannelBinding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "prefer" => Ok(Self::Prefer),
            "require" => Ok(Self::Require),
            "disable" => Ok(Self::Disable),
            _ => Err("expected `prefer`, `require` or `disable`".to_owned()),
        }
    }
}

impl FromScalar for SslMode {
    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, String> {
        scalar.text.parse()
    }
}

impl FromScalar for ChannelBinding {
    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, String> {
        scalar.text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(hosts: &str) -> PostgresConfig {
        PostgresConfig::new(Hosts::parse(hosts, 5432).expect("hosts"), "reader", "shop")
    }

    #[test]
    fn another_machine_is_spoken_to_with_its_name_checked_unless_told_otherwise() {
        let mode = |hosts: &str, sslmode| {
            let config = PostgresConfig { sslmode, ..config(hosts) };
            config.hosts.iter().map(|host| config.sslmode(host)).collect::<Vec<_>>()
        };
        for host in ["localhost", "127.0.0.1", "127.1.2.3", "::1", "/run/postgresql"] {
            assert_eq!(mode(host, None), [SslMode::Disable], "{host}");
        }
        for host in ["db.internal", "10.0.0.7", "localhost.evil.example"] {
            assert_eq!(mode(host, None), [SslMode::VerifyFull], "{host}");
            assert_eq!(mode(host, Some(SslMode::Disable)), [SslMode::Disable], "{host}");
        }
        assert_eq!(mode("127.0.0.1,db", None), [SslMode::Disable, SslMode::VerifyFull]);
        assert_eq!(mode("127.0.0.1", Some(SslMode::Require)), [SslMode::Require]);
        assert!("prefer".parse::<SslMode>().is_err_and(|why| why.contains("clear text")));
    }

    #[test]
    fn settings_without_effect_are_refused() {
        let key = |config: PostgresConfig| config.check().map_err(|wrong| wrong.key);
        let ca = Some(PathBuf::from("ca.pem"));
        assert_eq!(key(config("db")), Ok(()));
        assert_eq!(key(PostgresConfig { sslrootcert: ca.clone(), ..config("db") }), Ok(()));
        let here = PostgresConfig { sslrootcert: ca.clone(), ..config("127.0.0.1") };
        assert_eq!(key(here), Err("sslrootcert"));
        let blind =
            PostgresConfig { sslrootcert: ca, sslmode: Some(SslMode::Require), ..config("db") };
        assert_eq!(key(blind), Err("sslrootcert"));
        let bound = PostgresConfig { channel_binding: ChannelBinding::Require, ..config("/run") };
        assert_eq!(key(bound), Err("channel_binding"));
    }

    fn reads(rest: &str) -> Result<PostgresConfig, String> {
        let text = format!("{{ host: db.internal, user: u, database: d{rest} }}");
        let read_section =
            |top: Section<'_>, load: Load<'_>, mistakes: &mut Mistakes| read(top, load, mistakes);
        let load = |path: &std::path::Path| match path.extension() {
            Some(_) => Ok(String::new()),
            None => Err(std::io::ErrorKind::NotFound.into()),
        };
        crate::parse("t", &text, &|_| None, &load, read_section)
            .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_section_is_read_whole_and_its_mistakes_are_named() {
        let config = reads(
            ", port: 6432, sslmode: verify-ca, sslrootcert: ca.pem, sslcert: us.pem, sslkey: us.key, channel_binding: require",
        )
        .expect("good");
        assert_eq!(config.address(), "db.internal:6432/d");
        assert_eq!(config.sslmode, Some(SslMode::VerifyCa));
        assert_eq!(config.sslrootcert, Some("ca.pem".into()));
        assert!(config.client_certificate.is_some());
        assert_eq!(config.channel_binding, ChannelBinding::Require);
        for (rest, why) in [
            (", sslmode: prefer", "`sslmode`: `prefer` falls back to clear text"),
            (", sslmode: on", "`sslmode`: expected `verify-full`, `verify-ca`"),
            (", sslrootcert: none", "`sslrootcert`: the file cannot be read"),
            (", sslcert: us.pem", "`sslcert`: its key is missing; name it with `sslkey`"),
            (", sslkey: us.key", "`sslkey`: its certificate is missing; name it with `sslcert`"),
            (", sslmode: disable, sslrootcert: ca.pem", "`sslrootcert`: has no effect"),
            (", channel_binding: perhaps", "`channel_binding`: expected `prefer`"),
            (", port: 0", "`port`: expected a port"),
        ] {
            let said = reads(rest).expect_err(rest);
            assert!(said.contains(why), "{rest}: {said}");
        }
    }
}
