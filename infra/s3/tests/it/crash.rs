use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;

use crate::world::client;

/// The endpoint as a process of its own, so that it can be killed.
struct Process {
    child: Child,
    client: Client,
}

impl Process {
    async fn start(folder: &Path, port: u16) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_tailwater-s3"))
            .args(["--listen", &format!("127.0.0.1:{port}"), "--data"])
            .arg(folder)
            .env("TAILWATER_S3_ACCESS_KEY", "tailwater")
            .env("TAILWATER_S3_SECRET_KEY", "tailwater-secret")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let client = client(&format!("http://127.0.0.1:{port}"));
        for _ in 0..500 {
            if client.list_buckets().send().await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self { child, client }
    }

    /// `SIGKILL`: no chance to tidy up.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Bytes that only this object has, of a size that spreads over small and large.
fn body_of(key: &str) -> Vec<u8> {
    let number: usize = key.rsplit('/').next().unwrap().parse().unwrap();
    key.bytes().cycle().take(1 + (number * 7919) % 300_000).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_and_nothing_partial_appears_by_kill_9() {
    let folder = std::env::temp_dir().join(format!("tailwater-s3-it-{}", uuid::Uuid::new_v4()));
    let acknowledged: Arc<Mutex<BTreeMap<String, String>>> = Arc::default();
    let port = free_port();
    for round in 0..6 {
        let mut process = Process::start(&folder, port).await;
        if round == 0 {
            process.client.create_bucket().bucket("box").send().await.unwrap();
        }
        let writers = (0..4).map(|writer| {
            let (client, acknowledged) = (process.client.clone(), Arc::clone(&acknowledged));
            tokio::spawn(async move {
                for number in 0.. {
                    let key = format!("{round}/{writer}/{number}");
                    let put = client.put_object().bucket("box").key(&key).if_none_match("*");
                    let Ok(put) = put.body(ByteStream::from(body_of(&key))).send().await else {
                        return;
                    };
                    acknowledged.lock().unwrap().insert(key, put.e_tag().unwrap().to_owned());
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        tokio::time::sleep(Duration::from_millis(150 + 37 * round)).await;
        process.kill();
        for writer in writers {
            writer.await.unwrap();
        }
    }

    let process = Process::start(&folder, port).await;
    let mut pages = process.client.list_objects_v2().bucket("box").into_paginator().send();
    let mut found = BTreeMap::new();
    while let Some(page) = pages.next().await {
        for object in page.unwrap().contents() {
            let (key, etag) = (object.key().unwrap(), object.e_tag().unwrap());
            let get = process.client.get_object().bucket("box").key(key).send().await.unwrap();
            let body = get.body.collect().await.unwrap().to_vec();
            assert!(body == body_of(key), "{key}");
            found.insert(key.to_owned(), etag.to_owned());
        }
    }
    let acknowledged = acknowledged.lock().unwrap().clone();
    assert!(acknowledged.len() > 20, "only {} objects were acknowledged", acknowledged.len());
    for (key, etag) in &acknowledged {
        assert_eq!(found.get(key), Some(etag), "{key}");
    }
    // At most the one object each writer was waiting for when the process died.
    assert!(found.len() - acknowledged.len() <= 6 * 4);
    assert_eq!(std::fs::read_dir(folder.join("tmp")).unwrap().count(), 0);
    drop(process);
    std::fs::remove_dir_all(folder).unwrap();
}
