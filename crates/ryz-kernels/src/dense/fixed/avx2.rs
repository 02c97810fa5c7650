//! Fixed-point products in 256-bit registers, two for a group.
//!
//! `maddubs` adds two products into int16, and N of it are added there: 63·128·2·2 and 15·128·2·4 are below 2^15.

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

/// Two sixteens, of which the second may be anywhere.
#[inline(always)]
fn sixteens_of(low: &[u8; 16], high: &[u8; 16]) -> __m256i {
    // SAFETY: references to 16 bytes each, read unaligned; callers hold a token, so the CPU has AVX.
    unsafe { _mm256_loadu2_m128i(high.as_ptr().cast(), low.as_ptr().cast()) }
}

/// What both tokens do alike.
macro_rules! in_256_bits {
    () => {
        type C = [__m256i; 2];
        type X = [__m256i; 2];

        #[inline(always)]
        fn codes(self, bytes: &[u8; GROUP]) -> [__m256i; 2] {
            let (halves, _) = bytes.as_chunks();
            [load(&halves[0]), load(&halves[1])]
        }

        #[inline(always)]
        fn activations(self, bytes: &[i8; GROUP]) -> [__m256i; 2] {
            let (halves, _) = bytes.as_chunks();
            [load(&halves[0]), load(&halves[1])]
        }

        #[inline(always)]
        fn as_activations(self, codes: [__m256i; 2]) -> [__m256i; 2] {
            codes
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
        fn times_256_and(self, upper: [__m256i; 2], low: [__m256i; 2]) -> [__m256i; 2] {
            [
                isa!(_mm256_add_epi32(_mm256_slli_epi32::<8>(upper[0]), low[0])),
                isa!(_mm256_add_epi32(_mm256_slli_epi32::<8>(upper[1]), low[1])),
            ]
        }

        #[inline(always)]
        fn interleave_fours(self, a: [__m256i; 2], b: [__m256i; 2]) -> [[__m256i; 2]; 2] {
            [
                [
                    isa!(_mm256_unpacklo_epi32(a[0], b[0])),
                    isa!(_mm256_unpacklo_epi32(a[1], b[1])),
                ],
                [
                    isa!(_mm256_unpackhi_epi32(a[0], b[0])),
                    isa!(_mm256_unpackhi_epi32(a[1], b[1])),
                ],
            ]
        }

        #[inline(always)]
        fn interleave_eights(self, a: [__m256i; 2], b: [__m256i; 2]) -> [[__m256i; 2]; 2] {
            [
                [
                    isa!(_mm256_unpacklo_epi64(a[0], b[0])),
                    isa!(_mm256_unpacklo_epi64(a[1], b[1])),
                ],
                [
                    isa!(_mm256_unpackhi_epi64(a[0], b[0])),
                    isa!(_mm256_unpackhi_epi64(a[1], b[1])),
                ],
            ]
        }

        #[inline(always)]
        fn nibbles(self, bytes: &[u8; 2 * GROUP]) -> [[__m256i; 2]; 4] {
            let (sixteens, _) = bytes.as_chunks::<16>();
            let mask = isa!(_mm256_set1_epi8(15));
            let mut out = [[mask; 2]; 4];
            for (half, out) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                // Stretches 0 and 2, and 1 and 3.
                let even = sixteens_of(&sixteens[half], &sixteens[4 + half]);
                let odd = sixteens_of(&sixteens[2 + half], &sixteens[6 + half]);
                let eights = [
                    isa!(_mm256_unpacklo_epi64(even, odd)),
                    isa!(_mm256_unpackhi_epi64(even, odd)),
                ];
                for (out, eights) in out.iter_mut().zip(eights) {
                    out[0] = isa!(_mm256_and_si256(eights, mask));
                    out[1] = isa!(_mm256_and_si256(_mm256_srli_epi16::<4>(eights), mask));
                }
            }
            out
        }

        #[inline(always)]
        fn permute_eights(self, table: [__m256; 2], at: [usize; LANES]) -> [__m256; 2] {
            let mut out = table;
            for (out, at) in out.iter_mut().zip(at.as_chunks::<8>().0) {
                let mut index = [0; 8];
                for lane in 0..8 {
                    index[lane] = at[lane] as i32;
                }
                // SAFETY: an array of 32 bytes, read unaligned; callers hold a token, so the CPU has AVX.
                let index = unsafe { _mm256_loadu_si256(index.as_ptr().cast()) };
                *out = isa!(_mm256_permutevar8x32_ps(*out, index));
            }
            out
        }
    };
}

impl FixedDot for Avx2Codes {
    in_256_bits!();

    const IN_INT32: bool = false;

    #[inline(always)]
    fn add_products<const N: usize>(
        self,
        mut sums: [__m256i; 2],
        codes: [[__m256i; 2]; N],
        x: [[__m256i; 2]; N],
    ) -> [__m256i; 2] {
        for half in 0..2 {
            let mut pairs = isa!(_mm256_maddubs_epi16(codes[0][half], x[0][half]));
            for (codes, x) in codes.iter().zip(x).skip(1) {
                let more = isa!(_mm256_maddubs_epi16(codes[half], x[half]));
                pairs = isa!(_mm256_add_epi16(pairs, more));
            }
            let fours = isa!(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
            sums[half] = isa!(_mm256_add_epi32(sums[half], fours));
        }
        sums
    }
}

impl FixedDot for AvxVnniCodes {
    in_256_bits!();

    const IN_INT32: bool = true;

    #[inline(always)]
    fn add_products<const N: usize>(
        self,
        mut sums: [__m256i; 2],
        codes: [[__m256i; 2]; N],
        x: [[__m256i; 2]; N],
    ) -> [__m256i; 2] {
        for (codes, x) in codes.iter().zip(x) {
            for half in 0..2 {
                sums[half] = isa!(_mm256_dpbusd_avx_epi32(sums[half], codes[half], x[half]));
            }
        }
        sums
    }
}
