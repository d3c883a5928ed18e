//! An index rebuilt while its table is written to, from an archive and from what the topic still holds.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{Offset, TopicPartitionList};
use tailwater_tests::{Line, Process};

use crate::traffic::Traffic;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_index_is_rebuilt_under_load_killed_resumed_compared_and_taken_back()
-> anyhow::Result<()> {
    let line = Line::create(&format!("rebuild_{}", std::process::id())).await?;
    let reader = line.start_reader().await?;
    let worker = line.worker("a", None, 0).await?;
    let mut process = line.start(&worker)?;
    line.wait_until_ready(&worker, &mut process).await?;
    let traffic = Traffic::start(line.connect().await?, 7);
    tokio::time::sleep(Duration::from_secs(4)).await;
    line.run(&["wait", "keep", "find"])?;
    forget(&line).await?;
    ensure!(line.index_in_use().await?.ends_with("-v1"), "the first");

    // Another mapping; the first attempts are killed wherever they are.
    line.declare_mapping(
        r#"{"mappings": {"properties": {
        "id": {"type": "integer"}, "name": {"type": "text"}, "weight": {"type": "long"},
        "notes": {"type": "text", "index": false}}}}"#,
    )?;
    let arguments = ["sinks", "rebuild", "find", "-f", "catalog"];
    for life_ms in [200, 700] {
        let mut killed = line.spawn("first", &arguments)?;
        tokio::time::sleep(Duration::from_millis(life_ms)).await;
        killed.kill()?;
    }
    let mut second = line.spawn("second", &arguments)?;
    second.wait(2 * MINUTE).context("the second attempt")?;
    let said = second.last_words();
    println!("{said}");
    ensure!(said.contains("0 differ"), "it was compared: {said}");
    ensure!(line.index_in_use().await?.ends_with("-v2"), "swapped");
    traffic.stop().await?;
    agree(&line, &mut process).await.context("after the swap")?;

    let traffic = Traffic::start(line.connect().await?, 8);
    let mut back = line.spawn("back", &["sinks", "rebuild", "find", "--rollback"])?;
    back.wait(2 * MINUTE).context("the way back")?;
    println!("{}", back.last_words());
    ensure!(line.index_in_use().await?.ends_with("-v1"), "taken back");
    traffic.stop().await?;
    agree(&line, &mut process).await.context("after the way back")?;
    ensure!(line.letters("find")?.is_empty(), "nothing is set aside");
    process.stop(MINUTE)?;
    reader.stop(MINUTE)?;
    line.remove().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_index_of_another_topic_stops_its_sink_and_a_rebuild_mends_it() -> anyhow::Result<()> {
    let line = Line::create(&format!("other_topic_{}", std::process::id())).await?;
    let reader = line.start_reader().await?;
    let worker = line.worker("a", None, 0).await?;
    let mut process = line.start(&worker)?;
    line.wait_until_ready(&worker, &mut process).await?;
    let traffic = Traffic::start(line.connect().await?, 9);
    tokio::time::sleep(Duration::from_secs(2)).await;
    traffic.stop().await?;
    line.run(&["wait", "keep", "find"])?;
    process.stop(MINUTE)?;

    line.pretend_other_topic().await?;
    let before = line.documents().await?;
    let traffic = Traffic::start(line.connect().await?, 10);
    let mut process = line.start(&worker)?;
    let began = Instant::now();
    while process.lines_with("was filled from another topic") == 0 {
        process.check_running()?;
        ensure!(began.elapsed() < MINUTE, "nothing was said:\n{}", process.last_words());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    traffic.stop().await?;
    line.run(&["wait", "keep"])?;
    ensure!(line.documents().await? == before, "nothing goes into the index of another topic");

    let mut rebuild = line.spawn("rebuild", &["sinks", "rebuild", "find"])?;
    rebuild.wait(2 * MINUTE)?;
    let said = rebuild.last_words();
    println!("{said}");
    ensure!(said.contains("0 differ") && said.contains("go on where the new index"), "{said}");
    ensure!(line.index_in_use().await?.ends_with("-v2"), "swapped");
    agree(&line, &mut process).await?;
    let mut back = line.spawn("back", &["sinks", "rebuild", "find", "--rollback"])?;
    ensure!(back.wait(MINUTE).is_err(), "there is no way back to the index of another topic");
    ensure!(back.last_words().contains("was filled from another topic"), "{}", back.last_words());
    process.stop(MINUTE)?;
    reader.stop(MINUTE)?;
    line.remove().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rebuild_takes_no_records_from_the_archive_of_another_topic() -> anyhow::Result<()> {
    let line = Line::create(&format!("other_archive_{}", std::process::id())).await?;
    let reader = line.start_reader().await?;
    let worker = line.worker("a", None, 0).await?;
    let mut process = line.start(&worker)?;
    line.wait_until_ready(&worker, &mut process).await?;
    let traffic = Traffic::start(line.connect().await?, 11);
    tokio::time::sleep(Duration::from_secs(2)).await;
    traffic.stop().await?;
    line.run(&["wait", "keep", "find"])?;
    process.stop(MINUTE)?;
    forget(&line).await?;

    let remembered = line.pretend_other_archive().await?;
    let mut refused = line.spawn("refused", &["sinks", "rebuild", "find"])?;
    ensure!(refused.wait(MINUTE).is_err(), "its records are of another topic");
    let said = refused.last_words();
    ensure!(said.contains("the archive is of another topic"), "{said}");
    ensure!(line.index_in_use().await?.ends_with("-v1"), "nothing was swapped");

    line.remember(remembered).await?;
    let mut process = line.start(&worker)?;
    let mut rebuild = line.spawn("rebuild", &["sinks", "rebuild", "find"])?;
    rebuild.wait(2 * MINUTE)?;
    let said = rebuild.last_words();
    println!("{said}");
    ensure!(said.contains("0 differ"), "{said}");
    agree(&line, &mut process).await?;
    process.stop(MINUTE)?;
    reader.stop(MINUTE)?;
    line.remove().await
}

/// The worker goes on with the index in use, and soon what it holds is the table.
async fn agree(line: &Line, process: &mut Process) -> anyhow::Result<()> {
    let began = Instant::now();
    while !line.shows_the_table().await? {
        process.check_running()?;
        ensure!(began.elapsed() < MINUTE, "the index is not the table:\n{}", process.last_words());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Deletes what was archived from the topic, as retention would.
async fn forget(line: &Line) -> anyhow::Result<()> {
    let archived = line.archived().await?;
    let mut before = TopicPartitionList::new();
    for partition in 0..4 {
        let of = archived.keys().filter(|(found, _)| *found == partition);
        let next = of.map(|(_, offset)| offset + 1).max().unwrap_or(0);
        before.add_partition_offset(&line.topic(), partition, Offset::Offset(next))?;
    }
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", line.brokers());
    let admin: AdminClient<DefaultClientContext> = settings.create()?;
    admin.delete_records(&before, &AdminOptions::new()).await?;
    Ok(())
}
