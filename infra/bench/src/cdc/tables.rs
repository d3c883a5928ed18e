//! Many tables: how long a start takes.

use std::time::Instant;

use super::Options;
use crate::report::{Report, Target};
use crate::stage::{Further, Stage, Table};

/// A start within ten seconds.
const START: Target = Target::AtMost(10.0);

pub(super) async fn measure(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let columns: String = (1..20).map(|column| format!(", c{column} text")).collect();
    let ddl = format!(
        "do $$ begin for t in 1 .. {} loop
           execute format('create table t%s (id bigint generated always as identity primary key{columns})', t);
         end loop; end $$",
        options.tables
    );
    let stage = Stage::create(&options.servers, "tables", &ddl).await?;
    let outcome = starts(options, &stage, report).await;
    stage.remove().await?;
    outcome
}

async fn starts(options: &Options, stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let names: Vec<String> = (1..=options.tables).map(|table| format!("t{table}")).collect();
    let tables: Vec<Table<'_>> =
        names.iter().map(|name| Table { name, partitions: 1, key: "" }).collect();
    let began = Instant::now();
    let pipeline = stage.pipeline("", &tables, Further::default())?;
    report.add("apply of all topics", "s", vec![began.elapsed().as_secs_f64()], None);

    let mut reader = pipeline.start(&["cdc", "run"])?;
    stage.until_ready(&pipeline, &mut reader).await?;
    report.add("first start, until ready", "s", vec![reader.cost()?.seconds], Some(START));
    let mark = stage.mark().await?;
    stage.until_confirmed(&pipeline, &mut reader, &mark).await?;
    reader.stop()?;

    let touch: String =
        names.iter().map(|name| format!("insert into {name} (c1) values ('touched');")).collect();
    let (mut ready, mut all) = (Vec::new(), Vec::new());
    let mut memory = Vec::new();
    for round in 0..options.rounds {
        stage.sql(&touch).await?;
        let mark = stage.mark().await?;
        let mut reader = pipeline.start(&["cdc", "run"])?;
        stage.until_ready(&pipeline, &mut reader).await?;
        ready.push(reader.cost()?.seconds);
        stage.until_confirmed(&pipeline, &mut reader, &mark).await?;
        let cost = reader.cost()?;
        all.push(cost.seconds);
        memory.push(cost.peak_mib);
        reader.stop()?;
        eprintln!("  round {}: {:.1} s", round + 1, cost.seconds);
    }
    report.add("later start, until ready", "s", ready, None);
    report.add(
        "later start with a change waiting in each table, until all are in Kafka",
        "s",
        all,
        Some(START),
    );
    report.add("reader, most memory", "MiB", memory, None);
    Ok(())
}
