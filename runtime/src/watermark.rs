//! The highest issued place with nothing unfinished before it.

use std::collections::VecDeque;

/// Tracks work that is issued in order and finished in any order.
///
/// It remembers what was issued, so places need not be contiguous: control records in a Kafka partition leave
/// holes in its offsets.
///
/// ```text
///  issued:    3   4   7   9
///  finished:  x   x       x      watermark: 4
/// ```
#[derive(Clone, Debug)]
pub struct Watermark<P> {
    open: VecDeque<(P, bool)>,
    reached: Option<P>,
}

impl<P> Default for Watermark<P> {
    fn default() -> Self {
        Self { open: VecDeque::new(), reached: None }
    }
}

impl<P: Ord + Copy> Watermark<P> {
    /// Notes that work at `place` began. Places must grow; an older one is ignored and answers `false`.
    pub fn on_issued(&mut self, place: P) -> bool {
        let last = self.open.back().map(|(last, _)| *last).or(self.reached);
        let grows = last.is_none_or(|last| place > last);
        if grows {
            self.open.push_back((place, false));
        }
        grows
    }

    /// Notes that work at `place` is finished; answers the watermark if it moved.
    pub fn on_finished(&mut self, place: P) -> Option<P> {
        let at = self.open.binary_search_by(|(issued, _)| issued.cmp(&place)).ok()?;
        self.open[at].1 = true;
        let before = self.reached;
        while let Some((place, true)) = self.open.front() {
            self.reached = Some(*place);
            self.open.pop_front();
        }
        (self.reached != before).then_some(self.reached).flatten()
    }

    /// The highest place with nothing unfinished at or before it.
    pub fn reached(&self) -> Option<P> {
        self.reached
    }

    /// Whether everything issued is finished.
    pub fn is_idle(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_unfinished_place_holds_it_back() {
        let mut watermark = Watermark::default();
        for place in [3, 4, 7, 9] {
            assert!(watermark.on_issued(place));
        }
        assert_eq!(watermark.on_finished(4), None);
        assert_eq!(watermark.on_finished(9), None);
        assert_eq!(watermark.on_finished(3), Some(4));
        assert_eq!(watermark.on_finished(7), Some(9));
        assert!(watermark.is_idle());
        assert!(!watermark.on_issued(9));
    }

    proptest! {
        #[test]
        fn it_is_always_the_longest_finished_prefix(
            order in Just((0_u32..40).collect::<Vec<_>>()).prop_shuffle()
        ) {
            let mut watermark = Watermark::default();
            (0..40).for_each(|place| { watermark.on_issued(place); });
            let mut finished = std::collections::BTreeSet::new();
            for place in order {
                watermark.on_finished(place);
                finished.insert(place);
                let prefix = (0..40).take_while(|p| finished.contains(p)).last();
                prop_assert_eq!(watermark.reached(), prefix);
            }
        }
    }
}
