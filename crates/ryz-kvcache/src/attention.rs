//! Attention of one query head over a block table.
//!
//! `out = Σ_j softmax(scale · q·k_j)_j · v_j` over the first `visible` positions, by online softmax (Milakov and
//! Gimelshein, arXiv 1805.02867) in steps of one block, in ascending order: with m the running maximum, l the running
//! sum and a the running output, each block rescales l and a by exp(m − m') and adds its own terms. The steps depend
//! on absolute positions alone, so the result does not depend on threads, on the batch or on how the prompt was cut
//! into chunks. Stored values are widened inside the loops, never into a copy of the cache.

use half::f16;
use ryz_kernels::{Kernels, math};

use crate::{BLOCK_TOKENS, BlockId, KvDType, KvReader};

/// The 16 scores of a block: scratch of one thread.
#[derive(Debug, Default, Clone)]
pub struct AttentionScratch {
    scores: [f32; BLOCK_TOKENS],
}

impl KvReader<'_> {
    /// Writes to `out` (`value_dim`) the attention of `query` (`key_dim`) over the first `visible` positions of
    /// `block_table`.
    ///
    /// # Panics
    /// When lengths do not fit the cache, or `visible` is 0 or more than the table holds.
    #[allow(clippy::too_many_arguments, reason = "the operands of the equation")]
    pub fn attend(
        &self,
        kernels: Kernels,
        layer: usize,
        kv_head: usize,
        block_table: &[BlockId],
        visible: usize,
        query: &[f32],
        scale: f32,
        scratch: &mut AttentionScratch,
        out: &mut [f32],
    ) {
        let config = *self.config();
        assert_eq!(query.len(), config.key_dim, "length of a query");
        assert_eq!(out.len(), config.value_dim, "length of an attention output");
        assert!(
            visible > 0 && visible <= block_table.len() * BLOCK_TOKENS,
            "{visible} visible positions"
        );
        let (key_dim, value_dim) = (config.key_dim, config.value_dim);
        let mut maximum = f32::NEG_INFINITY;
        let mut sum = 0.0f32;
        out.fill(0.0);
        for (index, &block) in block_table[..visible.div_ceil(BLOCK_TOKENS)]
            .iter()
            .enumerate()
        {
            let tokens = BLOCK_TOKENS.min(visible - index * BLOCK_TOKENS);
            let scores = &mut scratch.scores[..tokens];
            match config.dtype {
                KvDType::F32 => {
                    let keys = self.keys::<f32>(block, layer, kv_head);
                    for (score, key) in scores.iter_mut().zip(keys.chunks_exact(key_dim)) {
                        *score = kernels.dot_f32(query, key) * scale;
                    }
                }
                KvDType::F16 => {
                    let keys = self.keys::<f16>(block, layer, kv_head);
                    for (score, key) in scores.iter_mut().zip(keys.chunks_exact(key_dim)) {
                        *score = kernels.dot_f16(query, key) * scale;
                    }
                }
                KvDType::Int8 => {
                    let keys = self.keys::<i8>(block, layer, kv_head);
                    let (key_scales, _) = self.scales(block, layer, kv_head);
                    for ((score, key), key_scale) in scores
                        .iter_mut()
                        .zip(keys.chunks_exact(key_dim))
                        .zip(key_scales)
                    {
                        *score = kernels.dot_i8(query, key) * key_scale * scale;
                    }
                }
            }
            let block_maximum = scores.iter().fold(maximum, |m, &s| m.max(s));
            if block_maximum > maximum {
                if sum > 0.0 {
                    let correction = math::exp(maximum - block_maximum);
                    sum *= correction;
                    out.iter_mut().for_each(|o| *o *= correction);
                }
                maximum = block_maximum;
            }
            for score in scores.iter_mut() {
                *score = math::exp(*score - maximum);
                sum += *score;
            }
            match config.dtype {
                KvDType::F32 => {
                    let values = self.values::<f32>(block, layer, kv_head);
                    for (weight, value) in scores.iter().zip(values.chunks_exact(value_dim)) {
                        kernels.axpy_f32(*weight, value, out);
                    }
                }
                KvDType::F16 => {
                    let values = self.values::<f16>(block, layer, kv_head);
                    for (weight, value) in scores.iter().zip(values.chunks_exact(value_dim)) {
                        kernels.axpy_f16(*weight, value, out);
                    }
                }
                KvDType::Int8 => {
                    let values = self.values::<i8>(block, layer, kv_head);
                    let (_, value_scales) = self.scales(block, layer, kv_head);
                    for ((weight, value), value_scale) in scores
                        .iter()
                        .zip(values.chunks_exact(value_dim))
                        .zip(value_scales)
                    {
                        kernels.axpy_i8(*weight * value_scale, value, out);
                    }
                }
            }
        }
        let inverse = 1.0 / sum;
        out.iter_mut().for_each(|o| *o *= inverse);
    }
}
