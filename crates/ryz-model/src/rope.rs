//! Rotary position embedding (Su et al., arXiv 2104.09864): the angles.
//!
//! `angle_i = position · θ^(−2i/d)` for the d/2 pairs of a head, then modified by the model's
//! scaling: linear divides it by a factor; llama3 divides each pair by its own factor
//! (`rope_freqs.weight`); YaRN (Peng et al., arXiv 2309.00071, with ggml's ramp) blends the two
//! ends and multiplies cos and sin by a magnitude. Angles are computed in f64, which keeps the
//! fraction of position · frequency at any context length.

use std::f64::consts::TAU;

use ryz_format::{RopeConfig, RopeScaling};
use ryz_kernels::math;

/// A model's frequencies; [`RopeAngles::fill`] computes the table of a position from them.
#[derive(Clone, Debug)]
pub(crate) struct RopeAngles {
    /// Radians per position, for each pair.
    frequencies: Vec<f64>,
    /// Factor on every cos and sin.
    magnitude: f64,
}

impl RopeAngles {
    /// Frequencies for `rope_dim` rotated values per head; `factors` is `rope_freqs.weight` if the
    /// file has it.
    pub fn new(rope: &RopeConfig, rope_dim: usize, factors: Option<&[f32]>) -> Self {
        let pairs = rope_dim / 2;
        let base = f64::from(rope.theta);
        let mut magnitude = 1.0;
        let mut frequencies: Vec<f64> = (0..pairs)
            .map(|pair| math::pow(base, -2.0 * pair as f64 / rope_dim as f64))
            .collect();
        if let Some(factors) = factors {
            for (frequency, factor) in frequencies.iter_mut().zip(factors) {
                *frequency /= f64::from(*factor);
            }
        }
        match rope.scaling {
            RopeScaling::None | RopeScaling::FreqFactors => {}
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            } => {
                let [factor, low, high] =
                    [factor, low_freq_factor, high_freq_factor].map(f64::from);
                for frequency in &mut frequencies {
                    // Full turns within the original context: below `low` stretched, above `high`
                    // kept.
                    let turns = original_context as f64 * *frequency / TAU;
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    *frequency *= (1.0 - kept) / factor + kept;
                }
            }
            RopeScaling::Linear { factor } => {
                frequencies.iter_mut().for_each(|f| *f /= f64::from(factor));
            }
            RopeScaling::Yarn {
                factor,
                original_context,
                attn_factor,
                beta_fast,
                beta_slow,
                ext_factor,
            } => {
                let factor = f64::from(factor);
                let ext_factor = f64::from(ext_factor);
                // The pair that makes `rotations` turns within the original context.
                let pair_of = |rotations: f32| {
                    let turns = original_context as f64 / (f64::from(rotations) * TAU);
                    rope_dim as f64 * math::ln(turns) / (2.0 * math::ln(base))
                };
                let low = pair_of(beta_fast).floor().max(0.0);
                let high = pair_of(beta_slow).ceil().min(rope_dim as f64 - 1.0);
                for (pair, frequency) in frequencies.iter_mut().enumerate() {
                    let along = (pair as f64 - low) / (high - low).max(0.001);
                    let extrapolated = (1.0 - along.clamp(0.0, 1.0)) * ext_factor;
                    *frequency =
                        *frequency / factor * (1.0 - extrapolated) + *frequency * extrapolated;
                }
                magnitude = f64::from(attn_factor);
                if ext_factor != 0.0 {
                    magnitude *= 1.0 + 0.1 * math::ln(factor);
                }
            }
            ref other => unreachable!("rope scaling {other:?} has no rule here"),
        }
        Self {
            frequencies,
            magnitude,
        }
    }

    /// Number of values [`Self::fill`] writes: cos and sin of each pair.
    pub fn table_len(&self) -> usize {
        2 * self.frequencies.len()
    }

    /// Writes the table that rotates back by `positions`.
    pub fn fill_back(&self, positions: usize, table: &mut [f32]) {
        let (cosines, sines) = table.split_at_mut(self.frequencies.len());
        for ((frequency, cosine), sine) in self.frequencies.iter().zip(cosines).zip(sines) {
            let angle = positions as f64 * frequency;
            *cosine = math::cos(angle) as f32;
            *sine = -math::sin(angle) as f32;
        }
    }

    /// Writes the cosines of all pairs at `position`, then the sines.
    pub fn fill(&self, position: usize, table: &mut [f32]) {
        let (cosines, sines) = table.split_at_mut(self.frequencies.len());
        for ((frequency, cosine), sine) in self.frequencies.iter().zip(cosines).zip(sines) {
            let angle = position as f64 * frequency;
            *cosine = (math::cos(angle) * self.magnitude) as f32;
            *sine = (math::sin(angle) * self.magnitude) as f32;
        }
    }
}
