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

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use tailwater_topics_contract::{
    Catalog, DocumentSpec, From, Generation, Mask, PipelineName, SinkKind, SinkName,
    SinkRegistration, SinkSpec, Standing, TableName, TopicName, TopicRegistration, TopicSpec,
    Values,
};

use crate::change::{Change, NewTopic, Setting, source};
use crate::refusal::Refusal;
use crate::table::TableState;
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
pub fn internal_topics(pipeline: &PipelineName) -> [NewTopic; 3] {
    // Small segments: only closed ones are compacted, and these topics are read from their beginning at each
    // start. At Kafka's default of 1 GiB a busy reader would have hours of progress to read.
    let config = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.1"),
        ("segment.bytes", "16777216"),
    ];
    let names =
        [pipeline.registrations_topic(), pipeline.progress_topic(), pipeline.watermarks_topic()];
    names.map(|name| NewTopic { name, partitions: 1, replication: None, config: owned(&config) })
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
        let generation = self.generation(&spec.name);
        let registration =
            TopicRegistration { spec: spec_stored, key_columns, generation, standing, reread };
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

    /// Which topic of its name it is once the plan is done.
    fn generation(&self, name: &TopicName) -> Generation {
        let Some(stored) = self.world.registrations.topics.get(name) else {
            return Generation::default();
        };
        let is_begun_anew =
            stored.standing == Standing::Removed || !self.world.topics.contains_key(name);
        if is_begun_anew { stored.generation.next() } else { stored.generation }
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
        let SinkKind::Search(search) = &spec.kind else { return };
        let Some(topic) = self.catalog.topic(topic) else { return };
        let Some(table) = topic.table() else { return };
        let Some(state) = self.world.tables.get(table) else { return };
        self.document(spec, &search.document, topic, table, state);
        let mut left_out = state.columns_left_out();
        left_out.retain(|column| {
            topic.mask.get(*column) != Some(&Mask::Drop) && search.document.columns.takes(column)
        });
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

    /// Every column that a sink's documents name must be in the table, and those of ids in the key.
    fn document(
        &mut self,
        spec: &SinkSpec,
        document: &DocumentSpec,
        topic: &TopicSpec,
        table: &TableName,
        state: &TableState,
    ) {
        let has = |column: &str| state.columns.iter().any(|has| has.name == column);
        for column in document.required().into_iter().filter(|column| !has(column)) {
            let problem = format!(
                "names column `{column}` in `document`, and `{table}` has none of that name; every row would be set aside"
            );
            self.refuse_sink(spec, problem);
        }
        // A table whose key cannot be used is refused with its topic.
        let Ok(key) = state.key_columns(table, topic.key.as_deref()) else { return };
        if let Some(obstacle) = document.obstacle(&key, &state.primary_key) {
            self.refuse_sink(spec, format!("cannot have such a `document`: {obstacle}"));
        }
    }

    fn same_destination(&mut self, spec: &SinkSpec, stored: &SinkRegistration) {
        let problem = match (&stored.spec.kind, &spec.kind) {
            (SinkKind::Archive(was), SinkKind::Archive(is))
                if (&was.bucket, &was.prefix) != (&is.bucket, &is.prefix) =>
            {
                let (bucket, prefix) = (&was.bucket, &was.prefix);
                Some(format!("is registered for bucket `{bucket}` and prefix `{prefix}`"))
            }
            (SinkKind::Archive(was), SinkKind::Archive(is)) => (was.guarantee != is.guarantee)
                .then(|| format!("is registered as {}", was.guarantee)),
            (SinkKind::Search(was), SinkKind::Search(is)) if was.alias != is.alias => {
                Some(format!("is registered for alias `{}`", was.alias))
            }
            (SinkKind::Search(was), SinkKind::Search(is)) => {
                if (&was.mapping, &was.document) != (&is.mapping, &is.document) {
                    let name = &spec.name;
                    let problem = format!(
                        "is registered with another `mapping` or `document`, and an index keeps its own; `tailwater sinks rebuild {name} -f DIR` fills a new index with the declared one and puts it in place"
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
