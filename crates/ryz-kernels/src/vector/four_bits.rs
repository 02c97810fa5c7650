//! The 4-bit form of a block of 16 cached positions.
//!
//! After KIVI (arXiv 2402.02750): `x = scale · code + minimum`, code 0 … 15. Keys have a scale and a
//! minimum for each channel over the block's 16 positions, since channels differ much and stay what they are; values have
//! them for each position and [`VALUE_GROUP`] channels.
//!
//! ```text
//! key codes     [key_dim][8]            lane = position: 0–7 in the low halves of 8 bytes, 8–15 in the high ones
//! key scales    [key_dim] f16           key minima [key_dim] f16
//! value codes   [value_dim / 16][16][8] a position's 16 channels, in the same way
//! value groups  [value_dim / 32]{ scales [16] f16, minima [16] f16 }, lane = position
//! ```

use half::f16;

use super::attention::{BLOCK, load_part, store_part};
use crate::{
    math,
    simd::{LANES, Simd, padded},
};

/// Channels of a value that share a scale in four bits.
pub const VALUE_GROUP: usize = 32;

/// The parts of a block in four bits; see the module for their layouts.
#[derive(Clone, Copy, Debug)]
pub struct Int4Block<'a> {
    /// (key_dim)
    pub key_codes: &'a [[u8; 8]],
    /// (key_dim)
    pub key_scales: &'a [f16],
    /// (key_dim)
    pub key_minima: &'a [f16],
    /// (⌈value_dim / 16⌉ · 16)
    pub value_codes: &'a [[u8; 8]],
    /// (⌈value_dim / 32⌉): scales, then minima
    pub value_groups: &'a [[[f16; BLOCK]; 2]],
}

/// Lane = position: Σ_c (q_c·scale_c)·code_c + Σ_c q_c·minimum_c. Even and odd channels have sums of their own, added at
/// the end, so that one does not wait for the other.
#[inline(always)]
pub(super) fn scores_u4<S: Simd, const N: usize>(
    s: S,
    block: &Int4Block<'_>,
    queries: &[f32],
    dim: usize,
    scores: &mut [[f32; LANES]],
) {
    assert!(
        block.key_codes.len() == dim
            && block.key_scales.len() == dim
            && block.key_minima.len() == dim,
        "channels of a block's keys"
    );
    let mut sums = [[s.splat(0.0); 2]; N];
    let mut offsets = [s.splat(0.0); N];
    let mut start = 0;
    while start < dim {
        let width = LANES.min(dim - start);
        let part = |values: &[f16]| {
            let bits = bytemuck::cast_slice::<_, u16>(&values[start..start + width]);
            s.load_f16(&padded(bits, 0))
        };
        let (scales, minima) = (part(block.key_scales), part(block.key_minima));
        let mut scaled = [[0.0; LANES]; N];
        for n in 0..N {
            let query = padded(&queries[n * dim + start..][..width], 0.0);
            let query = s.load(&query);
            s.store(s.mul(query, scales), &mut scaled[n]);
            offsets[n] = s.fma(query, minima, offsets[n]);
        }
        for (channel, codes) in block.key_codes[start..start + width].iter().enumerate() {
            let codes = s.load_u4(codes);
            for n in 0..N {
                let sum = &mut sums[n][channel % 2];
                *sum = s.fma(s.splat(scaled[n][channel]), codes, *sum);
            }
        }
        start += LANES;
    }
    for n in 0..N {
        let offset = s.splat(s.sum(offsets[n]));
        let sum = s.add(s.add(sums[n][0], sums[n][1]), offset);
        s.store(sum, &mut scores[n]);
    }
}

/// Lane = channel: out += Σ_t weight_t·minimum_t + Σ_t (weight_t·scale_t)·code_t, all sixteen positions.
#[inline(always)]
pub(super) fn mix_u4<S: Simd, const N: usize>(
    s: S,
    block: &Int4Block<'_>,
    weights: &[[f32; LANES]],
    dim: usize,
    out: &mut [f32],
) {
    assert!(
        block.value_codes.len() == dim.div_ceil(LANES) * BLOCK
            && block.value_groups.len() == dim.div_ceil(VALUE_GROUP),
        "channels of a block's values"
    );
    for (group, [scales, minima]) in block.value_groups.iter().enumerate() {
        let halves =
            |values: &[f16; BLOCK]| s.load_f16(&bytemuck::cast::<_, [u16; BLOCK]>(*values));
        let (scales, minima) = (halves(scales), halves(minima));
        let mut scaled = [[0.0; LANES]; N];
        let mut offsets = [s.splat(0.0); N];
        for n in 0..N {
            let weights = s.load(&weights[n]);
            s.store(s.mul(weights, scales), &mut scaled[n]);
            offsets[n] = s.splat(s.sum(s.mul(weights, minima)));
        }
        let end = dim.min((group + 1) * VALUE_GROUP);
        let mut start = group * VALUE_GROUP;
        while start < end {
            let width = LANES.min(end - start);
            let mut sums = [s.splat(0.0); N];
            for n in 0..N {
                sums[n] = s.add(load_part(s, &out[n * dim + start..][..width]), offsets[n]);
            }
            let codes = &block.value_codes[start / LANES * BLOCK..][..BLOCK];
            for (position, codes) in codes.iter().enumerate() {
                let codes = s.load_u4(codes);
                for n in 0..N {
                    sums[n] = s.fma(s.splat(scaled[n][position]), codes, sums[n]);
                }
            }
            for n in 0..N {
                store_part(s, sums[n], &mut out[n * dim + start..][..width]);
            }
            start += LANES;
        }
    }
}

/// Sixteen channels of sixteen positions: (position, channel).
pub type Tile = [[f32; LANES]; BLOCK];

/// Puts up to sixteen channels of a block's keys in four bits.
#[inline(always)]
pub(crate) fn quantize_keys_u4<S: Simd>(
    _: S,
    tile: &Tile,
    codes: &mut [[u8; 8]],
    scales: &mut [f16],
    minima: &mut [f16],
) {
    let width = codes.len();
    assert!(
        width <= LANES && scales.len() == width && minima.len() == width,
        "channels of a tile of keys"
    );
    // Lane = channel.
    let (mut least, mut most) = (tile[0], tile[0]);
    for row in &tile[1..] {
        for lane in 0..LANES {
            least[lane] = lesser(row[lane], least[lane]);
            most[lane] = greater(row[lane], most[lane]);
        }
    }
    for channel in 0..width {
        let grid = Grid::new(least[channel], most[channel]);
        (scales[channel], minima[channel]) = (grid.scale, grid.minimum);
        codes[channel] = grid.codes(&std::array::from_fn(|position| tile[position][channel]));
    }
}

/// Puts up to [`VALUE_GROUP`] channels of a block's values in four bits: `width` of them in one or two tiles, each of which
/// gives sixteen of `codes`.
#[inline(always)]
pub(crate) fn quantize_values_u4<S: Simd>(
    _: S,
    tiles: &[Tile],
    width: usize,
    codes: &mut [[u8; 8]],
    group: &mut [[f16; BLOCK]; 2],
) {
    assert!(
        width > 0
            && width <= VALUE_GROUP
            && tiles.len() == width.div_ceil(LANES)
            && codes.len() == tiles.len() * BLOCK,
        "channels of a group of values"
    );
    for position in 0..BLOCK {
        let channels = |tile: usize| LANES.min(width - tile * LANES);
        let (mut least, mut most) = (f32::INFINITY, f32::NEG_INFINITY);
        for (index, tile) in tiles.iter().enumerate() {
            for &value in &tile[position][..channels(index)] {
                least = lesser(value, least);
                most = greater(value, most);
            }
        }
        let grid = Grid::new(least, most);
        let [scales, minima] = group;
        (scales[position], minima[position]) = (grid.scale, grid.minimum);
        for (index, tile) in tiles.iter().enumerate() {
            codes[index * BLOCK + position] = grid.codes(&tile[position]);
        }
    }
}

/// The second when either is NaN, as in SIMD.
#[inline(always)]
fn lesser(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

#[inline(always)]
fn greater(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The sixteen values that a code may stand for.
struct Grid {
    scale: f16,
    minimum: f16,
    inverse: f32,
    start: f32,
}

impl Grid {
    #[inline(always)]
    fn new(least: f32, most: f32) -> Self {
        let minimum = math::f32_to_f16(least);
        let start = math::f16_to_f32(minimum);
        let scale = math::f32_to_f16((most - start) * (1.0 / 15.0));
        let step = math::f16_to_f32(scale);
        Self {
            scale: f16::from_bits(scale),
            minimum: f16::from_bits(minimum),
            inverse: if step > 0.0 { 1.0 / step } else { 0.0 },
            start,
        }
    }

    /// The nearest codes, two to a byte: value i and value i + 8.
    #[inline(always)]
    fn codes(&self, values: &[f32; LANES]) -> [u8; 8] {
        // Adding 1.5 · 2^23 rounds to an integer, ties to even.
        const ROUND: f32 = 12_582_912.0;
        let codes = values.map(|value| {
            let code = lesser(greater((value - self.start) * self.inverse, 0.0), 15.0);
            ((code + ROUND) - ROUND) as u8
        });
        std::array::from_fn(|i| codes[i] | codes[i + 8] << 4)
    }
}
