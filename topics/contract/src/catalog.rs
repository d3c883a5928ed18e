//! All declared topics and sinks together, checked against each other.

use std::collections::BTreeMap;
use std::path::Path;

use tailwater_document::{Mistake, Mistakes, Place, parse};

use crate::spec::{Load, Spec};
use crate::{DocumentSpec, From, Mask, SinkKind, SinkSpec, TopicName, TopicSpec, Values};

/// Everything declared in a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    /// Topics, in the order they were declared.
    pub topics: Vec<TopicSpec>,
    /// Sinks, in the order they were declared.
    pub sinks: Vec<SinkSpec>,
}

impl Catalog {
    /// Reads all files and checks them together.
    ///
    /// `files` are (name as the user knows it, text). `load` reads a file that a spec names; its path is given
    /// relative to the file that names it.
    ///
    /// # Errors
    /// Every mistake of every file, sorted by place.
    pub fn parse<'f>(
        files: impl IntoIterator<Item = (&'f str, &'f str)>,
        load: Load<'_>,
    ) -> Result<Self, Vec<Mistake>> {
        let mut mistakes = Mistakes::default();
        let mut catalog = Self::default();
        for (file, text) in files {
            let folder = Path::new(file).parent().unwrap_or(Path::new(""));
            let load_beside = |path: &Path| load(&folder.join(path));
            match parse(file, text) {
                Err(mistake) => mistakes.push(mistake),
                Ok(documents) => {
                    for node in documents {
                        match Spec::read(&node, &load_beside, &mut mistakes) {
                            Some(Spec::Topic(topic)) => catalog.topics.push(topic),
                            Some(Spec::Sink(sink)) => catalog.sinks.push(sink),
                            None => {}
                        }
                    }
                }
            }
        }
        catalog.check(&mut mistakes);
        mistakes.finish(Some(catalog))
    }

    /// The topic of this name.
    pub fn topic(&self, name: &TopicName) -> Option<&TopicSpec> {
        self.topics.iter().find(|topic| topic.name == *name)
    }

    fn check(&self, mistakes: &mut Mistakes) {
        self.check_topics(mistakes);
        self.check_sinks(mistakes);
    }

    fn check_topics(&self, mistakes: &mut Mistakes) {
        let mut names = BTreeMap::new();
        let mut sources: BTreeMap<(&str, String), &TopicSpec> = BTreeMap::new();
        let mut outboxes = BTreeMap::new();
        for topic in &self.topics {
            if let Some(first) = names.insert(&topic.name, topic) {
                let problem =
                    format!("declared twice, first at {}", at(first.declared_at.as_ref()));
                mistakes.add(place(topic.declared_at.as_ref()), "name", problem);
            }
            if topic.name.as_str().starts_with("tailwater.") {
                let problem = "names beginning with `tailwater.` are our own topics";
                mistakes.add(place(topic.declared_at.as_ref()), "name", problem);
            }
            let source = match &topic.from {
                From::Table(table) => ("", table.to_string()),
                From::Outbox { aggregate, table } => (aggregate.as_str(), table.to_string()),
                // No table has such a name, and no aggregate comes from it.
                From::Message(prefix) => ("", format!("message {prefix}")),
            };
            if let Some(first) = sources.insert(source, topic) {
                let problem = format!("`{}` already takes these rows", first.name);
                mistakes.add(place(topic.declared_at.as_ref()), "from", problem);
            }
            if let From::Message(prefix) = &topic.from
                && let Some(outbox) = self.topics.iter().find(|other| other.takes_prefix(prefix))
            {
                let problem = format!(
                    "messages with prefix `{prefix}` are events of that outbox, which `{}` takes",
                    outbox.name
                );
                mistakes.add(place(topic.declared_at.as_ref()), "from", problem);
            }
            let is_outbox = matches!(topic.from, From::Outbox { .. });
            if let Some(table) = topic.table()
                && outboxes.insert(table, is_outbox).is_some_and(|before| before != is_outbox)
            {
                let problem = format!("`{table}` is an outbox in one topic and a table in another");
                mistakes.add(place(topic.declared_at.as_ref()), "from", problem);
            }
            rows_only(topic, mistakes);
            if is_outbox && topic.key.is_some() {
                let problem =
                    "an outbox event's key is its `partition_key` or `aggregate_id`; remove `key`";
                mistakes.add(place(topic.declared_at.as_ref()), "key", problem);
            }
            if let Some(column) = topic.card_like(key_columns(topic)) {
                let problem =
                    format!("`{column}` looks like card data, which must not enter Kafka");
                mistakes.add(place(topic.declared_at.as_ref()), "key", problem);
            }
        }
    }

    fn check_sinks(&self, mistakes: &mut Mistakes) {
        let mut names = BTreeMap::new();
        let mut aliases = BTreeMap::new();
        for sink in &self.sinks {
            let here = || place(sink.declared_at.as_ref());
            if let Some(first) = names.insert(&sink.name, sink) {
                let problem =
                    format!("declared twice, first at {}", at(first.declared_at.as_ref()));
                mistakes.add(here(), "name", problem);
            }
            for (number, name) in sink.topics.iter().enumerate() {
                if sink.topics[..number].contains(name) {
                    mistakes.add(here(), "topics", format!("`{name}` is listed twice"));
                }
                match (self.topic(name), &sink.kind) {
                    (None, _) => {
                        let problem =
                            format!("nobody writes `{name}`; declare it as a Topic or remove it");
                        mistakes.add(here(), "topics", problem);
                    }
                    (Some(topic), SinkKind::Search(search)) => {
                        for (key, problem) in unshapeable(topic, &search.document) {
                            mistakes.add(here(), format!("search.document.{key}"), problem);
                        }
                        if let Some(why) = unsearchable(topic) {
                            let problem =
                                format!("`{name}` {why}; a search sink needs the rows of a table");
                            mistakes.add(here(), "topics", problem);
                        }
                    }
                    _ => {}
                }
            }
            if let SinkKind::Search(search) = &sink.kind
                && let Some(first) = aliases.insert(&search.alias, &sink.name)
            {
                mistakes.add(
                    here(),
                    "search.alias",
                    format!("`{first}` already writes `{}`", search.alias),
                );
            }
        }
    }
}

/// Notes settings that only the rows of a table can have, and what contradicts itself.
fn rows_only(topic: &TopicSpec, mistakes: &mut Mistakes) {
    let mut refuse =
        |key, problem: String| mistakes.add(place(topic.declared_at.as_ref()), key, problem);
    match &topic.from {
        From::Table(_) => {
            if let Some(column) = key_columns(topic).find(|column| topic.mask.contains_key(*column))
            {
                refuse("mask", format!("`{column}` is in the key, which is never masked"));
            }
        }
        From::Outbox { .. } | From::Message(_) => {
            if topic.values != Values::default() {
                refuse("values", "only rows of a table have another form".to_owned());
            }
            if !topic.mask.is_empty() {
                refuse("mask", "only columns of a table can be masked".to_owned());
            }
        }
    }
    if let From::Message(_) = &topic.from {
        if topic.key.is_some() {
            refuse("key", "the key of a message is its prefix; remove `key`".to_owned());
        }
        if topic.is_compacted() {
            let problem = "all messages have one key, so compaction would keep the last alone";
            refuse("config", problem.to_owned());
        }
    }
}

/// Why a topic cannot feed a search index.
fn unsearchable(topic: &TopicSpec) -> Option<&'static str> {
    match (&topic.from, topic.values) {
        (From::Outbox { .. }, _) => Some("holds events"),
        (From::Message(_), _) => Some("holds messages"),
        (From::Table(_), Values::Debezium) => Some("holds values in Debezium's form"),
        (From::Table(_), Values::Readable) => None,
    }
}

/// What a sink names of a topic's columns that never comes. What its table has is known only when it is applied.
fn unshapeable(topic: &TopicSpec, document: &DocumentSpec) -> Vec<(&'static str, String)> {
    let mut problems = Vec::new();
    if let Some(key) = &topic.key {
        let name = &topic.name;
        for (setting, columns) in
            [("id", document.id.as_slice()), ("routing", document.routing.as_slice())]
        {
            for column in columns.iter().filter(|column| !key.contains(column)) {
                let problem = format!(
                    "`{column}` is not in the key ({}) of `{name}`, and a deletion carries nothing else: it would not find the document; name columns of the key",
                    key.join(", ")
                );
                problems.push((setting, problem));
            }
        }
    }
    for column in document.required() {
        if topic.mask.get(column) == Some(&Mask::Drop) {
            let problem = format!("`{}` leaves `{column}` out by its `mask`", topic.name);
            problems.push(("include", problem));
        }
    }
    problems
}

fn key_columns(topic: &TopicSpec) -> impl Iterator<Item = &str> {
    topic.key.iter().flatten().map(String::as_str)
}

fn place(declared_at: Option<&Place>) -> Place {
    declared_at.cloned().unwrap_or_else(|| Place::file("catalog"))
}

fn at(declared_at: Option<&Place>) -> String {
    place(declared_at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Generation, Guarantee, Registration, Registrations, SinkRegistration, Standing, TableName,
        TopicRegistration,
    };

    const GOOD: &str = "\
apiVersion: tailwater/v1
kind: Topic
name: inventory.cdc
from: { table: inventory.stock }
partitions: 3
config: { cleanup.policy: compact }
---
apiVersion: tailwater/v1
kind: Topic
name: orders.events
from: { outbox: orders }
---
apiVersion: tailwater/v1
kind: Sink
name: lake
type: archive
topics: [orders.events, inventory.cdc]
archive: { bucket: events, segment: { bytes: 64MiB, age: 60s } }
---
apiVersion: tailwater/v1
kind: Sink
name: stock-search
type: search
topics: [inventory.cdc]
search: { alias: stock, mapping: m.json }
";

    fn load(path: &Path) -> std::io::Result<String> {
        match path.to_str() {
            Some("folder/m.json") => Ok(r#"{"mappings":{}}"#.to_owned()),
            Some(other) => Err(std::io::Error::other(format!("no {other}"))),
            None => unreachable!("test paths are text"),
        }
    }

    fn mistakes_of(text: &str) -> Vec<String> {
        let mistakes =
            Catalog::parse([("folder/a.yaml", text)], &load).expect_err("must be refused");
        mistakes.iter().map(ToString::to_string).collect()
    }

    fn topic(name: &str, from: &str) -> String {
        format!("---\napiVersion: tailwater/v1\nkind: Topic\nname: {name}\nfrom: {from}\n")
    }

    #[test]
    fn a_good_catalog_is_read_with_defaults() {
        let catalog = Catalog::parse([("folder/a.yaml", GOOD)], &load).expect("good");
        assert_eq!(catalog.topics.len(), 2);
        assert!(catalog.topics[0].is_compacted());
        let outbox = TableName { schema: "orders".into(), table: "outbox".into() };
        assert_eq!(catalog.topics[1].table(), Some(&outbox));
        assert_eq!(catalog.topics[1].partitions, 1);
        let SinkKind::Archive(archive) = &catalog.sinks[0].kind else { panic!("archive") };
        assert_eq!((archive.segment.records, archive.segment.age_ms), (500_000, 60_000));
        assert_eq!((archive.guarantee, archive.segment.idle_ms), (Guarantee::ExactlyOnce, None));
    }

    #[test]
    fn an_archive_says_what_it_promises_and_when_it_closes_a_segment() {
        let with = |archive: &str| {
            GOOD.replace("bucket: events, segment: { bytes: 64MiB, age: 60s }", archive)
        };
        let text = with("bucket: events, guarantee: at-least-once, segment: { idle: 5s }");
        let catalog = Catalog::parse([("folder/a.yaml", text.as_str())], &load).expect("good");
        let SinkKind::Archive(archive) = &catalog.sinks[0].kind else { panic!("archive") };
        let said = (archive.guarantee, archive.segment.idle_ms);
        assert_eq!(said, (Guarantee::AtLeastOnce, Some(5_000)));
        for (archive, problem) in [
            ("bucket: events, guarantee: always", "`exactly-once` or `at-least-once`"),
            ("bucket: events, segment: { idle: 0s }", "idle"),
        ] {
            let found = mistakes_of(&with(archive));
            assert!(found[0].contains(problem), "{found:?}");
        }
    }

    #[test]
    fn a_registration_is_read_as_it_was_written() {
        let catalog = Catalog::parse([("folder/a.yaml", GOOD)], &load).expect("good");
        let mut written = Vec::new();
        for spec in catalog.topics {
            written.push(Registration::Topic(TopicRegistration {
                spec,
                key_columns: vec!["id".into()],
                generation: Generation::default(),
                standing: Standing::Active,
                reread: None,
            }));
        }
        for spec in catalog.sinks {
            written.push(Registration::Sink(SinkRegistration {
                spec,
                origins: vec![],
                standing: Standing::Active,
            }));
        }
        let mut read = Registrations::default();
        for registration in &written {
            let value = serde_json::to_vec(registration).expect("serializes");
            read.on_record(registration.key().as_bytes(), Some(&value)).expect("reads");
        }
        assert_eq!((read.topics.len(), read.sinks.len()), (2, 2));
        read.on_record(b"sink/lake", None).expect("reads");
        assert_eq!(read.sinks.len(), 1);
        assert!(read.on_record(b"else", None).is_err());
    }

    #[test]
    fn sinks_on_topics_nobody_writes_are_refused() {
        let text = GOOD.replace("topics: [orders.events, inventory.cdc]", "topics: [orders.evnts]");
        let found = mistakes_of(&text);
        assert!(
            found[0].contains("folder/a.yaml:15") && found[0].contains("orders.evnts"),
            "{found:?}"
        );
    }

    #[test]
    fn two_topics_may_not_take_the_same_rows_or_name() {
        let twice = topic("a", "{ table: s.t }") + &topic("b", "{ table: s.t }");
        assert!(mistakes_of(&twice)[0].contains("already takes"));
        let named = topic("a", "{ table: s.t }") + &topic("a", "{ table: s.u }");
        assert!(mistakes_of(&named)[0].contains("declared twice"));
    }

    #[test]
    fn messages_under_the_name_of_an_outbox_are_its_events() {
        let both = topic("a", "{ outbox: orders }") + &topic("b", "{ message: orders.outbox }");
        assert!(mistakes_of(&both)[0].contains("are events of that outbox, which `a` takes"));
    }

    #[test]
    fn events_do_not_go_into_a_search_index() {
        let text = GOOD.replace("topics: [inventory.cdc]", "topics: [orders.events]");
        assert!(mistakes_of(&text)[0].contains("needs the rows of a table"));
    }

    #[test]
    fn shapes_that_deletions_or_masks_defeat_are_refused() {
        let sink = |document: &str| {
            format!(
                "---\napiVersion: tailwater/v1\nkind: Sink\nname: s\ntype: search\ntopics: [a]\nsearch: {{ alias: s, mapping: m.json, document: {{ {document} }} }}\n"
            )
        };
        let rows = topic("a", "{ table: s.t }") + "key: [tenant, id]\nmask: { card: drop }\n";
        for (document, problem) in [
            ("id: [sku]", "`search.document.id`: `sku` is not in the key (tenant, id)"),
            ("routing: sku", "`search.document.routing`: `sku` is not in the key"),
            ("include: [id, card]", "leaves `card` out by its `mask`"),
            ("id: [id], routing: tenant", "`search.document.routing`: `tenant` is not in `id`"),
        ] {
            let found = mistakes_of(&(rows.clone() + &sink(document)));
            assert!(
                found[0].contains(problem) && found[0].contains("folder/a.yaml:1"),
                "{found:?}"
            );
        }
        let text = rows + &sink("id: [id, tenant], routing: tenant, exclude: [card]");
        let catalog = Catalog::parse([("folder/a.yaml", text.as_str())], &load).expect("good");
        let SinkKind::Search(search) = &catalog.sinks[0].kind else { panic!("search") };
        assert_eq!(search.document.id, ["id", "tenant"]);
    }

    #[test]
    fn masks_value_forms_and_messages_are_read() {
        let text = topic("a", "{ table: s.t }")
            + "mask: { email: hmac, note: truncate(8), cvv: drop }\nvalues: debezium\n"
            + &topic("m", "{ message: audit }");
        let catalog = Catalog::parse([("a.yaml", text.as_str())], &load).expect("good");
        let rows = &catalog.topics[0];
        assert_eq!(rows.values, Values::Debezium);
        assert_eq!(rows.mask["note"], crate::Mask::Truncate(8));
        assert_eq!(rows.card_like(["cvv"]), None, "a masked column was thought of");
        assert_eq!(catalog.topics[1].from, From::Message("audit".into()));
    }

    #[test]
    fn combinations_that_mean_nothing_are_refused() {
        let search = |name: &str| {
            format!(
                "---\napiVersion: tailwater/v1\nkind: Sink\nname: s\ntype: search\ntopics: [{name}]\nsearch: {{ alias: s, mapping: m.json }}\n"
            )
        };
        let rows = topic("a", "{ table: s.t }");
        let message = topic("a", "{ message: p }");
        for (text, problem) in [
            (topic("a", "{ message: p, table: s.t }"), "belong to no table"),
            (message.clone() + &topic("b", "{ message: p }"), "already takes"),
            (message.clone() + "config: { cleanup.policy: compact }\n", "keep the last alone"),
            (message.clone() + "key: [a]\n", "is its prefix"),
            (message.clone() + "values: debezium\n", "only rows of a table"),
            (message.clone() + &search("a"), "holds messages"),
            (topic("a", "{ outbox: o }") + "mask: { payload: drop }\n", "only columns of a table"),
            (rows.clone() + "values: avro\n", "`readable` or `debezium`"),
            (rows.clone() + "mask: { a: hash }\n", "`a: hash`: expected `drop`"),
            (rows.clone() + "key: [a]\nmask: { a: hmac }\n", "never masked"),
            (rows.clone() + "values: debezium\n" + &search("a"), "Debezium's form"),
        ] {
            let found = mistakes_of(&text);
            assert!(found[0].contains(problem), "{text}\n{found:?}");
        }
    }

    #[test]
    fn mistakes_of_several_documents_come_together() {
        let text = GOOD.replace("partitions: 3", "partitions: none").replace("m.json", "n.json");
        let found = mistakes_of(&text);
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
