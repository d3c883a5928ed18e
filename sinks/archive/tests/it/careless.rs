//! A small HTTP server that plays S3 stores which must be refused.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What a store does with `If-None-Match: *`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Nothing.
    Ignores,
    /// It says that the key is taken, and replaces the object all the same.
    RefusesAndReplaces,
    /// It refuses everybody.
    RefusesAll,
    /// As it should, but tells those who raced that it does not know.
    AnswersWithConflict,
}

type Objects = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// Serves until the test ends; answers where.
pub(crate) async fn serve(manner: Manner) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    let objects = Objects::default();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(converse(client, manner, objects.clone()));
        }
    });
    endpoint
}

async fn converse(client: TcpStream, manner: Manner, objects: Objects) {
    let mut client = BufReader::new(client);
    loop {
        let (mut request, mut length, mut line) = (String::new(), 0, String::new());
        loop {
            line.clear();
            if client.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            if line == "\r\n" {
                break;
            }
            if request.is_empty() {
                request.clone_from(&line);
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
        }
        let mut body = vec![0; length];
        client.read_exact(&mut body).await.expect("the whole body");
        let mut words = request.split(' ');
        let (verb, path) = (words.next().expect("a verb"), words.next().expect("a path"));
        let path = path.split('?').next().unwrap_or(path).to_owned();
        let (status, answer) = answer(verb, path, body, manner, &objects);
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", answer.len());
        let sent = client.write_all(&[head.as_bytes(), &answer].concat()).await;
        if sent.is_err() {
            return;
        }
    }
}

fn answer(
    verb: &str,
    path: String,
    body: Vec<u8>,
    manner: Manner,
    objects: &Objects,
) -> (u16, Vec<u8>) {
    let mut objects = objects.lock().expect("whole");
    let is_there = objects.contains_key(&path);
    match (verb, manner) {
        ("PUT", Manner::RefusesAll) => (412, vec![]),
        ("PUT", Manner::AnswersWithConflict) if is_there => (409, vec![]),
        ("PUT", Manner::RefusesAndReplaces) if is_there => {
            objects.insert(path, body);
            (412, vec![])
        }
        ("PUT", _) => {
            objects.insert(path, body);
            (200, vec![])
        }
        ("GET", _) => objects.get(&path).map_or_else(
            || (404, b"<Error><Code>NoSuchKey</Code></Error>".to_vec()),
            |body| (200, body.clone()),
        ),
        _ => (204, vec![]),
    }
}
