//! Asking the reader to read tables once more.
//!
//! The request stands in the registration of the table's topic and stays there; the reader's progress says which one it
//! has answered. So it travels as a pause does, reaches a reader that is down when it comes back, and is carried out once.

use tailwater_topics_contract::{From, Registrations, Reread, TableName, TopicRegistration};

use crate::change::Change;
use crate::refusal::Refusal;

/// The changes that ask for these tables. `now_ms` is milliseconds since 1970.
///
/// # Errors
/// All tables for which there is no registered topic; the texts name those there are.
pub fn tables(
    names: &[TableName],
    reason: &str,
    now_ms: i64,
    registered: &Registrations,
) -> Result<Vec<Change>, Vec<Refusal>> {
    let mut changes = Vec::new();
    let mut refusals = Vec::new();
    for name in names {
        match taken(registered).find(|(table, _)| *table == name) {
            Some((_, topic)) => changes.push(Change::RereadTable(asked(topic, reason, now_ms))),
            None => refusals.push(unknown(name, registered)),
        }
    }
    if refusals.is_empty() { Ok(changes) } else { Err(refusals) }
}

/// A clock that was set back must not make a request look like an old one.
fn asked(topic: &TopicRegistration, reason: &str, now_ms: i64) -> TopicRegistration {
    let last = topic.reread.as_ref().map_or(0, |reread| reread.asked_ms);
    let reread = Reread { asked_ms: now_ms.max(last + 1), reason: reason.to_owned() };
    TopicRegistration { reread: Some(reread), ..topic.clone() }
}

fn taken(registered: &Registrations) -> impl Iterator<Item = (&TableName, &TopicRegistration)> {
    registered.written().filter_map(|topic| match &topic.spec.from {
        From::Table(table) => Some((table, topic)),
        From::Outbox { .. } | From::Message(_) => None,
    })
}

fn unknown(name: &TableName, registered: &Registrations) -> Refusal {
    let known: Vec<String> = taken(registered).map(|(table, _)| table.to_string()).collect();
    let problem = match known.as_slice() {
        [] => "has no topic that takes its rows, and no other table has".to_owned(),
        known => format!("has no topic that takes its rows; {} have", known.join(", ")),
    };
    Refusal { place: None, subject: format!("table `{name}`"), problem, remedy: None }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tailwater_topics_contract::{Generation, Standing, TopicSpec, Values};

    use super::*;

    fn registered() -> Registrations {
        let topic = |name: &str, from: From| {
            let spec = TopicSpec {
                name: name.parse().expect("valid"),
                from,
                key: None,
                partitions: 1,
                replication: None,
                config: BTreeMap::new(),
                expose: Vec::new(),
                values: Values::default(),
                mask: BTreeMap::new(),
                declared_at: None,
            };
            let key_columns = vec!["id".to_owned()];
            let standing = Standing::Active;
            (
                spec.name.clone(),
                TopicRegistration {
                    spec,
                    key_columns,
                    generation: Generation::default(),
                    standing,
                    reread: None,
                },
            )
        };
        let outbox = From::Outbox {
            aggregate: "a".to_owned(),
            table: "shop.outbox".parse().expect("valid"),
        };
        let topics = [
            topic("stock", From::Table("shop.stock".parse().expect("valid"))),
            topic("events", outbox),
        ];
        Registrations { topics: topics.into(), ..Registrations::default() }
    }

    #[test]
    fn a_request_is_later_than_the_one_before_whatever_the_clock_says() {
        let mut registered = registered();
        let stock = ["shop.stock".parse().expect("valid")];
        for (now_ms, expected) in [(100, 100), (100, 101), (50, 102), (500, 500)] {
            let changes = tables(&stock, "why", now_ms, &registered).expect("it is registered");
            let [Change::RereadTable(topic)] = changes.as_slice() else { panic!("{changes:?}") };
            let reread = topic.reread.clone().expect("it is asked for");
            assert_eq!((reread.asked_ms, reread.reason.as_str()), (expected, "why"));
            registered.topics.insert(topic.spec.name.clone(), topic.clone());
        }
    }

    #[test]
    fn what_is_no_captured_table_is_refused_by_name() {
        let names = ["shop.outbox", "shop.nothing"].map(|name| name.parse().expect("valid"));
        let refused = tables(&names, "why", 1, &registered()).expect_err("neither can be read");
        let said: Vec<String> = refused.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 2);
        assert!(said[0].contains("`shop.outbox`") && said[1].contains("shop.stock"), "{said:?}");
    }
}
