use aws_sdk_s3::primitives::ByteStream;

use crate::world::{World, code, status};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_32_conditional_creates_exactly_one_wins_and_its_bytes_stay() {
    let world = World::start().await;
    for round in 0..5 {
        let key = format!("race/{round}");
        let writers = (0..32).map(|writer| {
            let put = world.client.put_object().bucket("box").key(&key).if_none_match("*");
            let put = put.body(ByteStream::from(format!("writer {writer}").into_bytes()));
            tokio::spawn(put.metadata("writer", writer.to_string()).send())
        });
        let mut winners = Vec::new();
        for (writer, put) in writers.collect::<Vec<_>>().into_iter().enumerate() {
            match put.await.unwrap() {
                Ok(_) => winners.push(writer),
                Err(error) => {
                    assert_eq!(code(&error), "PreconditionFailed");
                    assert_eq!(status(&error), Some(412));
                }
            }
        }
        assert_eq!(winners.len(), 1, "winners: {winners:?}");
        let object = world.client.get_object().bucket("box").key(&key).send().await.unwrap();
        assert_eq!(object.metadata().unwrap()["writer"], winners[0].to_string());
        let body = object.body.collect().await.unwrap().into_bytes();
        assert_eq!(body, format!("writer {}", winners[0]).as_bytes());
    }
    assert_eq!(world.leftovers().await, 0);
}

#[tokio::test]
async fn if_match_replaces_only_the_object_it_names() {
    let world = World::start().await;
    let put = |etag: &str| {
        let put = world.client.put_object().bucket("box").key("k").if_match(etag);
        put.body(ByteStream::from_static(b"two")).send()
    };
    assert_eq!(code(&put("\"x\"").await.unwrap_err()), "NoSuchKey");
    world.put("k", "one").await;
    assert_eq!(code(&put("\"x\"").await.unwrap_err()), "PreconditionFailed");
    let head = world.client.head_object().bucket("box").key("k").send().await.unwrap();
    put(head.e_tag().unwrap()).await.unwrap();
    assert_eq!(world.get("k").await, b"two");
    assert_eq!(code(&put(head.e_tag().unwrap()).await.unwrap_err()), "PreconditionFailed");
}

#[tokio::test]
async fn a_deleted_key_may_be_created_again() {
    let world = World::start().await;
    for _ in 0..2 {
        let put = world.client.put_object().bucket("box").key("k").if_none_match("*");
        put.body(ByteStream::from_static(b"x")).send().await.unwrap();
        world.client.delete_object().bucket("box").key("k").send().await.unwrap();
    }
    assert_eq!(world.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn reads_honour_their_conditions() {
    let world = World::start().await;
    world.put("k", "one").await;
    let head = world.client.head_object().bucket("box").key("k").send().await.unwrap();
    let (etag, modified) = (head.e_tag().unwrap(), *head.last_modified().unwrap());
    let get = || world.client.get_object().bucket("box").key("k");
    assert!(get().if_match(etag).send().await.is_ok());
    assert_eq!(status(&get().if_match("\"x\"").send().await.unwrap_err()), Some(412));
    assert_eq!(status(&get().if_none_match(etag).send().await.unwrap_err()), Some(304));
    assert!(get().if_none_match("\"x\"").send().await.is_ok());
    assert_eq!(status(&get().if_modified_since(modified).send().await.unwrap_err()), Some(304));
    assert!(get().if_unmodified_since(modified).send().await.is_ok());
}
