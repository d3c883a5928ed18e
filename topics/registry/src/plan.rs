//! Declared against observed: what to do, or why it cannot be done.
//!
//! ```text
//!  catalog ─┐
//!           ├─▶ plan ─▶ topics ▸ bucket, index ▸ registered topics ▸ publications ▸ registered sinks
//!  world ───┘      └──▶ refusals, all of them, and then no change at all
//! ```
//!
//! * The order is what makes a kill between any two changes harmless. A topic is registered before its table is
//!   published, so the reader never meets a row that it has no route for; a sink is registered when everything
//!   it needs is there.
//! * Nothing is ever deleted or shrunk. What stands in the world and not in the catalog is left alone, unless its
//!   removal is asked for: [`crate::removal`].

use std::collections::{BTreeMap, BTreeSet};

use tailwater_topics_contract::{
    Catalog, From, Mask, PipelineName, SinkKind, SinkName, SinkRegistration, SinkSpec, Standing,
    TableName, TopicName, TopicRegistration, TopicSpec, Values,
};

use crate::change::{Change, NewTopic, Setting, source};
use crate::refusal::Refusal;
use crate::world::{IndexState, PublicationState, TopicState, World};

/// Which part of a catalog is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Topics and sinks.
    All,
    /// Topics only.
    Topics,
    /// Sinks only; the topics they take must be registered.
    Sinks,
}

/// What has to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The changes; none means that the world is as declared.
    pub changes: Vec<Change>,
}

/// Topics the pipeline needs for itself, whatever is declared.
pub fn internal_topics(pipeline: &PipelineName) -> [NewTopic; 2] {
    // Small segments: only closed ones are compacted, and both topics are read from their beginning at each
    // start. At Kafka's default of 1 GiB a busy reader would have hours of progress to read.
    let config = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.1"),
        ("segment.bytes", "16777216"),
    ];
    [pipeline.registrations_topic(), pipeline.progress_topic()].map(|name| NewTopic {
        name,
        partitions: 1,
        replication: None,
        config: owned(&config),
    })
}

/// Largest record that can be set aside. Whatever a source topic took must fit with the headers that say why it was set
/// aside, so the broker's limit for ordinary topics does not hold here.
const DEAD_LETTER_BYTES_MAX: &str = "67108864";

/// Where a sink sets records aside. They are kept until somebody decides about them.
pub fn dead_letter_topic(pipeline: &PipelineName, sink: &SinkName) -> NewTopic {
    NewTopic {
        name: pipeline.dead_letter_topic(sink),
        partitions: 1,
        replication: None,
        config: owned(&[
            ("cleanup.policy", "delete"),
            ("max.message.bytes", DEAD_LETTER_BYTES_MAX),
            ("retention.ms", "-1"),
        ]),
    }
}

/// A declared topic as it is created.
pub fn declared_topic(spec: &TopicSpec) -> NewTopic {
    NewTopic {
        name: spec.name.clone(),
        partitions: spec.partitions,
        replication: spec.replication,
        config: spec.config.clone(),
    }
}

/// Every change that makes the world as declared, or everything that stands in the way.
pub fn plan(
    pipeline: &PipelineName,
    catalog: &Catalog,
    scope: Scope,
    world: &World,
) -> Result<Plan, Vec<Refusal>> {
    let (topics, sinks) = (scope != Scope::Sinks, scope != Scope::Topics);
    let mut planner = Planner {
        pipeline,
        catalog,
        world,
        sinks_planned: sinks,
        refusals: Vec::new(),
        topics: Vec::new(),
        destinations: Vec::new(),
        registered_topics: Vec::new(),
        registered_sinks: Vec::new(),
    };
    for topic in internal_topics(pipeline) {
        planner.own_topic(topic);
    }
    for spec in catalog.topics.iter().filter(|_| topics) {
        planner.topic(spec);
    }
    for spec in catalog.sinks.iter().filter(|_| sinks) {
        planner.sink(spec, topics);
    }
    let publications = if topics { planner.publications() } else { Vec::new() };
    if !planner.refusals.is_empty() {
        planner.refusals.sort();
        planner.refusals.dedup();
        return Err(planner.refusals);
    }
    let changes = [
        planner.topics,
        planner.destinations,
        planner.registered_topics,
        publications,
        planner.registered_sinks,
    ];
    Ok(Plan { changes: changes.concat() })
}

struct Planner<'a> {
    pipeline: &'a PipelineName,
    catalog: &'a Catalog,
    world: &'a World,
    sinks_planned: bool,
    refusals: Vec<Refusal>,
    topics: Vec<Change>,
    destinations: Vec<Change>,
    registered_topics: Vec<Change>,
    registered_sinks: Vec<Change>,
}

impl Planner<'_> {
    /// A topic of the pipeline itself: created if missing, its settings held to what the pipeline relies on.
    fn own_topic(&mut self, topic: NewTopic) {
        match self.world.topics.get(&topic.name) {
            None => self.topics.push(Change::CreateTopic(topic)),
            Some(found) => {
                if found.partitions != topic.partitions {
                    self.refusals.push(Refusal {
                        place: None,
                        subject: format!("topic `{}`", topic.name),
                        problem: format!(
                            "has {} partitions where this pipeline keeps exactly {}; it was made by somebody else",
                            found.partitions, topic.partitions
                        ),
                        remedy: None,
                    });
                }
                self.settings(&topic.name, &topic.config, found);
            }
        }
    }

    fn topic(&mut self, spec: &TopicSpec) {
        let stored = self.world.registrations.topic(&spec.name);
        match self.world.topics.get(&spec.name) {
            None => match self.world.uncreatable.get(&spec.name) {
                Some(why) => self.refuse_topic(spec, format!("Kafka would not create it: {why}")),
                None => self.topics.push(Change::CreateTopic(declared_topic(spec))),
            },
            Some(found) => self.existing_topic(spec, found, stored.is_some()),
        }
        self.same_rows(spec);
        self.unrouted(spec);
        let Some(key_columns) = self.key_columns(spec) else { return };
        let standing = stored.map(|stored| stored.standing).unwrap_or_default();
        let spec_stored = undeclared(spec.clone());
        let reread = stored.and_then(|stored| stored.reread.clone());
        let registration = TopicRegistration { spec: spec_stored, key_columns, standing, reread };
        match stored {
            Some(stored) if *stored == registration => {}
            Some(stored) if stored.spec.from != spec.from => {
                let problem = format!(
                    "is registered for {}; a topic keeps its source, so declare the new one under another name",
                    source(&stored.spec.from)
                );
                self.refuse_topic(spec, problem);
            }
            Some(stored) if stored.key_columns != registration.key_columns => {
                let problem = format!(
                    "its key was ({}) and would become ({}), which moves rows to other partitions; declare the new key under another name",
                    stored.key_columns.join(", "),
                    registration.key_columns.join(", ")
                );
                self.refuse_topic(spec, problem);
            }
            Some(stored) if stored.spec.values != spec.values => {
                let problem = "holds values in another form, and its consumers would meet both; declare the new form under another name";
                self.refuse_topic(spec, problem);
            }
            _ => self.registered_topics.push(Change::RegisterTopic(registration)),
        }
    }

    /// The reader stops at an event whose aggregate type no topic takes, so one that is there already is a warning.
    fn unrouted(&mut self, spec: &TopicSpec) {
        let From::Outbox { table, .. } = &spec.from else { return };
        let declared = self.catalog.topics.iter();
        let registered = self.world.registrations.topics.values().map(|topic| &topic.spec);
        let routed: BTreeSet<&str> = declared
            .chain(registered)
            .filter_map(|topic| match &topic.from {
                From::Outbox { aggregate, table: other } if other == table => {
                    Some(aggregate.as_str())
                }
                _ => None,
            })
            .collect();
        let found = self.world.aggregates.get(table).into_iter().flatten();
        let unrouted: Vec<String> = found
            .filter(|aggregate| !routed.contains(aggregate.as_str()))
            .map(|aggregate| format!("`{aggregate}`"))
            .collect();
        if let Some(first) = unrouted.first() {
            let problem = format!(
                "outbox `{table}` holds events of aggregate type {}, which no topic takes: the reader would stop at the next one; declare a topic `from: {{ outbox: {}, table: {table} }}`, and remove it again after the apply if they are not wanted",
                unrouted.join(", "),
                first.trim_matches('`')
            );
            self.refuse_topic(spec, problem);
        }
    }

    /// Rows go to one topic. Within a catalog that is checked when it is read; here against what was registered
    /// by other catalogs.
    fn same_rows(&mut self, spec: &TopicSpec) {
        let same = |other: &&TopicRegistration| {
            let other = &other.spec;
            let is_declared = self.catalog.topics.iter().any(|topic| topic.name == other.name);
            let same_rows = match (&other.from, &spec.from) {
                (From::Outbox { .. }, From::Outbox { .. })
                | (From::Message(_), _)
                | (_, From::Message(_)) => other.from == spec.from,
                _ => other.table() == spec.table(),
            };
            other.name != spec.name && !is_declared && same_rows
        };
        if let Some(other) = self.world.registrations.written().find(same) {
            let problem = format!(
                "`{}` is registered for the same rows; remove it first: `tailwater topics remove {0}`",
                other.spec.name
            );
            self.refuse_topic(spec, problem);
        }
    }

    fn existing_topic(&mut self, spec: &TopicSpec, found: &TopicState, registered: bool) {
        let (has, wants) = (found.partitions, spec.partitions);
        if found.has_records && !registered {
            let problem = if self.world.registrations.topics.contains_key(&spec.name) {
                "was removed and still holds its records; changes since then would be missing in it, so choose another name or delete the topic in Kafka"
            } else {
                "already holds records that this pipeline did not write; choose another name"
            };
            self.refuse_topic(spec, problem);
        } else if wants < has {
            let problem = format!(
                "has {has} partitions and Kafka cannot take one away; declare `partitions: {has}`"
            );
            self.refuse_topic(spec, problem);
        } else if wants > has && found.has_records {
            let problem = format!(
                "holds records in {has} partitions; with {wants} the same key would go on elsewhere and lose its order"
            );
            self.refuse_topic(spec, problem);
        } else if wants > has {
            self.grown_under_a_sink(spec);
            self.topics.push(Change::GrowTopic { name: spec.name.clone(), from: has, to: wants });
        }
        for key in spec.config.keys().filter(|key| !found.config.contains_key(*key)) {
            self.refuse_topic(spec, format!("`{key}` is not a topic setting that Kafka knows"));
        }
        self.settings(&spec.name, &spec.config, found);
    }

    /// A sink must know the beginning of every partition it is given, so it is registered anew with the topic.
    fn grown_under_a_sink(&mut self, spec: &TopicSpec) {
        for sink in self.world.registrations.standing_sinks() {
            let name = &sink.spec.name;
            let is_planned = self.sinks_planned
                && self.catalog.sinks.iter().any(|planned| planned.name == *name);
            if sink.spec.topics.contains(&spec.name) && !is_planned {
                let problem = format!(
                    "new partitions must be made known to sink `{name}` too; apply it together with this topic: `tailwater apply`"
                );
                self.refuse_topic(spec, problem);
            }
        }
    }

    fn settings(
        &mut self,
        name: &TopicName,
        wanted: &BTreeMap<String, String>,
        found: &TopicState,
    ) {
        let differs = |(key, to): (&String, &String)| {
            let from = found.config.get(key).filter(|from| *from != to)?;
            Some(Setting { key: key.clone(), from: from.clone(), to: to.clone() })
        };
        let settings: Vec<Setting> = wanted.iter().filter_map(differs).collect();
        if !settings.is_empty() {
            self.topics.push(Change::SetTopicConfig { name: name.clone(), settings });
        }
    }

    /// The key columns of a topic; `None` means a refusal was noted.
    fn key_columns(&mut self, spec: &TopicSpec) -> Option<Vec<String>> {
        // The key of a message is its prefix.
        let Some(name) = spec.table() else { return Some(Vec::new()) };
        let Some(table) = self.world.tables.get(name) else {
            self.refuse_topic(spec, format!("table `{name}` does not exist in this database"));
            return None;
        };
        if let Some(column) = spec.card_like(table.columns.iter().map(|c| c.name.as_str())) {
            self.refusals.push(Refusal {
                remedy: Some(format!("expose: [{column}]")),
                ..topic_refusal(
                    spec,
                    format!(
                        "column `{column}` of `{name}` looks like card data, which must not enter Kafka by accident; rename it, or if it is harmless say so"
                    ),
                )
            });
        }
        let found = match &spec.from {
            From::Table(_) => table.key_columns(name, spec.key.as_deref()).and_then(|key| {
                let mut obstacles = table.mask_obstacles(name, &spec.mask, &key);
                if spec.values == Values::Debezium {
                    obstacles.extend(table.debezium_obstacles(name, &spec.mask));
                }
                if obstacles.is_empty() { Ok(key) } else { Err(obstacles) }
            }),
            From::Message(_) => Ok(Vec::new()),
            From::Outbox { .. } => match table.outbox_obstacles(name) {
                obstacles if obstacles.is_empty() => Ok(Vec::new()),
                obstacles => Err(obstacles),
            },
        };
        found
            .map_err(|obstacles| {
                for obstacle in obstacles {
                    self.refusals.push(Refusal {
                        remedy: obstacle.remedy,
                        ..topic_refusal(spec, obstacle.problem)
                    });
                }
            })
            .ok()
    }

    fn sink(&mut self, spec: &SinkSpec, with_topics: bool) {
        self.own_topic(dead_letter_topic(self.pipeline, &spec.name));
        self.destination(spec);
        for topic in &spec.topics {
            self.sink_topic(spec, topic, with_topics);
        }
        let stored = self.world.registrations.sinks.get(&spec.name);
        if let Some(stored) = stored {
            self.same_destination(spec, stored);
        }
        let origins = stored.map(|stored| stored.origins.clone()).unwrap_or_default();
        let known: BTreeSet<(&TopicName, i32)> =
            origins.iter().map(|origin| (&origin.topic, origin.partition)).collect();
        let new: Vec<(TopicName, i32)> = spec
            .topics
            .iter()
            .flat_map(|topic| {
                let count = self.partitions_after(topic, with_topics);
                (0..count).map(move |partition| (topic, partition))
            })
            .filter(|place| !known.contains(place))
            .map(|(topic, partition)| (topic.clone(), partition))
            .collect();
        let standing = match stored.map(|stored| stored.standing) {
            Some(Standing::Paused) => Standing::Paused,
            _ => Standing::Active,
        };
        let spec = undeclared_sink(spec.clone());
        let is_same =
            |stored: &SinkRegistration| stored.spec == spec && stored.standing == standing;
        if !new.is_empty() || !stored.is_some_and(is_same) {
            self.registered_sinks.push(Change::RegisterSink { spec, standing, origins, new });
        }
    }

    fn destination(&mut self, spec: &SinkSpec) {
        match &spec.kind {
            SinkKind::Archive(archive) => match &self.world.buckets {
                None => self.refuse_sink(spec, "there is no `s3` section in the configuration"),
                Some(buckets) => {
                    let change = Change::CreateBucket { bucket: archive.bucket.clone() };
                    if !buckets.contains(&archive.bucket) && !self.destinations.contains(&change) {
                        self.destinations.push(change);
                    }
                }
            },
            SinkKind::Search(search) => {
                let Some(indices) = &self.world.indices else {
                    let problem = "there is no `opensearch` section in the configuration";
                    return self.refuse_sink(spec, problem);
                };
                match indices.get(&search.alias) {
                    Some(IndexState::Ready) => {}
                    Some(IndexState::Unusable(why)) => self.refuse_sink(spec, why),
                    Some(IndexState::Absent) | None => {
                        self.destinations.push(Change::CreateIndex { spec: search.clone() });
                    }
                }
            }
        }
    }

    fn sink_topic(&mut self, spec: &SinkSpec, topic: &TopicName, with_topics: bool) {
        if !with_topics && self.world.registrations.topic(topic).is_none() {
            let problem =
                format!("topic `{topic}` is not registered; run `tailwater topics apply` first");
            return self.refuse_sink(spec, problem);
        }
        let SinkKind::Search(_) = &spec.kind else { return };
        let Some(topic) = self.catalog.topic(topic) else { return };
        let Some(table) = topic.table() else { return };
        let Some(state) = self.world.tables.get(table) else { return };
        let mut left_out = state.columns_left_out();
        left_out.retain(|column| topic.mask.get(*column) != Some(&Mask::Drop));
        if !left_out.is_empty() {
            let columns: Vec<String> = left_out.iter().map(|name| format!("`{name}`")).collect();
            self.refusals.push(Refusal {
                remedy: Some(state.full_identity_sql(table)),
                ..sink_refusal(
                    spec,
                    format!(
                        "an update of `{table}` may leave out unchanged large values of {}, and the document would lose them",
                        columns.join(", ")
                    ),
                )
            });
        }
    }

    fn same_destination(&mut self, spec: &SinkSpec, stored: &SinkRegistration) {
        let problem = match (&stored.spec.kind, &spec.kind) {
            (SinkKind::Archive(was), SinkKind::Archive(is)) => {
                ((&was.bucket, &was.prefix) != (&is.bucket, &is.prefix)).then(|| {
                    format!("is registered for bucket `{}` and prefix `{}`", was.bucket, was.prefix)
                })
            }
            (SinkKind::Search(was), SinkKind::Search(is)) if was.alias != is.alias => {
                Some(format!("is registered for alias `{}`", was.alias))
            }
            (SinkKind::Search(was), SinkKind::Search(is)) => {
                if was.mapping != is.mapping {
                    let name = &spec.name;
                    let problem = format!(
                        "is registered with another mapping, and an index keeps its own; `tailwater sinks rebuild {name} -f DIR` fills a new index with the declared one and puts it in place"
                    );
                    self.refuse_sink(spec, problem);
                }
                None
            }
            (SinkKind::Archive(_), SinkKind::Search(_)) => {
                Some("is registered as an archive".into())
            }
            (SinkKind::Search(_), SinkKind::Archive(_)) => {
                Some("is registered as a search sink".into())
            }
        };
        if let Some(problem) = problem {
            let problem =
                format!("{problem}; declare the new destination as a sink of another name");
            self.refuse_sink(spec, problem);
        }
        if stored.standing == Standing::Removed {
            return;
        }
        for topic in stored.spec.topics.iter().filter(|topic| !spec.topics.contains(topic)) {
            let problem = format!(
                "takes `{topic}` since it was registered, and nothing is ever taken away; list it again"
            );
            self.refuse_sink(spec, problem);
        }
    }

    /// Partitions a topic has once the plan is done.
    fn partitions_after(&self, topic: &TopicName, with_topics: bool) -> i32 {
        let declared = self.catalog.topic(topic).filter(|_| with_topics);
        let declared = declared.map_or(0, |spec| spec.partitions);
        let found = self.world.topics.get(topic).map_or(0, |state| state.partitions);
        declared.max(found) as i32
    }

    /// Both publications exist from the first plan on, even without tables: the reader names both in every
    /// start, and Postgres ends a stream that names a missing one.
    fn publications(&mut self) -> Vec<Change> {
        let mut changed = BTreeSet::new();
        let mut outboxes = BTreeSet::new();
        for spec in &self.catalog.topics {
            match &spec.from {
                From::Table(table) => changed.insert(table.clone()),
                From::Outbox { table, .. } => outboxes.insert(table.clone()),
                From::Message(_) => false,
            };
        }
        let changes_name = self.pipeline.changes_publication();
        let outbox_name = self.pipeline.outbox_publication();
        self.refuse_strays(&changes_name, &outboxes);
        let mut changes =
            self.publication(changes_name, "insert, update, delete, truncate", &changed);
        changes.extend(self.publication(outbox_name, "insert", &outboxes));
        changes
    }

    fn publication(
        &mut self,
        name: String,
        publish: &'static str,
        wanted: &BTreeSet<TableName>,
    ) -> Vec<Change> {
        let Some(found) = self.world.publications.get(&name) else {
            let tables = wanted.iter().cloned().collect();
            return vec![Change::CreatePublication { name, publish, tables }];
        };
        if found.takes_all {
            self.refuse_publication(
                &name,
                "is FOR ALL TABLES, so tables without a topic would be sent too",
                format!("DROP PUBLICATION \"{name}\";"),
            );
        }
        let mut changes = Vec::new();
        let PublicationState { via_root, publish: publishes, .. } = found;
        if !via_root || publishes != publish {
            changes.push(Change::SetPublication { name: name.clone(), publish });
        }
        let tables: Vec<TableName> = wanted.difference(&found.tables).cloned().collect();
        if !tables.is_empty() {
            changes.push(Change::PublishTables { name, tables });
        }
        changes
    }

    /// An outbox in the publication of changes would have its deletes and truncates sent as if they were events.
    fn refuse_strays(&mut self, changes_name: &str, outboxes: &BTreeSet<TableName>) {
        let Some(found) = self.world.publications.get(changes_name) else { return };
        let strays: Vec<&TableName> = found.tables.intersection(outboxes).collect();
        for table in strays.into_iter().filter(|_| !found.takes_all) {
            self.refuse_publication(
                changes_name,
                format!("holds the outbox `{table}`, of which only inserts may be sent"),
                format!("ALTER PUBLICATION \"{changes_name}\" DROP TABLE {};", table.quoted()),
            );
        }
    }

    fn refuse_topic(&mut self, spec: &TopicSpec, problem: impl Into<String>) {
        self.refusals.push(topic_refusal(spec, problem.into()));
    }

    fn refuse_sink(&mut self, spec: &SinkSpec, problem: impl Into<String>) {
        self.refusals.push(sink_refusal(spec, problem.into()));
    }

    fn refuse_publication(&mut self, name: &str, problem: impl Into<String>, remedy: String) {
        self.refusals.push(Refusal {
            place: None,
            subject: format!("publication `{name}`"),
            problem: problem.into(),
            remedy: Some(remedy),
        });
    }
}

fn topic_refusal(spec: &TopicSpec, problem: String) -> Refusal {
    Refusal {
        place: spec.declared_at.clone(),
        subject: format!("topic `{}`", spec.name),
        problem,
        remedy: None,
    }
}

fn sink_refusal(spec: &SinkSpec, problem: String) -> Refusal {
    Refusal {
        place: spec.declared_at.clone(),
        subject: format!("sink `{}`", spec.name),
        problem,
        remedy: None,
    }
}

/// Where something was declared is not stored, so it must not make two specs differ.
fn undeclared(mut spec: TopicSpec) -> TopicSpec {
    spec.declared_at = None;
    spec
}

fn undeclared_sink(mut spec: SinkSpec) -> SinkSpec {
    spec.declared_at = None;
    spec
}

fn owned(config: &[(&str, &str)]) -> BTreeMap<String, String> {
    config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

impl Plan {
    /// Whether the world is as declared.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tailwater_topics_contract::{Origin, Registration};

    use super::*;
    use crate::removal;
    use crate::table::{Column, Identity, TableKind, TableState};

    const CATALOG: &str = "\
apiVersion: tailwater/v1
kind: Topic
name: stock.cdc
from: { table: shop.stock }
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
topics: [stock.cdc, orders.events]
archive: { bucket: events }
---
apiVersion: tailwater/v1
kind: Sink
name: stock-search
type: search
topics: [stock.cdc]
search: { alias: stock, mapping: m.json }
";

    fn catalog(text: &str) -> Catalog {
        let load = |_: &Path| Ok(r#"{"mappings":{}}"#.to_owned());
        Catalog::parse([("catalog.yaml", text)], &load).expect("a good catalog")
    }

    fn pipeline() -> PipelineName {
        "shop".parse().expect("valid")
    }

    fn topic(name: &str) -> TopicName {
        name.parse().expect("valid")
    }

    fn column(name: &str, data_type: &str) -> Column {
        Column {
            name: name.to_owned(),
            data_type: data_type.to_owned(),
            is_toastable: data_type == "text" || data_type == "jsonb",
            is_generated: false,
            is_nullable: false,
            base_type: data_type.to_owned(),
            is_enum: false,
        }
    }

    fn stock() -> TableState {
        TableState {
            kind: TableKind::Plain,
            is_logged: true,
            columns: vec![column("id", "uuid"), column("name", "text")],
            primary_key: vec!["id".into()],
            identity: Identity::Full,
            has_toast: true,
            leaves: vec![],
        }
    }

    fn outbox() -> TableState {
        let columns = [
            ("id", "uuid"),
            ("created_at", "timestamp with time zone"),
            ("aggregate_type", "text"),
            ("aggregate_id", "text"),
            ("event_type", "text"),
            ("event_version", "smallint"),
            ("partition_key", "text"),
            ("payload", "jsonb"),
            ("headers", "jsonb"),
            ("correlation_id", "uuid"),
            ("causation_id", "uuid"),
            ("traceparent", "text"),
        ];
        TableState {
            kind: TableKind::Partitioned,
            columns: columns.map(|(name, data_type)| column(name, data_type)).to_vec(),
            identity: Identity::Default,
            ..stock()
        }
    }

    /// Tables and servers, and nothing of the pipeline.
    fn empty_world() -> World {
        let name = |text: &str| text.parse::<TableName>().expect("valid");
        World {
            tables: BTreeMap::from([
                (name("shop.stock"), stock()),
                (name("orders.outbox"), outbox()),
            ]),
            buckets: Some(BTreeSet::new()),
            indices: Some(BTreeMap::new()),
            ..World::default()
        }
    }

    /// What the servers do with a change.
    fn carry_out(world: &mut World, change: &Change) {
        match change.clone() {
            Change::CreateTopic(new) => {
                let state = TopicState {
                    partitions: new.partitions,
                    config: new.config,
                    has_records: false,
                };
                world.topics.insert(new.name, state);
            }
            Change::GrowTopic { name, to, .. } => {
                world.topics.get_mut(&name).expect("exists").partitions = to;
            }
            Change::SetTopicConfig { name, settings } => {
                let config = &mut world.topics.get_mut(&name).expect("exists").config;
                config.extend(settings.into_iter().map(|setting| (setting.key, setting.to)));
            }
            Change::CreateBucket { bucket } => {
                world.buckets.get_or_insert_default().insert(bucket);
            }
            Change::CreateIndex { spec } => {
                world.indices.get_or_insert_default().insert(spec.alias, IndexState::Ready);
            }
            Change::RegisterTopic(registration) => {
                let name = registration.spec.name.clone();
                world.registrations.topics.insert(name, registration);
            }
            Change::CreatePublication { name, publish, tables } => {
                let state = PublicationState {
                    tables: tables.into_iter().collect(),
                    takes_all: false,
                    via_root: true,
                    publish: publish.to_owned(),
                };
                world.publications.insert(name, state);
            }
            Change::SetPublication { name, publish } => {
                let found = world.publications.get_mut(&name).expect("exists");
                (found.via_root, found.publish) = (true, publish.to_owned());
            }
            Change::PublishTables { name, tables } => {
                world.publications.get_mut(&name).expect("exists").tables.extend(tables);
            }
            Change::RegisterSink { spec, standing, mut origins, new } => {
                origins.extend(new.into_iter().map(|(topic, partition)| Origin {
                    topic,
                    partition,
                    offset: 0,
                    dt: "2026-01-01".into(),
                }));
                let name = spec.name.clone();
                world
                    .registrations
                    .sinks
                    .insert(name, SinkRegistration { spec, origins, standing });
            }
            Change::SetStanding(Registration::Topic(topic)) | Change::RereadTable(topic) => {
                world.registrations.topics.insert(topic.spec.name.clone(), topic);
            }
            Change::SetStanding(Registration::Sink(sink)) => {
                world.registrations.sinks.insert(sink.spec.name.clone(), sink);
            }
            Change::UnpublishTables { name, tables } => {
                let held = &mut world.publications.get_mut(&name).expect("exists").tables;
                held.retain(|table| !tables.contains(table));
            }
        }
    }

    fn planned(text: &str, world: &World) -> Plan {
        plan(&pipeline(), &catalog(text), Scope::All, world).expect("can work")
    }

    fn applied(text: &str) -> World {
        let mut world = empty_world();
        for change in planned(text, &world).changes {
            carry_out(&mut world, &change);
        }
        world
    }

    fn refused(text: &str, world: &World) -> Vec<String> {
        let refusals = plan(&pipeline(), &catalog(text), Scope::All, world).expect_err("refused");
        refusals.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_first_plan_reads_as_one_line_a_change_in_the_order_of_doing() {
        let plan = planned(CATALOG, &empty_world());
        let lines: Vec<String> = plan.changes.iter().map(ToString::to_string).collect();
        let internal =
            "cleanup.policy=compact, min.cleanable.dirty.ratio=0.1, segment.bytes=16777216";
        let dead = "cleanup.policy=delete, max.message.bytes=67108864, retention.ms=-1";
        assert_eq!(
            lines,
            [
                &format!(
                    "+ topic tailwater.shop.registrations: create with 1 partition, {internal}"
                ),
                &format!("+ topic tailwater.shop.progress: create with 1 partition, {internal}"),
                "+ topic stock.cdc: create with 3 partitions, cleanup.policy=compact",
                "+ topic orders.events: create with 1 partition",
                &format!("+ topic tailwater.shop.lake.dlq: create with 1 partition, {dead}"),
                &format!(
                    "+ topic tailwater.shop.stock-search.dlq: create with 1 partition, {dead}"
                ),
                "+ bucket events: create",
                "+ index stock: create with its mapping and alias",
                "+ topic stock.cdc: register for table `shop.stock`, key (id)",
                "+ topic orders.events: register for aggregate `orders` of outbox `orders.outbox`",
                "+ publication tailwater_shop_changes: create, publishing insert, update, delete, truncate of shop.stock",
                "+ publication tailwater_shop_outbox: create, publishing insert of orders.outbox",
                "+ sink lake: register for stock.cdc, orders.events, 4 partitions from their beginning",
                "+ sink stock-search: register for stock.cdc, 3 partitions from their beginning",
            ]
        );
    }

    #[test]
    fn a_world_as_declared_needs_no_change_wherever_a_kill_came_between() {
        let changes = planned(CATALOG, &empty_world()).changes;
        for done in 0..=changes.len() {
            let mut world = empty_world();
            for change in &changes[..done] {
                carry_out(&mut world, change);
            }
            let rest = planned(CATALOG, &world).changes;
            assert_eq!(rest, changes[done..], "after {done} changes");
        }
    }

    #[test]
    fn both_publications_are_there_before_the_first_table() {
        let text = CATALOG.split("---").nth(1).expect("the outbox topic");
        let plan = planned(text, &empty_world());
        let changes = plan.changes.iter().filter(|change| {
            matches!(change, Change::CreatePublication { name, .. } if name == "tailwater_shop_changes")
        });
        assert_eq!(changes.count(), 1);
    }

    fn registered(world: &mut World, plan: Vec<Change>) -> Vec<String> {
        for change in &plan {
            carry_out(world, change);
        }
        plan.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn pruning_removes_what_is_not_declared_sinks_first_and_tables_last() {
        let mut world = applied(CATALOG);
        let kept = CATALOG.split("---").next().expect("the first topic");
        let changes = removal::undeclared(&pipeline(), &catalog(kept), Scope::All, &world);
        assert_eq!(
            registered(&mut world, changes.expect("can be removed")),
            [
                "- sink lake: remove",
                "- sink stock-search: remove",
                "- topic orders.events: remove",
                "~ publication tailwater_shop_outbox: take out orders.outbox",
            ]
        );
        let again = removal::undeclared(&pipeline(), &catalog(kept), Scope::All, &world);
        assert_eq!(again, Ok(vec![]));
    }

    #[test]
    fn a_topic_that_a_sink_takes_is_not_removed() {
        let world = applied(CATALOG);
        let name = topic("stock.cdc");
        let refusal = removal::topic(&pipeline(), &name, &world).expect_err("two sinks take it");
        assert!(refusal.to_string().contains("`lake`, `stock-search`"), "{refusal}");
        let unknown = removal::topic(&pipeline(), &topic("stok.cdc"), &world).expect_err("unknown");
        assert!(unknown.to_string().contains("orders.events, stock.cdc"), "{unknown}");
    }

    #[test]
    fn a_removed_sink_comes_back_with_the_origins_it_had() {
        let mut world = applied(CATALOG);
        let name: SinkName = "lake".parse().expect("valid");
        let had = world.registrations.sinks[&name].origins.clone();
        let changes = removal::sink(&name, &world).expect("can be removed");
        registered(&mut world, changes);
        assert!(world.registrations.sink(&name).is_none());
        let lines = registered(&mut world.clone(), planned(CATALOG, &world).changes);
        assert_eq!(lines, ["~ sink lake: register for stock.cdc, orders.events"]);
        let Change::RegisterSink { origins, new, .. } = &planned(CATALOG, &world).changes[0] else {
            panic!("a registration")
        };
        assert_eq!((origins, new.as_slice()), (&had, &[][..]));
    }

    #[test]
    fn a_removed_topic_with_records_is_not_taken_up_again() {
        let text = CATALOG.split("---").next().expect("the first topic");
        let mut world = applied(text);
        let name = topic("stock.cdc");
        let changes = removal::topic(&pipeline(), &name, &world).expect("no sink takes it");
        registered(&mut world, changes);
        world.topics.get_mut(&name).expect("exists").has_records = true;
        assert!(refused(text, &world)[0].contains("was removed and still holds its records"));
        world.topics.get_mut(&name).expect("exists").has_records = false;
        let lines = registered(&mut world.clone(), planned(text, &world).changes);
        assert_eq!(lines.len(), 2, "registered and published: {lines:?}");
    }

    #[test]
    fn an_apply_leaves_a_paused_sink_paused() {
        let mut world = applied(CATALOG);
        let name: SinkName = "lake".parse().expect("valid");
        let changes = removal::pause_sink(&name, Standing::Paused, &world).expect("is registered");
        assert_eq!(registered(&mut world, changes), ["~ sink lake: pause"]);
        let more =
            CATALOG.replace("{ bucket: events }", "{ bucket: events, segment: { age: 5s } }");
        registered(&mut world.clone(), planned(&more, &world).changes);
        assert!(planned(CATALOG, &world).is_empty());
        for change in planned(&more, &world).changes {
            carry_out(&mut world, &change);
        }
        assert_eq!(world.registrations.sinks[&name].standing, Standing::Paused);
        let again = removal::pause_sink(&name, Standing::Paused, &world).expect("is registered");
        assert_eq!(again, [], "it is paused already");
    }

    #[test]
    fn rows_taken_by_a_topic_of_another_catalog_are_refused() {
        let world = applied(CATALOG);
        let text = CATALOG.split("---").next().expect("the first topic");
        let text = text.replace("name: stock.cdc", "name: stock.again");
        assert!(refused(&text, &world)[0].contains("`stock.cdc` is registered for the same rows"));
    }

    #[test]
    fn events_without_a_route_are_refused_unless_their_topic_was_removed() {
        let table: TableName = "orders.outbox".parse().expect("valid");
        let found = |world: &mut World, aggregates: &[&str]| {
            let aggregates = aggregates.iter().map(ToString::to_string).collect();
            world.aggregates.insert(table.clone(), aggregates);
        };
        let text = CATALOG.split("---").nth(1).expect("the outbox topic");
        let mut world = empty_world();
        found(&mut world, &["orders", "refunds"]);
        let refusals = refused(text, &world);
        assert!(
            refusals[0].contains("aggregate type `refunds`, which no topic takes"),
            "{refusals:?}"
        );
        let both = format!("{text}---{}", text.replace("orders.events", "refunds.events"))
            .replacen(
                "refunds.events\nfrom: { outbox: orders }",
                "refunds.events\nfrom: { outbox: refunds, table: orders.outbox }",
                1,
            );
        for change in planned(&both, &world).changes {
            carry_out(&mut world, &change);
        }
        let name = topic("refunds.events");
        let changes = removal::topic(&pipeline(), &name, &world).expect("no sink takes it");
        registered(&mut world, changes);
        assert!(planned(text, &world).is_empty());
    }

    #[test]
    fn a_column_named_like_card_data_is_refused_unless_exposed() {
        let mut world = empty_world();
        let table = world.tables.get_mut(&"shop.stock".parse().expect("valid")).expect("exists");
        table.columns.push(column("CardNumber", "text"));
        let text = CATALOG.split("---").next().expect("the first topic");
        let found = refused(text, &world);
        assert!(found[0].contains("column `CardNumber` of `shop.stock`"), "{found:?}");
        assert!(found[0].ends_with("mend it with: expose: [CardNumber]"), "{found:?}");
        let plan = planned(&format!("{text}expose: [CardNumber]\n"), &world);
        assert!(!plan.is_empty());
    }

    #[test]
    fn what_is_registered_and_not_declared_is_left_alone() {
        let world = applied(CATALOG);
        let text = CATALOG.split("---").next().expect("the first topic");
        assert!(planned(text, &world).is_empty());
    }

    #[test]
    fn origins_stay_and_new_partitions_are_added_to_them() {
        let mut world = applied(CATALOG);
        let mut text = CATALOG.replace("partitions: 3", "partitions: 4");
        let plan = planned(&text, &world);
        let Some(Change::RegisterSink { origins, new, .. }) = plan.changes.last() else {
            panic!("a sink is registered last: {plan:?}")
        };
        assert_eq!((origins.len(), new.as_slice()), (3, &[(topic("stock.cdc"), 3)][..]));
        let topics_only = plan_scoped(&text, Scope::Topics, &world).expect_err("sinks must know");
        assert!(topics_only[0].to_string().contains("`tailwater apply`"), "{topics_only:?}");

        world.topics.get_mut(&topic("stock.cdc")).expect("exists").has_records = true;
        assert!(refused(&text, &world)[0].contains("lose its order"));
        text = CATALOG.replace("partitions: 3", "partitions: 2");
        assert!(refused(&text, &world)[0].contains("declare `partitions: 3`"));
    }

    fn plan_scoped(text: &str, scope: Scope, world: &World) -> Result<Plan, Vec<Refusal>> {
        plan(&pipeline(), &catalog(text), scope, world)
    }

    #[test]
    fn topics_and_sinks_can_be_planned_apart() {
        let mut world = empty_world();
        let early = plan_scoped(CATALOG, Scope::Sinks, &world).expect_err("no topic yet");
        assert!(early[0].to_string().contains("`tailwater topics apply`"), "{early:?}");
        let topics = plan_scoped(CATALOG, Scope::Topics, &world).expect("can work");
        for change in topics.changes {
            carry_out(&mut world, &change);
        }
        let sinks = plan_scoped(CATALOG, Scope::Sinks, &world).expect("can work");
        for change in sinks.changes {
            carry_out(&mut world, &change);
        }
        assert!(planned(CATALOG, &world).is_empty());
    }

    #[test]
    fn settings_that_differ_are_set_and_unknown_ones_refused() {
        let mut world = applied(CATALOG);
        let state = world.topics.get_mut(&topic("stock.cdc")).expect("exists");
        state.config.insert("cleanup.policy".into(), "delete".into());
        let lines: Vec<String> =
            planned(CATALOG, &world).changes.iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["~ topic stock.cdc: set cleanup.policy=compact (was delete)"]);
        let text = CATALOG.replace("cleanup.policy: compact", "cleanup.polcy: compact");
        assert!(refused(&text, &world)[0].contains("`cleanup.polcy` is not a topic setting"));
    }

    #[test]
    fn every_obstacle_is_refused_at_its_place_and_nothing_is_planned() {
        let mut world = empty_world();
        let table = world.tables.get_mut(&"shop.stock".parse().expect("valid")).expect("exists");
        (table.identity, table.primary_key) = (Identity::Default, vec![]);
        world.tables.remove(&"orders.outbox".parse().expect("valid"));
        world.buckets = None;
        let found = refused(CATALOG, &world);
        assert!(found[0].starts_with("catalog.yaml:3:1: topic `stock.cdc`"), "{found:#?}");
        assert!(found[0].contains("mend it with: ALTER TABLE"), "{found:#?}");
        assert!(found[1].contains("table `orders.outbox` does not exist"), "{found:#?}");
        assert!(found[2].contains("there is no `s3` section"), "{found:#?}");
        assert!(found[3].contains("would lose them"), "{found:#?}");
    }

    #[test]
    fn a_search_sink_needs_every_column_of_a_changed_row() {
        let mut world = empty_world();
        let table = world.tables.get_mut(&"shop.stock".parse().expect("valid")).expect("exists");
        table.identity = Identity::Default;
        let found = refused(CATALOG, &world);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].contains("`name`") && found[0].contains("REPLICA IDENTITY FULL"));
    }

    #[test]
    fn a_topic_with_records_of_somebody_else_is_not_taken_over() {
        let mut world = empty_world();
        let state = TopicState { partitions: 3, has_records: true, ..TopicState::default() };
        world.topics.insert(topic("stock.cdc"), state);
        assert!(refused(CATALOG, &world).iter().any(|r| r.contains("did not write")));
    }

    #[test]
    fn a_registered_topic_or_sink_keeps_what_its_history_rests_on() {
        let mut world = applied(CATALOG);
        world.tables.insert("shop.other".parse().expect("valid"), stock());
        let moved = CATALOG.replace("shop.stock", "shop.other");
        assert!(refused(&moved, &world)[0].contains("is registered for table `shop.stock`"));
        let keyed = CATALOG.replace("partitions: 3", "partitions: 3\nkey: [name]");
        assert!(refused(&keyed, &world)[0].contains("its key was (id)"));
        let bucket = CATALOG.replace("bucket: events", "bucket: other");
        assert!(refused(&bucket, &world)[0].contains("is registered for bucket `events`"));
        let fewer = CATALOG.replace("[stock.cdc, orders.events]", "[stock.cdc]");
        assert!(refused(&fewer, &world)[0].contains("nothing is ever taken away"));
    }

    /// What stands in the way of a topic of rows with these further settings.
    fn rows_refused(settings: &str, touch: impl FnOnce(&mut World)) -> Vec<String> {
        let text = format!(
            "apiVersion: tailwater/v1\nkind: Topic\nname: stock.cdc\nfrom: {{ table: shop.stock }}\n{settings}"
        );
        let mut world = empty_world();
        touch(&mut world);
        match plan(&pipeline(), &catalog(&text), Scope::All, &world) {
            Ok(_) => Vec::new(),
            Err(refusals) => refusals
                .iter()
                .map(|r| format!("{} [{}]", r.problem, r.remedy.as_deref().unwrap_or_default()))
                .collect(),
        }
    }

    #[test]
    fn masks_that_would_hide_nothing_or_the_key_are_rows_refused() {
        let nothing = |_: &mut World| {};
        assert_eq!(rows_refused("mask: { name: truncate(3) }\n", nothing), [""; 0]);
        for (mask, problem) in [
            (
                "{ nam: drop }",
                "masked column `nam` does not exist in `shop.stock`, which has id, name",
            ),
            ("{ id: hmac }", "in the key, which is never masked"),
        ] {
            let found = rows_refused(&format!("mask: {mask}\n"), nothing);
            assert!(found.len() == 1 && found[0].contains(problem), "{found:?}");
        }
        let numbers = |world: &mut World| {
            for table in world.tables.values_mut() {
                table.columns.push(column("n", "integer"));
            }
        };
        let found = rows_refused("mask: { n: truncate(3) }\n", numbers);
        assert!(found[0].contains("only texts can be truncated"), "{found:?}");
    }

    #[test]
    fn columns_that_debezium_leaves_out_have_to_be_left_out_in_words() {
        let odd = |world: &mut World| {
            for table in world.tables.values_mut() {
                table.columns.push(column("place", "shop.address"));
                table.columns.push(Column { is_enum: true, ..column("mood", "shop.mood") });
                table.columns.push(Column { base_type: "jsonb".into(), ..column("d", "shop.doc") });
            }
        };
        let found = rows_refused("values: debezium\n", odd);
        assert!(found.len() == 1 && found[0].contains("[mask: { place: drop }]"), "{found:?}");
        assert_eq!(rows_refused("values: debezium\nmask: { place: drop }\n", odd), [""; 0]);
        assert_eq!(rows_refused("", odd), [""; 0]);
    }

    #[test]
    fn a_declared_key_that_may_hold_null_is_rows_refused() {
        let nullable = |world: &mut World| {
            for table in world.tables.values_mut() {
                table.columns[1].is_nullable = true;
            }
        };
        let found = rows_refused("key: [name]\n", nullable);
        assert!(found[0].contains(r#"ALTER COLUMN "name" SET NOT NULL"#), "{found:?}");
        assert_eq!(rows_refused("key: [name]\n", |_| {}), [""; 0]);
    }

    #[test]
    fn messages_need_no_table_and_are_registered_under_their_prefix() {
        let text = "apiVersion: tailwater/v1\nkind: Topic\nname: audit\nfrom: { message: audit }\n";
        let planned = plan(&pipeline(), &catalog(text), Scope::All, &empty_world()).expect("works");
        let lines: Vec<String> = planned.changes.iter().map(ToString::to_string).collect();
        let line = "+ topic audit: register for messages with prefix `audit`";
        assert!(lines.iter().any(|found| found == line), "{lines:?}");
    }

    #[test]
    fn a_publication_made_by_hand_is_mended_or_refused() {
        let mut world = applied(CATALOG);
        let name = pipeline().changes_publication();
        let found = world.publications.get_mut(&name).expect("exists");
        found.via_root = false;
        found.tables.clear();
        let lines: Vec<String> =
            planned(CATALOG, &world).changes.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "~ publication tailwater_shop_changes: publish insert, update, delete, truncate, partitions as their root",
                "~ publication tailwater_shop_changes: add shop.stock",
            ]
        );
        let found = world.publications.get_mut(&name).expect("exists");
        found.tables.insert("orders.outbox".parse().expect("valid"));
        assert!(refused(CATALOG, &world)[0].contains("DROP TABLE \"orders\".\"outbox\";"));
        world.publications.get_mut(&name).expect("exists").takes_all = true;
        assert!(refused(CATALOG, &world)[0].contains("FOR ALL TABLES"));
    }
}
