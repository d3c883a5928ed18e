//! What comes and goes.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::problem::Problem;
use crate::request::{Check, currency, positive, text};

/// Lines one order may have.
const ITEMS_MAX: usize = 1000;

/// An order to be placed.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewOrder {
    pub(super) customer_id: Uuid,
    pub(super) currency: String,
    pub(super) items: Vec<Item>,
}

/// One line of an order.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Item {
    pub(super) product_id: Uuid,
    pub(super) sku: String,
    pub(super) title: String,
    pub(super) quantity: i32,
    pub(super) unit_price_minor: i64,
}

/// An order as it stands.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the number's name on the wire")]
pub(super) struct Order {
    pub(super) id: Uuid,
    pub(super) order_no: i64,
    pub(super) status: String,
    pub(super) total_minor: i64,
    pub(super) currency: String,
}

impl NewOrder {
    /// The sum of all lines; `None` when it is beyond what money can be.
    pub(super) fn total_minor(&self) -> Option<i64> {
        self.items.iter().try_fold(0_i64, |sum, item| {
            sum.checked_add(item.unit_price_minor.checked_mul(item.quantity.into())?)
        })
    }
}

impl Check for NewOrder {
    fn check(&self) -> Result<(), Problem> {
        currency(&self.currency)?;
        if !(1..=ITEMS_MAX).contains(&self.items.len()) {
            return Err(Problem::invalid("items", format!("1 to {ITEMS_MAX} are allowed")));
        }
        for item in &self.items {
            text("items.sku", &item.sku, 100)?;
            text("items.title", &item.title, 500)?;
            positive("items.quantity", item.quantity.into())?;
            positive("items.unit_price_minor", item.unit_price_minor)?;
        }
        match self.total_minor() {
            Some(_) => Ok(()),
            None => Err(Problem::invalid("items", "the total is too large")),
        }
    }
}
