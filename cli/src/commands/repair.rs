//! `tailwater cdc adopt` and `resync`: shown, agreed to, carried out.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{bail, ensure};
use serde::Serialize;
use tailwater_cdc::repair::{self, At, Found, Plan, Refusal, Wish};
use tailwater_topics_registry::registrations;

use crate::config::{Config, Existing};
use crate::{Context, output};

/// What both repairs are told.
#[derive(clap::Args)]
pub(crate) struct Common {
    /// Why, for whoever looks at the pipeline later; it stays in its progress
    #[arg(long, value_parser = reason)]
    reason: String,
    /// The epoch of the sequence to begin, where neither progress nor any topic says which were used
    #[arg(long, value_name = "N")]
    epoch: Option<u16>,
    /// Do it without asking
    #[arg(long)]
    yes: bool,
}

#[derive(clap::Args)]
pub(crate) struct AdoptArgs {
    #[command(flatten)]
    common: Common,
    /// Where there is no slot, make one and go on there; what was written since the last position is left out
    #[arg(long)]
    new_slot: bool,
}

#[derive(clap::Args)]
pub(crate) struct ResyncArgs {
    #[command(flatten)]
    common: Common,
}

pub(crate) async fn adopt(cx: &Context, args: AdoptArgs) -> anyhow::Result<ExitCode> {
    let wish = Wish { new_slot: args.new_slot, epoch: args.common.epoch };
    carry_out(cx, &args.common, "adopt", |found| found.adopt(wish)).await
}

pub(crate) async fn resync(cx: &Context, args: ResyncArgs) -> anyhow::Result<ExitCode> {
    let wish = Wish { new_slot: false, epoch: args.common.epoch };
    carry_out(cx, &args.common, "resync", |found| found.resync(wish)).await
}

async fn carry_out(
    cx: &Context,
    common: &Common,
    word: &str,
    plan: impl FnOnce(&Found) -> Result<Plan, Refusal>,
) -> anyhow::Result<ExitCode> {
    let config = cx.config()?;
    let registered = registrations::load(&config.kafka_client(), &config.pipeline).await?;
    let reader = config.reader(Existing::default());
    let found = repair::look(&reader, &registered).await?;
    let plan = plan(&found)?;
    show(cx, &Shown::of(&config, &found, &plan))?;
    agreed(common.yes, word)?;
    let record = repair::carry_out(&reader, &registered, &found, &plan, &common.reason).await?;
    match plan.at {
        At::Anew => eprintln!("written; `tailwater cdc run` makes the slot and copies the tables"),
        _ => eprintln!("written; `tailwater cdc run` goes on at {}", record.position),
    }
    Ok(ExitCode::SUCCESS)
}

/// What a repair will do.
#[derive(Serialize)]
struct Shown {
    pipeline: String,
    /// Why the reader stops; absent when it does not.
    stopped: Option<String>,
    progress: Option<String>,
    server: String,
    slot: String,
    goes_on: String,
    epoch: u16,
    lost: String,
    repeated: String,
}

impl Shown {
    fn of(config: &Config, found: &Found, plan: &Plan) -> Self {
        let server = &found.server;
        let slot = match &server.slot {
            None => format!("{} does not exist", found.slot_name),
            Some(slot) => {
                let confirmed = slot.confirmed_flush.map(|at| format!(" at {at}"));
                let confirmed = confirmed.unwrap_or_default();
                format!("{}{confirmed}, WAL {}", found.slot_name, slot.wal_status)
            }
        };
        let progress = found.progress.as_ref().map(|record| {
            format!(
                "{} of cluster {} on timeline {}, epoch {}",
                record.position, record.system_id, record.timeline, record.epoch
            )
        });
        let stopped =
            found.start.as_ref().err().map(|stop| format!("{}: {stop}", stop.code().text));
        Self {
            pipeline: config.pipeline.to_string(),
            stopped,
            progress,
            server: format!(
                "cluster {} on timeline {}, WAL up to {}",
                server.system_id, server.timeline, server.wal_end
            ),
            slot,
            goes_on: match plan.at {
                At::Slot(at) => format!("at {at}, where the slot stands"),
                At::Progress(at) => format!("at {at}, where progress stands"),
                At::NewSlot => "at a slot that is made now".to_owned(),
                At::Anew => "at a slot that the next start makes in place of any that is there, with a copy of every table".to_owned(),
            },
            epoch: plan.epoch,
            lost: plan.lost.clone(),
            repeated: plan.repeated.clone(),
        }
    }
}

fn show(cx: &Context, shown: &Shown) -> anyhow::Result<()> {
    if cx.format.is_structured() {
        return cx.format.value(shown);
    }
    let nothing = |text: &Option<String>, otherwise: &str| {
        text.clone().unwrap_or_else(|| otherwise.to_owned())
    };
    let facts = [
        ("pipeline", shown.pipeline.clone()),
        ("stopped by", nothing(&shown.stopped, "nothing: the reader could go on")),
        ("progress", nothing(&shown.progress, "none")),
        ("server", shown.server.clone()),
        ("slot", shown.slot.clone()),
        ("goes on", shown.goes_on.clone()),
        ("new epoch", shown.epoch.to_string()),
        ("lost", shown.lost.clone()),
        ("repeated", shown.repeated.clone()),
    ];
    Ok(output::facts(cx.format, &facts)?)
}

/// Asks at a terminal; elsewhere there must be a `--yes`.
fn agreed(yes: bool, word: &str) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        bail!("nothing was changed: there is no terminal to ask at; `--yes` agrees to the above");
    }
    eprint!("Type `{word}` to do this: ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    ensure!(answer.trim() == word, "nothing was changed");
    Ok(())
}

/// One line that people can read back.
pub(crate) fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if (1..=500).contains(&text.chars().count()) && !text.chars().any(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err("expected 1 to 500 characters on one line".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_that_says_something() {
        assert_eq!(reason(" Störung am 3. Mai "), Ok("Störung am 3. Mai".to_owned()));
        for text in ["", "  ", "two\nlines", &"x".repeat(501)] {
            assert!(reason(text).is_err(), "{text}");
        }
    }
}
