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
    /// Length of the leading run that is sorted, and above everything after it.
    sorted: usize,
    /// The items are in id order.
    by_id: bool,
    pub(super) weights: Vec<f64>,
    pub(super) keys: Vec<(f64, Candidate)>,
    pub(super) tokens: Vec<u32>,
    pub(super) z: Vec<usize>,
    pub(super) runs: Vec<(u32, usize)>,
}

impl Candidates {
    /// Scratch for a vocabulary of this size.
    pub fn new(vocab_size: usize) -> Self {
        Self {
            items: Vec::with_capacity(vocab_size),
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
        self.sorted = 0;
        self.by_id = true;
        for (id, &logit) in (0u32..).zip(logits) {
            if logit == f32::NEG_INFINITY {
                continue;
            }
            if !logit.is_finite() {
                return Err(EngineError::NonFiniteLogits {
                    token: id,
                    position,
                    value: logit,
                });
            }
            if allowed.is_none_or(|bits| has_bit(bits, id)) {
                self.items.push(Candidate { id, logit });
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

    /// Removes one id.
    pub(super) fn remove(&mut self, id: u32) {
        self.retain(|c| c.id != id);
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
                EngineError::NonFiniteLogits {
                    token: 2,
                    position: 9,
                    ..
                }
            ));
        }
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
