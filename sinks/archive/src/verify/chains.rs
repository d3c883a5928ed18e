//! L0: every object leads to the next. Where several may begin at one place, none begins behind what those before it cover.

use std::collections::BTreeMap;

use tailwater_topics_contract::{Origin, TopicName};

use super::{Look, Object};
use crate::layout::Place;
use crate::store::Objects;

impl<S: Objects> Look<'_, S> {
    pub(super) fn chains(&mut self, topic: &TopicName, objects: &BTreeMap<String, Object>) {
        let mut chains: BTreeMap<i32, Vec<(&String, &Object)>> = BTreeMap::new();
        for (key, object) in objects {
            chains.entry(object.partition).or_default().push((key, object));
        }
        self.report.partitions += chains.len() as u64;
        for (partition, chain) in &mut chains {
            chain.sort_by_key(|(_, object)| object.place);
            for (key, object) in chain.iter() {
                if !object.link.is_at(object.place) {
                    let what = format!("it leads back, to {}", object.link.next);
                    self.found(0, key, what);
                }
            }
            let mut covered = i64::MIN;
            for pair in chain.windows(2) {
                let ((before, one), (after, next)) = (&pair[0], &pair[1]);
                covered = covered.max(one.link.next.start);
                let follows = match next.place.twin {
                    None => one.link.next == next.place,
                    Some(_) => next.place.start <= covered,
                };
                if !follows {
                    let what = format!(
                        "it leads to {}, and `{after}` comes next; records are missing or stand twice",
                        one.link.next
                    );
                    self.found(0, before, what);
                }
            }
            let origin = self
                .scope
                .origins
                .iter()
                .find(|origin| origin.topic == *topic && origin.partition == *partition);
            if let (Some(origin), Some((key, first))) = (origin, chain.first())
                && !begins_at(first.place, origin)
            {
                let what = format!(
                    "it is the first of its chain, which was registered to begin at {}/{}",
                    origin.dt, origin.offset
                );
                self.found(0, key, what);
            }
        }
    }
}

/// Whether a chain that begins at a place begins where it was registered to. The day is a guess of the registration, which
/// only a link keeps to.
fn begins_at(place: Place, origin: &Origin) -> bool {
    match place.twin {
        None => place.start == origin.offset && place.dt.to_string() == origin.dt,
        Some(_) => place.start == origin.offset,
    }
}
