//! RMSNorm fused with the fake quantization of its output.
//!
//! `h = x / sqrt(mean(x²) + eps) · w`; with int8 activations `s = 127 / max(|h|, 1e-5)`, over a
//! token's row or over all rows of the call, and `y = clip(round_half_even(h·s), −128, 127) / s`.
//! Gradients pass straight through the rounding.

use crate::simd::{max1, sum2, vectorised};

/// How the norm's output is rounded for the linear layer that reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounding {
    None,
    /// int8, one scale per row.
    Token,
    /// int8, one scale for all rows of the call.
    Batch,
}

/// Values and gradients of one norm over `n` rows of `d`.
pub(crate) struct NormForward<'a> {
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub eps: f32,
    pub rounding: Rounding,
    /// (n, d): normalized and quantized rows.
    pub y: &'a mut [f32],
    /// (n): 1 / sqrt(mean(x²) + eps).
    pub inverse: &'a mut [f32],
}

/// Computes `y` and `inverse`.
pub(crate) fn forward(op: NormForward<'_>) {
    vectorised(
        #[inline(always)]
        || {
            let d = op.weight.len();
            for ((x, y), inverse) in
                op.x.chunks_exact(d)
                    .zip(op.y.chunks_exact_mut(d))
                    .zip(op.inverse)
            {
                *inverse = forward_row(x, op.weight, op.eps, y);
                if op.rounding == Rounding::Token {
                    quantise(y);
                }
            }
            if op.rounding == Rounding::Batch {
                quantise(&mut op.y[..op.x.len()]);
            }
        },
    );
}

#[inline(always)]
fn forward_row(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) -> f32 {
    let inverse = 1.0 / (sum2(x, x, |a, b| a * b) / x.len() as f32 + eps).sqrt();
    for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
        *y = x * inverse * w;
    }
    inverse
}

/// Rounds values in place to the int8 grid scaled by the largest magnitude.
#[inline(always)]
fn quantise(y: &mut [f32]) {
    let scale = 127.0 / max1(y, 1e-5, f32::abs);
    let back = 1.0 / scale;
    for y in y {
        let q = (*y * scale).round_ties_even();
        let q = if q < -128.0 { -128.0 } else { q };
        let q = if q > 127.0 { 127.0 } else { q };
        *y = q * back;
    }
}

/// One backward step: `dx += ∂y/∂x · dy`, `dweight += Σ_rows dy · x · inverse`.
pub(crate) struct NormBackward<'a> {
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub inverse: &'a [f32],
    pub dy: &'a [f32],
    pub dx: &'a mut [f32],
    pub dweight: &'a mut [f32],
}

/// Adds the gradients of one norm.
pub(crate) fn backward(op: NormBackward<'_>) {
    vectorised(
        #[inline(always)]
        || {
            let d = op.weight.len();
            let rows =
                op.x.chunks_exact(d)
                    .zip(op.dy.chunks_exact(d))
                    .zip(op.dx.chunks_exact_mut(d));
            for (((x, dy), dx), &inverse) in rows.zip(op.inverse) {
                let coefficient = backward_row(x, op.weight, inverse, dy, op.dweight);
                for (((dx, x), dy), w) in dx.iter_mut().zip(x).zip(dy).zip(op.weight) {
                    *dx += inverse * w * dy - coefficient * x;
                }
            }
        },
    );
}

/// Adds the weight gradient of a row and returns the factor of `x` in `dx = inverse·w·dy −
/// factor·x`.
#[inline(always)]
pub(crate) fn backward_row(
    x: &[f32],
    weight: &[f32],
    inverse: f32,
    dy: &[f32],
    dweight: &mut [f32],
) -> f32 {
    for ((dw, x), dy) in dweight.iter_mut().zip(x).zip(dy) {
        *dw += dy * x * inverse;
    }
    let mut lanes = [0.0f32; 16];
    let ((x_body, x_tail), (y_body, y_tail), (w_body, w_tail)) = (
        x.as_chunks::<16>(),
        dy.as_chunks::<16>(),
        weight.as_chunks::<16>(),
    );
    for ((x, dy), w) in x_body.iter().zip(y_body).zip(w_body) {
        for i in 0..16 {
            lanes[i] += x[i] * dy[i] * w[i];
        }
    }
    for (i, ((x, dy), w)) in x_tail.iter().zip(y_tail).zip(w_tail).enumerate() {
        lanes[i] += x * dy * w;
    }
    let dot: f32 = lanes.iter().sum();
    inverse * inverse * inverse * dot / x.len() as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check::{check, noise};

    #[test]
    fn backward_matches_finite_differences() {
        let (n, d) = (3, 40);
        let (x, weight, dy) = (noise(1, n * d), noise(2, d), noise(3, n * d));
        let run = |x: &[f32], weight: &[f32]| {
            let (mut y, mut inverse) = (vec![0.0; n * d], vec![0.0; n]);
            forward(NormForward {
                x,
                weight,
                eps: 1e-5,
                rounding: Rounding::None,
                y: &mut y,
                inverse: &mut inverse,
            });
            (y, inverse)
        };
        let (_, inverse) = run(&x, &weight);
        let (mut dx, mut dweight) = (vec![0.0; n * d], vec![0.0; d]);
        backward(NormBackward {
            x: &x,
            weight: &weight,
            inverse: &inverse,
            dy: &dy,
            dx: &mut dx,
            dweight: &mut dweight,
        });
        check("x", &x, &dx, &dy, |x| run(x, &weight).0);
        check("weight", &weight, &dweight, &dy, |w| run(&x, w).0);
    }

    #[test]
    fn quantised_rows_lie_on_the_int8_grid_and_ties_go_to_even() {
        let mut row = vec![127.0, 0.5, 1.5, 2.5, -0.5, -127.0];
        quantise(&mut row);
        assert_eq!(row, [127.0, 0.0, 2.0, 2.0, 0.0, -127.0]);
        let mut zero = vec![0.0; 8];
        quantise(&mut zero);
        assert_eq!(zero, [0.0; 8]);
    }

    #[test]
    fn a_batch_has_one_grid_and_a_token_its_own() {
        // The rows already have unit mean square: the first row's largest value is 2, the second's
        // 1.
        let x = [2.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0];
        let weight = [1.0, 0.3, 0.29, 0.28];
        let rounded = |rounding| {
            let (mut y, mut inverse) = ([0.0; 8], [0.0; 2]);
            forward(NormForward {
                x: &x,
                weight: &weight,
                eps: 0.0,
                rounding,
                y: &mut y,
                inverse: &mut inverse,
            });
            y
        };
        let grid = |y: &[f32], step: f32| y.iter().all(|y| (y / step).fract().abs() < 1e-4);
        let (token, batch) = (rounded(Rounding::Token), rounded(Rounding::Batch));
        assert!(grid(&batch, 2.0 / 127.0), "{batch:?}");
        assert!(grid(&token[4..], 1.0 / 127.0) && !grid(&token[4..], 2.0 / 127.0));
        assert_eq!(batch[..4], token[..4]);
    }
}
