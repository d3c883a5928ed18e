//! A connection URL as `psql` takes it, read into a configuration.

use std::fmt;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use tailwater_runtime::Secret;
use tokio_postgres::config::Host as Named;

use tailwater_config::PostgresConfig;
use tailwater_config::postgres::{ClientCertificate, Host, Hosts};

/// A text that is no such URL. Says why without repeating it, because it may hold a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a URL such as `postgres://user@host:5432/database?sslmode=verify-full`: {0}")]
pub struct WrongUrl(String);

fn wrong(why: impl fmt::Display) -> WrongUrl {
    WrongUrl(why.to_string())
}

/// What concerns certificates. The rest is read by the client library, which does not know these.
#[derive(Default)]
struct Tls {
    sslmode: Option<String>,
    sslrootcert: Option<PathBuf>,
    sslcert: Option<PathBuf>,
    sslkey: Option<PathBuf>,
    channel_binding: Option<String>,
}

impl Tls {
    /// Takes what it knows.
    fn take(&mut self, key: &str, value: &str) -> bool {
        match key {
            "sslmode" => self.sslmode = Some(value.to_owned()),
            "sslrootcert" => self.sslrootcert = Some(value.into()),
            "sslcert" => self.sslcert = Some(value.into()),
            "sslkey" => self.sslkey = Some(value.into()),
            "channel_binding" => self.channel_binding = Some(value.to_owned()),
            _ => return false,
        }
        true
    }
}

/// Reads `postgres://user@host,host:port/database?sslmode=…`.
pub fn from_url(url: &str) -> Result<PostgresConfig, WrongUrl> {
    let (plain, query) = url.split_once('?').unwrap_or((url, ""));
    let mut tls = Tls::default();
    let mut rest = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decode_str(value).decode_utf8().map_err(wrong)?;
        if !tls.take(key, &value) {
            rest.push(pair);
        }
    }
    let plain =
        if rest.is_empty() { plain.to_owned() } else { format!("{plain}?{}", rest.join("&")) };
    let read: tokio_postgres::Config = plain.parse().map_err(|error: tokio_postgres::Error| {
        wrong(
            std::error::Error::source(&error)
                .map_or_else(|| error.to_string(), ToString::to_string),
        )
    })?;
    let user = read.get_user().ok_or_else(|| wrong("it names no user"))?;
    let database = read.get_dbname().unwrap_or(user);
    let mut config = PostgresConfig::new(hosts(&read)?, user, database);
    config.password = read
        .get_password()
        .map(|password| Secret::new(String::from_utf8_lossy(password).into_owned()));
    config.sslmode = tls.sslmode.map(|mode| mode.parse()).transpose().map_err(wrong)?;
    config.sslrootcert = tls.sslrootcert;
    config.client_certificate = match (tls.sslcert, tls.sslkey) {
        (Some(certificate), Some(key)) => Some(ClientCertificate { certificate, key }),
        (None, None) => None,
        _ => return Err(wrong("`sslcert` and `sslkey` go together")),
    };
    if let Some(binding) = tls.channel_binding {
        config.channel_binding = binding.parse().map_err(wrong)?;
    }
    Ok(config)
}

fn hosts(read: &tokio_postgres::Config) -> Result<Hosts, WrongUrl> {
    let ports = read.get_ports();
    let port = |at: usize| match ports {
        [] => 5432,
        [only] => *only,
        several => several.get(at).copied().unwrap_or(5432),
    };
    let hosts = read.get_hosts().iter().enumerate().map(|(at, host)| match host {
        Named::Tcp(name) => Host::Tcp { name: name.clone(), port: port(at) },
        Named::Unix(folder) => Host::Unix { folder: folder.clone(), port: port(at) },
    });
    Hosts::of(hosts).ok_or_else(|| wrong("it names no host"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tailwater_config::postgres::SslMode;

    #[test]
    fn a_url_is_read_as_psql_reads_it() {
        let config = from_url(
            "postgres://reader:s%40cret@db1,db2:5433/shop?sslmode=verify-ca&sslrootcert=/etc/my%20ca.pem&connect_timeout=3",
        )
        .expect("a URL");
        assert_eq!(config.address(), "db1:5432,db2:5433/shop");
        assert_eq!(config.sslmode, Some(SslMode::VerifyCa));
        assert_eq!(config.sslrootcert, Some(PathBuf::from("/etc/my ca.pem")));
        assert_eq!(config.password.as_ref().map(Secret::expose), Some("s@cret"));
        let socket = from_url("postgres://reader@/shop?host=/run/postgresql");
        assert_eq!(socket.expect("a URL").address(), "/run/postgresql:5432/shop");
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (url, why) in [
            ("postgres://u:hunter2@h/d?sslmode=prefer", "falls back to clear text"),
            ("postgres://u:hunter2@h/d?sslcert=a", "go together"),
            ("postgres://u:hunter2@h:x/d", "port"),
            ("postgres://h/d", "names no user"),
            ("postgres://u:hunter2@/d", "names no host"),
        ] {
            let said = from_url(url).expect_err(url).to_string();
            assert!(said.contains(why) && !said.contains("hunter2"), "{said}");
        }
    }
}
