//! Pausing, resuming and removing what is registered.
//!
//! ```text
//!  remove a sink:   registration ▸ its workers drain and end        bucket, index, offsets and origins stay
//!  remove a topic:  registration ▸ the reader gives its rows up ▸ its table leaves the publication
//! ```
//!
//! * Nothing here deletes data. A topic keeps its records and a bucket its objects; who wants them gone deletes
//!   them where they are.
//! * The registration goes before the publication, because the log may hold rows of the table already: the reader
//!   must know that they are given up, or it would stop at them.

use std::collections::BTreeSet;
use std::fmt::Display;

use tailwater_topics_contract::{
    Catalog, From, PipelineName, Registration, Registrations, SinkName, SinkRegistration, Standing,
    TableName, TopicName, TopicRegistration,
};

use crate::change::Change;
use crate::plan::Scope;
use crate::refusal::Refusal;
use crate::world::World;

/// Removes everything registered that the catalog does not declare.
///
/// # Errors
/// A sink that stays takes a topic that would go.
pub fn undeclared(
    pipeline: &PipelineName,
    catalog: &Catalog,
    scope: Scope,
    world: &World,
) -> Result<Vec<Change>, Vec<Refusal>> {
    let registrations = &world.registrations;
    let mut changes = Vec::new();
    let mut gone = BTreeSet::new();
    if scope != Scope::Topics {
        let undeclared = |sink: &&SinkRegistration| {
            !catalog.sinks.iter().any(|declared| declared.name == sink.spec.name)
        };
        for sink in registrations.standing_sinks().filter(undeclared) {
            gone.insert(&sink.spec.name);
            changes.push(remove_sink(sink));
        }
    }
    let undeclared = |topic: &&TopicRegistration| catalog.topic(&topic.spec.name).is_none();
    let topics: Vec<&TopicRegistration> = if scope == Scope::Sinks {
        Vec::new()
    } else {
        registrations.written().filter(undeclared).collect()
    };
    let mut refusals = Vec::new();
    for topic in &topics {
        refusals.extend(taken(topic, world, &gone));
    }
    if !refusals.is_empty() {
        return Err(refusals);
    }
    changes.extend(remove_topics(pipeline, &topics, world));
    Ok(changes)
}

/// Removes one topic.
///
/// # Errors
/// It is not registered, or a sink takes it.
pub fn topic(
    pipeline: &PipelineName,
    name: &TopicName,
    world: &World,
) -> Result<Vec<Change>, Refusal> {
    let topic = registered_topic(name, &world.registrations)?;
    match taken(topic, world, &BTreeSet::new()) {
        Some(refusal) => Err(refusal),
        None => Ok(remove_topics(pipeline, &[topic], world)),
    }
}

/// Removes one sink.
///
/// # Errors
/// It is not registered.
pub fn sink(name: &SinkName, world: &World) -> Result<Vec<Change>, Refusal> {
    Ok(vec![remove_sink(registered_sink(name, &world.registrations)?)])
}

/// Pauses a topic for all its sinks, or resumes it.
///
/// # Errors
/// It is not registered.
pub fn pause_topic(
    name: &TopicName,
    standing: Standing,
    world: &World,
) -> Result<Vec<Change>, Refusal> {
    let topic = registered_topic(name, &world.registrations)?;
    let changed = TopicRegistration { standing, ..topic.clone() };
    Ok(stand(changed != *topic, Registration::Topic(changed)))
}

/// Pauses a sink, or resumes it.
///
/// # Errors
/// It is not registered.
pub fn pause_sink(
    name: &SinkName,
    standing: Standing,
    world: &World,
) -> Result<Vec<Change>, Refusal> {
    let sink = registered_sink(name, &world.registrations)?;
    let changed = SinkRegistration { standing, ..sink.clone() };
    Ok(stand(changed != *sink, Registration::Sink(changed)))
}

fn stand(is_change: bool, registration: Registration) -> Vec<Change> {
    is_change.then_some(Change::SetStanding(registration)).into_iter().collect()
}

fn remove_sink(sink: &SinkRegistration) -> Change {
    let removed = SinkRegistration { standing: Standing::Removed, ..sink.clone() };
    Change::SetStanding(Registration::Sink(removed))
}

fn remove_topics(
    pipeline: &PipelineName,
    topics: &[&TopicRegistration],
    world: &World,
) -> Vec<Change> {
    let removed = |topic: &&TopicRegistration| {
        let removed = TopicRegistration { standing: Standing::Removed, ..(*topic).clone() };
        Change::SetStanding(Registration::Topic(removed))
    };
    let mut changes: Vec<Change> = topics.iter().map(removed).collect();
    // An outbox stays published as long as one of its aggregates has a topic.
    let is_staying = |topic: &&TopicRegistration| {
        !topics.iter().any(|removed| removed.spec.name == topic.spec.name)
    };
    let kept: BTreeSet<&TableName> = world
        .registrations
        .written()
        .filter(is_staying)
        .filter_map(|topic| topic.spec.table())
        .collect();
    for (name, is_outbox) in
        [(pipeline.changes_publication(), false), (pipeline.outbox_publication(), true)]
    {
        let Some(publication) = world.publications.get(&name) else { continue };
        let tables: BTreeSet<TableName> = topics
            .iter()
            .filter(|topic| matches!(topic.spec.from, From::Outbox { .. }) == is_outbox)
            .filter_map(|topic| topic.spec.table())
            .filter(|table| !kept.contains(table) && publication.tables.contains(table))
            .cloned()
            .collect();
        if !tables.is_empty() {
            let tables = tables.into_iter().collect();
            changes.push(Change::UnpublishTables { name, tables });
        }
    }
    changes
}

/// Why a topic must stay.
fn taken(topic: &TopicRegistration, world: &World, gone: &BTreeSet<&SinkName>) -> Option<Refusal> {
    let name = &topic.spec.name;
    let takers: Vec<String> = world
        .registrations
        .standing_sinks()
        .filter(|sink| sink.spec.topics.contains(name) && !gone.contains(&sink.spec.name))
        .map(|sink| format!("`{}`", sink.spec.name))
        .collect();
    (!takers.is_empty()).then(|| Refusal {
        place: None,
        subject: format!("topic `{name}`"),
        problem: format!("cannot be removed while it is taken by {}", takers.join(", ")),
        remedy: Some("tailwater sinks remove SINK".to_owned()),
    })
}

/// A topic that was not removed.
///
/// # Errors
/// There is none of this name; the text names those there are.
pub fn registered_topic<'r>(
    name: &TopicName,
    registered: &'r Registrations,
) -> Result<&'r TopicRegistration, Refusal> {
    let known = || registered.written().map(|topic| &topic.spec.name);
    registered.topic(name).ok_or_else(|| unknown(&format!("topic `{name}`"), known()))
}

/// A sink that was not removed.
///
/// # Errors
/// There is none of this name; the text names those there are.
pub fn registered_sink<'r>(
    name: &SinkName,
    registered: &'r Registrations,
) -> Result<&'r SinkRegistration, Refusal> {
    let known = || registered.standing_sinks().map(|sink| &sink.spec.name);
    registered.sink(name).ok_or_else(|| unknown(&format!("sink `{name}`"), known()))
}

fn unknown(subject: &str, known: impl Iterator<Item = impl Display>) -> Refusal {
    let known: Vec<String> = known.map(|name| name.to_string()).collect();
    let problem = match known.as_slice() {
        [] => "is not registered, and nothing else is".to_owned(),
        known => format!("is not registered; registered are {}", known.join(", ")),
    };
    Refusal { place: None, subject: subject.to_owned(), problem, remedy: None }
}
