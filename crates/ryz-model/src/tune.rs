//! Timing a loaded model's products, for whoever chooses how its weights are streamed.
//!
//! Products with one token, and with some, are timed on the model's own matrices, by the threads that will compute with it, and over
//! more bytes than caches hold: what is found is true of decoding. Nothing here changes a result.

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use ryz_kernels::{ActivationView, Line, LineOrder, Linear, Packing, QuantizedActivations};
use ryz_numa::{Lease, PartitionedSlice, WorkQueue};
use ryz_tmac::{AlignedVec, Arena, BufferKind, MatRef, PrefetchManager};

use crate::{Model, ModelError, weights::LayerWeights};

/// Matrices of a model that are multiplied alike: by one kernel, of one shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixKind {
    /// The kernel's name, in 2 bits.
    pub kernel: &'static str,
    /// Its name in 1.6 bits; `None` where the matrices stay in 2.
    pub base3_kernel: Option<&'static str>,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Whether rows of which a list is made are multiplied alone.
    pub listed: bool,
}

/// What timing products with the matrices of one kind needs.
#[derive(Debug)]
pub struct ProductTimer {
    kind: MatrixKind,
    /// Layer, and place in [`LayerWeights::projections`].
    matrices: Vec<(usize, usize)>,
    /// Products of one measurement, with one token.
    products: usize,
    /// The most tokens of a product.
    tokens: usize,
    /// Those of the matrices that are multiplied.
    window: Range<usize>,
    /// Which of them comes next.
    next: usize,
    input: TimedInput,
    /// (tokens, rows)
    output: AlignedVec<f32>,
    /// (worker, lines)
    scratch: AlignedVec<Line>,
    scratch_lines: usize,
}

impl MatrixKind {
    /// The kernel's name in a packing.
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
    /// What it times.
    pub fn kind(&self) -> &MatrixKind {
        &self.kind
    }

    /// How many matrices there are.
    pub fn matrices(&self) -> usize {
        self.matrices.len()
    }

    /// How many products one measurement makes.
    pub fn products(&self) -> usize {
        self.products
    }

    /// Has measurements go through some of the matrices only, by turns.
    ///
    /// # Panics
    /// When there are none, or not as many.
    pub fn restrict(&mut self, matrices: Range<usize>) {
        let all = self.matrices.len();
        assert!(
            !matrices.is_empty() && matrices.end <= all,
            "matrices {matrices:?} of {all}"
        );
        (self.window, self.next) = (matrices, 0);
    }
}

impl Model {
    /// A timer for each kind of ternary projections that has `least_bytes` in all, which go through at least
    /// `bytes_at_once` of them in one measurement, with products of up to `tokens` tokens.
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
            let input = match first.form {
                None => TimedInput::F32(values),
                Some(layout) => {
                    let mut rows = QuantizedActivations::new(layout, tokens, &arena)
                        .map_err(ModelError::from)?;
                    for (token, values) in values.chunks_exact(kind.cols).enumerate() {
                        (self.kernels).quantize_row(layout, values, rows.row_mut(token));
                    }
                    TimedInput::I8(rows)
                }
            };
            let list = if kind.listed { kind.rows } else { 0 };
            let list = (list * size_of::<u32>()).div_ceil(size_of::<Line>());
            let scratch_lines = first.weight.scratch_lines().max(list);
            timers.push(ProductTimer {
                products: bytes_at_once.div_ceil(bytes),
                tokens,
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
                matrices,
                kind,
            });
        }
        Ok(timers)
    }

    /// Times a product of each worker's share of rows, with some matrices of the timer's kind one after another; the next
    /// call goes on with the next ones. Several tokens, whose products take longer, meet fewer matrices.
    ///
    /// # Errors
    /// [`ModelError::Region`].
    ///
    /// # Panics
    /// When there are no `tokens`, or more than the timer was made for.
    pub fn time_products(
        &self,
        lease: &Lease,
        timer: &mut ProductTimer,
        tokens: usize,
    ) -> Result<Duration, ModelError> {
        self.time(lease, timer, tokens, false)
    }

    /// [`Model::time_products`] of one token with a list of all rows, for a kind whose rows are listed.
    ///
    /// # Errors
    /// [`ModelError::Region`].
    ///
    /// # Panics
    /// When they are not.
    pub fn time_lists(
        &self,
        lease: &Lease,
        timer: &mut ProductTimer,
    ) -> Result<Duration, ModelError> {
        assert!(timer.kind.listed, "no rows of {:?} are listed", timer.kind);
        self.time(lease, timer, 1, true)
    }

    fn time(
        &self,
        lease: &Lease,
        timer: &mut ProductTimer,
        tokens: usize,
        listed: bool,
    ) -> Result<Duration, ModelError> {
        assert!(
            (1..=timer.tokens).contains(&tokens),
            "{tokens} tokens of {}",
            timer.tokens
        );
        let products = timer.products.div_ceil(tokens);
        let input = match &timer.input {
            TimedInput::F32(values) => ActivationView::F32(MatRef::from_slice(
                &values[..tokens * timer.kind.cols],
                timer.kind.cols,
            )),
            TimedInput::I8(rows) => ActivationView::I8(rows.rows(tokens)),
        };
        let output = PartitionedSlice::new(&mut timer.output, timer.kind.rows);
        let lines = timer.scratch_lines;
        let scratch = match lines {
            0 => None,
            lines => Some(PartitionedSlice::new(&mut timer.scratch, lines)),
        };
        let of_window = &timer.matrices[timer.window.clone()];
        let of_turn = (of_window.iter().cycle()).skip(timer.next).take(products);
        let started = Instant::now();
        lease.run(|worker| {
            let index = worker.index();
            let mut scratch = scratch
                .as_ref()
                .map(|scratch| scratch.rows_mut(index..index + 1));
            for &matrix in of_turn.clone() {
                let weight = &self.projection(matrix).weight;
                let rows = worker.split(weight.rows(), weight.row_granule());
                if rows.is_empty() {
                    continue;
                }
                let mut out = output.rect_mut(0..tokens, rows.clone());
                let scratch = match &mut scratch {
                    Some(scratch) => scratch.row_mut(0),
                    None => &mut [],
                };
                match (weight, input) {
                    (Linear::Sparse(weight), ActivationView::I8(input)) if listed => {
                        let list: &mut [u32] = bytemuck::cast_slice_mut(scratch);
                        let list = &mut list[..rows.len()];
                        for (item, row) in list.iter_mut().zip(rows.start as u32..) {
                            *item = row;
                        }
                        weight.multiply_rows(list, rows.start, input, 0, out.row_mut(0));
                    }
                    _ => weight.matmul(rows, input, scratch, out.view()),
                }
            }
        })?;
        let time = started.elapsed();
        timer.next = (timer.next + products) % timer.window.len();
        Ok(time)
    }

    /// Packs some matrices of one kind, in the order of the model, on the threads of `lease`.
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

    /// Changes how far ahead the weights of one kind are asked for.
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

    /// Changes up to which share of rows those that count are listed, for matrices of one kind.
    pub fn set_listed_share(&mut self, kind: &MatrixKind, share: f32) {
        let layers = self.weights.layers.iter_mut();
        for projection in layers.flat_map(LayerWeights::projections_mut) {
            if kind_of(&projection.weight, projection.form.is_some()).as_ref() == Some(kind)
                && let Linear::Sparse(weights) = &mut projection.weight
            {
                weights.set_listed_share(share);
            }
        }
    }

    fn projection(&self, (layer, place): (usize, usize)) -> &crate::weights::Projection {
        self.weights.layers[layer].projections()[place]
    }
}

/// The kind of a matrix whose kernels read ahead.
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
        listed: int8 && weight.line_order() == Some(LineOrder::Rows),
    })
}
