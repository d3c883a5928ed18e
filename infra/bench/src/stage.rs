//! The measured stages.

use std::process::Command;
use std::time::Duration;

use anyhow::bail;

use crate::backlog::{self, Backlog};
use crate::process::{Cost, Measured};

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The same WAL read and thrown away by Postgres' own client.
pub(crate) async fn recvlogical(backlog: &Backlog) -> anyhow::Result<Cost> {
    let end = backlog.end().await?;
    let mut command = Command::new(backlog::recvlogical_path());
    command.args(["--start", "--slot", backlog::CEILING_SLOT, "--file", "/dev/null"]);
    command.args(["--endpos", &end, "--no-loop", "--dbname", backlog.database_url()]);
    command.args(["--option", "proto_version=1"]);
    command.arg("--option").arg(format!("publication_names={}", backlog.publication()));
    let mut process = Measured::start(&mut command, &backlog.log("recvlogical"))?;
    let mut cost = process.cost()?;
    while process.is_running()? {
        if let Ok(now) = process.cost() {
            cost = now;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(cost)
}

/// The reader, from its first byte of WAL until the slot says that everything is durable in Kafka. Looking around
/// before it streams takes it a second or so whatever the backlog, and is not throughput.
pub(crate) async fn reader(backlog: &Backlog) -> anyhow::Result<Cost> {
    let end = backlog.end().await?;
    let mut process = backlog.start_reader()?;
    while !backlog.is_read().await? {
        if !process.is_running()? {
            bail!("the reader ended early; see {}", backlog.log("reader").display());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let before = process.cost()?;
    while !backlog.is_confirmed(&end).await? {
        if !process.is_running()? {
            bail!("the reader ended early; see {}", backlog.log("reader").display());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let cost = process.cost()?.since(before);
    process.stop()?;
    Ok(cost)
}

/// A sink, until its group has committed every record of the topic.
pub(crate) async fn sink(
    backlog: &Backlog,
    sink: &str,
    topic: &str,
    records: u64,
) -> anyhow::Result<Cost> {
    let mut process = backlog.start_sink(sink)?;
    while backlog.committed(sink, topic)? < records {
        if !process.is_running()? {
            bail!("the sink ended early; see {}", backlog.log(sink).display());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let cost = process.cost()?;
    process.stop()?;
    Ok(cost)
}
