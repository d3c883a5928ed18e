//! What the reader needs to know before it starts.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use tailwater_runtime::Secret;
use tailwater_topics_contract::PipelineName;

/// Everything the reader is told by its user.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names the slot, the publications, the transactional id and the progress topic.
    pub pipeline: PipelineName,
    /// Where rows come from.
    pub postgres: PostgresConfig,
    /// Where records go.
    pub kafka: KafkaConfig,
    /// When transactions are closed and how much may wait.
    pub limits: Limits,
    /// On the very first start, leave the rows that captured tables already hold out of Kafka. Without it such
    /// a start is refused, because this version cannot take a snapshot.
    pub from_now: bool,
}

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

/// How to reach the brokers.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// `host:port`, comma-separated.
    pub brokers: String,
    /// Further librdkafka properties, verbatim, such as `security.protocol`. Those that the delivery promise
    /// rests on are refused.
    pub properties: BTreeMap<String, String>,
}

/// When transactions are closed and how much may wait.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of records in one Kafka transaction before it is committed.
    pub transaction_bytes: usize,
    /// Records in one Kafka transaction before it is committed.
    pub transaction_rows: u64,
    /// Milliseconds a Kafka transaction may stay open while rows keep coming. When none come it is committed
    /// at once.
    pub transaction_delay_ms: u64,
    /// Bytes received from Postgres and not yet decoded; beyond that the reader stops reading its socket.
    pub queue_bytes: usize,
    /// Milliseconds to wait for a slot that another connection holds. Should exceed `wal_sender_timeout`,
    /// after which the server drops a reader that no longer answers.
    pub slot_wait_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            transaction_bytes: 8 << 20,
            transaction_rows: 50_000,
            transaction_delay_ms: 200,
            queue_bytes: 8 << 20,
            slot_wait_ms: 90_000,
        }
    }
}

/// A setting that the reader cannot work with.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Encryption is the default away from this machine, and does not exist yet.
    #[error(
        "`postgres.host: {host}` is another machine and this version cannot encrypt; write `postgres.sslmode: disable` to send rows and password in clear text"
    )]
    Unencrypted {
        /// The host.
        host: String,
    },
    /// A value of `postgres.sslmode` other than `disable`.
    #[error("`postgres.sslmode: {mode}` does not exist in this version; only `disable` does")]
    SslMode {
        /// What was written.
        mode: String,
    },
    /// A Kafka property that exactly-once delivery rests on.
    #[error("`kafka.properties.{property}` is set by the reader itself; remove it")]
    Property {
        /// Its name.
        property: String,
    },
    /// A limit of nothing.
    #[error("`{limit}` must be more than 0")]
    Limit {
        /// Its name.
        limit: &'static str,
    },
}

impl FromStr for SslMode {
    type Err = Error;

    fn from_str(mode: &str) -> Result<Self, Error> {
        match mode {
            "disable" => Ok(Self::Disable),
            _ => Err(Error::SslMode { mode: mode.to_owned() }),
        }
    }
}

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

impl Config {
    /// How the reader calls itself in `pg_stat_replication`.
    pub(crate) fn application(&self) -> String {
        format!("tailwater {}", self.pipeline)
    }

    /// The first setting that the reader cannot work with.
    pub fn check(&self) -> Result<(), Error> {
        self.postgres.check()?;
        if let Some(property) = OURS.iter().find(|name| self.kafka.properties.contains_key(**name))
        {
            return Err(Error::Property { property: (*property).to_owned() });
        }
        let limits = [
            ("reader.transaction_bytes", self.limits.transaction_bytes as u64),
            ("reader.transaction_rows", self.limits.transaction_rows),
            ("reader.queue_bytes", self.limits.queue_bytes as u64),
        ];
        match limits.iter().find(|(_, limit)| *limit == 0) {
            Some((limit, _)) => Err(Error::Limit { limit }),
            None => Ok(()),
        }
    }
}

impl PostgresConfig {
    /// Refuses to talk in clear text to another machine unless told to.
    pub fn check(&self) -> Result<(), Error> {
        let loopback = self.host == "localhost"
            || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        match self.sslmode {
            None if !loopback => Err(Error::Unencrypted { host: self.host.clone() }),
            _ => Ok(()),
        }
    }

    /// `host:port/database`, for messages.
    pub fn address(&self) -> String {
        format!("{}:{}/{}", self.host, self.port, self.database)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn postgres(host: &str, sslmode: Option<SslMode>) -> PostgresConfig {
        PostgresConfig {
            host: host.to_owned(),
            port: 5432,
            user: "reader".to_owned(),
            password: None,
            database: "shop".to_owned(),
            sslmode,
        }
    }

    #[test]
    fn another_machine_needs_an_explicit_wish_for_clear_text() {
        for host in ["localhost", "127.0.0.1", "127.1.2.3", "::1"] {
            assert_eq!(postgres(host, None).check(), Ok(()));
        }
        for host in ["db.internal", "10.0.0.7", "localhost.evil.example"] {
            assert!(postgres(host, None).check().is_err(), "{host}");
            assert_eq!(postgres(host, Some(SslMode::Disable)).check(), Ok(()));
        }
        assert!("require".parse::<SslMode>().is_err());
    }

    #[test]
    fn properties_the_promise_rests_on_are_refused() {
        let mut config = Config {
            pipeline: "market".parse().expect("a name"),
            postgres: postgres("localhost", None),
            kafka: KafkaConfig { brokers: String::new(), properties: BTreeMap::new() },
            limits: Limits::default(),
            from_now: false,
        };
        assert_eq!(config.check(), Ok(()));
        config.kafka.properties.insert("acks".to_owned(), "1".to_owned());
        assert_eq!(config.check(), Err(Error::Property { property: "acks".to_owned() }));
    }
}
