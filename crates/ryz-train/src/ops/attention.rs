//! Causal attention over a packed batch, in blocks of query rows.
//!
//! `P = softmax(Q·Kᵀ/√d, keys ≤ query)`, `O = P·V`. Only the log-sum-exp of each row is stored; the
//! backward pass recomputes P from it (as in FlashAttention), which costs one small product and
//! avoids storing (heads, T, T).

use super::matmul::{ProductOutput, View, a_b, a_bt, at_b};
use crate::simd::{exp, max1, sum2, vectorised};

/// Query rows per block: keys beyond the block's last row are never read.
const BLOCK: usize = 128;

/// The shapes of one attention call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub sequences: usize,
    /// Tokens per sequence.
    pub tokens: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl Shape {
    /// Floats per row of q, k and v.
    pub fn stride(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Floats of scratch for [`forward`] and [`backward`].
    pub fn scratch(&self) -> usize {
        2 * BLOCK.min(self.tokens) * self.tokens
    }

    fn out_stride(&self) -> usize {
        self.heads * self.head_dim
    }

    /// First element of row `row` of q, k or v of one head.
    fn at(&self, sequence: usize, row: usize, slot: usize) -> usize {
        (sequence * self.tokens + row) * self.stride() + slot * self.head_dim
    }

    fn key_slot(&self, head: usize) -> usize {
        self.heads + head / (self.heads / self.kv_heads)
    }

    fn view<'a>(&self, data: &'a [f32], rows: usize, stride: usize) -> View<'a> {
        View {
            data,
            rows,
            cols: self.head_dim,
            stride,
        }
    }
}

/// Fills `out` (n, heads·head_dim) and `lse` (sequences, heads, tokens) from `qkv` (n, stride).
pub(crate) fn forward(
    shape: Shape,
    qkv: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
    scratch: &mut [f32],
) {
    let Shape {
        tokens,
        heads,
        head_dim,
        ..
    } = shape;
    assert_eq!(
        lse.len(),
        shape.sequences * heads * tokens,
        "one sum for each query head"
    );
    let (stride, out_stride) = (shape.stride(), shape.out_stride());
    let scale = 1.0 / (head_dim as f32).sqrt();
    for (index, lse) in lse.chunks_exact_mut(tokens).enumerate() {
        let (sequence, head) = (index / heads, index % heads);
        let k = shape.key_slot(head);
        for start in (0..tokens).step_by(BLOCK) {
            let end = (start + BLOCK).min(tokens);
            let rows = end - start;
            let scores = &mut scratch[..rows * end];
            a_bt(
                ProductOutput::set(scores, end),
                shape.view(&qkv[shape.at(sequence, start, head)..], rows, stride),
                shape.view(&qkv[shape.at(sequence, 0, k)..], end, stride),
            );
            vectorised(
                #[inline(always)]
                || softmax_rows(scores, start, end, scale, &mut lse[start..end]),
            );
            a_b(
                ProductOutput {
                    data: &mut out[(sequence * tokens + start) * out_stride + head * head_dim..],
                    stride: out_stride,
                    add: false,
                },
                View::new(scores, rows, end),
                shape.view(
                    &qkv[shape.at(sequence, 0, k + shape.kv_heads)..],
                    end,
                    stride,
                ),
            );
        }
    }
}

#[inline(always)]
fn softmax_rows(scores: &mut [f32], start: usize, end: usize, scale: f32, lse: &mut [f32]) {
    for ((i, row), lse) in scores.chunks_exact_mut(end).enumerate().zip(lse) {
        let (row, masked) = row.split_at_mut(start + i + 1);
        let max = max1(row, f32::NEG_INFINITY, |x| x) * scale;
        for x in row.iter_mut() {
            *x = exp(*x * scale - max);
        }
        let sum = sum2(row, row, |x, _| x);
        let inverse = 1.0 / sum;
        for x in row {
            *x *= inverse;
        }
        masked.fill(0.0);
        *lse = max + sum.ln();
    }
}

/// The inputs of the backward pass.
pub(crate) struct Backward<'a> {
    pub shape: Shape,
    pub qkv: &'a [f32],
    pub out: &'a [f32],
    pub lse: &'a [f32],
    pub dout: &'a [f32],
    /// (n, stride): overwritten.
    pub dqkv: &'a mut [f32],
    pub scratch: &'a mut [f32],
}

/// Computes the gradients of q, k and v.
pub(crate) fn backward(op: Backward<'_>) {
    let Backward {
        shape,
        qkv,
        out,
        lse,
        dout,
        dqkv,
        scratch,
    } = op;
    let Shape {
        tokens,
        heads,
        head_dim,
        kv_heads,
        ..
    } = shape;
    let (stride, out_stride) = (shape.stride(), shape.out_stride());
    let scale = 1.0 / (head_dim as f32).sqrt();
    dqkv.fill(0.0);
    let (p, dp) = scratch.split_at_mut(BLOCK.min(tokens) * tokens);
    for (index, lse) in lse.chunks_exact(tokens).enumerate() {
        let (sequence, head) = (index / heads, index % heads);
        let k = shape.key_slot(head);
        let (key_at, value_at) = (
            shape.at(sequence, 0, k),
            shape.at(sequence, 0, k + kv_heads),
        );
        for start in (0..tokens).step_by(BLOCK) {
            let end = (start + BLOCK).min(tokens);
            let rows = end - start;
            let (p, dp) = (&mut p[..rows * end], &mut dp[..rows * end]);
            let query_at = shape.at(sequence, start, head);
            let out_at = (sequence * tokens + start) * out_stride + head * head_dim;
            let query = shape.view(&qkv[query_at..], rows, stride);
            let dout_rows = shape.view(&dout[out_at..], rows, out_stride);
            a_bt(
                ProductOutput::set(p, end),
                query,
                shape.view(&qkv[key_at..], end, stride),
            );
            a_bt(
                ProductOutput::set(dp, end),
                dout_rows,
                shape.view(&qkv[value_at..], end, stride),
            );
            vectorised(
                #[inline(always)]
                || {
                    for i in 0..rows {
                        let valid = start + i + 1;
                        let at = out_at + i * out_stride;
                        let delta =
                            sum2(&out[at..at + head_dim], &dout[at..at + head_dim], |a, b| {
                                a * b
                            });
                        let (p, p_masked) = p[i * end..(i + 1) * end].split_at_mut(valid);
                        let (dp, dp_masked) = dp[i * end..(i + 1) * end].split_at_mut(valid);
                        let lse = lse[start + i];
                        for (p, dp) in p.iter_mut().zip(dp) {
                            *p = exp(*p * scale - lse);
                            *dp = *p * (*dp - delta) * scale;
                        }
                        p_masked.fill(0.0);
                        dp_masked.fill(0.0);
                    }
                },
            );
            let (p, dp) = (View::new(p, rows, end), View::new(dp, rows, end));
            at_b(
                ProductOutput {
                    data: &mut dqkv[value_at..],
                    stride,
                    add: true,
                },
                p,
                dout_rows,
            );
            at_b(
                ProductOutput {
                    data: &mut dqkv[key_at..],
                    stride,
                    add: true,
                },
                dp,
                query,
            );
            a_b(
                ProductOutput {
                    data: &mut dqkv[query_at..],
                    stride,
                    add: true,
                },
                dp,
                shape.view(&qkv[key_at..], end, stride),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check::{check, noise};

    #[test]
    fn backward_matches_finite_differences() {
        for tokens in [5, 130] {
            let shape = Shape {
                sequences: 2,
                tokens,
                heads: 4,
                kv_heads: 2,
                head_dim: 8,
            };
            let n = shape.sequences * tokens;
            let (qkv, dout) = (
                noise(1, n * shape.stride()),
                noise(2, n * shape.out_stride()),
            );
            let run = |qkv: &[f32]| {
                let (mut out, mut lse) = (
                    vec![0.0; n * shape.out_stride()],
                    vec![0.0; n * shape.heads],
                );
                forward(
                    shape,
                    qkv,
                    &mut out,
                    &mut lse,
                    &mut vec![0.0; shape.scratch()],
                );
                (out, lse)
            };
            let (out, lse) = run(&qkv);
            let mut dqkv = vec![0.0; qkv.len()];
            backward(Backward {
                shape,
                qkv: &qkv,
                out: &out,
                lse: &lse,
                dout: &dout,
                dqkv: &mut dqkv,
                scratch: &mut vec![0.0; shape.scratch()],
            });
            check("qkv", &qkv, &dqkv, &dout, |x| run(x).0);
        }
    }

    #[test]
    fn later_tokens_do_not_reach_earlier_ones() {
        let shape = Shape {
            sequences: 1,
            tokens: 140,
            heads: 2,
            kv_heads: 1,
            head_dim: 8,
        };
        let run = |qkv: &[f32]| {
            let (mut out, mut lse) = (vec![0.0; 140 * 16], vec![0.0; 280]);
            forward(
                shape,
                qkv,
                &mut out,
                &mut lse,
                &mut vec![0.0; shape.scratch()],
            );
            out
        };
        let qkv = noise(3, 140 * shape.stride());
        let mut changed = qkv.clone();
        changed[133 * shape.stride()..].fill(0.3);
        assert_eq!(run(&qkv)[..133 * 16], run(&changed)[..133 * 16]);
    }
}
