//! The K block types: 256 weights with scales of sub-blocks (llama.cpp, ggml-quants).

use super::blocks::{Block, bytes, half, lanes};
use crate::simd::Simd;

/// 16 scales and minima in nibbles, 64 bytes of quants, d, dmin: w = (d·sc)·q − dmin·m.
pub(crate) struct Q2KBlock;

impl Block for Q2KBlock {
    const VALUES: usize = 256;
    const BYTES: usize = 84;
    type Head = [f32; 2];

    #[inline(always)]
    fn head<S: Simd>(s: S, block: &[u8]) -> [f32; 2] {
        [half(s, block, 80), half(s, block, 82)]
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, [d, dmin]: &[f32; 2], block: &[u8], part: usize) -> S::F {
        let quants = bytes::<16>(block, 16 + 32 * (part / 8) + 16 * (part % 2));
        let shift = 2 * (part % 8 / 2);
        let scale = block[part];
        let q = lanes(s, |l| quants[l] >> shift & 3);
        let (d, m) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
        s.sub(s.mul(q, s.splat(d)), s.splat(m))
    }
}

/// 32 bytes of third bits, 64 of quants, 12 of 6-bit scales, d: w = (d·(sc − 32))·(q − 4 where the third bit is 0).
pub(crate) struct Q3KBlock;

impl Block for Q3KBlock {
    const VALUES: usize = 256;
    const BYTES: usize = 110;
    type Head = f32;

    #[inline(always)]
    fn head<S: Simd>(s: S, block: &[u8]) -> f32 {
        half(s, block, 108)
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, d: &f32, block: &[u8], part: usize) -> S::F {
        let quants = bytes::<16>(block, 32 + 32 * (part / 8) + 16 * (part % 2));
        let third = bytes::<16>(block, 16 * (part % 2));
        let shift = 2 * (part % 8 / 2);
        let bit = part / 2;
        let scales = bytes::<12>(block, 96);
        let low = scales[part % 8] >> (4 * (part / 8)) & 15;
        let high = scales[8 + part % 4] >> (2 * (part / 4)) & 3;
        let scale = f32::from(i16::from(low | high << 4) - 32);
        let q = lanes(s, |l| {
            ((quants[l] >> shift & 3) | (third[l] >> bit & 1) << 2).wrapping_sub(4)
        });
        s.mul(q, s.splat(d * scale))
    }
}

/// Scale and minimum of one of the 8 sub-blocks of Q4_K and Q5_K: 6 bits each in 12 bytes.
#[inline(always)]
fn scale_min(scales: &[u8; 12], sub: usize) -> (f32, f32) {
    let (scale, min) = if sub < 4 {
        (scales[sub] & 63, scales[sub + 4] & 63)
    } else {
        let (low, high) = (scales[sub + 4], [scales[sub - 4] >> 6, scales[sub] >> 6]);
        (low & 15 | high[0] << 4, low >> 4 | high[1] << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// d, dmin, 12 bytes of scales, 128 of quants: w = (d·sc)·q − dmin·m.
pub(crate) struct Q4KBlock;

impl Block for Q4KBlock {
    const VALUES: usize = 256;
    const BYTES: usize = 144;
    type Head = [f32; 2];

    #[inline(always)]
    fn head<S: Simd>(s: S, block: &[u8]) -> [f32; 2] {
        [half(s, block, 0), half(s, block, 2)]
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, [d, dmin]: &[f32; 2], block: &[u8], part: usize) -> S::F {
        let sub = part / 2;
        let nibbles = bytes::<16>(block, 16 + 32 * (sub / 2) + 16 * (part % 2));
        let (scale, min) = scale_min(bytes(block, 4), sub);
        let q = lanes(s, |l| nibbles[l] >> (4 * (sub % 2)) & 15);
        s.sub(s.mul(q, s.splat(d * scale)), s.splat(dmin * min))
    }
}

/// As Q4_K, with 32 bytes of fifth bits before the quants.
pub(crate) struct Q5KBlock;

impl Block for Q5KBlock {
    const VALUES: usize = 256;
    const BYTES: usize = 176;
    type Head = [f32; 2];

    #[inline(always)]
    fn head<S: Simd>(s: S, block: &[u8]) -> [f32; 2] {
        [half(s, block, 0), half(s, block, 2)]
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, [d, dmin]: &[f32; 2], block: &[u8], part: usize) -> S::F {
        let sub = part / 2;
        let nibbles = bytes::<16>(block, 48 + 32 * (sub / 2) + 16 * (part % 2));
        let fifth = bytes::<16>(block, 16 + 16 * (part % 2));
        let (scale, min) = scale_min(bytes(block, 4), sub);
        let q = lanes(s, |l| {
            (nibbles[l] >> (4 * (sub % 2)) & 15) | (fifth[l] >> sub & 1) << 4
        });
        s.sub(s.mul(q, s.splat(d * scale)), s.splat(dmin * min))
    }
}

/// 128 bytes of low nibbles, 64 of high pairs, 16 int8 scales, d: w = (d·sc)·(q − 32).
pub(crate) struct Q6KBlock;

impl Block for Q6KBlock {
    const VALUES: usize = 256;
    const BYTES: usize = 210;
    type Head = f32;

    #[inline(always)]
    fn head<S: Simd>(s: S, block: &[u8]) -> f32 {
        half(s, block, 208)
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, d: &f32, block: &[u8], part: usize) -> S::F {
        let (quarter, sixteen) = (part % 8 / 2, 16 * (part % 2));
        let nibbles = bytes::<16>(block, 64 * (part / 8) + 32 * (quarter % 2) + sixteen);
        let pairs = bytes::<16>(block, 128 + 32 * (part / 8) + sixteen);
        let scale = f32::from(block[192 + part] as i8);
        let q = |l: usize| {
            let low = nibbles[l] >> (4 * (quarter / 2)) & 15;
            (low | (pairs[l] >> (2 * quarter) & 3) << 4).wrapping_sub(32)
        };
        s.mul(lanes(s, q), s.splat(d * scale))
    }
}
