//! `tailwater sinks rebuild`: another index from everything that was ever written, in place of the one in use.
//!
//! ```text
//!  begin ▸ fill: archive, then topic ▸ compare with Postgres at one LSN ▸ pause the sink ▸ fill the rest
//!        ▸ swap the alias ▸ resume the sink ▸ fill the previous index on, if wished
//! ```
//!
//! * Readers see the old index until the swap, and services write to Postgres throughout. Only the sink stands still,
//!   from the pause until its workers have started again: some seconds, in which records wait in Kafka.
//! * Killed anywhere, it is run again and goes on. What it filled stands in the index; whether the alias was swapped
//!   stands in the alias; a sink that it left paused is resumed. `sinks::succession` says why the seam has no hole.
//! * An index remembers which topics it was filled from. When a topic was deleted and made again since, the group's
//!   offsets in it mean nothing any more; before the swap they are set to where the new index is filled.
//! * A rollback is the same with the previous index as the one to fill.

mod fill;
mod parity;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use tailwater_sinks_search::index::{self, Index, State};
use tailwater_sinks_search::succession::{self, Beside, Filled};
use tailwater_sinks_search::{Client, SearchSink};
use tailwater_sinks_worker::TopicPartition;
use tailwater_sinks_worker::source::{Relation, Source, Sources as _, relation};
use tailwater_topics_contract::{
    Catalog, Registration, Registrations, SearchSpec, SinkKind, SinkName, SinkRegistration,
    Standing, TopicName,
};
use tailwater_topics_registry::{Change, Registry, registrations, removal};

use self::fill::Filler;
use crate::commands::apply::Refused;
use crate::config::Config;
use crate::sources::{self, TopicsNow};
use crate::{Context, declared, offsets};

/// How long the group may take to be without members once its sink is paused.
const DRAIN_MAX: Duration = Duration::from_secs(90);

/// What is to be rebuilt, and how.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A registered search sink
    sink: SinkName,
    /// Take the sink's mapping from this catalog, which may declare another one than is registered
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Put the previous index back, filled with everything written since
    #[arg(long, conflicts_with_all = ["file", "abandon"])]
    rollback: bool,
    /// Delete an index that was begun and not put in place
    #[arg(long, conflicts_with = "file")]
    abandon: bool,
    /// Go on although so many records cannot be documents of the new index
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    allow_refused: usize,
    /// Do not compare the new index with Postgres before it is put in place
    #[arg(long)]
    no_parity: bool,
    /// Keep the previous index filled for so many minutes after the swap, so that a rollback takes seconds
    #[arg(long, value_name = "MINUTES", default_value_t = 0)]
    feed_previous: u64,
}

/// Everything the steps need.
struct Rebuild {
    config: Config,
    args: Args,
    client: Client,
    registrations: Registrations,
    sink: SinkRegistration,
    /// As the new index is declared.
    spec: SearchSpec,
    /// The topics that the sink takes, as they are now.
    sources: Vec<Source>,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let mut rebuild = Rebuild::prepare(cx, args).await?;
    if rebuild.args.abandon {
        return rebuild.abandon().await;
    }
    let Some(current) = rebuild.current().await? else {
        eprintln!("the alias was swapped before; finishing what is left");
        rebuild.stand(Standing::Active, Some(&rebuild.spec)).await?;
        return Ok(ExitCode::SUCCESS);
    };
    let target = if rebuild.args.rollback {
        let previous = succession::previous_alias(&rebuild.spec.alias);
        let found = succession::beside(&rebuild.client, &previous).await?;
        let mut found =
            found.with_context(|| format!("there is no `{previous}`, so nothing to go back to"))?;
        for now in &rebuild.sources {
            succession::fill_from(&rebuild.client, &previous, &mut found.index, now).await?;
        }
        rebuild.spec.mapping = found.mapping.clone();
        rebuild.spec.document = found.document.clone();
        found
    } else {
        let pipeline = &rebuild.config.pipeline;
        let (client, spec) = (&rebuild.client, &rebuild.spec);
        succession::begin(client, pipeline, spec, &current, &rebuild.sources).await.with_context(
            || "the index that was begun cannot be gone on with; --abandon deletes it".to_owned(),
        )?
    };
    rebuild.replace(&current, target).await
}

impl Rebuild {
    async fn prepare(cx: &Context, args: Args) -> anyhow::Result<Self> {
        let config = cx.config()?;
        let registrations = registrations::load(&config.kafka_client(), &config.pipeline).await?;
        let sink = removal::registered_sink(&args.sink, &registrations).map_err(Refused::from)?;
        let sink = sink.clone();
        let spec = match &args.file {
            None => search(&sink.spec.kind).cloned(),
            Some(path) => declared(path, &args.sink)?,
        };
        let spec = spec.with_context(|| {
            format!(
                "`{}` is no search sink; an archive keeps everything and is never rebuilt",
                args.sink
            )
        })?;
        let opensearch = config.opensearch.clone();
        let opensearch =
            opensearch.context("there is no `opensearch` section in the configuration")?;
        let client = Client::new(opensearch)?;
        let topics = TopicsNow::new(&config, sources::generations(&sink.spec, &registrations))?;
        let asked = sink.spec.topics.iter().map(|topic| topics.source(topic));
        let sources = futures::future::try_join_all(asked).await?;
        Ok(Self { config, args, client, registrations, sink, spec, sources })
    }

    /// The index in use, which was made as the sink is registered; nothing when it was made as it is to be: then only
    /// the registration is left to do.
    async fn current(&self) -> anyhow::Result<Option<Index>> {
        let registered = search(&self.sink.spec.kind).context("it is a search sink")?;
        ensure!(
            registered.alias == self.spec.alias,
            "the catalog declares alias `{}`, and `{}` is registered with `{}`; a rebuild keeps the alias",
            self.spec.alias,
            self.args.sink,
            registered.alias
        );
        let pipeline = &self.config.pipeline;
        let looked = match index::inspect(&self.client, pipeline, registered).await {
            // Killed between the swap and the registration.
            Err(tailwater_sinks_search::Error::OtherIndex { .. }) if self.spec != *registered => {
                index::inspect(&self.client, pipeline, &self.spec).await?;
                return Ok(None);
            }
            looked => looked?,
        };
        match looked {
            State::Ready(index) => Ok(Some(index)),
            State::Absent => bail!(
                "there is no index behind `{}` yet; `tailwater sinks apply` makes the first",
                self.spec.alias
            ),
        }
    }

    async fn abandon(&self) -> anyhow::Result<ExitCode> {
        match succession::abandon(&self.client, &self.spec.alias).await? {
            Some(index) => eprintln!("deleted `{}`; nothing else was changed", index.name),
            None => eprintln!("no index was begun for `{}`", self.spec.alias),
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Fills an index and puts it in place of the one in use.
    async fn replace(&self, current: &Index, target: Beside) -> anyhow::Result<ExitCode> {
        let name = target.index.name.clone();
        let mut filler = self.filler(&target)?;
        eprintln!("filling `{name}` beside `{}`; {}", current.name, filler.sources());
        filler.catch_up().await?;
        self.check_refused(&filler)?;
        if !self.args.no_parity
            && !parity::check(
                &self.config,
                &self.registrations,
                &self.sink,
                &mut filler,
                &self.client,
            )
            .await?
        {
            eprintln!(
                "`{name}` was not put in place; it stays as it is: run this again, or with --abandon to delete it"
            );
            return Ok(ExitCode::FAILURE);
        }
        // Again, so that little is left to do while the sink stands still.
        filler.catch_up().await?;
        let began = Instant::now();
        self.stand(Standing::Paused, search(&self.sink.spec.kind)).await?;
        self.until_drained().await?;
        filler.catch_up().await?;
        self.check_refused(&filler)?;
        let (filled, mut left) = (filler.filled(), self.committed().await?);
        // Offsets of a topic that is gone say nothing of the one there is.
        let made_again = self.made_again(current);
        left.retain(|at, _| !made_again.contains(&&at.topic));
        ensure!(
            left.iter().all(|(at, next)| filled.get(at).is_some_and(|filled| filled >= next)),
            "a worker has written beyond what the topic held; nothing was swapped, run this again"
        );
        self.commit(&filled, &made_again, &target.index).await?;
        succession::swap(&self.client, &self.spec.alias, current, &target, &filled, &left).await?;
        self.stand(Standing::Active, Some(&self.spec)).await?;
        println!(
            "`{}` is `{name}` now; the sink stood still for {:.1} s; `{}` is kept as `{}`",
            self.spec.alias,
            began.elapsed().as_secs_f64(),
            current.name,
            succession::previous_alias(&self.spec.alias)
        );
        self.feed_previous().await?;
        Ok(ExitCode::SUCCESS)
    }

    fn filler(&self, target: &Beside) -> anyhow::Result<Filler> {
        let pipeline = self.config.pipeline.clone();
        let generations = sources::generations(&self.sink.spec, &self.registrations);
        let topics = TopicsNow::new(&self.config, generations)?;
        let sink = SearchSink::new(self.client.clone(), pipeline, self.spec.clone(), topics);
        Filler::new(
            &self.config,
            &self.registrations,
            &self.sink,
            &self.sources,
            self.client.clone(),
            &sink,
            target,
        )
    }

    fn check_refused(&self, filler: &Filler) -> anyhow::Result<()> {
        let refused = filler.refused();
        let Some(last) = refused.last() else { return Ok(()) };
        ensure!(
            refused.len() <= self.args.allow_refused,
            "{} records cannot be documents of the new index, the last ({} at offset {}) because: {}; mend the mapping and begin anew after --abandon, or go on with --allow-refused {}",
            refused.len(),
            last.class,
            last.record.offset,
            last.reason,
            refused.len()
        );
        Ok(())
    }

    /// Registers the sink as standing so, with this declaration.
    async fn stand(&self, standing: Standing, spec: Option<&SearchSpec>) -> anyhow::Result<()> {
        let registry =
            Registry::connect(self.config.pipeline.clone(), self.config.servers()).await?;
        registry.lock().await?;
        let world = registry.observe(&Catalog::default()).await?;
        let found = removal::registered_sink(&self.args.sink, &world.registrations);
        let mut sink = found.map_err(Refused::from)?.clone();
        sink.standing = standing;
        if let Some(spec) = spec {
            sink.spec.kind = SinkKind::Search(spec.clone());
        }
        let change = Change::SetStanding(Registration::Sink(sink));
        eprintln!("sink `{}` is {standing}", self.args.sink);
        Ok(registry.carry_out(&[change]).await?)
    }

    /// Waits until nobody writes to the index in use: the workers of a paused sink leave their group. Should one have
    /// been frozen meanwhile, what it commits later is beyond the mark in the new index and is seen.
    async fn until_drained(&self) -> anyhow::Result<()> {
        let group = self.config.pipeline.consumer_group(&self.args.sink);
        let (kafka, began) = (self.config.kafka_client(), Instant::now());
        loop {
            let (kafka, group) = (kafka.clone(), group.clone());
            let members = offsets::blocking(move || {
                let consumer: BaseConsumer = kafka.create()?;
                let groups = consumer.fetch_group_list(Some(&group), Duration::from_secs(10))?;
                Ok(groups.groups().iter().map(|group| group.members().len()).sum::<usize>())
            });
            if members.await? == 0 {
                return Ok(());
            }
            if began.elapsed() > DRAIN_MAX {
                eprintln!("its workers have not left their group within {DRAIN_MAX:?}; going on");
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Up to where the index in use is filled: what the group has committed.
    async fn committed(&self) -> anyhow::Result<Filled> {
        let group = self.config.pipeline.consumer_group(&self.args.sink);
        let mut filled = Filled::new();
        for topic in &self.sink.spec.topics {
            let origins = self.sink.origins.iter().filter(|origin| origin.topic == *topic);
            let count = origins.clone().count();
            let (kafka, group, asked) = (self.config.kafka_client(), group.clone(), topic.clone());
            let committed =
                offsets::blocking(move || offsets::committed(&kafka, &group, &asked, count))
                    .await?;
            for origin in origins {
                let at = TopicPartition { topic: topic.clone(), partition: origin.partition };
                let committed = committed.get(origin.partition as usize).copied().flatten();
                filled.insert(at, committed.unwrap_or(origin.offset));
            }
        }
        Ok(filled)
    }

    /// The topics that are others of their name than those the index in use was filled from.
    fn made_again(&self, current: &Index) -> Vec<&TopicName> {
        let is_other =
            |now: &&Source| matches!(relation(current.sources(), now), Relation::Other(_));
        self.sources.iter().filter(is_other).map(|now| &now.topic).collect()
    }

    /// Sets the group to where the new index is filled from these topics. Before the swap: the workers do not run, and
    /// killed here, one that is started all the same finds the old index and stops.
    async fn commit(
        &self,
        filled: &Filled,
        topics: &[&TopicName],
        index: &Index,
    ) -> anyhow::Result<()> {
        let offsets: Filled = filled
            .iter()
            .filter(|(at, _)| topics.contains(&&at.topic))
            .map(|(at, next)| (at.clone(), *next))
            .collect();
        if offsets.is_empty() {
            return Ok(());
        }
        eprintln!("{} partitions go on where the new index is filled", offsets.len());
        let group = self.config.pipeline.consumer_group(&self.args.sink);
        let (kafka, metadata) = (self.config.kafka_client(), index.to_string());
        offsets::blocking(move || offsets::commit(&kafka, &group, &offsets, &metadata)).await
    }

    /// Keeps what was replaced up to date for a while.
    async fn feed_previous(&self) -> anyhow::Result<()> {
        if self.args.feed_previous == 0 {
            return Ok(());
        }
        let alias = succession::previous_alias(&self.spec.alias);
        let previous = succession::beside(&self.client, &alias).await?;
        let previous = previous.with_context(|| format!("`{alias}` has gone"))?;
        let mut filler = self.filler(&previous)?;
        let until = Instant::now() + Duration::from_secs(60 * self.args.feed_previous);
        eprintln!(
            "keeping `{}` filled for {} minutes; ended sooner, a rollback still finds everything, only later",
            previous.index.name, self.args.feed_previous
        );
        while Instant::now() < until {
            filler.catch_up().await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }
}

fn search(kind: &SinkKind) -> Option<&SearchSpec> {
    match kind {
        SinkKind::Search(spec) => Some(spec),
        SinkKind::Archive(_) => None,
    }
}

/// A sink as a catalog declares it.
fn declared(path: &std::path::Path, sink: &SinkName) -> anyhow::Result<Option<SearchSpec>> {
    let (catalog, _) = declared::load(path)?;
    let found = catalog.sinks.iter().find(|declared| declared.name == *sink);
    let found = found.with_context(|| format!("`{}` declares no sink `{sink}`", path.display()))?;
    Ok(search(&found.kind).cloned())
}
