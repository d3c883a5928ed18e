use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, CompletedMultipartUpload, CompletedPart};

use crate::world::{World, code, status};

const PART: usize = 5 << 20;

impl World {
    async fn begin(&self, key: &str, algorithm: Option<ChecksumAlgorithm>) -> String {
        let create = self.client.create_multipart_upload().bucket("box").key(key);
        let create = create.set_checksum_algorithm(algorithm).content_encoding("gzip");
        let upload = create.metadata("next", "42").send().await.unwrap();
        upload.upload_id().unwrap().to_owned()
    }

    async fn part(&self, key: &str, id: &str, number: i32, body: Vec<u8>) -> CompletedPart {
        let part = self.client.upload_part().bucket("box").key(key).upload_id(id);
        let part = part.part_number(number).body(ByteStream::from(body)).send().await.unwrap();
        CompletedPart::builder()
            .part_number(number)
            .set_e_tag(part.e_tag().map(str::to_owned))
            .set_checksum_crc32(part.checksum_crc32().map(str::to_owned))
            .build()
    }
}

fn list(parts: &[CompletedPart]) -> CompletedMultipartUpload {
    CompletedMultipartUpload::builder().set_parts(Some(parts.to_vec())).build()
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_become_one_object_with_what_was_said_at_the_start() {
    let world = World::start().await;
    let id = world.begin("k", Some(ChecksumAlgorithm::Crc32)).await;
    let two = world.part("k", &id, 2, b"tail".to_vec()).await;
    let one = world.part("k", &id, 1, vec![1; PART]).await;
    assert_eq!(world.keys().await, Vec::<String>::new());

    let list_parts = world.client.list_parts().bucket("box").key("k").upload_id(&id);
    let parts = list_parts.send().await.unwrap();
    let numbers: Vec<_> = parts.parts().iter().map(|part| part.part_number().unwrap()).collect();
    assert_eq!(numbers, [1, 2]);
    let uploads = world.client.list_multipart_uploads().bucket("box").send().await.unwrap();
    assert_eq!(uploads.uploads()[0].upload_id(), Some(id.as_str()));

    let complete =
        || world.client.complete_multipart_upload().bucket("box").key("k").upload_id(&id);
    let wrong_order = complete().multipart_upload(list(&[two.clone(), one.clone()]));
    assert_eq!(code(&wrong_order.send().await.unwrap_err()), "InvalidPartOrder");
    let stranger = CompletedPart::builder().part_number(1).e_tag("\"x\"").build();
    let stranger = complete().multipart_upload(list(&[stranger]));
    assert_eq!(code(&stranger.send().await.unwrap_err()), "InvalidPart");

    let done = complete().multipart_upload(list(&[one.clone(), two])).send().await.unwrap();
    assert!(done.e_tag().unwrap().ends_with("-2\""));
    assert!(done.checksum_crc32().unwrap().ends_with("-2"));
    let get = world.client.get_object().bucket("box").key("k");
    let object = get.checksum_mode(ChecksumMode::Enabled).send().await.unwrap();
    assert_eq!(object.content_encoding(), Some("gzip"));
    assert_eq!(object.metadata().unwrap()["next"], "42");
    let body = object.body.collect().await.unwrap().to_vec();
    assert_eq!((body.len(), &body[PART..]), (PART + 4, &b"tail"[..]));

    let uploads = world.client.list_multipart_uploads().bucket("box").send().await.unwrap();
    assert!(uploads.uploads().is_empty());
    let again = complete().multipart_upload(list(&[one])).send().await;
    assert_eq!(code(&again.unwrap_err()), "NoSuchUpload");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_conditional_completions_exactly_one_wins() {
    let world = World::start().await;
    let mut uploads = Vec::new();
    for writer in 0..16 {
        let id = world.begin("k", None).await;
        let part = world.part("k", &id, 1, format!("writer {writer}").into_bytes()).await;
        uploads.push((id, part));
    }
    let completions: Vec<_> = uploads
        .iter()
        .map(|(id, part)| {
            let complete = world.client.complete_multipart_upload().bucket("box").key("k");
            let complete = complete.upload_id(id).if_none_match("*");
            tokio::spawn(complete.multipart_upload(list(std::slice::from_ref(part))).send())
        })
        .collect();
    let mut winners = Vec::new();
    for (writer, completion) in completions.into_iter().enumerate() {
        match completion.await.unwrap() {
            Ok(_) => winners.push(writer),
            Err(error) => assert_eq!(status(&error), Some(412)),
        }
    }
    assert_eq!(winners.len(), 1, "winners: {winners:?}");
    assert_eq!(world.get("k").await, format!("writer {}", winners[0]).into_bytes());
    let put = world.client.put_object().bucket("box").key("k").if_none_match("*");
    let put = put.body(ByteStream::from_static(b"late")).send().await;
    assert_eq!(status(&put.unwrap_err()), Some(412));
    assert_eq!(world.leftovers().await, 0);
}

#[tokio::test]
async fn a_small_part_before_the_last_is_refused() {
    let world = World::start().await;
    let id = world.begin("k", None).await;
    let parts = [
        world.part("k", &id, 1, b"small".to_vec()).await,
        world.part("k", &id, 2, b"last".to_vec()).await,
    ];
    let complete = world.client.complete_multipart_upload().bucket("box").key("k").upload_id(&id);
    let refusal = complete.multipart_upload(list(&parts)).send().await.unwrap_err();
    assert_eq!(code(&refusal), "EntityTooSmall");
    assert_eq!(world.leftovers().await, 0);
}

#[tokio::test]
async fn an_aborted_upload_is_gone() {
    let world = World::start().await;
    let id = world.begin("k", None).await;
    world.part("k", &id, 1, b"x".to_vec()).await;
    let abort = |id: &str| {
        world.client.abort_multipart_upload().bucket("box").key("k").upload_id(id).send()
    };
    abort(&id).await.unwrap();
    assert_eq!(code(&abort(&id).await.unwrap_err()), "NoSuchUpload");
    assert_eq!(code(&abort("../../objects").await.unwrap_err()), "NoSuchUpload");
    let part = world.client.upload_part().bucket("box").key("k").upload_id(&id).part_number(1);
    let part = part.body(ByteStream::from_static(b"x")).send().await;
    assert_eq!(code(&part.unwrap_err()), "NoSuchUpload");
}

#[tokio::test]
async fn an_upload_goes_on_after_a_restart() {
    let world = World::start().await;
    let id = world.begin("k", None).await;
    let one = world.part("k", &id, 1, vec![1; PART]).await;
    let world = world.restart().await;
    let two = world.part("k", &id, 2, b"2".to_vec()).await;
    let complete = world.client.complete_multipart_upload().bucket("box").key("k").upload_id(&id);
    complete.multipart_upload(list(&[one, two])).send().await.unwrap();
    assert_eq!(world.get("k").await.len(), PART + 1);
}
