//! `tailwater archive`: prove an archive from what is stored, and make again what follows from its objects.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use tailwater_sinks_archive::{Store, repair, verify};
use tailwater_topics_contract::{
    ArchiveSpec, Origin, Registrations, SinkKind, SinkName, TopicName,
};
use tailwater_topics_registry::registrations;

use crate::Context;
use crate::config::Config;
use crate::output::{bytes, counted};
use crate::workers::store;

/// Exit code when something is wrong with an archive.
const DAMAGED: u8 = 4;
/// How often the progress is shown.
const PROGRESS: Duration = Duration::from_millis(500);

/// The S3 archive as it is stored: proof and repair
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Prove that an archive holds what was written, from what is stored alone; exit code 4 when it does not
    #[command(after_help = "\
Examples:
  tailwater archive verify
  tailwater archive verify orders.events --level 0
  tailwater archive verify --whole -o json > report.json")]
    Verify(VerifyArgs),
    /// Make manifests and key filters again from their objects; what is beyond repair is listed, with exit code 4
    #[command(after_help = "\
Examples:
  tailwater archive repair --dry-run
  tailwater archive repair orders.events
  tailwater archive repair --content -o json")]
    Repair(RepairArgs),
}

#[derive(clap::Args)]
pub(crate) struct VerifyArgs {
    /// Only these topics
    topics: Vec<TopicName>,
    /// 0: chains lead on without hole or overlap, from where they were registered to begin; 1: and everything is there
    /// with its metadata; 2: and everything is read and compared
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=2))]
    level: u8,
    /// The archive holds every topic of its pipeline and is at rest: then no number of the pipeline may be missing
    #[arg(long)]
    whole: bool,
    /// The archive sink to look at, when there are several
    #[arg(long)]
    sink: Option<SinkName>,
}

#[derive(clap::Args)]
pub(crate) struct RepairArgs {
    /// Only these topics
    topics: Vec<TopicName>,
    /// Read every object, and not only those whose manifest or filter is missing or contradicts them
    #[arg(long)]
    content: bool,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// The archive sink to mend, when there are several
    #[arg(long)]
    sink: Option<SinkName>,
}

pub(crate) async fn run(cx: &Context, command: &Command) -> anyhow::Result<ExitCode> {
    let config = cx.config()?;
    let registered = registrations::load(&config.kafka_client(), &config.pipeline).await?;
    match command {
        Command::Verify(args) => {
            let archive = archive(&config, &registered, args.sink.as_ref())?;
            verify(cx, &archive, args).await
        }
        Command::Repair(args) => {
            let archive = archive(&config, &registered, args.sink.as_ref())?;
            repair(cx, &archive, args).await
        }
    }
}

/// A registered archive.
pub(crate) struct Archive {
    pub(crate) store: Store,
    pub(crate) spec: ArchiveSpec,
    pub(crate) topics: Vec<TopicName>,
    /// Where its chains begin.
    pub(crate) origins: Vec<Origin>,
}

/// The archive sink of this name, or the only one there is.
pub(crate) fn archive(
    config: &Config,
    registered: &Registrations,
    wanted: Option<&SinkName>,
) -> anyhow::Result<Archive> {
    let archives = registered.sinks.values().filter_map(|sink| match &sink.spec.kind {
        SinkKind::Archive(spec) => Some((sink, spec)),
        SinkKind::Search(_) => None,
    });
    let archives: Vec<_> = match wanted {
        Some(wanted) => archives.filter(|(sink, _)| sink.spec.name == *wanted).collect(),
        None => archives.collect(),
    };
    match (archives.as_slice(), wanted) {
        ([(sink, spec)], _) => Ok(Archive {
            store: store(config, spec)?,
            spec: (*spec).clone(),
            topics: sink.spec.topics.clone(),
            origins: sink.origins.clone(),
        }),
        ([], Some(wanted)) => bail!("no archive sink `{wanted}` is registered"),
        ([], None) => bail!("no archive sink is registered; declare one and run `tailwater apply`"),
        (several, _) => {
            let names: Vec<&str> =
                several.iter().map(|(sink, _)| sink.spec.name.as_str()).collect();
            bail!("there are several archives; choose one with --sink: {}", names.join(", "))
        }
    }
}

impl Archive {
    /// Refuses topics that the sink does not take.
    pub(crate) fn known(&self, topics: &[TopicName]) -> anyhow::Result<()> {
        let Some(unknown) = topics.iter().find(|topic| !self.topics.contains(topic)) else {
            return Ok(());
        };
        let names: Vec<&str> = self.topics.iter().map(TopicName::as_str).collect();
        bail!("`{unknown}` is not archived by this sink; it takes {}", names.join(", "))
    }
}

async fn verify(cx: &Context, archive: &Archive, args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    archive.known(&args.topics)?;
    let origins = archive.origins.clone();
    let scope = verify::Scope { level: args.level, whole: args.whole, origins };
    let mut progress = Progress::new();
    let (store, prefix) = (&archive.store, &archive.spec.prefix);
    let mut on_object = |_: &str| progress.on_object();
    let report = verify::verify(store, prefix, &args.topics, &scope, &mut on_object).await?;
    progress.end();
    let is_sound = report.findings.is_empty();
    if cx.format.is_structured() {
        cx.format.value(&report)?;
    } else {
        let mut out = io::stdout().lock();
        write!(out, "{report}")?;
        writeln!(
            out,
            "{}, {}, {}, {}, {}: {}",
            counted(count(report.topics), "topic"),
            counted(count(report.partitions), "chain"),
            counted(count(report.objects), "object"),
            counted(count(report.records), "record"),
            bytes(report.bytes),
            match report.findings.len() {
                0 if report.objects == 0 => "nothing is archived yet".to_owned(),
                0 => format!("nothing wrong at level {}", args.level),
                findings => counted(findings, "finding"),
            }
        )?;
    }
    Ok(verdict(is_sound))
}

async fn repair(cx: &Context, archive: &Archive, args: &RepairArgs) -> anyhow::Result<ExitCode> {
    archive.known(&args.topics)?;
    let scope = repair::Scope { content: args.content, dry_run: args.dry_run };
    let mut progress = Progress::new();
    let (store, prefix) = (&archive.store, &archive.spec.prefix);
    let mut on_object = |_: &str| progress.on_object();
    let repaired = repair::repair(store, prefix, &args.topics, scope, &mut on_object).await?;
    progress.end();
    let is_sound = repaired.beyond.is_empty();
    if cx.format.is_structured() {
        cx.format.value(&repaired)?;
    } else {
        let mut out = io::stdout().lock();
        let [made, replaced] = if args.dry_run {
            ["would be made", "would be replaced"]
        } else {
            ["made", "replaced"]
        };
        for key in &repaired.made {
            writeln!(out, "{made}: {key}")?;
        }
        for key in &repaired.replaced {
            writeln!(out, "{replaced}: {key}")?;
        }
        for finding in &repaired.beyond {
            writeln!(out, "beyond repair: {}: {}", finding.subject, finding.what)?;
        }
        writeln!(
            out,
            "{}, {} of them read: {} {made}, {} {replaced}, {} beyond repair",
            counted(count(repaired.objects), "object"),
            repaired.read,
            repaired.made.len(),
            repaired.replaced.len(),
            repaired.beyond.len()
        )?;
    }
    Ok(verdict(is_sound))
}

fn verdict(is_sound: bool) -> ExitCode {
    if is_sound { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) }
}

fn count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// How many objects were read so far, on a terminal.
struct Progress {
    is_shown: bool,
    objects: u64,
    shown_at: Instant,
}

impl Progress {
    fn new() -> Self {
        Self { is_shown: io::stderr().is_terminal(), objects: 0, shown_at: Instant::now() }
    }

    fn on_object(&mut self) {
        self.objects += 1;
        if self.is_shown && self.shown_at.elapsed() >= PROGRESS {
            self.shown_at = Instant::now();
            eprint!("\r{} objects read", self.objects);
        }
    }

    /// Takes its line away again.
    fn end(&self) {
        if self.is_shown && self.objects > 0 {
            eprint!("\r\u{1b}[K");
        }
    }
}
