//! What a squared ReLU leaves out: rows of `up` behind a gate of 0, and columns of `down` that meet a 0.

use std::ops::Range;

use ryz_kernels::{ActivationView, Linear, SparseTernary};
use ryz_numa::WriteGuard;

use crate::{
    forward::pass::Pass,
    run_state::SharedQuantized,
    weights::{GatedWeights, Projection},
};

/// The most tokens of a step for each of which rows of `up` are listed; more read all rows once.
const LISTED_TOKENS: usize = 3;

impl Pass<'_> {
    /// Whether rows of `up` are listed for each of so many tokens.
    pub(super) fn lists(weights: &SparseTernary, tokens: usize) -> bool {
        tokens <= LISTED_TOKENS && !weights.is_tiled()
    }

    /// Zeros among some rows of what gate and up gave.
    pub(in crate::forward) fn count_activity(&self, index: usize, rows: Range<usize>) {
        let Some(activity) = self.state.activity else {
            return;
        };
        let mut values = self.state.gate.rows_mut(rows.clone());
        for row in 0..rows.len() {
            activity[index].add(values.row_mut(row));
        }
    }

    /// Columns of `down` that some rows leave out, for the profiler and for the choice of an order.
    pub(in crate::forward) fn count_columns(
        &self,
        index: usize,
        down: &Projection,
        rows: Range<usize>,
    ) {
        self.watch_columns(index, down, rows.clone());
        self.count_quantized_zeros(index, down, rows);
    }

    /// Zeros among the int8 forms of the same.
    fn count_quantized_zeros(&self, index: usize, down: &Projection, rows: Range<usize>) {
        let Some(activity) = self.state.activity else {
            return;
        };
        let zeros = self.quantized_zeros(down, rows);
        activity[index].add_quantized(zeros as u64);
        // Of the columns that several tokens leave out, each reads its own.
        if let Linear::Sparse(weights) = &down.weight
            && self.plan.rows.len() == 1
            && !weights.is_tiled()
        {
            activity[index].add_skipped((zeros * weights.item_bytes()) as u64);
        }
    }

    /// Counts columns that one token does not leave out, where it is to be seen whether leaving them out pays.
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

    /// up = Wup·normed where the gate is positive, 0 elsewhere: a squared ReLU makes it 0 there anyway. One token of which so many
    /// gates are positive that a list does not pay reads all rows.
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
                // Written in any case, kept when it counts; what is not a number counts.
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
