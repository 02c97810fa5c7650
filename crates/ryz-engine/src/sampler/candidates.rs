//! The tokens still in the race, and the scratch that the samplers share.
//!
//! Order matters for reproducibility: candidates stand in id order until a sampler sorts a leading run by falling
//! logit (equal logits by rising id) and cuts the rest away. Both orders are defined by the values alone, so sums and
//! draws over them never depend on how a sort or a selection is implemented.

use crate::error::EngineError;
use crate::math::exp;

/// A token and its logit so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Vocabulary id.
    pub id: u32,
    /// The logit after the samplers that have run; never NaN or +infinity.
    pub logit: f32,
}

/// Candidates and scratch, allocated once for a vocabulary and shared by all sequences of an engine.
#[derive(Debug, Default)]
pub struct Candidates {
    pub(super) items: Vec<Candidate>,
    /// What is to be added to a logit to have the model's scale: temperature measures from the largest.
    pub(super) base: f64,
    /// Length of the leading run that is sorted, and above everything after it.
    sorted: usize,
    /// The items are in id order.
    by_id: bool,
    pub(super) weights: Vec<f64>,
    pub(super) keys: Vec<(f64, Candidate)>,
    pub(super) tokens: Vec<u32>,
    pub(super) z: Vec<usize>,
    pub(super) runs: Vec<(u32, usize)>,
    /// The greatest logit of each [`STRETCH`] of the vocabulary, and their order.
    greatest: Vec<f32>,
    ordered: Vec<f32>,
}

/// Logits of which the greatest is looked at first.
const STRETCH: usize = 64;

/// The greatest of some logits, and whether all are numbers below infinity. Eight at a time: both answers in lanes of one width.
fn greatest_of(logits: &[f32]) -> (f32, bool) {
    let (mut greatest, mut others) = ([f32::NEG_INFINITY; 8], [0u32; 8]);
    let mut look = |lane: usize, logit: f32| {
        let so_far = greatest[lane];
        greatest[lane] = if logit > so_far { logit } else { so_far };
        others[lane] |= u32::from(logit >= f32::INFINITY || logit.is_nan());
    };
    let (eights, rest) = logits.as_chunks::<8>();
    for eight in eights {
        for (lane, &logit) in eight.iter().enumerate() {
            look(lane, logit);
        }
    }
    for &logit in rest {
        look(0, logit);
    }
    let greatest = greatest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    (greatest, others == [0; 8])
}

impl Candidates {
    /// Scratch for a vocabulary of this size.
    pub fn new(vocab_size: usize) -> Self {
        Self {
            items: Vec::with_capacity(vocab_size),
            greatest: Vec::with_capacity(vocab_size.div_ceil(STRETCH)),
            ordered: Vec::with_capacity(vocab_size.div_ceil(STRETCH)),
            ..Self::default()
        }
    }

    /// Takes every logit that is not negative infinity and that `allowed` has a bit for; NaN and +infinity are refused.
    pub(super) fn fill(
        &mut self,
        logits: &[f32],
        allowed: Option<&[u32]>,
        position: usize,
    ) -> Result<(), EngineError> {
        self.items.clear();
        self.base = 0.0;
        self.sorted = 0;
        self.by_id = true;
        for (id, &logit) in (0u32..).zip(logits) {
            if logit == f32::NEG_INFINITY {
                continue;
            }
            if !logit.is_finite() {
                return Err(non_finite_logit(id as usize, position, logit));
            }
            if allowed.is_none_or(|bits| has_bit(bits, id)) {
                self.items.push(Candidate { id, logit });
            }
        }
        Ok(())
    }

    /// [`Candidates::fill`] without a constraint, for samplers that look at the `count` largest only: takes those, what equals the
    /// last of them, and maybe some more. Of so many stretches with the greatest logits each has one that is as large.
    pub(super) fn fill_largest(
        &mut self,
        logits: &[f32],
        count: usize,
        position: usize,
    ) -> Result<(), EngineError> {
        self.greatest.clear();
        let mut finite = true;
        for stretch in logits.chunks(STRETCH) {
            let (greatest, below_infinity) = greatest_of(stretch);
            finite &= below_infinity;
            self.greatest.push(greatest);
        }
        self.ordered.clone_from(&self.greatest);
        let least = match count.checked_sub(1) {
            Some(last) if last < self.ordered.len() => {
                *(self.ordered)
                    .select_nth_unstable_by(last, |a, b| b.total_cmp(a))
                    .1
            }
            _ => f32::NEG_INFINITY,
        };
        if !finite || least == f32::NEG_INFINITY {
            return self.fill(logits, None, position);
        }
        self.items.clear();
        self.base = 0.0;
        self.sorted = 0;
        self.by_id = true;
        let stretches = (0u32..).step_by(STRETCH).zip(logits.chunks(STRETCH));
        for ((first, stretch), &greatest) in stretches.zip(&self.greatest) {
            if greatest >= least {
                let some = (first..).zip(stretch).filter(|&(_, &logit)| logit >= least);
                self.items
                    .extend(some.map(|(id, &logit)| Candidate { id, logit }));
            }
        }
        Ok(())
    }

    /// How many are left.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// The largest logit; negative infinity when none is left.
    pub(super) fn max(&self) -> f32 {
        if self.sorted > 0 {
            return self.items[0].logit;
        }
        self.items
            .iter()
            .fold(f32::NEG_INFINITY, |max, c| max.max(c.logit))
    }

    /// The candidate with the largest logit, the lowest id among equals.
    pub(super) fn best(&self) -> Option<Candidate> {
        self.items.iter().copied().reduce(|best, c| {
            if c.logit > best.logit || (c.logit == best.logit && c.id < best.id) {
                c
            } else {
                best
            }
        })
    }

    /// Applies `change` to one candidate's logit, if it is still there.
    pub(super) fn change(&mut self, id: u32, change: impl FnOnce(f32) -> f32) {
        let index = if self.by_id {
            self.items.binary_search_by_key(&id, |c| c.id).ok()
        } else {
            self.items.iter().position(|c| c.id == id)
        };
        if let Some(index) = index {
            let logit = change(self.items[index].logit);
            self.items[index].logit = logit.clamp(f32::MIN, f32::MAX);
            self.sorted = 0;
        }
    }

    /// Applies a non-decreasing `change` to every logit, which keeps their order.
    pub(super) fn change_all(&mut self, change: impl Fn(f32) -> f32) {
        for c in &mut self.items {
            c.logit = change(c.logit).clamp(f32::MIN, f32::MAX);
        }
    }

    /// Adds biases to logits, in rising order of id as the candidates are; negative infinity removes.
    pub(super) fn bias(&mut self, biases: &[(u32, f32)]) {
        debug_assert!(self.by_id && biases.is_sorted_by_key(|&(id, _)| id));
        if biases.is_empty() {
            return;
        }
        let mut rest = biases;
        self.sorted = 0;
        self.items.retain_mut(|c| {
            let skipped = rest.partition_point(|&(id, _)| id < c.id);
            rest = &rest[skipped..];
            while let [(id, bias), others @ ..] = rest
                && *id == c.id
            {
                if *bias == f32::NEG_INFINITY {
                    return false;
                }
                c.logit = (c.logit + bias).clamp(f32::MIN, f32::MAX);
                rest = others;
            }
            true
        });
    }

    /// Keeps what `keep` says, in its order.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(Candidate) -> bool) {
        let sorted = self.sorted;
        let (mut index, mut kept_sorted) = (0, 0);
        self.items.retain(|&c| {
            let kept = keep(c);
            if kept && index < sorted {
                kept_sorted += 1;
            }
            index += 1;
            kept
        });
        self.sorted = kept_sorted;
    }

    /// Brings the `n` largest to the front, sorted.
    pub(super) fn sort_front(&mut self, n: usize) {
        let n = n.min(self.items.len());
        if n <= self.sorted {
            return;
        }
        self.by_id = false;
        let rest = &mut self.items[self.sorted..];
        let wanted = n - self.sorted;
        if wanted < rest.len() {
            rest.select_nth_unstable_by(wanted - 1, falling);
        }
        rest[..wanted].sort_unstable_by(falling);
        self.sorted = n;
    }

    /// Keeps the first `n`, which must be sorted.
    pub(super) fn cut(&mut self, n: usize) {
        debug_assert!(n <= self.sorted);
        self.items.truncate(n);
        self.sorted = self.sorted.min(n);
    }

    /// Fills `weights` with `exp(logit - max)` in the items' order and returns their sum.
    pub(super) fn weigh(&mut self) -> f64 {
        let max = f64::from(self.max());
        self.weights.clear();
        self.weights
            .extend(self.items.iter().map(|c| exp(f64::from(c.logit) - max)));
        self.weights.iter().sum()
    }

    /// Entropy in nats of the candidates whose weights [`Self::weigh`] has filled.
    pub(super) fn entropy(&self, total: f64) -> f64 {
        self.weights
            .iter()
            .map(|w| w / total)
            .filter(|&p| p > 0.0)
            .map(|p| -p * crate::math::ln(p))
            .sum()
    }

    /// Replaces the items by those of `keys`, whose order is the caller's.
    pub(super) fn take_keys(&mut self, n: usize) {
        self.items.clear();
        self.items.extend(self.keys[..n].iter().map(|&(_, c)| c));
        self.sorted = 0;
        self.by_id = false;
    }

    /// Draws an index in proportion to probability: the first at which the running sum passes `u` times the total.
    pub(super) fn draw(&mut self, u: f64) -> usize {
        let total = self.weigh();
        let target = u * total;
        let mut sum = 0.0;
        let mut last = 0;
        for (i, &w) in self.weights.iter().enumerate() {
            if w > 0.0 {
                sum += w;
                last = i;
                if sum > target {
                    return i;
                }
            }
        }
        last // rounding left the running sum at or below the target
    }
}

/// The refusal of a logit that is not a number, or +infinity.
pub(crate) fn non_finite_logit(token: usize, position: usize, value: f32) -> EngineError {
    EngineError::NonFinite {
        what: "logit",
        index: token,
        position,
        value,
        operators: Vec::new(),
    }
}

fn has_bit(bits: &[u32], id: u32) -> bool {
    bits.get(id as usize / 32)
        .is_some_and(|word| word >> (id % 32) & 1 == 1)
}

/// Falling logit, then rising id.
fn falling(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.logit
        .partial_cmp(&a.logit)
        .unwrap_or(std::cmp::Ordering::Equal)
        .then(a.id.cmp(&b.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(logits: &[f32]) -> Candidates {
        let mut c = Candidates::new(logits.len());
        c.fill(logits, None, 0).unwrap();
        c
    }

    #[test]
    fn sorting_in_steps_equals_sorting_at_once() {
        let logits: Vec<f32> = (0..1000u32).map(|i| ((i * 7919) % 97) as f32).collect();
        let mut at_once = candidates(&logits);
        at_once.sort_front(1000);
        for step in [1, 7, 400] {
            let mut in_steps = candidates(&logits);
            let mut n = 0;
            while n < 1000 {
                n += step;
                in_steps.sort_front(n);
            }
            assert_eq!(in_steps.items, at_once.items);
        }
        assert!(
            at_once
                .items
                .windows(2)
                .all(|w| falling(&w[0], &w[1]).is_lt())
        );
    }

    #[test]
    fn nan_and_infinity_are_refused_by_id() {
        for bad in [f32::NAN, f32::INFINITY] {
            let error = Candidates::new(3)
                .fill(&[0.0, 1.0, bad], None, 9)
                .unwrap_err();
            assert!(matches!(
                error,
                EngineError::NonFinite {
                    index: 2,
                    position: 9,
                    ..
                }
            ));
        }
    }

    #[test]
    fn the_largest_are_those_of_all() {
        // Many are equal, and some are left out.
        let logit = |i: u32| match i * 7919 % 97 {
            0 => f32::NEG_INFINITY,
            n => n as f32 - 50.0,
        };
        for size in [1u32, 63, 64, 65, 1000, 5003] {
            let logits: Vec<f32> = (0..size).map(logit).collect();
            let mut all = candidates(&logits);
            all.sort_front(all.len());
            for count in [0, 1, 2, 17, 41, 100, 6000] {
                let mut some = Candidates::new(logits.len());
                some.fill_largest(&logits, count, 0).unwrap();
                assert!(some.items.is_sorted_by_key(|c| c.id));
                some.sort_front(some.len());
                let enough = count.min(all.len());
                assert_eq!(
                    some.items[..enough],
                    all.items[..enough],
                    "{count} of {size}"
                );
                // Whatever equals the last one is there.
                let last = some.items.last().map(|c| c.logit);
                let equal =
                    |c: &Candidates| c.items.iter().filter(|c| Some(c.logit) == last).count();
                assert_eq!(equal(&some), equal(&all));
                if size == 5003 && (1..=41).contains(&count) {
                    assert!(some.len() < all.len() / 5, "{} for {count}", some.len());
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_refused_among_the_largest_too() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut logits = vec![0.5; 300];
            logits[200] = bad;
            let error = Candidates::new(300)
                .fill_largest(&logits, 3, 9)
                .unwrap_err();
            assert!(matches!(
                error,
                EngineError::NonFinite {
                    index: 200,
                    position: 9,
                    ..
                }
            ));
        }
        let none = vec![f32::NEG_INFINITY; 300];
        let mut c = Candidates::new(300);
        c.fill_largest(&none, 3, 9).unwrap();
        assert_eq!(c.len(), 0);
    }

    #[test]
    fn draw_walks_the_cumulative_distribution() {
        // Probabilities 1/2, 1/4, 1/4.
        let l = |p: f64| p.ln() as f32;
        let mut c = candidates(&[l(0.5), l(0.25), l(0.25)]);
        assert_eq!(c.draw(0.0), 0);
        assert_eq!(c.draw(0.499), 0);
        assert_eq!(c.draw(0.501), 1);
        assert_eq!(c.draw(0.76), 2);
        assert_eq!(c.draw(1.0 - f64::EPSILON), 2);
    }
}
