//! `tailwater explain`: a page for every code the reader can end with.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::bail;
use serde::Serialize;

use crate::Context;

/// Explain a code such as TW012: what happened, what is at risk, what to do
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tailwater explain TW012
  tailwater explain 12        # the exit code alone will do
  tailwater explain           # all codes")]
pub(crate) struct Args {
    /// The code; without one, all are listed
    code: Option<String>,
}

#[derive(Serialize)]
struct Page {
    code: &'static str,
    what: &'static str,
    risk: &'static str,
    action: &'static str,
}

pub(crate) fn run(cx: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let Some(code) = &args.code else {
        let header = ["CODE", "WHAT HAPPENED"];
        cx.format.list(&header, PAGES, |page| vec![page.code.to_owned(), page.what.to_owned()])?;
        return Ok(ExitCode::SUCCESS);
    };
    let Some(page) = find(code) else {
        bail!("there is no code `{code}`; `tailwater explain` lists all");
    };
    if cx.format.is_structured() {
        cx.format.value(page)?;
    } else {
        print(page)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn find(code: &str) -> Option<&'static Page> {
    let digits = code.trim_start_matches(['T', 'W', 't', 'w', '0']);
    PAGES.iter().find(|page| page.code.trim_start_matches(['T', 'W', '0']) == digits)
}

fn print(page: &Page) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", page.code)?;
    for (heading, text) in
        [("What happened", page.what), ("At risk", page.risk), ("What to do", page.action)]
    {
        writeln!(out, "\n{heading}\n  {text}")?;
    }
    Ok(())
}

const fn page(
    code: &'static str,
    what: &'static str,
    risk: &'static str,
    action: &'static str,
) -> Page {
    Page { code, what, risk, action }
}

const PAGES: &[Page] = &[
    page(
        "TW011",
        "The slot exists, but the progress topic holds no progress: the topic was lost, or the slot is somebody else's.",
        "Nobody knows how far Kafka came. Reading on would repeat or skip changes.",
        "If the slot is this pipeline's, `tailwater cdc adopt` goes on where it stands and loses nothing; some changes come twice. If it is a leftover that nobody needs, drop it with `pg_drop_replication_slot` and start anew.",
    ),
    page(
        "TW012",
        "There is progress, but the slot is gone.",
        "Postgres may have discarded WAL after our position, so changes may be lost for this pipeline.",
        "Find out who dropped the slot. `tailwater cdc resync` reads every table anew and deletes what has gone. If nothing was written since (an upgrade with writes stopped), `tailwater cdc adopt --new-slot` goes on without that.",
    ),
    page(
        "TW013",
        "Another database cluster answers than the one the progress belongs to.",
        "Positions of two clusters cannot be compared; reading on would mix two histories.",
        "Correct `postgres.host` and `postgres.port`. If the database has moved there: `tailwater cdc adopt` (with `--new-slot` where there is none) when writes were stopped meanwhile, else `tailwater cdc resync`.",
    ),
    page(
        "TW014",
        "Postgres invalidated the slot, because it held back more WAL than `max_slot_wal_keep_size` allows.",
        "The WAL after our position is gone, and with it the changes in it.",
        "Raise `max_slot_wal_keep_size` above what your longest outage writes, then `tailwater cdc resync`: every table is read anew, and what has gone is deleted.",
    ),
    page(
        "TW015",
        "The slot is ahead of our progress: somebody moved it or made it again.",
        "The changes between progress and slot are lost for this pipeline.",
        "Find out who used the slot. `tailwater cdc resync` reads every table anew. Or take the loss: `tailwater cdc adopt` goes on at the slot, and `tailwater cdc snapshot TABLE` mends the tables that matter.",
    ),
    page(
        "TW016",
        "The server's WAL ends before our progress: an older copy of the database answers.",
        "Kafka holds changes that this database never made, and new ones would reuse their positions.",
        "Connect to the right server. If the database was restored from a backup, `tailwater cdc resync`: every table is read anew, and what this database never made is deleted.",
    ),
    page(
        "TW017",
        "The server was promoted at a point before our progress: we had read changes that it never received.",
        "Kafka holds changes that the new primary does not have, and it would skip some of its own.",
        "`tailwater cdc resync`: every table is read anew, and what the new primary does not have is deleted. On Postgres 17 and later set `synchronized_standby_slots`, so that it cannot happen again.",
    ),
    page(
        "TW018",
        "The server's timeline does not descend from the one that progress was made on.",
        "It is another branch of history; its changes do not follow ours.",
        "Connect to the server that continues the known timeline. If this one is to be followed, `tailwater cdc resync`.",
    ),
    page(
        "TW019",
        "The server is on an older timeline than our progress: the old primary answers.",
        "Its changes were never part of the history that Kafka has.",
        "Correct `postgres.host`, and shut the old primary down.",
    ),
    page(
        "TW020",
        "Another connection reads the slot and did not let go within `reader.slot_wait`.",
        "Nothing. One of the two readers goes on.",
        "Stop the other reader. If it is dead, wait until `wal_sender_timeout` has passed or end its server process with `pg_terminate_backend`.",
    ),
    page(
        "TW021",
        "Stream options changed while a transaction was half sent.",
        "Its rows would be counted in another way, and some repeated or skipped.",
        "Start once with the former version until the transaction is through, then upgrade. Or `tailwater cdc adopt`: the rows of that transaction which Kafka has come once more.",
    ),
    page(
        "TW022",
        "An outbox table holds events at the very first start.",
        "Sent once more they would repeat what another relay has sent; left out they would be missing. Nobody but you can know.",
        "Start once with `tailwater cdc run --events-from-now` to leave them out. If nobody has sent them, insert them once more afterwards (new ids, in their order), or empty the table before the first start and write them then.",
    ),
    page(
        "TW023",
        "A slot of our name uses another plugin or belongs to another database.",
        "Nothing. It was not touched.",
        "Choose another `pipeline` name, or drop the slot once you know that nobody needs it.",
    ),
    page(
        "TW024",
        "The progress record belongs to another pipeline, to a newer version, or cannot be read.",
        "Reading on from it could repeat or skip changes.",
        "Run the version that wrote it, or restore the progress topic. If it cannot be restored, delete it, make it again with `tailwater apply`, and see TW011.",
    ),
    page(
        "TW025",
        "This is a first start, but a topic already holds records.",
        "The sequence would begin below theirs, and sinks would ignore new records as old ones.",
        "Use topics of other names. If progress and slot of this pipeline were lost, `tailwater cdc resync` reads every table anew, under numbers above those in the topics.",
    ),
    page(
        "TW026",
        "A topic ends before what progress says was written, or took a record before that end: Kafka lost acknowledged records, or the topic was deleted and made again.",
        "Records that Postgres was told are safe are gone.",
        "Look into the brokers' replication and unclean elections. `tailwater cdc adopt` goes on; `tailwater cdc snapshot TABLE` brings the rows of each table back. Events can be replayed from an archive.",
    ),
    page(
        "TW027",
        "The database is not prepared for this pipeline.",
        "Nothing yet. Going on would fail or lose changes later.",
        "Carry out the statements in the message; `tailwater check` shows them again.",
    ),
    page(
        "TW030",
        "Another reader of this pipeline started and took over.",
        "Nothing. The other reader goes on exactly where this one ended.",
        "Run one reader per pipeline.",
    ),
    page(
        "TW031",
        "The brokers did not say whether a transaction was committed.",
        "Nothing. The reader begins a fresh session by itself, which fences this one and reads what happened.",
        "Look after the brokers: they did not answer within the deadline of a transaction.",
    ),
    page(
        "TW032",
        "The brokers refuse what the reader asks.",
        "Nothing. The slot keeps the WAL until the reader goes on; watch the disk of Postgres.",
        "Grant the rights that the message names: write on the topics, and the transactional id.",
    ),
    page(
        "TW033",
        "A topic does not exist, or has another number of partitions than registered. It may be the progress topic.",
        "With other partitions the same key would go on elsewhere and lose its order.",
        "Run `tailwater apply`. If partitions were added by hand, declare a new topic. If the progress topic was deleted, `tailwater cdc adopt` or `tailwater cdc resync` brings the pipeline back afterwards.",
    ),
    page(
        "TW034",
        "A record is larger than its topic takes, and larger than what can be set aside (60 MiB).",
        "Nothing yet. The reader does not skip it, so the slot keeps the WAL. Smaller ones stand in `tailwater.<pipeline>.dlq` and stop nothing.",
        "Raise `max.message.bytes` of the topic (and `message.max.bytes` in `kafka.properties`) above the size in the message.",
    ),
    page(
        "TW035",
        "The brokers cannot be reached, or answer too slowly.",
        "Nothing. The slot keeps the WAL until the reader goes on; watch the disk of Postgres.",
        "Start the brokers, or correct `kafka.brokers`. Then start the reader again.",
    ),
    page(
        "TW040",
        "Postgres refuses the login.",
        "Nothing. The slot keeps the WAL.",
        "Correct `postgres.user` and the password, or `pg_hba.conf`; the role needs LOGIN and REPLICATION.",
    ),
    page(
        "TW041",
        "Postgres refuses a command or ended the stream.",
        "Nothing. The slot keeps the WAL.",
        "The message holds what the server said; `tailwater check` finds the usual causes.",
    ),
    page(
        "TW042",
        "Postgres cannot be reached.",
        "Nothing. The slot keeps the WAL once the server is back.",
        "Start the server, or correct `postgres.host` and `postgres.port`.",
    ),
    page(
        "TW043",
        "The server, or something in between, does not speak the replication protocol.",
        "Nothing. What could not be read was not confirmed.",
        "Connect to Postgres itself: a connection pooler cannot carry a replication stream.",
    ),
    page(
        "TW044",
        "No encrypted connection to Postgres can be made that could be trusted: the server offers no TLS, its certificate has expired, comes from an unknown authority or names another host, it refuses ours, or a file of certificates cannot be used.",
        "Nothing. No password and no row was sent. The slot keeps the WAL.",
        "The message says which of them, and the setting: `postgres.sslmode`, `sslrootcert`, `sslcert`, `sslkey`.",
    ),
    page(
        "TW050",
        "A change cannot be decoded, routed or turned into a record.",
        "Nothing is skipped, so the slot keeps the WAL until this is mended.",
        "The message names the table. Usually a table is published that no topic takes, or a key column was dropped.",
    ),
    page(
        "TW051",
        "The rows that a table holds cannot be copied.",
        "Tables that were finished stay finished; changes wait in Postgres and are not lost.",
        "The message has the server's words. Usually the role may not SELECT from the table, or row security would hide rows from it: `GRANT SELECT ON schema.table TO role`, `ALTER ROLE role BYPASSRLS`. `--from-now` starts without the rows.",
    ),
    page(
        "TW059",
        "A part of the reader panicked: a fault in the reader itself.",
        "Nothing that was not committed counts; the next start goes on from progress.",
        "Start it again, and report the place that the log names.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_reader_has_a_page() {
        let codes: Vec<&str> = tailwater_cdc::error::code::ALL.iter().map(|c| c.text).collect();
        let pages: Vec<&str> = PAGES.iter().map(|page| page.code).collect();
        assert_eq!(pages, codes);
    }

    #[test]
    fn a_code_is_found_in_whatever_form() {
        for form in ["TW012", "tw012", "TW12", "12"] {
            assert_eq!(find(form).map(|page| page.code), Some("TW012"), "{form}");
        }
        assert!(find("TW999").is_none() && find("").is_none());
    }
}
