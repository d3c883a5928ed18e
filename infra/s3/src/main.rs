//! `tailwater-s3`: the embedded S3 endpoint as a process of its own.

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::{ArgAction, Parser};
use tailwater_infra_s3::{Config, serve};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// A small S3 endpoint that keeps its objects in one folder.
#[derive(Parser)]
#[command(name = "tailwater-s3", version)]
struct Flags {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:19000")]
    listen: SocketAddr,
    /// Folder for buckets and objects; created when absent.
    #[arg(long)]
    data: PathBuf,
    /// The access key clients must use.
    #[arg(long, env = "TAILWATER_S3_ACCESS_KEY")]
    access_key: String,
    /// The secret that belongs to it. Prefer the environment: flags are visible to every process.
    #[arg(long, env = "TAILWATER_S3_SECRET_KEY", hide_env_values = true)]
    secret_key: String,
    /// Sync objects to disk before they become visible. With `--fsync false` an acknowledged object
    /// survives a killed process, but not a power cut.
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    fsync: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,s3s=off")),
        )
        .with_writer(std::io::stderr)
        .init();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind(flags.listen)
        .await
        .with_context(|| format!("could not listen on {}", flags.listen))?;
    tracing::info!(address = %listener.local_addr()?, data = %flags.data.display(), "serving S3");

    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        stop.cancel();
    });
    let Flags { data, access_key, secret_key, fsync, .. } = flags;
    serve(listener, Config { data, access_key, secret_key, fsync }, shutdown).await?;
    tracing::info!("stopped");
    Ok(())
}
