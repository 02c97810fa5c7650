//! The portable fixed-point products, and the reference of the others.

use super::{FixedDot, GROUP};
use crate::{simd::LANES, ternary::ScalarCodes};

impl FixedDot for ScalarCodes {
    type C = [u8; GROUP];
    type X = [i8; GROUP];

    const IN_INT32: bool = true;

    #[inline(always)]
    fn codes(self, bytes: &[u8; GROUP]) -> [u8; GROUP] {
        *bytes
    }

    #[inline(always)]
    fn activations(self, bytes: &[i8; GROUP]) -> [i8; GROUP] {
        *bytes
    }

    #[inline(always)]
    fn as_activations(self, codes: [u8; GROUP]) -> [i8; GROUP] {
        codes.map(|code| code as i8)
    }

    #[inline(always)]
    fn join(self, low: &[u8; GROUP / 2], high: &[u8; GROUP / 2]) -> [u8; GROUP] {
        let mut codes = [0; GROUP];
        codes[..GROUP / 2].copy_from_slice(low);
        codes[GROUP / 2..].copy_from_slice(high);
        codes
    }

    #[inline(always)]
    fn right<const N: u32>(self, codes: [u8; GROUP], mask: u8) -> [u8; GROUP] {
        codes.map(|byte| byte >> N & mask)
    }

    #[inline(always)]
    fn left<const N: u32>(self, codes: [u8; GROUP], mask: u8) -> [u8; GROUP] {
        codes.map(|byte| byte << N & mask)
    }

    #[inline(always)]
    fn or(self, mut a: [u8; GROUP], b: [u8; GROUP]) -> [u8; GROUP] {
        a.iter_mut().zip(b).for_each(|(a, b)| *a |= b);
        a
    }

    #[inline(always)]
    fn interleave_fours(self, a: [u8; GROUP], b: [u8; GROUP]) -> [[u8; GROUP]; 2] {
        interleave::<4>(&a, &b)
    }

    #[inline(always)]
    fn interleave_eights(self, a: [u8; GROUP], b: [u8; GROUP]) -> [[u8; GROUP]; 2] {
        interleave::<8>(&a, &b)
    }

    #[inline(always)]
    fn nibbles(self, bytes: &[u8; 2 * GROUP]) -> [[u8; GROUP]; 4] {
        let mut out = [[0; GROUP]; 4];
        for (place, eight) in bytes.as_chunks::<8>().0.iter().enumerate() {
            let (stretch, j) = (place / 4, place % 4);
            let eights = out[j].as_chunks_mut().0;
            eights[stretch] = eight.map(|byte| byte & 15);
            eights[4 + stretch] = eight.map(|byte| byte >> 4);
        }
        out
    }

    #[inline(always)]
    fn add_products<const N: usize>(
        self,
        mut sums: [i32; LANES],
        codes: [[u8; GROUP]; N],
        x: [[i8; GROUP]; N],
    ) -> [i32; LANES] {
        for (codes, x) in codes.iter().zip(x) {
            let products = codes.as_chunks::<4>().0.iter().zip(x.as_chunks::<4>().0);
            for (sum, (codes, x)) in sums.iter_mut().zip(products) {
                for (&code, &x) in codes.iter().zip(x) {
                    *sum += i32::from(code) * i32::from(x);
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn times_256_and(self, upper: [i32; LANES], low: [i32; LANES]) -> [i32; LANES] {
        std::array::from_fn(|lane| (upper[lane] << 8).wrapping_add(low[lane]))
    }

    #[inline(always)]
    fn permute_eights(self, table: [f32; LANES], at: [usize; LANES]) -> [f32; LANES] {
        std::array::from_fn(|lane| table[lane / 8 * 8 + at[lane]])
    }
}

/// Pieces of N bytes of `a` and `b` in turn: of the first half of each sixteen, and of the second.
fn interleave<const N: usize>(a: &[u8; GROUP], b: &[u8; GROUP]) -> [[u8; GROUP]; 2] {
    let mut out = [[0; GROUP]; 2];
    for (half, out) in out.iter_mut().enumerate() {
        let sixteens = a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0);
        for (out, (a, b)) in out.as_chunks_mut::<16>().0.iter_mut().zip(sixteens) {
            let pieces = a[8 * half..][..8]
                .chunks(N)
                .zip(b[8 * half..][..8].chunks(N));
            for (out, (a, b)) in out.chunks_mut(2 * N).zip(pieces) {
                out[..N].copy_from_slice(a);
                out[N..].copy_from_slice(b);
            }
        }
    }
    out
}
