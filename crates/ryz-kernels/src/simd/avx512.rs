//! Sixteen lanes in one 512-bit register.

use std::arch::x86_64::*;

use super::{BYTES, LANES, Simd};

/// Proves AVX-512 F, BW, DQ, VL, and AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// # Safety
    /// - The CPU has AVX-512 F, BW, DQ and VL, AVX2, FMA and F16C ([`crate::Level::Avx512`] is supported).
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }
}

/// An intrinsic on registers alone.
macro_rules! isa {
    ($intrinsic:expr) => {
        // SAFETY: an Avx512 token exists, so the CPU has the features; nothing else is asked of register operands.
        unsafe { $intrinsic }
    };
}

/// An intrinsic that reads or writes exactly the bytes of a reference.
macro_rules! memory {
    ($intrinsic:expr) => {
        // SAFETY: the pointer comes from a reference to an array as long as the access, and unaligned forms are used;
        // an Avx512 token exists, so the CPU has the features.
        unsafe { $intrinsic }
    };
}

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    type B = __m256i;

    const WIDE: bool = true;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        isa!(_mm512_set1_ps(value))
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> __m512 {
        memory!(_mm512_loadu_ps(values.as_ptr()))
    }

    #[inline(always)]
    fn store(self, vector: __m512, out: &mut [f32; LANES]) {
        memory!(_mm512_storeu_ps(out.as_mut_ptr(), vector))
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        isa!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        isa!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        isa!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        isa!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        isa!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn sum(self, vector: __m512) -> f32 {
        let low = isa!(_mm512_castps512_ps256(vector));
        let high = isa!(_mm512_extractf32x8_ps::<1>(vector));
        isa!(super::avx2::sum_of_eight(_mm256_add_ps(low, high)))
    }

    #[inline(always)]
    fn load_f16(self, bits: &[u16; LANES]) -> __m512 {
        let halves = memory!(_mm256_loadu_si256(bits.as_ptr().cast()));
        isa!(_mm512_cvtph_ps(halves))
    }

    #[inline(always)]
    fn half(self, bits: u16) -> f32 {
        isa!(_mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(
            bits
        )))))
    }

    #[inline(always)]
    fn store_f16(self, vector: __m512, out: &mut [u16; LANES]) {
        let halves = isa!(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(vector));
        memory!(_mm256_storeu_si256(out.as_mut_ptr().cast(), halves))
    }

    #[inline(always)]
    fn load_bf16(self, bits: &[u16; LANES]) -> __m512 {
        let halves = memory!(_mm256_loadu_si256(bits.as_ptr().cast()));
        isa!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(
            _mm512_cvtepu16_epi32(halves)
        )))
    }

    #[inline(always)]
    fn load_i8(self, values: &[i8; LANES]) -> __m512 {
        let bytes = memory!(_mm_loadu_si128(values.as_ptr().cast()));
        isa!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)))
    }

    #[inline(always)]
    fn load_u4(self, bytes: &[u8; 8]) -> __m512 {
        let low = isa!(_mm_cvtsi64_si128(i64::from_le_bytes(*bytes)));
        let both = isa!(_mm_unpacklo_epi64(low, _mm_srli_epi16::<4>(low)));
        let codes = isa!(_mm_and_si128(both, _mm_set1_epi8(15)));
        isa!(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes)))
    }

    #[inline(always)]
    fn store_i8(self, vector: __m512, out: &mut [i8; LANES]) {
        // max gives its second operand for NaN: −128.
        let low = isa!(_mm512_max_ps(vector, _mm512_set1_ps(-128.0)));
        let clamped = isa!(_mm512_min_ps(low, _mm512_set1_ps(127.0)));
        let bytes = isa!(_mm512_cvtepi32_epi8(_mm512_cvtps_epi32(clamped)));
        memory!(_mm_storeu_si128(out.as_mut_ptr().cast(), bytes))
    }

    #[inline(always)]
    fn lookup(self, word: u32, table: __m512) -> __m512 {
        let shifts = isa!(_mm512_setr_epi32(
            0, 8, 16, 24, 2, 10, 18, 26, 4, 12, 20, 28, 6, 14, 22, 30
        ));
        let codes = isa!(_mm512_srlv_epi32(_mm512_set1_epi32(word as i32), shifts));
        // Looks at the low two bits of each lane; the table repeats itself in every four.
        isa!(_mm512_permutevar_ps(table, codes))
    }

    #[inline(always)]
    fn splat_i(self, value: i32) -> __m512i {
        isa!(_mm512_set1_epi32(value))
    }

    #[inline(always)]
    fn load_i(self, values: &[i32; LANES]) -> __m512i {
        memory!(_mm512_loadu_si512(values.as_ptr().cast()))
    }

    #[inline(always)]
    fn store_i(self, vector: __m512i, out: &mut [i32; LANES]) {
        memory!(_mm512_storeu_si512(out.as_mut_ptr().cast(), vector))
    }

    #[inline(always)]
    fn add_i(self, a: __m512i, b: __m512i) -> __m512i {
        isa!(_mm512_add_epi32(a, b))
    }

    #[inline(always)]
    fn sub_i(self, a: __m512i, b: __m512i) -> __m512i {
        isa!(_mm512_sub_epi32(a, b))
    }

    #[inline(always)]
    fn max_i(self, a: __m512i, b: __m512i) -> __m512i {
        isa!(_mm512_max_epi32(a, b))
    }

    #[inline(always)]
    fn magnitude_bits(self, vector: __m512) -> __m512i {
        isa!(_mm512_and_si512(
            _mm512_castps_si512(vector),
            _mm512_set1_epi32(0x7fff_ffff)
        ))
    }

    #[inline(always)]
    fn load_bytes(self, bytes: &[u8; BYTES]) -> __m256i {
        memory!(_mm256_loadu_si256(bytes.as_ptr().cast()))
    }

    #[inline(always)]
    fn store_bytes(self, vector: __m256i, out: &mut [i8; BYTES]) {
        memory!(_mm256_storeu_si256(out.as_mut_ptr().cast(), vector))
    }

    #[inline(always)]
    fn and_bytes(self, vector: __m256i, mask: u8) -> __m256i {
        isa!(_mm256_and_si256(vector, _mm256_set1_epi8(mask as i8)))
    }

    #[inline(always)]
    fn or_bytes(self, a: __m256i, b: __m256i) -> __m256i {
        isa!(_mm256_or_si256(a, b))
    }

    #[inline(always)]
    fn sub_bytes(self, vector: __m256i, value: u8) -> __m256i {
        isa!(_mm256_sub_epi8(vector, _mm256_set1_epi8(value as i8)))
    }

    #[inline(always)]
    fn shift_right<const N: i32>(self, vector: __m256i) -> __m256i {
        // Words are shifted; the mask takes out what came from the byte above.
        self.and_bytes(isa!(_mm256_srli_epi16::<N>(vector)), 0xff >> N)
    }

    #[inline(always)]
    fn shift_left<const N: i32>(self, vector: __m256i) -> __m256i {
        self.and_bytes(isa!(_mm256_slli_epi16::<N>(vector)), 0xff << N)
    }

    #[inline(always)]
    fn to_f32(self, vector: __m512i) -> __m512 {
        isa!(_mm512_cvtepi32_ps(vector))
    }
}
