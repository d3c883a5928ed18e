//! Both sinks in one process, behind by a long topic: the pace over time.

use std::fmt::Write;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::Options;
use super::run;
use super::scene::{Declared, Scene};
use crate::process::Cost;
use crate::report::Report;
use crate::stage::PARTITIONS;

const SINKS: [&str; 2] = ["lake", "index"];
/// The default of `sinks.memory`.
const MEMORY_MIB: u64 = 64;
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Between two lines.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What was seen at one time.
#[derive(Clone, Copy)]
struct Seen {
    seconds: f64,
    taken: [u64; 2],
}

pub(super) async fn measure(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let [lake, index] = SINKS.map(str::to_owned);
    let sinks = vec![Declared::Archive(lake), Declared::Search(index)];
    let scene =
        Scene::set(options, "catch_up", PARTITIONS, options.backlog, MEMORY_MIB, sinks).await?;
    let outcome = catch_up(&scene).await;
    let records = scene.records as f64;
    scene.strike().await?;
    let (arrived, paces, cost) = outcome?;
    report.add("records", "", vec![records], None);
    for (place, name) in ["archive", "search"].into_iter().enumerate() {
        let behind = arrived[place];
        report.add(format!("{name}, until it has taken all"), "s", vec![behind], None);
        report.add(format!("{name}, each 10 s"), "records/s", paces[place].clone(), None);
    }
    report.add("both, until all is committed", "s", vec![cost.seconds], None);
    report.add("both in one process, CPU", "s", vec![cost.cpu_seconds], None);
    report.add("both in one process, most memory", "MiB", vec![cost.peak_mib], None);
    Ok(())
}

/// When each had taken everything, its pace in each stretch of time, and what both cost.
async fn catch_up(scene: &Scene) -> anyhow::Result<([f64; 2], [Vec<f64>; 2], Cost)> {
    let mut process = scene.pipeline.start(&["sinks", "run"])?;
    let began = Instant::now();
    let (mut arrived, mut paces) = ([0.0; 2], [Vec::new(), Vec::new()]);
    let mut last = Seen { seconds: 0.0, taken: [0; 2] };
    while arrived.contains(&0.0) {
        scene.pipeline.check(&mut process)?;
        sleep(LOOK_EVERY).await;
        let all = run::taken(scene);
        let taken = SINKS.map(|name| all.get(name).copied().unwrap_or_default());
        let now = Seen { seconds: began.elapsed().as_secs_f64(), taken };
        for (place, at) in arrived.iter_mut().enumerate() {
            if *at == 0.0 && now.taken[place] >= scene.records {
                *at = now.seconds;
            }
        }
        if now.seconds - last.seconds >= TELL_EVERY.as_secs_f64() || !arrived.contains(&0.0) {
            tell(&process.cost()?, last, now, scene.records, &mut paces);
            last = now;
        }
    }
    run::until_committed(scene, &mut process, SINKS[1]).await?;
    let cost = run::drain(scene, process, &SINKS).await?;
    Ok((arrived, paces, cost))
}

/// A line of progress; the pace of whoever was behind.
fn tell(cost: &Cost, last: Seen, now: Seen, records: u64, paces: &mut [Vec<f64>; 2]) {
    let mut line = format!("  {:>5.0} s", now.seconds);
    for (place, name) in ["archive", "search"].into_iter().enumerate() {
        let (before, after) = (last.taken[place], now.taken[place]);
        let pace = (after - before) as f64 / (now.seconds - last.seconds);
        if before < records {
            paces[place].push(pace);
        }
        let _ = write!(line, "   {name} {after:>9} ({pace:>7.0}/s)");
    }
    eprintln!("{line}   {:.0} MiB", cost.peak_mib);
}
