//! What comes and goes.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::problem::Problem;
use crate::request::{Check, positive};

/// Goods that arrived.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Receipt {
    pub(super) product_id: Uuid,
    pub(super) warehouse_id: i16,
    pub(super) quantity: i32,
}

/// A correction after counting, up or down.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Adjustment {
    pub(super) product_id: Uuid,
    pub(super) warehouse_id: i16,
    pub(super) delta: i32,
}

/// What one warehouse holds.
#[derive(Debug, Serialize)]
pub(super) struct Stock {
    pub(super) warehouse_id: i16,
    pub(super) on_hand: i32,
    pub(super) reserved: i32,
}

impl Check for Receipt {
    fn check(&self) -> Result<(), Problem> {
        positive("quantity", self.quantity.into())
    }
}

impl Check for Adjustment {
    fn check(&self) -> Result<(), Problem> {
        if self.delta == 0 { Err(Problem::invalid("delta", "must not be zero")) } else { Ok(()) }
    }
}
