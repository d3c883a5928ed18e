//! Which records a query can want at all, and so which chunks need not be fetched.
//!
//! Only what certainly cannot match is left out: an unknown reach, a filter of another form, or a key that cannot be
//! told exactly, keeps the chunk. The query's own filter runs afterwards over what was read.

use std::ops::RangeInclusive;

use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Operator};
use tailwater_sinks_archive::manifest::Extent;

use crate::archive::Segment;

type Span = RangeInclusive<i64>;

/// Makes the key of the row whose columns have these values, when they tell it exactly.
type KeyOf<'a> = &'a dyn Fn(&[(&str, &ScalarValue)]) -> Option<Vec<u8>>;

const ALL: Span = i64::MIN..=i64::MAX;

/// Ranges that a wanted record lies in, ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) offset: Span,
    pub(crate) partition: Span,
    pub(crate) timestamp_ms: Span,
    pub(crate) commit_lsn: Span,
    pub(crate) commit_ts_us: Span,
    pub(crate) tw_seq: Span,
    /// Keys as Kafka has them; `None` for any.
    pub(crate) keys: Option<Vec<Vec<u8>>>,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            offset: ALL,
            partition: ALL,
            timestamp_ms: ALL,
            commit_lsn: ALL,
            commit_ts_us: ALL,
            tw_seq: ALL,
            keys: None,
        }
    }
}

/// The columns by which chunks are left out.
pub(crate) const COLUMNS: [&str; 8] = [
    "kafka_offset",
    "kafka_partition",
    "kafka_ts_ms",
    "commit_lsn",
    "commit_ts_us",
    "commit_ts",
    "tw_seq",
    "kafka_key",
];

impl Wanted {
    /// What conditions that hold all together leave.
    pub(crate) fn of(filters: &[Expr], row_key: KeyOf<'_>) -> Self {
        let mut wanted = Self::default();
        let mut equal = Vec::new();
        for filter in filters {
            for part in datafusion::logical_expr::utils::split_conjunction(filter) {
                wanted.narrow(part, &mut equal);
            }
        }
        if let Some(key) = row_key(&equal) {
            wanted.narrow_keys(vec![key]);
        }
        wanted
    }

    fn narrow<'e>(&mut self, filter: &'e Expr, equal: &mut Vec<(&'e str, &'e ScalarValue)>) {
        match filter {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                let (column, op, value) = match (column(left), literal(right)) {
                    (Some(column), Some(value)) => (column, *op, value),
                    _ => match (column_and_swapped(right, *op), literal(left)) {
                        (Some((column, op)), Some(value)) => (column, op, value),
                        _ => return,
                    },
                };
                if op == Operator::Eq {
                    equal.push((column, value));
                }
                self.compare(column, op, value);
            }
            Expr::Between(Between { expr, negated: false, low, high }) => {
                if let (Some(column), Some(low), Some(high)) =
                    (column(expr), literal(low), literal(high))
                {
                    self.compare(column, Operator::GtEq, low);
                    self.compare(column, Operator::LtEq, high);
                }
            }
            Expr::InList(InList { expr, list, negated: false }) => {
                let values: Option<Vec<&ScalarValue>> = list.iter().map(literal).collect();
                let (Some(column), Some(values)) = (column(expr), values) else { return };
                if column == "kafka_key" {
                    let keys: Option<Vec<_>> = values.into_iter().map(text).collect();
                    if let Some(keys) = keys {
                        self.narrow_keys(keys.into_iter().flat_map(keys_of).collect());
                    }
                } else if let Some(numbers) = values
                    .into_iter()
                    .map(|value| number(column, value))
                    .collect::<Option<Vec<_>>>()
                {
                    let low = numbers.iter().min().copied().unwrap_or(i64::MAX);
                    let high = numbers.iter().max().copied().unwrap_or(i64::MIN);
                    self.meet(column, low..=high);
                }
            }
            _ => {}
        }
    }

    fn compare(&mut self, column: &str, op: Operator, value: &ScalarValue) {
        if column == "kafka_key" {
            if let (Operator::Eq, Some(key)) = (op, text(value)) {
                self.narrow_keys(keys_of(key));
            }
            return;
        }
        let Some(value) = number(column, value) else { return };
        let span = match op {
            Operator::Eq => value..=value,
            Operator::Gt if column == "commit_ts" => value..=i64::MAX,
            Operator::Gt => value.saturating_add(1)..=i64::MAX,
            Operator::GtEq => value..=i64::MAX,
            Operator::Lt => i64::MIN..=value.saturating_sub(1),
            Operator::LtEq => i64::MIN..=value,
            _ => return,
        };
        self.meet(column, span);
    }

    fn meet(&mut self, column: &str, with: Span) {
        let span = match column {
            "kafka_offset" => &mut self.offset,
            "kafka_partition" => &mut self.partition,
            "kafka_ts_ms" => &mut self.timestamp_ms,
            "commit_lsn" => &mut self.commit_lsn,
            "commit_ts_us" | "commit_ts" => &mut self.commit_ts_us,
            "tw_seq" => &mut self.tw_seq,
            _ => return,
        };
        *span = *span.start().max(with.start())..=*span.end().min(with.end());
    }

    pub(crate) fn narrow_keys(&mut self, keys: Vec<Vec<u8>>) {
        match &mut self.keys {
            Some(wanted) => wanted.retain(|key| keys.contains(key)),
            none => *none = Some(keys),
        }
    }

    /// Why nothing of a segment is wanted, as a place in [`crate::stats::Stats::REASONS`].
    pub(crate) fn excludes_segment(&self, segment: &Segment) -> Option<usize> {
        let partition = i64::from(segment.partition);
        if !self.partition.contains(&partition) {
            return Some(1);
        }
        self.excludes(&segment.extent)
    }

    /// Why nothing that reaches so far is wanted.
    pub(crate) fn excludes(&self, extent: &Extent) -> Option<usize> {
        let signed = |range: Option<(u64, u64)>| {
            let (low, high) = range?;
            Some((i64::try_from(low).ok()?, i64::try_from(high).unwrap_or(i64::MAX)))
        };
        // A reach that is not known because no record says: a comparison with nothing is never true.
        let out = |wanted: &Span, reach: Option<(i64, i64)>| {
            *wanted != ALL
                && reach.is_none_or(|(low, high)| high < *wanted.start() || low > *wanted.end())
        };
        [
            (0, out(&self.offset, extent.offset)),
            (2, out(&self.timestamp_ms, extent.kafka_ts_ms)),
            (3, out(&self.commit_lsn, signed(extent.commit_lsn))),
            (4, out(&self.commit_ts_us, extent.commit_ts_us)),
            (5, out(&self.tw_seq, signed(extent.tw_seq))),
        ]
        .into_iter()
        .find(|(_, out)| *out)
        .map(|(reason, _)| reason)
    }
}

/// What may stand in Kafka for the text of a key: the text itself, whether it is JSON or not.
fn keys_of(text: String) -> Vec<Vec<u8>> {
    vec![text.into_bytes()]
}

fn column(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Column(Column { name, .. }) => Some(name),
        _ => None,
    }
}

fn column_and_swapped(expr: &Expr, op: Operator) -> Option<(&str, Operator)> {
    Some((column(expr)?, op.swap()?))
}

fn literal(expr: &Expr) -> Option<&ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value),
        _ => None,
    }
}

/// The text of a literal.
pub(crate) fn text(value: &ScalarValue) -> Option<String> {
    value.try_as_str().flatten().map(str::to_owned)
}

/// A literal on the scale of a column.
fn number(column: &str, value: &ScalarValue) -> Option<i64> {
    let whole = match value {
        ScalarValue::Int8(value) => value.map(i64::from),
        ScalarValue::Int16(value) => value.map(i64::from),
        ScalarValue::Int32(value) => value.map(i64::from),
        ScalarValue::Int64(value) => *value,
        ScalarValue::UInt8(value) => value.map(i64::from),
        ScalarValue::UInt16(value) => value.map(i64::from),
        ScalarValue::UInt32(value) => value.map(i64::from),
        ScalarValue::UInt64(value) => value.and_then(|value| i64::try_from(value).ok()),
        _ => None,
    };
    if column != "commit_ts" {
        return whole;
    }
    match value {
        ScalarValue::TimestampSecond(value, _) => {
            value.and_then(|value| value.checked_mul(1_000_000))
        }
        ScalarValue::TimestampMillisecond(value, _) => {
            value.and_then(|value| value.checked_mul(1_000))
        }
        ScalarValue::TimestampMicrosecond(value, _) => *value,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{col, lit};

    use super::*;

    fn of(filters: &[Expr]) -> Wanted {
        Wanted::of(filters, &|_| None)
    }

    #[test]
    fn conditions_that_hold_together_narrow_and_others_do_not() {
        let wanted = of(&[
            col("commit_lsn").gt(lit(5_i64)).and(lit(9_i64).gt_eq(col("commit_lsn"))),
            col("kafka_offset").between(lit(3_i64), lit(7_i64)),
            col("tw_seq").in_list(vec![lit(4_i64), lit(2_i64)], false),
            col("kafka_ts_ms").gt(lit(1_i64)).or(col("kafka_ts_ms").lt(lit(0_i64))),
        ]);
        let expected =
            Wanted { commit_lsn: 6..=9, offset: 3..=7, tw_seq: 2..=4, ..Wanted::default() };
        assert_eq!(wanted, expected);
    }

    #[test]
    fn keys_narrow_by_equality_only() {
        let wanted = of(&[
            col("kafka_key").eq(lit("a")),
            col("kafka_key").in_list(vec![lit("a"), lit("b")], false),
        ]);
        assert_eq!(wanted.keys, Some(vec![b"a".to_vec()]));
        assert_eq!(of(&[col("kafka_key").gt(lit("a"))]).keys, None);
    }

    #[test]
    fn what_reaches_beside_the_range_or_nowhere_is_left_out() {
        let wanted = of(&[col("commit_lsn").gt_eq(lit(5_i64))]);
        let reach = |range| Extent { records: 1, commit_lsn: range, ..Extent::default() };
        assert_eq!(wanted.excludes(&reach(Some((1, 4)))), Some(3));
        assert_eq!(wanted.excludes(&reach(Some((1, 5)))), None);
        assert_eq!(wanted.excludes(&reach(None)), Some(3));
        assert_eq!(Wanted::default().excludes(&reach(None)), None);
    }
}
