use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{BehaviorVersion, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use tailwater_infra_s3::{Config, ServeError, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// One endpoint on a folder of its own, which goes with it unless it is taken out.
pub(crate) struct World {
    pub(crate) url: String,
    pub(crate) client: Client,
    folder: PathBuf,
    shutdown: CancellationToken,
    serving: Option<JoinHandle<Result<(), ServeError>>>,
}

impl World {
    /// Starts an endpoint with one bucket, `box`.
    pub(crate) async fn start() -> Self {
        let folder = std::env::temp_dir().join(format!("tailwater-s3-it-{}", uuid::Uuid::new_v4()));
        let world = Self::start_on(folder).await;
        world.client.create_bucket().bucket("box").send().await.unwrap();
        world
    }

    pub(crate) async fn start_on(folder: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, config(&folder), shutdown.clone()));
        Self { client: client(&url), url, folder, shutdown, serving: Some(serving) }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Stops and starts on the same folder.
    pub(crate) async fn restart(mut self) -> Self {
        self.stop().await;
        Self::start_on(std::mem::take(&mut self.folder)).await
    }

    pub(crate) async fn stop(&mut self) {
        self.shutdown.cancel();
        self.serving.take().unwrap().await.unwrap().unwrap();
    }

    pub(crate) async fn put(&self, key: &str, body: impl Into<Vec<u8>>) {
        let body = ByteStream::from(body.into());
        self.client.put_object().bucket("box").key(key).body(body).send().await.unwrap();
    }

    pub(crate) async fn get(&self, key: &str) -> Vec<u8> {
        let object = self.client.get_object().bucket("box").key(key).send().await.unwrap();
        object.body.collect().await.unwrap().to_vec()
    }

    pub(crate) async fn keys(&self) -> Vec<String> {
        let page = self.client.list_objects_v2().bucket("box").send().await.unwrap();
        page.contents().iter().map(|object| object.key().unwrap().to_owned()).collect()
    }

    /// Files that are nobody's; a failed upload must leave none.
    pub(crate) async fn leftovers(&self) -> usize {
        // The server notices a lost connection a moment later than the client.
        for _ in 0..100 {
            if std::fs::read_dir(self.folder.join("tmp")).unwrap().count() == 0 {
                return 0;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::fs::read_dir(self.folder.join("tmp")).unwrap().count()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if !self.folder.as_os_str().is_empty() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

pub(crate) fn config(folder: &Path) -> Config {
    Config {
        data: folder.to_owned(),
        access_key: "tailwater".into(),
        secret_key: "tailwater-secret".into(),
        fsync: true,
    }
}

pub(crate) fn client(url: &str) -> Client {
    client_with(url, "tailwater-secret")
}

pub(crate) fn client_with(url: &str, secret: &str) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(url)
        .credentials_provider(Credentials::new("tailwater", secret, None, None, "test"))
        .force_path_style(true)
        .retry_config(RetryConfig::disabled())
        .build();
    Client::from_conf(config)
}

/// The S3 error code of a refusal.
pub(crate) fn code<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> String {
    match error {
        SdkError::ServiceError(service) => service.err().code().unwrap_or("none").to_owned(),
        _ => "no answer".to_owned(),
    }
}

/// HTTP status of a refusal.
pub(crate) fn status<E>(
    error: &SdkError<E, aws_sdk_s3::config::http::HttpResponse>,
) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// What a bad wire does to the bytes on their way to the server.
#[derive(Clone, Copy)]
pub(crate) enum Fault {
    /// Replaces the first occurrence of the left by the right, which has the same length.
    Replace(&'static [u8], &'static [u8]),
    /// Closes both sides after so many bytes.
    CutAfter(usize),
}

/// A port in front of `url` with that fault.
pub(crate) async fn bad_wire(url: &str, fault: Fault) -> String {
    let server = url.trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&server).await.unwrap();
            tokio::spawn(carry(client, server, fault));
        }
    });
    url
}

async fn carry(client: TcpStream, server: TcpStream, fault: Fault) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
    });
    let mut carried = 0;
    let mut replaced = false;
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
        let bytes = &mut buffer[..read];
        match fault {
            Fault::Replace(old, new) if !replaced => {
                if let Some(at) = bytes.windows(old.len()).position(|window| window == old) {
                    bytes[at..at + new.len()].copy_from_slice(new);
                    replaced = true;
                }
            }
            Fault::CutAfter(limit) if carried + read > limit => {
                let _ = to_server.write_all(&bytes[..limit - carried]).await;
                back.abort();
                return;
            }
            _ => {}
        }
        carried += read;
        if to_server.write_all(bytes).await.is_err() {
            return;
        }
    }
}
