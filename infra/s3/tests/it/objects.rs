use std::sync::Arc;

use aws_sdk_s3::primitives::ByteStream;
use tailwater_infra_s3::{OpenError, ServeError, serve};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::world::{World, code, config, status};

#[tokio::test]
async fn an_object_comes_back_as_it_was_described() {
    let world = World::start().await;
    let put =
        world.client.put_object().bucket("box").key("k").body(ByteStream::from_static(b"abc"));
    let put = put.content_type("application/x-ndjson").content_encoding("gzip");
    put.metadata("next", "7").metadata("next-dt", "2026-01-02").send().await.unwrap();

    let head = world.client.head_object().bucket("box").key("k").send().await.unwrap();
    assert_eq!(head.content_length(), Some(3));
    assert_eq!(head.content_type(), Some("application/x-ndjson"));
    assert_eq!(head.content_encoding(), Some("gzip"));
    assert_eq!(head.e_tag(), Some("\"900150983cd24fb0d6963f7d28e17f72\""));
    let metadata = head.metadata().unwrap();
    assert_eq!((metadata["next"].as_str(), metadata["next-dt"].as_str()), ("7", "2026-01-02"));
    assert_eq!(metadata.len(), 2);
}

#[tokio::test]
async fn ranges_are_cut_as_asked() {
    let world = World::start().await;
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    world.put("k", body.clone()).await;
    world.put("empty", "").await;
    for (range, expected) in [
        ("bytes=0-0", 0..1),
        ("bytes=10-19", 10..20),
        ("bytes=2999990-", 2_999_990..3_000_000),
        ("bytes=-5", 2_999_995..3_000_000),
        ("bytes=1048570-2097160", 1_048_570..2_097_161),
        ("bytes=0-99999999", 0..3_000_000),
    ] {
        let get = world.client.get_object().bucket("box").key("k").range(range);
        let object = get.send().await.unwrap();
        let said = format!("bytes {}-{}/3000000", expected.start, expected.end - 1);
        assert_eq!(object.content_range(), Some(said.as_str()), "{range}");
        let bytes = object.body.collect().await.unwrap().to_vec();
        assert!(bytes == body[expected], "{range}");
    }
    let beyond = world.client.get_object().bucket("box").key("k").range("bytes=3000000-");
    assert_eq!(status(&beyond.send().await.unwrap_err()), Some(416));
    assert_eq!(world.get("empty").await, b"");
}

#[tokio::test]
async fn a_restart_keeps_everything() {
    let world = World::start().await;
    world.put("a/b", "one").await;
    world.put("a", "two").await;
    world.put("gone", "x").await;
    world.client.delete_object().bucket("box").key("gone").send().await.unwrap();
    let before = world.client.head_object().bucket("box").key("a").send().await.unwrap();

    let world = world.restart().await;
    assert_eq!(world.keys().await, ["a", "a/b"]);
    assert_eq!(world.get("a/b").await, b"one");
    let after = world.client.head_object().bucket("box").key("a").send().await.unwrap();
    assert_eq!(before.e_tag(), after.e_tag());
    assert_eq!(before.last_modified(), after.last_modified());
    let put = world.client.put_object().bucket("box").key("a").if_none_match("*");
    let put = put.body(ByteStream::from_static(b"x")).send().await;
    assert_eq!(code(&put.unwrap_err()), "PreconditionFailed");
}

#[tokio::test]
async fn buckets_are_made_once_and_removed_only_when_empty() {
    let world = World::start().await;
    let client = &world.client;
    let again = client.create_bucket().bucket("box").send().await;
    assert_eq!(code(&again.unwrap_err()), "BucketAlreadyOwnedByYou");
    client.create_bucket().bucket("other").send().await.unwrap();
    client.head_bucket().bucket("other").send().await.unwrap();
    let listed = client.list_buckets().send().await.unwrap();
    let names: Vec<_> = listed.buckets().iter().filter_map(|bucket| bucket.name()).collect();
    assert_eq!(names, ["box", "other"]);

    world.put("k", "x").await;
    let full = client.delete_bucket().bucket("box").send().await;
    assert_eq!(code(&full.unwrap_err()), "BucketNotEmpty");
    client.delete_bucket().bucket("other").send().await.unwrap();
    let missing = client.head_bucket().bucket("other").send().await;
    assert_eq!(status(&missing.unwrap_err()), Some(404));
    let put = client.put_object().bucket("other").key("k");
    let put = put.body(ByteStream::from_static(b"x")).send().await;
    assert_eq!(code(&put.unwrap_err()), "NoSuchBucket");
}

#[tokio::test]
async fn many_keys_are_deleted_at_once() {
    use aws_sdk_s3::types::{Delete, ObjectIdentifier};
    let world = World::start().await;
    world.put("a", "x").await;
    world.put("b", "x").await;
    let keys = ["a", "missing"].map(|key| ObjectIdentifier::builder().key(key).build().unwrap());
    let delete = Delete::builder().set_objects(Some(keys.to_vec())).build().unwrap();
    let done = world.client.delete_objects().bucket("box").delete(delete).send().await.unwrap();
    assert_eq!(done.deleted().len(), 2);
    assert_eq!(world.keys().await, ["b"]);
}

#[tokio::test]
async fn a_reader_keeps_its_object_while_it_is_replaced() {
    let world = Arc::new(World::start().await);
    let old = vec![1; 8 << 20];
    world.put("k", old.clone()).await;
    let object = world.client.get_object().bucket("box").key("k").send().await.unwrap();
    world.put("k", "new").await;
    assert!(object.body.collect().await.unwrap().to_vec() == old);
    assert_eq!(world.get("k").await, b"new");
}

#[tokio::test]
async fn what_is_not_supported_is_said_and_not_ignored() {
    let world = World::start().await;
    let put = world.client.put_object().bucket("box").key("k").tagging("a=b");
    let put = put.body(ByteStream::from_static(b"x")).send().await;
    assert_eq!(code(&put.unwrap_err()), "NotImplemented");
    let too_much = world.client.put_object().bucket("box").key("k").metadata("m", "x".repeat(3000));
    let too_much = too_much.body(ByteStream::from_static(b"x")).send().await;
    assert_eq!(code(&too_much.unwrap_err()), "MetadataTooLarge");
}

#[tokio::test]
async fn a_folder_is_served_by_one_process_only() {
    let world = World::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let second = serve(listener, config(world.folder()), CancellationToken::new()).await;
    assert!(matches!(second, Err(ServeError::Open(OpenError::InUse { .. }))), "{second:?}");
}

#[tokio::test]
async fn a_damaged_object_stops_the_start_with_its_name() {
    let mut world = World::start().await;
    world.put("k", "hello").await;
    world.stop().await;
    let objects = world.folder().join("buckets/box/objects");
    let file = std::fs::read_dir(objects).unwrap().next().unwrap().unwrap().path();
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let start = serve(listener, config(world.folder()), CancellationToken::new()).await;
    let Err(ServeError::Open(OpenError::Damaged { path, .. })) = start else {
        panic!("{start:?}");
    };
    assert_eq!(path, file);
}
