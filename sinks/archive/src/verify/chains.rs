//! L0: every object leads to the next.

use std::collections::BTreeMap;

use tailwater_topics_contract::TopicName;

use super::{Look, Object};
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
            for pair in chain.windows(2) {
                let ((before, one), (after, next)) = (&pair[0], &pair[1]);
                if one.link.next != next.place {
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
                && (origin.offset != first.place.start || origin.dt != first.place.dt.to_string())
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
