//! `tailwater wait`: until sinks have everything that was committed up to a position.
//!
//! ```text
//!  position L ▸ the reader's progress is at L or beyond ▸ note where each topic ends ▸ every sink has committed that
//! ```
//!
//! A record of a transaction before L stands below the noted ends, because the progress that covers it was committed
//! together with it. A sink commits an offset only when everything below is stored, superseded or set aside.

use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tailwater_cdc::progress;
use tailwater_topics_contract::{
    Lsn, Registrations, SinkName, SinkRegistration, Standing, TopicName,
};
use tailwater_topics_registry::{registrations, removal};

use crate::Context;
use crate::commands::apply::Refused;
use crate::config::{Config, Existing};
use crate::offsets::{self, Offsets};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// Wait until sinks have everything that was committed in Postgres up to a position
///
/// Prints the position. Exits with 1 when the time is over; what is missing then is said. Records that were set aside
/// count as had: `tailwater dlq list` shows them.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tailwater wait
  tailwater wait product-search --timeout 10
  psql -Atc 'insert … ; select pg_current_wal_insert_lsn()' | xargs tailwater wait --until")]
pub(crate) struct Args {
    /// Sinks to wait for; without one, all that are active
    #[arg(value_name = "SINK")]
    sinks: Vec<SinkName>,
    /// Everything that committed before this WAL position: an LSN such as 0/16B3748, or `now`
    #[arg(long, value_name = "LSN", default_value = "now")]
    until: Until,
    /// Most seconds to wait
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// Where Postgres is when the command begins.
    Now,
    /// A position.
    Position(Lsn),
}

impl FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "now" {
            return Ok(Self::Now);
        }
        let position = text.parse().map(Self::Position);
        position.map_err(|_| "expected an LSN such as 0/16B3748, or `now`".to_owned())
    }
}

pub(crate) async fn run(cx: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let config = cx.config()?;
    let limit = Instant::now() + Duration::from_secs(args.timeout);
    let registered = registrations::load(&config.kafka_client(), &config.pipeline).await?;
    let sinks = sinks(&args.sinks, &registered)?;
    let until = match args.until {
        Until::Now => postgres_position(&config).await?,
        Until::Position(position) => position,
    };
    let reader = config.reader(Existing::default());
    loop {
        // While a table is copied, rows from before are still to come.
        let record = progress::read(&reader).await?;
        let tables = sinks.iter().flat_map(|sink| registered.tables_of(&sink.spec));
        let position = record.and_then(|record| record.complete_to(tables)).unwrap_or_default();
        if position >= until {
            break;
        }
        if Instant::now() > limit {
            eprintln!(
                "the reader stands at {position}, before {until}; `tailwater status` shows more"
            );
            return Ok(ExitCode::FAILURE);
        }
        tokio::time::sleep(PAUSE).await;
    }
    let ends = ends(&config, &sinks).await?;
    loop {
        let missing = missing(&config, &sinks, &ends).await?;
        if missing.is_empty() {
            println!("{until}");
            return Ok(ExitCode::SUCCESS);
        }
        if Instant::now() > limit {
            for (sink, records) in missing {
                eprintln!("sink `{sink}` is up to {records} records behind {until}");
            }
            return Ok(ExitCode::FAILURE);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The sinks to be waited for.
fn sinks(named: &[SinkName], registered: &Registrations) -> anyhow::Result<Vec<SinkRegistration>> {
    if named.is_empty() {
        let active = registered.standing_sinks().filter(|s| s.standing == Standing::Active);
        return Ok(active.cloned().collect());
    }
    let found = named.iter().map(|name| removal::registered_sink(name, registered));
    let found: Result<Vec<&SinkRegistration>, _> = found.collect();
    Ok(found.map_err(Refused::from)?.into_iter().cloned().collect())
}

async fn postgres_position(config: &Config) -> anyhow::Result<Lsn> {
    let address = config.postgres.address();
    let client =
        tailwater_postgres::client(&config.postgres, &format!("tailwater {}", config.pipeline))
            .await?;
    let row = client
        .query_one(
            "select (case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
                     else pg_current_wal_insert_lsn() end)::text",
            &[],
        )
        .await
        .with_context(|| format!("Postgres at {address} did not say where its WAL ends"))?;
    let text: String = row.get(0);
    text.parse().ok().with_context(|| format!("`{text}` is no LSN"))
}

/// Where the topics of these sinks end now.
async fn ends(config: &Config, sinks: &[SinkRegistration]) -> anyhow::Result<Offsets> {
    let topics = sinks.iter().flat_map(|sink| sink.spec.topics.iter().cloned()).collect();
    let kafka = config.kafka_client();
    offsets::blocking(move || offsets::ends(&kafka, &topics)).await
}

/// The sinks that have not committed all of this, and how many offsets they lack.
async fn missing(
    config: &Config,
    sinks: &[SinkRegistration],
    ends: &Offsets,
) -> anyhow::Result<Vec<(SinkName, i64)>> {
    let mut missing = Vec::new();
    for sink in sinks {
        let ends = offsets::of(&sink.spec.topics, ends);
        let (kafka, group) =
            (config.kafka_client(), config.pipeline.consumer_group(&sink.spec.name));
        let (asked, of) = (sink.clone(), ends.clone());
        let stands =
            offsets::blocking(move || offsets::stands(&kafka, &group, &asked, &of)).await?;
        let lacks = |(topic, ends): (&TopicName, &Vec<i64>)| {
            let stands = stands.get(topic).into_iter().flatten();
            ends.iter().zip(stands).map(|(end, at)| (end - at).max(0)).sum::<i64>()
        };
        let lacks: i64 = ends.iter().map(lacks).sum();
        if lacks > 0 {
            missing.push((sink.spec.name.clone(), lacks));
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_an_lsn_or_now() {
        assert_eq!("now".parse(), Ok(Until::Now));
        assert_eq!("0/16B3748".parse(), Ok(Until::Position(Lsn(0x16B_3748))));
        assert!("later".parse::<Until>().is_err());
    }
}
