//! Why a catalog cannot work.

use std::fmt;

use tailwater_document::Place;

/// Something declared that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// Where it was declared.
    pub place: Option<Place>,
    /// What is concerned, such as ``topic `inventory.cdc` ``.
    pub subject: String,
    /// What is wrong.
    pub problem: String,
    /// What mends it, where that is one statement.
    pub remedy: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{}: {}", self.subject, self.problem)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; mend it with: {remedy}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refusal {}
