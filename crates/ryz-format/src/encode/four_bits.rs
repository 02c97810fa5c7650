//! Encodes floats to four-bit blocks: `Q4_0` and `Q4_K`.

use half::f16;

/// Weights per sub-block of `Q4_K`, and per block of `Q4_0`.
const SUB_BLOCK: usize = 32;
/// Scales tried per sub-block: its range in 14.2 to 15.4 steps.
const TRIALS: u8 = 7;

/// Appends a `Q4_0` block like ggml's reference: d = (the weight of the largest magnitude) / −8.
pub(super) fn q4_0(weights: &[f32; SUB_BLOCK], out: &mut Vec<u8>) {
    let largest = weights.iter().fold(
        0.0f32,
        |largest, &w| {
            if w.abs() > largest.abs() { w } else { largest }
        },
    );
    let d = largest / -8.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let code = |w: f32| ((w * inverse + 8.5) as u8).min(15);
    out.extend(f16::from_f32(d).to_le_bytes());
    let (low, high) = weights.split_at(SUB_BLOCK / 2);
    out.extend(low.iter().zip(high).map(|(&l, &h)| code(l) | code(h) << 4));
}

/// Appends a `Q4_K` block: w ≈ d·sc·q − dmin·m. Tries several ranges for each sub-block and keeps
/// the one whose least-squares fit has the smallest error.
pub(super) fn q4_k(weights: &[f32; 8 * SUB_BLOCK], out: &mut Vec<u8>) {
    let (sub_blocks, _) = weights.as_chunks::<SUB_BLOCK>();
    let mut fits = [Fit::default(); 8];
    for (fit, weights) in fits.iter_mut().zip(sub_blocks) {
        *fit = Fit::of(weights);
    }
    let greatest = |of: fn(&Fit) -> f32| fits.iter().map(of).fold(0.0, f32::max);
    let d = f16::from_f32(greatest(|fit| fit.scale) / 63.0);
    let dmin = f16::from_f32(greatest(|fit| fit.minimum) / 63.0);
    let sixty_thirds = |value: f32, unit: f16| match unit.to_f32() {
        0.0 => 0,
        unit => (value / unit).round().min(63.0) as u8,
    };
    let scales = fits.map(|fit| sixty_thirds(fit.scale, d));
    let minima = fits.map(|fit| sixty_thirds(fit.minimum, dmin));
    let mut codes = [[0u8; SUB_BLOCK]; 8];
    for (j, codes) in codes.iter_mut().enumerate() {
        let scale = d.to_f32() * f32::from(scales[j]);
        let minimum = dmin.to_f32() * f32::from(minima[j]);
        if scale != 0.0 {
            *codes = sub_blocks[j].map(|w| code(w, minimum, 1.0 / scale));
        }
    }
    out.extend(d.to_le_bytes());
    out.extend(dmin.to_le_bytes());
    out.extend((0..4).map(|j| scales[j] | scales[j + 4] >> 4 << 6));
    out.extend((0..4).map(|j| minima[j] | minima[j + 4] >> 4 << 6));
    out.extend((4..8).map(|j| scales[j] & 15 | minima[j] << 4));
    for [low, high] in codes.as_chunks::<2>().0 {
        out.extend(low.iter().zip(high).map(|(&l, &h)| l | h << 4));
    }
}

/// w ≈ scale·q − minimum, with q of 0 to 15.
#[derive(Clone, Copy, Default)]
struct Fit {
    scale: f32,
    /// 0 or more.
    minimum: f32,
}

impl Fit {
    fn of(weights: &[f32; SUB_BLOCK]) -> Self {
        let least = weights.iter().copied().fold(0.0, f32::min);
        let range = weights.iter().copied().fold(0.0, f32::max) - least;
        // Also if a weight is NaN.
        if range.is_nan() || range <= 0.0 || !range.is_finite() {
            return Self::default();
        }
        let mut best = Self {
            scale: range / 15.0,
            minimum: -least,
        };
        let mut least_error = best.error(weights);
        for trial in 0..TRIALS {
            let steps = 14.2 + 0.2 * f32::from(trial);
            let codes = weights.map(|w| f32::from(code(w, -least, steps / range)));
            let fit = Self::of_codes(weights, &codes);
            let error = fit.error(weights);
            if error < least_error {
                (best, least_error) = (fit, error);
            }
        }
        best
    }

    /// The least-squares fit to given codes.
    fn of_codes(weights: &[f32; SUB_BLOCK], codes: &[f32; SUB_BLOCK]) -> Self {
        let n = SUB_BLOCK as f32;
        let (mut q, mut qq, mut w, mut qw) = (0.0, 0.0, 0.0, 0.0);
        for (&weight, &code) in weights.iter().zip(codes) {
            q += code;
            qq += code * code;
            w += weight;
            qw += code * weight;
        }
        let determinant = n * qq - q * q;
        let fit = Self {
            scale: (n * qw - q * w) / determinant,
            minimum: (q * qw - qq * w) / determinant,
        };
        match fit.minimum >= 0.0 && fit.scale > 0.0 {
            true => fit,
            // No minimum: all weights are positive.
            false => Self {
                scale: (qw / qq).max(0.0),
                minimum: 0.0,
            },
        }
    }

    fn error(self, weights: &[f32; SUB_BLOCK]) -> f32 {
        if self.scale.is_nan() || self.scale <= 0.0 {
            return f32::INFINITY;
        }
        let inverse = 1.0 / self.scale;
        weights.iter().fold(0.0, |sum, &w| {
            let read = self.scale * f32::from(code(w, self.minimum, inverse)) - self.minimum;
            sum + (w - read) * (w - read)
        })
    }
}

/// The nearest code.
fn code(w: f32, minimum: f32, inverse: f32) -> u8 {
    // Float casts saturate, and NaN becomes 0.
    ((w + minimum) * inverse + 0.5).clamp(0.0, 15.5) as u8
}

#[cfg(test)]
mod tests {
    use crate::{DType, decode::decode_row, encode::encode_floats};

    /// SplitMix64, as floats between −1 and 1.
    fn floats(count: usize) -> Vec<f32> {
        let mut state = 20_261_129u64;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn read_back(dtype: DType, weights: &[f32]) -> Vec<f32> {
        let mut bytes = Vec::new();
        encode_floats(dtype, weights, &mut bytes);
        let mut read = vec![f32::NAN; weights.len()];
        decode_row(dtype, &bytes, &mut read);
        read
    }

    #[test]
    fn weights_come_back_within_half_a_step() {
        // Magnitudes differ between blocks but not within one, so rounding scales to six bits costs
        // little.
        let weights: Vec<f32> = floats(2048)
            .chunks(256)
            .enumerate()
            .flat_map(|(block, weights)| {
                let magnitude = [1e-3, 1.0, 40.0][block % 3];
                let offset = [0.0, 1.5, -1.5][block / 3 % 3];
                weights.iter().map(move |w| (w + offset) * magnitude)
            })
            .collect();
        for (dtype, block, share) in [(DType::Q4_0, 32, 1.0 / 7.9), (DType::Q4K, 256, 0.6 / 15.0)] {
            let read = read_back(dtype, &weights);
            for (weights, read) in weights.chunks(block).zip(read.chunks(block)) {
                let least = weights.iter().copied().fold(0.0, f32::min);
                let greatest = weights.iter().copied().fold(0.0, f32::max);
                let scale = match dtype {
                    DType::Q4_0 => greatest.max(-least),
                    _ => greatest - least,
                };
                for (w, r) in weights.iter().zip(read) {
                    // Rounding the scale to six bits adds 15 steps of 1/126 of it.
                    assert!(
                        (w - r).abs() <= scale * (share + 1.0 / 126.0 + 1.0 / 126.0),
                        "{dtype}: {w} came back as {r}, of {scale}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_four_bits_hold_comes_back_exactly() {
        // d = dmin = 1/1024, with scales and minima up to 63.
        let weights: Vec<f32> = (0..256)
            .map(|i: i32| {
                let (scale, minimum) =
                    ([63, 31][i as usize / 32 % 2], [63, 0][i as usize / 64 % 2]);
                (scale * (i % 16) - minimum) as f32 / 1024.0
            })
            .collect();
        assert_eq!(read_back(DType::Q4K, &weights), weights);
        let weights: Vec<f32> = (0..32).map(|i| (i % 16 - 8) as f32 * 0.5).collect();
        assert_eq!(read_back(DType::Q4_0, &weights), weights);
    }

    #[test]
    fn nothing_and_no_numbers_are_blocks_too() {
        for dtype in [DType::Q4_0, DType::Q4K] {
            assert_eq!(read_back(dtype, &[0.0; 256]), [0.0; 256]);
            let mut weights = [0.25; 256];
            weights[3] = f32::NAN;
            read_back(dtype, &weights);
        }
    }
}
