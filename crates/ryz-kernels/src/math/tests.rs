use super::*;

/// A fixed generator (SplitMix64).
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn within(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }
}

fn ulp(x: f64) -> f64 {
    let x = x.abs().max(f64::MIN_POSITIVE);
    f64::from_bits(x.to_bits() + 1) - x
}

#[test]
fn exp_is_half_an_ulp() {
    let mut random = Random(1);
    for _ in 0..200_000 {
        let x = random.within(-87.0, 88.7) as f32;
        let expected = f64::from(x).exp();
        let step =
            f64::from(f32::from_bits((expected as f32).to_bits() + 1)) - f64::from(expected as f32);
        let error = (f64::from(exp(x)) - expected).abs() / step;
        assert!(
            error < 0.51,
            "exp({x}) is {} and off by {error} ulp",
            exp(x)
        );
    }
}

#[test]
fn exp_at_the_ends() {
    assert_eq!(exp(0.0), 1.0);
    assert_eq!(exp(-104.0), 0.0);
    assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(exp(-100.0), (-100.0f64).exp() as f32, "a subnormal");
    assert_eq!(exp(89.0), f32::INFINITY);
    assert_eq!(exp(f32::INFINITY), f32::INFINITY);
    assert!(exp(f32::NAN).is_nan());
    assert!(exp_f64(f64::NAN).is_nan());
    assert_eq!(exp_f64(710.0), f64::INFINITY);
    assert_eq!(exp_f64(-746.0), 0.0);
}

#[test]
fn exp_f64_is_two_ulp() {
    let mut random = Random(2);
    for _ in 0..200_000 {
        let x = random.within(-707.0, 709.0);
        let expected = x.exp();
        assert!(
            (exp_f64(x) - expected).abs() <= 2.0 * ulp(expected),
            "exp({x})"
        );
    }
}

#[test]
fn ln_is_three_ulp() {
    let mut random = Random(3);
    for i in 0..200_000 {
        let x = if i % 2 == 0 {
            random.within(0.5, 2.0)
        } else {
            random.within(-700.0, 700.0).exp()
        };
        let expected = x.ln();
        assert!(
            (ln(x) - expected).abs() <= 3.0 * ulp(expected),
            "ln({x}): {} and {expected}",
            ln(x)
        );
    }
    assert_eq!(ln(1.0), 0.0);
    assert_eq!(ln(0.0), f64::NEG_INFINITY);
    assert_eq!(ln(f64::INFINITY), f64::INFINITY);
    assert!(ln(-1.0).is_nan());
    assert!((ln(5e-324) - 5e-324f64.ln()).abs() < 1e-12);
}

#[test]
fn pow_keeps_its_bound() {
    let mut random = Random(4);
    for _ in 0..100_000 {
        let (x, y) = (random.within(1e-3, 1e7), random.within(-3.0, 3.0));
        let expected = x.powf(y);
        let bound = 1e-15 * (2.0 + (y * x.ln()).abs());
        assert!((pow(x, y) / expected - 1.0).abs() <= bound, "pow({x}, {y})");
    }
    assert_eq!(pow(500_000.0, 0.0), 1.0);
    assert_eq!(pow(0.0, 2.0), 0.0);
    assert_eq!(pow(0.0, -2.0), f64::INFINITY);
}

#[test]
fn sin_and_cos_keep_their_bounds() {
    let mut random = Random(5);
    for i in 0..300_000 {
        let limit = [1.0, 100.0, 1.6e6, 1e9][i % 4];
        let x = random.within(-limit, limit);
        let bound = if limit <= 1.6e6 {
            3e-16
        } else {
            2e-16 * x.abs()
        };
        assert!(
            (sin(x) - x.sin()).abs() <= bound,
            "sin({x}): {} and {}",
            sin(x),
            x.sin()
        );
        assert!(
            (cos(x) - x.cos()).abs() <= bound,
            "cos({x}): {} and {}",
            cos(x),
            x.cos()
        );
    }
    assert_eq!(sin(0.0), 0.0);
    assert_eq!(cos(0.0), 1.0);
    assert!(sin(f64::INFINITY).is_nan() && cos(f64::NAN).is_nan());
}

#[test]
fn silu_and_relu2() {
    let mut random = Random(6);
    for _ in 0..100_000 {
        let x = random.within(-90.0, 90.0) as f32;
        let expected = f64::from(x) / (1.0 + (-f64::from(x)).exp());
        let bound = expected.abs() * 6e-8 + 1e-45;
        assert!((f64::from(silu(x)) - expected).abs() <= bound, "silu({x})");
    }
    assert_eq!(silu(-1e30), 0.0);
    assert_eq!(silu(1e30), 1e30);
    assert!(silu(f32::NAN).is_nan() && relu2(f32::NAN).is_nan());
    assert_eq!((relu2(-3.0), relu2(3.0)), (0.0, 9.0));
}

#[test]
fn halves() {
    for bits in 0..=u16::MAX {
        let value = f16_to_f32(bits);
        assert!(value.is_nan() || f32_to_f16(value) == bits);
    }
    assert_eq!(
        f32_to_f16(1.0 + 2f32.powi(-11)),
        0x3c00,
        "a tie goes to even"
    );
    assert_eq!(bf16_to_f32(0x3f80), 1.0);
}
