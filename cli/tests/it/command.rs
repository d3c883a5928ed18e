//! Running the binary.

use std::path::Path;
use std::process::{Command, Output};

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The binary in `folder`, with nothing of the caller's environment that it reads.
pub(crate) fn tailwater(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
    command.current_dir(folder).args(arguments);
    command.env_remove("TAILWATER_CONFIG").env_remove("TAILWATER_LOG");
    command
}

pub(crate) fn run(folder: &Path, arguments: &[&str]) -> Ran {
    ran(tailwater(folder, arguments).output().expect("the binary starts"))
}

pub(crate) fn ran(output: Output) -> Ran {
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Ran {
    /// Standard output of a run that must have succeeded.
    pub(crate) fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.stdout
    }
}
