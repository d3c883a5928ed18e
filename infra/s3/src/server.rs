use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::backend::Backend;
use crate::store::{OpenError, Store};

/// How long requests in flight may take to finish once a stop was asked for.
const DRAIN_GRACE: Duration = Duration::from_secs(5);

/// What the endpoint needs to know.
#[derive(Clone)]
pub struct Config {
    /// Folder that holds everything; created when absent. One process at a time.
    pub data: PathBuf,
    /// The only access key that is let in.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// Sync file and folder before an object becomes visible. Without it an acknowledged object
    /// survives the death of this process, but not of the machine.
    pub fsync: bool,
}

/// Why serving ended or never began.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data folder cannot be used.
    #[error("could not open the data folder")]
    Open(#[from] OpenError),
    /// A task died while the folder was read.
    #[error("reading the data folder was broken off")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// Serves S3 on `listener` until `shutdown` is cancelled, then lets requests in flight finish for
/// at most five seconds.
///
/// # Errors
/// When the data folder is in use, cannot be read, or holds a damaged object. A connection's own
/// trouble is logged and ends only that connection.
pub async fn serve(
    listener: TcpListener,
    config: Config,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let Config { data, access_key, secret_key, fsync } = config;
    let store = tokio::task::spawn_blocking(move || Store::open(&data, fsync)).await??;
    let service = {
        let mut builder = S3ServiceBuilder::new(Backend::new(store));
        builder.set_auth(SimpleAuth::from_single(access_key, secret_key));
        builder.build()
    };
    let http = auto::Builder::new(TokioExecutor::new()).http1_only();
    let connections = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Most likely out of descriptors: give running requests time to return some.
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "could not switch off Nagle's algorithm");
        }
        let connection = http.serve_connection(TokioIo::new(stream), service.clone()).into_owned();
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "connection ended early");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_GRACE, connections.shutdown()).await.is_err() {
        tracing::warn!("stopped with requests still in flight; nothing of them was acknowledged");
    }
    Ok(())
}
