//! Which numbers of the pipeline are there. They are dense, so a hole is a loss wherever the archive holds every topic.

use std::collections::BTreeMap;

use tailwater_topics_contract::Seq;

use super::{Finding, Report};

/// Missing numbers that are listed.
const LISTED: usize = 5;
/// Numbers are `epoch * 2^44 + n`.
const EPOCH: u64 = 1 << 44;
/// More numbers than this between the lowest and another are no numbers of one archive.
const SPAN_MAX: u64 = 1 << 36;

/// Which numbers of the pipeline were met: one bit each, by epoch.
#[derive(Default)]
pub(super) struct Numbers {
    epochs: BTreeMap<u64, Epoch>,
}

#[derive(Default)]
struct Epoch {
    base: u64,
    bits: Vec<u64>,
    met: u64,
    top: u64,
}

impl Numbers {
    /// Learns the lowest number of an object before any is taken.
    pub(super) fn expect(&mut self, low: u64) {
        let epoch = self.epochs.entry(low / EPOCH);
        let epoch = epoch.or_insert(Epoch { base: low, ..Epoch::default() });
        if low < epoch.base {
            let words = (epoch.base - low).div_ceil(64);
            if words < SPAN_MAX / 64 {
                epoch.base -= (words * 64).min(epoch.base);
                let moved = words as usize;
                epoch
                    .bits
                    .splice(0..0, std::iter::repeat_n(0, if epoch.met > 0 { moved } else { 0 }));
            }
        }
    }

    /// Answers whether it is new.
    pub(super) fn take(&mut self, seq: u64) -> bool {
        let epoch =
            self.epochs.entry(seq / EPOCH).or_insert(Epoch { base: seq, ..Epoch::default() });
        let Some(place) = seq.checked_sub(epoch.base).filter(|place| *place < SPAN_MAX) else {
            return false;
        };
        let (word, bit) = ((place / 64) as usize, 1_u64 << (place % 64));
        if epoch.bits.len() <= word {
            epoch.bits.resize(word + 1, 0);
        }
        let is_new = epoch.bits[word] & bit == 0;
        epoch.bits[word] |= bit;
        epoch.met += u64::from(is_new);
        epoch.top = epoch.top.max(seq);
        is_new
    }

    pub(super) fn judge(&self, whole: bool, report: &mut Report) {
        for epoch in self.epochs.values().filter(|epoch| epoch.met > 0) {
            let mut missing = Vec::new();
            let mut lowest = None;
            let mut holes = 0_u64;
            for seq in epoch.base..=epoch.top {
                let place = seq - epoch.base;
                let is_met = epoch.bits[(place / 64) as usize] & (1 << (place % 64)) != 0;
                if is_met {
                    lowest.get_or_insert(seq);
                } else if lowest.is_some() {
                    holes += 1;
                    if missing.len() < LISTED {
                        missing.push(shown(seq));
                    }
                }
            }
            let first = lowest.unwrap_or(epoch.base);
            let begins_late = whole && first % EPOCH > 1;
            let note = format!(
                "{} of {} numbers of the pipeline are there, from {} to {}",
                epoch.met,
                epoch.top - first + 1,
                shown(first),
                shown(epoch.top)
            );
            if whole && (holes > 0 || begins_late) {
                let mut parts = vec![note];
                if holes > 0 {
                    let more = if holes > missing.len() as u64 { " and more" } else { "" };
                    parts.push(format!("missing are {}{more}", missing.join(", ")));
                }
                if begins_late {
                    parts.push("those before the first are missing".to_owned());
                }
                let what = parts.join("; ");
                report.findings.push(Finding {
                    subject: "the pipeline".to_owned(),
                    level: 2,
                    what,
                });
            } else {
                report.notes.push(note);
            }
        }
    }
}

/// A number as epoch and count.
pub(super) fn shown(seq: u64) -> String {
    Seq::from_stored(seq)
        .map_or_else(|| seq.to_string(), |seq| format!("{}.{}", seq.epoch(), seq.n()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(seqs: &[u64], whole: bool) -> Report {
        let mut numbers = Numbers::default();
        numbers.expect(EPOCH + *seqs.iter().min().expect("some"));
        for seq in seqs {
            assert!(numbers.take(EPOCH + seq));
        }
        let mut report = Report::default();
        numbers.judge(whole, &mut report);
        report
    }

    #[test]
    fn missing_numbers_are_a_finding_only_where_none_may_be_missing() {
        assert_eq!(judged(&[1, 2, 3], true).findings, []);
        let report = judged(&[1, 2, 70, 4], true);
        assert!(report.findings[0].what.contains("4 of 70"), "{report:?}");
        assert!(report.findings[0].what.contains("1.3, 1.5"), "{report:?}");
        assert_eq!(judged(&[1, 4], false).findings, []);
        assert!(judged(&[5, 6], true).findings[0].what.contains("before the first"));
    }

    #[test]
    fn a_number_is_taken_once() {
        let mut numbers = Numbers::default();
        numbers.expect(EPOCH + 200);
        numbers.expect(EPOCH + 3);
        assert!(numbers.take(EPOCH + 200));
        assert!(numbers.take(EPOCH + 3));
        assert!(!numbers.take(EPOCH + 200));
        assert!(numbers.take(2 * EPOCH + 200));
    }
}
