//! An index, beside a bare loop that sends ready-made bulk requests to another one.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::time::sleep;

use super::Options;
use super::bare::Outcome;
use super::run::{self, Run};
use super::scene::{Declared, MAPPING, Scene, remove_index};
use crate::report::{Report, Target};
use crate::stage::PARTITIONS;

/// The default of `sinks.memory`.
const MEMORY_MIB: u64 = 64;
/// Between two loops: the server gives up what the last one left.
const REST: Duration = Duration::from_secs(3);

/// One round.
struct Round {
    sink: Run,
    bare: Outcome,
}

/// What the server says it is.
pub(super) async fn version(opensearch: &str) -> anyhow::Result<String> {
    let answer = reqwest::get(opensearch).await.context("OpenSearch does not answer")?;
    let answer: Value = answer.json().await?;
    Ok(answer["version"]["number"].as_str().unwrap_or("of unknown version").to_owned())
}

pub(super) async fn measure(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    // One more round than is told: a server that has just been started is slow.
    let sinks = (0..=options.rounds).map(|round| Declared::Search(sink(round))).collect();
    let scene =
        Scene::set(options, "search", PARTITIONS, options.documents, MEMORY_MIB, sinks).await?;
    let rounds = rounds(options, &scene).await;
    let documents = scene.records as f64;
    scene.strike().await?;
    tell(&rounds?[1..], documents, report);
    Ok(())
}

fn sink(round: usize) -> String {
    format!("index{round}")
}

async fn rounds(options: &Options, scene: &Scene) -> anyhow::Result<Vec<Round>> {
    let mut all = Vec::new();
    for number in 0..=options.rounds {
        // Whoever comes second finds the server as the first has left it, so they take turns.
        let round = if number % 2 == 0 {
            let bare = bare(options, scene).await?;
            Round { bare, sink: indexed(options, scene, &sink(number)).await? }
        } else {
            let sink = indexed(options, scene, &sink(number)).await?;
            Round { sink, bare: bare(options, scene).await? }
        };
        eprintln!(
            "  round {number}{}: bare {:.0}/s, sink {:.0}/s",
            if number == 0 { ", which does not count" } else { "" },
            scene.records as f64 / round.bare.seconds,
            scene.records as f64 / round.sink.cost.seconds,
        );
        all.push(round);
    }
    Ok(all)
}

async fn indexed(options: &Options, scene: &Scene, name: &str) -> anyhow::Result<Run> {
    let run = run::search(scene, name).await?;
    let alias = scene.alias(name);
    is_whole(options, &alias, scene.records).await?;
    remove_index(&options.opensearch, &format!("{alias}-*")).await?;
    sleep(REST).await;
    Ok(run)
}

/// The same documents into an index with the same settings.
async fn bare(options: &Options, scene: &Scene) -> anyhow::Result<Outcome> {
    let index = scene.alias("bare");
    let mut body: Value = serde_json::from_str(MAPPING)?;
    body["settings"] =
        serde_json::json!({"index.auto_expand_replicas": "0-1", "index.gc_deletes": "1h"});
    let url = format!("{}/{index}", options.opensearch);
    let made = reqwest::Client::new().put(url).json(&body).send().await?;
    ensure!(made.status().is_success(), "making an index: {}", made.text().await?);
    let to = ["bulk", "--opensearch", &options.opensearch, "--index", &index];
    let outcome = scene.bare(&to).await?;
    is_whole(options, &index, scene.records).await?;
    remove_index(&options.opensearch, &index).await?;
    sleep(REST).await;
    Ok(outcome)
}

/// Both loops must have indexed the same.
async fn is_whole(options: &Options, index: &str, documents: u64) -> anyhow::Result<()> {
    let url = format!("{}/{index}", options.opensearch);
    reqwest::Client::new().post(format!("{url}/_refresh")).send().await?;
    let count: Value = reqwest::get(format!("{url}/_count")).await?.json().await?;
    ensure!(count["count"] == documents, "`{index}` holds {} documents", count["count"]);
    Ok(())
}

fn tell(rounds: &[Round], documents: f64, report: &mut Report) {
    let each = |figure: &dyn Fn(&Round) -> f64| rounds.iter().map(figure).collect::<Vec<_>>();
    report.add("documents", "", vec![documents], None);
    report.add(
        "pace beside a bare loop of ready-made requests",
        "",
        each(&|r| r.bare.seconds / r.sink.cost.seconds),
        Some(Target::AtLeast(0.95)),
    );
    report.add("sink", "documents/s", each(&|r| documents / r.sink.cost.seconds), None);
    report.add("bare loop", "documents/s", each(&|r| documents / r.bare.seconds), None);
    let sink = each(&|r| r.sink.cost.cpu_seconds / documents * 1e6);
    report.add("sink", "CPU-s per million", sink, None);
    let bare = each(&|r| r.bare.cpu_seconds / documents * 1e6);
    report.add("bare loop", "CPU-s per million", bare, None);
    report.add("sink, most memory", "MiB", each(&|r| r.sink.cost.peak_mib), None);
    report.add("sink, start until the first record", "s", each(&|r| r.sink.start_seconds), None);
}
