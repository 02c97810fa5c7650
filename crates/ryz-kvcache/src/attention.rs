//! Attention over a block table, for query heads that share a key-value head.
//!
//! `out = Σ_j softmax(scale · q·k_j)_j · v_j` over the first `visible` positions, by online softmax
//! (Milakov and Gimelshein, arXiv 1805.02867), one block at a time in ascending order
//! ([`Kernels::attend_block`]). The steps depend only on absolute positions, so the result does not
//! depend on the threads, on the batch, or on how the prompt was split into chunks. Stored values
//! are widened inside the loops, once for all queries, and never copied.
//!
//! Int4: a query's own block is read in half precision, from the block's tail or, if the block
//! began in this step, from the step's rows. All earlier blocks are read in four bits.

use ryz_kernels::{Kernels, KvBlock, RunningSoftmax};

use crate::{AttentionMass, BLOCK_TOKENS, BlockId, KvDType, KvReader, Window};

/// Maximum queries per call.
pub const MAX_QUERIES: usize = ryz_kernels::MAX_QUERIES;

/// One head's keys and values for the sequence's new positions, as computed by the step.
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

/// The context that the query heads of one token see.
#[derive(Clone, Copy, Debug)]
pub struct VisibleContext<'a> {
    /// The sequence's blocks; evicted blocks are skipped.
    pub table: &'a [BlockId],
    /// Number of positions up to and including the token's own.
    pub positions: usize,
    /// The window over these positions; default all.
    pub window: Option<Window>,
    /// The queries for the window's sinks, if they differ from the others: rotated to the token's
    /// position without the evicted positions ([`Window::shift`]).
    pub sink_queries: Option<&'a [f32]>,
    /// Accumulates the attention weight of each block; default none.
    pub mass: Option<&'a AttentionMass>,
}

/// The running softmax of each query after each block, if requested.
#[derive(Debug, Default)]
struct SoftmaxTrace {
    blocks: Vec<(usize, [RunningSoftmax; MAX_QUERIES])>,
}

impl SoftmaxTrace {
    fn note(&mut self, mass: Option<&AttentionMass>, index: usize, running: &[RunningSoftmax]) {
        if mass.is_some() {
            let mut after = [RunningSoftmax::default(); MAX_QUERIES];
            after[..running.len()].copy_from_slice(running);
            self.blocks.push((index, after));
        }
    }

    /// Adds each block's share to `mass`.
    fn add_to(&self, mass: &AttentionMass, whole: &[RunningSoftmax]) {
        let mut before = [RunningSoftmax::default(); MAX_QUERIES];
        for (index, after) in &self.blocks {
            for (query, whole) in whole.iter().enumerate() {
                mass.add(*index, after[query].share(&before[query], whole));
            }
            before = *after;
        }
    }
}

impl KvReader<'_> {
    /// Writes to `out` (queries, value_dim) the attention of `queries` (at most [`MAX_QUERIES`],
    /// key_dim) over the `visible` context. `new` holds the rows of the step that wrote the last
    /// visible position; only [`KvDType::Int4`] reads them.
    ///
    /// # Panics
    /// When lengths do not fit the cache; when `visible` has no position or more than its table
    /// holds; when a block inside its window was evicted; when `visible.mass` has fewer blocks than
    /// are visible.
    #[expect(clippy::too_many_arguments, reason = "the operands of the equation")]
    pub fn attend(
        &self,
        kernels: Kernels,
        layer: usize,
        kv_head: usize,
        visible: VisibleContext<'_>,
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
            visible.positions > 0 && visible.positions <= visible.table.len() * BLOCK_TOKENS,
            "{} visible positions",
            visible.positions
        );
        let mut running = [RunningSoftmax::default(); MAX_QUERIES];
        let running = &mut running[..count];
        out.fill(0.0);
        let own = (visible.positions - 1) / BLOCK_TOKENS;
        let table = visible.table;
        let (sinks, first) = match visible.window {
            Some(window) => (window.sinks().min(own), window.first(visible.positions - 1)),
            None => (0, 0),
        };
        let sink_queries = visible.sink_queries.unwrap_or(queries);
        assert_eq!(sink_queries.len(), queries.len(), "lengths of queries");
        let mass = visible.mass;
        let mut passed = SoftmaxTrace::default();
        for (index, &block) in table[..sinks].iter().enumerate() {
            let block = self.block(block, layer, kv_head);
            kernels.attend_block(&block, BLOCK_TOKENS, sink_queries, scale, running, out);
            passed.note(mass, index, running);
        }
        let windowed = visible.window.is_some();
        let first = first.min(own);
        for (index, &block) in (first..).zip(&table[first..own]) {
            // Blocks inside the window must not be evicted.
            if block.is_evicted() && !windowed {
                continue;
            }
            let block = self.block(block, layer, kv_head);
            kernels.attend_block(&block, BLOCK_TOKENS, queries, scale, running, out);
            passed.note(mass, index, running);
        }
        let block = match config.dtype {
            KvDType::Int4 => self
                .tail(table[own], layer, kv_head)
                .unwrap_or_else(|| new.block(own * BLOCK_TOKENS)),
            _ => self.block(table[own], layer, kv_head),
        };
        let positions = visible.positions - own * BLOCK_TOKENS;
        kernels.attend_block(&block, positions, queries, scale, running, out);
        passed.note(mass, own, running);
        kernels.attend_end(running, out);
        if let Some(mass) = mass {
            passed.add_to(mass, running);
        }
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
