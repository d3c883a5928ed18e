//! One file per subcommand.

pub(crate) mod init;
pub(crate) mod apply;
pub(crate) mod topics;
pub(crate) mod sinks;
pub(crate) mod rebuild;
pub(crate) mod gap;
pub(crate) mod estimate;
pub(crate) mod cdc;
pub(crate) mod reader_status;
pub(crate) mod reread;
pub(crate) mod repair;
pub(crate) mod status;
pub(crate) mod wait;
pub(crate) mod check;
pub(crate) mod dlq;
pub(crate) mod archive;
pub(crate) mod lake;
pub(crate) mod explain;
pub(crate) mod reference;
pub(crate) mod completions;
