//! The measured stages.

use std::process::Command;
use std::time::Duration;

use anyhow::bail;

use super::backlog::{self, Backlog};
use crate::postgres::client_path;
use crate::process::{Cost, Measured};

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a process had cost when it was last seen alive.
async fn until_ended(mut process: Measured) -> anyhow::Result<Cost> {
    let mut cost = process.cost()?;
    while process.is_running()? {
        if let Ok(now) = process.cost() {
            cost = now;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(cost)
}

/// The existing rows read by one connection and thrown away.
pub(crate) async fn bare_copy(backlog: &Backlog) -> anyhow::Result<Cost> {
    let mut command = Command::new(client_path("psql"));
    command.args(["--no-psqlrc", "--dbname", backlog.database_url()]);
    command.args(["--command", "copy existing to stdout"]);
    let process = Measured::start(&mut command, &backlog.log("psql"))?;
    until_ended(process).await
}

/// The first copy of the existing rows, from its first rows in Kafka to the last; and how many came in that time.
/// Taking the snapshot costs a second or so however many there are.
pub(crate) async fn first_copy(backlog: &Backlog, rows: u64) -> anyhow::Result<(Cost, u64)> {
    let mut process = backlog.start_reader()?;
    let mut began = None;
    loop {
        let written = backlog.written("bench.existing")?;
        if began.is_none() && written > 0 {
            began = Some((process.cost()?, written));
        }
        // Each transaction takes an offset of its own as well, in each partition.
        if written >= rows {
            break;
        }
        if !process.is_running()? {
            bail!("the reader ended early; see {}", backlog.log("reader").display());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let (before, written) = began.unwrap_or((process.cost()?, 0));
    let cost = process.cost()?.since(before);
    backlog.settle(process).await?;
    Ok((cost, rows - written.min(rows)))
}

/// The same WAL read and thrown away by Postgres' own client.
pub(crate) async fn recvlogical(backlog: &Backlog) -> anyhow::Result<Cost> {
    let end = backlog.end().await?;
    let mut command = Command::new(client_path("pg_recvlogical"));
    command.args(["--start", "--slot", backlog::CEILING_SLOT, "--file", "/dev/null"]);
    command.args(["--endpos", &end, "--no-loop", "--dbname", backlog.database_url()]);
    command.args(["--option", "proto_version=1"]);
    command.arg("--option").arg(format!("publication_names={}", backlog.publication()));
    let process = Measured::start(&mut command, &backlog.log("recvlogical"))?;
    until_ended(process).await
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
