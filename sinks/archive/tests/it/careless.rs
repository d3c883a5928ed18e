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
    /// As it should, but nothing when an object comes in parts.
    IgnoresForUploads,
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
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let (status, answer) = match part_of(query) {
            Some(part) => upload(verb, path, part, body, &objects),
            None => answer(verb, path.to_owned(), body, manner, &objects),
        };
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", answer.len());
        let sent = client.write_all(&[head.as_bytes(), &answer].concat()).await;
        if sent.is_err() {
            return;
        }
    }
}

/// What a request about an upload is about: its id, which is empty when it begins.
fn part_of(query: &str) -> Option<&str> {
    let mut fields = query.split('&').map(|field| field.split_once('=').unwrap_or((field, "")));
    fields.find(|(name, _)| ["uploads", "uploadId"].contains(name)).map(|(_, id)| id)
}

/// Uploads of one part each, which is kept beside the objects until it becomes one.
fn upload(verb: &str, path: &str, id: &str, body: Vec<u8>, objects: &Objects) -> (u16, Vec<u8>) {
    let mut objects = objects.lock().expect("whole");
    match (verb, id) {
        ("POST", "") => {
            let id = objects.len();
            objects.insert(id.to_string(), vec![]);
            let answer = format!(
                "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            );
            (200, answer.into_bytes())
        }
        ("PUT", id) => {
            objects.insert(id.to_owned(), body);
            (200, vec![])
        }
        ("POST", id) => {
            let body = objects[id].clone();
            objects.insert(path.to_owned(), body);
            (200, b"<CompleteMultipartUploadResult></CompleteMultipartUploadResult>".to_vec())
        }
        _ => (204, vec![]),
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
        ("PUT", Manner::IgnoresForUploads) if is_there => (412, vec![]),
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
