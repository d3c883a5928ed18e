//! A backlog, read by a bare loop that drops it, by the reader, and by a bare loop that sends as much to Kafka.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::ensure;
use rdkafka::ClientConfig;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::Options;
use crate::bare::{Outcome, write_records};
use crate::postgres::client_path;
use crate::process::Cost;
use crate::report::{Report, Target};
use crate::stage::{Further, PARTITIONS, Pipeline, Stage, Table};

/// What the backlog consists of.
#[derive(Clone, Copy)]
pub(super) enum Load {
    /// Inserts, in transactions of `each`.
    Rows { rows: u64, each: u64 },
    /// TPC-B transactions: three updates and an insert.
    Pgbench { transactions: u64 },
    /// Inserts in one transaction.
    Transaction { rows: u64 },
}

/// Records that the sending loop sends in turn.
const SAMPLE: usize = 20_000;

/// Two million accounts or so would only be slower to make.
const PGBENCH_SCALE: &str = "5";

const ROWS: &str = "create table rows (id bigint primary key, kind int, at timestamptz, name text, body text, price numeric, ok boolean);";

/// The history has no primary key, so its topic declares one.
const HISTORY: &str = "alter table pgbench_history replica identity full, alter tid set not null, alter bid set not null,
    alter aid set not null, alter delta set not null, alter mtime set not null;";

/// One round.
struct Round {
    bare: Outcome,
    reader: Cost,
    /// Not where nobody would learn from it.
    send: Option<Outcome>,
}

pub(super) async fn measure(
    options: &Options,
    load: Load,
    report: &mut Report,
) -> anyhow::Result<()> {
    let ddl = match load {
        Load::Pgbench { .. } => "create table spare (id bigint primary key);".to_owned(),
        _ => format!("{ROWS} create table spare (id bigint primary key);"),
    };
    let stage = Stage::create(&options.servers, load.name(), &ddl).await?;
    let rounds = match load {
        Load::Transaction { .. } => 1,
        _ => options.rounds,
    };
    let outcome = drain(&stage, load, rounds).await;
    stage.remove().await?;
    tell(load, &outcome?, report);
    Ok(())
}

async fn drain(stage: &Stage, load: Load, rounds: usize) -> anyhow::Result<Vec<Round>> {
    load.prepare(stage).await?;
    let tables = load.tables();
    let pipeline = stage.pipeline("", &tables, Further::default())?;
    stage.settle(&pipeline).await?;
    let (drops, sends) =
        (format!("{}_drops", pipeline.slot()), format!("{}_sends", pipeline.slot()));
    stage.make_slot(&drops).await?;
    if load.is_sent() {
        stage.make_slot(&sends).await?;
    }
    let mut all = Vec::new();
    let mut sample: Option<PathBuf> = None;
    for round in 0..rounds {
        load.fill(stage, round as u64).await?;
        let mark = stage.mark().await?;
        let publication = pipeline.publication();
        let bare = ["stream", "--until", &mark, "--publication", &publication, "--slot"];
        let dropped = stage.bare(&[&bare[..], &[&drops]].concat()).await?;
        let reader = stage.drain(&pipeline, &mark).await?;
        let mut send = None;
        if load.is_sent() {
            let records = match &sample {
                Some(records) => records.clone(),
                None => sample_of(stage, &pipeline, &tables)?,
            };
            let (path, topic) = (records.display().to_string(), pipeline.topic("spare"));
            let to = ["--brokers", pipeline.brokers(), "--topic", &topic, "--records", &path];
            let sent = stage.bare(&[&bare[..], &[&sends], &to].concat()).await?;
            ensure!(sent.changes == dropped.changes, "the loops read different backlogs");
            send = Some(sent);
            sample = Some(records);
        }
        eprintln!(
            "  round {}: bare {:.0}/s, reader {:.0}/s of {} changes",
            round + 1,
            dropped.changes as f64 / dropped.seconds,
            dropped.changes as f64 / reader.seconds,
            dropped.changes
        );
        all.push(Round { bare: dropped, reader, send });
    }
    Ok(all)
}

fn tell(load: Load, rounds: &[Round], report: &mut Report) {
    let each = |figure: &dyn Fn(&Round) -> f64| rounds.iter().map(figure).collect::<Vec<_>>();
    let sent = |figure: &dyn Fn(&Round, &Outcome) -> f64| {
        rounds.iter().filter_map(|round| Some(figure(round, round.send.as_ref()?))).collect()
    };
    let changes = |round: &Round| round.bare.changes as f64;
    let (pace, memory) = match load {
        Load::Transaction { .. } => (None, Target::AtMost(256.0)),
        _ => (Some(Target::AtLeast(0.9)), Target::AtMost(64.0)),
    };
    let cpu = pace.map(|_| Target::AtMost(4.0));
    report.add("changes", "", each(&changes), None);
    report.add(
        "pace beside a bare loop that drops",
        "",
        each(&|r| r.bare.seconds / r.reader.seconds),
        pace,
    );
    report.add(
        "pace beside a bare loop that sends",
        "",
        sent(&|r, s| s.seconds / r.reader.seconds),
        None,
    );
    report.add("reader", "changes/s", each(&|r| changes(r) / r.reader.seconds), None);
    report.add("bare loop that drops", "changes/s", each(&|r| changes(r) / r.bare.seconds), None);
    report.add("bare loop that sends", "changes/s", sent(&|r, s| changes(r) / s.seconds), None);
    report.add(
        "reader",
        "CPU-s per million",
        each(&|r| r.reader.cpu_seconds / changes(r) * 1e6),
        cpu,
    );
    report.add(
        "bare loop that drops",
        "CPU-s per million",
        each(&|r| r.bare.cpu_seconds / changes(r) * 1e6),
        None,
    );
    report.add(
        "bare loop that sends",
        "CPU-s per million",
        sent(&|r, s| s.cpu_seconds / changes(r) * 1e6),
        None,
    );
    report.add("reader, most memory", "MiB", each(&|r| r.reader.peak_mib), Some(memory));
}

impl Load {
    fn name(self) -> &'static str {
        match self {
            Self::Rows { .. } => "rows",
            Self::Pgbench { .. } => "pgbench",
            Self::Transaction { .. } => "transaction",
        }
    }

    /// Whether a third loop sends what the reader sent.
    fn is_sent(self) -> bool {
        !matches!(self, Self::Transaction { .. })
    }

    fn tables(self) -> Vec<Table<'static>> {
        let table = |name, partitions| Table { name, partitions, key: "" };
        let mut tables = match self {
            Self::Rows { .. } | Self::Transaction { .. } => vec![table("rows", PARTITIONS)],
            Self::Pgbench { .. } => vec![
                table("pgbench_accounts", PARTITIONS),
                table("pgbench_tellers", 1),
                table("pgbench_branches", 1),
                Table {
                    key: "tid, bid, aid, mtime, delta",
                    ..table("pgbench_history", PARTITIONS)
                },
            ],
        };
        // Nothing is written to this table; its topic is the sending loop's.
        tables.push(table("spare", PARTITIONS));
        tables
    }

    async fn prepare(self, stage: &Stage) -> anyhow::Result<()> {
        if let Self::Pgbench { .. } = self {
            pgbench(stage, &["--initialize", "--quiet", "--scale", PGBENCH_SCALE]).await?;
            stage.sql(HISTORY).await?;
        }
        Ok(())
    }

    async fn fill(self, stage: &Stage, round: u64) -> anyhow::Result<()> {
        let insert = |first: &str, count: u64| {
            format!(
                "insert into rows select {first} + i, i % 97, now(), 'customer ' || i, repeat(md5(i::text), 3),
                 i * 1.25, (i % 2 = 0) from generate_series(1, {count}) i"
            )
        };
        match self {
            Self::Transaction { rows } => stage.sql(&insert("0", rows)).await,
            Self::Rows { rows, each } => {
                let first = format!("{} + batch::bigint * {each}", round * rows);
                let (last, insert) = (rows / each - 1, insert(&first, each));
                let fill = format!(
                    "do $$ begin for batch in 0 .. {last} loop {insert}; commit; end loop; end $$"
                );
                stage.sql(&fill).await
            }
            Self::Pgbench { transactions } => {
                const CLIENTS: u64 = 4;
                let (clients, each) = (CLIENTS.to_string(), (transactions / CLIENTS).to_string());
                let what = ["--no-vacuum", "--protocol", "prepared", "--client", &clients];
                pgbench(stage, &[&what[..], &["--transactions", &each]].concat()).await
            }
        }
    }
}

async fn pgbench(stage: &Stage, arguments: &[&str]) -> anyhow::Result<()> {
    let output = tokio::process::Command::new(client_path("pgbench"))
        .args(arguments)
        .arg(stage.url())
        // The backlog is made in a third of the time; its WAL is the same.
        .env("PGOPTIONS", "-c synchronous_commit=off")
        .stdin(Stdio::null())
        .output()
        .await?;
    ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Some of the records that the reader wrote, in a file.
fn sample_of(stage: &Stage, pipeline: &Pipeline, tables: &[Table<'_>]) -> anyhow::Result<PathBuf> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", pipeline.brokers())
        .set("group.id", pipeline.slot())
        .set("enable.auto.commit", "false")
        .create()?;
    let mut list = TopicPartitionList::new();
    for table in tables {
        for partition in 0..table.partitions {
            list.add_partition_offset(&pipeline.topic(table.name), partition, Offset::Beginning)?;
        }
    }
    consumer.assign(&list)?;
    let mut records = Vec::new();
    while records.len() < SAMPLE
        && let Some(message) = consumer.poll(Duration::from_secs(5))
    {
        let message = message?;
        if let (Some(key), Some(value)) = (message.key(), message.payload()) {
            records.push((key.to_vec(), value.to_vec()));
        }
    }
    let path = stage.folder().join("records");
    write_records(&path, &records)?;
    Ok(path)
}
