//! AdamW with public moments, so that a checkpoint can store them.
//!
//! Loshchilov and Hutter, "Decoupled weight decay regularization" (2017); moments are flat vectors
//! in the layout's order.

use crate::config::{Rates, TrainConfig};
use crate::layout::{Kind, Layout};
use crate::parallel;
use crate::simd::{sum2, vectorised};

/// First and second moments.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AdamW {
    pub first: Vec<f32>,
    pub second: Vec<f32>,
}

/// Elements per task.
const PART: usize = 1 << 16;

/// Sums the shards' gradients into the first, in order, and returns the norm of the sum.
pub(crate) fn reduce(threads: usize, shards: &mut [Vec<f32>]) -> f64 {
    let Some((first, rest)) = shards.split_first_mut() else {
        return 0.0;
    };
    let mut squares = vec![0.0f64; first.len().div_ceil(PART)];
    let tasks: Vec<_> = first
        .chunks_mut(PART)
        .zip(&mut squares)
        .enumerate()
        .collect();
    parallel::each(threads, tasks, |(i, (sum, square))| {
        vectorised(
            #[inline(always)]
            || {
                for shard in &*rest {
                    for (a, b) in sum.iter_mut().zip(&shard[i * PART..]) {
                        *a += b;
                    }
                }
                *square = sum
                    .chunks(1024)
                    .map(|c| f64::from(sum2(c, c, |a, b| a * b)))
                    .sum();
            },
        );
    });
    squares.iter().sum::<f64>().sqrt()
}

impl AdamW {
    pub fn new(parameters: usize) -> Self {
        Self {
            first: vec![0.0; parameters],
            second: vec![0.0; parameters],
        }
    }

    /// Updates the parameters with `gradients · factor`; `step` counts from 0. Weight decay applies
    /// only to linear layers.
    #[expect(clippy::too_many_arguments, reason = "what one step of the rule reads")]
    pub fn update(
        &mut self,
        config: &TrainConfig,
        layout: &Layout,
        step: u64,
        factor: f32,
        parameters: &mut [f32],
        gradients: &[f32],
        threads: usize,
    ) {
        let Rates {
            learning_rate,
            weight_decay,
        } = config.rates(step);
        let (beta1, beta2) = (config.beta1, config.beta2);
        let correction = |beta: f32| (1.0 - f64::from(beta).powf(step as f64 + 1.0)) as f32;
        let rate = learning_rate / correction(beta1);
        let root = correction(beta2).sqrt().recip();
        let mut rest = (
            parameters,
            self.first.as_mut_slice(),
            self.second.as_mut_slice(),
        );
        let mut tasks = Vec::new();
        for tensor in &layout.tensors {
            let n = tensor.range.len();
            let (p, p_rest) = rest.0.split_at_mut(n);
            let (m, m_rest) = rest.1.split_at_mut(n);
            let (v, v_rest) = rest.2.split_at_mut(n);
            rest = (p_rest, m_rest, v_rest);
            let keep = if tensor.kind == Kind::Linear {
                1.0 - learning_rate * weight_decay
            } else {
                1.0
            };
            let parts = p
                .chunks_mut(PART)
                .zip(m.chunks_mut(PART))
                .zip(v.chunks_mut(PART));
            tasks.extend(
                parts
                    .zip(gradients[tensor.range.clone()].chunks(PART))
                    .map(|part| (keep, part)),
            );
        }
        parallel::each(threads, tasks, |(keep, (((p, m), v), g))| {
            vectorised(
                #[inline(always)]
                || {
                    for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
                        let g = g * factor;
                        *m = beta1 * *m + (1.0 - beta1) * g;
                        *v = beta2 * *v + (1.0 - beta2) * g * g;
                        *p = *p * keep - rate * *m / (v.sqrt() * root + 1e-8);
                    }
                },
            );
        });
    }
}
