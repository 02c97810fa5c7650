//! The gated feed-forward activation: `a = act(gate) · up`, with `act` squared ReLU or SiLU.
//!
//! Its backward pass is fused with that of the sub-norm that reads `a`.

use super::norm;
use crate::config::HiddenAct;
use crate::simd::{exp, vectorised};

/// Computes `a (n, f)` from `gate_up (n, 2f)`, gate columns first.
pub(crate) fn forward(act: HiddenAct, gate_up: &[f32], a: &mut [f32], f: usize) {
    vectorised(
        #[inline(always)]
        || {
            for (gate_up, a) in gate_up.chunks_exact(2 * f).zip(a.chunks_exact_mut(f)) {
                let (gate, up) = gate_up.split_at(f);
                match act {
                    HiddenAct::Relu2 => {
                        for ((a, g), u) in a.iter_mut().zip(gate).zip(up) {
                            let r = relu(*g);
                            *a = r * r * u;
                        }
                    }
                    HiddenAct::Silu => {
                        for ((a, g), u) in a.iter_mut().zip(gate).zip(up) {
                            *a = g * sigmoid(*g) * u;
                        }
                    }
                }
            }
        },
    );
}

/// Gradients through the sub-norm and the gate.
pub(crate) struct GateBackward<'a> {
    pub act: HiddenAct,
    /// (n, 2f)
    pub gate_up: &'a [f32],
    /// (n, f): the norm's input.
    pub a: &'a [f32],
    pub weight: &'a [f32],
    pub inverse: &'a [f32],
    /// (n, f): gradient of the norm's output.
    pub dy: &'a [f32],
    /// (n, 2f)
    pub dgate_up: &'a mut [f32],
    pub dweight: &'a mut [f32],
}

/// Overwrites `dgate_up` and adds to `dweight`.
pub(crate) fn backward(op: GateBackward<'_>) {
    vectorised(
        #[inline(always)]
        || {
            let f = op.weight.len();
            let rows = op
                .gate_up
                .chunks_exact(2 * f)
                .zip(op.a.chunks_exact(f))
                .zip(op.dy.chunks_exact(f));
            for (((gate_up, a), dy), (dgate_up, &inverse)) in
                rows.zip(op.dgate_up.chunks_exact_mut(2 * f).zip(op.inverse))
            {
                let coefficient = norm::backward_row(a, op.weight, inverse, dy, op.dweight);
                let (gate, up) = gate_up.split_at(f);
                let (dgate, dup) = dgate_up.split_at_mut(f);
                for i in 0..f {
                    let da = inverse * op.weight[i] * dy[i] - coefficient * a[i];
                    let g = gate[i];
                    match op.act {
                        HiddenAct::Relu2 => {
                            let r = relu(g);
                            dgate[i] = 2.0 * r * up[i] * da;
                            dup[i] = r * r * da;
                        }
                        HiddenAct::Silu => {
                            let s = sigmoid(g);
                            dgate[i] = s * (1.0 + g * (1.0 - s)) * up[i] * da;
                            dup[i] = g * s * da;
                        }
                    }
                }
            }
        },
    );
}

#[inline(always)]
fn relu(g: f32) -> f32 {
    if g > 0.0 { g } else { 0.0 }
}

#[inline(always)]
fn sigmoid(g: f32) -> f32 {
    1.0 / (1.0 + exp(-g))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check::{check, noise};

    #[test]
    fn backward_matches_finite_differences() {
        let (n, f) = (2, 24);
        for act in [HiddenAct::Relu2, HiddenAct::Silu] {
            let (gate_up, weight, dy) = (noise(1, n * 2 * f), noise(2, f), noise(3, n * f));
            let run = |gate_up: &[f32], weight: &[f32]| {
                let (mut a, mut y, mut inverse) =
                    (vec![0.0; n * f], vec![0.0; n * f], vec![0.0; n]);
                forward(act, gate_up, &mut a, f);
                norm::forward(norm::NormForward {
                    x: &a,
                    weight,
                    eps: 1e-5,
                    rounding: norm::Rounding::None,
                    y: &mut y,
                    inverse: &mut inverse,
                });
                (y, a, inverse)
            };
            let (_, a, inverse) = run(&gate_up, &weight);
            let (mut dgate_up, mut dweight) = (vec![0.0; n * 2 * f], vec![0.0; f]);
            backward(GateBackward {
                act,
                gate_up: &gate_up,
                a: &a,
                weight: &weight,
                inverse: &inverse,
                dy: &dy,
                dgate_up: &mut dgate_up,
                dweight: &mut dweight,
            });
            check("gate_up", &gate_up, &dgate_up, &dy, |x| run(x, &weight).0);
            check("weight", &weight, &dweight, &dy, |w| run(&gate_up, w).0);
        }
    }
}
