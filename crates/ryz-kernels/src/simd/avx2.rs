//! Sixteen lanes in two 256-bit registers: lanes 0–7, then 8–15.

use std::arch::x86_64::*;

use super::{BYTES, LANES, Simd};

/// Proves AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// - The CPU has AVX2, FMA and F16C ([`crate::Level::Avx2`] is supported).
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }
}

/// An intrinsic on registers alone.
macro_rules! isa {
    ($intrinsic:expr) => {
        // SAFETY: an Avx2 token exists, so the CPU has the features; nothing else is asked of register operands.
        unsafe { $intrinsic }
    };
}

/// An intrinsic that reads or writes bytes of a reference.
macro_rules! memory {
    ($intrinsic:expr) => {
        // SAFETY: the pointer comes from a reference to an array that the access lies in, and unaligned forms are used;
        // an Avx2 token exists, so the CPU has the features.
        unsafe { $intrinsic }
    };
}

/// Lanes added as a tree: l with l + 4, l + 2, l + 1.
///
/// # Safety
/// - The CPU has AVX2.
#[inline(always)]
pub(super) unsafe fn sum_of_eight(vector: __m256) -> f32 {
    let four = isa!(_mm_add_ps(
        _mm256_castps256_ps128(vector),
        _mm256_extractf128_ps::<1>(vector)
    ));
    let two = isa!(_mm_add_ps(four, _mm_movehl_ps(four, four)));
    isa!(_mm_cvtss_f32(_mm_add_ss(
        two,
        _mm_shuffle_ps::<1>(two, two)
    )))
}

type F = [__m256; 2];
type I = [__m256i; 2];

impl Simd for Avx2 {
    type F = F;
    type I = I;
    type B = __m256i;

    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, value: f32) -> F {
        [isa!(_mm256_set1_ps(value)); 2]
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> F {
        let start = values.as_ptr();
        [
            memory!(_mm256_loadu_ps(start)),
            memory!(_mm256_loadu_ps(start.add(8))),
        ]
    }

    #[inline(always)]
    fn store(self, vector: F, out: &mut [f32; LANES]) {
        let start = out.as_mut_ptr();
        memory!(_mm256_storeu_ps(start, vector[0]));
        memory!(_mm256_storeu_ps(start.add(8), vector[1]));
    }

    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        [
            isa!(_mm256_add_ps(a[0], b[0])),
            isa!(_mm256_add_ps(a[1], b[1])),
        ]
    }

    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        [
            isa!(_mm256_sub_ps(a[0], b[0])),
            isa!(_mm256_sub_ps(a[1], b[1])),
        ]
    }

    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        [
            isa!(_mm256_mul_ps(a[0], b[0])),
            isa!(_mm256_mul_ps(a[1], b[1])),
        ]
    }

    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        [
            isa!(_mm256_div_ps(a[0], b[0])),
            isa!(_mm256_div_ps(a[1], b[1])),
        ]
    }

    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        [
            isa!(_mm256_fmadd_ps(a[0], b[0], c[0])),
            isa!(_mm256_fmadd_ps(a[1], b[1], c[1])),
        ]
    }

    #[inline(always)]
    fn sum(self, vector: F) -> f32 {
        isa!(sum_of_eight(_mm256_add_ps(vector[0], vector[1])))
    }

    #[inline(always)]
    fn load_f16(self, bits: &[u16; LANES]) -> F {
        let start: *const __m128i = bits.as_ptr().cast();
        let low = memory!(_mm_loadu_si128(start));
        let high = memory!(_mm_loadu_si128(start.add(1)));
        [isa!(_mm256_cvtph_ps(low)), isa!(_mm256_cvtph_ps(high))]
    }

    #[inline(always)]
    fn half(self, bits: u16) -> f32 {
        isa!(_mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(
            bits
        )))))
    }

    #[inline(always)]
    fn store_f16(self, vector: F, out: &mut [u16; LANES]) {
        let start: *mut __m128i = out.as_mut_ptr().cast();
        let low = isa!(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(vector[0]));
        let high = isa!(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(vector[1]));
        memory!(_mm_storeu_si128(start, low));
        memory!(_mm_storeu_si128(start.add(1), high));
    }

    #[inline(always)]
    fn load_bf16(self, bits: &[u16; LANES]) -> F {
        let start: *const __m128i = bits.as_ptr().cast();
        let low = memory!(_mm_loadu_si128(start));
        let high = memory!(_mm_loadu_si128(start.add(1)));
        let [low, high] = [
            isa!(_mm256_cvtepu16_epi32(low)),
            isa!(_mm256_cvtepu16_epi32(high)),
        ];
        let [low, high] = [
            isa!(_mm256_slli_epi32::<16>(low)),
            isa!(_mm256_slli_epi32::<16>(high)),
        ];
        [
            isa!(_mm256_castsi256_ps(low)),
            isa!(_mm256_castsi256_ps(high)),
        ]
    }

    #[inline(always)]
    fn load_i8(self, values: &[i8; LANES]) -> F {
        let [low, high] = [&values[..8], &values[8..]]
            .map(|eight| memory!(_mm_loadl_epi64(eight.as_ptr().cast())))
            .map(|eight| isa!(_mm256_cvtepi8_epi32(eight)));
        [
            isa!(_mm256_cvtepi32_ps(low)),
            isa!(_mm256_cvtepi32_ps(high)),
        ]
    }

    #[inline(always)]
    fn load_u4(self, bytes: &[u8; 8]) -> F {
        let bytes = isa!(_mm_cvtsi64_si128(i64::from_le_bytes(*bytes)));
        let both = isa!(_mm256_cvtepu8_epi32(bytes));
        let low = isa!(_mm256_and_si256(both, _mm256_set1_epi32(15)));
        let high = isa!(_mm256_srli_epi32::<4>(both));
        [
            isa!(_mm256_cvtepi32_ps(low)),
            isa!(_mm256_cvtepi32_ps(high)),
        ]
    }

    #[inline(always)]
    fn store_i8(self, vector: F, out: &mut [i8; LANES]) {
        let (least, most) = (isa!(_mm256_set1_ps(-128.0)), isa!(_mm256_set1_ps(127.0)));
        // max gives its second operand for NaN: −128.
        let [low, high] = [
            isa!(_mm256_max_ps(vector[0], least)),
            isa!(_mm256_max_ps(vector[1], least)),
        ];
        let [low, high] = [
            isa!(_mm256_min_ps(low, most)),
            isa!(_mm256_min_ps(high, most)),
        ];
        let [low, high] = [
            isa!(_mm256_cvtps_epi32(low)),
            isa!(_mm256_cvtps_epi32(high)),
        ];
        // packs works within 128-bit halves: quarters come out as 0, 2, 1, 3 and are put in order.
        let words = isa!(_mm256_permute4x64_epi64::<0b11_01_10_00>(
            _mm256_packs_epi32(low, high)
        ));
        let bytes = isa!(_mm_packs_epi16(
            _mm256_castsi256_si128(words),
            _mm256_extracti128_si256::<1>(words)
        ));
        memory!(_mm_storeu_si128(out.as_mut_ptr().cast(), bytes))
    }

    #[inline(always)]
    fn lookup(self, word: u32, table: F) -> F {
        let word = isa!(_mm256_set1_epi32(word as i32));
        let low = isa!(_mm256_setr_epi32(0, 8, 16, 24, 2, 10, 18, 26));
        let high = isa!(_mm256_setr_epi32(4, 12, 20, 28, 6, 14, 22, 30));
        // permutevar looks at the low two bits of each lane; the table repeats itself in every four.
        [
            isa!(_mm256_permutevar_ps(table[0], _mm256_srlv_epi32(word, low))),
            isa!(_mm256_permutevar_ps(
                table[1],
                _mm256_srlv_epi32(word, high)
            )),
        ]
    }

    #[inline(always)]
    fn splat_i(self, value: i32) -> I {
        [isa!(_mm256_set1_epi32(value)); 2]
    }

    #[inline(always)]
    fn load_i(self, values: &[i32; LANES]) -> I {
        let start: *const __m256i = values.as_ptr().cast();
        [
            memory!(_mm256_loadu_si256(start)),
            memory!(_mm256_loadu_si256(start.add(1))),
        ]
    }

    #[inline(always)]
    fn store_i(self, vector: I, out: &mut [i32; LANES]) {
        let start: *mut __m256i = out.as_mut_ptr().cast();
        memory!(_mm256_storeu_si256(start, vector[0]));
        memory!(_mm256_storeu_si256(start.add(1), vector[1]));
    }

    #[inline(always)]
    fn add_i(self, a: I, b: I) -> I {
        [
            isa!(_mm256_add_epi32(a[0], b[0])),
            isa!(_mm256_add_epi32(a[1], b[1])),
        ]
    }

    #[inline(always)]
    fn sub_i(self, a: I, b: I) -> I {
        [
            isa!(_mm256_sub_epi32(a[0], b[0])),
            isa!(_mm256_sub_epi32(a[1], b[1])),
        ]
    }

    #[inline(always)]
    fn max_i(self, a: I, b: I) -> I {
        [
            isa!(_mm256_max_epi32(a[0], b[0])),
            isa!(_mm256_max_epi32(a[1], b[1])),
        ]
    }

    #[inline(always)]
    fn magnitude_bits(self, vector: F) -> I {
        let mask = isa!(_mm256_set1_epi32(0x7fff_ffff));
        [
            isa!(_mm256_and_si256(_mm256_castps_si256(vector[0]), mask)),
            isa!(_mm256_and_si256(_mm256_castps_si256(vector[1]), mask)),
        ]
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
    fn to_f32(self, vector: I) -> F {
        [
            isa!(_mm256_cvtepi32_ps(vector[0])),
            isa!(_mm256_cvtepi32_ps(vector[1])),
        ]
    }
}
