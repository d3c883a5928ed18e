//! Servers, as they are named in a configuration.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// Over the network.
    Tcp {
        /// Name or address.
        name: String,
        /// Port.
        port: u16,
    },
    /// Over a socket of this machine.
    Unix {
        /// The folder that holds it; begins with `/`.
        folder: PathBuf,
        /// The number in its name.
        port: u16,
    },
}

/// One server or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    first: Host,
    more: Vec<Host>,
}

/// A text that names no servers.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected hosts such as `db`, `db1,db2:5433`, `[::1]:5432` or `/run/postgresql`, not `{0}`"
)]
pub struct WrongHost(String);

impl Hosts {
    /// One server over the network.
    pub fn one(name: impl Into<String>, port: u16) -> Self {
        Self { first: Host::Tcp { name: name.into(), port }, more: Vec::new() }
    }

    /// Hosts in the order in which they are tried; none when there are none.
    pub fn of(mut hosts: impl Iterator<Item = Host>) -> Option<Self> {
        Some(Self { first: hosts.next()?, more: hosts.collect() })
    }

    /// Hosts separated by commas, each with a port of its own or with `port`.
    pub fn parse(text: &str, port: u16) -> Result<Self, WrongHost> {
        let hosts: Option<Vec<Host>> =
            text.split(',').map(|host| Host::parse(host.trim(), port)).collect();
        hosts
            .and_then(|hosts| Self::of(hosts.into_iter()))
            .ok_or_else(|| WrongHost(text.to_owned()))
    }

    /// In the order in which they are tried.
    pub fn iter(&self) -> impl Iterator<Item = &Host> {
        std::iter::once(&self.first).chain(&self.more)
    }

    /// Whether there is a choice.
    pub fn is_one(&self) -> bool {
        self.more.is_empty()
    }
}

impl Host {
    fn parse(text: &str, port: u16) -> Option<Self> {
        let number = |text: &str| text.parse().ok().filter(|port| *port != 0);
        if text.starts_with('/') {
            return Some(Self::Unix { folder: text.into(), port });
        }
        let (name, port) = match (text.strip_prefix('['), text.matches(':').count()) {
            (Some(rest), _) => match rest.split_once(']')? {
                (name, "") => (name, port),
                (name, after) => (name, number(after.strip_prefix(':')?)?),
            },
            (None, 1) => {
                let (name, after) = text.split_once(':')?;
                (name, number(after)?)
            }
            // No port, or an IPv6 address without brackets.
            (None, _) => (text, port),
        };
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        let well = !name.is_empty() && name.chars().all(is_name);
        well.then(|| Self::Tcp { name: name.to_owned(), port })
    }

    /// Whether it is this machine, as far as the name alone tells.
    pub fn is_here(&self) -> bool {
        match self {
            Self::Unix { .. } => true,
            Self::Tcp { name, .. } => {
                name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { name, port } if name.contains(':') => write!(f, "[{name}]:{port}"),
            Self::Tcp { name, port } => write!(f, "{name}:{port}"),
            Self::Unix { folder, port } => write!(f, "{}:{port}", folder.display()),
        }
    }
}

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        self.more.iter().try_for_each(|host| write!(f, ",{host}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_they_are_written() {
        for (text, shown) in [
            ("db", "db:5432"),
            ("db1, db2:5433", "db1:5432,db2:5433"),
            ("::1", "[::1]:5432"),
            ("[::1]:5433,10.0.0.7", "[::1]:5433,10.0.0.7:5432"),
            ("/run/postgresql", "/run/postgresql:5432"),
        ] {
            assert_eq!(
                Hosts::parse(text, 5432).map(|hosts| hosts.to_string()),
                Ok(shown.to_owned())
            );
        }
        for text in
            ["", "db,", ":5432", "db:0", "db:x", "[::1", "[::1]5", "a b", "http://db", "u@db"]
        {
            assert_eq!(Hosts::parse(text, 5432), Err(WrongHost(text.to_owned())), "{text}");
        }
    }
}
