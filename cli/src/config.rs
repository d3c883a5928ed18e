//! `tailwater.yaml`: where everything is.
//!
//! Every mistake is reported at once with file, line and key. The text of a secret appears in none of them.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use rdkafka::ClientConfig;
use tailwater_cdc::config::{self as reader, Limits};
use tailwater_config::{
    Environment, KafkaConfig, Load, PostgresConfig, S3Config, SearchConfig, kafka, opensearch,
    postgres, s3, secret,
};
use tailwater_document::{ByteSize, FromScalar, Mistake, Mistakes, Scalar, Section, Span};
use tailwater_runtime::Secret;
use tailwater_topics_contract::PipelineName;
use tailwater_topics_registry::Servers;

use crate::declared::Sources;
use crate::output::counted;
use crate::shape;

/// Everything in `tailwater.yaml`.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// `pipeline`: one database read into one Kafka cluster. Names the slot, the publications and our own topics.
    pub(crate) pipeline: PipelineName,
    /// `postgres`: `host`, `port` (5432), `user`, `password` or `password_file`, `database`, `sslmode`,
    /// `sslrootcert`, `sslcert`, `sslkey`, `channel_binding`.
    pub(crate) postgres: PostgresConfig,
    /// `kafka`: `brokers` as `host:port,…`, `tls`, `sasl`, and `properties` for the client, verbatim.
    pub(crate) kafka: KafkaConfig,
    /// `s3`: `endpoint`, `region` (us-east-1), `access_key`, `secret_key`, `session_token` or their `_file`s, `path_style` (true), `encryption`, `kms_key`.
    pub(crate) s3: Option<S3Config>,
    /// `opensearch`: `url`; `user`, `password` or `password_file`; or `sigv4`, `region` and keys as under `s3`.
    pub(crate) opensearch: Option<SearchConfig>,
    /// `reader`: how the reader runs.
    pub(crate) reader: Reader,
    /// `sinks`: how sink workers run.
    pub(crate) sinks: Sinks,
}

/// `reader`.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    /// `admin` (127.0.0.1:18090): address of `/live`, `/ready` and `/metrics`.
    pub(crate) admin: SocketAddr,
    /// `transaction_bytes`, `transaction_rows`, `transaction_delay`, `queue_bytes`, `copy_workers`, `slot_wait`,
    /// `heartbeat`.
    pub(crate) limits: Limits,
    /// `mask_key` or `mask_key_file`: the key of `hmac` masks.
    pub(crate) mask_key: Option<Secret>,
}

/// What `cdc run` is told about what tables hold already.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Existing {
    /// Leave rows out.
    pub(crate) from_now: bool,
    /// Leave events out.
    pub(crate) events_from_now: bool,
}

/// `sinks`.
#[derive(Clone, Debug)]
pub(crate) struct Sinks {
    /// `admin` (127.0.0.1:18091): address of `/live`, `/ready` and `/metrics`; `--admin` goes before it.
    pub(crate) admin: SocketAddr,
    /// `memory` (64MiB): most that all open batches of one worker hold together, in bytes.
    pub(crate) memory: u64,
}

/// The configuration or the catalog cannot be used.
#[derive(Debug)]
pub(crate) enum Error {
    /// The configuration cannot be read.
    Unreadable(tailwater_config::Error),
    /// Everything wrong, with the texts that may be shown.
    Mistakes(Vec<Mistake>, Sources),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => error.fmt(f),
            Self::Mistakes(mistakes, sources) => {
                write!(f, "{}:", counted(mistakes.len(), "mistake"))?;
                mistakes.iter().try_for_each(|mistake| {
                    write!(f, "\n  {mistake}{}", sources.snippet(&mistake.place))
                })
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable(error) => error.source(),
            Self::Mistakes(..) => None,
        }
    }
}

impl From<tailwater_config::Error> for Error {
    fn from(error: tailwater_config::Error) -> Self {
        match error {
            // Its lines are not shown with its mistakes: they may hold secrets.
            tailwater_config::Error::Mistakes(mistakes) => {
                Self::Mistakes(mistakes, Sources::default())
            }
            unreadable @ tailwater_config::Error::Unreadable { .. } => Self::Unreadable(unreadable),
        }
    }
}

/// Reads and checks a configuration file.
pub(crate) fn load(path: &Path, environment: Environment<'_>) -> Result<Config, Error> {
    Ok(tailwater_config::load(path, environment, whole)?)
}

fn whole(mut top: Section<'_>, load: Load<'_>, mistakes: &mut Mistakes) -> Option<Config> {
    let pipeline = top.required("pipeline", mistakes);
    let postgres = postgres::read(top.section("postgres", mistakes), load, mistakes);
    let kafka = kafka::read(top.section("kafka", mistakes), load, mistakes);
    let s3 = top.optional_section("s3", mistakes).map(|section| s3::read(section, load, mistakes));
    let opensearch = top
        .optional_section("opensearch", mistakes)
        .map(|section| opensearch::read(section, load, mistakes));
    let reader = reader(top.section("reader", mistakes), load, mistakes);
    let sinks = sinks(top.section("sinks", mistakes), mistakes);
    top.finish_as(&shape::CONFIG, mistakes);
    Some(Config {
        pipeline: pipeline?,
        postgres: postgres?,
        kafka: kafka?,
        // An absent section is fine, one with mistakes is not.
        s3: s3.map_or(Some(None), |section| section.map(Some))?,
        opensearch: opensearch.map_or(Some(None), |section| section.map(Some))?,
        reader,
        sinks,
    })
}

/// A shorter key could be guessed from a known value and its code. RFC 2104 advises the length of the hash.
const MASK_KEY_MIN: usize = 32;

fn reader(mut section: Section<'_>, load: Load<'_>, mistakes: &mut Mistakes) -> Reader {
    let default = Limits::default();
    let admin = section.or("admin", Listen(([127, 0, 0, 1], 18090).into()), mistakes).0;
    let bytes = |size: usize| ByteSize(size as u64);
    let millis = |ms: u64| Span(std::time::Duration::from_millis(ms));
    let limits = Limits {
        transaction_bytes: section
            .or("transaction_bytes", bytes(default.transaction_bytes), mistakes)
            .0 as usize,
        transaction_rows: section.or("transaction_rows", default.transaction_rows, mistakes),
        transaction_delay_ms: section
            .or("transaction_delay", millis(default.transaction_delay_ms), mistakes)
            .0
            .as_millis() as u64,
        queue_bytes: section.or("queue_bytes", bytes(default.queue_bytes), mistakes).0 as usize,
        copy_workers: section.or("copy_workers", default.copy_workers as u64, mistakes) as usize,
        transaction_wait_ms: default.transaction_wait_ms,
        slot_wait_ms: section.or("slot_wait", millis(default.slot_wait_ms), mistakes).0.as_millis()
            as u64,
        heartbeat: section.or("heartbeat", Span(default.heartbeat), mistakes).0,
        ..default
    };
    let nothing = [
        ("transaction_bytes", limits.transaction_bytes as u64),
        ("transaction_rows", limits.transaction_rows),
        ("queue_bytes", limits.queue_bytes as u64),
        ("copy_workers", limits.copy_workers as u64),
    ];
    for (key, _) in nothing.iter().filter(|(_, limit)| *limit == 0) {
        section.refuse(key, "expected more than 0", mistakes);
    }
    let mask_key = secret(&mut section, "mask_key", "mask_key_file", load, mistakes);
    if mask_key.as_ref().is_some_and(|key| key.expose().len() < MASK_KEY_MIN) {
        let problem = format!("expected at least {MASK_KEY_MIN} bytes, drawn at random");
        section.refuse("mask_key", problem, mistakes);
    }
    section.finish_as(&shape::READER, mistakes);
    Reader { admin, limits, mask_key }
}

fn sinks(mut section: Section<'_>, mistakes: &mut Mistakes) -> Sinks {
    let admin = section.or("admin", Listen(([127, 0, 0, 1], 18091).into()), mistakes).0;
    let memory = section.or("memory", ByteSize(64 << 20), mistakes).0;
    if memory < 1 << 20 {
        section.refuse("memory", "expected at least 1MiB", mistakes);
    }
    section.finish_as(&shape::SINKS, mistakes);
    Sinks { admin, memory }
}

/// An address to listen on.
struct Listen(SocketAddr);

impl FromScalar for Listen {
    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, String> {
        let address = scalar.text.parse().map(Self);
        address
            .map_err(|_| "expected an address with its port, such as `127.0.0.1:18090`".to_owned())
    }
}

impl Config {
    /// What the reader is told.
    pub(crate) fn reader(&self, existing: Existing) -> reader::Config {
        reader::Config {
            pipeline: self.pipeline.clone(),
            postgres: self.postgres.clone(),
            kafka: self.kafka.clone(),
            limits: self.reader.limits,
            from_now: existing.from_now,
            events_from_now: existing.events_from_now,
            mask_key: self.reader.mask_key.clone(),
        }
    }

    /// How every Kafka client of ours begins.
    pub(crate) fn kafka_client(&self) -> ClientConfig {
        let mut client = self.kafka.client();
        client.set("client.id", format!("tailwater.{}", self.pipeline));
        client
    }

    /// Where the registry finds everything.
    pub(crate) fn servers(&self) -> Servers {
        Servers {
            postgres: self.postgres.clone(),
            kafka: self.kafka_client(),
            s3: self.s3.clone(),
            opensearch: self.opensearch.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tailwater_config::s3::Encryption;
    use tailwater_config::{Keys, Login, Service, Word};
    use tailwater_runtime::Secret;

    use super::*;

    const CANARY: &str = "hunter2-canary";

    const GOOD: &str = "\
pipeline: market
postgres: { host: 127.0.0.1, user: reader, password: \"${PASSWORD}\", database: shop }
kafka: { brokers: 127.0.0.1:9092, properties: { linger.ms: 5 } }
s3: { endpoint: \"http://127.0.0.1:9000\", access_key: tailwater, secret_key_file: s3.key }
opensearch: { url: \"http://127.0.0.1:9200\" }
reader: { admin: 127.0.0.1:18190, transaction_delay: 50ms }
sinks: { memory: 64MiB }
";

    fn environment(name: &str) -> Option<String> {
        (name == "PASSWORD").then(|| CANARY.to_owned())
    }

    fn load(path: &Path) -> io::Result<String> {
        match path.to_str() {
            Some("s3.key") => Ok(format!("{CANARY}\n")),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn read(text: &str) -> Result<Config, Vec<String>> {
        tailwater_config::parse("tailwater.yaml", text, &environment, &load, whole)
            .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
    }

    fn refused(text: &str) -> Vec<String> {
        let mistakes = read(text).expect_err("must be refused");
        for mistake in &mistakes {
            assert!(mistake.starts_with("tailwater.yaml"), "no file: {mistake}");
            assert!(!mistake.contains(CANARY), "a secret shows: {mistake}");
        }
        mistakes
    }

    #[test]
    fn keys_of_a_store_stand_in_the_file_beside_it_or_in_the_environment() {
        let s3 = |more: &str| {
            let s3 = format!("s3: {{ endpoint: \"http://127.0.0.1:9000\"{more} }}");
            let lines: Vec<&str> =
                GOOD.lines().map(|l| if l.starts_with("s3:") { s3.as_str() } else { l }).collect();
            lines.join("\n") + "\n"
        };
        let good = |more| read(&s3(more)).expect("good").s3.expect("given");
        assert!(matches!(good("").keys, Keys::Environment));
        let files =
            ", access_key_file: s3.key, secret_key_file: s3.key, session_token_file: s3.key";
        let Keys::Named { access, secret, session_token } = good(files).keys else {
            panic!("named")
        };
        for word in [access, secret, session_token.expect("given")] {
            assert!(matches!(word, Word::File(file) if file.ends_with("s3.key")));
        }
        assert_eq!(good("").encryption, None);
        assert_eq!(good(", encryption: aes256").encryption, Some(Encryption::Aes256));
        let kms = Encryption::Kms { key: Some("alias/archive".to_owned()) };
        assert_eq!(good(", encryption: kms, kms_key: alias/archive").encryption, Some(kms));
        for (more, expected) in [
            (", access_key: a", "`s3.secret_key`: missing; or name a file"),
            (", secret_key: b", "`s3.access_key`: missing; or name a file"),
            (", session_token: t", "`s3.access_key`: missing"),
            (", access_key: a, access_key_file: s3.key, secret_key: b", "keep one of them"),
            (", encryption: rot13", "expected `aes256` or `kms`"),
            (", encryption: aes256, kms_key: k", "`s3.kms_key`: goes with `encryption: kms`"),
        ] {
            let found = refused(&s3(more));
            assert!(found.iter().any(|one| one.contains(expected)), "{more}: {found:#?}");
        }
    }

    #[test]
    fn a_cluster_asks_nobody_or_takes_a_password_or_a_signature_and_never_both() {
        let with = |more: &str| {
            let cluster = format!("opensearch: {{ url: \"http://127.0.0.1:9200\"{more} }}");
            let is_cluster = |line: &&str| line.starts_with("opensearch:");
            let lines: Vec<&str> = GOOD.lines().filter(|line| !is_cluster(line)).collect();
            format!("{}\n{cluster}\n", lines.join("\n"))
        };
        let good = |more| read(&with(more)).expect("good").opensearch.expect("given").login;
        assert!(matches!(good(""), Login::Open));
        let Login::Basic { user, password } = good(", user: u, password_file: s3.key") else {
            panic!("basic")
        };
        assert_eq!(user, "u");
        assert!(matches!(password, Some(Word::File(file)) if file.ends_with("s3.key")));
        let signature = |more| match good(more) {
            Login::Signed(signature) => signature,
            other => panic!("{other:?}"),
        };
        let bare = signature(", sigv4: es, region: eu-central-1");
        assert_eq!((bare.service, bare.region.as_str()), (Service::Domain, "eu-central-1"));
        assert!(matches!(bare.keys, Keys::Environment));
        let named = signature(", sigv4: aoss, region: r, access_key: a, secret_key_file: s3.key");
        assert_eq!(named.service, Service::Serverless);
        assert!(matches!(named.keys, Keys::Named { secret: Word::File(_), .. }));
        for (more, expected) in [
            (", sigv4: es", "`opensearch.region`: missing; a signature is for one region"),
            (", sigv4: s3, region: r", "expected `es` or `aoss`"),
            (", region: r", "`opensearch.region`: goes with `sigv4`, which is missing"),
            (", access_key: a, secret_key: b", "`opensearch.access_key`: goes with `sigv4`"),
            (", sigv4: es, region: r, access_key: a", "`opensearch.secret_key`: missing"),
            (
                ", sigv4: es, region: r, user: u, password: p",
                "`opensearch.sigv4`: `user` is given too; a request is signed or carries a password, not both",
            ),
            (", password: p", "`opensearch.password`: there is a password and no `user`"),
            (", user: u, password: p, password_file: s3.key", "keep one of them"),
            (
                ", user: u, password_file: none",
                "`opensearch.password_file`: the file cannot be read",
            ),
        ] {
            let found = refused(&with(more));
            assert!(found.iter().any(|one| one.contains(expected)), "{more}: {found:#?}");
            assert_eq!(found.len(), 1, "{more}: {found:#?}");
        }
    }

    #[test]
    fn a_good_file_is_read_with_defaults_variables_and_secret_files() {
        let config = read(GOOD).expect("good");
        assert_eq!(config.postgres.address(), "127.0.0.1:5432/shop");
        assert_eq!(config.postgres.password.as_ref().map(Secret::expose), Some(CANARY));
        let s3 = config.s3.as_ref().expect("given");
        assert_eq!((s3.region.as_str(), s3.path_style), ("us-east-1", true));
        let in_a_file = |keys: &Keys| matches!(keys, Keys::Named { secret: Word::File(file), .. } if file.ends_with("s3.key"));
        assert!(in_a_file(&s3.keys), "{s3:?}");
        assert_eq!(config.reader.limits.transaction_delay_ms, 50);
        assert_eq!(config.sinks.memory, 64 << 20);
        assert_eq!(config.sinks.admin.to_string(), "127.0.0.1:18091");
        assert_eq!(config.kafka_client().get("linger.ms"), Some("5"));
        assert!(!format!("{config:?}").contains(CANARY), "secrets do not print");
    }

    #[test]
    fn what_has_no_use_here_may_be_left_out() {
        let text =
            "pipeline: p\npostgres: {host: localhost, user: u, database: d}\nkafka: {brokers: b}\n";
        let config = read(text).expect("good");
        assert!(config.s3.is_none() && config.opensearch.is_none());
    }

    #[test]
    fn all_mistakes_come_at_once_with_line_and_key() {
        let text = "\
pipeline: My-Market
postgres:
  hots: db
  port: seventy
  password: ${PASSWORD}
  password_file: pg.key
kafka: { properties: { acks: 1 } }
s3: { endpoint: \"http://root:hunter2-canary@store\", access_key: a, secret_key_file: none.key }
reader: { admin: here }
sink: { memory: 1 }
";
        let found = refused(text);
        let expected = [
            "tailwater.yaml:1:11: `pipeline`: expected a pipeline name",
            "tailwater.yaml:2:1: `postgres.database`: missing",
            "tailwater.yaml:2:1: `postgres.host`: missing",
            "tailwater.yaml:2:1: `postgres.user`: missing",
            "tailwater.yaml:3:3: `postgres.hots`: unknown key; did you mean `host`?",
            "tailwater.yaml:4:9: `postgres.port`: expected a whole number",
            "tailwater.yaml:6:3: `postgres.password_file`: `password` is given too",
            "tailwater.yaml:7:1: `kafka.brokers`: missing",
            "tailwater.yaml:7:10: `kafka.properties`: `acks` is set by Tailwater itself",
            "tailwater.yaml:8:7: `s3.endpoint`: user and password have keys of their own",
            "tailwater.yaml:8:68: `s3.secret_key_file`: the file cannot be read",
            "tailwater.yaml:9:18: `reader.admin`: expected an address with its port",
            "tailwater.yaml:10:1: `sink`: unknown key; did you mean `sinks`?",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}\nshould begin with\n{expected}");
        }
    }

    #[test]
    fn broken_files_are_refused_with_their_line_and_never_show_a_secret() {
        let with = |from: &str, to: &str| {
            assert!(GOOD.contains(from), "{from}");
            GOOD.replace(from, to)
        };
        let corpus = [
            String::new(),
            "# nothing\n".to_owned(),
            "pipeline".to_owned(),
            "[]".to_owned(),
            "- pipeline: p\n".to_owned(),
            format!("{GOOD}---\npipeline: other\n"),
            format!("{GOOD}pipeline: twice\n"),
            format!("{GOOD}{CANARY}: [\n").replace(CANARY, "x"),
            with("pipeline: market", "pipeline: {}"),
            with("pipeline: market", "pipeline: [market]"),
            with("pipeline: market", "pipeline: ${NOT_SET}"),
            with("pipeline: market", "pipeline: ${PASSWORD}"),
            with("pipeline: market", "pipelin: market"),
            with("host: 127.0.0.1", "host: http://db.example"),
            with("host: 127.0.0.1", "host: [127.0.0.1]"),
            with("host: 127.0.0.1", "host: ''"),
            with("user: reader", "user: {}"),
            with("user: reader", "user: reader, port: 70000"),
            with("user: reader", "user: reader, port: -1"),
            with("user: reader", "user: reader, port: 0"),
            with("user: reader", "user: reader, port: ${PASSWORD}"),
            with("user: reader", "user: reader, sslmode: prefer"),
            with("user: reader", "user: reader, sslmode: ${PASSWORD}"),
            with("password: \"${PASSWORD}\"", "password: [\"${PASSWORD}\"]"),
            with("password: \"${PASSWORD}\"", "password: {a: \"${PASSWORD}\"}"),
            with("password: \"${PASSWORD}\"", "passwort: \"${PASSWORD}\""),
            with("password: \"${PASSWORD}\"", "password: \"${PASSWORD\""),
            with("password: \"${PASSWORD}\"", "password_file: missing.key"),
            with("properties: { linger.ms: 5 }", "properties: [linger.ms]"),
            with(
                "properties: { linger.ms: 5 }",
                "properties: { sasl.password: [\"${PASSWORD}\"] }",
            ),
            with("properties: { linger.ms: 5 }", "properties: { transactional.id: mine }"),
            with("brokers: 127.0.0.1:9092", "broker: 127.0.0.1:9092"),
            with("http://127.0.0.1:9000", "127.0.0.1:9000"),
            with("http://127.0.0.1:9000", "http://a:${PASSWORD}@127.0.0.1:9000"),
            with("secret_key_file: s3.key", "secret_key_file: s3.key, secret_key: \"${PASSWORD}\""),
            with(", secret_key_file: s3.key", ""),
            with("secret_key_file: s3.key", "secret_key_file: s3.key, path_style: perhaps"),
            with("url: \"http://127.0.0.1:9200\"", "url: \"http://x:hunter2-canary@127.0.0.1\""),
            with("url: \"http://127.0.0.1:9200\"", "url: \"http://h\", password: \"${PASSWORD}\""),
            with("transaction_delay: 50ms", "transaction_delay: 50"),
            with("transaction_delay: 50ms", "transaction_delay: fast"),
            with("transaction_delay: 50ms", "transaction_rows: 0"),
            with("transaction_delay: 50ms", "transaction_bytes: 8 megs"),
            with("admin: 127.0.0.1:18190", "admin: 18190"),
            with("memory: 64MiB", "memory: 1KiB"),
            with("memory: 64MiB", "memry: 64MiB"),
            with("sinks: { memory: 64MiB }", "sinks: 64MiB"),
            with("sinks: { memory: 64MiB }", "sinks: &x { memory: 64MiB }\nreader2: *x"),
        ];
        for text in &corpus {
            assert!(!refused(text).is_empty(), "{text}");
        }
    }
}
