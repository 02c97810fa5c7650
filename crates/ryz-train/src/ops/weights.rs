//! Fake quantization of weights: `s = mean|W|`, `W' = clip(round(W/s), −1, 1) · s`; gradients pass
//! straight through.
//!
//! The scale is rounded to fp16, the narrowest type in a ternary GGUF block, so that training sees
//! the exported values.

use crate::simd::{sum2, vectorised};

/// Quantizes one group (a tensor or a row) into `out` and returns its scale.
pub(crate) fn ternary(weights: &[f32], out: &mut [f32]) -> f32 {
    vectorised(
        #[inline(always)]
        || {
            let mut sum = 0.0f64;
            for part in weights.chunks(4096) {
                sum += f64::from(sum2(part, part, |x, _| x.abs()));
            }
            let mean = (sum / weights.len().max(1) as f64) as f32;
            let scale = half::f16::from_f32(mean.clamp(1e-5, 6e4)).to_f32();
            let inverse = 1.0 / scale;
            for (out, w) in out.iter_mut().zip(weights) {
                let t = (w * inverse).round_ties_even();
                let t = if t > 1.0 { 1.0 } else { t };
                let t = if t < -1.0 { -1.0 } else { t };
                *out = t * scale;
            }
            scale
        },
    )
}

/// Rounds to values that an F16 tensor can hold.
pub(crate) fn round_f16(weights: &[f32], out: &mut [f32]) {
    for (out, w) in out.iter_mut().zip(weights) {
        *out = half::f16::from_f32(*w).to_f32();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_become_three_values() {
        let weights = [0.5, -0.5, 0.1, -0.1, 1.3, 0.0];
        let mut out = [0.0; 6];
        let scale = ternary(&weights, &mut out);
        assert!((scale - 2.5 / 6.0).abs() < 3e-4, "{scale}");
        assert_eq!(out, [scale, -scale, 0.0, 0.0, scale, 0.0]);
    }
}
