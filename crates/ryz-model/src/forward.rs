//! The forward pass: tokens of a ragged batch in, logits out.
//!
//! One parallel region computes a whole step. Its threads walk the layers together, each taking its share of the
//! tokens, of the rows of a matrix, or of the attention heads, and meet at a barrier wherever one phase reads what
//! another wrote. Each value is computed by one thread, in an order that its position alone decides, so logits do not
//! depend on the number of threads, on the batch, or on how a prompt was cut into chunks.
//!
//! ```text
//! x = embedding[token]
//! for each layer:
//!     h = norm(x)                       q, k, v = Wq·h, Wk·h, Wv·h
//!     q, k = rope(norm?(q), norm?(k))   cache ← k, v
//!     a = attention(q, cache)           x += Wo · norm?(a)
//!     h = norm(x)                       g = act(Wgate·h) · (Wup·h)
//!     x += Wdown · norm?(g)
//! logits = Whead · norm(x)          or of the rows that can matter only, by an image of Whead
//! ```

use std::{
    cell::RefCell,
    ops::Range,
    sync::{
        MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use ryz_format::RopeStyle;
use ryz_kernels::{
    ActivationView, BatchLayout, Line, Linear, Prepared, ROW_TILE, SparseTernary, TILE_TOKENS,
};
use ryz_kvcache::{BLOCK_TOKENS, KvCache, MAX_QUERIES, StepBlocks, StepRows, Visible};
use ryz_numa::{Chunks, ElasticWorker, Lease, Leave, PartitionedSlice, WriteGuard};
use ryz_profile::{Phase, PhaseClock};
use ryz_tmac::{MatMut, MatRef};

use crate::{
    AttentionStatistics, BatchSequence, MAX_VALUE_DIM, Model, ModelError, Needed, RunState,
    batch::{BatchLimits, Plan, TokenRow},
    hooks::{HookPoint, Hooks, regions, stage_point, stages},
    run_state::{Shared, SharedScreen},
    screen::HeadImage,
    weights::{LayerWeights, Projection},
};

/// Cache lines of the output projection that each worker asks for while it attends: half of a small second-level cache, which
/// attention's own blocks share.
const AHEAD_LINES: usize = 2048;

/// The most tokens of a step for each of which rows of `up` are listed; more read all rows once.
const LISTED_TOKENS: usize = 3;

/// Chunks of a matrix that a worker claims have at least so many bytes, of which a few KiB are waited for at the beginning;
const LEAST_BYTES: usize = 64 << 10;
/// and of dense weights, whose products prepare the token's activations each time, more.
const LEAST_DENSE_BYTES: usize = 1 << 20;
/// None has more, so that a worker whose core is taken can stop in time.
const MOST_BYTES: usize = 1 << 20;

impl Model {
    /// Computes one step: writes the keys and values of all new tokens to `cache`, and the logits that the batch asks
    /// for to `state`, in batch order ([`RunState::logits`]).
    ///
    /// `cancel` is looked at between layers.
    ///
    /// # Errors
    /// [`ModelError::InvalidBatch`], [`ModelError::TokenOutOfRange`] and [`ModelError::ContextOverflow`] before anything
    /// is computed; [`ModelError::Aborted`] when `cancel` was set: the new positions of the cache are then undefined;
    /// [`ModelError::Region`] when a worker panicked.
    ///
    /// # Panics
    /// When `lease` has more threads than the one that loaded the model.
    pub fn forward(
        &self,
        lease: &Lease,
        state: &mut RunState,
        cache: &mut KvCache,
        batch: &[BatchSequence<'_>],
        cancel: &AtomicBool,
    ) -> Result<(), ModelError> {
        self.steps(lease, state, cache, batch, cancel, None)
    }

    /// [`Model::forward`], with hooks called at the places that they want.
    ///
    /// # Errors
    /// As [`Model::forward`]; [`ModelError::Aborted`] also when a hook ends the step.
    pub fn forward_with(
        &self,
        lease: &Lease,
        state: &mut RunState,
        cache: &mut KvCache,
        batch: &[BatchSequence<'_>],
        cancel: &AtomicBool,
        hooks: &mut dyn Hooks,
    ) -> Result<(), ModelError> {
        self.steps(lease, state, cache, batch, cancel, Some(hooks))
    }

    fn steps(
        &self,
        lease: &Lease,
        state: &mut RunState,
        cache: &mut KvCache,
        batch: &[BatchSequence<'_>],
        cancel: &AtomicBool,
        hooks: Option<&mut dyn Hooks>,
    ) -> Result<(), ModelError> {
        let limits = BatchLimits {
            max_tokens: state.max_tokens(),
            max_outputs: state.max_outputs(),
            max_positions: self.config.max_position_embeddings,
            vocab_size: self.config.vocab_size,
            cache_blocks: cache.config().blocks,
        };
        assert!(
            lease.threads() <= self.threads,
            "{} threads for a model of {}",
            lease.threads(),
            self.threads
        );
        // A hook may change what the head reads, and is shown all that it makes.
        let image = match &hooks {
            None => self.weights.image.as_ref(),
            Some(_) => None,
        };
        let (plan, shared) = state.begin(batch, limits, image)?;
        cache.prepare(batch.iter().map(step_blocks))?;
        let step = Step {
            model: self,
            lease,
            plan,
            state: &shared,
            cache,
            batch,
            cancel,
        };
        let layers = self.config.num_hidden_layers;
        let Some(hooks) = hooks else {
            return step.region(0..stages(layers));
        };
        for stages in regions(layers, hooks) {
            let point = stage_point(stages.end - 1, layers);
            step.region(stages)?;
            if hooks.wants(point) && !step.call(hooks, point) {
                return Err(ModelError::Aborted);
            }
        }
        Ok(())
    }
}

/// A step that is being computed.
struct Step<'a> {
    model: &'a Model,
    lease: &'a Lease,
    plan: &'a Plan,
    state: &'a Shared<'a>,
    cache: &'a KvCache,
    batch: &'a [BatchSequence<'a>],
    cancel: &'a AtomicBool,
}

impl Step<'_> {
    /// Computes some stages in one parallel region.
    fn region(&self, stages: Range<usize>) -> Result<(), ModelError> {
        let cancelled = AtomicBool::new(false);
        self.lease.run_elastic(|worker| {
            let (state, cancelled) = (self.state, &cancelled);
            let clock = worker.leads().then(|| state.clock.lock());
            let clock =
                clock.map(|clock| RefCell::new(clock.unwrap_or_else(PoisonError::into_inner)));
            let pass = Pass {
                clock: clock.filter(|clock| clock.borrow().is_recording()),
                model: self.model,
                worker,
                batch: self.batch,
                plan: self.plan,
                state,
                cache: self.cache,
                cancel: self.cancel,
                cancelled,
            };
            // Either reason to stop is known outside: `cancelled`, or the region's error.
            let _stopped = pass.run(stages.clone());
        })?;
        self.lap(Phase::Dispatch);
        if cancelled.into_inner() {
            Err(ModelError::Aborted)
        } else {
            Ok(())
        }
    }

    /// Gives the rows at a place to the hooks, sequence by sequence.
    fn call(&self, hooks: &mut dyn Hooks, point: HookPoint) -> bool {
        let state = self.state;
        let (values, outputs) = match point {
            HookPoint::Embedding => (&state.residual, false),
            HookPoint::Attention(_) | HookPoint::FeedForward(_) => (&state.projected, false),
            HookPoint::FinalNorm => (&state.hidden, true),
            HookPoint::Logits => (&state.logits, true),
        };
        let cols = values.cols();
        let token_of =
            |row: usize| self.plan.rows[if outputs { self.plan.outputs[row] } else { row }];
        let mut copy = Vec::new();
        let mut start = 0;
        while start < values.rows() {
            let first = token_of(start);
            let same = |row: &usize| token_of(*row).sequence == first.sequence;
            let end = start + (start..values.rows()).take_while(same).count();
            let mut rows = values.rows_mut(start..end);
            copy.clear();
            for row in 0..end - start {
                copy.extend_from_slice(rows.row_mut(row));
            }
            if !hooks.call(point, first.sequence, first.position, cols, &mut copy) {
                return false;
            }
            for (row, values) in copy.chunks_exact(cols).enumerate() {
                rows.row_mut(row).copy_from_slice(values);
            }
            start = end;
        }
        self.lap(Phase::Operator);
        true
    }

    fn lap(&self, phase: Phase) {
        let clock = self.state.clock.lock();
        clock
            .unwrap_or_else(PoisonError::into_inner)
            .lap(phase, None);
    }
}

fn step_blocks<'a>(sequence: &BatchSequence<'a>) -> StepBlocks<'a> {
    StepBlocks {
        table: sequence.block_table,
        start: sequence.start,
        end: sequence.start + sequence.tokens.len(),
    }
}

/// One worker's view of a step.
struct Pass<'a> {
    model: &'a Model,
    worker: &'a ElasticWorker<'a>,
    batch: &'a [BatchSequence<'a>],
    plan: &'a Plan,
    state: &'a Shared<'a>,
    cache: &'a KvCache,
    cancel: &'a AtomicBool,
    /// Whether a worker saw `cancel`.
    cancelled: &'a AtomicBool,
    /// The first worker's, while it records.
    clock: Option<RefCell<MutexGuard<'a, PhaseClock>>>,
}

impl Pass<'_> {
    fn run(&self, stages: Range<usize>) -> Result<(), Leave> {
        self.lap(Phase::Dispatch, None);
        let layers = &self.model.weights.layers;
        for stage in stages {
            match stage_point(stage, layers.len()) {
                HookPoint::Embedding => {
                    self.tokens(|rows| self.embed(rows))?;
                    self.lap(Phase::Embed, None);
                    self.barrier(None)?;
                }
                HookPoint::Attention(index) => self.attention_block(index, &layers[index])?,
                HookPoint::FeedForward(index) => self.feed_forward_block(index, &layers[index])?,
                HookPoint::FinalNorm => {
                    let outputs = self.plan.outputs.len();
                    self.worker.share(outputs, Chunks::of(1), |outputs| {
                        self.normalize_outputs(outputs)
                    })?;
                    self.lap(Phase::Norm, None);
                    self.barrier(None)?;
                }
                HookPoint::Logits => {
                    match (&self.model.weights.image, &self.state.screen) {
                        (Some(image), Some(screen)) if screen.bounds_rows() => {
                            self.screen_logits(image, screen)?;
                        }
                        _ => self.project_logits()?,
                    }
                    self.lap(Phase::Head, None);
                }
            }
        }
        Ok(())
    }

    /// projected = Wo · attention of the layer.
    fn attention_block(&self, index: usize, layer: &LayerWeights) -> Result<(), Leave> {
        let state = self.state;
        let qkv = [&layer.query, &layer.key, &layer.value];
        self.tokens(|rows| self.normalize(index, index > 0, &layer.attn_norm, &qkv, rows))?;
        self.barrier(Some(index))?;
        for (projection, out) in qkv
            .into_iter()
            .zip([&state.query, &state.key, &state.value])
        {
            self.project(projection, &state.normed, out)?;
        }
        self.lap(Phase::Qkv, Some(index));
        self.barrier(Some(index))?;
        self.tokens(|rows| self.rotate_and_store(index, layer, rows))?;
        self.lap(Phase::Rope, Some(index));
        self.barrier(Some(index))?;
        self.prefetch_output(layer);
        self.attend(index)?;
        self.lap(Phase::Attention, Some(index));
        self.barrier(Some(index))?;
        if let Some(statistics) = state.statistics {
            self.observe(index, statistics)?;
            self.barrier(Some(index))?;
        }
        let norm = layer.attn_sub_norm.as_deref();
        self.tokens(|rows| self.prepare(index, &state.heads, norm, &layer.output, rows))?;
        self.barrier(Some(index))?;
        self.project(&layer.output, &state.heads, &state.projected)?;
        self.lap(Phase::Output, Some(index));
        self.barrier(Some(index))
    }

    /// projected = Wdown · gated network of the layer.
    fn feed_forward_block(&self, index: usize, layer: &LayerWeights) -> Result<(), Leave> {
        let state = self.state;
        let read = [&layer.gate, &layer.up];
        self.tokens(|rows| self.normalize(index, true, &layer.ffn_norm, &read, rows))?;
        self.barrier(Some(index))?;
        self.gate_up(index, layer)?;
        self.lap(Phase::GateUp, Some(index));
        self.barrier(Some(index))?;
        let norm = layer.ffn_sub_norm.as_deref();
        self.tokens(|rows| {
            self.count_zeros(index, rows.clone());
            self.prepare(index, &state.gate, norm, &layer.down, rows.clone());
            self.count_quantized_zeros(index, &layer.down, rows);
        })?;
        self.barrier(Some(index))?;
        self.project(&layer.down, &state.gate, &state.projected)?;
        self.lap(Phase::Down, Some(index));
        self.barrier_or_cancelled(index)
    }

    /// Books the time since the last lap, on the first worker and when the clock records.
    #[inline]
    fn lap(&self, phase: Phase, layer: Option<usize>) {
        if let Some(clock) = &self.clock {
            clock.borrow_mut().lap(phase, layer);
        }
    }

    fn barrier(&self, layer: Option<usize>) -> Result<(), Leave> {
        self.worker.barrier()?;
        self.lap(Phase::Barrier, layer);
        Ok(())
    }

    /// Asks for the beginning of the weights that follow attention, which leaves the way to memory idle.
    fn prefetch_output(&self, layer: &LayerWeights) {
        let weight = &layer.output.weight;
        let rows = self.worker.split(weight.rows(), ROW_TILE);
        weight.prefetch_rows(rows, AHEAD_LINES);
    }

    /// Zeros among some rows of what gate and up gave.
    fn count_zeros(&self, index: usize, rows: Range<usize>) {
        let Some(activity) = self.state.activity else {
            return;
        };
        let mut values = self.state.gate.rows_mut(rows.clone());
        for row in 0..rows.len() {
            activity[index].add(values.row_mut(row));
        }
    }

    /// Zeros among the int8 forms of the same.
    fn count_quantized_zeros(&self, index: usize, down: &Projection, rows: Range<usize>) {
        let Some(activity) = self.state.activity else {
            return;
        };
        for form in self.state.forms_of(&[down]) {
            let mut quantized = form.rows.rows_mut(rows.clone());
            let zeros: usize = (0..rows.len())
                .map(|row| form.layout.zeros(quantized.row_mut(row)))
                .sum();
            activity[index].add_quantized(zeros as u64);
            // Of the columns that several tokens leave out, each reads its own.
            if let Linear::Sparse(weights) = &down.weight
                && self.plan.rows.len() == 1
            {
                activity[index].add_skipped((zeros * weights.item_bytes()) as u64);
            }
        }
        self.lap(Phase::Quantize, Some(index));
    }

    /// A barrier, after which the caller may have cancelled: who sees it stops all.
    fn barrier_or_cancelled(&self, index: usize) -> Result<(), Leave> {
        self.barrier(Some(index))?;
        if self.cancel.load(Ordering::Relaxed) {
            self.cancelled.store(true, Ordering::Relaxed);
            self.worker.stop();
            return Err(Leave);
        }
        Ok(())
    }

    /// residual = embedding\[token\], and the angles of the token's position and of its way back to the first ones.
    fn embed(&self, rows: Range<usize>) {
        let mut residual = self.state.residual.rows_mut(rows.clone());
        let mut angles = self.state.angles.rows_mut(rows.clone());
        for (row, token) in self.plan.rows[rows].iter().enumerate() {
            self.model
                .weights
                .embedding
                .embedding_row(token.token as usize, residual.row_mut(row));
            let (own, back) = angles
                .row_mut(row)
                .split_at_mut(self.model.angles.table_len());
            self.model.angles.fill(token.position, own);
            match self.shift(*token) {
                0 => {}
                shift => self.model.angles.fill_back(shift, back),
            }
        }
    }

    /// By how many positions the token's queries are turned back for the first blocks of its window.
    fn shift(&self, token: TokenRow) -> usize {
        let window = self.batch[token.sequence].window;
        window.map_or(0, |window| window.shift(token.position))
    }

    /// residual += projected (when there is something to add); normed = norm(residual), in every form that
    /// `projections` read.
    fn normalize(
        &self,
        layer: usize,
        add: bool,
        weight: &[f32],
        projections: &[&Projection],
        rows: Range<usize>,
    ) {
        let kernels = self.model.kernels;
        {
            let mut residual = self.state.residual.rows_mut(rows.clone());
            let mut normed = self.state.normed.rows_mut(rows.clone());
            let projected = add.then(|| self.state.projected.read());
            for (index, row) in rows.clone().enumerate() {
                if let Some(projected) = &projected {
                    kernels.add(projected.row(row), residual.row_mut(index));
                }
                let eps = self.model.config.rms_norm_eps;
                kernels.rms_norm(residual.row_mut(index), weight, eps, normed.row_mut(index));
            }
        }
        self.lap(Phase::Norm, Some(layer));
        self.quantize(layer, &self.state.normed, rows, projections);
    }

    /// values = norm(values) where the model has this norm, in every form that `projection` reads.
    fn prepare(
        &self,
        layer: usize,
        values: &PartitionedSlice<'_, f32>,
        norm: Option<&[f32]>,
        projection: &Projection,
        rows: Range<usize>,
    ) {
        if let Some(weight) = norm {
            let mut values = values.rows_mut(rows.clone());
            for index in 0..rows.len() {
                let eps = self.model.config.rms_norm_eps;
                self.model
                    .kernels
                    .rms_norm_in_place(values.row_mut(index), weight, eps);
            }
        }
        self.lap(Phase::Norm, Some(layer));
        self.quantize(layer, values, rows, &[projection]);
    }

    /// Shares the tokens out, in whole tiles where batches are interleaved.
    fn tokens(&self, work: impl FnMut(Range<usize>)) -> Result<(), Leave> {
        let tokens = self.plan.rows.len();
        let granule = match self.model.kernels.batch() {
            BatchLayout::Tiles if tokens >= TILE_TOKENS => TILE_TOKENS,
            _ => 1,
        };
        self.worker.share(tokens, Chunks::of(granule), work)
    }

    /// Shares the rows of matrices out that are read together.
    fn rows(
        &self,
        weights: &[&Linear],
        granule: usize,
        work: impl FnMut(Range<usize>),
    ) -> Result<(), Leave> {
        let rows = weights[0].rows();
        let bytes: usize = weights.iter().map(|weight| weight.packed_bytes()).sum();
        let of_bytes = |bytes_of_chunk: usize| bytes_of_chunk * rows / bytes.max(1);
        let least = match weights[0].is_ternary() {
            true => LEAST_BYTES,
            false => LEAST_DENSE_BYTES,
        };
        let chunks = Chunks {
            granule,
            least: of_bytes(least),
            most: of_bytes(MOST_BYTES),
        };
        self.worker.share(rows, chunks, work)
    }

    /// Quantises some rows of `values` in the forms that `projections` read.
    fn quantize(
        &self,
        layer: usize,
        values: &PartitionedSlice<'_, f32>,
        rows: Range<usize>,
        projections: &[&Projection],
    ) {
        for form in self.state.forms_of(projections) {
            let mut values = values.rows_mut(rows.clone());
            let mut quantized = form.rows.rows_mut(rows.clone());
            for index in 0..rows.len() {
                self.model.kernels.quantize_row(
                    form.layout,
                    values.row_mut(index),
                    quantized.row_mut(index),
                );
            }
            let whole = form.tiles.rows() * TILE_TOKENS;
            if rows.start >= whole {
                continue;
            }
            let first = rows.start / TILE_TOKENS;
            let mut tiles = form
                .tiles
                .rows_mut(first..rows.end.min(whole) / TILE_TOKENS);
            for index in 0..rows.end.min(whole) - rows.start {
                self.model.kernels.interleave_row(
                    form.layout,
                    quantized.row_mut(index),
                    tiles.row_mut(index / TILE_TOKENS),
                    index % TILE_TOKENS,
                );
            }
        }
        self.lap(Phase::Quantize, Some(layer));
    }

    /// out = scale · W·input + bias.
    fn project(
        &self,
        projection: &Projection,
        input: &PartitionedSlice<'_, f32>,
        out: &PartitionedSlice<'_, f32>,
    ) -> Result<(), Leave> {
        let weight = &projection.weight;
        self.rows(&[weight], weight.row_granule(), |rows| {
            let mut out = out.rect_mut(0..self.plan.rows.len(), rows.clone());
            self.multiply(projection, input, rows, &mut out);
        })
    }

    /// Some rows of the product; `out` is of them.
    fn multiply(
        &self,
        projection: &Projection,
        input: &PartitionedSlice<'_, f32>,
        rows: Range<usize>,
        out: &mut WriteGuard<'_, f32>,
    ) {
        let input = self.state.input_of(projection, input);
        let mut scratch = self.scratch();
        let scratch = match &mut scratch {
            Some(scratch) => scratch.row_mut(0),
            None => &mut [],
        };
        projection
            .weight
            .matmul(rows.clone(), input.view(), scratch, out.view());
        self.scale_and_bias(projection, rows, out);
    }

    /// This worker's scratch memory.
    fn scratch(&self) -> Option<WriteGuard<'_, Line>> {
        let worker = self.worker.index();
        let scratch = self.state.scratch.as_ref()?;
        Some(scratch.rows_mut(worker..worker + 1))
    }

    /// out = scale · out + bias, what the projection has of them.
    fn scale_and_bias(
        &self,
        projection: &Projection,
        rows: Range<usize>,
        out: &mut WriteGuard<'_, f32>,
    ) {
        let kernels = self.model.kernels;
        if projection.scale.is_none() && projection.bias.is_none() {
            return;
        }
        for token in 0..self.plan.rows.len() {
            if let Some(scale) = projection.scale {
                kernels.scale(scale, out.row_mut(token));
            }
            if let Some(bias) = &projection.bias {
                kernels.add(&bias[rows.clone()], out.row_mut(token));
            }
        }
    }

    /// Norms of q and k heads where the model has them, rotation, and the new keys and values into the cache.
    fn rotate_and_store(&self, index: usize, layer: &LayerWeights, mut rows: Range<usize>) {
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
                // What is read back is the halves of a tail, or these.
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

    /// Turns a head by a table of cosines and sines.
    fn turn(&self, head: &mut [f32], table: &[f32]) {
        let (cos, sin) = table.split_at(table.len() / 2);
        match self.model.config.rope.style {
            RopeStyle::Norm => self.model.kernels.rope_norm(head, cos, sin),
            _ => self.model.kernels.rope_neox(head, cos, sin),
        }
    }

    /// Gives the attention outputs of all tokens to those who look, each head by one worker, in order.
    fn observe(&self, index: usize, statistics: &AttentionStatistics) -> Result<(), Leave> {
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
            })
    }

    /// heads = attention of each query head over its sequence's positions up to its own. Chunks are small, because late
    /// tokens cost more than early ones; heads that share keys and values are taken together
    /// as far as that leaves the threads equally busy.
    fn attend(&self, index: usize) -> Result<(), Leave> {
        let config = &self.model.config;
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let (key_dim, value_dim) = (config.key_head_dim, self.model.stored_value_dim());
        let projection = self.model.value_projection.as_ref();
        let mut compressed = [0.0; MAX_QUERIES * MAX_VALUE_DIM];
        let group = heads / kv_heads;
        let threads = self.worker.count();
        let rows = self.plan.rows.len();
        let together = group.min(MAX_QUERIES);
        // A block with `n` heads together costs some 5 + 4·n; with few parts it counts how many the busiest thread has.
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
        // Stays empty where no window has sinks.
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
                // Of the sequence's first new token.
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
                let visible = Visible {
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

    /// gate = act(Wgate·normed) · (Wup·normed).
    fn gate_up(&self, index: usize, layer: &LayerWeights) -> Result<(), Leave> {
        let weights = [&layer.gate.weight, &layer.up.weight];
        self.rows(&weights, ROW_TILE, |rows| {
            self.gate_up_rows(index, layer, rows);
        })
    }

    /// Some rows of both.
    fn gate_up_rows(&self, index: usize, layer: &LayerWeights, rows: Range<usize>) {
        let tokens = self.plan.rows.len();
        let mut gate = self.state.gate.rect_mut(0..tokens, rows.clone());
        let mut up = self.state.up.rect_mut(0..tokens, rows.clone());
        self.multiply(&layer.gate, &self.state.normed, rows.clone(), &mut gate);
        match &layer.up.weight {
            Linear::Sparse(weights) if tokens <= LISTED_TOKENS => {
                self.listed_up(index, layer, weights, rows, &mut gate, &mut up);
            }
            _ => self.multiply(&layer.up, &self.state.normed, rows, &mut up),
        }
        for token in 0..tokens {
            self.model.kernels.activate_mul(
                self.model.activation,
                up.row_mut(token),
                gate.row_mut(token),
            );
        }
    }

    /// up = Wup·normed where the gate is positive, 0 elsewhere: a squared ReLU makes it 0 there anyway. One token of which so many
    /// gates are positive that a list does not pay reads all rows.
    fn listed_up(
        &self,
        layer_index: usize,
        layer: &LayerWeights,
        weights: &SparseTernary,
        rows: Range<usize>,
        gate: &mut WriteGuard<'_, f32>,
        up: &mut WriteGuard<'_, f32>,
    ) {
        let tokens = self.plan.rows.len();
        let input = self.state.input_of(&layer.up, &self.state.normed);
        let (ActivationView::I8(input), Some(mut scratch)) = (input.view(), self.scratch()) else {
            unreachable!("the order is that of int8 rows, for which scratch was taken");
        };
        let list: &mut [u32] = bytemuck::cast_slice_mut(scratch.row_mut(0));
        for token in 0..tokens {
            let mut count = 0;
            for (row, &gate) in (rows.start as u32..).zip(&*gate.row_mut(token)) {
                // Written in any case, kept when it counts; what is not a number counts.
                list[count] = row;
                count += usize::from(gate > 0.0 || gate.is_nan());
            }
            if tokens == 1 && count as f32 > weights.listed_share() * rows.len() as f32 {
                drop(scratch);
                return self.multiply(&layer.up, &self.state.normed, rows, up);
            }
            let up = up.row_mut(token);
            up.fill(0.0);
            weights.multiply_rows(&list[..count], rows.start, input, token, up);
            if let (Some(activity), 1) = (self.state.activity, tokens) {
                let skipped = (rows.len() - count) * weights.item_bytes();
                activity[layer_index].add_skipped(skipped as u64);
            }
        }
        self.scale_and_bias(&layer.up, rows, up);
    }

    /// hidden = norm(residual + projected), the rows that give logits.
    fn normalize_outputs(&self, outputs: Range<usize>) {
        let kernels = self.model.kernels;
        let mut hidden = self.state.hidden.rows_mut(outputs.clone());
        let (residual, projected) = (self.state.residual.read(), self.state.projected.read());
        for (index, &row) in self.plan.outputs[outputs.clone()].iter().enumerate() {
            let out = hidden.row_mut(index);
            out.copy_from_slice(residual.row(row));
            kernels.add(projected.row(row), out);
            kernels.rms_norm_in_place(
                out,
                &self.model.weights.output_norm,
                self.model.config.rms_norm_eps,
            );
        }
        if let (Some(image), Some(screen)) = (&self.model.weights.image, &self.state.screen) {
            let mut norms = screen.norms.rows_mut(outputs.clone());
            for index in 0..outputs.len() {
                norms.row_mut(index)[0] = image.norm(hidden.row_mut(index));
            }
        }
    }

    /// logits = Whead·hidden, those of rows that matter; −∞ for all others.
    fn screen_logits(&self, image: &HeadImage, screen: &SharedScreen<'_>) -> Result<(), Leave> {
        let outputs = self.plan.outputs.len();
        self.rows(&[&image.weight], ROW_TILE, |rows| {
            let (hidden, norms) = (self.state.hidden.read(), screen.norms.read());
            let mut logits = self.state.logits.rect_mut(0..outputs, rows.clone());
            let input = ActivationView::F32(hidden.view());
            (image.weight).matmul(rows.clone(), input, &mut [], logits.view());
            let groups = rows.start / image.group()..rows.end.div_ceil(image.group());
            let mut lower = screen.lower.rect_mut(0..outputs, groups.clone());
            let mut upper = screen.upper.rect_mut(0..outputs, groups);
            for output in 0..outputs {
                image.bounds(
                    rows.start,
                    norms.row(output)[0],
                    logits.row_mut(output),
                    lower.row_mut(output),
                    upper.row_mut(output),
                );
            }
        })?;
        self.lap(Phase::Head, None);
        self.barrier(None)?;
        self.worker.share(outputs, Chunks::of(1), |some| {
            let mut thresholds = screen.thresholds.rows_mut(some.clone());
            let mut lower = screen.lower.rows_mut(some.clone());
            let upper = screen.upper.read();
            for (index, output) in some.enumerate() {
                if output == 0 {
                    screen.counter.add_step(outputs, image.bytes());
                }
                let Needed::Largest(needed) = self.plan.needed[output] else {
                    unreachable!("steps are screened that need all logits of no output");
                };
                thresholds.row_mut(index)[0] =
                    image.threshold(lower.row_mut(index), upper.row(output), needed);
            }
        })?;
        self.lap(Phase::Head, None);
        self.barrier(None)?;
        let head = self.model.weights.head();
        if screen.thresholds.read().contains(&f32::NEG_INFINITY) {
            return self.rows(&[head], ROW_TILE, |rows| self.rescore(image, screen, rows));
        }
        let chunks = Chunks {
            least: 1024,
            ..Chunks::of(ROW_TILE)
        };
        self.worker.share(head.rows(), chunks, |rows| {
            self.rescore(image, screen, rows);
        })
    }

    /// Puts the head's logits in the places of the image's, in some rows: in those that matter, or in all.
    fn rescore(&self, image: &HeadImage, screen: &SharedScreen<'_>, rows: Range<usize>) {
        let (head, group) = (self.model.weights.head(), image.group());
        let (hidden, norms) = (self.state.hidden.read(), screen.norms.read());
        let (upper, thresholds) = (screen.upper.read(), screen.thresholds.read());
        let outputs = self.plan.outputs.len();
        let mut logits = self.state.logits.rect_mut(0..outputs, rows.clone());
        let (mut multiplied, mut most) = (0, 0);
        for output in 0..outputs {
            let hidden = MatRef::from_slice(hidden.row(output), hidden.view().cols());
            let input = || ActivationView::F32(hidden);
            let (norm, threshold) = (norms.row(output)[0], thresholds.row(output)[0]);
            let logits = logits.row_mut(output);
            let before = multiplied;
            if threshold == f32::NEG_INFINITY {
                let out = MatMut::from_slice(logits, rows.len());
                head.matmul(rows.clone(), input(), &mut [], out);
                multiplied += rows.len();
            } else {
                let groups = (rows.start / group..).zip(logits.chunks_mut(group));
                for (index, logits) in groups {
                    if upper.row(output)[index] < threshold {
                        logits.fill(f32::NEG_INFINITY);
                        continue;
                    }
                    for (row, logit) in (index * group..).zip(logits) {
                        if image.upper(row, norm, *logit) < threshold {
                            *logit = f32::NEG_INFINITY;
                            continue;
                        }
                        let out = MatMut::from_slice(std::slice::from_mut(logit), 1);
                        head.matmul(row..row + 1, input(), &mut [], out);
                        multiplied += 1;
                    }
                }
            }
            most = most.max(multiplied - before);
        }
        if multiplied > 0 {
            // What several outputs read is in a cache from the second on, or nearly all of it.
            let row_bytes = head.packed_bytes() / head.rows();
            screen.counter.add_rows(multiplied, most * row_bytes);
        }
    }

    /// logits = Whead·hidden.
    fn project_logits(&self) -> Result<(), Leave> {
        let (head, outputs) = (self.model.weights.head(), self.plan.outputs.len());
        if outputs == 0 {
            return Ok(());
        }
        let mut prepared = Prepared::default();
        self.rows(&[head], ROW_TILE, |rows| {
            let hidden = self.state.hidden.read();
            let mut scratch = self.scratch();
            let scratch = match &mut scratch {
                Some(scratch) => scratch.row_mut(0),
                None => &mut [],
            };
            let mut logits = self.state.logits.rect_mut(0..outputs, rows.clone());
            let hidden = ActivationView::F32(hidden.view());
            head.matmul_prepared(rows, hidden, scratch, &mut prepared, logits.view());
        })
    }
}
