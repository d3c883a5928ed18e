use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use tailwater_document::{Field, Form, Mistakes, Section, Shape};

/// How to reach the brokers.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// `host:port`, comma-separated.
    pub brokers: String,
    /// Further librdkafka properties, verbatim, such as `security.protocol`.
    pub properties: BTreeMap<String, String>,
}

/// What the section may hold.
pub static SHAPE: Shape = Shape {
    about: "The brokers.",
    fields: &[
        Field::required("brokers", Form::Text("`host:port,…`"), "where the cluster is first asked"),
        Field::optional(
            "properties",
            Form::Free("librdkafka's settings"),
            "settings of the client, verbatim; those that exactly-once rests on are refused",
        ),
    ],
};

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

/// Reads the section. `None` means that mistakes were noted.
pub fn read(mut section: Section<'_>, mistakes: &mut Mistakes) -> Option<KafkaConfig> {
    let brokers = section.required("brokers", mistakes);
    let properties: BTreeMap<String, String> = section.texts("properties", mistakes);
    for property in OURS.iter().filter(|name| properties.contains_key(**name)) {
        let problem = format!("`{property}` is set by Tailwater itself; remove it");
        section.refuse("properties", problem, mistakes);
    }
    section.finish_as(&SHAPE, mistakes);
    Some(KafkaConfig { brokers: brokers?, properties })
}

impl KafkaConfig {
    /// How every client begins.
    pub fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        for (property, value) in &self.properties {
            client.set(property, value);
        }
        client.set("bootstrap.servers", &self.brokers);
        client
    }
}
