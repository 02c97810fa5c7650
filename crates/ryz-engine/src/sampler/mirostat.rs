//! Mirostat (Basu et al., 2021): keeps the surprise of the chosen tokens, in bits, near `tau`.

use super::candidates::Candidates;
use super::params::Mirostat;
use crate::math::{ln, log2, pow};

/// The controller: `mu` is the largest surprise allowed next.
#[derive(Debug, Clone)]
pub(super) struct MirostatState {
    mode: Mirostat,
    mu: f64,
}

/// How many of the most probable tokens version 1 fits the Zipf exponent to.
const ZIPF_TOKENS: usize = 100;

impl MirostatState {
    /// `None` when mirostat is off. `mu` starts at `2 tau`, as the paper has it.
    pub(super) fn new(mode: Mirostat) -> Option<Self> {
        match mode {
            Mirostat::Off => None,
            Mirostat::V1 { tau, .. } | Mirostat::V2 { tau, .. } => Some(Self {
                mode,
                mu: 2.0 * f64::from(tau),
            }),
        }
    }

    /// Truncates, draws with the fraction `u`, learns, and returns the token's index.
    pub(super) fn sample(&mut self, c: &mut Candidates, vocab_size: usize, u: f64) -> usize {
        let (tau, eta) = match self.mode {
            Mirostat::V1 { tau, eta } => {
                let k = self.zipf_k(c, vocab_size);
                c.sort_front(k);
                c.cut(k);
                (tau, eta)
            }
            Mirostat::V2 { tau, eta } => {
                let total = c.weigh();
                let max = f64::from(c.max());
                // -log2 p <= mu, and the most probable always.
                let limit = self.mu;
                let bits = std::f64::consts::LOG2_E;
                let log2_total = log2(total);
                c.retain(|x| {
                    let below = f64::from(x.logit) - max;
                    below == 0.0 || log2_total - below * bits <= limit
                });
                (tau, eta)
            }
            Mirostat::Off => (0.0, 0.0),
        };
        let index = c.draw(u);
        let total: f64 = c.weights.iter().sum();
        let surprise = -log2(c.weights[index] / total);
        self.mu -= f64::from(eta) * (surprise - f64::from(tau));
        index
    }

    /// Equation 30 of the paper: how many tokens keep the expected surprise at `mu`, for a Zipf exponent estimated by
    /// least squares from ratios of neighbouring probabilities.
    fn zipf_k(&self, c: &mut Candidates, vocab_size: usize) -> usize {
        let m = ZIPF_TOKENS.min(c.len());
        c.sort_front(m);
        let (mut tb, mut tt) = (0.0, 0.0);
        for i in 0..m.saturating_sub(1) {
            let t = ln((i + 2) as f64 / (i + 1) as f64);
            // ln(p_i / p_(i+1)) is the difference of the logits.
            let b = f64::from(c.items[i].logit) - f64::from(c.items[i + 1].logit);
            tb += t * b;
            tt += t * t;
        }
        if tt == 0.0 || tb <= 0.0 {
            return c.len().max(1); // one candidate, or all equal: nothing to fit
        }
        let s = tb / tt;
        let epsilon = s - 1.0;
        let two_mu = pow(2.0, self.mu);
        let n = vocab_size as f64;
        let numerator = if epsilon.abs() < 1e-9 {
            two_mu / ln(n) // the limit of epsilon / (1 - n^-epsilon) for epsilon to 0 is 1 / ln n
        } else {
            epsilon * two_mu / (1.0 - pow(n, -epsilon))
        };
        let k = pow(numerator, 1.0 / s);
        if k.is_nan() {
            return c.len();
        }
        (k.min(c.len() as f64) as usize).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(p: &[f64]) -> Candidates {
        let logits: Vec<f32> = p.iter().map(|p| p.ln() as f32).collect();
        let mut c = Candidates::new(p.len());
        c.fill(&logits, None, 0).unwrap();
        c
    }

    #[test]
    fn version_two_cuts_by_surprise_and_learns() {
        // Surprises 1, 2, 3, 3 bits; mu = 2 tau = 2.5 keeps the first two.
        let p = [0.5, 0.25, 0.125, 0.125];
        let mut state = MirostatState::new(Mirostat::V2 {
            tau: 1.25,
            eta: 0.5,
        })
        .unwrap();
        let mut c = filled(&p);
        let i = state.sample(&mut c, 4, 0.9);
        assert_eq!(c.len(), 2);
        assert_eq!(c.items[i].id, 1);
        // Of 2/3, 1/3 the second was drawn: log2(3) = 1.58496 bits; mu = 2.5 - 0.5 * (1.58496 - 1.25).
        assert!((state.mu - 2.332_519).abs() < 1e-5, "{}", state.mu);
    }

    #[test]
    fn version_two_always_keeps_the_most_probable() {
        let mut state = MirostatState::new(Mirostat::V2 { tau: 0.0, eta: 0.1 }).unwrap();
        let mut c = filled(&[0.2, 0.5, 0.3]);
        let i = state.sample(&mut c, 3, 0.99);
        assert_eq!((c.len(), c.items[i].id), (1, 1));
    }

    #[test]
    fn version_one_cuts_a_zipf_distribution_where_the_paper_says() {
        // Exactly Zipf with s = 1.5 over 1,000 tokens: the estimate is s itself.
        let s = 1.5f64;
        let n = 1000;
        let p: Vec<f64> = (1..=n).map(|r| (r as f64).powf(-s)).collect();
        let mut state = MirostatState::new(Mirostat::V1 { tau: 2.0, eta: 0.1 }).unwrap();
        let mut c = filled(&p);
        state.sample(&mut c, n, 0.0);
        // k = (0.5 * 2^4 / (1 - 1000^-0.5))^(1 / 1.5) = (8 / 0.968377)^(2/3) = 4.087 -> 4.
        assert_eq!(c.len(), 4);
    }

    #[test]
    fn version_one_survives_equal_and_single_candidates() {
        for p in [vec![0.25; 4], vec![1.0]] {
            let mut state = MirostatState::new(Mirostat::V1 { tau: 5.0, eta: 0.1 }).unwrap();
            let mut c = filled(&p);
            state.sample(&mut c, p.len(), 0.5);
            assert_eq!(c.len(), p.len());
            assert!(state.mu.is_finite());
        }
    }

    #[test]
    fn the_average_surprise_approaches_tau() {
        let p: Vec<f64> = (1..=500).map(|r| (r as f64).powf(-1.1)).collect();
        for mode in [
            Mirostat::V1 { tau: 3.0, eta: 0.1 },
            Mirostat::V2 { tau: 3.0, eta: 0.1 },
        ] {
            let mut state = MirostatState::new(mode).unwrap();
            let mut rng = super::super::rng::Rng::new(7);
            let mut sum = 0.0;
            let rounds = 2000;
            for _ in 0..rounds {
                let mut c = filled(&p);
                let i = state.sample(&mut c, p.len(), rng.next_f64());
                let total: f64 = c.weights.iter().sum();
                sum -= log2(c.weights[i] / total);
            }
            let mean = sum / f64::from(rounds);
            // The controller's drift is bounded: |mu| moves by eta times the summed error, so the mean error is
            // |mu_end - mu_start| / (eta * rounds), here within 10 / 200.
            assert!((mean - 3.0).abs() < 0.05, "{mode:?}: {mean}");
        }
    }
}
