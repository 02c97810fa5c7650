//! Q4_K and Q6_K: how a block is taken apart, and which weights meet in a lane.

use super::{BLOCK, CoarseBlock, FixedActivations, FixedBlock, FixedDot};
use crate::{
    dense::{
        blocks::{bytes, half},
        k_quants::words,
    },
    simd::{LANES, Simd},
};

/// The sums of four X of a block, in the order of the weights.
pub(super) type Fours = [i32; BLOCK / 4];

/// A block's weights in registers.
#[derive(Clone, Copy)]
pub(super) struct BlockRegisters<K: FixedDot> {
    /// Of the four groups.
    codes: [K::C; 4],
    /// Of each lane of a sum.
    scales: <K::S as Simd>::F,
    /// Of the sub-blocks.
    minima: <K::S as Simd>::F,
}

/// A type whose blocks are multiplied in fixed point.
pub(super) trait FixedType {
    /// What activations become.
    type Activations: FixedActivations;

    const BYTES: usize;

    /// What the greatest activation becomes: its bytes, and those of one more, are in range, and so are the sums.
    const GREATEST: f32;

    /// The group of the four weights `four` of a block, and the lane in which they meet.
    fn place(four: usize) -> (usize, usize);

    /// What does not depend on codes.
    fn rest(fours: &Fours) -> [i32; LANES];

    fn take<K: FixedDot>(k: K, block: &[u8]) -> BlockRegisters<K>;

    /// The products of a block of each of R rows added to `sums`.
    fn add<K: FixedDot, const R: usize>(
        k: K,
        weights: &[BlockRegisters<K>; R],
        x: &Self::Activations,
        sums: &mut [<K::S as Simd>::F; R],
    );
}

/// A type by which blocks are multiplied with activations of any number of digits.
pub(super) trait BlockType: FixedType {
    /// [`FixedType::add`].
    fn add_digits<K: FixedDot, X: FixedActivations, const R: usize>(
        k: K,
        weights: &[BlockRegisters<K>; R],
        x: &X,
        sums: &mut [<K::S as Simd>::F; R],
    );

    /// Adds the squares of a block's weights to the first sum, and to the second those of what they are made of: of code and
    /// minimum, twice.
    fn add_squares<K: FixedDot>(k: K, block: &[u8], sums: &mut [<K::S as Simd>::F; 2]);
}

/// T with activations of one byte.
pub(super) struct ByteActivations<T>(T);

impl<T: BlockType> FixedType for ByteActivations<T> {
    type Activations = CoarseBlock;

    const BYTES: usize = T::BYTES;

    const GREATEST: f32 = 127.0;

    #[inline(always)]
    fn place(four: usize) -> (usize, usize) {
        T::place(four)
    }

    #[inline(always)]
    fn rest(fours: &Fours) -> [i32; LANES] {
        T::rest(fours)
    }

    #[inline(always)]
    fn take<K: FixedDot>(k: K, block: &[u8]) -> BlockRegisters<K> {
        T::take(k, block)
    }

    #[inline(always)]
    fn add<K: FixedDot, const R: usize>(
        k: K,
        weights: &[BlockRegisters<K>; R],
        x: &CoarseBlock,
        sums: &mut [<K::S as Simd>::F; R],
    ) {
        T::add_digits(k, weights, x, sums);
    }
}

/// Σ code·X of each lane, and `low`, for each of R rows. N groups of products fit in int16 together.
#[inline(always)]
fn products<K: FixedDot, X: FixedActivations, const N: usize, const R: usize>(
    k: K,
    weights: &[BlockRegisters<K>; R],
    x: &X,
    low: <K::S as Simd>::I,
) -> [<K::S as Simd>::I; R] {
    let s = k.simd();
    let zero = s.splat_i(0);
    let mut all = [zero; R];
    for digit in 0..X::DIGITS {
        let bytes = &x.digits()[digit];
        let mut lines = [k.activations(&bytes[0]); 4];
        for group in 1..4 {
            lines[group] = k.activations(&bytes[group]);
        }
        for row in 0..R {
            let codes = &weights[row].codes;
            let low = if digit + 1 == X::DIGITS { low } else { zero };
            let of_digit = if N == 4 && !K::IN_INT32 {
                k.add_products(low, *codes, lines)
            } else {
                // Two chains, which do not wait for each other.
                let first = k.add_products(low, [codes[0], codes[1]], [lines[0], lines[1]]);
                let second = k.add_products(zero, [codes[2], codes[3]], [lines[2], lines[3]]);
                s.add_i(first, second)
            };
            all[row] = match digit {
                0 => of_digit,
                _ => k.times_256_and(all[row], of_digit),
            };
        }
    }
    all
}

pub(super) struct Q4K;

/// The six-bit scales and minima of the eight sub-blocks of a block of Q4_K.
#[inline(always)]
fn scales_and_minima(block: &[u8]) -> [[u32; 2]; 2] {
    let [a, b, c] = words(block, 4);
    let six = |word: u32| word & 0x3f3f_3f3f;
    let above = |nibbles: u32, word: u32| nibbles & 0x0f0f_0f0f | (word >> 6 & 0x0303_0303) << 4;
    let (scales, minima) = ([six(a), above(c, a)], [six(b), above(c >> 4, b)]);
    [scales.map(u32::to_le), minima.map(u32::to_le)]
}

/// The sub-block of Q4_K, of the eight that a half of the lanes holds, to which each lane belongs.
const SUB_BLOCKS: [usize; LANES] = [0, 0, 2, 2, 4, 4, 6, 6, 1, 1, 3, 3, 5, 5, 7, 7];

impl FixedType for Q4K {
    type Activations = FixedBlock;

    const BYTES: usize = 144;

    const GREATEST: f32 = 8_355_000.0;

    #[inline(always)]
    fn place(four: usize) -> (usize, usize) {
        let (sub_block, part, last) = (four / 8, four / 2 % 4, four % 2);
        (part, 8 * (sub_block % 2) + sub_block / 2 * 2 + last)
    }

    #[inline(always)]
    fn rest(fours: &Fours) -> [i32; LANES] {
        let mut lanes = [0; LANES];
        for (lane, fours) in lanes.iter_mut().zip(fours.as_chunks::<8>().0) {
            // Below 2^28.
            *lane = (-fours.iter().sum::<i32>() as f32).to_bits() as i32;
        }
        lanes
    }

    #[inline(always)]
    fn take<K: FixedDot>(k: K, block: &[u8]) -> BlockRegisters<K> {
        let s = k.simd();
        let [[low, high], minima] = scales_and_minima(block);
        let scales: [i8; LANES] = bytemuck::cast([low, high, low, high]);
        let minima: [i8; LANES] = bytemuck::cast([minima[0], minima[1], 0, 0]);
        let scales = s.mul(s.splat(half(s, block, 0)), s.load_i8(&scales));
        BlockRegisters {
            codes: k.nibbles(bytes(block, 16)),
            scales: k.permute_eights(scales, SUB_BLOCKS),
            minima: s.mul(s.splat(half(s, block, 2)), s.load_i8(&minima)),
        }
    }

    #[inline(always)]
    fn add<K: FixedDot, const R: usize>(
        k: K,
        weights: &[BlockRegisters<K>; R],
        x: &FixedBlock,
        sums: &mut [<K::S as Simd>::F; R],
    ) {
        Self::add_digits(k, weights, x, sums);
    }
}

impl BlockType for Q4K {
    #[inline(always)]
    fn add_digits<K: FixedDot, X: FixedActivations, const R: usize>(
        k: K,
        weights: &[BlockRegisters<K>; R],
        x: &X,
        sums: &mut [<K::S as Simd>::F; R],
    ) {
        let s = k.simd();
        let of_codes = products::<K, X, 4, R>(k, weights, x, s.splat_i(0));
        let rest = s.load(bytemuck::cast_ref(x.rest()));
        for row in 0..R {
            let BlockRegisters { scales, minima, .. } = weights[row];
            sums[row] = s.fma(rest, minima, sums[row]);
            sums[row] = s.fma(s.to_f32(of_codes[row]), scales, sums[row]);
        }
    }

    #[inline(always)]
    fn add_squares<K: FixedDot>(k: K, block: &[u8], sums: &mut [<K::S as Simd>::F; 2]) {
        let s = k.simd();
        let BlockRegisters { codes, scales, .. } = Self::take(k, block);
        let [_, [low, high]] = scales_and_minima(block);
        let minima: [i8; LANES] = bytemuck::cast([low, high, low, high]);
        let minima = s.mul(s.splat(half(s, block, 2)), s.load_i8(&minima));
        let minima = k.permute_eights(minima, SUB_BLOCKS);
        let ones = k.activations(&[1; 64]);
        let (mut squares, mut plain) = (s.splat_i(0), s.splat_i(0));
        for codes in codes {
            squares = k.add_products(squares, [codes], [k.as_activations(codes)]);
            plain = k.add_products(plain, [codes], [ones]);
        }
        // Sixteen weights a lane: Σ (s·c − m)² = s²·Σc² − 2·s·m·Σc + 16·m².
        let of_codes = s.mul(s.mul(scales, scales), s.to_f32(squares));
        let of_minima = s.mul(s.mul(minima, minima), s.splat(16.0));
        let both = s.add(of_codes, of_minima);
        let mixed = s.mul(s.mul(scales, minima), s.to_f32(plain));
        sums[0] = s.add(sums[0], s.fma(mixed, s.splat(-2.0), both));
        sums[1] = s.fma(both, s.splat(2.0), sums[1]);
    }
}

pub(super) struct Q6K;

impl FixedType for Q6K {
    type Activations = FixedBlock;

    const BYTES: usize = 210;

    const GREATEST: f32 = 4_190_000.0;

    #[inline(always)]
    fn place(four: usize) -> (usize, usize) {
        let (sub_block, word) = (four / 4, four % 4);
        let (half, quarter, stretch) = (sub_block / 8, sub_block / 2 % 4, sub_block % 2);
        (word, 8 * half + 4 * stretch + quarter)
    }

    #[inline(always)]
    fn rest(fours: &Fours) -> [i32; LANES] {
        let mut lanes = [0; LANES];
        for (four, sum) in fours.iter().enumerate() {
            lanes[Self::place(four).1] -= 32 * sum;
        }
        lanes
    }

    #[inline(always)]
    fn take<K: FixedDot>(k: K, block: &[u8]) -> BlockRegisters<K> {
        let s = k.simd();
        // Quarters 0 and 2, and 1 and 3, of both halves; their upper bits.
        let (low, _) = bytes::<128>(block, 0).as_chunks::<32>();
        let low = k.interleave_fours(k.join(&low[0], &low[2]), k.join(&low[1], &low[3]));
        let high = k.codes(bytes(block, 128));
        let high = k.interleave_fours(high, k.right::<2>(high, 0xff));
        // (words 0 and 1, words 2 and 3) of quarters 0 and 1, and of 2 and 3.
        let mut even = low;
        let mut odd = low;
        for words in 0..2 {
            let (low, high) = (low[words], high[words]);
            even[words] = k.or(k.right::<0>(low, 15), k.left::<4>(high, 0x30));
            odd[words] = k.or(k.right::<4>(low, 15), k.right::<0>(high, 0x30));
        }
        let [a, b] = k.interleave_eights(even[0], odd[0]);
        let [c, d] = k.interleave_eights(even[1], odd[1]);
        let integers: &[i8; LANES] = bytemuck::cast_ref(bytes::<16>(block, 192));
        let scales = s.mul(s.splat(half(s, block, 208)), s.load_i8(integers));
        BlockRegisters {
            codes: [a, b, c, d],
            scales: k.permute_eights(scales, [0, 2, 4, 6, 1, 3, 5, 7, 0, 2, 4, 6, 1, 3, 5, 7]),
            minima: s.splat(0.0),
        }
    }

    #[inline(always)]
    fn add<K: FixedDot, const R: usize>(
        k: K,
        weights: &[BlockRegisters<K>; R],
        x: &FixedBlock,
        sums: &mut [<K::S as Simd>::F; R],
    ) {
        Self::add_digits(k, weights, x, sums);
    }
}

impl BlockType for Q6K {
    #[inline(always)]
    fn add_digits<K: FixedDot, X: FixedActivations, const R: usize>(
        k: K,
        weights: &[BlockRegisters<K>; R],
        x: &X,
        sums: &mut [<K::S as Simd>::F; R],
    ) {
        let s = k.simd();
        let of_codes = products::<K, X, 2, R>(k, weights, x, s.load_i(x.rest()));
        for row in 0..R {
            sums[row] = s.fma(s.to_f32(of_codes[row]), weights[row].scales, sums[row]);
        }
    }

    #[inline(always)]
    fn add_squares<K: FixedDot>(k: K, block: &[u8], sums: &mut [<K::S as Simd>::F; 2]) {
        let s = k.simd();
        let BlockRegisters { codes, scales, .. } = Self::take(k, block);
        // Sixteen weights a lane: Σ (c − 32)² = Σ c² − 64·Σc + 16·1024.
        let minus = k.activations(&[-64; 64]);
        let mut squares = s.splat_i(16 * 1024);
        for codes in codes {
            squares = k.add_products(squares, [codes], [k.as_activations(codes)]);
            squares = k.add_products(squares, [codes], [minus]);
        }
        let squares = s.mul(s.mul(scales, scales), s.to_f32(squares));
        sums[0] = s.add(sums[0], squares);
        sums[1] = s.add(sums[1], squares);
    }
}
