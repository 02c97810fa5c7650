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

mod attention;
mod feed_forward;
mod logits;

use std::{
    cell::RefCell,
    ops::Range,
    sync::{
        MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use ryz_kernels::{BatchLayout, Line, Linear, TILE_TOKENS};
use ryz_kvcache::{BLOCK_TOKENS, KvCache, StepBlocks};
use ryz_numa::{Chunks, ElasticWorker, Lease, Leave, PartitionedSlice, WriteGuard};
use ryz_profile::{Phase, PhaseClock};

use crate::{
    BatchSequence, Model, ModelError, RunState,
    batch::{BatchLimits, Plan, TokenRow},
    hooks::{HookPoint, Hooks, regions, stage_point, stages},
    run_state::Shared,
    weights::Projection,
};

/// Chunks of a matrix that a worker claims have at least so many bytes, of which a few KiB are waited for at the beginning;
const LEAST_BYTES: usize = 64 << 10;
/// and of dense weights, whose products prepare the token's activations each time, more.
const LEAST_DENSE_BYTES: usize = 1 << 20;
/// None has more, so that a worker whose core is taken can stop in time; but for rows that belong together ([`Linear::rows_together`]), and
/// for workers whose cores nobody else wants, which claim several chunks at once.
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
        let alone = lease.allows_alone() && self.is_small(state.weight_bytes(), cache, batch);
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
            alone,
        };
        let layers = self.config.num_hidden_layers;
        match hooks {
            None => step.region(0..stages(layers))?,
            Some(hooks) => {
                for stages in regions(layers, hooks) {
                    let point = stage_point(stages.end - 1, layers);
                    step.region(stages)?;
                    if hooks.wants(point) && !step.call(hooks, point) {
                        return Err(ModelError::Aborted);
                    }
                }
            }
        }
        if let (1, Some(orders)) = (plan.rows.len(), &mut state.orders) {
            orders.add_token();
        }
        Ok(())
    }
}

impl Model {
    /// Whether a step reads so little that one thread is done sooner than several ([`crate::LoadOptions::parallel_from`]): counted,
    /// not timed, so that it is so every time. `weight_bytes` are those of one token.
    fn is_small(&self, weight_bytes: usize, cache: &KvCache, batch: &[BatchSequence<'_>]) -> bool {
        let of_block = cache.config().bytes_per_block().unwrap_or(usize::MAX);
        let read = |sequence: &BatchSequence<'_>| {
            let positions = sequence.start.saturating_add(sequence.tokens.len());
            let of_cache = positions.div_ceil(BLOCK_TOKENS).saturating_mul(of_block);
            let of_token = weight_bytes.saturating_add(of_cache);
            sequence.tokens.len().saturating_mul(of_token)
        };
        let bytes = batch.iter().map(read).fold(0, usize::saturating_add);
        bytes / (self.config.num_hidden_layers + 1) < self.parallel_from
    }
}

/// How rows of matrices that are multiplied together are cut for the workers, in whole `granule`s.
pub(crate) fn chunks(weights: &[&Linear], granule: usize) -> Chunks {
    let rows = weights[0].rows();
    let bytes: usize = weights.iter().map(|weight| weight.packed_bytes()).sum();
    let of_bytes = |bytes_of_chunk: usize| bytes_of_chunk * rows / bytes.max(1);
    let least = match weights[0].is_ternary() {
        true => LEAST_BYTES,
        false => LEAST_DENSE_BYTES,
    };
    let together = weights[0].rows_together();
    Chunks {
        granule,
        least: of_bytes(least).max(together),
        most: of_bytes(MOST_BYTES).max(together),
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
    /// One thread computes it.
    alone: bool,
}

impl Step<'_> {
    /// Computes some stages in one parallel region.
    fn region(&self, stages: Range<usize>) -> Result<(), ModelError> {
        let cancelled = AtomicBool::new(false);
        let work = |worker: &ElasticWorker<'_>| {
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
        };
        match self.alone {
            true => self.lease.run_alone(work)?,
            false => self.lease.run_elastic(work)?,
        }
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

    /// Books the time since the last lap, on the first worker and when the clock records.
    #[inline]
    fn lap(&self, phase: Phase, layer: Option<usize>) {
        if let Some(clock) = &self.clock {
            clock.borrow_mut().lap(phase, layer);
        }
    }

    fn barrier(&self, layer: Option<usize>) -> Result<(), Leave> {
        self.worker.barrier()?;
        // Who is alone waits for nobody.
        if self.worker.count() > 1 {
            self.lap(Phase::Barrier, layer);
        }
        Ok(())
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
        self.quantize(&self.state.normed, rows, projections);
        self.lap(Phase::Quantize, Some(layer));
    }

    /// values = norm(values) where the model has this norm, in every form that `projection` reads: the caller books that.
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
            self.lap(Phase::Norm, Some(layer));
        }
        self.quantize(values, rows, &[projection]);
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
        self.worker.share(rows, chunks(weights, granule), work)
    }

    /// Quantises some rows of `values` in the forms that `projections` read.
    fn quantize(
        &self,
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
        let scratch = lines(&mut scratch);
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
}

/// The lines of a worker's scratch memory, where products need any.
fn lines<'a>(scratch: &'a mut Option<WriteGuard<'_, Line>>) -> &'a mut [Line] {
    match scratch {
        Some(scratch) => scratch.row_mut(0),
        None => &mut [],
    }
}
