//! A sink, from its first record until everything is committed.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::time::sleep;

use super::scene::Scene;
use crate::process::{Cost, Measured};

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Records that a sink has taken from Kafka, as it says itself.
const TAKEN: &str = "tailwater_sink_records_total";

/// What a sink did from its beginning to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Seconds before the first record.
    pub(super) start_seconds: f64,
    /// From the first record until all was committed.
    pub(super) cost: Cost,
}

/// Runs an archive over the whole topic, and drains it when it has taken everything.
pub(super) async fn archive(
    scene: &Scene,
    name: &str,
    look_every: Duration,
) -> anyhow::Result<Run> {
    let mut process = scene.pipeline.start(&["sinks", "run", name])?;
    let began = until_taken(scene, &mut process, name, 1, LOOK_EVERY).await?;
    until_taken(scene, &mut process, name, scene.records, look_every).await?;
    let ended = drain(scene, process, &[name]).await?;
    Ok(Run { start_seconds: began.seconds, cost: ended.since(began) })
}

/// Runs a search sink over the whole topic, until it has committed everything by itself.
pub(super) async fn search(scene: &Scene, name: &str) -> anyhow::Result<Run> {
    let mut process = scene.pipeline.start(&["sinks", "run", name])?;
    let began = until_taken(scene, &mut process, name, 1, LOOK_EVERY).await?;
    let ended = until_committed(scene, &mut process, name).await?;
    drain(scene, process, &[name]).await?;
    Ok(Run { start_seconds: began.seconds, cost: ended.since(began) })
}

/// Waits until a sink has committed everything. Where a destination is slow, records wait in queues when all are taken, and a
/// drain would leave them there; but its batches close by themselves soon.
pub(super) async fn until_committed(
    scene: &Scene,
    process: &mut Measured,
    name: &str,
) -> anyhow::Result<Cost> {
    let commits = scene.commits(name)?;
    while !commits.are_complete()? {
        scene.pipeline.check(process)?;
        sleep(LOOK_EVERY).await;
    }
    process.cost()
}

/// Waits until a sink has taken so many records.
async fn until_taken(
    scene: &Scene,
    process: &mut Measured,
    name: &str,
    records: u64,
    look_every: Duration,
) -> anyhow::Result<Cost> {
    while taken(scene).get(name).copied().unwrap_or_default() < records {
        scene.pipeline.check(process)?;
        sleep(look_every).await;
    }
    process.cost()
}

/// Ends a process that has taken everything; what it had cost when its sinks had committed it all.
pub(super) async fn drain(
    scene: &Scene,
    mut process: Measured,
    sinks: &[&str],
) -> anyhow::Result<Cost> {
    let mut cost = process.cost()?;
    process.ask_to_drain()?;
    let commits: Vec<_> =
        sinks.iter().map(|sink| scene.commits(sink)).collect::<anyhow::Result<_>>()?;
    loop {
        if let Ok(now) = process.cost() {
            cost = now;
        }
        let is_running = process.is_running()?;
        let mut complete = true;
        for commits in &commits {
            complete &= commits.are_complete()?;
        }
        if complete {
            break;
        }
        ensure!(is_running, "it ended before everything was committed:\n{}", scene.pipeline.said());
        sleep(LOOK_EVERY).await;
    }
    process.until_ended()?;
    Ok(cost)
}

/// How many records each sink has taken; nothing while nobody answers.
pub(super) fn taken(scene: &Scene) -> BTreeMap<String, u64> {
    sums(&metrics(scene).unwrap_or_default(), TAKEN)
}

fn metrics(scene: &Scene) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(&scene.admin)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    Ok(body.to_owned())
}

/// The values of a metric, summed by its label `sink`.
fn sums(text: &str, metric: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for line in text.lines() {
        let Some(labels) = line.strip_prefix(metric).and_then(|rest| rest.strip_prefix('{')) else {
            continue;
        };
        let sink = labels.split_once("sink=\"").and_then(|(_, rest)| rest.split_once('"'));
        let value = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
        if let (Some((sink, _)), Some(value)) = (sink, value) {
            *sums.entry(sink.to_owned()).or_default() += value as u64;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_summed_by_sink() {
        let text = "# TYPE a counter\na{sink=\"x\",topic=\"t\"} 2\na{sink=\"x\",topic=\"u\"} 3\nab{sink=\"x\"} 9\na{topic=\"t\",sink=\"y\"} 4\n";
        let sums: Vec<(String, u64)> = sums(text, "a").into_iter().collect();
        assert_eq!(sums, [("x".to_owned(), 5), ("y".to_owned(), 4)]);
    }
}
