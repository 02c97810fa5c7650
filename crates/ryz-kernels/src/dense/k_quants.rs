//! The K block types: 256 weights with scales of sub-blocks (llama.cpp, ggml-quants).
//!
//! A block is taken apart once, 32 bytes at a time: its codes to a byte each, in the order of the weights, and its scales to
//! floats. A sixteen is then one load, one conversion and one product.

use super::blocks::{Block, bytes, half};
use crate::simd::{LANES, Simd};

/// Codes of a block, in stretches of 32.
type Codes = [[i8; 32]; 8];

/// Sixteen of them.
#[inline(always)]
fn sixteen<S: Simd>(s: S, codes: &Codes, part: usize) -> S::F {
    s.load_i8(&codes[part / 2].as_chunks().0[part % 2])
}

/// `factor` times each of sixteen small integers.
#[inline(always)]
fn scaled<S: Simd>(s: S, factor: f32, integers: &[i8; LANES], out: &mut [f32; LANES]) {
    s.store(s.mul(s.splat(factor), s.load_i8(integers)), out);
}

/// Four little-endian words as bytes.
#[inline(always)]
fn sixteen_bytes(words: [u32; 4]) -> [i8; LANES] {
    let mut bytes = [0; LANES];
    for (bytes, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *bytes = word.to_le_bytes().map(|byte| byte as i8);
    }
    bytes
}

/// Three little-endian words.
#[inline(always)]
pub(super) fn words(block: &[u8], start: usize) -> [u32; 3] {
    let words = bytes::<12>(block, start).as_chunks().0;
    [words[0], words[1], words[2]].map(u32::from_le_bytes)
}

/// Weights d·q: codes, and a scale for each sixteen.
#[derive(Clone, Copy, Default)]
pub(crate) struct ScaledCodes {
    codes: Codes,
    scales: [f32; LANES],
}

impl ScaledCodes {
    #[inline(always)]
    fn load<S: Simd>(&self, s: S, part: usize) -> S::F {
        s.mul(sixteen(s, &self.codes, part), s.splat(self.scales[part]))
    }
}

/// Weights d·q − m: codes, and a scale and a minimum for each sub-block.
#[derive(Clone, Copy, Default)]
pub(crate) struct OffsetCodes {
    codes: Codes,
    scales: [f32; LANES],
    minima: [f32; LANES],
}

impl OffsetCodes {
    #[inline(always)]
    fn load<S: Simd>(&self, s: S, part: usize, sub: usize) -> S::F {
        let scaled = s.mul(sixteen(s, &self.codes, part), s.splat(self.scales[sub]));
        s.sub(scaled, s.splat(self.minima[sub]))
    }

    /// The scales and minima of the 8 sub-blocks of Q4_K and Q5_K: d, dmin, then 6 bits each in 12 bytes. The first four
    /// of either are the low bits of words 0 and 1, the others the nibbles of word 2 below the high bits of those.
    #[inline(always)]
    fn unpack_scales<S: Simd>(&mut self, s: S, block: &[u8]) {
        let [a, b, c] = words(block, 4);
        let six = |word: u32| word & 0x3f3f_3f3f;
        let above =
            |nibbles: u32, word: u32| nibbles & 0x0f0f_0f0f | (word >> 6 & 0x0303_0303) << 4;
        let scales = sixteen_bytes([six(a), above(c, a), 0, 0]);
        let minima = sixteen_bytes([six(b), above(c >> 4, b), 0, 0]);
        scaled(s, half(s, block, 0), &scales, &mut self.scales);
        scaled(s, half(s, block, 2), &minima, &mut self.minima);
    }

    /// Codes of four bits in four stretches of 32 bytes: the low nibbles of each, then the high ones.
    #[inline(always)]
    fn unpack_nibbles<S: Simd>(&mut self, s: S, bytes: &[u8; 128]) {
        let stretches = bytes.as_chunks().0.iter();
        for (bytes, [low, high]) in stretches.zip(self.codes.as_chunks_mut::<2>().0) {
            let bytes = s.load_bytes(bytes);
            s.store_bytes(s.and_bytes(bytes, 15), low);
            s.store_bytes(s.shift_right::<4>(bytes), high);
        }
    }
}

/// 16 scales and minima in nibbles, 64 bytes of quants, d, dmin: w = (d·sc)·q − dmin·m.
pub(crate) struct Q2KBlock;

impl Block for Q2KBlock {
    const VALUES: usize = 256;
    const BYTES: usize = 84;
    type Head = OffsetCodes;

    #[inline(always)]
    fn head<S: Simd>(s: S, block: &[u8], head: &mut OffsetCodes) {
        let stretches = bytes::<64>(block, 16).as_chunks().0.iter();
        for (bytes, codes) in stretches.zip(head.codes.as_chunks_mut::<4>().0) {
            let mut pairs = s.load_bytes(bytes);
            for codes in codes {
                s.store_bytes(s.and_bytes(pairs, 3), codes);
                pairs = s.shift_right::<2>(pairs);
            }
        }
        let nibbles = bytes::<16>(block, 0);
        let scales = nibbles.map(|byte| (byte & 15) as i8);
        let minima = nibbles.map(|byte| (byte >> 4) as i8);
        scaled(s, half(s, block, 80), &scales, &mut head.scales);
        scaled(s, half(s, block, 82), &minima, &mut head.minima);
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, head: &OffsetCodes, _: &[u8], part: usize) -> S::F {
        head.load(s, part, part)
    }
}

/// 32 bytes of third bits, 64 of quants, 12 of 6-bit scales, d: w = (d·(sc − 32))·(q − 4 where the third bit is 0).
pub(crate) struct Q3KBlock;

impl Block for Q3KBlock {
    const VALUES: usize = 256;
    const BYTES: usize = 110;
    type Head = ScaledCodes;

    #[inline(always)]
    fn head<S: Simd>(s: S, block: &[u8], head: &mut ScaledCodes) {
        let mut third = s.load_bytes(bytes(block, 0));
        let stretches = bytes::<64>(block, 32).as_chunks().0.iter();
        for (bytes, codes) in stretches.zip(head.codes.as_chunks_mut::<4>().0) {
            let mut pairs = s.load_bytes(bytes);
            for codes in codes {
                let above = s.shift_left::<2>(s.and_bytes(third, 1));
                let code = s.or_bytes(s.and_bytes(pairs, 3), above);
                s.store_bytes(s.sub_bytes(code, 4), codes);
                pairs = s.shift_right::<2>(pairs);
                third = s.shift_right::<1>(third);
            }
        }
        let [a, b, c] = words(block, 96);
        let six = |low: u32, high: u32| low & 0x0f0f_0f0f | (high & 0x0303_0303) << 4;
        let scales = [
            six(a, c),
            six(b, c >> 2),
            six(a >> 4, c >> 4),
            six(b >> 4, c >> 6),
        ];
        let scales = sixteen_bytes(scales).map(|scale| scale - 32);
        scaled(s, half(s, block, 108), &scales, &mut head.scales);
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, head: &ScaledCodes, _: &[u8], part: usize) -> S::F {
        head.load(s, part)
    }
}

/// d, dmin, 12 bytes of scales, 128 of quants: w = (d·sc)·q − dmin·m.
pub(crate) struct Q4KBlock;

impl Block for Q4KBlock {
    const VALUES: usize = 256;
    const BYTES: usize = 144;
    type Head = OffsetCodes;

    #[inline(always)]
    fn head<S: Simd>(s: S, block: &[u8], head: &mut OffsetCodes) {
        head.unpack_nibbles(s, bytes(block, 16));
        head.unpack_scales(s, block);
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, head: &OffsetCodes, _: &[u8], part: usize) -> S::F {
        head.load(s, part, part / 2)
    }
}

/// As Q4_K, with 32 bytes of fifth bits before the quants.
pub(crate) struct Q5KBlock;

impl Block for Q5KBlock {
    const VALUES: usize = 256;
    const BYTES: usize = 176;
    type Head = OffsetCodes;

    #[inline(always)]
    fn head<S: Simd>(s: S, block: &[u8], head: &mut OffsetCodes) {
        let mut fifth = s.load_bytes(bytes(block, 16));
        let stretches = bytes::<128>(block, 48).as_chunks().0.iter();
        for (bytes, codes) in stretches.zip(head.codes.as_chunks_mut::<2>().0) {
            let bytes = s.load_bytes(bytes);
            let nibbles = [s.and_bytes(bytes, 15), s.shift_right::<4>(bytes)];
            for (nibbles, codes) in nibbles.into_iter().zip(codes) {
                let above = s.shift_left::<4>(s.and_bytes(fifth, 1));
                s.store_bytes(s.or_bytes(nibbles, above), codes);
                fifth = s.shift_right::<1>(fifth);
            }
        }
        head.unpack_scales(s, block);
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, head: &OffsetCodes, _: &[u8], part: usize) -> S::F {
        head.load(s, part, part / 2)
    }
}

/// 128 bytes of low nibbles, 64 of high pairs, 16 signed scales, d: w = (d·sc)·(q − 32).
pub(crate) struct Q6KBlock;

impl Block for Q6KBlock {
    const VALUES: usize = 256;
    const BYTES: usize = 210;
    type Head = ScaledCodes;

    #[inline(always)]
    fn head<S: Simd>(s: S, block: &[u8], head: &mut ScaledCodes) {
        let low = bytes::<128>(block, 0).as_chunks::<64>().0.iter();
        let high = bytes::<64>(block, 128).as_chunks().0.iter();
        for ((low, high), codes) in low.zip(high).zip(head.codes.as_chunks_mut::<4>().0) {
            let low = low.as_chunks().0;
            let (a, b) = (s.load_bytes(&low[0]), s.load_bytes(&low[1]));
            let high = s.load_bytes(high);
            let nibbles = [
                s.and_bytes(a, 15),
                s.and_bytes(b, 15),
                s.shift_right::<4>(a),
                s.shift_right::<4>(b),
            ];
            let pairs = [
                s.shift_left::<4>(s.and_bytes(high, 3)),
                s.shift_left::<2>(s.and_bytes(high, 12)),
                s.and_bytes(high, 48),
                s.shift_right::<2>(s.and_bytes(high, 192)),
            ];
            for ((nibbles, pairs), codes) in nibbles.into_iter().zip(pairs).zip(codes) {
                s.store_bytes(s.sub_bytes(s.or_bytes(nibbles, pairs), 32), codes);
            }
        }
        let scales = bytes::<16>(block, 192).map(|byte| byte as i8);
        scaled(s, half(s, block, 208), &scales, &mut head.scales);
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, head: &ScaledCodes, _: &[u8], part: usize) -> S::F {
        head.load(s, part)
    }
}
