//! Tables in pieces that several workers can read at once.

use std::ops::Range as Pages;

/// Pieces for each worker, so that one slow piece at the end does not leave the others idle.
const PER_WORKER: u64 = 4;

/// Least and most bytes of a piece: below, the round trips would show; above, progress would move in jumps.
const PIECE_BYTES: (u64, u64) = (8 << 20, 256 << 20);

/// What of a table holds rows: the table itself, or one of its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// Its place in the order's tables.
    pub(crate) table: usize,
    /// Its oid.
    pub(crate) oid: u32,
    /// Its name as SQL takes it.
    pub(crate) quoted: String,
    /// Which file it was when the snapshot was taken; another one means that it was rewritten or truncated since.
    pub(crate) filenode: u32,
    /// Pages of the table itself.
    pub(crate) pages: u64,
    /// Bytes with what is stored out of line.
    pub(crate) bytes: u64,
    /// Whether rows can be found by their page.
    pub(crate) is_heap: bool,
}

/// One piece of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// Where.
    pub(crate) leaf: Leaf,
    /// First page and the one after the last. `None`: everything. An end of `u64::MAX` is open: the table may have
    /// grown since it was measured.
    pub(crate) pages: Option<Pages<u64>>,
    /// Its share of the bytes.
    pub(crate) bytes: u64,
}

/// Splits everything, small tables first, so that a crash finds as many tables finished as can be.
pub(crate) fn split(mut leaves: Vec<Leaf>, workers: usize) -> Vec<Range> {
    let total: u64 = leaves.iter().map(|leaf| leaf.bytes).sum();
    let piece = (total / (PER_WORKER * workers.max(1) as u64)).clamp(PIECE_BYTES.0, PIECE_BYTES.1);
    let mut table_bytes = std::collections::BTreeMap::<usize, u64>::new();
    for leaf in &leaves {
        *table_bytes.entry(leaf.table).or_default() += leaf.bytes;
    }
    leaves.sort_by_key(|leaf| (table_bytes[&leaf.table], leaf.table, leaf.oid));
    leaves.into_iter().flat_map(|leaf| pieces(leaf, piece)).collect()
}

fn pieces(leaf: Leaf, piece: u64) -> Vec<Range> {
    let count = leaf.bytes.div_ceil(piece).min(leaf.pages).max(1);
    if count == 1 || !leaf.is_heap {
        let bytes = leaf.bytes;
        return vec![Range { leaf, pages: None, bytes }];
    }
    let cut = |at: u64| leaf.pages * at / count;
    let share = |at: u64| leaf.bytes * (at + 1) / count - leaf.bytes * at / count;
    let range = |at: u64| {
        let end = if at + 1 == count { u64::MAX } else { cut(at + 1) };
        Range { leaf: leaf.clone(), pages: Some(cut(at)..end), bytes: share(at) }
    };
    (0..count).map(range).collect()
}

impl Range {
    /// The statement that reads it. `columns` are quoted, `filter` is the publication's row filter.
    pub(crate) fn sql(&self, columns: &str, filter: Option<&str>) -> String {
        let mut conditions = Vec::new();
        if let Some(pages) = &self.pages {
            conditions.push(format!("ctid >= '({},0)'::pg_catalog.tid", pages.start));
            if pages.end != u64::MAX {
                conditions.push(format!("ctid < '({},0)'::pg_catalog.tid", pages.end));
            }
        }
        conditions.extend(filter.map(|filter| format!("({filter})")));
        let condition = if conditions.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", conditions.join(" AND "))
        };
        format!("COPY (SELECT {columns} FROM ONLY {}{condition}) TO STDOUT", self.leaf.quoted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaf(table: usize, pages: u64, bytes: u64) -> Leaf {
        let quoted = format!("\"s\".\"t{table}\"");
        Leaf { table, oid: 1, quoted, filenode: 1, pages, bytes, is_heap: true }
    }

    #[test]
    fn a_small_table_is_one_piece_without_pages() {
        for pages in [0, 1, 100] {
            let ranges = split(vec![leaf(0, pages, pages * 8192)], 4);
            assert_eq!(ranges.len(), 1);
            assert_eq!(
                ranges[0].sql("\"a\"", None),
                "COPY (SELECT \"a\" FROM ONLY \"s\".\"t0\") TO STDOUT"
            );
        }
    }

    #[test]
    fn a_large_table_has_four_pieces_for_each_worker_and_an_open_end() {
        let ranges = split(vec![leaf(0, 64 << 10, 512 << 20)], 2);
        assert_eq!(ranges.len(), 8);
        assert_eq!(
            ranges[7].sql("\"a\"", Some("id > 3")),
            "COPY (SELECT \"a\" FROM ONLY \"s\".\"t0\" WHERE ctid >= '(57344,0)'::pg_catalog.tid AND (id > 3)) TO STDOUT"
        );
        let other = Leaf { is_heap: false, ..leaf(0, 64 << 10, 512 << 20) };
        assert_eq!(split(vec![other], 2).len(), 1, "no pages to go by");
    }

    #[test]
    fn wide_rows_make_short_ranges() {
        // A page of rows with a hundred megabytes out of line.
        let ranges = split(vec![leaf(0, 10, 1000 << 20)], 1);
        assert_eq!(ranges.len(), 4);
        assert!(ranges.iter().all(|range| range.bytes <= 256 << 20));
    }

    #[test]
    fn small_tables_come_first() {
        let ranges = split(vec![leaf(0, 9000, 90 << 20), leaf(1, 1, 8192)], 2);
        assert_eq!(ranges[0].leaf.table, 1);
    }

    proptest! {
        #[test]
        fn every_page_is_in_exactly_one_piece(
            pages in 0_u64..1_000_000, per_page in 0_u64..2_000_000, workers in 1_usize..16,
        ) {
            let ranges = split(vec![leaf(0, pages, pages * per_page)], workers);
            let mut next = 0;
            for range in &ranges {
                if let Some(pages) = &range.pages {
                    prop_assert_eq!(pages.start, next);
                    prop_assert!(pages.end > pages.start);
                    next = pages.end;
                }
            }
            prop_assert!(ranges.len() == 1 || next == u64::MAX);
            prop_assert_eq!(ranges.iter().map(|range| range.bytes).sum::<u64>(), pages * per_page);
        }
    }
}
