//! One worker's view of a step, and the building blocks of the pass: norms, quantized inputs,
//! products.

use std::{
    cell::RefCell,
    ops::Range,
    sync::{
        MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use ryz_kernels::{BatchLayout, Line, Linear, TILE_TOKENS};
use ryz_kvcache::KvCache;
use ryz_numa::{Chunks, ElasticWorker, PartitionedSlice, RegionExit, WriteGuard};
use ryz_profile::{Phase, PhaseClock};

use crate::{
    BatchSequence, Model,
    batch::{Plan, TokenRow},
    run_state::StepBuffers,
    weights::Projection,
};

/// Minimum bytes of a matrix chunk claimed by a worker; the first few KiB of a chunk stall.
const LEAST_BYTES: usize = 64 << 10;
/// The same for dense weights; larger, because each product prepares the token's activations again.
const LEAST_DENSE_BYTES: usize = 1 << 20;
/// Maximum bytes of a chunk, so that a worker whose core is taken can stop in time. Exceptions:
/// rows that belong together ([`Linear::rows_together`]), and workers with uncontended cores, which
/// claim several chunks at once.
const MOST_BYTES: usize = 1 << 20;

/// How the rows of matrices multiplied together are split among the workers, in whole `granule`s.
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

/// One worker's view of a step.
pub(crate) struct Pass<'a> {
    pub(crate) model: &'a Model,
    pub(crate) worker: &'a ElasticWorker<'a>,
    pub(crate) batch: &'a [BatchSequence<'a>],
    pub(crate) plan: &'a Plan,
    pub(crate) state: &'a StepBuffers<'a>,
    pub(crate) cache: &'a KvCache,
    pub(crate) cancel: &'a AtomicBool,
    /// Whether a worker has seen `cancel`.
    pub(crate) cancelled: &'a AtomicBool,
    /// Set only on the first worker, while recording.
    pub(crate) clock: Option<RefCell<MutexGuard<'a, PhaseClock>>>,
}

impl Pass<'_> {
    /// Records the time since the last lap if this is the first worker and the clock is recording.
    #[inline]
    pub(crate) fn lap(&self, phase: Phase, layer: Option<usize>) {
        if let Some(clock) = &self.clock {
            clock.borrow_mut().lap(phase, layer);
        }
    }

    pub(crate) fn barrier(&self, layer: Option<usize>) -> Result<(), RegionExit> {
        self.worker.barrier()?;
        // A single worker never waits.
        if self.worker.count() > 1 {
            self.lap(Phase::Barrier, layer);
        }
        Ok(())
    }

    /// A barrier that then checks for cancellation; a worker that sees it stops all workers.
    pub(crate) fn barrier_or_cancelled(&self, index: usize) -> Result<(), RegionExit> {
        self.barrier(Some(index))?;
        if self.cancel.load(Ordering::Relaxed) {
            self.cancelled.store(true, Ordering::Relaxed);
            self.worker.stop();
            return Err(RegionExit);
        }
        Ok(())
    }

    /// residual = embedding\[token\]. Also computes the rotation angles of the token's position and
    /// of its offset back to the sinks.
    pub(crate) fn embed(&self, rows: Range<usize>) {
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

    /// The number of positions that the token's queries are rotated back for the first blocks of
    /// its window.
    pub(crate) fn shift(&self, token: TokenRow) -> usize {
        let window = self.batch[token.sequence].window;
        window.map_or(0, |window| window.shift(token.position))
    }

    /// residual += projected if `add`; normed = norm(residual), in every form that `projections`
    /// read.
    pub(crate) fn add_and_normalize(
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

    /// values = norm(values) where the model has this norm, in every form that `projection` reads.
    /// The caller records the time.
    pub(crate) fn prepare(
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

    /// Distributes the tokens, in whole tiles where batches are interleaved.
    pub(crate) fn tokens(&self, work: impl FnMut(Range<usize>)) -> Result<(), RegionExit> {
        let tokens = self.plan.rows.len();
        let granule = match self.model.kernels.batch() {
            BatchLayout::Tiles if tokens >= TILE_TOKENS => TILE_TOKENS,
            _ => 1,
        };
        self.worker.share(tokens, Chunks::of(granule), work)
    }

    /// Distributes the rows of matrices that are read together.
    pub(crate) fn rows(
        &self,
        weights: &[&Linear],
        granule: usize,
        work: impl FnMut(Range<usize>),
    ) -> Result<(), RegionExit> {
        let rows = weights[0].rows();
        self.worker.share(rows, chunks(weights, granule), work)
    }

    /// Quantizes some rows of `values` in the forms that `projections` read.
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
    pub(crate) fn project(
        &self,
        projection: &Projection,
        input: &PartitionedSlice<'_, f32>,
        out: &PartitionedSlice<'_, f32>,
    ) -> Result<(), RegionExit> {
        let weight = &projection.weight;
        self.rows(&[weight], weight.row_granule(), |rows| {
            let mut out = out.rect_mut(0..self.plan.rows.len(), rows.clone());
            self.multiply(projection, input, rows, &mut out);
        })
    }

    /// Some rows of the product; `out` holds those rows.
    pub(crate) fn multiply(
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
    pub(crate) fn scratch(&self) -> Option<WriteGuard<'_, Line>> {
        let worker = self.worker.index();
        let scratch = self.state.scratch.as_ref()?;
        Some(scratch.rows_mut(worker..worker + 1))
    }

    /// Applies out = scale · out + bias, where the projection has them.
    pub(crate) fn scale_and_bias(
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

/// The lines of a worker's scratch memory, if products need any.
pub(crate) fn lines<'a>(scratch: &'a mut Option<WriteGuard<'_, Line>>) -> &'a mut [Line] {
    match scratch {
        Some(scratch) => scratch.row_mut(0),
        None => &mut [],
    }
}
