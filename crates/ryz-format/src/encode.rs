//! Encoders, the inverse of [`crate::decode`] for writable types: ternary codes and floats to
//! blocks.

mod four_bits;

use half::{bf16, f16};

use crate::DType;

/// Encodes ternary codes t + 1 to whole blocks and appends them. `I2_S` includes the tail, so pass
/// whole tensors.
///
/// `scales` has one scale per block (rounded to fp16, as blocks store it); for `I2_S`, a single one
/// (kept in fp32). The codes and scales of an existing file reproduce its bytes.
///
/// # Panics
/// When the type is not ternary or is [`DType::HfPacked`]; when the codes are not whole blocks;
/// when the number of scales is wrong; when a code exceeds [`DType::max_code`], or is 1 for `Q1_0`,
/// which has no zero.
pub fn encode_ternary(dtype: DType, codes: &[u8], scales: &[f32], out: &mut Vec<u8>) {
    assert!(
        dtype.is_ternary() && dtype != DType::HfPacked && !dtype.is_prepacked(),
        "{dtype} is not written"
    );
    let block_values = dtype.block_values();
    assert!(
        codes.len().is_multiple_of(block_values),
        "{} codes are no whole blocks of {dtype}",
        codes.len()
    );
    let blocks = codes.len() / block_values;
    assert_eq!(
        scales.len(),
        if dtype == DType::I2S { 1 } else { blocks },
        "scales of {dtype}"
    );
    let max = dtype.max_code();
    assert!(
        codes.iter().all(|&code| code <= max),
        "codes of {dtype} are at most {max}"
    );
    assert!(
        dtype != DType::Q1_0 || !codes.contains(&1),
        "{dtype} has no zero"
    );

    out.reserve(blocks * dtype.block_bytes() + dtype.tail_bytes());
    for (n, block) in codes.chunks_exact(block_values).enumerate() {
        let scale = || f16::from_f32(scales[n]).to_le_bytes();
        match dtype {
            DType::TQ1_0 => {
                out.extend((0..32).map(|m| trits(block, m, 32, 5)));
                out.extend((0..16).map(|m| trits(block, 160 + m, 16, 5)));
                out.extend((0..4).map(|m| trits(block, 240 + m, 4, 4)));
                out.extend(scale());
            }
            DType::TQ2_0 => {
                out.extend((0..64).map(|i| pairs(block, 128 * (i / 32) + i % 32, 32)));
                out.extend(scale());
            }
            DType::PTQ1_0 => {
                out.extend((0..16).map(|m| trits(block, m, 16, 5)));
                out.extend((0..8).map(|m| trits(block, 80 + m, 8, 5)));
                out.extend((0..2).map(|m| trits(block, 120 + m, 2, 4)));
                out.extend(scale());
            }
            DType::Q1_0 => {
                out.extend(scale());
                let bits = block.as_chunks::<8>().0.iter();
                out.extend(
                    bits.map(|codes| {
                        (codes.iter().rev()).fold(0, |byte, code| byte << 1 | code >> 1)
                    }),
                );
            }
            DType::Q2_0G64 | DType::Q2_0G128 | DType::PQ2_0 => {
                out.extend(scale());
                out.extend((0..block_values / 4).map(|i| pairs(block, 4 * i, 1)));
            }
            DType::I2S => out.extend((0..32).map(|m| pairs(block, m, 32).reverse_pairs())),
            _ => unreachable!("not ternary, or refused above"),
        }
    }
    if dtype == DType::I2S {
        out.extend(scales[0].to_le_bytes());
        out.extend([0; 28]);
    }
}

/// Encodes floats as `F32`, `F16` or `BF16` (round to nearest, ties to even), as `Q8_0` and `Q4_0`
/// like ggml's reference, or as `Q4_K`, and appends them. For `Q8_0`, d = max|w| / 127 rounded to
/// fp16, and q = w·(1/d) with the unrounded d, halves rounded away from zero.
///
/// # Panics
///
/// For another type, or when `values` is not a whole number of blocks.
pub fn encode_floats(dtype: DType, values: &[f32], out: &mut Vec<u8>) {
    match dtype {
        DType::F32 => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        DType::F16 => out.extend(values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes())),
        DType::BF16 => out.extend(values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes())),
        DType::Q8_0 => {
            for block in whole::<32>(dtype, values) {
                let d = block.iter().fold(0f32, |max, v| max.max(v.abs())) / 127.0;
                let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
                out.extend(f16::from_f32(d).to_le_bytes());
                out.extend(
                    block
                        .iter()
                        .map(|v| ((v * inverse).round() as i8).cast_unsigned()),
                );
            }
        }
        DType::Q4_0 => whole(dtype, values)
            .iter()
            .for_each(|block| four_bits::q4_0(block, out)),
        DType::Q4K => whole(dtype, values)
            .iter()
            .for_each(|block| four_bits::q4_k(block, out)),
        _ => panic!("{dtype} is not written from floats"),
    }
}

fn whole<const N: usize>(dtype: DType, values: &[f32]) -> &[[f32; N]] {
    let (blocks, rest) = values.as_chunks();
    assert!(
        rest.is_empty(),
        "{} values are no whole blocks of {dtype}",
        values.len()
    );
    blocks
}

/// Makes float weights ternary by BitNet's absmean rule (arXiv 2402.17764, and transformers'
/// `online` mode): s = 1/max(mean|w|, 1e-5), code = clip(round_half_even(w·s), −1, 1) + 1. Returns
/// the weights' scale, 1/s rounded to bf16.
///
/// `weights` is the whole tensor. Its mean is summed in f64 in order, so it is the same on every
/// machine.
///
/// # Panics
///
/// When the slices differ in length.
pub fn quantize_absmean(weights: &[f32], codes: &mut [u8]) -> f32 {
    assert_eq!(weights.len(), codes.len(), "one code for each weight");
    let mut sum = AbsmeanSum::default();
    sum.add(weights);
    let absmean = sum.finish();
    for (code, &w) in codes.iter_mut().zip(weights) {
        *code = absmean.code(w);
    }
    absmean.scale
}

/// The first pass of [`quantize_absmean`] over a tensor read piece by piece, in order.
#[derive(Clone, Copy, Debug, Default)]
pub struct AbsmeanSum {
    sum: f64,
    count: u64,
}

impl AbsmeanSum {
    /// Adds the next weights.
    pub fn add(&mut self, weights: &[f32]) {
        self.sum = weights
            .iter()
            .fold(self.sum, |sum, w| sum + f64::from(w.abs()));
        self.count += weights.len() as u64;
    }

    /// The rule that follows from the mean.
    pub fn finish(self) -> Absmean {
        let mean = (self.sum / self.count.max(1) as f64) as f32;
        // A NaN among the weights propagates to the scale, where it can be detected.
        let multiplier = 1.0 / if mean < 1e-5 { 1e-5 } else { mean };
        Absmean {
            multiplier,
            scale: bf16::from_f32(1.0 / multiplier).to_f32(),
        }
    }
}

/// The second pass of [`quantize_absmean`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Absmean {
    /// s, the factor applied to a weight before rounding.
    pub multiplier: f32,
    /// The weights' scale: 1/s rounded to bf16.
    pub scale: f32,
}

impl Absmean {
    /// The scale for masters of a type: transformers rounds 1/s·t to the type of the weights.
    pub fn scale_in(self, masters: DType) -> f32 {
        let scale = 1.0 / self.multiplier;
        match masters {
            DType::F32 => scale,
            DType::F16 => f16::from_f32(scale).to_f32(),
            _ => bf16::from_f32(scale).to_f32(),
        }
    }

    /// The code t + 1 of a weight.
    pub fn code(self, weight: f32) -> u8 {
        ((weight * self.multiplier)
            .round_ties_even()
            .clamp(-1.0, 1.0) as i8
            + 1) as u8
    }
}

/// One byte of `count` trits, most significant first, scaled by ceil(q·256/243); four trits count
/// as five with a zero.
fn trits(codes: &[u8], first: usize, step: usize, count: usize) -> u8 {
    let q = (0..5).fold(0u16, |q, n| {
        3 * q
            + if n < count {
                codes[first + n * step].into()
            } else {
                0
            }
    });
    ((q * 256).div_ceil(243)) as u8
}

/// One byte of four codes, the first in the low bits.
fn pairs(codes: &[u8], first: usize, step: usize) -> u8 {
    (0..4).fold(0, |byte, l| byte | codes[first + l * step] << (2 * l))
}

trait ReversePairs {
    fn reverse_pairs(self) -> Self;
}

impl ReversePairs for u8 {
    /// The four bit pairs in reverse order: `I2_S` stores the first code in the high bits.
    fn reverse_pairs(self) -> u8 {
        let nibbles = self.rotate_left(4);
        (nibbles & 0x33) << 2 | (nibbles >> 2) & 0x33
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absmean_by_hand() {
        // mean|w| = 1, s = 1: halves round to even, so ±0.5 become 0.
        let weights = [0.5, -0.5, 0.75, -2.0, 0.25, 2.0, f32::NAN, 0.0];
        let mut codes = [9; 8];
        assert_eq!(quantize_absmean(&weights[..6], &mut codes[..6]), 1.0);
        assert_eq!(codes[..6], [1, 1, 2, 0, 1, 2]);
        // The mean is at least 1e-5; the scale is rounded to bf16.
        assert_eq!(
            quantize_absmean(&[0.0; 4], &mut codes[..4]),
            bf16::from_f32(1e-5).to_f32()
        );
        assert_eq!(codes[..4], [1; 4]);
        // NaN makes the scale NaN and leaves the codes intact.
        assert!(
            quantize_absmean(&weights, &mut codes).is_nan() || codes.iter().all(|&code| code <= 2)
        );
    }
}
