//! What the lake needs of `tailwater.yaml`: `pipeline`, `kafka` and `s3`. The rest is not looked at.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rdkafka::ClientConfig;
use tailwater_document::{Mistake, Mistakes, Section, parse_expanding};
use tailwater_runtime::Secret;
use tailwater_sinks_archive::S3Config;
use tailwater_topics_contract::PipelineName;

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Config {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// How Kafka clients begin.
    pub kafka: Vec<(String, String)>,
    /// The store, without a bucket.
    pub s3: Option<S3Config>,
}

/// The configuration cannot be used.
#[derive(Debug)]
pub enum Error {
    /// The file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Everything wrong in it.
    Mistakes(Vec<Mistake>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, .. } => write!(
                f,
                "cannot read the configuration `{}`; name it with --config or TAILWATER_CONFIG",
                path.display()
            ),
            Self::Mistakes(mistakes) => {
                f.write_str("the configuration has mistakes:")?;
                mistakes.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } => Some(source),
            Self::Mistakes(_) => None,
        }
    }
}

/// Reads a configuration file; `environment` answers what a variable holds.
pub fn load(path: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Result<Config, Error> {
    let read = |path: &Path| std::fs::read_to_string(path);
    let text = read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let beside = |file: &str| read(&folder.join(file));
    parse(&path.display().to_string(), &text, environment, &beside).map_err(Error::Mistakes)
}

fn parse(
    file: &str,
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
    load: &dyn Fn(&str) -> io::Result<String>,
) -> Result<Config, Vec<Mistake>> {
    let mut mistakes = Mistakes::default();
    let documents = parse_expanding(file, text, environment).map_err(|mistake| vec![mistake])?;
    let Some(document) = documents.first() else {
        let place = tailwater_document::Place::file(file);
        mistakes.add(place, "", "it is empty; it needs `pipeline`, `kafka` and `s3`");
        return mistakes.finish(None);
    };
    let mut top = document.section("", &mut mistakes);
    let pipeline = top.required("pipeline", &mut mistakes);
    let mut kafka = top.section("kafka", &mut mistakes);
    let brokers: Option<String> = kafka.required("brokers", &mut mistakes);
    let properties = kafka.texts("properties", &mut mistakes);
    let s3 =
        top.optional_section("s3", &mut mistakes).map(|section| s3(section, load, &mut mistakes));
    let config = (|| {
        let brokers = ("bootstrap.servers".to_owned(), brokers?);
        Some(Config {
            pipeline: pipeline?,
            kafka: properties.into_iter().chain([brokers]).collect(),
            s3: s3.map_or(Some(None), |section| section.map(Some))?,
        })
    })();
    mistakes.finish(config)
}

fn s3(
    mut section: Section<'_>,
    load: &dyn Fn(&str) -> io::Result<String>,
    mistakes: &mut Mistakes,
) -> Option<S3Config> {
    let endpoint = section.required("endpoint", mistakes);
    let region = section.optional("region", mistakes).unwrap_or_else(|| "us-east-1".to_owned());
    let access_key = section.required("access_key", mistakes);
    let given: Option<Secret> = section.optional("secret_key", mistakes);
    let file: Option<String> = section.optional("secret_key_file", mistakes);
    let secret = match (given, file) {
        (Some(secret), _) => Some(secret),
        (None, Some(file)) => match load(&file) {
            Ok(text) => Some(Secret::new(text.trim_end_matches(['\r', '\n']))),
            Err(error) => {
                let problem = format!("the file cannot be read: {error}");
                section.refuse("secret_key_file", problem, mistakes);
                None
            }
        },
        (None, None) => {
            let problem = "missing; or name a file with `secret_key_file`";
            section.refuse("secret_key", problem, mistakes);
            None
        }
    };
    let path_style = section.or("path_style", true, mistakes);
    section.finish(mistakes);
    Some(S3Config {
        endpoint: endpoint?,
        region,
        bucket: String::new(),
        access_key: access_key?,
        secret: secret?,
        path_style,
    })
}

impl Config {
    /// How every Kafka client of ours begins.
    pub fn kafka_client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("client.id", format!("tailwater.{}.lake", self.pipeline));
        for (property, value) in &self.kafka {
            client.set(property, value);
        }
        client
    }
}

/// `s3://bucket/prefix`, the prefix empty or with its last slash.
pub fn bucket_and_prefix(address: &str) -> Option<(String, String)> {
    let (bucket, prefix) = match address.strip_prefix("s3://")?.split_once('/') {
        Some((bucket, prefix)) => (bucket, prefix.trim_end_matches('/')),
        None => (address.strip_prefix("s3://")?, ""),
    };
    let slash = if prefix.is_empty() { "" } else { "/" };
    (!bucket.is_empty()).then(|| (bucket.to_owned(), format!("{prefix}{slash}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let load = |_: &str| Ok("canary\n".to_owned());
        parse("tailwater.yaml", text, &|_| None, &load)
            .map_err(|mistakes| Error::Mistakes(mistakes).to_string())
    }

    #[test]
    fn what_the_lake_needs_is_read_and_the_rest_passed_over() {
        let config = read(
            "pipeline: market\npostgres: { x: 1 }\nkafka: { brokers: b:9092, properties: { a: 1 } }\ns3: { endpoint: \"http://h\", access_key: k, secret_key_file: f }\nother: 1\n",
        )
        .expect("fine");
        assert_eq!(config.kafka.len(), 2);
        assert_eq!(config.s3.expect("given").secret.expose(), "canary");
    }

    #[test]
    fn all_mistakes_are_told_and_no_secret() {
        let said = read("kafka: {}\ns3: { endpoint: x, secret_key: canary, tls: 1 }\n")
            .expect_err("wrong");
        for part in ["pipeline", "kafka.brokers", "s3.access_key", "s3.tls", "tailwater.yaml:2:"] {
            assert!(said.contains(part), "{part} in {said}");
        }
        assert!(!said.contains("canary"));
    }

    #[test]
    fn an_archive_is_a_bucket_and_a_prefix() {
        let of =
            |text| bucket_and_prefix(text).map(|(bucket, prefix)| format!("{bucket}|{prefix}"));
        assert_eq!(of("s3://events").as_deref(), Some("events|"));
        assert_eq!(of("s3://events/").as_deref(), Some("events|"));
        assert_eq!(of("s3://events/a/b").as_deref(), Some("events|a/b/"));
        assert_eq!(of("events"), None);
        assert_eq!(of("s3://"), None);
    }
}
