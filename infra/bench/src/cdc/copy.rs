//! Rows that are there before the first start, beside a bare COPY of the same ranges.

use std::time::Duration;

use anyhow::Context;
use tokio::time::sleep;

use super::Options;
use crate::bare::Outcome;
use crate::process::Cost;
use crate::report::{Report, Target};
use crate::stage::{Further, PARTITIONS, Stage, Table};

/// How many connections read at once: one, which the target is about, and as many as the reader takes by itself.
const WORKERS: [u64; 2] = [1, 4];

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// One round.
struct Round {
    bare: Outcome,
    /// From the first rows in Kafka to the last.
    copy: Cost,
    /// That came in this time.
    rows: f64,
}

pub(super) async fn measure(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let ddl = "create table existing (id bigint primary key, kind int, at timestamptz, body text)";
    let stage = Stage::create(&options.servers, "copy", ddl).await?;
    let outcome = copies(options, &stage, report).await;
    stage.remove().await?;
    outcome
}

async fn copies(options: &Options, stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    stage
        .sql(&format!(
            "insert into existing select i, i % 97, now(), repeat(md5(i::text), 2) from generate_series(1, {}) i",
            options.existing_rows
        ))
        .await?;
    stage.sql("vacuum analyze existing").await?;
    let size =
        "select (pg_relation_size('existing') / current_setting('block_size')::bigint)::text";
    let pages = stage.ask(size).await?;
    for workers in WORKERS {
        let mut rounds = Vec::new();
        for number in 0..options.rounds {
            let round = round(options, stage, &pages, workers, number).await?;
            eprintln!(
                "  {workers} workers, round {}: bare {:.0}/s, first copy {:.0}/s",
                number + 1,
                round.bare.changes as f64 / round.bare.seconds,
                round.rows / round.copy.seconds
            );
            rounds.push(round);
        }
        tell(workers, &rounds, report);
    }
    Ok(())
}

async fn round(
    options: &Options,
    stage: &Stage,
    pages: &str,
    workers: u64,
    number: usize,
) -> anyhow::Result<Round> {
    let count = workers.to_string();
    let bare =
        stage.bare(&["copy", "--table", "existing", "--pages", pages, "--workers", &count]).await?;
    let table = Table { name: "existing", partitions: PARTITIONS, key: "" };
    let reader = format!(", copy_workers: {workers}");
    let pipeline = stage.pipeline(
        &format!("_{workers}_{number}"),
        &[table],
        Further { reader: &reader, ..Further::default() },
    )?;
    let mut process = pipeline.start(&["cdc", "run"])?;
    let mut first = None;
    let written = pipeline.written("existing")?;
    let (end, written) = loop {
        let written = written.offsets()?;
        if first.is_none() && written > 0 {
            first = Some((process.cost()?, written));
        }
        // Each transaction takes an offset of its own as well, in each partition.
        if written >= options.existing_rows {
            break (process.cost()?, written);
        }
        pipeline.check(&mut process)?;
        sleep(LOOK_EVERY).await;
    };
    process.stop()?;
    stage.drop_slot(&pipeline.slot()).await?;
    let (begin, before) = first.context("no rows came")?;
    Ok(Round { bare, copy: end.since(begin), rows: (written - before) as f64 })
}

fn tell(workers: u64, rounds: &[Round], report: &mut Report) {
    let each = |figure: &dyn Fn(&Round) -> f64| rounds.iter().map(figure).collect::<Vec<_>>();
    let bare = |round: &Round| round.bare.changes as f64 / round.bare.seconds;
    let copy = |round: &Round| round.rows / round.copy.seconds;
    let target = (workers == 1).then_some(Target::AtLeast(0.8));
    let with = |what: &str| format!("{what}, {workers} at once");
    report.add(with("pace beside bare COPY"), "", each(&|r| copy(r) / bare(r)), target);
    report.add(with("first copy"), "rows/s", each(&copy), None);
    report.add(with("bare COPY"), "rows/s", each(&bare), None);
    report.add(
        with("first copy"),
        "CPU-s per million",
        each(&|r| r.copy.cpu_seconds / r.rows * 1e6),
        None,
    );
    report.add(
        with("bare COPY"),
        "CPU-s per million",
        each(&|r| r.bare.cpu_seconds / r.bare.changes as f64 * 1e6),
        None,
    );
    report.add(with("reader, most memory"), "MiB", each(&|r| r.copy.peak_mib), None);
}
