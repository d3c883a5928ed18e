//! Up to where each sink is complete, while it runs.
//!
//! ```text
//!  progress P ▸ then where its topics end ─▶ mark (P, ends) … mark     group has committed the ends of a mark ─▶ complete to P
//! ```
//!
//! **Claim.** Everything that committed in Postgres before `complete_to` is stored, superseded or set aside. A record of a
//! transaction before P stands below the ends, because the progress that says P was committed together with it, and the
//! ends are asked for later. A sink commits an offset only when it has finished everything below.
//!
//! * A sink that is hours behind has many marks. When there are [`MARKS_MAX`], every other one is dropped, and from then on
//!   every other one is not made: the sink becomes complete in larger steps, and nothing else.
//! * After a resync positions may be lower than before: a restored server begins again. So they are compared within an
//!   epoch, and a later epoch replaces an earlier one.
//! * Several workers of a sink say the same of it, because they ask its group. Whoever reads takes the greatest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use rdkafka::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use serde::{Deserialize, Serialize};
use tailwater_cdc::progress::{self, Record};
use tailwater_runtime::{Metric, clock};
use tailwater_topics_contract::{Lsn, Registrations, SinkName, SinkRegistration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Existing};
use crate::offsets::{self, Offsets};
use crate::output::causes;
use crate::workers::Wanted;

/// Between two looks. Each asks the brokers three questions and one for each sink.
const LOOK: Duration = Duration::from_secs(2);

/// Most marks of a sink.
const MARKS_MAX: usize = 256;

/// How long a record may take to be written.
const WRITE_WAIT: Duration = Duration::from_secs(10);

/// Everything before is complete.
const COMPLETE_LSN: &str = "tailwater_sink_complete_lsn";
/// How old that is.
const COMPLETE_AGE: &str = "tailwater_sink_complete_age_seconds";

/// What is measured.
pub(crate) const METRICS: &[Metric] = &[
    Metric::gauge(
        COMPLETE_LSN,
        &["sink"],
        "position of the WAL before which everything that committed is in the sink, or set aside",
    ),
    Metric::gauge(
        COMPLETE_AGE,
        &["sink"],
        "how long ago the reader wrote that position; on a quiet database up to its heartbeat",
    ),
];

/// A moment of the database, as the reader had it. Of two, the later epoch is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Moment {
    /// The epoch of the pipeline's numbers.
    epoch: u16,
    /// Everything that committed before this.
    complete_to: Lsn,
    /// When the reader wrote that, in milliseconds since 1970.
    at_ms: i64,
}

/// What is written of a sink, under its name, when it has become complete to a later moment.
#[derive(Serialize)]
struct Written<'a> {
    sink: &'a SinkName,
    #[serde(flatten)]
    moment: Moment,
}

/// What is known of one sink.
#[derive(Debug, Default)]
struct Marks {
    waiting: VecDeque<(Moment, Offsets)>,
    complete: Option<Moment>,
    /// What others can read.
    written: Option<Moment>,
    /// How often a mark that could be made was halved away.
    halvings: u32,
    /// Marks that could be made since the last one that was.
    passed: u32,
}

impl Marks {
    /// The reader stands at a moment, and the topics end there.
    fn on_mark(&mut self, moment: Moment, ends: Offsets) {
        let last = self.waiting.back().map(|(moment, _)| *moment).or(self.complete);
        if last.is_some_and(|last| moment <= last) {
            return;
        }
        if self.waiting.len() < MARKS_MAX / 4 {
            self.halvings = 0;
        }
        self.passed += 1;
        if self.passed >> self.halvings == 0 {
            return;
        }
        self.passed = 0;
        if self.waiting.len() >= MARKS_MAX {
            self.halvings += 1;
            let mut is_kept = false;
            self.waiting.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
        }
        self.waiting.push_back((moment, ends));
    }

    /// The sink has committed so much.
    fn on_committed(&mut self, committed: &Offsets) {
        while let Some((moment, ends)) = self.waiting.front()
            && covers(committed, ends)
        {
            self.complete = Some(*moment);
            self.waiting.pop_front();
        }
    }

    /// The moment to which it is complete, as long as that is not written.
    fn news(&self) -> Option<Moment> {
        self.complete.filter(|complete| self.written.is_none_or(|written| *complete > written))
    }
}

/// Every partition has committed its end.
fn covers(committed: &Offsets, ends: &Offsets) -> bool {
    ends.iter().all(|(topic, ends)| {
        let at = |partition: usize| committed.get(topic).and_then(|at| at.get(partition)).copied();
        ends.iter().enumerate().all(|(partition, end)| at(partition).is_some_and(|at| at >= *end))
    })
}

/// Keeps the watermarks of the sinks that a process runs, until told to stop. What fails is tried again at the next look.
pub(crate) async fn keep(
    config: Config,
    wanted: Wanted,
    registrations: watch::Receiver<Registrations>,
    stop: CancellationToken,
) {
    tailwater_runtime::describe(METRICS);
    let mut known: BTreeMap<SinkName, (SinkRegistration, Marks)> = BTreeMap::new();
    let mut failed = false;
    loop {
        let registered = registrations.borrow().clone();
        follow(&mut known, &wanted, &registered);
        let looked = look(&config, &registered, &mut known).await;
        if let Err(error) = &looked
            && !failed
        {
            let why = causes(error).join(": ");
            tracing::warn!(
                error = why,
                "up to where sinks are complete is not known at the moment"
            );
        }
        failed = looked.is_err();
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// A sink whose registration has changed is looked at anew: it may take other topics.
fn follow(
    known: &mut BTreeMap<SinkName, (SinkRegistration, Marks)>,
    wanted: &Wanted,
    registered: &Registrations,
) {
    let is_wanted = |name: &SinkName| match wanted {
        Wanted::All => true,
        Wanted::Named(names) => names.contains(name),
    };
    let sinks: Vec<_> =
        registered.standing_sinks().filter(|sink| is_wanted(&sink.spec.name)).collect();
    known.retain(|_, (registration, _)| sinks.contains(&&*registration));
    for sink in sinks {
        let new = || (sink.clone(), Marks::default());
        known.entry(sink.spec.name.clone()).or_insert_with(new);
    }
}

async fn look(
    config: &Config,
    registered: &Registrations,
    known: &mut BTreeMap<SinkName, (SinkRegistration, Marks)>,
) -> anyhow::Result<()> {
    if known.is_empty() {
        return Ok(());
    }
    // Progress first: see the claim.
    let progress = progress::read(&config.reader(Existing::default())).await?;
    let topics: BTreeSet<_> =
        known.values().flat_map(|(sink, _)| sink.spec.topics.iter().cloned()).collect();
    let kafka = config.kafka_client();
    let ends = offsets::blocking(move || offsets::ends(&kafka, &topics)).await?;
    let mut news = Vec::new();
    for (name, (sink, marks)) in &mut *known {
        let ends = offsets::of(&sink.spec.topics, &ends);
        if let Some(moment) = moment(progress.as_ref(), registered, sink) {
            marks.on_mark(moment, ends.clone());
        }
        let (kafka, group) = (config.kafka_client(), config.pipeline.consumer_group(name));
        let asked = sink.clone();
        let stands =
            offsets::blocking(move || offsets::stands(&kafka, &group, &asked, &ends)).await?;
        marks.on_committed(&stands);
        news.extend(marks.news().map(|moment| (name.clone(), moment)));
        if let Some(complete) = marks.complete {
            let age = (clock::now_ms() - complete.at_ms).max(0) as f64 / 1000.0;
            let sink = name.to_string();
            metrics::gauge!(COMPLETE_LSN, "sink" => sink.clone())
                .set(complete.complete_to.0 as f64);
            metrics::gauge!(COMPLETE_AGE, "sink" => sink).set(age);
        }
    }
    if news.is_empty() {
        return Ok(());
    }
    let (kafka, topic) = (config.kafka_client(), config.pipeline.watermarks_topic());
    let written =
        offsets::blocking(move || write(&kafka, topic.as_str(), &news).map(|()| news)).await?;
    for (name, moment) in written {
        if let Some((_, marks)) = known.get_mut(&name) {
            marks.written = Some(moment);
        }
    }
    Ok(())
}

/// Where the reader stands with the tables of a sink; `None` while rows that they held before are still to come.
fn moment(
    progress: Option<&Record>,
    registered: &Registrations,
    sink: &SinkRegistration,
) -> Option<Moment> {
    let progress = progress?;
    let complete_to = progress.complete_to(registered.tables_of(&sink.spec))?;
    Some(Moment { epoch: progress.epoch, complete_to, at_ms: progress.at_ms })
}

/// Writes what is new, so that others can read it. Blocks.
fn write(
    kafka: &rdkafka::ClientConfig,
    topic: &str,
    news: &[(SinkName, Moment)],
) -> anyhow::Result<()> {
    let producer: BaseProducer<Refused> = kafka
        .create_with_context(Refused::default())
        .context("the Kafka client cannot be set up")?;
    for (sink, moment) in news {
        let value = serde_json::to_vec(&Written { sink, moment: *moment })?;
        let record = BaseRecord::to(topic).key(sink.as_str()).payload(&value);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    let flushed = producer.flush(WRITE_WAIT);
    let refused = producer.context().0.lock().unwrap_or_else(PoisonError::into_inner).take();
    let written = refused.map_or(flushed, Err);
    written.with_context(|| format!("`{topic}` was not written; `tailwater apply` creates it"))
}

/// Why a record was not taken; a flush does not tell.
#[derive(Default)]
struct Refused(Mutex<Option<KafkaError>>);

impl ClientContext for Refused {}

impl ProducerContext for Refused {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(epoch: u16, at: u64) -> Moment {
        Moment { epoch, complete_to: Lsn(at), at_ms: at as i64 }
    }

    fn offsets(of: [i64; 2]) -> Offsets {
        Offsets::from([("a.b".parse().expect("a name"), of.to_vec())])
    }

    /// What is written once so much is committed.
    fn told(marks: &mut Marks, committed: &Offsets) -> Option<Moment> {
        marks.on_committed(committed);
        let news = marks.news();
        marks.written = news.or(marks.written);
        news
    }

    #[test]
    fn what_could_not_be_written_is_news_until_it_is() {
        let mut marks = Marks::default();
        marks.on_mark(moment(1, 10), offsets([1, 1]));
        marks.on_committed(&offsets([1, 1]));
        assert_eq!(marks.news(), Some(moment(1, 10)));
        marks.on_committed(&offsets([1, 1]));
        assert_eq!(told(&mut marks, &offsets([1, 1])), Some(moment(1, 10)));
        assert_eq!(marks.news(), None);
    }

    #[test]
    fn a_sink_is_complete_to_the_last_mark_whose_ends_it_has_committed() {
        let mut marks = Marks::default();
        marks.on_mark(moment(1, 10), offsets([5, 0]));
        marks.on_mark(moment(1, 20), offsets([5, 3]));
        marks.on_mark(moment(1, 30), offsets([9, 3]));
        assert_eq!(told(&mut marks, &offsets([4, 3])), None);
        assert_eq!(told(&mut marks, &offsets([5, 3])), Some(moment(1, 20)));
        assert_eq!(told(&mut marks, &offsets([8, 3])), None, "it is no later moment");
        assert_eq!(marks.complete, Some(moment(1, 20)));
        assert_eq!(told(&mut marks, &offsets([9, 4])), Some(moment(1, 30)));
    }

    #[test]
    fn a_partition_of_which_nothing_is_known_is_not_covered() {
        let mut marks = Marks::default();
        marks.on_mark(moment(1, 10), offsets([0, 0]));
        assert_eq!(told(&mut marks, &Offsets::new()), None);
    }

    #[test]
    fn a_later_epoch_begins_anew_though_its_positions_are_lower() {
        let mut marks = Marks::default();
        marks.on_mark(moment(1, 500), offsets([1, 1]));
        assert_eq!(told(&mut marks, &offsets([1, 1])), Some(moment(1, 500)));
        marks.on_mark(moment(1, 400), offsets([1, 1]));
        assert_eq!(told(&mut marks, &offsets([1, 1])), None, "nothing goes back");
        marks.on_mark(moment(2, 70), offsets([2, 1]));
        assert_eq!(told(&mut marks, &offsets([2, 1])), Some(moment(2, 70)));
    }

    #[test]
    fn many_marks_are_thinned_evenly_and_each_counts_again_once_they_are_few() {
        let mut marks = Marks::default();
        for at in 1..=10_000 {
            marks.on_mark(moment(1, at), offsets([at as i64, 0]));
            assert!(marks.waiting.len() <= MARKS_MAX);
        }
        let half = told(&mut marks, &offsets([5_000, 0])).expect("some are covered");
        assert!(half.complete_to <= Lsn(5_000) && half.complete_to > Lsn(4_800), "{half:?}");
        let most = told(&mut marks, &offsets([10_000, 0])).expect("some are covered");
        assert!(most.complete_to > Lsn(9_800), "{most:?}");
        marks.on_mark(moment(1, 10_001), offsets([10_001, 0]));
        assert_eq!(told(&mut marks, &offsets([10_001, 0])), Some(moment(1, 10_001)));
    }
}
