//! Products of Q4_K and Q6_K blocks in integers: the heads that models come with.
//!
//! Activations become fixed-point numbers in three signed bytes, of 24 bits (Q4_K) or 23 (Q6_K), so that codes of four and six
//! bits multiply them by the instructions for bytes, exactly:
//!
//! ```text
//! s = G / max(max|x|, 1e−30)                 G = 8,355,000 (Q4_K), 4,190,000 (Q6_K)
//! X = round(x·s), ties to even = 2^16·h + 2^8·m + l,  h, m, l in −128 … 127
//! D = Σ code·X = 2^8·(2^8·Σ code·h + Σ code·m) + Σ code·l      (int32; of 16 weights of one sub-block, a lane)
//! Q4_K:  y = Σ (f32(D)·(d·sc) − f32(ΣX of the sub-block)·(dmin·m)) · (1/s)
//! Q6_K:  y = Σ f32(D − 32·ΣX)·(d·sc) · (1/s)
//! ```
//!
//! Outer sums are fused multiply-adds in sixteen lanes, blocks ascending, in a block the minima first; lanes are added by the
//! fixed tree. Rounding x to 2^−24 or 2^−23 of the largest is what one addition of f32 would do to it; a row that has an infinity
//! or NaN gives NaN.
//!
//! Bounds: |X| ≤ G + 1, whose bytes are in range. Q4_K: |D| ≤ 15·16·8,355,001 = 2.005e9 < 2^31. Q6_K: |D − 32·ΣX| ≤
//! 32·16·4,190,001 = 2.145e9 < 2^31; D itself may wrap, which the subtraction undoes.
//!
//! **Order.** As many weights of a sub-block meet in a lane as int32 holds, because what comes after the products of bytes costs
//! as much as they do. So a block's 256 weights lie in four groups of 64, whose like-placed fours of bytes belong to one sub-block
//! ([`types`]).
//!
//! **Coarse products** tell which rows of a head can matter ([`coarse`]): their activations have one byte, G = 127.
//!
//! **Panels.** Activations of several tokens are larger than a first-level cache. A panel of columns whose activations fit in a
//! part of it is multiplied with the rows of a strip before the next panel; a block is taken apart once for all its tokens.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod coarse;
mod reference;
mod types;

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use ryz_format::DType;
use ryz_tmac::{LINE, MatMut};

use self::types::{ByteActivations, FixedType, Q4K, Q6K};
use super::{DenseWeight, matmul::Row};
use crate::{
    ActivationView, Line,
    simd::{LANES, Simd},
    ternary::code_dot::CodeDot,
};

/// Weights of a block.
const BLOCK: usize = 256;
/// Weights of a group, of which there are four.
const GROUP: usize = 64;
/// Tokens whose fixed-point forms are made at a time; weights are read once for as many.
const TOKENS: usize = 16;
/// Rows that a panel is multiplied with.
const STRIP: usize = 16;
/// Bytes of the activations of a panel, of a first-level cache of 32 KiB or more.
const PANEL_BYTES: usize = 16 << 10;

/// Activations of a block of weights.
pub(crate) trait FixedActivations: Pod {
    /// Bytes of a number.
    const DIGITS: usize;

    /// (digit, group, place): the bytes of X, the greatest digit first.
    fn digits(&self) -> &[[[i8; GROUP]; 4]];
    /// The same, to be written.
    fn digits_mut(&mut self) -> &mut [[[i8; GROUP]; 4]];
    /// What does not depend on codes: for Q6_K −32·ΣX of each D; for Q4_K −ΣX of the 8 sub-blocks, as the bits of f32, and
    /// zeroes.
    fn rest(&self) -> &[i32; LANES];
    /// The same, to be written.
    fn rest_mut(&mut self) -> &mut [i32; LANES];
}

macro_rules! activations {
    ($(#[$doc:meta])* $name:ident, $digits:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(C, align(64))]
        pub(crate) struct $name {
            digits: [[[i8; GROUP]; 4]; $digits],
            rest: [i32; LANES],
        }

        const _: () = assert!(size_of::<$name>().is_multiple_of(LINE));

        impl FixedActivations for $name {
            const DIGITS: usize = $digits;

            #[inline(always)]
            fn digits(&self) -> &[[[i8; GROUP]; 4]] {
                &self.digits
            }

            #[inline(always)]
            fn digits_mut(&mut self) -> &mut [[[i8; GROUP]; 4]] {
                &mut self.digits
            }

            #[inline(always)]
            fn rest(&self) -> &[i32; LANES] {
                &self.rest
            }

            #[inline(always)]
            fn rest_mut(&mut self) -> &mut [i32; LANES] {
                &mut self.rest
            }
        }
    };
}

activations! {
    /// In the three bytes h, m and l.
    FixedBlock, 3
}
activations! {
    /// In one byte.
    CoarseBlock, 1
}

/// What a product has made of its activations and left in scratch memory. The next product of the same activations with rows of
/// the same matrix finds it there, if it is given this and the same scratch, which nothing else has used.
#[derive(Clone, Debug, Default)]
pub struct PreparedInput {
    /// Tokens whose fixed-point forms are there; 0 for none.
    tokens: usize,
    /// What their products are multiplied with.
    factors: [f32; TOKENS],
}

/// What an instruction set gives to fixed-point products.
pub(crate) trait FixedDot: CodeDot {
    /// 64 codes.
    type C: Copy;
    /// 64 bytes of activations.
    type X: Copy;

    /// Whether products are added in int32 at once, so that nothing is saved by adding several groups together.
    const IN_INT32: bool;

    fn codes(self, bytes: &[u8; GROUP]) -> Self::C;
    fn activations(self, bytes: &[i8; GROUP]) -> Self::X;
    /// Codes, which are below 128, as activations.
    fn as_activations(self, codes: Self::C) -> Self::X;
    /// 32 bytes and 32 others.
    fn join(self, low: &[u8; GROUP / 2], high: &[u8; GROUP / 2]) -> Self::C;
    /// (byte >> N) & mask; what comes in from above is for the mask to take away.
    fn right<const N: u32>(self, codes: Self::C, mask: u8) -> Self::C;
    /// (byte << N) & mask, which has none of the N lower bits.
    fn left<const N: u32>(self, codes: Self::C, mask: u8) -> Self::C;
    fn or(self, a: Self::C, b: Self::C) -> Self::C;
    /// Fours of bytes of `a` and `b` in turn: those of the first half of each sixteen, and those of the second.
    fn interleave_fours(self, a: Self::C, b: Self::C) -> [Self::C; 2];
    /// The even eights of bytes of `a` and `b` in turn, and the odd ones.
    fn interleave_eights(self, a: Self::C, b: Self::C) -> [Self::C; 2];
    /// Of each of four stretches of 32 bytes the eight bytes `j`, for each j: their low halves, then their high ones.
    fn nibbles(self, bytes: &[u8; 2 * GROUP]) -> [Self::C; 4];
    /// Σ code·x added to each lane: of four bytes of each of N groups. N·code·128 is below 2^14.
    fn add_products<const N: usize>(
        self,
        sums: <Self::S as Simd>::I,
        codes: [Self::C; N],
        x: [Self::X; N],
    ) -> <Self::S as Simd>::I;
    /// 256 times each lane of `upper` and `low`, wrapping.
    fn times_256_and(
        self,
        upper: <Self::S as Simd>::I,
        low: <Self::S as Simd>::I,
    ) -> <Self::S as Simd>::I;
    /// Each lane is lane `at` of the eight of `table` that it is in.
    fn permute_eights(
        self,
        table: <Self::S as Simd>::F,
        at: [usize; LANES],
    ) -> <Self::S as Simd>::F;
}

/// Whether blocks of `dtype` are multiplied in fixed point.
pub(crate) fn is_fixed(dtype: DType) -> bool {
    matches!(dtype, DType::Q4K | DType::Q6K)
}

/// Lines of scratch memory that a product with rows of `cols` takes.
pub(crate) fn scratch_lines(cols: usize) -> usize {
    TOKENS * (cols / BLOCK) * (size_of::<FixedBlock>() / LINE)
}

#[inline(always)]
pub(crate) fn matmul<K: FixedDot>(
    k: K,
    weights: &DenseWeight,
    rows: Range<usize>,
    x: ActivationView<'_>,
    scratch: &mut [Line],
    prepared: &mut PreparedInput,
    out: MatMut<'_, f32>,
) {
    match weights.dtype() {
        DType::Q4K => typed::<K, Q4K>(k, weights, rows, x, scratch, prepared, out),
        DType::Q6K => typed::<K, Q6K>(k, weights, rows, x, scratch, prepared, out),
        other => unreachable!("{other} is not multiplied in fixed point"),
    }
}

/// The same with activations of one byte.
#[inline(always)]
pub(crate) fn coarse_matmul<K: FixedDot>(
    k: K,
    weights: &DenseWeight,
    rows: Range<usize>,
    x: ActivationView<'_>,
    scratch: &mut [Line],
    prepared: &mut PreparedInput,
    out: MatMut<'_, f32>,
) {
    match weights.dtype() {
        DType::Q4K => typed::<K, ByteActivations<Q4K>>(k, weights, rows, x, scratch, prepared, out),
        DType::Q6K => typed::<K, ByteActivations<Q6K>>(k, weights, rows, x, scratch, prepared, out),
        other => unreachable!("{other} is not multiplied in fixed point"),
    }
}

#[inline(always)]
fn typed<K: FixedDot, B: FixedType>(
    k: K,
    weights: &DenseWeight,
    rows: Range<usize>,
    x: ActivationView<'_>,
    scratch: &mut [Line],
    prepared: &mut PreparedInput,
    mut out: MatMut<'_, f32>,
) {
    let blocks = weights.cols() / BLOCK;
    // Room for other products may be longer, and no whole number of blocks.
    let lines = TOKENS * blocks * (size_of::<B::Activations>() / LINE);
    let fixed: &mut [B::Activations] = bytemuck::cast_slice_mut(&mut scratch[..lines]);
    for first in (0..x.tokens()).step_by(TOKENS) {
        let tokens = TOKENS.min(x.tokens() - first);
        if prepared.tokens != x.tokens() {
            for (token, factor) in prepared.factors.iter_mut().enumerate().take(tokens) {
                let row = Row::new(&x, first + token);
                let scale = fix::<K, B>(k, &row, &mut fixed[token..], blocks, tokens);
                // Of integers the product is divided by their scale as well.
                *factor = row.finish(1.0 / scale);
            }
            // All of them, or nothing that lasts.
            prepared.tokens = if x.tokens() <= TOKENS { tokens } else { 0 };
        }
        let factors = prepared.factors;
        // (block, token)
        let fixed = &fixed[..blocks * tokens];
        if tokens == 1 {
            let out = out.row_mut(first);
            for (row, y) in rows.clone().zip(out.iter_mut()) {
                *y = one::<K, B>(k, weights, row, fixed) * factors[0];
            }
            continue;
        }
        for start in rows.clone().step_by(STRIP) {
            let strip = start..rows.end.min(start + STRIP);
            // (row, token)
            let mut sums = [[0.0; LANES]; STRIP * TOKENS];
            let sums = &mut sums[..strip.len() * tokens];
            strip_of::<K, B>(k, weights, strip, fixed, tokens, sums);
            for (row, sums) in sums.chunks_exact(tokens).enumerate() {
                for (token, (sums, factor)) in sums.iter().zip(factors).enumerate() {
                    let y = k.simd().sum(k.simd().load(sums)) * factor;
                    out.row_mut(first + token)[start - rows.start + row] = y;
                }
            }
        }
    }
}

/// Makes the fixed-point form of a row: every `stride`th of `fixed`. Returns its s.
#[inline(always)]
fn fix<K: FixedDot, B: FixedType>(
    k: K,
    row: &Row<'_>,
    fixed: &mut [B::Activations],
    blocks: usize,
    stride: usize,
) -> f32 {
    let s = k.simd();
    let mut greatest = s.splat_i(0);
    for sixteen in 0..blocks * (BLOCK / LANES) {
        greatest = s.max_i(greatest, s.magnitude_bits(row.load(s, sixteen)));
    }
    let greatest = f32::from_bits(s.greatest_i(greatest) as u32);
    if !greatest.is_finite() {
        for index in 0..blocks {
            fixed[index * stride] = B::Activations::zeroed();
        }
        return f32::NAN;
    }
    let scale = B::GREATEST / greatest.max(1e-30);
    for index in 0..blocks {
        let block = &mut fixed[index * stride];
        let mut fours = [0; BLOCK / 4];
        for sixteen in 0..BLOCK / LANES {
            let mut lanes = [0.0; LANES];
            let x = row.load(s, index * (BLOCK / LANES) + sixteen);
            s.store(s.mul(x, s.splat(scale)), &mut lanes);
            let numbers = lanes.map(|lane| lane.round_ties_even() as i32);
            let mut digits = [[0i8; LANES]; 3];
            for (lane, &number) in numbers.iter().enumerate() {
                let mut number = number;
                for digit in (0..B::Activations::DIGITS).rev() {
                    let low = number as i8;
                    digits[digit][lane] = low;
                    number = (number - i32::from(low)) >> 8;
                }
            }
            for four in 0..LANES / 4 {
                let (group, lane) = B::place(4 * sixteen + four);
                for (bytes, digits) in block.digits_mut().iter_mut().zip(&digits) {
                    bytes[group][4 * lane..][..4].copy_from_slice(&digits[4 * four..][..4]);
                }
            }
            for (four, numbers) in numbers.as_chunks::<4>().0.iter().enumerate() {
                fours[4 * sixteen + four] = numbers.iter().sum();
            }
        }
        *block.rest_mut() = B::rest(&fours);
    }
    scale
}

/// One row with one token; not yet divided by s.
#[inline(always)]
fn one<K: FixedDot, B: FixedType>(
    k: K,
    weights: &DenseWeight,
    row: usize,
    fixed: &[B::Activations],
) -> f32 {
    let s = k.simd();
    let prefetch = weights.prefetch();
    let mut sums = [s.splat(0.0)];
    for (block, x) in weights.row(row).chunks_exact(B::BYTES).zip(fixed) {
        for byte in block.iter().step_by(LINE) {
            prefetch.ahead(byte);
        }
        B::add(k, &[B::take(k, block)], x, &mut sums);
    }
    s.sum(sums[0])
}

/// The rows of a strip with several tokens, panel by panel, added to `sums`.
#[inline(always)]
fn strip_of<K: FixedDot, B: FixedType>(
    k: K,
    weights: &DenseWeight,
    strip: Range<usize>,
    fixed: &[B::Activations],
    tokens: usize,
    sums: &mut [[f32; LANES]],
) {
    let blocks = fixed.len() / tokens;
    let panel = (PANEL_BYTES / (tokens * size_of::<B::Activations>())).max(1);
    // Two rows share what is read of activations, where registers hold the codes of both.
    let together = if K::S::WIDE { 2 } else { 1 };
    for start in (0..blocks).step_by(panel) {
        let columns = start * B::BYTES..blocks.min(start + panel) * B::BYTES;
        let x = &fixed[start * tokens..];
        let rows = strip.clone().step_by(together);
        for (row, sums) in rows.zip(sums.chunks_mut(together * tokens)) {
            let next = row + 1;
            if together == 2 && next < strip.end {
                let rows = [row, next].map(|row| &weights.row(row)[columns.clone()]);
                panel_of::<K, B, 2>(k, weights, rows, x, tokens, sums);
            } else {
                let row = &weights.row(row)[columns.clone()];
                panel_of::<K, B, 1>(k, weights, [row], x, tokens, sums);
            }
        }
    }
}

/// Some blocks of R rows with several tokens: their sums are (row, token), activations (block, token).
#[inline(always)]
fn panel_of<K: FixedDot, B: FixedType, const R: usize>(
    k: K,
    weights: &DenseWeight,
    rows: [&[u8]; R],
    x: &[B::Activations],
    tokens: usize,
    sums: &mut [[f32; LANES]],
) {
    let s = k.simd();
    let prefetch = weights.prefetch();
    let next_strip = STRIP * weights.row(0).len();
    let blocks = rows[0].len() / B::BYTES;
    for (index, x) in x.chunks_exact(tokens).enumerate().take(blocks) {
        let mut taken = [B::take(k, &rows[0][index * B::BYTES..][..B::BYTES]); R];
        prefetch.rows(&rows[0][index * B::BYTES..][..B::BYTES], next_strip);
        for r in 1..R {
            let block = &rows[r][index * B::BYTES..][..B::BYTES];
            prefetch.rows(block, next_strip);
            taken[r] = B::take(k, block);
        }
        for (token, x) in x.iter().enumerate() {
            let mut lanes = [s.splat(0.0); R];
            for r in 0..R {
                lanes[r] = s.load(&sums[r * tokens + token]);
            }
            B::add(k, &taken, x, &mut lanes);
            for r in 0..R {
                s.store(lanes[r], &mut sums[r * tokens + token]);
            }
        }
    }
}
