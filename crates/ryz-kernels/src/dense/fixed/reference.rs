//! The portable fixed-point products, and the reference of the others.

use super::{FixedDot, GROUP};
use crate::{simd::LANES, ternary::ScalarCodes};

impl FixedDot for ScalarCodes {
    type C = [u8; GROUP];

    #[inline(always)]
    fn codes(self, bytes: &[u8; GROUP]) -> [u8; GROUP] {
        *bytes
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
    fn add_products(
        self,
        mut sums: [i32; LANES],
        codes: [u8; GROUP],
        x: &[i8; GROUP],
    ) -> [i32; LANES] {
        let products = codes.as_chunks::<4>().0.iter().zip(x.as_chunks::<4>().0);
        for (sum, (codes, x)) in sums.iter_mut().zip(products) {
            for (&code, &x) in codes.iter().zip(x) {
                *sum += i32::from(code) * i32::from(x);
            }
        }
        sums
    }

    #[inline(always)]
    fn times_256(self, sums: [i32; LANES]) -> [i32; LANES] {
        sums.map(|sum| sum << 8)
    }

    #[inline(always)]
    fn fours(self, table: &[f32; LANES], at: [usize; 4]) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        for (lanes, at) in lanes.as_chunks_mut::<4>().0.iter_mut().zip(at) {
            *lanes = [table[at]; 4];
        }
        lanes
    }
}
