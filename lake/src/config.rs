//! What the lake needs of `tailwater.yaml`: `pipeline`, `kafka` and `s3`. The rest is not looked at.

use std::path::Path;

use rdkafka::ClientConfig;
use tailwater_config::{Environment, KafkaConfig, Load, S3Config, kafka, s3};
use tailwater_document::{Mistakes, Section};
use tailwater_topics_contract::PipelineName;

pub use tailwater_config::Error;

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Config {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// The brokers.
    pub kafka: KafkaConfig,
    /// The store.
    pub s3: Option<S3Config>,
}

/// Reads a configuration file; `environment` answers what a variable holds.
pub fn load(path: &Path, environment: Environment<'_>) -> Result<Config, Error> {
    tailwater_config::load(path, environment, whole)
}

fn whole(mut top: Section<'_>, load: Load<'_>, mistakes: &mut Mistakes) -> Option<Config> {
    let pipeline = top.required("pipeline", mistakes);
    let kafka = kafka::read(top.section("kafka", mistakes), load, mistakes);
    let s3 = top.optional_section("s3", mistakes).map(|section| s3::read(section, load, mistakes));
    Some(Config {
        pipeline: pipeline?,
        kafka: kafka?,
        s3: s3.map_or(Some(None), |section| section.map(Some))?,
    })
}

impl Config {
    /// How every Kafka client of ours begins.
    pub fn kafka_client(&self) -> ClientConfig {
        let mut client = self.kafka.client();
        client.set("client.id", format!("tailwater.{}.lake", self.pipeline));
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
    use tailwater_config::Keys;

    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let load = |_: &Path| Ok("canary\n".to_owned());
        tailwater_config::parse("tailwater.yaml", text, &|_| None, &load, whole)
            .map_err(|mistakes| Error::Mistakes(mistakes).to_string())
    }

    #[test]
    fn what_the_lake_needs_is_read_and_the_rest_passed_over() {
        let config = read(
            "pipeline: market\npostgres: { x: 1 }\nkafka: { brokers: b:9092, properties: { a: 1 } }\ns3: { endpoint: \"http://h\", access_key: k, secret_key_file: f }\nother: 1\n",
        )
        .expect("fine");
        assert_eq!(config.kafka.properties.len(), 1);
        assert!(matches!(config.s3.expect("given").keys, Keys::Named { .. }));
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
