//! Q4_K and Q6_K: how a block is taken apart, and which weights meet in a lane.

use super::{BLOCK, FixedBlock, FixedDot};
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
pub(super) struct Taken<K: FixedDot> {
    /// Of the four groups.
    codes: [K::C; 4],
    /// Of each lane of a sum.
    scales: [<K::S as Simd>::F; 2],
    /// Of the sub-blocks.
    minima: <K::S as Simd>::F,
}

/// A type whose blocks are multiplied in fixed point.
pub(super) trait FixedType {
    const BYTES: usize;

    /// The group of the eight weights `eight` of a block, and which of its eights they are.
    fn place(eight: usize) -> (usize, usize);

    /// What does not depend on codes.
    fn rest(fours: &Fours) -> [[i32; LANES]; 2];

    fn take<K: FixedDot>(k: K, block: &[u8]) -> Taken<K>;

    /// The products of a block of each of R rows added to `sums`.
    fn add<K: FixedDot, const R: usize>(
        k: K,
        weights: &[Taken<K>; R],
        x: &FixedBlock,
        sums: &mut [<K::S as Simd>::F; R],
    );
}

/// Σ code·X of N groups from group `first` on, and `low`, for each of R rows.
#[inline(always)]
fn products<K: FixedDot, const N: usize, const R: usize>(
    k: K,
    weights: &[Taken<K>; R],
    x: &FixedBlock,
    first: usize,
    low: <K::S as Simd>::I,
) -> [<K::S as Simd>::I; R] {
    let zero = k.simd().splat_i(0);
    let mut sums = [zero; R];
    for digit in 0..3 {
        let mut lines = [k.activations(&x.bytes[first][digit]); N];
        for group in 1..N {
            lines[group] = k.activations(&x.bytes[first + group][digit]);
        }
        for row in 0..R {
            let mut codes = [weights[row].codes[first]; N];
            codes.copy_from_slice(&weights[row].codes[first..first + N]);
            // Three chains that do not wait for each other.
            let of_digit = k.add_products(if digit == 2 { low } else { zero }, codes, lines);
            sums[row] = match digit {
                0 => of_digit,
                _ => k.times_256_and(sums[row], of_digit),
            };
        }
    }
    sums
}

pub(super) struct Q4K;

impl FixedType for Q4K {
    const BYTES: usize = 144;

    #[inline(always)]
    fn place(eight: usize) -> (usize, usize) {
        let (sub_block, part) = (eight / 4, eight % 4);
        (part, 4 * (sub_block % 2) + sub_block / 2)
    }

    #[inline(always)]
    fn rest(fours: &Fours) -> [[i32; LANES]; 2] {
        let mut lanes = [0; LANES];
        for (lane, fours) in lanes.iter_mut().zip(fours.as_chunks::<8>().0) {
            // Below 2^28.
            *lane = (-fours.iter().sum::<i32>() as f32).to_bits() as i32;
        }
        [lanes, [0; LANES]]
    }

    #[inline(always)]
    fn take<K: FixedDot>(k: K, block: &[u8]) -> Taken<K> {
        let s = k.simd();
        let [a, b, c] = words(block, 4);
        let six = |word: u32| word & 0x3f3f_3f3f;
        let above =
            |nibbles: u32, word: u32| nibbles & 0x0f0f_0f0f | (word >> 6 & 0x0303_0303) << 4;
        let (scales, minima) = ([six(a), above(c, a)], [six(b), above(c >> 4, b)]);
        let [low, high] = scales.map(u32::to_le);
        let scales: [i8; LANES] = bytemuck::cast([low, high, low, high]);
        let [low, high] = minima.map(u32::to_le);
        let minima: [i8; LANES] = bytemuck::cast([low, high, 0, 0]);
        let scales = s.mul(s.splat(half(s, block, 0)), s.load_i8(&scales));
        let even_and_odd = k.twos(scales, [0, 2, 4, 6, 1, 3, 5, 7]);
        Taken {
            codes: k.nibbles(bytes(block, 16)),
            scales: [even_and_odd; 2],
            minima: s.mul(s.splat(half(s, block, 2)), s.load_i8(&minima)),
        }
    }

    #[inline(always)]
    fn add<K: FixedDot, const R: usize>(
        k: K,
        weights: &[Taken<K>; R],
        x: &FixedBlock,
        sums: &mut [<K::S as Simd>::F; R],
    ) {
        let s = k.simd();
        let of_codes = products::<K, 4, R>(k, weights, x, 0, s.splat_i(0));
        let rest = s.load(bytemuck::cast_ref(&x.rest[0]));
        for row in 0..R {
            let Taken { scales, minima, .. } = weights[row];
            sums[row] = s.fma(rest, minima, sums[row]);
            sums[row] = s.fma(s.to_f32(of_codes[row]), scales[0], sums[row]);
        }
    }
}

pub(super) struct Q6K;

impl FixedType for Q6K {
    const BYTES: usize = 210;

    #[inline(always)]
    fn place(eight: usize) -> (usize, usize) {
        let (sub_block, part) = (eight / 2, eight % 2);
        let (half, quarter, stretch) = (sub_block / 8, sub_block / 2 % 4, sub_block % 2);
        (
            2 * (quarter / 2) + part,
            4 * half + 2 * stretch + quarter % 2,
        )
    }

    #[inline(always)]
    fn rest(fours: &Fours) -> [[i32; LANES]; 2] {
        let mut lanes = [[0; LANES]; 2];
        for (eight, &[a, b]) in fours.as_chunks::<2>().0.iter().enumerate() {
            let (group, place) = Self::place(eight);
            lanes[group / 2][2 * place] -= 32 * a;
            lanes[group / 2][2 * place + 1] -= 32 * b;
        }
        lanes
    }

    #[inline(always)]
    fn take<K: FixedDot>(k: K, block: &[u8]) -> Taken<K> {
        let s = k.simd();
        let (low, _) = bytes::<128>(block, 0).as_chunks::<32>();
        let low = k.interleave(k.join(&low[0], &low[2]), k.join(&low[1], &low[3]));
        let high = k.codes(bytes(block, 128));
        let high = k.interleave(high, k.right::<2>(high, 0xff));
        let integers: &[i8; LANES] = bytemuck::cast_ref(bytes::<16>(block, 192));
        let scales = s.mul(s.splat(half(s, block, 208)), s.load_i8(integers));
        Taken {
            codes: [
                k.or(k.right::<0>(low[0], 15), k.left::<4>(high[0], 0x30)),
                k.or(k.right::<0>(low[1], 15), k.left::<4>(high[1], 0x30)),
                k.or(k.right::<4>(low[0], 15), k.right::<0>(high[0], 0x30)),
                k.or(k.right::<4>(low[1], 15), k.right::<0>(high[1], 0x30)),
            ],
            scales: [
                k.twos(scales, [0, 2, 1, 3, 0, 2, 1, 3]),
                k.twos(scales, [4, 6, 5, 7, 4, 6, 5, 7]),
            ],
            minima: s.splat(0.0),
        }
    }

    #[inline(always)]
    fn add<K: FixedDot, const R: usize>(
        k: K,
        weights: &[Taken<K>; R],
        x: &FixedBlock,
        sums: &mut [<K::S as Simd>::F; R],
    ) {
        let s = k.simd();
        for part in 0..2 {
            let rest = s.load_i(&x.rest[part]);
            let of_codes = products::<K, 2, R>(k, weights, x, 2 * part, rest);
            for row in 0..R {
                sums[row] = s.fma(
                    s.to_f32(of_codes[row]),
                    weights[row].scales[part],
                    sums[row],
                );
            }
        }
    }
}
