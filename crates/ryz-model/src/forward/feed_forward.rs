//! A layer's gated feed-forward network.

mod sparse;

use std::ops::Range;

use ryz_kernels::{Linear, ROW_TILE};
use ryz_numa::RegionExit;

use super::pass::Pass;
use crate::weights::GatedWeights;

impl Pass<'_> {
    /// gate = act(Wgate·normed) · (Wup·normed).
    pub(super) fn gate_up(&self, index: usize, layer: &GatedWeights) -> Result<(), RegionExit> {
        let weights = [&layer.gate.weight, &layer.up.weight];
        self.rows(&weights, ROW_TILE, |rows| {
            self.gate_up_rows(index, layer, rows);
        })
    }

    /// Computes some rows of both.
    fn gate_up_rows(&self, index: usize, layer: &GatedWeights, rows: Range<usize>) {
        let tokens = self.plan.rows.len();
        let mut gate = self.state.gate.rect_mut(0..tokens, rows.clone());
        let mut up = self.state.up.rect_mut(0..tokens, rows.clone());
        self.multiply(&layer.gate, &self.state.normed, rows.clone(), &mut gate);
        match &layer.up.weight {
            Linear::Sparse(weights) if Self::lists(weights, tokens) => {
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
}
