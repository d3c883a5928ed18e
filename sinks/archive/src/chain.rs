//! Which key is next, and what a taken key means.
//!
//! ```text
//!  origin (registration)         link at (start, dt)          link at (start, dt)
//!     start, dt ────────────────▶ next, next-dt ─────────────▶ next, next-dt ─────────▶ 404: the head
//! ```
//!
//! **The rule.** A writer creates an object only at the head: at the origin, or at the place that the last link names.
//! The place is the whole key, so it is wholly determined by the predecessor. Objects are created with
//! `If-None-Match: *` and never change.
//!
//! **Why it is exact.** By induction every link's place is named by its predecessor, and for each place at most one
//! object was ever created. So the links of a partition are one sequence, without hole and without overlap,
//! whatever writers took part: two that stand at the same head race for one key, and the loser reads the winner and
//! goes on where that one ends. A writer that slept for an hour holds an old head; its key is taken, too.
//!
//! **Turning the day.** A link's folder is its predecessor's `next-dt`, guessed when that one was closed. When what
//! follows is of a later day, an *empty link* is created at the guessed place: its `next` is its own start, its
//! `next-dt` the later day. Empty link and successor share a start and differ in their day, so their keys differ; days
//! only grow, so there are finitely many. A writer that wants to create data at a place where another created an
//! empty link loses the race as always, and follows it.
//!
//! **Gaps.** When retention deletes records before they are archived, the chain does not go on by itself: a person says
//! that they are given up, and a *gap* is created at the head: a link without records whose `next` is where the log
//! goes on, with the reason in its metadata. No other link without records moves the position, so every lost range is
//! an element of the chain and nothing is ever passed over in silence.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;

use crate::layout::{Day, Place};
use crate::manifest::Extent;

/// What an object's metadata says of its link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The place of what follows.
    pub next: Place,
    /// What its records say; none for a link that only turns the day.
    pub extent: Extent,
    /// Bytes of its lines.
    pub raw_bytes: u64,
    /// SHA-256 of the object, in hexadecimal.
    pub sha256: String,
    /// Who wrote it.
    pub writer: String,
}

/// Metadata that is not a link's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its metadata has no readable `{0}`; somebody else has written into the archive")]
pub struct NotALink(&'static str);

impl Link {
    /// As object metadata. A range stands as `<lowest>..<highest>`, and not at all when no record says.
    pub fn to_metadata(&self) -> HashMap<String, String> {
        fn range<T: Display>(range: Option<(T, T)>) -> Option<String> {
            range.map(|(low, high)| format!("{low}..{high}"))
        }
        let fields = [
            ("next", Some(self.next.start.to_string())),
            ("next-dt", Some(self.next.dt.to_string())),
            ("records", Some(self.extent.records.to_string())),
            ("raw-bytes", Some(self.raw_bytes.to_string())),
            ("sha256", Some(self.sha256.clone())),
            ("writer", Some(self.writer.clone())),
            ("offset", range(self.extent.offset)),
            ("kafka-ts-ms", range(self.extent.kafka_ts_ms)),
            ("commit-lsn", range(self.extent.commit_lsn)),
            ("commit-ts-us", range(self.extent.commit_ts_us)),
            ("tw-seq", range(self.extent.tw_seq)),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    /// Back from object metadata.
    pub fn from_metadata(metadata: &HashMap<String, String>) -> Result<Self, NotALink> {
        fn field<T: FromStr>(
            metadata: &HashMap<String, String>,
            name: &'static str,
        ) -> Result<T, NotALink> {
            metadata.get(name).and_then(|value| value.parse().ok()).ok_or(NotALink(name))
        }
        fn range<T: FromStr>(
            metadata: &HashMap<String, String>,
            name: &'static str,
        ) -> Result<Option<(T, T)>, NotALink> {
            let Some(text) = metadata.get(name) else { return Ok(None) };
            let (low, high) = text.split_once("..").ok_or(NotALink(name))?;
            let end = |text: &str| text.parse().map_err(|_| NotALink(name));
            Ok(Some((end(low)?, end(high)?)))
        }
        Ok(Self {
            next: Place::new(field(metadata, "next")?, field(metadata, "next-dt")?),
            extent: Extent {
                records: field(metadata, "records")?,
                offset: range(metadata, "offset")?,
                kafka_ts_ms: range(metadata, "kafka-ts-ms")?,
                commit_lsn: range(metadata, "commit-lsn")?,
                commit_ts_us: range(metadata, "commit-ts-us")?,
                tw_seq: range(metadata, "tw-seq")?,
            },
            raw_bytes: field(metadata, "raw-bytes")?,
            sha256: field(metadata, "sha256")?,
            writer: field(metadata, "writer")?,
        })
    }

    /// Whether it is a gap at this place: a range of positions that was given up.
    pub fn is_gap_at(&self, place: Place) -> bool {
        self.extent.records == 0 && self.next.start > place.start
    }

    /// Whether it is a possible link at this place: it goes on, or it turns the day.
    pub fn is_at(&self, place: Place) -> bool {
        self.next.dt >= place.dt
            && (self.next.start > place.start
                || (self.next.start == place.start
                    && self.next.dt > place.dt
                    && self.extent.records == 0))
    }
}

/// What the next link must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Position after its last record.
    pub end: i64,
    /// Day of its first record.
    pub first_dt: Day,
    /// Day of its last record.
    pub last_dt: Day,
}

/// The object to be created at the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Create {
    /// An empty link; then look at the new head.
    Empty {
        /// Where what follows belongs.
        next: Place,
    },
    /// The claim's records.
    Data {
        /// Where what follows belongs, as far as can be known now.
        next: Place,
    },
}

impl Claim {
    /// What is to be created at the head.
    pub fn at(&self, head: Place) -> Create {
        if self.first_dt > head.dt {
            Create::Empty { next: Place::new(head.start, self.first_dt) }
        } else {
            let dt = head.dt.max(self.last_dt);
            Create::Data { next: Place::new(self.end, dt) }
        }
    }

    /// What the object that stands at the head means, whoever created it, when `sha256` is the hash of ours.
    pub fn judge(&self, head: Place, sha256: &str, found: &Link) -> Verdict {
        if found.next.start == head.start {
            return Verdict::Turned { head: found.next };
        }
        if found.next.start == self.end && found.sha256 == sha256 {
            return Verdict::Ours { head: found.next };
        }
        Verdict::Adopt { head: found.next }
    }
}

/// What the object at the head means for a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The claim's content: just created, or an earlier attempt of ours whose answer was lost, or a rival that cut at
    /// the same place.
    Ours {
        /// The new head.
        head: Place,
    },
    /// An empty link: the claim stands, at another head.
    Turned {
        /// The new head.
        head: Place,
    },
    /// Another writer has stored these positions: drop the claim and go on there.
    Adopt {
        /// The new head.
        head: Place,
    },
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn day(number: i64) -> Day {
        Day::of_ms(number * 86_400_000)
    }

    fn link(next: Place, records: u64, sha256: String) -> Link {
        let extent = Extent { records, ..Extent::default() };
        Link { next, extent, raw_bytes: 0, sha256, writer: "w".into() }
    }

    /// What a store holds, with its first rule: a key is created once.
    #[derive(Default)]
    struct Store(BTreeMap<Place, (Link, Vec<i64>)>);

    /// A writer that may be stopped between any two of its steps, and woken up again.
    struct Rival {
        head: Place,
        batch: Vec<i64>,
        step: Step,
    }

    enum Step {
        Reading,
        Claimed,
    }

    /// Positions are records; the log has a record at each, and its day grows slowly and sometimes goes back.
    fn day_of(position: i64) -> Day {
        day(position / 7 - i64::from(position % 5 == 0))
    }

    impl Rival {
        fn open(store: &Store) -> Self {
            let mut head = Place::new(0, day(0));
            while let Some((link, _)) = store.0.get(&head) {
                assert!(link.is_at(head));
                head = link.next;
            }
            Self { head, batch: Vec::new(), step: Step::Reading }
        }

        /// One step; a lost reply leaves the writer as if nothing had been answered.
        fn step(&mut self, store: &mut Store, random: &mut StdRng, log: i64) {
            match self.step {
                Step::Reading => {
                    let from = self.head.start + self.batch.len() as i64;
                    let to = (from + random.random_range(1..6)).min(log);
                    self.batch.extend(from..to);
                    if !self.batch.is_empty() {
                        self.step = Step::Claimed;
                    }
                }
                Step::Claimed => self.flush(store, random.random_bool(0.2)),
            }
        }

        fn flush(&mut self, store: &mut Store, reply_is_lost: bool) {
            let claim = Claim {
                end: self.head.start + self.batch.len() as i64,
                first_dt: day_of(self.batch[0]),
                last_dt: day_of(*self.batch.last().expect("not empty")),
            };
            let sha256 = format!("{:?}", self.batch);
            let (next, records) = match claim.at(self.head) {
                Create::Empty { next } => (next, vec![]),
                Create::Data { next } => (next, self.batch.clone()),
            };
            let hash = if records.is_empty() { String::new() } else { sha256.clone() };
            store.0.entry(self.head).or_insert((link(next, records.len() as u64, hash), records));
            if reply_is_lost {
                return;
            }
            let found = &store.0[&self.head].0;
            match claim.judge(self.head, &sha256, found) {
                Verdict::Turned { head } => self.head = head,
                Verdict::Ours { head } | Verdict::Adopt { head } => {
                    *self = Self { head, batch: Vec::new(), step: Step::Reading };
                }
            }
        }
    }

    #[test]
    fn any_mixture_of_slow_dead_and_revived_writers_makes_one_chain() {
        let seed: u64 = std::env::var("TAILWATER_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(|| rand::rng().random());
        println!("seed {seed}; replay with TAILWATER_TEST_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for round in 0..500 {
            const LOG: i64 = 60;
            let mut store = Store::default();
            let mut rivals: Vec<Rival> = (0..3).map(|_| Rival::open(&store)).collect();
            for _ in 0..400 {
                let which = random.random_range(0..rivals.len());
                if random.random_bool(0.05) {
                    rivals[which] = Rival::open(&store);
                }
                rivals[which].step(&mut store, &mut random, LOG);
            }
            let mut last = Rival::open(&store);
            while last.head.start < LOG {
                last.step(&mut store, &mut random, LOG);
            }
            let mut head = Place::new(0, day(0));
            let (mut seen, mut links) = (Vec::<i64>::new(), 0);
            while let Some((link, records)) = store.0.get(&head) {
                seen.extend(records);
                links += 1;
                head = link.next;
            }
            assert_eq!(seen, (0..LOG).collect::<Vec<_>>(), "round {round}");
            assert_eq!(links, store.0.len(), "an object outside the chain, round {round}");
            assert!(store.0.keys().any(|place| place.dt > day(2)), "days were turned");
        }
    }

    #[test]
    fn metadata_reads_back_and_anything_else_is_refused() {
        let mut link = link(Place::new(9, day(3)), 4, "ab".into());
        link.extent.kafka_ts_ms = Some((-5, 7));
        link.extent.tw_seq = Some((1, u64::MAX));
        let metadata = link.to_metadata();
        assert_eq!(Link::from_metadata(&metadata), Ok(link));
        for name in ["next", "next-dt", "records", "raw-bytes", "sha256", "writer"] {
            let mut without = metadata.clone();
            without.remove(name);
            assert_eq!(Link::from_metadata(&without), Err(NotALink(name)));
        }
        for name in metadata.keys().filter(|name| !["sha256", "writer"].contains(&name.as_str())) {
            let mut wrong = metadata.clone();
            wrong.insert(name.clone(), "x".into());
            assert!(Link::from_metadata(&wrong).is_err(), "{name}");
        }
    }

    #[test]
    fn a_link_that_goes_nowhere_is_no_link() {
        let at = Place::new(5, day(3));
        let link = |start, dt, records| link(Place::new(start, day(dt)), records, String::new());
        assert!(link(6, 3, 1).is_at(at));
        assert!(link(5, 4, 0).is_at(at) && !link(5, 4, 0).is_gap_at(at));
        assert!(link(9, 3, 0).is_at(at) && link(9, 3, 0).is_gap_at(at));
        assert!(!link(9, 3, 1).is_gap_at(at));
        assert!(!link(5, 3, 0).is_at(at), "would point at itself");
        assert!(!link(5, 4, 1).is_at(at));
        assert!(!link(6, 2, 1).is_at(at), "days never go back");
        assert!(!link(4, 3, 1).is_at(at));
    }
}
