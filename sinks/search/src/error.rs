use tailwater_config::NoWord;
use tailwater_runtime::{Classify, ErrorClass};
use tailwater_sinks_keys::CredentialsError;
use tailwater_sinks_worker::{SinkError, TopicPartition};

use crate::bulk::BadReply;

/// What can go wrong between us and the cluster.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configured address is none.
    #[error("`{url}` is not an address of OpenSearch: {problem}")]
    Address {
        /// As configured.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The HTTP client cannot be made.
    #[error("could not prepare the HTTP client")]
    Prepare(#[source] reqwest::Error),
    /// No answer: connection refused, lost, or too slow.
    #[error("OpenSearch at {address} did not answer `{request}`")]
    Unreachable {
        /// Scheme, host and port.
        address: String,
        /// Method and path.
        request: String,
        /// What the client saw.
        source: reqwest::Error,
    },
    /// It has too much to do.
    #[error("OpenSearch at {address} is too busy: {reason}")]
    Busy {
        /// Scheme, host and port.
        address: String,
        /// Its words.
        reason: String,
    },
    /// Writes are blocked, as when a disk is nearly full.
    #[error(
        "OpenSearch at {address} takes no writes to `{alias}` now (is a disk full, or the index closed \
         or set read-only?): {reason}"
    )]
    Blocked {
        /// Scheme, host and port.
        address: String,
        /// The alias written to.
        alias: String,
        /// Its words.
        reason: String,
    },
    /// The answer to a bulk request answers something else.
    #[error("OpenSearch at {address} gave a strange answer")]
    BadReply {
        /// Scheme, host and port.
        address: String,
        /// What is strange.
        source: BadReply,
    },
    /// Credentials or rights are missing.
    #[error(
        "OpenSearch at {address} does not let us in (status {status}): {reason}; check {advice}"
    )]
    Denied {
        /// Scheme, host and port.
        address: String,
        /// HTTP status.
        status: u16,
        /// Its words.
        reason: String,
        /// What to look at.
        advice: &'static str,
    },
    /// It does not take a password or keys, and they may be others soon.
    #[error(
        "OpenSearch at {address} does not take {what}: {reason}; where they stand is read again"
    )]
    Stale {
        /// Scheme, host and port.
        address: String,
        /// The password, or the keys.
        what: &'static str,
        /// Its words.
        reason: String,
    },
    /// Its clock and ours differ, so that no signature holds.
    #[error(
        "OpenSearch at {address} takes the clock of this machine to be wrong, and so no signature: {reason}; \
         set the clock, with NTP"
    )]
    Clock {
        /// Scheme, host and port.
        address: String,
        /// Its words.
        reason: String,
    },
    /// The password's file is not there now.
    #[error("the password for OpenSearch cannot be read")]
    Password(#[source] NoWord),
    /// The keys cannot be read now.
    #[error("the keys for OpenSearch cannot be read")]
    Keys(#[source] CredentialsError),
    /// Nobody gave any.
    #[error(
        "there are no keys to sign requests to OpenSearch with, neither `opensearch.access_key` and \
         `opensearch.secret_key` in the configuration nor any in the environment"
    )]
    NoKeys,
    /// A signature cannot be made of what the keys are.
    #[error("a request to OpenSearch cannot be signed with these keys: {0}")]
    Unsigned(String),
    /// It answered with something we have no rule for.
    #[error("OpenSearch at {address} answered `{request}` with status {status}: {reason}")]
    Unexpected {
        /// Scheme, host and port.
        address: String,
        /// Method and path.
        request: String,
        /// HTTP status.
        status: u16,
        /// Its words.
        reason: String,
    },
    /// The alias is gone or cannot be written through.
    #[error(
        "there is no index to write to behind the alias `{alias}` at {address}: {reason}; point the alias \
         back at its index, or fill the one there is now with `tailwater sinks rebuild NAME`"
    )]
    NoIndex {
        /// Scheme, host and port.
        address: String,
        /// The alias written to.
        alias: String,
        /// What is there instead.
        reason: String,
    },
    /// The index belongs to somebody else or was made from another declaration.
    #[error(
        "the index `{index}` behind `{alias}` is not the declared one: {difference}; change the \
         declaration back, use another alias, or let `tailwater sinks rebuild NAME -f DIR` make the declared one"
    )]
    OtherIndex {
        /// The alias.
        alias: String,
        /// The index found.
        index: String,
        /// In what it differs.
        difference: String,
    },
    /// The index was filled from another topic of the same name.
    #[error(
        "the index `{index}` behind `{alias}` was filled from another topic: {difference}; deletions between the \
         two are in neither, so nothing was written: let `tailwater sinks rebuild NAME` fill a new index"
    )]
    OtherSource {
        /// The alias.
        alias: String,
        /// The index found.
        index: String,
        /// Which topic filled it, and which there is.
        difference: String,
    },
    /// The declared mapping is not an index body.
    #[error("the mapping of `{alias}` cannot be used: {problem}")]
    Mapping {
        /// The alias.
        alias: String,
        /// What is wrong with it.
        problem: String,
    },
    /// So many documents were refused that the mapping must be wrong, not the documents.
    #[error(
        "`{alias}` refused {refused} of {answered} documents, the last with: {reason}; the mapping does \
         not fit the table, so nothing was set aside"
    )]
    Storm {
        /// The alias.
        alias: String,
        /// Documents refused.
        refused: usize,
        /// Documents answered.
        answered: usize,
        /// Why the last one was.
        reason: String,
    },
    /// The table was truncated.
    #[error(
        "the table behind `{partition}` was truncated at offset {offset}, which search sinks do not \
         support yet; delete the documents of `{alias}`, then commit offset {after} for the sink's \
         consumer group"
    )]
    Truncated {
        /// Where the truncation was read.
        partition: TopicPartition,
        /// Its offset.
        offset: i64,
        /// The offset behind it.
        after: i64,
        /// The alias whose documents are to go.
        alias: String,
    },
}

impl Classify for Error {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Unreachable { .. }
            | Self::Busy { .. }
            | Self::Blocked { .. }
            | Self::Stale { .. }
            | Self::Clock { .. }
            | Self::Password(_)
            | Self::Keys(_)
            | Self::BadReply { .. } => ErrorClass::Transient,
            Self::Address { .. }
            | Self::Prepare(_)
            | Self::Denied { .. }
            | Self::NoKeys
            | Self::Unsigned(_)
            | Self::Unexpected { .. }
            | Self::NoIndex { .. }
            | Self::OtherIndex { .. }
            | Self::OtherSource { .. }
            | Self::Mapping { .. }
            | Self::Storm { .. }
            | Self::Truncated { .. } => ErrorClass::Definite,
        }
    }
}

impl From<Error> for SinkError {
    fn from(error: Error) -> Self {
        match error.class() {
            ErrorClass::Transient => Self::transient(error),
            ErrorClass::Definite | ErrorClass::Poison => Self::definite(error),
        }
    }
}
