//! An archive of many partitions: its memory.

use std::time::Duration;

use super::Options;
use super::run::{self, Run};
use super::scene::{Declared, Scene};
use crate::report::{Report, Target};

const SINK: &str = "lake";
/// What a sink with many partitions says is long, and costs it something.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What may be held beyond `sinks.memory`: clients, what they fetch ahead, and the allocator's share.
const BEYOND_MIB: f64 = 94.0;

pub(super) async fn measure(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let sinks = vec![Declared::Archive(SINK.to_owned())];
    let Options { partitions, spread_records, memory_mib, .. } = *options;
    let scene =
        Scene::set(options, "partitions", partitions, spread_records, memory_mib, sinks).await?;
    let outcome = catch_up(&scene).await;
    scene.strike().await?;
    let (run, objects) = outcome?;
    report.add("partitions", "", vec![f64::from(partitions)], None);
    report.add("records", "", vec![spread_records as f64], None);
    report.add("budget", "MiB", vec![memory_mib as f64], None);
    let most = Target::AtMost(memory_mib as f64 + BEYOND_MIB);
    report.add("archive, most memory", "MiB", vec![run.cost.peak_mib], Some(most));
    report.add("archive", "records/s", vec![spread_records as f64 / run.cost.seconds], None);
    let per_core = spread_records as f64 / run.cost.cpu_seconds;
    report.add("archive", "records/s per core", vec![per_core], None);
    report.add("objects", "", vec![objects as f64], None);
    report.add("archive, start until the first record", "s", vec![run.start_seconds], None);
    Ok(())
}

async fn catch_up(scene: &Scene) -> anyhow::Result<(Run, usize)> {
    let run = run::archive(scene, SINK, LOOK_EVERY).await?;
    let (_, objects) = scene.stored(&format!("{SINK}/"), ".gz").await?;
    eprintln!("  {:.0} MiB at most, {:.0} s", run.cost.peak_mib, run.cost.seconds);
    Ok((run, objects))
}
