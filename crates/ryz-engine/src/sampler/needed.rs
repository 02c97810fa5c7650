//! Which logits a sampler looks at: where they are the largest ones, the model need not compute the others
//! (`ryz_model::HeadScreening`).

use ryz_model::LogitDemand;

use super::params::{Mirostat, SamplerKind, SamplingParams};

impl SamplingParams {
    /// What choosing needs where `held_back` tokens may be removed beside those that are banned, and the penalties' window has up
    /// to `history` tokens. With all other logits at −∞, the same token is chosen by the same draws.
    ///
    /// Greedy choice takes the largest logit, and top-k the k largest, of what penalties and biases leave. These only lower logits,
    /// or every one is needed; and each of the j tokens that they lower or remove can let one other in. One more than k + j makes top-k
    /// sort its candidates whenever it does with all logits: it leaves as many as it keeps in the order in which they are.
    pub(super) fn needed(&self, held_back: usize, history: usize) -> LogitDemand {
        let raised = self.logit_bias.iter().any(|&(_, bias)| bias > 0.0);
        let dry = self.dry.multiplier != 0.0 && self.order.contains(&SamplerKind::Dry);
        if raised || dry || self.logprobs.is_some() {
            return LogitDemand::All;
        }
        let penalties = [
            self.repetition_penalty - 1.0,
            self.presence_penalty,
            self.frequency_penalty,
        ];
        let penalized = match self.order.contains(&SamplerKind::Penalties) {
            true if penalties.iter().any(|&penalty| penalty < 0.0) => return LogitDemand::All,
            true if penalties.iter().any(|&penalty| penalty > 0.0) => {
                let window = self.penalty_window.map_or(usize::MAX, |n| n as usize);
                window.min(history)
            }
            _ => 0,
        };
        let lowered = self.logit_bias.len() + held_back + penalized;
        if self.is_greedy() {
            return LogitDemand::Largest(1 + lowered);
        }
        if self.mirostat != Mirostat::Off {
            return LogitDemand::All;
        }
        for &kind in &self.order {
            match kind {
                SamplerKind::TopK if self.top_k > 0 => {
                    return LogitDemand::Largest(self.top_k as usize + lowered + 1);
                }
                _ if self.looks_at_all(kind) => return LogitDemand::All,
                _ => {}
            }
        }
        LogitDemand::All
    }

    /// The best token is taken, without a draw.
    pub(super) fn is_greedy(&self) -> bool {
        self.temperature == 0.0 && self.dynamic_temperature_range == 0.0
    }

    /// Whether a sampler before top-k depends on every candidate, or may make equal what was not.
    fn looks_at_all(&self, kind: SamplerKind) -> bool {
        match kind {
            SamplerKind::Penalties | SamplerKind::Dry | SamplerKind::TopK => false,
            SamplerKind::TopNSigma => self.top_n_sigma > 0.0,
            SamplerKind::Typical => self.typical_p < 1.0,
            SamplerKind::TopP => self.top_p < 1.0,
            SamplerKind::MinP => self.min_p > 0.0,
            SamplerKind::Xtc => self.xtc_probability > 0.0,
            SamplerKind::Temperature => {
                self.temperature != 1.0 || self.dynamic_temperature_range > 0.0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::{Candidates, DryParams, Sampler, Vocab};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn of(change: impl FnOnce(&mut SamplingParams)) -> LogitDemand {
        let mut params = SamplingParams::default();
        change(&mut params);
        params.needed(0, 1000)
    }

    #[test]
    fn the_default_needs_top_k_and_one() {
        assert_eq!(of(|_| {}), LogitDemand::Largest(41));
        assert_eq!(of(|p| p.temperature = 0.0), LogitDemand::Largest(1));
        assert_eq!(
            SamplingParams::greedy().needed(3, 0),
            LogitDemand::Largest(4)
        );
        assert_eq!(of(|p| p.top_k = 1), LogitDemand::Largest(2));
    }

    #[test]
    fn what_is_lowered_lets_others_in() {
        let bans = |p: &mut SamplingParams| {
            p.logit_bias = vec![(1, f32::NEG_INFINITY), (2, -3.0), (3, 0.0)];
        };
        assert_eq!(of(bans), LogitDemand::Largest(44));
        assert_eq!(of(|p| p.presence_penalty = 0.5), LogitDemand::Largest(105));
        let greedy = SamplingParams {
            repetition_penalty: 1.1,
            ..SamplingParams::greedy()
        };
        assert_eq!(greedy.needed(0, 7), LogitDemand::Largest(8));
        let all = SamplingParams {
            penalty_window: None,
            ..greedy
        };
        assert_eq!(all.needed(0, 7000), LogitDemand::Largest(7001));
        assert_eq!(
            of(|p| {
                p.presence_penalty = 0.5;
                p.order.retain(|kind| *kind != SamplerKind::Penalties);
            }),
            LogitDemand::Largest(41)
        );
    }

    #[test]
    fn some_need_every_logit() {
        type Change = fn(&mut SamplingParams);
        let changes: [Change; 12] = [
            |p| p.top_k = 0,
            |p| p.logprobs = Some(0),
            |p| p.logit_bias = vec![(0, 0.1)],
            |p| p.repetition_penalty = 0.9,
            |p| p.presence_penalty = -0.1,
            |p| p.frequency_penalty = -0.1,
            |p| p.mirostat = Mirostat::V2 { tau: 5.0, eta: 0.1 },
            |p| {
                p.dry = DryParams {
                    multiplier: 0.8,
                    ..DryParams::default()
                }
            },
            |p| p.top_n_sigma = 1.0,
            |p| p.order.retain(|kind| *kind != SamplerKind::TopK),
            |p| p.order = vec![SamplerKind::TopP, SamplerKind::TopK],
            |p| p.order = vec![SamplerKind::Temperature, SamplerKind::TopK],
        ];
        for (index, change) in changes.into_iter().enumerate() {
            assert_eq!(of(change), LogitDemand::All, "{index}");
        }
        // Behind top-k they look at what it has left.
        let behind = |p: &mut SamplingParams| p.typical_p = 0.5;
        assert_eq!(of(behind), LogitDemand::Largest(41));
    }

    /// Logits of which those that are not needed are −∞.
    fn screened(logits: &[f32], needed: usize) -> Vec<f32> {
        let mut ids: Vec<usize> = (0..logits.len()).collect();
        ids.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        let mut few = vec![f32::NEG_INFINITY; logits.len()];
        ids.iter().take(needed).for_each(|&id| few[id] = logits[id]);
        few
    }

    proptest! {
        #[test]
        fn the_same_tokens_are_chosen_of_the_needed_logits(
            steps in prop::collection::vec(prop::collection::vec(-8i8..8, 90), 4),
            top_k in 1u32..12,
            (temperature, range) in (0u8..3, 0u8..2),
            (repetition, presence, frequency) in (0u8..3, 0u8..3, 0u8..2),
            biases in prop::collection::vec((0u32..90, 0u8..3), 0..4),
            (min_tokens, ignore_eos) in (0u32..3, any::<bool>()),
            (xtc, typical, window) in (0u8..2, 0u8..2, 0u32..9),
            order in Just(SamplerKind::DEFAULT_ORDER.to_vec()).prop_shuffle(),
            kinds in 5usize..=9,
            seed in any::<u64>(),
        ) {
            let mut order = order;
            order.truncate(kinds);
            let params = SamplingParams {
                temperature: f32::from(temperature) * 0.7,
                dynamic_temperature_range: f32::from(range) * 0.3,
                top_k,
                repetition_penalty: 1.0 + 0.2 * f32::from(repetition),
                presence_penalty: 0.5 * f32::from(presence),
                frequency_penalty: 0.25 * f32::from(frequency),
                penalty_window: Some(window),
                logit_bias: biases
                    .into_iter()
                    .map(|(id, bias)| (id, [f32::NEG_INFINITY, -2.0, 0.0][usize::from(bias)]))
                    .collect(),
                min_tokens,
                ignore_eos,
                xtc_probability: 0.5 * f32::from(xtc),
                typical_p: 1.0 - 0.3 * f32::from(typical),
                order,
                seed: Some(seed),
                ..SamplingParams::default()
            };
            let vocab = Vocab {
                size: 90,
                end_tokens: vec![5, 6],
                piece: Arc::new(|_| Vec::new()),
            };
            let mut whole = Sampler::new(params.clone(), &vocab, &[7]).expect("valid");
            let mut few = Sampler::new(params, &vocab, &[7]).expect("valid");
            let mut scratch = Candidates::new(90);
            let mut history = vec![1, 2, 1];
            for logits in steps {
                // Many are equal.
                let logits: Vec<f32> = logits.into_iter().map(|x| f32::from(x) * 0.5).collect();
                let LogitDemand::Largest(needed) = few.needed(history.len()) else {
                    break;
                };
                if needed >= 90 {
                    break;
                }
                let expected = whole.sample(&mut scratch, &logits, &history, None).expect("a token");
                let kept: Vec<_> = scratch.items.clone();
                let logits = screened(&logits, needed);
                let got = few.sample(&mut scratch, &logits, &history, None).expect("a token");
                prop_assert_eq!(got.token, expected.token);
                if !few.params.is_greedy() {
                    prop_assert_eq!(&scratch.items, &kept);
                }
                history.push(got.token);
            }
        }
    }
}
