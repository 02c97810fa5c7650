//! Own `exp`, `ln`, `pow`, `sin` and `cos`: the same bits on every machine, whatever its libm does.
//!
//! They use IEEE additions, multiplications, divisions and bit operations alone, in one order and without fused
//! operations, so a compiler may vectorise them but not change them. Coefficients are those of the Taylor series: the
//! intervals are short enough for it after the argument is reduced.
//!
//! | function | domain | error (tested against f64 libm) |
//! |---|---|---|
//! | [`exp`], f32 | all | 0.51 ulp of f32 |
//! | [`exp_f64`] | all | 2 ulp of f64 |
//! | [`ln`], f64 | all | 3 ulp of f64 |
//! | [`pow`], f64 | base > 0 | relative 1e−15 · (2 + \|y·ln x\|) |
//! | [`sin`], [`cos`], f64 | \|x\| ≤ 1.6e6 | absolute 3e−16; beyond, absolute 2e−16 · \|x\| |

mod trigonometric;

pub use trigonometric::{cos, sin};

use half::f16;

/// 1.5 · 2^52: adding it rounds a double of modest size to an integer, which then stands in its low bits.
const ROUND: f64 = 6_755_399_441_055_744.0;
/// The upper 32 bits of ln 2: k · LN2_HI is exact for |k| < 2^21.
const LN2_HI: f64 = 6.931_471_803_691_238e-1;
const LN2_LO: f64 = 1.908_214_929_270_587_7e-10;

/// The terms of e^r to r^N / N!.
#[inline(always)]
fn exp_series<const N: usize>(r: f64) -> f64 {
    let mut sum = 1.0;
    let mut n = N;
    while n > 0 {
        // Reciprocals are constants after unrolling; their rounding is part of the stated error.
        sum = 1.0 + r * sum * (1.0 / n as f64);
        n -= 1;
    }
    sum
}

/// e^x for |x| ≤ 700 (larger ones count as ±700), with a series of N terms.
#[inline(always)]
fn exp_core<const N: usize>(x: f64) -> f64 {
    let x = if x < -700.0 { -700.0 } else { x };
    let x = if x > 700.0 { 700.0 } else { x };
    // x = k ln 2 + r with |r| ≤ ln 2 / 2, so e^x = 2^k e^r; k stands in the low bits of `shifted`.
    let shifted = x * std::f64::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = (x - k * LN2_HI) - k * LN2_LO;
    let power = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    exp_series::<N>(r) * power
}

/// e^x: 0 below −104, infinity above 88.73, NaN for NaN.
///
/// The series ends at r^9 / 9!: the first term left out is 0.3466^10 / 10! = 7e−12, far below half an ulp of f32.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    exp_core::<9>(f64::from(x)) as f32
}

/// x / (1 + e^−x), computed in f64 and rounded once.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    let x = f64::from(x);
    (x / (1.0 + exp_core::<9>(-x))) as f32
}

/// max(x, 0)².
#[inline(always)]
pub fn relu2(x: f32) -> f32 {
    let positive = if x < 0.0 { 0.0 } else { x };
    positive * positive
}

/// e^x in f64.
pub fn exp_f64(x: f64) -> f64 {
    if x > 709.79 {
        return f64::INFINITY;
    }
    if x < -745.2 {
        return 0.0;
    }
    let k = (x * std::f64::consts::LOG2_E + ROUND) - ROUND;
    let r = (x - k * LN2_HI) - k * LN2_LO;
    // Two factors, so that a result at the ends of the range is reached although 2^k itself is not.
    let half = (k as i64) / 2;
    let power = |k: i64| f64::from_bits(((k + 1023) << 52) as u64);
    exp_series::<14>(r) * power(half) * power(k as i64 - half)
}

/// The natural logarithm: −∞ for 0, NaN below.
pub fn ln(x: f64) -> f64 {
    if x.is_nan() || x < 0.0 {
        return f64::NAN;
    }
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    if x == f64::INFINITY {
        return x;
    }
    const TWO_54: f64 = 18_014_398_509_481_984.0;
    let (x, bias) = if x < f64::MIN_POSITIVE {
        (x * TWO_54, -54)
    } else {
        (x, 0)
    };
    // x = 2^k m with m in [√½, √2); ln m = 2 artanh(f), f = (m − 1) / (m + 1), |f| < 0.1716.
    const SQRT_HALF_BITS: u64 = 0x3fe6_a09e_667f_3bcd;
    let offset = x.to_bits().wrapping_sub(SQRT_HALF_BITS) as i64;
    let k = (offset >> 52) as f64 + f64::from(bias);
    let m = f64::from_bits((offset & 0x000f_ffff_ffff_ffff) as u64 + SQRT_HALF_BITS);
    let f = (m - 1.0) / (m + 1.0);
    let s = f * f;
    // Σ s^n / (2n + 1) from n = 1: the first term left out is 0.0295^12 / 25 = 2e−20.
    let mut series = 0.0;
    let mut n = 11.0;
    while n >= 1.0 {
        series = s * (1.0 / (2.0 * n + 1.0) + series);
        n -= 1.0;
    }
    k * LN2_HI + (2.0 * f + (2.0 * f * series + k * LN2_LO))
}

/// x^y for x > 0; 1 for y = 0; 0 or infinity for x = 0; NaN for x < 0.
pub fn pow(x: f64, y: f64) -> f64 {
    if y == 0.0 { 1.0 } else { exp_f64(y * ln(x)) }
}

/// The value of an IEEE half.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32_const()
}

/// The nearest IEEE half, ties to even.
#[inline(always)]
pub fn f32_to_f16(value: f32) -> u16 {
    f16::from_f32_const(value).to_bits()
}

/// The value of a bfloat16.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests;
