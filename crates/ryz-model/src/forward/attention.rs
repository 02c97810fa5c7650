//! A layer's attention: writes keys and values to the cache, and attends to them.

use std::ops::Range;

use ryz_format::RopeStyle;
use ryz_kernels::ROW_TILE;
use ryz_kvcache::{BLOCK_TOKENS, MAX_QUERIES, StepRows, VisibleContext};
use ryz_numa::{Chunks, RegionExit};

use super::pass::Pass;
use crate::{
    MAX_VALUE_DIM,
    weights::{AttentionWeights, Projection},
};

/// Cache lines of the output projection that each worker prefetches during attention: half of a
/// small L2 cache, which the attention blocks share.
const AHEAD_LINES: usize = 2048;

impl Pass<'_> {
    /// Prefetches the start of the weights that follow attention, because attention leaves memory
    /// bandwidth idle.
    pub(super) fn prefetch(&self, output: &Projection) {
        let weight = &output.weight;
        let rows = self.worker.split(weight.rows(), ROW_TILE);
        weight.prefetch_rows(rows, AHEAD_LINES);
    }

    /// Normalizes q and k heads where the model does, rotates them, and writes the new keys and
    /// values to the cache.
    pub(super) fn rotate_and_store(
        &self,
        index: usize,
        layer: &AttentionWeights,
        mut rows: Range<usize>,
    ) {
        let (config, kernels) = (&self.model.config, self.model.kernels);
        let whole = self.cache.writes_whole_blocks();
        if whole {
            rows = self.plan.block_start(rows.start)..self.plan.block_start(rows.end);
        }
        let angles = self.state.angles.read();
        let mut queries = self.state.query.rows_mut(rows.clone());
        let mut keys = self.state.key.rows_mut(rows.clone());
        let mut values = self.state.value.rows_mut(rows.clone());
        for (local, row) in rows.clone().enumerate() {
            let angles = &angles.row(row)[..self.model.angles.table_len()];
            let turn = |head: &mut [f32], norm: Option<&[f32]>| {
                if let Some(weight) = norm {
                    kernels.rms_norm_in_place(head, weight, config.rms_norm_eps);
                }
                self.turn(head, angles);
            };
            for head in queries.row_mut(local).chunks_exact_mut(config.key_head_dim) {
                turn(head, layer.query_norm.as_deref());
            }
            for head in keys.row_mut(local).chunks_exact_mut(config.key_head_dim) {
                turn(head, layer.key_norm.as_deref());
            }
            if let Some(projection) = &self.model.value_projection {
                projection.compress(kernels, index, values.row_mut(local));
            }
            if whole {
                // Readers see either the tail's half-precision values or these.
                kernels.round_f16(keys.row_mut(local));
                kernels.round_f16(values.row_mut(local));
            }
        }
        let (keys, values) = (keys.view(), values.view());
        let value_dim = self.model.stored_value_dim();
        let mut first = rows.start;
        while first < rows.end {
            let token = self.plan.rows[first];
            let end = self.plan.block_end(first).min(rows.end);
            let slot = token.position % BLOCK_TOKENS;
            let block = self.batch[token.sequence].block_table[token.position / BLOCK_TOKENS];
            let mut cached = self.cache.writer(block, slot..slot + (end - first));
            for kv_head in 0..config.num_key_value_heads {
                cached.write(kernels, index, kv_head, |at| {
                    let row = first - rows.start + (at - slot);
                    let part = |dim: usize| kv_head * dim..(kv_head + 1) * dim;
                    (
                        &keys.row(row)[part(config.key_head_dim)],
                        &values.row(row)[part(value_dim)],
                    )
                });
            }
            first = end;
        }
    }

    /// Rotates a head by a table of cosines and sines.
    fn turn(&self, head: &mut [f32], table: &[f32]) {
        let (cos, sin) = table.split_at(table.len() / 2);
        match self.model.config.rope.style {
            RopeStyle::Norm => self.model.kernels.rope_norm(head, cos, sin),
            _ => self.model.kernels.rope_neox(head, cos, sin),
        }
    }

    /// Passes the attention outputs of all tokens to the statistics; one worker handles each head,
    /// in order.
    pub(super) fn observe(&self, index: usize) -> Result<(), RegionExit> {
        let Some(statistics) = self.state.statistics else {
            return Ok(());
        };
        let config = &self.model.config;
        let columns =
            config.num_attention_heads / config.num_key_value_heads * config.value_head_dim;
        let one = Chunks::of(1);
        self.worker
            .share(config.num_key_value_heads, one, |kv_heads| {
                let heads = self.state.heads.read();
                for kv_head in kv_heads {
                    let first = kv_head * columns;
                    statistics.add(index, kv_head, heads.view(), first..first + columns);
                }
            })?;
        self.barrier(Some(index))
    }

    /// heads = attention of each query head over its sequence's positions up to its own. Chunks are
    /// small because late tokens cost more than early ones. Heads that share keys and values are
    /// processed together as long as the threads stay equally busy.
    pub(super) fn attend(&self, index: usize) -> Result<(), RegionExit> {
        let config = &self.model.config;
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let (key_dim, value_dim) = (config.key_head_dim, self.model.stored_value_dim());
        let projection = self.model.value_projection.as_ref();
        let mut compressed = [0.0; MAX_QUERIES * MAX_VALUE_DIM];
        let group = heads / kv_heads;
        let threads = self.worker.count();
        let rows = self.plan.rows.len();
        let together = group.min(MAX_QUERIES);
        // A block with `n` heads together costs about 5 + 4·n. With few parts, the busiest thread's
        // count decides.
        let cost = |tile: usize| {
            (rows * kv_heads * group.div_ceil(tile)).div_ceil(threads) * (5 + 4 * tile)
        };
        let tile = match rows * kv_heads >= 8 * threads {
            true => together,
            false => (1..=together)
                .rev()
                .min_by_key(|&tile| cost(tile))
                .unwrap_or(1),
        };
        let tiles = group.div_ceil(tile);
        let items = rows * kv_heads * tiles;
        let chunks = Chunks {
            most: kv_heads * tiles,
            ..Chunks::of(1)
        };
        // Stays empty if no window has sinks.
        let mut turned = Vec::new();
        self.worker.share(items, chunks, |items| {
            let (queries, keys, values) = (
                self.state.query.read(),
                self.state.key.read(),
                self.state.value.read(),
            );
            let angles = self.state.angles.read();
            let cached = self.cache.reader();
            for item in items {
                let (row, part) = (item / (kv_heads * tiles), item % (kv_heads * tiles));
                let (kv_head, part) = (part / tiles, part % tiles);
                let first = kv_head * group + part * tile;
                let end = (first + tile).min((kv_head + 1) * group);
                let token = self.plan.rows[row];
                let columns = |dim: usize| first * dim..end * dim;
                let mut heads = self
                    .state
                    .heads
                    .rect_mut(row..row + 1, columns(config.value_head_dim));
                // The sequence's first new token.
                let start = self.batch[token.sequence].start;
                let first_row = row - (token.position - start);
                let new = StepRows {
                    start,
                    keys: &keys[first_row * keys.view().cols() + kv_head * key_dim..],
                    key_stride: keys.view().cols(),
                    values: &values[first_row * values.view().cols() + kv_head * value_dim..],
                    value_stride: values.view().cols(),
                };
                let queries = &queries.row(row)[columns(key_dim)];
                let sink_queries = (self.shift(token) > 0).then(|| {
                    turned.clear();
                    turned.extend_from_slice(queries);
                    let back = &angles.row(row)[self.model.angles.table_len()..];
                    (turned.chunks_exact_mut(key_dim)).for_each(|head| self.turn(head, back));
                    &*turned
                });
                let visible = VisibleContext {
                    table: self.batch[token.sequence].block_table,
                    positions: token.position + 1,
                    window: self.batch[token.sequence].window,
                    sink_queries,
                    mass: self.batch[token.sequence].mass,
                };
                let out = match projection {
                    Some(_) => &mut compressed[..(end - first) * value_dim],
                    None => heads.row_mut(0),
                };
                cached.attend(
                    self.model.kernels,
                    index,
                    kv_head,
                    visible,
                    new,
                    queries,
                    self.model.attention_scale,
                    out,
                );
                if let Some(projection) = projection {
                    let count = (end - first) * value_dim;
                    let (kernels, outputs) = (self.model.kernels, &compressed[..count]);
                    projection.expand(kernels, index, kv_head, outputs, heads.row_mut(0));
                }
            }
        })
    }
}
