//! The samplers that drop candidates. Each leaves at least one.

use super::candidates::Candidates;
use crate::math::ln;

/// Keeps the `k` largest logits; 0 is off.
pub(super) fn top_k(c: &mut Candidates, k: u32) {
    let k = k as usize;
    if k == 0 || k >= c.len() {
        return;
    }
    c.sort_front(k);
    c.cut(k);
}

/// Nucleus sampling (Holtzman et al., 2019): keeps the smallest set of most probable tokens whose probability reaches
/// `p`; 1 is off.
pub(super) fn top_p(c: &mut Candidates, p: f32) {
    if p >= 1.0 || c.len() < 2 {
        return;
    }
    let total = c.weigh();
    let max = f64::from(c.max());
    let target = f64::from(p) * total;
    let (mut sum, mut looked_at) = (0.0, 0);
    // Sorting a vocabulary for the few that matter is waste: sort a front that grows.
    let mut front = 64;
    while looked_at < c.len() {
        c.sort_front(front);
        let end = front.min(c.len());
        while looked_at < end {
            sum += crate::math::exp(f64::from(c.items[looked_at].logit) - max);
            looked_at += 1;
            if sum >= target {
                c.cut(looked_at);
                return;
            }
        }
        front *= 4;
    }
}

/// Keeps tokens at least `p` times as probable as the most probable; 0 is off.
pub(super) fn min_p(c: &mut Candidates, p: f32) {
    if p <= 0.0 || c.len() < 2 {
        return;
    }
    let max = f64::from(c.max());
    let least = ln(f64::from(p));
    c.retain(|x| f64::from(x.logit) - max >= least);
}

/// Keeps logits within `n` standard deviations (of the whole population) of the largest (Tang et al., 2024); 0 is off.
pub(super) fn top_n_sigma(c: &mut Candidates, n: f32) {
    if n <= 0.0 || c.len() < 2 {
        return;
    }
    let count = c.len() as f64;
    let mean = c.items.iter().map(|x| f64::from(x.logit)).sum::<f64>() / count;
    let square = |d: f64| d * d;
    let variance = c
        .items
        .iter()
        .map(|x| square(f64::from(x.logit) - mean))
        .sum::<f64>()
        / count;
    let least = f64::from(c.max()) - f64::from(n) * variance.sqrt();
    c.retain(|x| f64::from(x.logit) >= least);
}

/// Locally typical sampling (Meister et al., 2022): keeps those whose surprise is nearest the entropy until their
/// probability passes `p`; 1 is off.
pub(super) fn typical(c: &mut Candidates, p: f32) {
    if p >= 1.0 || c.len() < 2 {
        return;
    }
    let total = c.weigh();
    let entropy = c.entropy(total);
    // -ln p = ln(total) - (logit - max), exact even where p underflows.
    let max = f64::from(c.max());
    let ln_total = ln(total);
    c.keys.clear();
    c.keys.extend(c.items.iter().map(|&x| {
        let surprise = ln_total - (f64::from(x.logit) - max);
        ((surprise - entropy).abs(), x)
    }));
    c.keys
        .sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.id.cmp(&b.1.id)));
    let target = f64::from(p) * total;
    let mut sum = 0.0;
    let mut n = 0;
    for (_, x) in &c.keys {
        sum += crate::math::exp(f64::from(x.logit) - max);
        n += 1;
        if sum > target {
            break;
        }
    }
    c.take_keys(n);
}

/// "Exclude top choices": when `chance < probability`, drops every token whose probability is at least `threshold`
/// except the least probable of them, so that a rarer but still sensible one is taken.
pub(super) fn xtc(c: &mut Candidates, threshold: f32, probability: f32, chance: f64) {
    if chance >= f64::from(probability) || c.len() < 2 {
        return;
    }
    let total = c.weigh();
    let least = f64::from(threshold) * total;
    let top = |w: f64| w >= least;
    // The least probable of the top choices; the highest id among equals, as if sorted.
    let survivor = c
        .items
        .iter()
        .zip(&c.weights)
        .filter(|&(_, &w)| top(w))
        .map(|(x, _)| *x)
        .reduce(|a, b| {
            if b.logit < a.logit || (b.logit == a.logit && b.id > a.id) {
                b
            } else {
                a
            }
        });
    let Some(survivor) = survivor else { return };
    let weights = std::mem::take(&mut c.weights);
    let mut at = weights.iter();
    c.retain(|x| {
        let is_top = at.next().is_some_and(|&w| top(w));
        !is_top || x.id == survivor.id
    });
    c.weights = weights;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Candidates with these probabilities (they need not sum to 1).
    fn with(p: &[f64]) -> Candidates {
        let logits: Vec<f32> = p.iter().map(|p| p.ln() as f32).collect();
        let mut c = Candidates::new(p.len());
        c.fill(&logits, None, 0).unwrap();
        c
    }

    fn ids(c: &Candidates) -> Vec<u32> {
        let mut ids: Vec<u32> = c.items.iter().map(|x| x.id).collect();
        ids.sort_unstable();
        ids
    }

    const P: [f64; 5] = [0.1, 0.4, 0.05, 0.25, 0.2];

    #[test]
    fn top_k_keeps_the_k_most_probable() {
        for (k, want) in [
            (1, vec![1]),
            (2, vec![1, 3]),
            (3, vec![1, 3, 4]),
            (0, vec![0, 1, 2, 3, 4]),
            (9, vec![0, 1, 2, 3, 4]),
        ] {
            let mut c = with(&P);
            top_k(&mut c, k);
            assert_eq!(ids(&c), want, "k = {k}");
        }
        // Equal logits: the lower ids stay.
        let mut c = with(&[0.25; 4]);
        top_k(&mut c, 2);
        assert_eq!(ids(&c), [0, 1]);
    }

    #[test]
    fn top_p_keeps_the_smallest_set_that_reaches_p() {
        // Falling: .4, .65, .85, .95, 1.
        for (p, want) in [
            (0.0, vec![1]),
            (0.3, vec![1]),
            (0.5, vec![1, 3]),
            (0.7, vec![1, 3, 4]),
            (0.9, vec![0, 1, 3, 4]),
            (0.99, vec![0, 1, 2, 3, 4]),
            (1.0, vec![0, 1, 2, 3, 4]),
        ] {
            let mut c = with(&P);
            top_p(&mut c, p);
            assert_eq!(ids(&c), want, "p = {p}");
        }
    }

    #[test]
    fn top_p_looks_past_its_first_front() {
        // 1,000 equal tokens: p = 0.5 needs 500 of them, or 501 by rounding.
        let mut c = with(&[0.001; 1000]);
        top_p(&mut c, 0.5);
        assert!((500..=501).contains(&c.len()), "{}", c.len());
        assert!(ids(&c).iter().copied().eq(0..c.len() as u32));
    }

    #[test]
    fn min_p_keeps_a_share_of_the_most_probable() {
        // 0.4 * 0.5 = 0.2, 0.4 * 0.3 = 0.12, 0.4 * 0.2 = 0.08.
        for (p, want) in [
            (0.6, vec![1, 3]),
            (0.3, vec![1, 3, 4]),
            (0.2, vec![0, 1, 3, 4]),
            (0.0, vec![0, 1, 2, 3, 4]),
            (1.0, vec![1]),
        ] {
            let mut c = with(&P);
            min_p(&mut c, p);
            assert_eq!(ids(&c), want, "p = {p}");
        }
    }

    #[test]
    fn top_n_sigma_keeps_what_is_near_the_largest() {
        // Logits 0, 0, 0, 4: mean 1, variance 3, deviation 1.732. 4 - 2.3 * 1.732 = 0.016, 4 - 2.4 * 1.732 = -0.157.
        for (n, want) in [
            (1.0, vec![3]),
            (2.3, vec![3]),
            (2.4, vec![0, 1, 2, 3]),
            (0.0, vec![0, 1, 2, 3]),
        ] {
            let mut c = Candidates::new(4);
            c.fill(&[0.0, 0.0, 0.0, 4.0], None, 0).unwrap();
            top_n_sigma(&mut c, n);
            assert_eq!(ids(&c), want, "n = {n}");
        }
    }

    #[test]
    fn typical_prefers_what_is_as_surprising_as_expected() {
        // P = .5, .25, .125, .125: entropy 1.75 ln 2 nats; surprises 1, 2, 3, 3 (in ln 2); distances .75, .25, 1.25,
        // 1.25. So the order is 1, 0, 2, 3 with running sums .25, .75, .875, 1.
        let p = [0.5, 0.25, 0.125, 0.125];
        for (mass, want) in [
            (0.2, vec![1]),
            (0.5, vec![0, 1]),
            (0.8, vec![0, 1, 2]),
            (0.9, vec![0, 1, 2, 3]),
            (1.0, vec![0, 1, 2, 3]),
        ] {
            let mut c = with(&p);
            typical(&mut c, mass);
            assert_eq!(ids(&c), want, "mass = {mass}");
        }
    }

    #[test]
    fn xtc_drops_all_top_choices_but_the_last() {
        // At least 0.15: 1 (.4), 3 (.25), 4 (.2). The last of them is 4.
        let mut c = with(&P);
        xtc(&mut c, 0.15, 1.0, 0.5);
        assert_eq!(ids(&c), [0, 2, 4]);
        // Only one above the threshold: nothing to drop.
        let mut c = with(&P);
        xtc(&mut c, 0.3, 1.0, 0.5);
        assert_eq!(ids(&c), [0, 1, 2, 3, 4]);
        // The dice say no.
        let mut c = with(&P);
        xtc(&mut c, 0.15, 0.5, 0.5);
        assert_eq!(ids(&c), [0, 1, 2, 3, 4]);
        // None above the threshold.
        let mut c = with(&P);
        xtc(&mut c, 0.5, 1.0, 0.0);
        assert_eq!(ids(&c), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn every_truncation_leaves_one_even_at_its_extreme() {
        let mut c = with(&P);
        top_n_sigma(&mut c, 1e-30);
        assert_eq!(ids(&c), [1]);
        let mut c = with(&P);
        typical(&mut c, 0.0);
        assert_eq!(c.len(), 1);
        let mut c = with(&P);
        xtc(&mut c, 0.0, 1.0, 0.0);
        assert_eq!(ids(&c), [2]);
    }

    #[test]
    fn samplers_compose_in_sorted_and_unsorted_states() {
        let mut c = with(&P);
        top_k(&mut c, 4);
        min_p(&mut c, 0.3); // .4, .25, .2
        xtc(&mut c, 0.25, 1.0, 0.0); // of the three: .47, .29, .235; drops .47
        assert_eq!(ids(&c), [3, 4]);
        top_p(&mut c, 0.5); // .556 of the rest
        assert_eq!(ids(&c), [3]);
    }
}
