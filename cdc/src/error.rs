//! Why the reader ends, under codes that stay.

use tailwater_runtime::{Classify, ErrorClass};

use crate::preflight::Finding;
use crate::{capture, progress, publish, snapshot, start, stream};

/// A code with its page under `tailwater explain`, and the exit code of the process: the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code {
    /// `TW` and three digits.
    pub text: &'static str,
    /// The exit code.
    pub exit: u8,
}

/// All codes of the reader. A number is never used again for something else.
pub mod code {
    use super::Code;

    macro_rules! codes {
        ($($(#[$doc:meta])* $name:ident $text:literal $exit:literal)*) => {
            $($(#[$doc])* pub const $name: Code = Code { text: $text, exit: $exit };)*

            /// Every code, in order.
            pub const ALL: &[Code] = &[$($name),*];
        };
    }

    codes! {
        /// A slot without progress.
        PROGRESS_LOST "TW011" 11
        /// Progress without a slot.
        SLOT_MISSING "TW012" 12
        /// Another database cluster answers.
        OTHER_CLUSTER "TW013" 13
        /// The slot was invalidated.
        SLOT_LOST "TW014" 14
        /// The slot is ahead of progress.
        SLOT_MOVED "TW015" 15
        /// Progress is ahead of the server.
        SERVER_BEHIND "TW016" 16
        /// Progress is ahead of a promoted standby.
        AHEAD_OF_STANDBY "TW017" 17
        /// A timeline that does not descend from ours.
        UNKNOWN_TIMELINE "TW018" 18
        /// The old primary answers.
        OLD_PRIMARY "TW019" 19
        /// Another reader holds the slot.
        SLOT_BUSY "TW020" 20
        /// Stream options changed inside a transaction.
        OPTIONS_CHANGED "TW021" 21
        /// There are rows and nobody said what shall become of them.
        SNAPSHOT_NEEDED "TW022" 22
        /// The slot is not ours.
        SLOT_FOREIGN "TW023" 23
        /// The progress record is not ours, or cannot be read.
        PROGRESS_FOREIGN "TW024" 24
        /// A first start into topics that hold records.
        TOPIC_NOT_EMPTY "TW025" 25
        /// Kafka lost acknowledged records.
        KAFKA_BEHIND "TW026" 26
        /// Something that must be mended before the start.
        PREFLIGHT "TW027" 27
        /// Another reader took over.
        FENCED "TW030" 30
        /// It is unknown whether a Kafka transaction was committed.
        OUTCOME_UNCLEAR "TW031" 31
        /// The brokers refuse.
        KAFKA_REFUSED "TW032" 32
        /// A topic does not exist, or has another number of partitions.
        TOPIC "TW033" 33
        /// A record is larger than Kafka takes.
        RECORD_TOO_LARGE "TW034" 34
        /// The brokers cannot be reached, or too slowly.
        KAFKA_UNREACHABLE "TW035" 35
        /// Postgres refuses the login.
        LOGIN "TW040" 40
        /// Postgres refuses a command or the stream.
        POSTGRES_REFUSED "TW041" 41
        /// Postgres cannot be reached.
        POSTGRES_UNREACHABLE "TW042" 42
        /// The server, or something in between, does not speak the protocol.
        PROTOCOL "TW043" 43
        /// No encrypted connection to Postgres that can be trusted.
        TLS "TW044" 44
        /// A change cannot be decoded, routed or encoded.
        CAPTURE "TW050" 50
        /// Rows that a table holds already cannot be copied.
        COPY "TW051" 51
        /// The reader itself is broken.
        BUG "TW059" 59
    }
}

/// Why the reader ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source's history and ours disagree.
    #[error("the reader must not go on")]
    Start(#[from] start::Stop),
    /// The server is not prepared.
    #[error("the database is not prepared:{}", list(.0))]
    Preflight(Vec<Finding>),
    /// The connection to Postgres.
    #[error("the stream from Postgres ended")]
    Stream(#[from] stream::Error),
    /// The progress record.
    #[error("the progress of the pipeline cannot be used")]
    Progress(#[from] progress::Error),
    /// Kafka.
    #[error("records cannot be written to Kafka")]
    Publish(#[from] publish::Error),
    /// Decoding, routing or encoding.
    #[error("a change cannot be turned into a record")]
    Capture(#[from] capture::Error),
    /// Copying the rows that tables hold.
    #[error("the rows that tables hold cannot be copied")]
    Snapshot(#[from] snapshot::Error),
    /// A thread or task of the reader panicked.
    #[error("a part of the reader panicked; the log has the place")]
    Panicked,
}

fn list(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("\n  {finding}")).collect()
}

impl Error {
    /// The code to look up.
    pub fn code(&self) -> &'static str {
        self.number().text
    }

    /// The exit code of the process; equal to the number in [`Self::code`].
    pub fn exit_code(&self) -> u8 {
        self.number().exit
    }

    fn number(&self) -> Code {
        match self {
            Self::Start(stop) => stop.code(),
            Self::Preflight(_) => code::PREFLIGHT,
            Self::Progress(_) => code::PROGRESS_FOREIGN,
            Self::Publish(error) => error.code(),
            Self::Capture(_) => code::CAPTURE,
            Self::Snapshot(_) => code::COPY,
            Self::Panicked => code::BUG,
            Self::Stream(error) if error.is_login() => code::LOGIN,
            Self::Stream(error) if error.is_tls() => code::TLS,
            Self::Stream(stream::Error::Refused { .. }) => code::POSTGRES_REFUSED,
            Self::Stream(stream::Error::Protocol { .. }) => code::PROTOCOL,
            Self::Stream(_) => code::POSTGRES_UNREACHABLE,
        }
    }
}

impl Classify for Error {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Stream(error) => error.class(),
            Self::Publish(error) => error.class(),
            Self::Snapshot(error) => error.class(),
            Self::Start(_)
            | Self::Preflight(_)
            | Self::Progress(_)
            | Self::Capture(_)
            | Self::Panicked => ErrorClass::Definite,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_its_own_exit_code_and_used_once() {
        let mut seen = std::collections::HashSet::new();
        for code in code::ALL {
            assert_eq!(code.text, format!("TW{:03}", code.exit));
            assert!(code.exit > 2 && code.exit < 64, "shells and sysexits use the others");
            assert!(seen.insert(code.exit));
        }
    }
}
