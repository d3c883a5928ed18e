//! Where several objects may begin at one place, every record is shown once.

use tailwater_sinks_archive::{ArchiveSink, Objects};
use tailwater_sinks_worker::{Sink, TopicPartition, Writer};
use tailwater_topics_contract::{ArchiveSpec, Guarantee, Origin, SegmentSpec, TopicName};

use crate::archived::{Archived, changes};

const COUNTED: &str =
    "SELECT count(*), count(DISTINCT kafka_offset), sum(id), count(price) FROM shop_item";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_at_least_once_shows_every_record_once() {
    let archived = Archived::new("twins").await;
    let topic: TopicName = "shop.item".parse().expect("a name");
    let place = TopicPartition { topic: topic.clone(), partition: 0 };
    let spec = ArchiveSpec {
        bucket: archived.archive.store.bucket().to_owned(),
        prefix: archived.archive.prefix.clone(),
        guarantee: Guarantee::AtLeastOnce,
        segment: SegmentSpec::default(),
    };
    let origin = Origin { topic, partition: 0, offset: 0, dt: "2026-01-01".to_owned() };
    let store = archived.archive.store.clone().without_conditions();
    let mut rivals = Vec::new();
    for per_object in [7, 20] {
        let sink = ArchiveSink::new(store.clone(), spec.clone(), vec![origin.clone()]);
        let (writer, start) = sink.open(&place, None).await.expect("opens");
        assert_eq!(start, 0, "both begin before the other has stored anything");
        rivals.push((writer, per_object));
    }
    for (mut writer, per_object) in rivals {
        for records in changes(0, 60).chunks(per_object) {
            for record in records {
                writer.push(record.clone()).expect("any record can be archived");
            }
            let next = records.last().expect("a chunk has one").offset + 1;
            writer.flush(next).await.expect("stored");
        }
    }
    let stored = archived.archive.store.list("tw/data/").await.expect("lists");
    assert_eq!(stored.len(), 9 + 3);

    let counted = archived.ok(&["query", "-o", "csv", COUNTED]);
    assert!(counted.trim_end().ends_with("60,60,1770,60"), "{counted}");
    let all = archived.ok(&["query", "-o", "csv", "SELECT count(*) FROM shop_item"]);
    assert!(all.trim_end().ends_with("60"), "{all}");
    assert_eq!(archived.ok(&["head", "shop.item", "-n", "100"]).lines().count(), 60);
    assert_eq!(archived.ok(&["get", "shop.item", "--key", "33"]).lines().count(), 1);
    archived.ok(&["verify"]);
}
