//! Sparsity of a squared ReLU: skips rows of `up` whose gate is 0, and columns of `down` whose
//! input is 0.

use std::ops::Range;

use ryz_kernels::{ActivationView, Linear, SparseTernary};
use ryz_numa::WriteGuard;

use crate::{
    forward::pass::Pass,
    run_state::SharedQuantized,
    weights::{GatedWeights, Projection},
};

/// Maximum tokens per step with per-token row lists of `up`; larger steps read all rows once.
const LISTED_TOKENS: usize = 3;

impl Pass<'_> {
    /// Whether a step of `tokens` tokens lists the rows of `up` for each token.
    pub(super) fn lists(weights: &SparseTernary, tokens: usize) -> bool {
        tokens <= LISTED_TOKENS && !weights.is_tiled()
    }

    /// Counts zeros among some rows of the gate and up outputs.
    pub(in crate::forward) fn count_activity(&self, index: usize, rows: Range<usize>) {
        let Some(activity) = self.state.activity else {
            return;
        };
        let mut values = self.state.gate.rows_mut(rows.clone());
        for row in 0..rows.len() {
            activity[index].add(values.row_mut(row));
        }
    }

    /// Counts the skipped columns of `down` in some rows, for the profiler and for choosing an
    /// order.
    pub(in crate::forward) fn count_columns(
        &self,
        index: usize,
        down: &Projection,
        rows: Range<usize>,
    ) {
        self.watch_columns(index, down, rows.clone());
        self.count_quantized_zeros(index, down, rows);
    }

    /// Counts zeros in the int8 forms of the same rows.
    fn count_quantized_zeros(&self, index: usize, down: &Projection, rows: Range<usize>) {
        let Some(activity) = self.state.activity else {
            return;
        };
        let zeros = self.quantized_zeros(down, rows);
        activity[index].add_quantized(zeros as u64);
        // With several tokens, each skips its own columns.
        if let Linear::Sparse(weights) = &down.weight
            && self.plan.rows.len() == 1
            && !weights.is_tiled()
        {
            activity[index].add_skipped((zeros * weights.item_bytes()) as u64);
        }
    }

    /// Counts the columns that one token keeps, while measuring whether skipping pays off.
    fn watch_columns(&self, index: usize, down: &Projection, rows: Range<usize>) {
        if let Some(watched) = self.state.watched {
            let columns = rows.len() * down.weight.cols();
            watched[index].add_columns(columns - self.quantized_zeros(down, rows));
        }
    }

    fn quantized_zeros(&self, down: &Projection, rows: Range<usize>) -> usize {
        let of_form = |form: &SharedQuantized<'_>| -> usize {
            let mut quantized = form.rows.rows_mut(rows.clone());
            (0..rows.len())
                .map(|row| form.layout.zeros(quantized.row_mut(row)))
                .sum()
        };
        self.state.forms_of(&[down]).map(of_form).sum()
    }

    /// up = Wup·normed where the gate is positive, 0 elsewhere, because a squared ReLU zeroes the
    /// rest anyway. A single token with too many positive gates for a list to pay off reads all
    /// rows.
    pub(super) fn listed_up(
        &self,
        layer_index: usize,
        layer: &GatedWeights,
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
                // Always write; advance only for a row that counts. NaN counts.
                list[count] = row;
                count += usize::from(gate > 0.0 || gate.is_nan());
            }
            if let Some(watched) = self.state.watched {
                watched[layer_index].add_rows(count);
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
}
