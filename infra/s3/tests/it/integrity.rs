use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::{Fault, World, bad_wire, client, client_with, code, status};

#[tokio::test]
async fn a_wrong_sum_in_a_header_stores_nothing() {
    let world = World::start().await;
    let put = || {
        let put = world.client.put_object().bucket("box").key("k");
        put.body(ByteStream::from_static(b"hello"))
    };
    let refusals = [
        put().checksum_crc32("AAAAAA==").send().await,
        put().checksum_crc32_c("AAAAAA==").send().await,
        put().checksum_sha256("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").send().await,
        put().content_md5("AAAAAAAAAAAAAAAAAAAAAA==").send().await,
    ];
    for refusal in refusals {
        assert_eq!(code(&refusal.unwrap_err()), "BadDigest");
    }
    assert_eq!(world.keys().await, Vec::<String>::new());
    assert_eq!(world.leftovers().await, 0);
}

#[tokio::test]
async fn sums_are_kept_and_given_back() {
    let world = World::start().await;
    let algorithms = [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32C,
        ChecksumAlgorithm::Sha1,
        ChecksumAlgorithm::Sha256,
    ];
    for algorithm in algorithms {
        let put = world.client.put_object().bucket("box").key("k");
        let put = put.checksum_algorithm(algorithm.clone());
        put.body(ByteStream::from_static(b"hello")).send().await.unwrap();
        let get = world.client.get_object().bucket("box").key("k");
        let object = get.checksum_mode(ChecksumMode::Enabled).send().await.unwrap();
        let sums = [
            object.checksum_crc32(),
            object.checksum_crc32_c(),
            object.checksum_sha1(),
            object.checksum_sha256(),
        ];
        assert_eq!(sums.into_iter().flatten().count(), 1, "{algorithm}: {sums:?}");
        assert_eq!(object.body.collect().await.unwrap().to_vec(), b"hello");
    }
}

/// Bodies of a known and of an unknown content; the second kind is sent in chunks with the sum
/// behind them.
async fn bodies(bytes: &'static [u8]) -> Vec<ByteStream> {
    let path = std::env::temp_dir().join(format!("tailwater-s3-it-{}", uuid::Uuid::new_v4()));
    std::fs::write(&path, bytes).unwrap();
    vec![ByteStream::from_static(bytes), ByteStream::from_path(&path).await.unwrap()]
}

#[tokio::test]
async fn a_byte_changed_on_the_wire_stores_nothing() {
    let world = World::start().await;
    let wire = bad_wire(&world.url, Fault::Replace(b"innocent", b"INNOCENT")).await;
    for body in bodies(b"an innocent body").await {
        let put = client(&wire).put_object().bucket("box").key("k").body(body).send().await;
        assert_eq!(status(&put.unwrap_err()), Some(400));
    }
    assert_eq!(world.keys().await, Vec::<String>::new());
    assert_eq!(world.leftovers().await, 0);
}

#[tokio::test]
async fn a_body_cut_short_stores_nothing() {
    let world = World::start().await;
    static BODY: [u8; 300_000] = [7; 300_000];
    for limit in [2_000, 150_000, 299_000] {
        let wire = bad_wire(&world.url, Fault::CutAfter(limit)).await;
        for body in bodies(&BODY).await {
            let put = client(&wire).put_object().bucket("box").key("k").body(body).send().await;
            assert_eq!(code(&put.unwrap_err()), "no answer");
        }
    }
    assert_eq!(world.leftovers().await, 0);
    assert_eq!(world.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_unsigned_body_that_is_half_closed_stores_nothing() {
    let world = World::start().await;
    let put = world.client.put_object().bucket("box").key("k");
    let hour = PresigningConfig::expires_in(Duration::from_secs(3600)).unwrap();
    let url = put.presigned(hour).await.unwrap().uri().to_owned();
    let path = url.strip_prefix(&world.url).unwrap();
    let host = world.url.strip_prefix("http://").unwrap();
    for (declared, sent) in [(10, 10), (10, 5), (10, 0)] {
        let mut stream = TcpStream::connect(host).await.unwrap();
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {declared}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b'x'; sent]).await.unwrap();
        let whole = declared == sent;
        if !whole {
            stream.shutdown().await.unwrap();
        }
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply).await;
        assert_eq!(reply.starts_with(b"HTTP/1.1 200"), whole, "{}", reply.escape_ascii());
        assert_eq!(world.leftovers().await, 0);
        assert_eq!(world.keys().await.len(), usize::from(whole));
        world.client.delete_object().bucket("box").key("k").send().await.unwrap();
    }
}

#[tokio::test]
async fn only_the_right_secret_is_let_in() {
    let world = World::start().await;
    let stranger = client_with(&world.url, "another-secret");
    let refusal = stranger.list_objects_v2().bucket("box").send().await.unwrap_err();
    assert_eq!(code(&refusal), "SignatureDoesNotMatch");
    let host = world.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host).await.unwrap();
    let head = format!("GET /box/k HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 403"), "{reply}");
}
