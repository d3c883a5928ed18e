//! Ports, readiness and commands that are waited for.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Process;

/// How long a process may take until it does its work.
pub(crate) const START_MAX: Duration = Duration::from_secs(60);

pub(crate) fn run(folder: &Path, binary: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let path = std::env::current_exe()?;
    let path = path.parent().and_then(Path::parent).context("no target folder")?.join(binary);
    let output =
        Command::new(&path).args(arguments).current_dir(folder).output().with_context(|| {
            format!("`{}` is not built; run the tests with `make test`", path.display())
        })?;
    ensure!(
        output.status.success(),
        "`{binary} {}`: {}{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Ports nobody uses now.
pub(crate) fn free_ports<const COUNT: usize>() -> anyhow::Result<[u16; COUNT]> {
    let mut listeners = Vec::new();
    let mut ports = [0; COUNT];
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}

pub(crate) async fn is_ready(port: u16) -> bool {
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer.starts_with(b"HTTP/1.1 200"))
    };
    ask.await.unwrap_or(false)
}

pub(crate) async fn wait_for_port(process: &mut Process, port: u16) -> anyhow::Result<()> {
    let began = Instant::now();
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        process.check_running()?;
        ensure!(began.elapsed() < START_MAX, "nobody listens on {port}: {}", process.last_words());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
