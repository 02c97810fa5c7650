//! Fixed-point products in 512-bit registers.
//!
//! `maddubs` adds two products into int16, and N of it are added there: 63·128·2·2 and 15·128·2·4 are below 2^15.

use std::arch::x86_64::*;

use super::{FixedDot, GROUP};
use crate::{
    simd::LANES,
    ternary::{Avx512Codes, Avx512VnniCodes},
};

/// An intrinsic on registers alone.
macro_rules! isa {
    ($intrinsic:expr) => {
        // SAFETY: a token of a level with AVX-512 BW (and VNNI, where it is used) exists; nothing else is asked of registers.
        unsafe { $intrinsic }
    };
}

#[inline(always)]
fn load<T: bytemuck::Pod>(bytes: &[T; GROUP]) -> __m512i {
    const { assert!(size_of::<T>() == 1) }
    // SAFETY: a reference to 64 bytes, read unaligned; callers hold a token, so the CPU has AVX-512 F.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline(always)]
fn load_half(bytes: &[u8; GROUP / 2]) -> __m256i {
    // SAFETY: a reference to 32 bytes, read unaligned; callers hold a token, so the CPU has AVX.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// What both tokens do alike.
macro_rules! in_512_bits {
    () => {
        type C = __m512i;
        type X = __m512i;

        #[inline(always)]
        fn codes(self, bytes: &[u8; GROUP]) -> __m512i {
            load(bytes)
        }

        #[inline(always)]
        fn activations(self, bytes: &[i8; GROUP]) -> __m512i {
            load(bytes)
        }

        #[inline(always)]
        fn as_activations(self, codes: __m512i) -> __m512i {
            codes
        }

        #[inline(always)]
        fn join(self, low: &[u8; GROUP / 2], high: &[u8; GROUP / 2]) -> __m512i {
            let low = isa!(_mm512_castsi256_si512(load_half(low)));
            isa!(_mm512_inserti64x4::<1>(low, load_half(high)))
        }

        #[inline(always)]
        fn right<const N: u32>(self, codes: __m512i, mask: u8) -> __m512i {
            let shifted = isa!(_mm512_srli_epi16::<N>(codes));
            isa!(_mm512_and_si512(shifted, _mm512_set1_epi8(mask as i8)))
        }

        #[inline(always)]
        fn left<const N: u32>(self, codes: __m512i, mask: u8) -> __m512i {
            let shifted = isa!(_mm512_slli_epi16::<N>(codes));
            isa!(_mm512_and_si512(shifted, _mm512_set1_epi8(mask as i8)))
        }

        #[inline(always)]
        fn or(self, a: __m512i, b: __m512i) -> __m512i {
            isa!(_mm512_or_si512(a, b))
        }

        #[inline(always)]
        fn times_256_and(self, upper: __m512i, low: __m512i) -> __m512i {
            isa!(_mm512_add_epi32(_mm512_slli_epi32::<8>(upper), low))
        }

        #[inline(always)]
        fn interleave_fours(self, a: __m512i, b: __m512i) -> [__m512i; 2] {
            [
                isa!(_mm512_unpacklo_epi32(a, b)),
                isa!(_mm512_unpackhi_epi32(a, b)),
            ]
        }

        #[inline(always)]
        fn interleave_eights(self, a: __m512i, b: __m512i) -> [__m512i; 2] {
            [
                isa!(_mm512_unpacklo_epi64(a, b)),
                isa!(_mm512_unpackhi_epi64(a, b)),
            ]
        }

        #[inline(always)]
        fn nibbles(self, bytes: &[u8; 2 * GROUP]) -> [__m512i; 4] {
            let (halves, _) = bytes.as_chunks();
            let (a, b) = (load(&halves[0]), load(&halves[1]));
            let shifts = isa!(_mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4));
            let mut out = [a; 4];
            for (j, out) in (0..).zip(&mut out) {
                let index = isa!(_mm512_add_epi64(
                    _mm512_setr_epi64(0, 4, 8, 12, 0, 4, 8, 12),
                    _mm512_set1_epi64(j)
                ));
                let eights = isa!(_mm512_permutex2var_epi64(a, index, b));
                let shifted = isa!(_mm512_srlv_epi64(eights, shifts));
                *out = isa!(_mm512_and_si512(shifted, _mm512_set1_epi8(15)));
            }
            out
        }

        #[inline(always)]
        fn permute_eights(self, table: __m512, at: [usize; LANES]) -> __m512 {
            let mut index = [0; LANES];
            for lane in 0..LANES {
                index[lane] = (lane / 8 * 8 + at[lane]) as i32;
            }
            // SAFETY: an array of 64 bytes, read unaligned; callers hold a token, so the CPU has AVX-512 F.
            let index = unsafe { _mm512_loadu_si512(index.as_ptr().cast()) };
            isa!(_mm512_permutexvar_ps(index, table))
        }
    };
}

impl FixedDot for Avx512VnniCodes {
    in_512_bits!();

    const IN_INT32: bool = true;

    #[inline(always)]
    fn add_products<const N: usize>(
        self,
        mut sums: __m512i,
        codes: [__m512i; N],
        x: [__m512i; N],
    ) -> __m512i {
        for (codes, x) in codes.into_iter().zip(x) {
            sums = isa!(_mm512_dpbusd_epi32(sums, codes, x));
        }
        sums
    }
}

impl FixedDot for Avx512Codes {
    in_512_bits!();

    const IN_INT32: bool = false;

    #[inline(always)]
    fn add_products<const N: usize>(
        self,
        sums: __m512i,
        codes: [__m512i; N],
        x: [__m512i; N],
    ) -> __m512i {
        let mut pairs = isa!(_mm512_maddubs_epi16(codes[0], x[0]));
        for (&codes, x) in codes.iter().zip(x).skip(1) {
            let more = isa!(_mm512_maddubs_epi16(codes, x));
            pairs = isa!(_mm512_add_epi16(pairs, more));
        }
        let fours = isa!(_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
        isa!(_mm512_add_epi32(sums, fours))
    }
}
