//! Everything real, killed and resumed.

use std::time::Duration;

use anyhow::Context;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tailwater_infra_demo::drain::drain;
use tailwater_infra_demo::traffic;
use tailwater_tests::{App, World};

/// How often each process of the pipeline is killed.
const KILLS: usize = 10;
/// A killed process lives this long at most, in milliseconds.
const LIFE_MAX_MS: u64 = 3_000;
const CLIENTS: usize = 4;
/// Longer than all lives together can be; the test ends the traffic itself.
const TRAFFIC_MAX: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_or_repeated_when_reader_and_sinks_are_killed() -> anyhow::Result<()> {
    let seed = seed()?;
    println!("seed {seed}; replay with TAILWATER_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::create(&format!("world_{}", std::process::id())).await?;
    // There is no first copy of rows yet, so the reader must have its slot before there are any.
    let mut reader = world.start(App::Reader)?;
    world.wait_until_ready(App::Reader, &mut reader).await?;
    reader.stop(Duration::from_secs(30))?;
    let load = tokio::spawn(traffic::run(world.services(), TRAFFIC_MAX, CLIENTS, |_| {}));

    for victim in [App::Reader, App::Lake, App::Search] {
        let before = world.archived_objects("orders.events").await?;
        kill_again_and_again(&world, victim, &mut random).await?;
        let made = world.archived_objects("orders.events").await? - before;
        println!("{made} objects while {victim:?} was killed {KILLS} times");
        assert!(made > KILLS, "the line stood still while {victim:?} was killed");
    }
    load.abort();
    // A request that was cut off may still be in a transaction; the services finish it on their own.
    tokio::time::sleep(Duration::from_secs(1)).await;

    let processes = [App::Reader, App::Lake, App::Search].map(|app| world.start(app));
    let mut judge = world.judge();
    let drained = drain(&mut judge, |_| {}).await?;
    let report = judge.report().await?;
    println!("{report}");
    for process in processes {
        let mut process = process?;
        process.check_running()?;
        process.stop(Duration::from_secs(60))?;
    }
    assert!(drained.agreed, "the stores did not come to agree: {:?}", drained.tally);
    assert!(report.agrees(), "seed {seed}:\n{report}");
    for finding in &report.findings {
        assert!(finding.records > 50, "{}: too little traffic to prove anything", finding.topic);
    }
    world.remove().await
}

/// Ends one process at random moments while the two others run on.
async fn kill_again_and_again(
    world: &World,
    victim: App,
    random: &mut StdRng,
) -> anyhow::Result<()> {
    let others = [App::Reader, App::Lake, App::Search].into_iter().filter(|app| *app != victim);
    let mut others = others.map(|app| world.start(app)).collect::<anyhow::Result<Vec<_>>>()?;
    for kill in 0..KILLS {
        let mut process = world.start(victim)?;
        tokio::time::sleep(Duration::from_millis(random.random_range(50..LIFE_MAX_MS))).await;
        process.check_running().with_context(|| format!("{victim:?}, before kill {kill}"))?;
        process.kill()?;
        for other in &mut others {
            other.check_running().with_context(|| format!("while {victim:?} was killed"))?;
        }
    }
    // Ended without ceremony as well.
    others.iter_mut().try_for_each(|other| other.kill())
}

fn seed() -> anyhow::Result<u64> {
    match std::env::var("TAILWATER_TEST_SEED") {
        Ok(text) => text.parse().context("TAILWATER_TEST_SEED is not a number"),
        Err(_) => Ok(rand::rng().random()),
    }
}
