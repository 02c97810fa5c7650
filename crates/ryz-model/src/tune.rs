//! Times a loaded model's products, to choose how its weights are streamed.
//!
//! Products with one and with several tokens are timed on the model's own matrices, on the threads
//! that will compute with it, and over more bytes than the caches hold, so the results apply to
//! decoding. Tuning does not change results.

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use ryz_kernels::{
    ActivationView, Line, LineOrder, Linear, Packing, QuantizedActivations, SparseTernary,
};
use ryz_numa::{Lease, PartitionedSlice, WorkQueue};
use ryz_tmac::{AlignedVec, Arena, BufferKind, MatRef, PrefetchManager};

use crate::{
    Model, ModelError,
    forward::chunks,
    weights::{LayerWeights, Projection},
};

/// Matrices of a model that are multiplied alike: same kernel, same shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixKind {
    /// The kernel's name with 2-bit packing.
    pub kernel: &'static str,
    /// The kernel's name with 1.6-bit packing; `None` if the matrices stay in 2 bits.
    pub base3_kernel: Option<&'static str>,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// The order that allows skipping rows or columns, if any.
    pub order: Option<LineOrder>,
}

/// How much of a single-token product counts, for matrices that can skip rows or columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counting {
    /// All rows (through a list), or all columns.
    All,
    /// Half of them, scattered.
    Half,
}

/// Inputs, buffers and position for timing products with one kind of matrix.
#[derive(Debug)]
pub struct ProductTimer {
    kind: MatrixKind,
    /// Layer, and index in [`LayerWeights::projections`].
    matrices: Vec<(usize, usize)>,
    /// Single-token products per measurement.
    products: usize,
    /// Maximum tokens per product.
    tokens: usize,
    /// The matrices in use.
    window: Range<usize>,
    /// Products so far; the window is traversed cyclically.
    next: usize,
    input: TimedInput,
    /// For skippable columns: one token, half of whose values are 0.
    half: Option<QuantizedActivations>,
    /// (tokens, rows)
    output: AlignedVec<f32>,
    /// (tokens, rows), if a gate's rows are multiplied before those of each chunk; else empty.
    gate_output: AlignedVec<f32>,
    /// (worker, lines)
    scratch: AlignedVec<Line>,
    scratch_lines: usize,
}

impl MatrixKind {
    /// The kernel's name with this packing.
    pub fn kernel_in(&self, packing: Packing) -> Option<&'static str> {
        match packing {
            Packing::TwoBits => Some(self.kernel),
            Packing::Base3 => self.base3_kernel,
        }
    }
}

#[derive(Debug)]
enum TimedInput {
    /// (tokens, cols)
    F32(AlignedVec<f32>),
    I8(QuantizedActivations),
}

impl ProductTimer {
    /// The kind of matrix that it times.
    pub fn kind(&self) -> &MatrixKind {
        &self.kind
    }

    /// Number of matrices.
    pub fn matrices(&self) -> usize {
        self.matrices.len()
    }

    /// Number of products per measurement.
    pub fn products(&self) -> usize {
        self.products
    }

    /// Restricts measurements to some of the matrices, used cyclically, so that the most recently
    /// read matrix is always the last to be reused.
    ///
    /// # Panics
    /// When the range is empty or out of bounds.
    pub fn restrict(&mut self, matrices: Range<usize>) {
        let all = self.matrices.len();
        assert!(
            !matrices.is_empty() && matrices.end <= all,
            "matrices {matrices:?} of {all}"
        );
        self.window = matrices;
    }
}

impl Model {
    /// One timer for each kind of ternary projection with at least `least_bytes` in total. Each
    /// measurement reads at least `bytes_at_once` of them, in products of up to `tokens` tokens.
    ///
    /// # Errors
    /// [`ModelError::Memory`] when the arena has no room for an input and an output.
    pub fn product_timers(
        &self,
        arena: &Arena,
        least_bytes: usize,
        bytes_at_once: usize,
        tokens: usize,
    ) -> Result<Vec<ProductTimer>, ModelError> {
        let mut kinds: Vec<(MatrixKind, Vec<(usize, usize)>)> = Vec::new();
        for (layer, weights) in self.weights.layers.iter().enumerate() {
            for (place, projection) in weights.projections().into_iter().enumerate() {
                let Some(kind) = kind_of(&projection.weight, projection.form.is_some()) else {
                    continue;
                };
                match kinds.iter_mut().find(|(known, _)| *known == kind) {
                    Some((_, matrices)) => matrices.push((layer, place)),
                    None => kinds.push((kind, vec![(layer, place)])),
                }
            }
        }
        let arena = arena.labelled("tuning");
        let mut timers = Vec::new();
        for (kind, matrices) in kinds {
            let first = self.projection(matrices[0]);
            let bytes = first.weight.packed_bytes().max(1);
            if bytes.saturating_mul(matrices.len()) < least_bytes {
                continue;
            }
            let mut values = arena
                .allocate_slice::<f32>(kind.cols.saturating_mul(tokens), BufferKind::Scratch)?;
            for (index, value) in values.iter_mut().enumerate() {
                *value = [-3.0, 1.0, 2.0, -1.0, 3.0, -2.0][index % 6]; // none is 0, which some kernels leave out
            }
            let mut half = None;
            let input = match first.form {
                None => TimedInput::F32(values),
                Some(layout) => {
                    let mut rows = QuantizedActivations::new(layout, tokens, &arena)
                        .map_err(ModelError::from)?;
                    for (token, values) in values.chunks_exact(kind.cols).enumerate() {
                        (self.kernels).quantize_row(layout, values, rows.row_mut(token));
                    }
                    if kind.order == Some(LineOrder::Columns) {
                        let values = &mut values[..kind.cols];
                        for (col, value) in values.iter_mut().enumerate() {
                            *value *= if is_in_half(col) { 1.0 } else { 0.0 };
                        }
                        let mut row = QuantizedActivations::new(layout, 1, &arena)
                            .map_err(ModelError::from)?;
                        (self.kernels).quantize_row(layout, values, row.row_mut(0));
                        half = Some(row);
                    }
                    TimedInput::I8(rows)
                }
            };
            let list = match kind.order {
                Some(LineOrder::Rows) => kind.rows,
                _ => 0,
            };
            let list = (list * size_of::<u32>()).div_ceil(size_of::<Line>());
            let scratch_lines = first.weight.scratch_lines().max(list);
            // Rows are skipped after the gate's, chunk by chunk.
            let gated = match kind.order {
                Some(LineOrder::Rows) => kind.rows.saturating_mul(tokens),
                _ => 0,
            };
            timers.push(ProductTimer {
                products: bytes_at_once.div_ceil(bytes),
                tokens,
                gate_output: arena.allocate_slice(gated, BufferKind::Scratch)?,
                output: arena
                    .allocate_slice(kind.rows.saturating_mul(tokens), BufferKind::Scratch)?,
                scratch: arena.allocate_slice(
                    scratch_lines.saturating_mul(self.threads),
                    BufferKind::Scratch,
                )?,
                scratch_lines,
                window: 0..matrices.len(),
                next: 0,
                input,
                half,
                matrices,
                kind,
            });
        }
        Ok(timers)
    }

    /// Times consecutive products with matrices of the timer's kind, distributed as in a step. For
    /// skippable rows, the gate's products are included. The next call continues with the next
    /// matrices. Products of several tokens take longer, so each measurement uses fewer matrices.
    ///
    /// # Errors
    /// [`ModelError::Region`].
    ///
    /// # Panics
    /// When `tokens` is 0 or above the timer's maximum.
    pub fn time_products(
        &self,
        lease: &Lease,
        timer: &mut ProductTimer,
        tokens: usize,
    ) -> Result<Duration, ModelError> {
        self.time(lease, timer, tokens, None)
    }

    /// [`Model::time_products`] of one token with the given share of active rows or columns, for a
    /// kind that can skip them.
    ///
    /// # Errors
    /// [`ModelError::Region`].
    ///
    /// # Panics
    /// When the kind cannot skip any.
    pub fn time_counting(
        &self,
        lease: &Lease,
        timer: &mut ProductTimer,
        counting: Counting,
    ) -> Result<Duration, ModelError> {
        assert!(
            timer.kind.order.is_some(),
            "nothing of {:?} is left out",
            timer.kind
        );
        self.time(lease, timer, 1, Some(counting))
    }

    fn time(
        &self,
        lease: &Lease,
        timer: &mut ProductTimer,
        tokens: usize,
        counting: Option<Counting>,
    ) -> Result<Duration, ModelError> {
        assert!(
            (1..=timer.tokens).contains(&tokens),
            "{tokens} tokens of {}",
            timer.tokens
        );
        let products = timer.products.div_ceil(tokens);
        let half = timer.half.as_ref();
        let half = half.filter(|_| counting == Some(Counting::Half));
        let input = match (&timer.input, half) {
            (_, Some(row)) => ActivationView::I8(row.rows(1)),
            (TimedInput::F32(values), None) => ActivationView::F32(MatRef::from_slice(
                &values[..tokens * timer.kind.cols],
                timer.kind.cols,
            )),
            (TimedInput::I8(rows), None) => ActivationView::I8(rows.rows(tokens)),
        };
        let output = PartitionedSlice::new(&mut timer.output, timer.kind.rows);
        let gate_output = PartitionedSlice::new(&mut timer.gate_output, timer.kind.rows);
        let lines = timer.scratch_lines;
        let scratch = match lines {
            0 => None,
            lines => Some(PartitionedSlice::new(&mut timer.scratch, lines)),
        };
        let of_window = &timer.matrices[timer.window.clone()];
        let first = timer.next % of_window.len();
        let of_turn = of_window.iter().cycle().skip(first).take(products);
        let has_gate = timer.kind.order == Some(LineOrder::Rows);
        let started = Instant::now();
        lease.run_elastic(|worker| {
            let index = worker.index();
            for &(layer, place) in of_turn.clone() {
                let (projection, gate) = (
                    self.projection((layer, place)),
                    &self.weights.layers[layer].gated().gate,
                );
                let reads_same = gate.form == projection.form && gate.weight.is_ternary();
                let gate = (has_gate && reads_same).then_some(&gate.weight);
                let weight = &projection.weight;
                let together: Vec<_> = gate.into_iter().chain([weight]).collect();
                let chunks = chunks(&together, weight.row_granule());
                let shared = worker.share(weight.rows(), chunks, |rows| {
                    let mut scratch = scratch
                        .as_ref()
                        .map(|scratch| scratch.rows_mut(index..index + 1));
                    let scratch = match &mut scratch {
                        Some(scratch) => scratch.row_mut(0),
                        None => &mut [],
                    };
                    if let Some(gate) = gate {
                        let mut out = gate_output.rect_mut(0..tokens, rows.clone());
                        gate.matmul(rows.clone(), input, scratch, out.view());
                    }
                    let mut out = output.rect_mut(0..tokens, rows.clone());
                    match (weight, input, counting) {
                        (Linear::Sparse(weight), ActivationView::I8(input), Some(counting))
                            if weight.order() == LineOrder::Rows =>
                        {
                            let list: &mut [u32] = bytemuck::cast_slice_mut(scratch);
                            let mut count = 0;
                            for row in rows.clone() {
                                list[count] = row as u32;
                                count += usize::from(counting == Counting::All || is_in_half(row));
                            }
                            let (list, out) = (&list[..count], out.row_mut(0));
                            out.fill(0.0);
                            weight.multiply_rows(list, rows.start, input, 0, out);
                        }
                        _ => weight.matmul(rows, input, scratch, out.view()),
                    }
                });
                if shared.and_then(|()| worker.barrier()).is_err() {
                    return;
                }
            }
        })?;
        let time = started.elapsed();
        timer.next = timer.next.wrapping_add(products);
        Ok(time)
    }

    /// Repacks some matrices of one kind, in model order, on the threads of `lease`.
    ///
    /// # Errors
    /// [`ModelError::Region`].
    pub fn repack(
        &mut self,
        lease: &Lease,
        kind: &MatrixKind,
        matrices: Range<usize>,
        packing: Packing,
    ) -> Result<(), ModelError> {
        let layers = self.weights.layers.iter_mut();
        let of_kind = layers
            .flat_map(LayerWeights::projections_mut)
            .filter(|projection| {
                kind_of(&projection.weight, projection.form.is_some()).as_ref() == Some(kind)
            });
        let some: Vec<Mutex<&mut Linear>> = of_kind
            .skip(matrices.start)
            .take(matrices.len())
            .map(|projection| Mutex::new(&mut projection.weight))
            .collect();
        let queue = WorkQueue::new();
        lease.run(|_| {
            while let Some(chunk) = queue.next(some.len(), 1) {
                for weight in &some[chunk.range()] {
                    let mut weight = weight.lock().unwrap_or_else(PoisonError::into_inner);
                    weight.repack(packing);
                }
            }
        })?;
        Ok(())
    }

    /// Sets the prefetch distance for the weights of one kind.
    pub fn set_prefetch(&mut self, kind: &MatrixKind, prefetch: PrefetchManager) {
        let kernels = self.kernels.with_prefetch(prefetch);
        let layers = self.weights.layers.iter_mut();
        for projection in layers.flat_map(LayerWeights::projections_mut) {
            let int8 = projection.form.is_some();
            if kind_of(&projection.weight, int8).as_ref() == Some(kind) {
                projection.weight.set_kernels(kernels);
            }
        }
    }

    /// Sets the maximum share of active rows up to which they are listed, for matrices of one kind.
    pub fn set_listed_share(&mut self, kind: &MatrixKind, share: f32) {
        self.change_ordered(kind, |weights| weights.set_listed_share(share));
    }

    /// Sets the maximum share of active rows or columns up to which matrices of one kind keep their
    /// order. A [`crate::RunState`] created afterwards decides in its steps which of them do.
    pub fn set_order_share(&mut self, kind: &MatrixKind, share: f32) {
        self.change_ordered(kind, |weights| weights.set_order_share(share));
    }

    fn change_ordered(&mut self, kind: &MatrixKind, change: impl Fn(&mut SparseTernary)) {
        let layers = self.weights.layers.iter_mut();
        for projection in layers.flat_map(LayerWeights::projections_mut) {
            if kind_of(&projection.weight, projection.form.is_some()).as_ref() == Some(kind)
                && let Linear::Sparse(weights) = &mut projection.weight
            {
                change(weights);
            }
        }
    }

    /// Lays out some of a timer's matrices, which can skip rows or columns, as tiles if `tiled`,
    /// otherwise in their order, on the threads of `lease`.
    ///
    /// # Errors
    /// [`ModelError::Memory`] before any matrix is changed; [`ModelError::Region`].
    pub fn lay_out(
        &mut self,
        lease: &Lease,
        timer: &ProductTimer,
        matrices: Range<usize>,
        tiled: bool,
        arena: &Arena,
    ) -> Result<(), ModelError> {
        let places = &timer.matrices[matrices];
        let mut some = Vec::new();
        for (layer, weights) in self.weights.layers.iter_mut().enumerate() {
            for (place, projection) in weights.projections_mut().into_iter().enumerate() {
                if let Linear::Sparse(weight) = &mut projection.weight
                    && places.contains(&(layer, place))
                {
                    some.push(Mutex::new(weight));
                }
            }
        }
        let lines = some.iter_mut().map(|weight| {
            let weight = weight.get_mut().unwrap_or_else(PoisonError::into_inner);
            weight.piece_lines()
        });
        let lines = lines.max().unwrap_or(0);
        let staging = lines.saturating_mul(lease.threads());
        let mut staging = arena.allocate_slice::<Line>(staging, BufferKind::Staging)?;
        let staging = PartitionedSlice::new(&mut staging, lines);
        let queue = WorkQueue::new();
        lease.run(|worker| {
            let mut staging = staging.rows_mut(worker.index()..worker.index() + 1);
            while let Some(chunk) = queue.next(some.len(), 1) {
                for weight in &some[chunk.range()] {
                    let mut weight = weight.lock().unwrap_or_else(PoisonError::into_inner);
                    weight.lay_out(tiled, staging.row_mut(0));
                }
            }
        })?;
        Ok(())
    }

    fn projection(&self, (layer, place): (usize, usize)) -> &Projection {
        self.weights.layers[layer].projections()[place]
    }
}

/// Half of the numbers, in a pattern that no prefetcher predicts.
fn is_in_half(index: usize) -> bool {
    let mixed = (index as u32).wrapping_mul(0x9e37_79b1);
    (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca6b) >> 31 == 1
}

/// The kind of a matrix whose kernels prefetch.
fn kind_of(weight: &Linear, int8: bool) -> Option<MatrixKind> {
    let (kernel, base3_kernel) = match weight {
        Linear::Dense(_) => return None,
        Linear::Sparse(weights) => (weights.kernel_name(int8), None),
        Linear::Ternary(weights) => {
            let name = |packing| weights.kernel_name_in(packing, int8);
            let base3 = weights.fits_base3().then(|| name(Packing::Base3));
            (name(Packing::TwoBits), base3)
        }
    };
    Some(MatrixKind {
        kernel,
        base3_kernel,
        rows: weight.rows(),
        cols: weight.cols(),
        order: weight.line_order().filter(|_| int8),
    })
}
