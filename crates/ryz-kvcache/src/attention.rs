//! Attention of the query heads that share a key-value head over a block table.
//!
//! `out = Σ_j softmax(scale · q·k_j)_j · v_j` over the first `visible` positions, by online softmax (Milakov and
//! Gimelshein, arXiv 1805.02867) in steps of one block, in ascending order ([`Kernels::attend_block`]). The steps depend
//! on absolute positions alone, so the result does not depend on threads, on the batch or on how the prompt was cut
//! into chunks. Stored values are widened inside the loops, never into a copy of the cache, and once for all queries.
//!
//! Int4: a query's own block is read as the halves that were written, from the block's tail or, when the block began in
//! this very step, from the step's rows; all blocks before it in four bits.

use ryz_kernels::{Kernels, KvBlock, RunningSoftmax};

use crate::{BLOCK_TOKENS, BlockId, KvDType, KvReader};

/// Most queries of one call.
pub const MAX_QUERIES: usize = ryz_kernels::MAX_QUERIES;

/// One head's keys and values of a sequence's new positions, as the step computed them.
#[derive(Clone, Copy, Debug)]
pub struct StepRows<'a> {
    /// The position of the first row.
    pub start: usize,
    /// A row begins every `key_stride`.
    pub keys: &'a [f32],
    /// Floats from one key to the next.
    pub key_stride: usize,
    /// A row begins every `value_stride`.
    pub values: &'a [f32],
    /// Floats from one value to the next.
    pub value_stride: usize,
}

impl KvReader<'_> {
    /// Writes to `out` (queries, value_dim) the attention of `queries` (at most [`MAX_QUERIES`], key_dim) over the first
    /// `visible` positions of `block_table`. `new` are the rows of the step in which the last of them was written; only
    /// [`KvDType::Int4`] reads them.
    ///
    /// # Panics
    /// When lengths do not fit the cache, or `visible` is 0 or more than the table holds.
    #[expect(clippy::too_many_arguments, reason = "the operands of the equation")]
    pub fn attend(
        &self,
        kernels: Kernels,
        layer: usize,
        kv_head: usize,
        block_table: &[BlockId],
        visible: usize,
        new: StepRows<'_>,
        queries: &[f32],
        scale: f32,
        out: &mut [f32],
    ) {
        let config = *self.config();
        let count = queries.len() / config.key_dim;
        assert!(
            (1..=MAX_QUERIES).contains(&count) && count * config.key_dim == queries.len(),
            "lengths of queries"
        );
        assert_eq!(
            out.len(),
            count * config.value_dim,
            "length of an attention output"
        );
        assert!(
            visible > 0 && visible <= block_table.len() * BLOCK_TOKENS,
            "{visible} visible positions"
        );
        let mut running = [RunningSoftmax::default(); MAX_QUERIES];
        let running = &mut running[..count];
        out.fill(0.0);
        let own = (visible - 1) / BLOCK_TOKENS;
        for &block in &block_table[..own] {
            let block = self.block(block, layer, kv_head);
            kernels.attend_block(&block, BLOCK_TOKENS, queries, scale, running, out);
        }
        let block = match config.dtype {
            KvDType::Int4 => self
                .tail(block_table[own], layer, kv_head)
                .unwrap_or_else(|| new.block(own * BLOCK_TOKENS)),
            _ => self.block(block_table[own], layer, kv_head),
        };
        let positions = visible - own * BLOCK_TOKENS;
        kernels.attend_block(&block, positions, queries, scale, running, out);
        kernels.attend_end(running, out);
    }
}

impl<'a> StepRows<'a> {
    /// The rows of the block that begins at a position of this step.
    fn block(&self, position: usize) -> KvBlock<'a> {
        assert!(
            position >= self.start,
            "a block began before this step and has no tail"
        );
        let row = position - self.start;
        KvBlock::F32 {
            keys: &self.keys[row * self.key_stride..],
            key_stride: self.key_stride,
            values: &self.values[row * self.value_stride..],
            value_stride: self.value_stride,
        }
    }
}
