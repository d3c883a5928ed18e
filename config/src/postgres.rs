use std::net::IpAddr;

use tailwater_document::{Field, Form, FromScalar, Mistakes, Scalar, Section, Shape};
use tailwater_runtime::Secret;

use crate::file::Load;
use crate::scalars::secret;

/// How to reach the database.
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// Host name or address.
    pub host: String,
    /// Port, usually 5432.
    pub port: u16,
    /// A role that may log in and has `REPLICATION`.
    pub user: String,
    /// Its password, when the server asks for one.
    pub password: Option<Secret>,
    /// The database whose tables are captured.
    pub database: String,
    /// Whether the connection is encrypted. Needed for every host that is not this machine.
    pub sslmode: Option<SslMode>,
}

/// Whether the connection to Postgres is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// Clear text, by explicit wish.
    Disable,
}

/// What the section may hold.
pub static SHAPE: Shape = Shape {
    about: "The database that is read.",
    fields: &[
        Field::required("host", Form::Text("a host name or address"), "the server"),
        Field::or("port", Form::Whole(1, 65_535), "5432", "its port"),
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
            Form::OneOf(&["disable"]),
            "outside loopback it must be said that the connection is not encrypted; this version has no TLS to Postgres",
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
    let user = section.required("user", mistakes);
    let password = secret(&mut section, "password", "password_file", load, mistakes);
    let database = section.required("database", mistakes);
    let sslmode = section.optional("sslmode", mistakes);
    if section.node("sslmode").is_none()
        && let Some(host) = &host
        && !is_loopback(host)
    {
        let problem = format!(
            "`{host}` is another machine and this version cannot encrypt; write `sslmode: disable` to send rows and password in clear text"
        );
        section.refuse("host", problem, mistakes);
    }
    section.finish_as(&SHAPE, mistakes);
    let (host, user, database) = (host?, user?, database?);
    Some(PostgresConfig { host, port, user, password, database, sslmode })
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl FromScalar for SslMode {
    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, String> {
        match scalar.text {
            "disable" => Ok(Self::Disable),
            _ => Err("expected `disable`, the only mode of this version, or nothing".to_owned()),
        }
    }
}

impl PostgresConfig {
    /// `host:port/database`, for messages.
    pub fn address(&self) -> String {
        format!("{}:{}/{}", self.host, self.port, self.database)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(host: &str, rest: &str) -> bool {
        let text = format!("{{ host: '{host}', user: u, database: d{rest} }}");
        let read_section =
            |top: Section<'_>, load: Load<'_>, mistakes: &mut Mistakes| read(top, load, mistakes);
        crate::parse("t", &text, &|_| None, &|_| Ok(String::new()), read_section).is_ok()
    }

    #[test]
    fn another_machine_needs_an_explicit_wish_for_clear_text() {
        for host in ["localhost", "127.0.0.1", "127.1.2.3", "::1"] {
            assert!(reads(host, ""), "{host}");
        }
        for host in ["db.internal", "10.0.0.7", "localhost.evil.example"] {
            assert!(!reads(host, ""), "{host}");
            assert!(reads(host, ", sslmode: disable"), "{host}");
            assert!(!reads(host, ", sslmode: require"), "{host}");
        }
    }
}
