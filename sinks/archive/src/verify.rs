//! Proof that an archive holds what its writers put there, from what is stored alone.
//!
//! ```text
//!  L0  chains     every object leads to the next; keys, places and days fit; nothing else lies beside them
//!  L1  existence  every object has its metadata and its manifest, every manifest its object; they say the same
//!  L2  content    hashes, gzip, chunk index, lines, offsets, filters; numbers of the pipeline rise and stand once
//! ```
//!
//! Nothing is believed: what one place says is compared with what follows from another. What cannot be seen from the
//! archive alone is the loss of a chain's end together with its manifest; that shows in the numbers, when the archive
//! holds every topic of its pipeline (`whole`), and in the origins, when they are known.

mod chains; // L0
mod contents; // L2
mod manifests; // L1
mod numbers; // L2: the pipeline's own

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;
use tailwater_topics_contract::{Origin, TopicName};

pub(crate) use self::manifests::disagreements;
use self::numbers::Numbers;
use crate::store::{Objects, StoreError};
pub use crate::tree::Finding;
use crate::tree::{Object, Tree};

/// How far to look.
#[derive(Clone, Debug)]
pub struct Scope {
    /// 0, 1 or 2; each includes those before it.
    pub level: u8,
    /// Whether the archive holds every topic of its pipeline, so that no number may be missing.
    pub whole: bool,
    /// Where chains begin, as registered; empty when that is not known.
    pub origins: Vec<Origin>,
}

/// What was looked at and found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Topics.
    pub topics: u64,
    /// Chains.
    pub partitions: u64,
    /// Objects under `data/`.
    pub objects: u64,
    /// Records that metadata speaks of; at level 2 the ones that were read.
    pub records: u64,
    /// Bytes of objects; at level 2 they were read.
    pub bytes: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

/// Findings and notes, a line each; not how much was looked at.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { subject, level, what } in &self.findings {
            writeln!(f, "L{level} {subject}: {what}")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))
    }
}

struct Look<'a, S> {
    tree: Tree<'a, S>,
    scope: &'a Scope,
    report: Report,
    numbers: Numbers,
}

/// Looks at some topics under a prefix; at all that there are when `topics` is empty. `on_object` hears the key of each
/// object that is read.
///
/// # Errors
/// The store fails. Damage is no error: it is in the report.
pub async fn verify<S: Objects>(
    store: &S,
    prefix: &str,
    topics: &[TopicName],
    scope: &Scope,
    on_object: &mut (dyn FnMut(&str) + Send),
) -> Result<Report, StoreError> {
    let tree = Tree { store, prefix };
    let mut look = Look { tree, scope, report: Report::default(), numbers: Numbers::default() };
    let every: BTreeSet<TopicName> = if topics.is_empty() {
        let (every, strangers) = tree.topics().await?;
        look.report.findings.extend(strangers);
        every
    } else {
        topics.iter().cloned().collect()
    };
    for topic in &every {
        look.topic(topic, on_object).await?;
    }
    if scope.level >= 2 {
        look.numbers.judge(scope.whole && topics.is_empty(), &mut look.report);
    }
    look.report.findings.sort();
    look.report.findings.dedup();
    Ok(look.report)
}

impl<S: Objects> Look<'_, S> {
    fn found(&mut self, level: u8, subject: &str, what: impl Into<String>) {
        self.report.findings.push(Finding::new(level, subject, what));
    }

    async fn topic(
        &mut self,
        topic: &TopicName,
        on_object: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(), StoreError> {
        self.report.topics += 1;
        let (objects, findings) = self.tree.objects(topic).await?;
        self.report.findings.extend(findings);
        self.chains(topic, &objects);
        self.report.objects += objects.len() as u64;
        self.report.bytes += objects.values().map(|object| object.bytes).sum::<u64>();
        if self.scope.level < 2 {
            let records = |object: &Object| object.link.extent.records;
            self.report.records += objects.values().map(records).sum::<u64>();
        }
        if self.scope.level < 1 {
            return Ok(());
        }
        let manifests = self.manifests(topic, &objects).await?;
        if self.scope.level < 2 {
            return Ok(());
        }
        self.contents(topic, &objects, &manifests, on_object).await
    }
}
