//! Llama 3's rotary factors, which GGUF stores as a tensor.

use std::f64::consts::TAU;

use ryz_format::{RopeConfig, RopeScaling};
use ryz_kernels::math;

/// The divisor of each angle ([`RopeScaling::Llama3`] gives the rule); empty for other scalings.
pub(crate) fn llama3_factors(rope: &RopeConfig, rope_dim: usize) -> Vec<f32> {
    let RopeScaling::Llama3 {
        factor,
        low_freq_factor,
        high_freq_factor,
        original_context,
    } = rope.scaling
    else {
        return Vec::new();
    };
    let [theta, factor, low, high] =
        [rope.theta, factor, low_freq_factor, high_freq_factor].map(f64::from);
    let divisor = |pair: usize| {
        let frequency = math::pow(theta, -2.0 * pair as f64 / rope_dim as f64);
        // Full turns within the original context: below `low` stretched, above `high` kept.
        let turns = original_context as f64 * frequency / TAU;
        let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 / ((1.0 - kept) / factor + kept)) as f32
    };
    (0..rope_dim / 2).map(divisor).collect()
}
