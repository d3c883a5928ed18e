//! Bare loops: the least that work of the reader's kind can cost, each in a process of its own.
//!
//! ```text
//!  Postgres ──▶ wire (the reader's own socket) ──▶ walk the messages ─┬─▶ drop             `stream`, `copy`
//!                                                                     └─▶ librdkafka       `send`
//! ```
//!
//! * They read as the reader does, with the kernel gathering bytes while behind: a loop that wakes for each message
//!   slows the server down and would be an easy rival.
//! * `send` hands over one ready-made record for each change, outside of transactions: what client and broker take.

mod send;
mod wire;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use clap::{Args, Subcommand};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use serde::{Deserialize, Serialize};

use self::send::Sending;
use self::wire::{Change, Wire};

/// One bare loop over one database.
#[derive(Args)]
pub(crate) struct Options {
    /// The database.
    #[arg(long)]
    postgres: String,
    #[command(subcommand)]
    what: Loop,
}

#[derive(Subcommand)]
enum Loop {
    /// Reads a slot up to a position, and confirms it.
    Stream {
        #[arg(long)]
        slot: String,
        #[arg(long)]
        publication: String,
        /// The loop ends with the first transaction that commits at or after this.
        #[arg(long, value_parser = position)]
        until: u64,
        #[command(flatten)]
        send: Option<SendTo>,
    },
    /// Reads a table, by several connections at once.
    Copy {
        #[arg(long)]
        table: String,
        /// Pages of the table.
        #[arg(long)]
        pages: u64,
        #[arg(long)]
        workers: u64,
    },
}

/// Where `send` writes.
#[derive(Args)]
#[group(requires_all = ["brokers", "topic", "records"])]
struct SendTo {
    #[arg(long, required = false)]
    brokers: String,
    #[arg(long, required = false)]
    topic: String,
    /// Records to send in turn, as [`send::write`] writes them.
    #[arg(long, required = false)]
    records: PathBuf,
}

/// What a loop did and what it cost.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Outcome {
    /// Changes or rows.
    pub(crate) changes: u64,
    /// Bytes read from the server.
    pub(crate) bytes: u64,
    /// From the command to the last byte, or to the last delivery.
    pub(crate) seconds: f64,
    /// CPU-seconds in that time, user and system.
    pub(crate) cpu_seconds: f64,
}

/// Runs one loop and prints its outcome as JSON.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let outcome = match &options.what {
        Loop::Stream { slot, publication, until, send } => {
            let mut wire = Wire::open(&options.postgres, true).await?;
            let mut sending = send
                .as_ref()
                .map(|to| Sending::begin(&to.brokers, &to.topic, &to.records))
                .transpose()?;
            let (began, cpu) = (Instant::now(), cpu_seconds()?);
            wire.stream(slot, publication).await?;
            let mut changes = 0;
            let end = loop {
                match wire.change().await? {
                    Change::Row => {
                        changes += 1;
                        if let Some(sending) = &mut sending {
                            sending.next()?;
                        }
                    }
                    Change::Commit { at, end } if at >= *until => break end,
                    Change::Commit { .. } | Change::Other => {}
                }
            };
            if let Some(sending) = sending {
                sending.finish()?;
            }
            let seconds = began.elapsed().as_secs_f64();
            let cpu_seconds = cpu_seconds()? - cpu;
            wire.confirm(end).await?;
            Outcome { changes, bytes: wire.bytes(), seconds, cpu_seconds }
        }
        Loop::Copy { table, pages, workers } => {
            let mut wires = Vec::new();
            for _ in 0..*workers {
                wires.push(Wire::open(&options.postgres, false).await?);
            }
            let (began, cpu) = (Instant::now(), cpu_seconds()?);
            let copies = wires.into_iter().zip(0..).map(|(mut wire, worker)| {
                let (first, end) = (pages * worker / workers, pages * (worker + 1) / workers);
                let upper = if worker + 1 == *workers {
                    String::new()
                } else {
                    format!(" and ctid < '({end},0)'")
                };
                let sql = format!(
                    "copy (select * from {table} where ctid >= '({first},0)'{upper}) to stdout"
                );
                tokio::spawn(async move {
                    let rows = wire.copy(&sql).await?;
                    anyhow::Ok((rows, wire.bytes()))
                })
            });
            let (mut changes, mut bytes) = (0, 0);
            for copy in copies.collect::<Vec<_>>() {
                let (rows, read) = copy.await??;
                changes += rows;
                bytes += read;
            }
            let seconds = began.elapsed().as_secs_f64();
            Outcome { changes, bytes, seconds, cpu_seconds: cpu_seconds()? - cpu }
        }
    };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

/// What this process has used so far.
pub(crate) fn cpu_seconds() -> anyhow::Result<f64> {
    let usage: Usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// A position as Postgres prints it: two hexadecimal halves.
fn position(text: &str) -> anyhow::Result<u64> {
    let (high, low) = text.split_once('/').context("no `/` in a position")?;
    let high = u64::from_str_radix(high, 16)?;
    Ok(high << 32 | u64::from_str_radix(low, 16)?)
}

pub(crate) use self::send::write as write_records;
