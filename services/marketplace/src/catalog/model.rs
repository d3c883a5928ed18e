//! What comes and goes.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::problem::Problem;
use crate::request::{Check, currency, positive, text};

/// Longest description, in characters.
const DESCRIPTION_MAX: usize = 100_000;

/// Most tags.
const TAGS_MAX: usize = 100;

/// A product to be put on sale.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewProduct {
    pub(super) sku: String,
    pub(super) title: String,
    #[serde(default)]
    pub(super) description: String,
    pub(super) brand: Option<String>,
    #[serde(default)]
    pub(super) tags: Vec<String>,
    #[serde(default = "empty")]
    pub(super) attributes: serde_json::Value,
    pub(super) price: Price,
}

/// What may change in a product; absent parts stay.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProductChange {
    pub(super) title: Option<String>,
    pub(super) description: Option<String>,
}

/// A price in minor units.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Price {
    pub(super) amount_minor: i64,
    pub(super) currency: String,
}

/// The id of what was made.
#[derive(Debug, Serialize)]
pub(super) struct Created {
    pub(super) id: Uuid,
}

fn empty() -> serde_json::Value {
    serde_json::json!({})
}

impl Check for NewProduct {
    fn check(&self) -> Result<(), Problem> {
        text("sku", &self.sku, 100)?;
        text("title", &self.title, 500)?;
        if !self.description.is_empty() {
            text("description", &self.description, DESCRIPTION_MAX)?;
        }
        if let Some(brand) = &self.brand {
            text("brand", brand, 200)?;
        }
        if self.tags.len() > TAGS_MAX {
            return Err(Problem::invalid("tags", format!("at most {TAGS_MAX} are allowed")));
        }
        self.tags.iter().try_for_each(|tag| text("tags", tag, 100))?;
        if !self.attributes.is_object() {
            return Err(Problem::invalid("attributes", "must be an object"));
        }
        self.price.check()
    }
}

impl Check for ProductChange {
    fn check(&self) -> Result<(), Problem> {
        if let Some(title) = &self.title {
            text("title", title, 500)?;
        }
        match &self.description {
            Some(description) => text("description", description, DESCRIPTION_MAX),
            None => Ok(()),
        }
    }
}

impl Check for Price {
    fn check(&self) -> Result<(), Problem> {
        positive("amount_minor", self.amount_minor)?;
        currency(&self.currency)
    }
}
