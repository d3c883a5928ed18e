//! Sinks under torment: frozen beyond their session with a write under way, killed at random, cut off from replies.
//!
//! One world goes through all of it while its table is written to. Then everything must agree: the archive with the
//! topic line by line, without hole and overlap, the index with the table, and nothing may have been set aside.
//!
//! `make test` runs a short form; `make gauntlet-sinks` the long one. How often is set by
//! `TAILWATER_GAUNTLET=freezes=100,kills=300,cuts=200,faults=300`.

mod hostile;
mod rebuild;
mod torment;
mod traffic;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tailwater_infra_demo::drain::drain;
use tailwater_infra_demo::records::Record;
use tailwater_tests::Line;

use crate::torment::{Often, Tormented};
use crate::traffic::Traffic;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sinks_that_freeze_die_and_lose_replies_store_everything_once() -> anyhow::Result<()> {
    let often = Often::from_env()?;
    let seed = seed()?;
    println!("seed {seed}; replay with TAILWATER_TEST_SEED={seed}; {often:?}");
    let mut random = StdRng::seed_from_u64(seed);
    let line = Line::create(&format!("gauntlet_{}", std::process::id())).await?;
    let reader = line.start_reader().await?;
    let traffic = Traffic::start(line.connect().await?, random.random());

    let mut both = Tormented::start(&line, &mut random).await?;
    both.freeze(often.freezes, &mut random).await?;
    both.kill(often.kills, &mut random).await?;
    both.cut_replies(often.cuts).await?;
    both.fail_writes(often.faults).await?;
    let written = traffic.stop().await?;

    let mut judge = line.judge();
    let drained = drain(&mut judge, |_| {}).await?;
    let report = judge.report().await?;
    println!("{written} transactions\n{report}");
    both.stop(Duration::from_secs(60))?;
    reader.stop(Duration::from_secs(30))?;
    assert!(drained.agreed, "seed {seed}: the stores did not come to agree: {:?}", drained.tally);
    assert!(report.agrees(), "seed {seed}:\n{report}");
    for sink in ["keep", "find"] {
        assert_eq!(line.letters(sink)?, [], "seed {seed}: `{sink}` set records aside");
    }
    line.remove().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_records_are_set_aside_with_their_place_and_their_neighbours_delivered()
-> anyhow::Result<()> {
    let line = Line::create(&format!("hostile_{}", std::process::id())).await?;
    let hostile = hostile::hostile(5);
    // Two good ones before each, so that every request has both; ids of their own.
    let good = |number: usize| [2, 1].map(|back| hostile::good((number * 2 + 3 - back) as u64));
    let records: Vec<_> = hostile
        .iter()
        .enumerate()
        .flat_map(|(number, bad)| good(number).into_iter().chain([bad.clone()]))
        .collect();
    hostile::send(line.brokers(), &line.topic(), &records)?;

    let worker = line.worker("a", None, 0).await?;
    let mut process = line.start(&worker)?;
    let began = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        process.check_running()?;
        let letters = line.letters("find")?;
        if letters.len() >= hostile.len() && line.archived().await?.len() >= records.len() {
            break;
        }
        ensure!(
            began.elapsed() < Duration::from_secs(60),
            "{} of {} set aside:\n{}",
            letters.len(),
            hostile.len(),
            process.last_words()
        );
    }
    process.stop(Duration::from_secs(30))?;

    let sent = line.records()?;
    let letters = line.letters("find")?;
    println!(
        "{} hostile among {} records; set aside by class: {:?}",
        hostile.len(),
        records.len(),
        classes(&letters)
    );
    assert!(hostile.len() >= 200);
    assert_eq!(letters.len(), hostile.len(), "each is set aside once");
    let mut set_aside = BTreeMap::new();
    for letter in &letters {
        let place = |name: &str| letter.headers[name].parse::<i64>();
        let at = (place("tw-dlq-partition")?, place("tw-dlq-offset")?);
        set_aside.insert(at, (letter.key.clone(), letter.value.clone()));
    }
    for (at, (key, value)) in &set_aside {
        let of = sent.iter().find(|record| (i64::from(record.partition), record.offset) == *at);
        let of = of.with_context(|| format!("a letter says that it stood at {at:?}"))?;
        assert_eq!((key, value), (&of.key, &of.value), "it is as it was");
        let is_hostile = hostile.iter().any(|bad| (&bad.key, &bad.value) == (key, value));
        assert!(is_hostile, "a good record was set aside: {of:?}");
    }
    assert_eq!(line.documents().await?, 2 * hostile.len() as u64, "every neighbour is there");

    let archived = line.archived().await?;
    assert_eq!(archived.len(), sent.len(), "everything can be archived");
    for record in &sent {
        let line = archived.get(&(record.partition, record.offset)).context("not archived")?;
        assert_eq!(line, &(record.key.clone(), record.value.clone()), "byte for byte");
    }
    assert!(line.letters("keep")?.is_empty());
    line.remove().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_name_another_took_is_back_when_that_one_has_gone() -> anyhow::Result<()> {
    let line = Line::create(&format!("names_{}", std::process::id())).await?;
    let places =
        [line.worker("a", Some("same"), 0).await?, line.worker("b", Some("same"), 0).await?];
    let mut first = line.start(&places[0])?;
    line.wait_until_ready(&places[0], &mut first).await?;
    let mut second = line.start(&places[1])?;
    line.wait_until_ready(&places[1], &mut second).await?;
    // It hears of it at its next heartbeat.
    let began = Instant::now();
    while first.lines_with("starting anew") == 0 {
        first.check_running()?;
        ensure!(began.elapsed() < Duration::from_secs(30), "{}", first.last_words());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    second.kill()?;
    line.wait_until_ready(&places[0], &mut first).await?;
    first.stop(Duration::from_secs(30))?;
    line.remove().await
}

fn classes(letters: &[Record]) -> BTreeMap<&str, usize> {
    let mut classes = BTreeMap::new();
    for letter in letters {
        *classes.entry(letter.headers["tw-dlq-class"].as_str()).or_default() += 1;
    }
    classes
}

fn seed() -> anyhow::Result<u64> {
    match std::env::var("TAILWATER_TEST_SEED") {
        Ok(text) => text.parse().context("TAILWATER_TEST_SEED is not a number"),
        Err(_) => Ok(rand::rng().random()),
    }
}
