//! Objects that are too large for one request, on real servers.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tailwater_sinks_archive::{Objects, Put, Store};

use crate::bucket::Bucket;
use crate::proxy::{Fault, Proxy};
use crate::server;

const KEY: &str = "data/large";

/// More than one request takes, in four whole parts and a small one.
fn large(seed: u64) -> Bytes {
    let mut body = vec![0; (64 << 20) + 4_321];
    StdRng::seed_from_u64(seed).fill(&mut body[..]);
    body.into()
}

async fn create(store: &Store, body: &Bytes) -> Put {
    let metadata = HashMap::from([("next".to_owned(), "7".to_owned())]);
    store.create(KEY, body.clone(), metadata, "application/gzip").await.expect("not refused")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_object_is_created_whole_with_its_metadata_and_only_where_none_stands() {
    for (name, endpoint) in server::all() {
        let bucket = Bucket::create(&endpoint).await;
        let (first, second) = (large(1), large(2));
        assert!(matches!(create(&bucket.store, &first).await, Put::Created), "{name}");
        let stored = bucket.object(KEY).await;
        assert!(stored.body == first, "{name}: other bytes");
        assert_eq!(stored.metadata["next"], "7", "{name}");
        assert!(matches!(create(&bucket.store, &second).await, Put::Taken), "{name}");
        assert!(bucket.object(KEY).await.body == first, "{name}: it was replaced");
        assert_eq!(bucket.uploads(KEY).await, 0, "{name}: the loser's upload was ended");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_was_cut_off_is_sent_again() {
    for (name, endpoint) in server::all() {
        let bucket = Bucket::create(&endpoint).await;
        let proxy = Proxy::start(&endpoint).await;
        let through = server::connect(&proxy.endpoint, bucket.store.bucket());
        let body = large(3);
        for fault in [Fault::Body, Fault::Answer] {
            proxy.cut_next(fault);
            assert!(matches!(create(&through, &body).await, Put::Created), "{name}, {fault:?}");
            assert!(proxy.has_cut(fault), "{name}: {fault:?} took effect");
            assert!(bucket.object(KEY).await.body == body, "{name}, {fault:?}");
            bucket.remove(KEY).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_whose_answer_was_lost_is_unclear_and_the_object_is_there() {
    for (name, endpoint) in server::all() {
        let bucket = Bucket::create(&endpoint).await;
        let proxy = Proxy::start(&endpoint).await;
        let through = server::connect(&proxy.endpoint, bucket.store.bucket());
        let body = large(4);
        proxy.cut_next(Fault::Completion);
        assert!(matches!(create(&through, &body).await, Put::Unclear(_)), "{name}");
        assert!(proxy.has_cut(Fault::Completion), "{name}: the fault took effect");
        assert!(bucket.object(KEY).await.body == body, "{name}");
        assert!(matches!(create(&through, &body).await, Put::Taken), "{name}");
    }
}

/// MinIO lists uploads of one whole key only, and ends stale ones itself; nothing is to be found there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_nobody_goes_on_with_is_ended_after_a_day_and_not_before() {
    for (name, endpoint) in server::all() {
        let bucket = Bucket::create(&endpoint).await;
        let ours = "data/t/dt=2026-01-01/p00000-00000000000000000000.jsonl.gz";
        for key in [ours, "other/x"] {
            bucket.begin_upload(key).await;
        }
        let (now, day) = (SystemTime::now(), Duration::from_hours(24));
        let ended = |at| bucket.store.abort_stale_uploads("data/", at);
        assert_eq!(ended(now + day / 2).await.expect("looks"), 0, "{name}");
        assert_eq!(bucket.uploads(ours).await, 1, "{name}");
        let found = u64::from(name != "minio");
        assert_eq!(ended(now + day * 2).await.expect("ends it"), found, "{name}");
        assert_eq!(bucket.uploads(ours).await as u64, 1 - found, "{name}");
        assert_eq!(bucket.uploads("other/x").await, 1, "{name}: what is not ours stays");
    }
}
