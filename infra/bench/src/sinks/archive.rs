//! An archive of a few partitions, beside bare loops that fetch, compress and put.

use super::Options;
use super::bare::Outcome;
use super::run::{self, Run};
use super::scene::{Declared, Scene};
use crate::report::{Report, Target};
use crate::stage::PARTITIONS;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The default of `sinks.memory`.
const MEMORY_MIB: u64 = 64;

/// One round.
struct Round {
    sink: Run,
    /// Stores all that there is to know of each record.
    everything: Outcome,
    /// Stores values alone.
    values: Outcome,
    /// Bytes of the sink's objects.
    stored: u64,
}

pub(super) async fn measure(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let sinks = (0..options.rounds).map(|round| Declared::Archive(sink(round))).collect();
    let scene =
        Scene::set(options, "archive", PARTITIONS, options.records, MEMORY_MIB, sinks).await?;
    let rounds = rounds(options, &scene).await;
    let (records, value_bytes) = (scene.records as f64, scene.value_bytes);
    scene.strike().await?;
    tell(&rounds?, records, value_bytes, report);
    Ok(())
}

fn sink(round: usize) -> String {
    format!("lake{round}")
}

async fn rounds(options: &Options, scene: &Scene) -> anyhow::Result<Vec<Round>> {
    let mut all = Vec::new();
    for number in 0..options.rounds {
        let everything = bare(options, scene, "everything").await?;
        let name = sink(number);
        let sink = run::archive(scene, &name, LOOK_EVERY).await?;
        let (stored, _) = scene.stored(&format!("{name}/"), ".gz").await?;
        scene.empty(&format!("{name}/")).await?;
        let values = bare(options, scene, "values").await?;
        eprintln!(
            "  round {}: bare {:.0}/s, values alone {:.0}/s, archive {:.0}/s",
            number + 1,
            scene.records as f64 / everything.seconds,
            scene.records as f64 / values.seconds,
            scene.records as f64 / sink.cost.seconds,
        );
        all.push(Round { sink, everything, values, stored });
    }
    Ok(all)
}

async fn bare(options: &Options, scene: &Scene, keep: &str) -> anyhow::Result<Outcome> {
    let bucket = scene.bucket();
    let to = ["archive", "--s3", &options.s3, "--bucket", &bucket, "--prefix", "bare/"];
    let outcome = scene.bare(&[&to[..], &["--keep", keep]].concat()).await?;
    scene.empty("bare/").await?;
    Ok(outcome)
}

fn tell(rounds: &[Round], records: f64, value_bytes: f64, report: &mut Report) {
    let each = |figure: &dyn Fn(&Round) -> f64| rounds.iter().map(figure).collect::<Vec<_>>();
    report.add("records", "", vec![records], None);
    report.add("bytes of a value", "", vec![value_bytes], None);
    report.add(
        "pace beside a bare loop that keeps everything",
        "",
        each(&|r| r.everything.seconds / r.sink.cost.seconds),
        Some(Target::AtLeast(0.8)),
    );
    report.add(
        "pace beside a bare loop that keeps values alone",
        "",
        each(&|r| r.values.seconds / r.sink.cost.seconds),
        None,
    );
    report.add(
        "archive",
        "records/s per core",
        each(&|r| records / r.sink.cost.cpu_seconds),
        Some(Target::AtLeast(150_000.0)),
    );
    let keeps = |what: &str| format!("bare loop that keeps {what}");
    let (everything, values) = (keeps("everything"), keeps("values alone"));
    let per_core = "records/s per core";
    report.add(&everything, per_core, each(&|r| records / r.everything.cpu_seconds), None);
    report.add(&values, per_core, each(&|r| records / r.values.cpu_seconds), None);
    report.add("archive", "records/s", each(&|r| records / r.sink.cost.seconds), None);
    report.add(&everything, "records/s", each(&|r| records / r.everything.seconds), None);
    report.add(&values, "records/s", each(&|r| records / r.values.seconds), None);
    report.add("archive", "stored bytes of a record", each(&|r| r.stored as f64 / records), None);
    report.add(
        &everything,
        "stored bytes of a record",
        each(&|r| r.everything.bytes as f64 / records),
        None,
    );
    report.add(
        "archive, most memory",
        "MiB",
        each(&|r| r.sink.cost.peak_mib),
        Some(Target::AtMost(128.0)),
    );
    report.add(
        "bare loop that keeps everything, most memory",
        "MiB",
        each(&|r| r.everything.peak_mib),
        None,
    );
    report.add("archive, start until the first record", "s", each(&|r| r.sink.start_seconds), None);
}
