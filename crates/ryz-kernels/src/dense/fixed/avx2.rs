//! Fixed-point products in 256-bit registers, two for a group.
//!
//! `maddubs` adds two products into int16: 63·128·2 = 16,128 fits.

use std::arch::x86_64::*;

use super::{FixedDot, GROUP};
use crate::{
    simd::LANES,
    ternary::{Avx2Codes, AvxVnniCodes},
};

/// An intrinsic on registers alone.
macro_rules! isa {
    ($intrinsic:expr) => {
        // SAFETY: a token of a level with AVX2 (and AVX-VNNI, where it is used) exists; nothing else is asked of registers.
        unsafe { $intrinsic }
    };
}

#[inline(always)]
fn load<T: bytemuck::Pod>(bytes: &[T; GROUP / 2]) -> __m256i {
    const { assert!(size_of::<T>() == 1) }
    // SAFETY: a reference to 32 bytes, read unaligned; callers hold a token, so the CPU has AVX.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// What both tokens do alike.
macro_rules! in_256_bits {
    () => {
        type C = [__m256i; 2];

        #[inline(always)]
        fn codes(self, bytes: &[u8; GROUP]) -> [__m256i; 2] {
            let (halves, _) = bytes.as_chunks();
            [load(&halves[0]), load(&halves[1])]
        }

        #[inline(always)]
        fn join(self, low: &[u8; GROUP / 2], high: &[u8; GROUP / 2]) -> [__m256i; 2] {
            [load(low), load(high)]
        }

        #[inline(always)]
        fn right<const N: u32>(self, codes: [__m256i; 2], mask: u8) -> [__m256i; 2] {
            let mask = isa!(_mm256_set1_epi8(mask as i8));
            let count = isa!(_mm_cvtsi32_si128(N as i32));
            [
                isa!(_mm256_and_si256(_mm256_srl_epi16(codes[0], count), mask)),
                isa!(_mm256_and_si256(_mm256_srl_epi16(codes[1], count), mask)),
            ]
        }

        #[inline(always)]
        fn left<const N: u32>(self, codes: [__m256i; 2], mask: u8) -> [__m256i; 2] {
            let mask = isa!(_mm256_set1_epi8(mask as i8));
            let count = isa!(_mm_cvtsi32_si128(N as i32));
            [
                isa!(_mm256_and_si256(_mm256_sll_epi16(codes[0], count), mask)),
                isa!(_mm256_and_si256(_mm256_sll_epi16(codes[1], count), mask)),
            ]
        }

        #[inline(always)]
        fn or(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
            [
                isa!(_mm256_or_si256(a[0], b[0])),
                isa!(_mm256_or_si256(a[1], b[1])),
            ]
        }

        #[inline(always)]
        fn times_256(self, sums: [__m256i; 2]) -> [__m256i; 2] {
            [
                isa!(_mm256_slli_epi32::<8>(sums[0])),
                isa!(_mm256_slli_epi32::<8>(sums[1])),
            ]
        }

        #[inline(always)]
        fn fours(self, table: &[f32; LANES], at: [usize; 4]) -> [__m256; 2] {
            let [a, b, c, d] = at.map(|at| table[at]);
            [
                isa!(_mm256_set_m128(_mm_set1_ps(b), _mm_set1_ps(a))),
                isa!(_mm256_set_m128(_mm_set1_ps(d), _mm_set1_ps(c))),
            ]
        }
    };
}

impl FixedDot for Avx2Codes {
    in_256_bits!();

    #[inline(always)]
    fn add_products(
        self,
        mut sums: [__m256i; 2],
        codes: [__m256i; 2],
        x: &[i8; GROUP],
    ) -> [__m256i; 2] {
        let (halves, _) = x.as_chunks();
        for half in 0..2 {
            let pairs = isa!(_mm256_maddubs_epi16(codes[half], load(&halves[half])));
            let fours = isa!(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
            sums[half] = isa!(_mm256_add_epi32(sums[half], fours));
        }
        sums
    }
}

impl FixedDot for AvxVnniCodes {
    in_256_bits!();

    #[inline(always)]
    fn add_products(
        self,
        mut sums: [__m256i; 2],
        codes: [__m256i; 2],
        x: &[i8; GROUP],
    ) -> [__m256i; 2] {
        let (halves, _) = x.as_chunks();
        for half in 0..2 {
            let x = load(&halves[half]);
            sums[half] = isa!(_mm256_dpbusd_avx_epi32(sums[half], codes[half], x));
        }
        sums
    }
}
