//! Which of several hosts.

use crate::Error;
use tailwater_config::PostgresConfig;

/// What happened at the hosts that were tried. A failure that waiting may mend leads to the next host; any other ends
/// the search, because a wrong password or certificate should be corrected and not be walked around.
#[derive(Debug, Default)]
pub struct Tried(Vec<Error>);

impl Tried {
    /// A host will not do. The error comes back if there is no use in trying the next.
    pub fn on_failure(&mut self, error: Error) -> Result<(), Error> {
        if error.is_definite() {
            return Err(error);
        }
        self.0.push(error);
        Ok(())
    }

    /// There is no next host.
    pub fn at_end(mut self, config: &PostgresConfig) -> Error {
        match self.0.len() {
            1 => self.0.remove(0),
            _ => Error::NoHost { address: config.address(), failures: self.0 },
        }
    }
}

/// Whether what a server reports of itself (`in_hot_standby`, since Postgres 14) says that it takes no writes.
pub fn is_standby(parameter: &str, value: &str) -> bool {
    parameter == "in_hot_standby" && value == "on"
}
