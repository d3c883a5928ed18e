//! `tailwater.yaml`: where everything is.
//!
//! Every mistake is reported at once with file, line and key. The text of a secret appears in none of them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rdkafka::ClientConfig;
use tailwater_cdc::config::{self as reader, KafkaConfig, Limits, PostgresConfig, SslMode};
use tailwater_document::{
    ByteSize, FromScalar, Mistake, Mistakes, Place, Scalar, Section, Span, parse_expanding,
};
use tailwater_runtime::Secret;
use tailwater_topics_contract::PipelineName;
use tailwater_topics_registry::Servers;
use tailwater_topics_registry::destinations::{S3Config, SearchConfig};

use crate::declared::Sources;
use crate::output::counted;
use crate::shape;

/// Everything in `tailwater.yaml`.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// `pipeline`: one database read into one Kafka cluster. Names the slot, the publications and our own topics.
    pub(crate) pipeline: PipelineName,
    /// `postgres`: `host`, `port` (5432), `user`, `password` or `password_file`, `database`, `sslmode`.
    pub(crate) postgres: PostgresConfig,
    /// `kafka`: `brokers` as `host:port,…`, and `properties` for the client, verbatim.
    pub(crate) kafka: KafkaConfig,
    /// `s3`: `endpoint`, `region` (us-east-1), `access_key`, `secret_key` or `secret_key_file`, `path_style` (true).
    /// The bucket is each sink's own and empty here.
    pub(crate) s3: Option<S3Config>,
    /// `opensearch`: `url`, `user`, `password` or `password_file`.
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
    /// `transaction_bytes`, `transaction_rows`, `transaction_delay`, `queue_bytes`, `slot_wait`.
    pub(crate) limits: Limits,
}

/// `sinks`.
#[derive(Clone, Debug)]
pub(crate) struct Sinks {
    /// `admin` (127.0.0.1:18091): address of `/live`, `/ready` and `/metrics`; `--admin` goes before it.
    pub(crate) admin: SocketAddr,
    /// `memory` (64MiB): most that all open batches of one worker hold together, in bytes.
    pub(crate) memory: u64,
}

/// The configuration cannot be used.
#[derive(Debug)]
pub(crate) enum Error {
    /// The file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Everything wrong in it, or in the catalog, with the texts that may be shown.
    Mistakes(Vec<Mistake>, Sources),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, .. } => write!(
                f,
                "cannot read the configuration `{}`; name it with --config or TAILWATER_CONFIG",
                path.display()
            ),
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
            Self::Unreadable { source, .. } => Some(source),
            Self::Mistakes(..) => None,
        }
    }
}

/// Answers what an environment variable holds.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads a file whole, by its path.
type Load<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

/// Reads and checks a configuration file.
pub(crate) fn load(path: &Path, environment: Environment<'_>) -> Result<Config, Error> {
    let read = |path: &Path| std::fs::read_to_string(path);
    let text = read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let beside = |file: &Path| read(&folder.join(file));
    // Its lines are not shown with its mistakes: they may hold secrets.
    let withheld = |mistakes| Error::Mistakes(mistakes, Sources::default());
    parse(&path.display().to_string(), &text, environment, &beside).map_err(withheld)
}

fn parse(
    file: &str,
    text: &str,
    environment: Environment<'_>,
    load: Load<'_>,
) -> Result<Config, Vec<Mistake>> {
    let mut mistakes = Mistakes::default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents = parse_expanding(file, text, environment).map_err(|mistake| vec![mistake])?;
    let top = match documents.as_slice() {
        [document] => document.section("", &mut mistakes),
        [] => {
            mistakes.add(
                Place::file(file),
                "",
                "it is empty; it needs `pipeline`, `postgres` and `kafka`",
            );
            return mistakes.finish(None);
        }
        [_, second, ..] => {
            let problem =
                "a configuration is one document; remove everything from the second `---` on";
            mistakes.add(second.place().clone(), "", problem);
            return mistakes.finish(None);
        }
    };
    let config = whole(top, load, &mut mistakes);
    mistakes.finish(config)
}

fn whole(mut top: Section<'_>, load: Load<'_>, mistakes: &mut Mistakes) -> Option<Config> {
    let pipeline = top.required("pipeline", mistakes);
    let postgres = postgres(top.section("postgres", mistakes), load, mistakes);
    let kafka = kafka(top.section("kafka", mistakes), mistakes);
    let s3 = top.optional_section("s3", mistakes).map(|section| s3(section, load, mistakes));
    let opensearch = top
        .optional_section("opensearch", mistakes)
        .map(|section| opensearch(section, load, mistakes));
    let reader = reader(top.section("reader", mistakes), mistakes);
    let sinks = sinks(top.section("sinks", mistakes), mistakes);
    let config = (|| {
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
    })();
    if let Some(Err(problem)) = config.as_ref().map(|config| config.reader(false).check()) {
        let key = match problem {
            reader::Error::Unencrypted { .. } | reader::Error::SslMode { .. } => "postgres",
            reader::Error::Property { .. } => "kafka",
            reader::Error::Limit { .. } => "reader",
        };
        top.refuse(key, problem.to_string(), mistakes);
    }
    top.finish_as(&shape::CONFIG, mistakes);
    config
}

fn postgres(
    mut section: Section<'_>,
    load: Load<'_>,
    mistakes: &mut Mistakes,
) -> Option<PostgresConfig> {
    let host = section.required("host", mistakes);
    let port = section.or("port", 5432, mistakes);
    if port == 0 {
        section.refuse("port", "expected a port from 1 to 65535", mistakes);
    }
    let user = section.required("user", mistakes);
    let password = secret(&mut section, "password", "password_file", load, mistakes);
    let database = section.required("database", mistakes);
    let sslmode = section.optional::<Encryption>("sslmode", mistakes).map(|mode| mode.0);
    section.finish_as(&shape::POSTGRES, mistakes);
    let (host, user, database) = (host?, user?, database?);
    Some(PostgresConfig { host, port, user, password, database, sslmode })
}

fn kafka(mut section: Section<'_>, mistakes: &mut Mistakes) -> Option<KafkaConfig> {
    let brokers = section.required("brokers", mistakes);
    let properties = section.texts("properties", mistakes);
    section.finish_as(&shape::KAFKA, mistakes);
    Some(KafkaConfig { brokers: brokers?, properties })
}

fn s3(mut section: Section<'_>, load: Load<'_>, mistakes: &mut Mistakes) -> Option<S3Config> {
    let endpoint = address(&mut section, "endpoint", mistakes);
    let region = section.optional("region", mistakes).unwrap_or_else(|| "us-east-1".to_owned());
    let access_key = section.required("access_key", mistakes);
    let secret_key = secret(&mut section, "secret_key", "secret_key_file", load, mistakes);
    if secret_key.is_none() && section.node("secret_key_file").is_none() {
        section.refuse("secret_key", "missing; or name a file with `secret_key_file`", mistakes);
    }
    let path_style = section.or("path_style", true, mistakes);
    section.finish_as(&shape::S3, mistakes);
    Some(S3Config {
        endpoint: endpoint?,
        region,
        bucket: String::new(),
        access_key: access_key?,
        secret: secret_key?,
        path_style,
    })
}

fn opensearch(
    mut section: Section<'_>,
    load: Load<'_>,
    mistakes: &mut Mistakes,
) -> Option<SearchConfig> {
    let url = address(&mut section, "url", mistakes);
    let user: Option<String> = section.optional("user", mistakes);
    let password = secret(&mut section, "password", "password_file", load, mistakes);
    if password.is_some() && user.is_none() {
        section.refuse("password", "there is a password and no `user`", mistakes);
    }
    section.finish_as(&shape::OPENSEARCH, mistakes);
    Some(SearchConfig { url: url?, user, password })
}

fn reader(mut section: Section<'_>, mistakes: &mut Mistakes) -> Reader {
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
        slot_wait_ms: section.or("slot_wait", millis(default.slot_wait_ms), mistakes).0.as_millis()
            as u64,
    };
    section.finish_as(&shape::READER, mistakes);
    Reader { admin, limits }
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

/// A secret given in place or as the name of a file that holds it.
fn secret(
    section: &mut Section<'_>,
    key: &'static str,
    file_key: &'static str,
    load: Load<'_>,
    mistakes: &mut Mistakes,
) -> Option<Secret> {
    let given: Option<Secret> = section.optional(key, mistakes);
    let file: Option<String> = section.optional(file_key, mistakes);
    match (given, file) {
        (Some(_), Some(_)) => {
            section.refuse(file_key, format!("`{key}` is given too; keep one of them"), mistakes);
            None
        }
        (given, None) => given,
        (None, Some(file)) => match load(Path::new(&file)) {
            Ok(text) => Some(Secret::new(text.trim_end_matches(['\r', '\n']))),
            Err(error) => {
                section.refuse(file_key, format!("the file cannot be read: {error}"), mistakes);
                None
            }
        },
    }
}

/// `disable`.
struct Encryption(SslMode);

impl FromScalar for Encryption {
    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, String> {
        scalar
            .text
            .parse()
            .map(Self)
            .map_err(|_| "expected `disable`, the only mode of this version, or nothing".to_owned())
    }
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

/// An `http://` or `https://` address. One with user and password in it is refused, and not repeated.
fn address(
    section: &mut Section<'_>,
    key: &'static str,
    mistakes: &mut Mistakes,
) -> Option<String> {
    let text: String = section.required(key, mistakes)?;
    let rest = ["http://", "https://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let problem = match rest {
        None | Some("") => "expected `http://host:port` or `https://host:port`",
        Some(rest) if rest.contains('@') => "user and password have keys of their own here",
        Some(_) => return Some(text),
    };
    section.refuse(key, problem, mistakes);
    None
}

impl Config {
    /// What the reader is told.
    pub(crate) fn reader(&self, from_now: bool) -> reader::Config {
        reader::Config {
            pipeline: self.pipeline.clone(),
            postgres: self.postgres.clone(),
            kafka: self.kafka.clone(),
            limits: self.reader.limits,
            from_now,
        }
    }

    /// How every Kafka client of ours begins.
    pub(crate) fn kafka_client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("client.id", format!("tailwater.{}", self.pipeline));
        for (property, value) in &self.kafka.properties {
            client.set(property, value);
        }
        client.set("bootstrap.servers", &self.kafka.brokers);
        client
    }

    /// How every SQL connection of ours begins.
    pub(crate) fn postgres_client(&self) -> tokio_postgres::Config {
        let mut client = tokio_postgres::Config::new();
        client
            .host(&self.postgres.host)
            .port(self.postgres.port)
            .user(&self.postgres.user)
            .dbname(&self.postgres.database)
            .application_name(format!("tailwater {}", self.pipeline))
            .connect_timeout(std::time::Duration::from_secs(5));
        if let Some(password) = &self.postgres.password {
            client.password(password.expose());
        }
        client
    }

    /// Where the registry finds everything.
    pub(crate) fn servers(&self) -> Servers {
        Servers {
            postgres: self.postgres_client(),
            kafka: self.kafka_client(),
            s3: self.s3.clone(),
            opensearch: self.opensearch.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
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
        parse("tailwater.yaml", text, &environment, &load)
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
    fn a_good_file_is_read_with_defaults_variables_and_secret_files() {
        let config = read(GOOD).expect("good");
        assert_eq!(config.postgres.port, 5432);
        assert_eq!(config.postgres.password.as_ref().map(Secret::expose), Some(CANARY));
        let s3 = config.s3.as_ref().expect("given");
        assert_eq!((s3.region.as_str(), s3.path_style), ("us-east-1", true));
        assert_eq!(s3.secret.expose(), CANARY, "without the line end of the file");
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
            with("host: 127.0.0.1", "host: db.example"),
            with("host: 127.0.0.1", "host: [127.0.0.1]"),
            with("host: 127.0.0.1", "host: ''"),
            with("user: reader", "user: {}"),
            with("user: reader", "user: reader, port: 70000"),
            with("user: reader", "user: reader, port: -1"),
            with("user: reader", "user: reader, port: 0"),
            with("user: reader", "user: reader, port: ${PASSWORD}"),
            with("user: reader", "user: reader, sslmode: require"),
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
