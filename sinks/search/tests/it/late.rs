//! What a write does that comes late: after the deletion that another worker has sent meanwhile.
//!
//! These are the facts behind what is not promised in `docs/guarantees.md`: should a server change them, it shows here.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tailwater_sinks_worker::Writer;

use crate::live::Live;
use crate::records::{delete, open, push_all, put};

/// Two workers of one partition: the first hangs with a write in its hands, the second writes and deletes the row.
/// Answers whether the row is there after the first has woken up.
async fn comes_back(live: &Live, meanwhile: impl AsyncFnOnce(&Live)) -> bool {
    let (mut hung, mut successor) = (open(&live.sink()).await, open(&live.sink()).await);
    push_all(&mut hung, [put(1, 1, "late")]);
    push_all(&mut successor, [put(1, 1, "late")]);
    successor.flush(2).await.unwrap();
    push_all(&mut successor, [delete(2, 1)]);
    successor.flush(3).await.unwrap();
    meanwhile(live).await;
    hung.flush(2).await.unwrap();
    let is_back = !live.documents().await.is_empty();
    // Whatever was forgotten, the next record of the row decides.
    push_all(&mut successor, [delete(3, 1)]);
    successor.flush(4).await.unwrap();
    assert!(live.documents().await.is_empty());
    is_back
}

/// Everything that a running shard does to what it holds.
async fn refreshed_flushed_and_merged(live: &Live) {
    for _ in 0..20 {
        live.call(Method::POST, &format!("{}/_refresh", live.spec.alias), None).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    live.call(Method::POST, &format!("{}/_flush?force=true", live.spec.alias), None).await;
    live.call(Method::POST, &format!("{}/_forcemerge", live.spec.alias), None).await;
}

/// As after a restart of its server.
async fn started_anew(live: &Live) {
    let index = live.first_index();
    live.call(Method::POST, &format!("{index}/_close"), None).await;
    live.call(Method::POST, &format!("{index}/_open?wait_for_active_shards=1"), None).await;
}

#[tokio::test]
async fn a_deletion_outlasts_late_writes_while_the_shard_runs_and_gc_deletes_last() {
    let live = Live::new();
    assert!(!comes_back(&live, refreshed_flushed_and_merged).await, "remembered for an hour");
    live.drop_index().await;

    let mut live = Live::new();
    live.spec.mapping["settings"] = json!({"gc_deletes": "50ms", "refresh_interval": "100ms"});
    assert!(comes_back(&live, refreshed_flushed_and_merged).await, "and not for longer");
    live.drop_index().await;
}

#[tokio::test]
async fn a_deletion_is_forgotten_when_the_shard_starts_anew() {
    let live = Live::new();
    assert!(comes_back(&live, started_anew).await, "it was kept in memory only");
    live.drop_index().await;
}
