//! What comes and goes.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::problem::Problem;
use crate::request::{Check, currency, positive};

/// A payment to be authorized.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Authorize {
    pub(super) order_id: Uuid,
    pub(super) amount_minor: i64,
    pub(super) currency: String,
}

/// A payment as it stands.
#[derive(Debug, Serialize)]
pub(super) struct Payment {
    pub(super) id: Uuid,
    pub(super) order_id: Uuid,
    pub(super) status: String,
    pub(super) amount_minor: i64,
}

impl Check for Authorize {
    fn check(&self) -> Result<(), Problem> {
        positive("amount_minor", self.amount_minor)?;
        currency(&self.currency)
    }
}
