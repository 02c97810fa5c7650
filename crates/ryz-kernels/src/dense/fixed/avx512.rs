//! Fixed-point products in 512-bit registers.
//!
//! `maddubs` adds two products into int16: 63·128·2 = 16,128 fits.

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

        #[inline(always)]
        fn codes(self, bytes: &[u8; GROUP]) -> __m512i {
            load(bytes)
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
        fn times_256(self, sums: __m512i) -> __m512i {
            isa!(_mm512_slli_epi32::<8>(sums))
        }

        #[inline(always)]
        fn fours(self, table: &[f32; LANES], at: [usize; 4]) -> __m512 {
            let [a, b, c, d] = at.map(|at| at as i32);
            let index = isa!(_mm512_set_epi32(
                d, d, d, d, c, c, c, c, b, b, b, b, a, a, a, a
            ));
            // SAFETY: a reference to 64 bytes, read unaligned.
            let table = unsafe { _mm512_loadu_ps(table.as_ptr()) };
            isa!(_mm512_permutexvar_ps(index, table))
        }
    };
}

impl FixedDot for Avx512VnniCodes {
    in_512_bits!();

    #[inline(always)]
    fn add_products(self, sums: __m512i, codes: __m512i, x: &[i8; GROUP]) -> __m512i {
        isa!(_mm512_dpbusd_epi32(sums, codes, load(x)))
    }
}

impl FixedDot for Avx512Codes {
    in_512_bits!();

    #[inline(always)]
    fn add_products(self, sums: __m512i, codes: __m512i, x: &[i8; GROUP]) -> __m512i {
        let pairs = isa!(_mm512_maddubs_epi16(codes, load(x)));
        let fours = isa!(_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
        isa!(_mm512_add_epi32(sums, fours))
    }
}
