//! Own `exp`, `ln` and `pow` in f64, so that a seed gives the same text on every machine.
//!
//! A platform's libm may differ in the last bit, and one bit is enough to draw another token. These use only IEEE
//! additions, multiplications and divisions in a fixed order. Error: a few units in the last place.

const LN2_HI: f64 = 6.931_471_803_691_238e-1; // upper bits of ln 2: k * LN2_HI is exact for |k| < 2048
const LN2_LO: f64 = 1.908_214_929_270_587_7e-10;
const LOG2_E: f64 = std::f64::consts::LOG2_E;

/// `e^x`. Underflows to 0 below about -745 and overflows to infinity above about 709.78; NaN stays NaN.
pub fn exp(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x > 709.79 {
        return f64::INFINITY;
    }
    if x < -745.2 {
        return 0.0;
    }
    // x = k ln 2 + r with |r| <= ln 2 / 2, so e^x = 2^k e^r.
    let scaled = x * LOG2_E;
    let k = if scaled >= 0.0 {
        (scaled + 0.5) as i32
    } else {
        (scaled - 0.5) as i32
    };
    let kf = f64::from(k);
    let r = (x - kf * LN2_HI) - kf * LN2_LO;
    // Taylor to degree 13: the first term left out is below 0.347^14 / 14! = 4e-18.
    let mut sum = 1.0;
    let mut n = 13.0;
    while n >= 1.0 {
        sum = 1.0 + r * sum / n;
        n -= 1.0;
    }
    // Two factors, so that a result below the normal range is reached without 2^k itself underflowing.
    let half = k / 2;
    sum * power_of_two(half) * power_of_two(k - half)
}

/// Natural logarithm. `ln(0)` is negative infinity; negative numbers and NaN give NaN.
pub fn ln(x: f64) -> f64 {
    if x.is_nan() || x < 0.0 {
        return f64::NAN;
    }
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    if x.is_infinite() {
        return x;
    }
    // Bring a subnormal into the normal range first.
    let (x, offset) = if x < f64::MIN_POSITIVE {
        (x * power_of_two(54), -54)
    } else {
        (x, 0)
    };
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) as i32) - 1023;
    let mut mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    // ln m = 2 artanh(s), s = (m - 1) / (m + 1), |s| <= 0.1716: twelve terms leave less than 1e-19.
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let s2 = s * s;
    let mut sum = 0.0;
    let mut n = 23.0;
    while n >= 1.0 {
        sum = sum * s2 + 1.0 / n;
        n -= 2.0;
    }
    let k = f64::from(exponent + offset);
    k * LN2_HI + (2.0 * s * sum + k * LN2_LO)
}

/// `base^exponent` for a base that is not negative.
pub fn pow(base: f64, exponent: f64) -> f64 {
    if exponent == 0.0 {
        return 1.0;
    }
    if base == 0.0 {
        return if exponent > 0.0 { 0.0 } else { f64::INFINITY };
    }
    exp(exponent * ln(base))
}

/// Base-two logarithm.
pub fn log2(x: f64) -> f64 {
    ln(x) * LOG2_E
}

/// `ln(sum(exp(logits)))`, summed in f64 in index order. Negative infinities count as probability 0.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        return f64::NEG_INFINITY;
    }
    let max = f64::from(max);
    let sum: f64 = logits.iter().map(|&l| exp(f64::from(l) - max)).sum();
    max + ln(sum)
}

/// `2^k` for k in the normal range, by its bits.
fn power_of_two(k: i32) -> f64 {
    debug_assert!((-1022..=1023).contains(&k));
    f64::from_bits(((k + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_libm_to_a_few_ulps() {
        let mut x = -740.0;
        while x < 709.0 {
            let (got, want) = (exp(x), f64::exp(x));
            // 4 ulps of a normal result; one smallest subnormal below that.
            assert!(
                (got - want).abs() <= 1e-15 * want + 1e-323,
                "exp({x}) = {got}, {want}"
            );
            x += 0.377;
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f64::NEG_INFINITY), 0.0);
        assert_eq!(exp(f64::INFINITY), f64::INFINITY);
        assert!(exp(f64::NAN).is_nan());
    }

    #[test]
    fn ln_agrees_with_libm_to_a_few_ulps() {
        for i in -1020..1020 {
            for m in [1.0, 1.1, 1.414, 1.5, 1.999] {
                let x = m * f64::powi(2.0, i);
                let (got, want) = (ln(x), x.ln());
                assert!(
                    (got - want).abs() <= 1e-15 * want.abs().max(0.1),
                    "ln({x}) = {got}, {want}"
                );
            }
        }
        for bits in [1, 7, 1 << 40] {
            let x = f64::from_bits(bits); // subnormal
            assert!((ln(x) - x.ln()).abs() < 1e-12);
        }
        assert_eq!(ln(1.0), 0.0);
        assert_eq!(ln(0.0), f64::NEG_INFINITY);
        assert!(ln(-1.0).is_nan());
    }

    #[test]
    fn pow_and_log2_follow_from_them() {
        assert!((pow(2.0, 10.0) - 1024.0).abs() < 1e-11);
        assert!((pow(9.0, 0.5) - 3.0).abs() < 1e-14);
        assert_eq!(pow(0.0, 2.0), 0.0);
        assert_eq!(pow(0.0, 0.0), 1.0);
        assert!((log2(8.0) - 3.0).abs() < 1e-15);
    }

    #[test]
    fn log_sum_exp_of_equal_logits_is_the_logit_plus_ln_n() {
        assert!((log_sum_exp(&[2.0; 4]) - (2.0 + 4f64.ln())).abs() < 1e-15);
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY; 3]), f64::NEG_INFINITY);
        assert!((log_sum_exp(&[1000.0, f32::NEG_INFINITY]) - 1000.0).abs() < 1e-12);
    }
}
