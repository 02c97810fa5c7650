//! sin and cos: x = k·π/2 + r, |r| ≤ π/4, with π/2 in three parts (Cody and Waite), then the series of the quadrant.

use super::ROUND;

/// The upper 33 bits of π/2: k · PIO2_1 is exact for |k| < 2^20.
const PIO2_1: f64 = 1.570_796_326_734_125_6;
/// The next 33 bits.
const PIO2_2: f64 = 6.077_100_506_303_966e-11;
/// The rest.
const PIO2_3: f64 = 2.022_266_248_795_950_6e-21;

/// The quadrant and what is left, as a sum of two doubles.
fn reduce(x: f64) -> (u64, f64, f64) {
    let shifted = x * std::f64::consts::FRAC_2_PI + ROUND;
    let k = shifted - ROUND;
    let high = x - k * PIO2_1;
    let product = k * PIO2_2;
    let r = high - product;
    let low = ((high - r) - product) - k * PIO2_3;
    (shifted.to_bits() & 3, r, low)
}

/// sin(r + low) ≈ sin r + low·cos r, to r^19 / 19!: the first term left out is 0.786^21 / 21! = 1e−22.
fn sin_series(r: f64, low: f64) -> f64 {
    let s = r * r;
    let mut sum = 0.0;
    let mut n = 18.0;
    while n >= 2.0 {
        // The bracket of r·(1 − s/(2·3)·(1 − s/(4·5)·(…))), without its leading 1.
        sum = -s / (n * (n + 1.0)) * (1.0 + sum);
        n -= 2.0;
    }
    r + (r * sum + low * (1.0 - 0.5 * s))
}

/// cos(r + low) ≈ cos r − low·r, to r^20 / 20!.
fn cos_series(r: f64, low: f64) -> f64 {
    let s = r * r;
    let mut sum = 0.0;
    let mut n = 19.0;
    while n >= 3.0 {
        sum = -s / (n * (n + 1.0)) * (1.0 + sum);
        n -= 2.0;
    }
    // 1 − s/2·(1 + sum), with the rounding of the first difference given back.
    let half = 0.5 * s;
    let first = 1.0 - half;
    first + (((1.0 - first) - half) - (half * sum + r * low))
}

/// The sine of `x` radians; NaN for an infinity.
pub fn sin(x: f64) -> f64 {
    let (quadrant, r, low) = reduce(x);
    match quadrant {
        0 => sin_series(r, low),
        1 => cos_series(r, low),
        2 => -sin_series(r, low),
        _ => -cos_series(r, low),
    }
}

/// The cosine of `x` radians; NaN for an infinity.
pub fn cos(x: f64) -> f64 {
    let (quadrant, r, low) = reduce(x);
    match quadrant {
        0 => cos_series(r, low),
        1 => -sin_series(r, low),
        2 => -cos_series(r, low),
        _ => sin_series(r, low),
    }
}
