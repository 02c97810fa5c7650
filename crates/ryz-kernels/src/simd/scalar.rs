//! Sixteen lanes as an array: portable, and the reference of the others.

use super::{BYTES, LANES, Simd};
use crate::math;

/// The token of the portable width: it needs nothing.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

type F = [f32; LANES];
type I = [i32; LANES];
type B = [u8; BYTES];

#[inline(always)]
fn each<T>(f: impl FnMut(usize) -> T) -> [T; LANES] {
    std::array::from_fn(f)
}

impl Simd for Scalar {
    type F = F;
    type I = I;
    type B = B;

    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, value: f32) -> F {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, values: &F) -> F {
        *values
    }

    #[inline(always)]
    fn store(self, vector: F, out: &mut F) {
        *out = vector;
    }

    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        each(|l| a[l] + b[l])
    }

    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        each(|l| a[l] - b[l])
    }

    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        each(|l| a[l] * b[l])
    }

    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        each(|l| a[l] / b[l])
    }

    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        each(|l| a[l].mul_add(b[l], c[l]))
    }

    #[inline(always)]
    fn sum(self, mut v: F) -> f32 {
        for half in [8, 4, 2, 1] {
            for l in 0..half {
                v[l] += v[l + half];
            }
        }
        v[0]
    }

    #[inline(always)]
    fn load_f16(self, bits: &[u16; LANES]) -> F {
        each(|l| math::f16_to_f32(bits[l]))
    }

    #[inline(always)]
    fn half(self, bits: u16) -> f32 {
        math::f16_to_f32(bits)
    }

    #[inline(always)]
    fn store_f16(self, vector: F, out: &mut [u16; LANES]) {
        *out = each(|l| math::f32_to_f16(vector[l]));
    }

    #[inline(always)]
    fn load_bf16(self, bits: &[u16; LANES]) -> F {
        each(|l| math::bf16_to_f32(bits[l]))
    }

    #[inline(always)]
    fn load_i8(self, values: &[i8; LANES]) -> F {
        each(|l| f32::from(values[l]))
    }

    #[inline(always)]
    fn load_u4(self, bytes: &[u8; 8]) -> F {
        each(|l| f32::from(bytes[l % 8] >> (4 * (l / 8)) & 15))
    }

    #[inline(always)]
    fn store_i8(self, vector: F, out: &mut [i8; LANES]) {
        // Adding 1.5 · 2^23 rounds to an integer, ties to even.
        const ROUND: f32 = 12_582_912.0;
        *out = each(|l| {
            let low = if vector[l] > -128.0 {
                vector[l]
            } else {
                -128.0
            };
            let clamped = if low < 127.0 { low } else { 127.0 };
            ((clamped + ROUND) - ROUND) as i8
        });
    }

    #[inline(always)]
    fn lookup(self, word: u32, table: F) -> F {
        each(|c| table[(word >> (8 * (c % 4) + 2 * (c / 4)) & 3) as usize])
    }

    #[inline(always)]
    fn splat_i(self, value: i32) -> I {
        [value; LANES]
    }

    #[inline(always)]
    fn load_i(self, values: &I) -> I {
        *values
    }

    #[inline(always)]
    fn store_i(self, vector: I, out: &mut I) {
        *out = vector;
    }

    #[inline(always)]
    fn add_i(self, a: I, b: I) -> I {
        each(|l| a[l] + b[l])
    }

    #[inline(always)]
    fn sub_i(self, a: I, b: I) -> I {
        each(|l| a[l] - b[l])
    }

    #[inline(always)]
    fn max_i(self, a: I, b: I) -> I {
        each(|l| a[l].max(b[l]))
    }

    #[inline(always)]
    fn magnitude_bits(self, vector: F) -> I {
        each(|l| (vector[l].to_bits() & 0x7fff_ffff) as i32)
    }

    #[inline(always)]
    fn load_bytes(self, bytes: &B) -> B {
        *bytes
    }

    #[inline(always)]
    fn store_bytes(self, vector: B, out: &mut [i8; BYTES]) {
        for (out, byte) in out.iter_mut().zip(vector) {
            *out = byte as i8;
        }
    }

    #[inline(always)]
    fn and_bytes(self, vector: B, mask: u8) -> B {
        vector.map(|byte| byte & mask)
    }

    #[inline(always)]
    fn or_bytes(self, a: B, b: B) -> B {
        std::array::from_fn(|l| a[l] | b[l])
    }

    #[inline(always)]
    fn sub_bytes(self, vector: B, value: u8) -> B {
        vector.map(|byte| byte.wrapping_sub(value))
    }

    #[inline(always)]
    fn shift_right<const N: i32>(self, vector: B) -> B {
        vector.map(|byte| byte >> N)
    }

    #[inline(always)]
    fn shift_left<const N: i32>(self, vector: B) -> B {
        vector.map(|byte| byte << N)
    }

    #[inline(always)]
    fn to_f32(self, vector: I) -> F {
        each(|l| vector[l] as f32)
    }
}
