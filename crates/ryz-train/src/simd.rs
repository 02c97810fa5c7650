//! Runs element-wise code with the processor's widest vectors, from safe code.
//!
//! Functions passed to [`vectorised`] are `#[inline(always)]`, so the compiler builds one copy for
//! each instruction set and selects one at run time; the shipped trainer needs no `target-cpu`
//! flag.

/// Lanes of the fixed reduction order.
pub(crate) const LANES: usize = 16;

/// Calls `op` compiled for the widest instruction set found at run time.
#[inline(always)]
pub(crate) fn vectorised<R>(op: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(op)
}

/// Sum of `f(a[i], b[i])` in 16 lanes, then a fixed tree.
#[inline(always)]
pub(crate) fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_body, a_tail) = a.as_chunks::<LANES>();
    let (b_body, b_tail) = b.as_chunks::<LANES>();
    for (x, y) in a_body.iter().zip(b_body) {
        for i in 0..LANES {
            lanes[i] += f(x[i], y[i]);
        }
    }
    for (i, (x, y)) in a_tail.iter().zip(b_tail).enumerate() {
        lanes[i] += f(*x, *y);
    }
    fold(lanes, |x, y| x + y)
}

/// Largest `f(a[i])`, at least `start`.
#[inline(always)]
pub(crate) fn max1(a: &[f32], start: f32, f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let (body, tail) = a.as_chunks::<LANES>();
    for x in body {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], f(x[i]));
        }
    }
    for (i, x) in tail.iter().enumerate() {
        lanes[i] = larger(lanes[i], f(*x));
    }
    fold(lanes, larger)
}

/// Maximum without the NaN rules of `f32::max`, which cost a blend per element.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn fold(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// e^x to about 2 ulp, branch-free so that it vectorizes; results below e^-87 are clamped to that
/// bound.
///
/// Cody-Waite reduction by ln 2 in two parts, then the degree-6 polynomial of Cephes' `expf`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23: adding it leaves the nearest integer in the low mantissa bits
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let e = p * r * r + r + 1.0;
    e * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_the_standard_library() {
        for i in -8700..8800 {
            let x = i as f32 * 0.01;
            let expected = f64::from(x).exp();
            let relative = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(relative < 3e-7, "exp({x}) is off by {relative}");
        }
    }

    #[test]
    fn reductions_cover_ragged_ends() {
        for n in 0..40 {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            assert_eq!(
                sum2(&a, &a, |x, y| x * y),
                a.iter().map(|x| x * x).sum::<f32>()
            );
            assert_eq!(
                max1(&a, -1.0, |x| x),
                a.iter().copied().fold(-1.0, f32::max)
            );
        }
    }
}
