//! Products of Q4_K and Q6_K blocks in integers: the heads that models come with.
//!
//! Activations become fixed-point numbers of 24 bits, in three signed bytes, so that codes of four and six bits multiply
//! them by the instructions for bytes, exactly:
//!
//! ```text
//! s = 8,355,000 / max(max|x|, 1e−30)         X = round(x·s), ties to even = 2^16·h + 2^8·m + l,  h, m, l in −128 … 127
//! D = Σ_4 code·X = 2^8·(2^8·Σ code·h + Σ code·m) + Σ code·l                    (int32; of 4 weights, a lane)
//! Q4_K:  y = (Σ f32(D)·(d·sc) − Σ f32(ΣX of the sub-block)·(dmin·m)) · (1/s)
//! Q6_K:  y = (Σ f32(D − 32·Σ_4 X)·(d·sc)) · (1/s)
//! ```
//!
//! Outer sums are fused multiply-adds in sixteen lanes, blocks and groups of 64 weights ascending, lanes added by the fixed
//! tree. Rounding x to 2^−24 of the largest is what rounding to f32 would do to that one; a row that has an infinity or NaN
//! gives NaN.
//!
//! Bounds: |X| ≤ 8,355,001, whose bytes are in range. Q4_K: |D| ≤ 15·4·8,355,001 < 2^29. Q6_K: code·X sums to at most
//! 63·4·8,355,001 = 2.105e9 < 2^31.
//!
//! **Order.** Two stretches of 32 weights whose codes are in neighbouring or like-placed bytes are a group, so that nothing is
//! moved when codes are taken apart: Q4_K weights 64k… and 64k + 64…, Q6_K weights 32k… and 128 + 32k….

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod reference;

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use ryz_format::DType;
use ryz_tmac::{LINE, MatMut};

use super::{
    DenseWeight,
    blocks::{bytes, half},
    k_quants::words,
    matmul::Row,
};
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
/// Those that share a block that is taken apart.
const TOGETHER: usize = 4;
/// What the greatest activation becomes: its bytes, and those of one more, are in range.
const GREATEST: f32 = 8_355_000.0;

/// Activations of a block of weights.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct FixedBlock {
    /// (group, h m l, weight): the bytes of X.
    bytes: [[[i8; GROUP]; 3]; 4],
    /// What does not depend on codes: (group, lane) −32·Σ_4 X for Q6_K; for Q4_K the first line is ΣX of the 8 sub-blocks, as
    /// the bits of f32, and zeroes.
    rest: [[i32; LANES]; 4],
}

const _: () = assert!(size_of::<FixedBlock>().is_multiple_of(LINE));

/// What an instruction set gives to fixed-point products.
pub(crate) trait FixedDot: CodeDot {
    /// 64 bytes.
    type C: Copy;

    fn codes(self, bytes: &[u8; GROUP]) -> Self::C;
    /// 32 bytes and 32 others.
    fn join(self, low: &[u8; GROUP / 2], high: &[u8; GROUP / 2]) -> Self::C;
    /// (byte >> N) & mask, which has none of the N upper bits.
    fn right<const N: u32>(self, codes: Self::C, mask: u8) -> Self::C;
    /// (byte << N) & mask, which has none of the N lower bits.
    fn left<const N: u32>(self, codes: Self::C, mask: u8) -> Self::C;
    fn or(self, a: Self::C, b: Self::C) -> Self::C;
    /// Σ_4 code·x added to each lane.
    fn add_products(
        self,
        sums: <Self::S as Simd>::I,
        codes: Self::C,
        x: &[i8; GROUP],
    ) -> <Self::S as Simd>::I;
    /// 256 times each lane.
    fn times_256(self, sums: <Self::S as Simd>::I) -> <Self::S as Simd>::I;
    /// Lane l is `table[at[l / 4]]`.
    fn fours(self, table: &[f32; LANES], at: [usize; 4]) -> <Self::S as Simd>::F;
}

/// A type whose blocks are multiplied so.
trait FixedType {
    const BYTES: usize;
    /// Weights of which a block's second half of a group starts after the first.
    const APART: usize;
    /// Whether what does not depend on codes is an integer of each lane; else it is multiplied with minima.
    const OFFSETS: bool;

    /// The weight that a group starts with.
    fn start(group: usize) -> usize;
    /// Codes of the four groups.
    fn codes<K: FixedDot>(k: K, block: &[u8]) -> [K::C; 4];
    /// Scales of the sub-blocks, and minima.
    fn scales<K: FixedDot>(k: K, block: &[u8]) -> ([f32; LANES], [f32; LANES]);
    /// Which scales the fours of lanes of a group have.
    fn places(group: usize) -> [usize; 4];
}

struct Q4K;

impl FixedType for Q4K {
    const BYTES: usize = 144;
    const APART: usize = 64;
    const OFFSETS: bool = false;

    #[inline(always)]
    fn start(group: usize) -> usize {
        128 * (group / 2) + 32 * (group % 2)
    }

    #[inline(always)]
    fn codes<K: FixedDot>(k: K, block: &[u8]) -> [K::C; 4] {
        let (stretches, _) = bytes::<128>(block, 16).as_chunks::<GROUP>();
        let (a, b) = (k.codes(&stretches[0]), k.codes(&stretches[1]));
        [
            k.right::<0>(a, 15),
            k.right::<4>(a, 15),
            k.right::<0>(b, 15),
            k.right::<4>(b, 15),
        ]
    }

    #[inline(always)]
    fn scales<K: FixedDot>(k: K, block: &[u8]) -> ([f32; LANES], [f32; LANES]) {
        let s = k.simd();
        let [a, b, c] = words(block, 4);
        let six = |word: u32| word & 0x3f3f_3f3f;
        let above =
            |nibbles: u32, word: u32| nibbles & 0x0f0f_0f0f | (word >> 6 & 0x0303_0303) << 4;
        let scaled = |words: [u32; 2], factor: f32| {
            let integers: [i8; 8] = bytemuck::cast(words.map(u32::to_le));
            let mut sixteen = [0; LANES];
            sixteen[..8].copy_from_slice(&integers);
            let mut out = [0.0; LANES];
            s.store(s.mul(s.splat(factor), s.load_i8(&sixteen)), &mut out);
            out
        };
        (
            scaled([six(a), above(c, a)], half(s, block, 0)),
            scaled([six(b), above(c >> 4, b)], half(s, block, 2)),
        )
    }

    #[inline(always)]
    fn places(group: usize) -> [usize; 4] {
        let first = 4 * (group / 2) + group % 2;
        [first, first, first + 2, first + 2]
    }
}

struct Q6K;

impl FixedType for Q6K {
    const BYTES: usize = 210;
    const APART: usize = 128;
    const OFFSETS: bool = true;

    #[inline(always)]
    fn start(group: usize) -> usize {
        32 * group
    }

    #[inline(always)]
    fn codes<K: FixedDot>(k: K, block: &[u8]) -> [K::C; 4] {
        let (low, _) = bytes::<128>(block, 0).as_chunks::<32>();
        let (a, b) = (k.join(&low[0], &low[2]), k.join(&low[1], &low[3]));
        let high = k.codes(bytes(block, 128));
        [
            k.or(k.right::<0>(a, 15), k.left::<4>(high, 0x30)),
            k.or(k.right::<0>(b, 15), k.left::<2>(high, 0x30)),
            k.or(k.right::<4>(a, 15), k.right::<0>(high, 0x30)),
            k.or(k.right::<4>(b, 15), k.right::<2>(high, 0x30)),
        ]
    }

    #[inline(always)]
    fn scales<K: FixedDot>(k: K, block: &[u8]) -> ([f32; LANES], [f32; LANES]) {
        let s = k.simd();
        let integers: &[i8; LANES] = bytemuck::cast_ref(bytes::<16>(block, 192));
        let mut scales = [0.0; LANES];
        s.store(
            s.mul(s.splat(half(s, block, 208)), s.load_i8(integers)),
            &mut scales,
        );
        (scales, [0.0; LANES])
    }

    #[inline(always)]
    fn places(group: usize) -> [usize; 4] {
        [2 * group, 2 * group + 1, 8 + 2 * group, 9 + 2 * group]
    }
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
    out: MatMut<'_, f32>,
) {
    match weights.dtype() {
        DType::Q4K => typed::<K, Q4K>(k, weights, rows, x, scratch, out),
        DType::Q6K => typed::<K, Q6K>(k, weights, rows, x, scratch, out),
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
    mut out: MatMut<'_, f32>,
) {
    let blocks = weights.cols() / BLOCK;
    let fixed: &mut [FixedBlock] = bytemuck::cast_slice_mut(scratch);
    let fixed = &mut fixed[..TOKENS * blocks];
    for first in (0..x.tokens()).step_by(TOKENS) {
        let tokens = TOKENS.min(x.tokens() - first);
        let mut factors = [0.0; TOKENS];
        for (token, fixed) in fixed.chunks_exact_mut(blocks).take(tokens).enumerate() {
            let row = Row::new(&x, first + token);
            // Of integers the product is divided by their scale as well.
            factors[token] = row.finish(1.0 / fix::<K, B>(k, &row, fixed));
        }
        for row in rows.clone() {
            let mut token = 0;
            while token < tokens {
                let many = if token + TOGETHER <= tokens {
                    TOGETHER
                } else {
                    1
                };
                let fixed = &fixed[token * blocks..][..many * blocks];
                let mut y = [0.0; TOGETHER];
                if many == TOGETHER {
                    y = row_of::<K, B, TOGETHER>(k, weights, row, fixed);
                } else {
                    [y[0]] = row_of::<K, B, 1>(k, weights, row, fixed);
                }
                for (t, y) in y.into_iter().take(many).enumerate() {
                    out.row_mut(first + token + t)[row - rows.start] = y * factors[token + t];
                }
                token += many;
            }
        }
    }
}

/// Makes the fixed-point form of a row: its s.
#[inline(always)]
fn fix<K: FixedDot, B: FixedType>(k: K, row: &Row<'_>, fixed: &mut [FixedBlock]) -> f32 {
    let s = k.simd();
    let sixteens = fixed.len() * (BLOCK / LANES);
    let mut greatest = s.splat_i(0);
    for sixteen in 0..sixteens {
        greatest = s.max_i(greatest, s.magnitude_bits(row.load(s, sixteen)));
    }
    let greatest = f32::from_bits(s.greatest_i(greatest) as u32);
    if !greatest.is_finite() {
        fixed.fill(FixedBlock::zeroed());
        return f32::NAN;
    }
    let scale = GREATEST / greatest.max(1e-30);
    for (index, block) in fixed.iter_mut().enumerate() {
        let mut sums = [0i32; LANES];
        for group in 0..4 {
            for part in 0..GROUP / LANES {
                // Two sixteens of each half of the group.
                let weight = B::start(group) + B::APART * (part / 2) + LANES * (part % 2);
                let sixteen = (index * BLOCK + weight) / LANES;
                let mut lanes = [0.0; LANES];
                s.store(s.mul(row.load(s, sixteen), s.splat(scale)), &mut lanes);
                let mut numbers = [0i32; LANES];
                for (number, lane) in numbers.iter_mut().zip(lanes) {
                    *number = lane.round_ties_even() as i32;
                }
                let [high, middle, low] = &mut block.bytes[group];
                let place = LANES * part..LANES * (part + 1);
                let bytes = high[place.clone()]
                    .iter_mut()
                    .zip(&mut middle[place.clone()]);
                let bytes = bytes.zip(&mut low[place]);
                for (((high, middle), low), &number) in bytes.zip(&numbers) {
                    *low = number as i8;
                    let rest = (number - i32::from(*low)) >> 8;
                    *middle = rest as i8;
                    *high = ((rest - i32::from(*middle)) >> 8) as i8;
                }
                if B::OFFSETS {
                    let offsets = &mut block.rest[group][4 * part..4 * part + 4];
                    for (offset, four) in offsets.iter_mut().zip(numbers.as_chunks::<4>().0) {
                        *offset = -32 * four.iter().sum::<i32>();
                    }
                } else {
                    // Below 2^28.
                    sums[weight / 32] += numbers.iter().sum::<i32>();
                }
            }
        }
        if !B::OFFSETS {
            block.rest[0] = sums.map(|sum| (sum as f32).to_bits() as i32);
        }
    }
    scale
}

/// One row with T tokens, whose fixed-point forms follow one another; not yet divided by s.
#[inline(always)]
fn row_of<K: FixedDot, B: FixedType, const T: usize>(
    k: K,
    weights: &DenseWeight,
    row: usize,
    fixed: &[FixedBlock],
) -> [f32; T] {
    let s = k.simd();
    let row = weights.row(row);
    let blocks = row.len() / B::BYTES;
    let prefetch = weights.prefetch();
    let mut sums = [s.splat(0.0); T];
    let mut minima = [s.splat(0.0); T];
    for (index, block) in row.chunks_exact(B::BYTES).enumerate() {
        for byte in block.iter().step_by(LINE) {
            prefetch.ahead(byte);
        }
        let codes = B::codes(k, block);
        let (scales, of_minima) = B::scales(k, block);
        for t in 0..T {
            let x = &fixed[t * blocks + index];
            for group in 0..4 {
                let [high, middle, low] = &x.bytes[group];
                let d = k.add_products(s.splat_i(0), codes[group], high);
                let d = k.add_products(k.times_256(d), codes[group], middle);
                let mut d = k.add_products(k.times_256(d), codes[group], low);
                if B::OFFSETS {
                    d = s.add_i(d, s.load_i(&x.rest[group]));
                }
                let scale = k.fours(&scales, B::places(group));
                sums[t] = s.fma(s.to_f32(d), scale, sums[t]);
            }
            if !B::OFFSETS {
                let of_blocks: &[f32; LANES] = bytemuck::cast_ref(&x.rest[0]);
                minima[t] = s.fma(s.load(of_blocks), s.load(&of_minima), minima[t]);
            }
        }
    }
    let mut y = [0.0; T];
    for t in 0..T {
        y[t] = s.sum(sums[t]);
        if !B::OFFSETS {
            y[t] -= s.sum(minima[t]);
        }
    }
    y
}
