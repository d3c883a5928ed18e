use futures::StreamExt;

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_five_hundred_keys_come_in_order_in_pages() {
    let world = World::start().await;
    let keys: Vec<String> =
        (0..2_500).map(|n| format!("data/{:02}/{n:05}.jsonl.gz", n / 100)).collect();
    futures::stream::iter(&keys)
        .for_each_concurrent(16, |key| async { world.put(key, key.as_bytes()).await })
        .await;

    let list = || world.client.list_objects_v2().bucket("box");
    let mut pages = list().into_paginator().send();
    let (mut listed, mut lengths) = (Vec::new(), Vec::new());
    while let Some(page) = pages.next().await {
        let page = page.unwrap();
        lengths.push(page.contents().len());
        listed.extend(page.contents().iter().map(|object| object.key().unwrap().to_owned()));
    }
    assert_eq!(lengths, [1000, 1000, 500]);
    assert_eq!(listed, keys);

    let page = list().start_after(&keys[2_497]).send().await.unwrap();
    assert_eq!(page.key_count(), Some(2));
    let page = list().start_after("data/24/zzz").send().await.unwrap();
    assert_eq!(page.key_count(), Some(0));

    let mut folders = list().prefix("data/").delimiter("/").max_keys(10).into_paginator().send();
    let (mut prefixes, mut count) = (Vec::new(), 0);
    while let Some(page) = folders.next().await {
        let page = page.unwrap();
        assert!(page.contents().is_empty());
        count += 1;
        prefixes.extend(page.common_prefixes().iter().map(|p| p.prefix().unwrap().to_owned()));
    }
    let expected: Vec<String> = (0..25).map(|n| format!("data/{n:02}/")).collect();
    assert_eq!((count, prefixes), (3, expected));
}

#[tokio::test]
async fn a_key_lives_beside_the_folder_of_the_same_name() {
    let world = World::start().await;
    let long = "x".repeat(255);
    let keys = [
        "a".to_owned(),
        "a/".to_owned(),
        "a//b".to_owned(),
        "a/b".to_owned(),
        "a/b/c".to_owned(),
        format!("a/{long}/{long}"),
        "ü %+&?#=".to_owned(),
    ];
    for key in &keys {
        world.put(key, key.as_bytes()).await;
    }
    for key in &keys {
        assert_eq!(world.get(key).await, key.as_bytes(), "{key}");
    }
    let mut sorted = keys.to_vec();
    sorted.sort();
    assert_eq!(world.keys().await, sorted);
    world.client.delete_object().bucket("box").key("a").send().await.unwrap();
    assert_eq!(world.keys().await, sorted[1..]);
}
