use s3s::dto::ETagCondition;
use s3s::{S3Result, s3_error};

/// What must be true of a key for a write to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Nothing.
    Always,
    /// There is no object.
    Absent,
    /// There is one, whichever.
    Present,
    /// There is one with this ETag.
    Matches(String),
}

impl Condition {
    /// Reads the two request headers as S3 defines them for writes.
    pub(crate) fn of_write(
        if_match: Option<&ETagCondition>,
        if_none_match: Option<&ETagCondition>,
    ) -> S3Result<Self> {
        match (if_match, if_none_match) {
            (None, None) => Ok(Self::Always),
            (None, Some(ETagCondition::Any)) => Ok(Self::Absent),
            (Some(ETagCondition::Any), None) => Ok(Self::Present),
            (Some(ETagCondition::ETag(etag)), None) => Ok(Self::Matches(etag.value().to_owned())),
            (None, Some(_)) => {
                Err(s3_error!(NotImplemented, "If-None-Match on a write can only be `*`"))
            }
            (Some(_), Some(_)) => {
                Err(s3_error!(NotImplemented, "If-Match together with If-None-Match"))
            }
        }
    }

    /// Whether a write over an object with this ETag, or over nothing, may happen.
    pub(crate) fn check(&self, current: Option<&str>) -> S3Result<()> {
        match (self, current) {
            (Self::Always, _) | (Self::Absent, None) | (Self::Present, Some(_)) => Ok(()),
            (Self::Matches(etag), Some(current)) if etag == current => Ok(()),
            (Self::Present | Self::Matches(_), None) => Err(s3_error!(NoSuchKey)),
            (Self::Absent | Self::Matches(_), Some(_)) => Err(Self::failed()),
        }
    }

    /// The answer to the one who lost.
    pub(crate) fn failed() -> s3s::S3Error {
        s3_error!(
            PreconditionFailed,
            "At least one of the pre-conditions you specified did not hold"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_table_of_write_conditions() {
        let matches = Condition::Matches("x".into());
        for (condition, nothing, x, y) in [
            (Condition::Always, true, true, true),
            (Condition::Absent, true, false, false),
            (Condition::Present, false, true, true),
            (matches, false, true, false),
        ] {
            assert_eq!(condition.check(None).is_ok(), nothing, "{condition:?}");
            assert_eq!(condition.check(Some("x")).is_ok(), x, "{condition:?}");
            assert_eq!(condition.check(Some("y")).is_ok(), y, "{condition:?}");
        }
    }
}
